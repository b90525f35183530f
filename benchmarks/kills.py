"""Kill -9 at random instants: is anything paid twice, lost, or half written?

    python benchmarks/kills.py --kills 1000          # the long form
    python benchmarks/kills.py --smoke               # a few kills
    python benchmarks/kills.py --bad-client          # the control: it must fail

A worker process upscales a list against the emulator (a process of its own, whose books
are the truth) and is killed at random instants until the list is done.  Then books,
journal and files are compared.  The control sends its doubts again, as a client without
a journal would; the checker must catch it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib
from pathlib import Path
from typing import Any

TASKS = 500
HERE = Path(__file__).resolve()


def serve() -> None:
    """Run the emulator until killed; print its address."""
    from kie_async.emulator import Emulator

    async def main() -> None:
        emulator = Emulator(
            rate=(400, 0.5), durations=lambda _rng: 0.15, credits=1e9, seed=3, paint=noise
        )
        async with emulator:
            print(emulator.url, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


def noise(name: str, _task: Any) -> bytes:
    """Make a PNG of some hundred kilobytes that nothing can shorten, and quickly."""
    from kie_async.emulator._pictures import png

    return png([random.Random(f"{name}-{row}").randbytes(3 * 256) for row in range(256)])


def work(url: str, folder: Path, *, bad: bool) -> None:
    """Upscale the list of the folder, or go on with it."""
    from kie_async import KieSession, PollSchedule, SlidingWindowLimiter
    from kie_async.journal import Journal

    async def main() -> None:
        async with Journal(folder / "run.db") as journal:
            kie = KieSession(
                "emulator-key",
                base_url=url,
                limiter=SlidingWindowLimiter(20, 0.05),
                poll_limiter=SlidingWindowLimiter(40, 0.05),
                polling=PollSchedule(first_gap=0.05, min_gap=0.02, longest_gap=0.2),
            )
            async with kie:
                if bad:
                    await journal.recover()
                    async for doubt in journal.doubts():
                        await journal.resolve(doubt.item.source_id, recreate=True)
                run = kie.upscale_many(
                    (folder / "ids.txt").read_text().split(),
                    journal=journal,
                    directory=folder / "out",
                    allow_private=True,
                )
                async for _ in run:
                    pass

    asyncio.run(main())


def ask(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask the emulator about itself."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def one_run(
    url: str, rng: random.Random, tasks: int, most_kills: int, *, bad: bool
) -> dict[str, Any]:
    """Bring one list to its end through kills; return what the checker found."""
    with tempfile.TemporaryDirectory(prefix="kie-kills-") as name:
        folder = Path(name)
        (folder / "out").mkdir()
        ids = ask(url, "/__emulator__/sources", {"count": tasks})["task_ids"]
        (folder / "ids.txt").write_text("\n".join(ids))
        command = [sys.executable, str(HERE), "--work", url, name]
        kills = 0
        while True:
            process = subprocess.Popen(command + ["--bad-client"] * bad, stderr=subprocess.PIPE)
            try:
                limit = 0.3 + rng.random() * 1.2 if kills < most_kills else 120.0
                process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
            finally:
                complaint = process.stderr.read().decode() if process.stderr else ""
                if process.stderr:
                    process.stderr.close()
            if process.returncode:
                raise SystemExit(f"the worker failed by itself:\n{complaint}")
            break
        return {"kills": kills, **check(url, folder, ids)}


def check(url: str, folder: Path, ids: list[str]) -> dict[str, Any]:
    """Compare the emulator's books, the journal and the files."""
    paid = ask(url, "/__emulator__/books")["paid"]
    rows = sqlite3.connect(f"file:{folder / 'run.db'}?mode=ro", uri=True)
    states = dict(rows.execute("SELECT source_id, state FROM items"))
    sound = rows.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    rows.close()
    files = [path for path in (folder / "out").iterdir() if not path.name.endswith(".part")]
    saved = {path.name.partition(".")[0].partition("-")[0] for path in files}
    done = [i for i in ids if states.get(i) == "done"]
    return {
        "tasks": len(ids),
        "paid twice": sum(paid.get(i, 0) > 1 for i in ids),
        "lost": sum(states.get(i) not in ("done", "in_doubt") for i in ids),
        "doubts": sum(states.get(i) == "in_doubt" for i in ids),
        "half written": sum(not whole(path) for path in files),
        "files missing": len([i for i in done if i not in saved]),
        "journal unsound": int(not sound),
    }


def whole(path: Path) -> bool:
    """True if a PNG is whole: its chunks end with IEND and its pixels unpack."""
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or data[-8:-4] != b"IEND":
        return False
    pixels, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            pixels += data[at + 8 : at + 8 + length]
        at += 12 + length
    try:
        return bool(zlib.decompress(pixels))
    except zlib.error:
        return False


def run(kills: int, *, tasks: int = TASKS, bad: bool = False, seed: int = 1) -> dict[str, Any]:
    """Run lists through at least *kills* kills; return the sums of what was found."""
    rng = random.Random(seed)
    server = subprocess.Popen([sys.executable, str(HERE), "--serve"], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().decode().strip()
        total: dict[str, Any] = {"kills": 0, "runs": 0}
        while total["kills"] < kills:
            found = one_run(url, rng, tasks, min(kills - total["kills"], 12), bad=bad)
            total["runs"] += 1
            for name, number in found.items():
                total[name] = total.get(name, 0) + number
        return total
    finally:
        server.kill()
        server.wait()
        if server.stdout:
            server.stdout.close()


def passed(total: dict[str, Any], in_flight: int = 20) -> bool:
    """The promise: nothing twice, nothing lost, nothing half written, few doubts."""
    bad = ("paid twice", "lost", "half written", "files missing", "journal unsound")
    return not any(total[name] for name in bad) and total["doubts"] <= total["kills"] * in_flight


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few kills, in seconds")
    parser.add_argument("--bad-client", action="store_true", help="the control: must fail")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
    elif chosen.work:
        work(chosen.work[0], Path(chosen.work[1]), bad=chosen.bad_client)
    else:
        began = time.monotonic()
        kills, tasks = (3, 60) if chosen.smoke else (chosen.kills, TASKS)
        total = run(kills, tasks=tasks, bad=chosen.bad_client, seed=chosen.seed)
        for name, number in total.items():
            print(f"{name:16} {number}")
        print(f"{'seconds':16} {time.monotonic() - began:.0f}")
        if passed(total) is chosen.bad_client:
            print("NOT AS PROMISED")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
