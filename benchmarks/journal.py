"""What the journal costs: per durable record, for the event loop, and at a million rows.

    python benchmarks/journal.py            # all of it, about a minute and a half
    python benchmarks/journal.py --smoke    # a tenth and less, for CI: does it run?

Each figure comes from a fresh process.  CPU is that of the whole process, the waiting
callers included.  `aiosqlite` is measured beside it if it is installed.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Report, options, table, versions

WRITERS = 100
TICK = 0.001


def resident() -> float:
    """MiB of memory in use now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def ticker(stalls: list[float]) -> None:
    """Note by how much each tick of 1 ms was late."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + TICK
        await asyncio.sleep(TICK)
        stalls.append(loop.time() - due)


async def measured(records: int, worker: Callable[[int], Awaitable[None]]) -> dict[str, float]:
    """Run 100 workers and return what a record cost."""
    stalls: list[float] = []
    watch = asyncio.create_task(ticker(stalls))
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(worker(number) for number in range(WRITERS)))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    watch.cancel()
    stalls.sort()
    return {
        "records/s": round(records / wall),
        "cpu_us": round(cpu / records * 1e6, 1),
        "stall_p99_ms": round(stalls[int(len(stalls) * 0.99)] * 1e3, 2),
        "stall_max_ms": round(stalls[-1] * 1e3, 2),
    }


async def journal(folder: Path, each: int) -> dict[str, float]:
    """Three records an item: intent, task id, end; each awaited until it is durable."""
    from kie_async.journal import Journal, PlannedItem
    from kie_async.models import Task, TaskState

    async with Journal(folder / "run.db") as run:
        names = [f"{number:032x}" for number in range(WRITERS * each)]
        await run.plan(
            PlannedItem(source_id=name, model="grok-imagine/upscale", input={"task_id": name})
            for name in names
        )

        async def work(number: int) -> None:
            for name in names[number::WRITERS]:
                attempt = await run.begin_sending(name, ref=f"r{name}")
                await run.record_created(name, attempt, f"t{name}")
                task = Task(task_id=f"t{name}", state=TaskState.SUCCESS, credits_consumed=10.0)
                await run.record_done(name, task, polls=3)

        return await measured(3 * WRITERS * each, work)


TABLE = "CREATE TABLE records (id INTEGER PRIMARY KEY, name TEXT, state TEXT, body TEXT)"
INSERT = "INSERT INTO records (name, state, body) VALUES (?, ?, ?)"
ROW = ("0" * 32, "sending", "x" * 120)


async def naive(folder: Path, each: int) -> dict[str, float]:
    """One plain row and one commit each, on the loop itself: what a first draft does."""
    conn = sqlite3.connect(folder / "run.db", isolation_level=None)
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute(TABLE)

    async def work(_: int) -> None:
        for _ in range(each):
            conn.execute(INSERT, ROW)
            await asyncio.sleep(0)

    result = await measured(WRITERS * each, work)
    conn.close()
    return result


async def aiosqlite(folder: Path, each: int) -> dict[str, float]:
    """One plain row and one commit each, through aiosqlite."""
    import aiosqlite as package

    async with package.connect(folder / "run.db", isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("PRAGMA synchronous = FULL")
        await conn.execute(TABLE)

        async def work(_: int) -> None:
            for _ in range(each):
                await conn.execute(INSERT, ROW)

        return await measured(WRITERS * each, work)


def planned(count: int) -> Iterator[Any]:
    """Yield items with ids in no order, as Kie's are."""
    from hashlib import blake2b

    from kie_async.journal import PlannedItem

    for number in range(count):
        name = blake2b(b"%d" % number, digest_size=16).hexdigest()
        yield PlannedItem(source_id=name, model="grok-imagine/upscale", input={"task_id": name})


async def million(folder: Path, count: int) -> dict[str, float]:
    """Load, load again, close; open again and come to the first row to send."""
    from kie_async.journal import ItemState, Journal

    result: dict[str, float] = {"rows": count}
    items = planned(count)
    async with Journal(folder / "run.db") as run:
        await run.plan(next(items) for _ in range(1000))
        before, started = resident(), time.perf_counter()
        while batch := list(islice(items, 5_000)):
            await run.plan(batch)
        result["load_s"] = round(time.perf_counter() - started, 2)
        result["load_growth_mib"] = round(resident() - before, 1)
        started = time.perf_counter()
        items, new = planned(count), 0
        while batch := list(islice(items, 5_000)):
            new += len(await run.plan(batch))
        result["again_s"] = round(time.perf_counter() - started, 2)
        assert new == 0
    before, started = resident(), time.perf_counter()
    run = await Journal.open(folder / "run.db")
    result["open_s"] = round(time.perf_counter() - started, 2)
    recovery = await run.recover()
    first = await run.page(ItemState.PLANNED, limit=100)
    await run.begin_sending(first[0].source_id, ref="first")
    result["resume_s"] = round(time.perf_counter() - started, 2)
    result["resume_growth_mib"] = round(resident() - before, 1)
    started = time.perf_counter()
    seen = sum([1 async for _ in run.iterate(ItemState.PLANNED)])
    result["iterate_s"] = round(time.perf_counter() - started, 2)
    result["growth_mib"] = round(resident() - before, 1)
    assert recovery.counts.planned == count
    assert seen == count - 1
    await run.close()
    result["file_mib"] = round((folder / "run.db").stat().st_size / 2**20)
    return result


CASES = {"journal": journal, "naive": naive, "aiosqlite": aiosqlite, "million": million}


GOALS = {
    "journal": {"cpu_us": 30.0, "stall_p99_ms": 5.0},
    "million": {"resume_growth_mib": 10.0, "load_growth_mib": 10.0},
}


def main() -> int:
    """Run each case in a process of its own and print what it cost; return the exit code."""
    asked = options(
        __doc__,
        ("--case", {"choices": CASES, "help": "one case, in this process, as JSON"}),
        ("--size", {"type": int, "help": "items per writer; rows for `million`"}),
    )
    sizes = {"journal": 200, "naive": 50, "aiosqlite": 50, "million": 1_000_000}
    if asked.smoke:
        sizes = {"journal": 10, "naive": 3, "aiosqlite": 3, "million": 20_000}
    if asked.case:
        with tempfile.TemporaryDirectory() as folder:
            size = asked.size or sizes[asked.case]
            print(json.dumps(asyncio.run(CASES[asked.case](Path(folder), size))))
        return 0
    report, rows = Report(), []
    for name, size in sizes.items():
        if name == "aiosqlite" and find_spec("aiosqlite") is None:
            print("aiosqlite is left out: not installed")
            continue
        command = [sys.executable, __file__, "--case", name, "--size", str(size)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        goals = GOALS.get(name, {})
        for figure, value in json.loads(shown).items():
            goal = report.judge(f"{name} {figure}", value, goals[figure]) if figure in goals else ""
            rows.append([name, figure, f"{value:,}", goal])
    print(table(["case", "figure", "measured", "goal"], rows))
    print(versions("kie_async", "aiosqlite"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
