"""How long it takes to begin: importing, ``kie --help``, and what a plain install brings.

    python benchmarks/start.py            # half a minute
    python benchmarks/start.py --smoke

Whole processes, ten of each in an order that is shuffled, the best of each compared.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Report, options, table, versions

IMPORT = 1.10
STRETCH = 0.35
HELP = 2.0
PACKAGES = 12
"""aiohttp and the ten that it needs (fewer on later Pythons), tenacity: and ourselves."""

BASE = "import aiohttp"
ONCE = """
import asyncio
from kie_async import KieSession
async def main():
    async with KieSession("key"):
        pass
asyncio.run(main())
"""
COMMANDS = {
    BASE: [sys.executable, "-c", "import aiohttp"],
    "import kie_async": [sys.executable, "-c", "import kie_async"],
    "a session, used once": [sys.executable, "-c", ONCE],
    "kie --help": [sys.executable, "-m", "kie_async.cli", "--help"],
    "kie --version": [sys.executable, "-m", "kie_async.cli", "--version"],
}


def best(rounds: int) -> dict[str, float]:
    """Return the least seconds of each command."""
    found: dict[str, float] = dict.fromkeys(COMMANDS, float("inf"))
    order = [name for name in COMMANDS for _ in range(rounds)]
    random.Random(1).shuffle(order)
    for name in order:
        began = time.perf_counter()
        subprocess.run(COMMANDS[name], check=True, stdout=subprocess.DEVNULL)
        found[name] = min(found[name], time.perf_counter() - began)
    return found


def brought(name: str = "kie_async") -> set[str]:
    """Return the distributions that a plain install brings, ourselves included."""
    found, todo = set[str](), [name]
    while todo:
        one = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if one in found:
            continue
        try:
            version(one)
        except PackageNotFoundError:
            continue  # for another Python or another system
        found.add(one)
        for line in requires(one) or ():
            text, _, marker = line.partition(";")
            if "extra ==" in marker or "extra==" in marker:
                continue
            todo.append(re.split(r"[\s<>=!~\[(]", text.strip(), maxsplit=1)[0])
    return found


def main() -> int:
    """Measure, print, and return the exit code."""
    asked = options(__doc__)
    found = best(1 if asked.smoke else 10)
    report, rows = Report(), []
    goals = {"import kie_async": IMPORT, "kie --help": HELP}
    for name, seconds in found.items():
        ratio = seconds / found[BASE]
        goal = report.judge(name, ratio, goals[name]) if name in goals else ""
        rows.append([name, f"{ratio:.2f}", goal])
    print(table(["process", f"by `{BASE}`", "goal"], rows))
    print(f"the stretch for the import is {STRETCH}")
    packages = sorted(brought())
    report.judge("packages of a plain install", len(packages), PACKAGES + 1)
    print(f"a plain install brings {len(packages)}: {', '.join(packages)}")
    print(versions("kie_async", "aiohttp"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
