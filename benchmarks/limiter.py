"""What a turn costs: with nobody waiting, and with 1, 1,000 and 100,000 in line.

    python benchmarks/limiter.py [--smoke]

Medians of 5 rounds in one process; peers are shown if they are installed.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Report, options, table, versions
from kie_async.limiter import SlidingWindowLimiter

BARE = "a bare await"


async def _per_call(what: Callable[[], Awaitable[object]], count: int) -> float:
    """Return nanoseconds per awaited call, median of 5 rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(count):
            await what()
        rounds.append((time.process_time() - start) / count * 1e9)
    return statistics.median(rounds)


async def free(count: int) -> dict[str, float]:
    """Return nanoseconds per turn when nobody waits."""
    unread = SlidingWindowLimiter(limit=10**9)
    turning = SlidingWindowLimiter(limit=5000, window=1e-6)  # turns come back after 1 ms

    async def bare() -> None:
        return None

    async def never_full() -> None:
        (await unread.acquire()).finish()

    async def comes_back() -> None:
        (await turning.acquire()).finish()

    async def as_block() -> None:
        with await unread.acquire():
            pass

    found = {
        BARE: await _per_call(bare, count),
        "acquire + finish": await _per_call(never_full, count),
        "the same, window turning over": await _per_call(comes_back, count),
        "with await acquire()": await _per_call(as_block, count),
    }
    try:
        peer = importlib.import_module("aiolimiter")
    except ImportError:
        return found
    found["aiolimiter"] = await _per_call(peer.AsyncLimiter(10**9, 10.0).acquire, count)
    return found


async def in_line(waiting: int, passed: int) -> tuple[float, float, int]:
    """Return microseconds and bytes per caller, and how many left out of order.

    One turn goes from hand to hand; the line is refilled from behind.
    """
    limiter = SlidingWindowLimiter(limit=1, window=3600.0)
    held = await limiter.acquire()
    order: list[int] = []

    async def caller(number: int) -> None:
        (await limiter.acquire()).give_back()
        order.append(number)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tasks = [asyncio.create_task(caller(number)) for number in range(waiting)]
    await asyncio.sleep(0)
    size = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / waiting
    start = time.process_time()
    held.give_back()
    number = waiting
    while number < passed:  # one caller at a time keeps a short line from emptying
        tasks.append(asyncio.create_task(caller(number)))
        number += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    cost = (time.process_time() - start) / len(tasks) * 1e6
    swaps = sum(a > b for a, b in itertools.pairwise(order))
    return cost, size, swaps


def main() -> int:
    """Measure, print, and return the exit code."""
    asked = options(__doc__)
    report, rows = Report(), []
    found = asyncio.run(free(2_000 if asked.smoke else 100_000))
    for name, cost in found.items():
        rows.append(["nobody waits", name, f"{cost / found[BARE]:.1f} bare awaits", ""])
    for waiting in (1, 1_000, 10_000 if asked.smoke else 100_000):
        cost, size, swaps = asyncio.run(in_line(waiting, 1_000 if asked.smoke else 20_000))
        line = f"{waiting:,} in line"
        rows.append([line, "a caller, his asyncio task included", f"{cost:.1f} µs of CPU", ""])
        rows.append([line, "memory of a caller with his task", f"{size:.0f} bytes", ""])
        goal = report.judge(f"out of order, {line}", swaps, 0)
        rows.append([line, "callers who left out of order", f"{swaps}", goal])
    print(table(["limiter", "what", "cost", "goal"], rows))
    print(versions("kie_async", "aiolimiter"))
    print("a turn of a shared store: benchmarks/shared_limiter.py")
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
