"""What waiting costs: memory for each caller that waits, and connections of rare polls.

    python benchmarks/waiting.py            # a minute or two
    python benchmarks/waiting.py --smoke

Memory is the slope of this process's resident set from 500 to 3,000 waiting callers, of
tasks that never end, while nothing is asked; each client in a process of its own.
fal-client is beside ours if it is installed (``pip install -r
benchmarks/requirements.txt``).  Connections are counted by the server.  Other costs of
waiting are elsewhere: a wake among 100,000 in ``polling.py --wake``, a million ids in
``bulk.py``, and what a run adds to an item in ``safety.py``.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Report, options, table, versions
from benchmarks._stub import Stub
from benchmarks.peers import fal
from kie_async import KieSession, PollSchedule
from kie_async.limiter import Unlimited

KIB = 2.0
OF_FAL = 0.75
REUSED = 0.99
SOURCE = "0" * 32


def resident() -> float:
    """Return this process's memory in KiB."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024


async def slope(name: str, url: str, few: int, many: int) -> None:
    """Print the KiB for each caller that waits, and end this process."""
    async with AsyncExitStack() as stack:
        if name == "kie_async":
            kie = await stack.enter_async_context(session(url))

            async def one() -> object:
                return await kie.upscale(SOURCE, timeout=3600.0)
        else:
            one = await fal(url, stack, interval=3600.0)
        waiting: list[asyncio.Task[object]] = []
        marks = []
        for count in (few, many):
            while len(waiting) < count:
                waiting += [asyncio.ensure_future(one()) for _ in range(50)]
                await asyncio.sleep(0.2)
            await asyncio.sleep(1.0)
            marks.append(resident())
        print(json.dumps((marks[1] - marks[0]) / (many - few)), flush=True)
        os._exit(0)  # to cancel 3,000 of its callers keeps httpx busy for minutes


def session(url: str, *, gap: float = 30.0) -> KieSession:
    """Return a session that looks at a task each *gap* seconds."""
    return KieSession(
        "key",
        base_url=url,
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        max_concurrency=100,
        polling=PollSchedule(first_gap=gap, min_gap=gap, longest_gap=gap, jitter=0.0),
    )


def slope_of(name: str, url: str, few: int, many: int) -> float | None:
    """Measure a client in a process of its own; None if it is not installed."""
    command = [sys.executable, __file__, "--one", name, url, str(few), str(many)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        missing = "ModuleNotFoundError" in ran.stderr
        print(f"{name} is left out: {'not installed' if missing else ran.stderr[-300:]}")
        return None
    return float(json.loads(ran.stdout))


async def connections(stub: Stub, waiting: int, polls: int, gap: float) -> tuple[float, float]:
    """Return the share of polls on a connection that was used before, and the most open."""
    async with session(stub.url, gap=gap) as kie:
        tasks = [
            asyncio.ensure_future(kie.wait_for_result(f"{number:032x}", timeout=3600.0))
            for number in range(waiting)
        ]
        await asyncio.sleep(gap / 2)
        await asyncio.to_thread(stub.reset)
        await asyncio.sleep(gap * polls)
        counts = await asyncio.to_thread(stub.counts)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    return counts["reads_reused"] / counts["reads"], counts["peak"]


def main() -> int:
    """Measure, print, and return the exit code."""
    if "--one" in sys.argv:
        name, url, few, many = sys.argv[2:]
        asyncio.run(slope(name, url, int(few), int(many)))
    asked = options(__doc__)
    few, many = (50, 150) if asked.smoke else (500, 3000)
    report, rows = Report(), []
    with Stub(running=True) as stub:
        found = {name: slope_of(name, stub.url, few, many) for name in ("kie_async", "fal-client")}
        share, peak = asyncio.run(connections(stub, 50 if asked.smoke else 500, 3, 1.0))
    own, other = found["kie_async"], found["fal-client"]
    if own is not None:
        rows.append(["KiB for a waiting `upscale`", f"{own:.2f}", report.judge("KiB", own, KIB)])
    if own is not None and other is not None:
        rows.append(["the same of fal-client", f"{other:.2f}", ""])
        goal = report.judge("KiB by fal-client's", own / other, OF_FAL)
        rows.append(["ours by theirs", f"{own / other:.2f}", goal])
    rows.append(
        [
            "polls on a connection used before",
            f"{share:.2%}",
            report.judge("polls on a fresh connection", 1 - share, 1 - REUSED),
        ]
    )
    rows.append(["most connections open", f"{peak:.0f}", report.judge("connections", peak, 120)])
    print(table(["waiting", "measured", "goal"], rows))
    print("polls are 1 s apart here, where they are 30 s apart by default: keep-alive is 60 s")
    print(versions("kie_async", "aiohttp", "fal-client"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
