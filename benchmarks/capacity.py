"""Which part is the bottleneck, for an account of any size?  Measured costs, then a simulation.

    python benchmarks/capacity.py [--tasks 3000] [--workers 4] [--smoke]

First the turns: a hundred processes' limiters on one book, at 2,000 turns a second, in Redis
and in PostgreSQL.  Then a run of one process on a file and a run of several workers on
PostgreSQL, against an emulator without a limit: CPU a task of the client and of the
database, round trips, bytes.  Then accounts of 2 to 2,000 creates a second: how many cores
each part needs, and a simulation of a database of some cores that serves all workers: does
it keep up, and how late is a create?  Polls need no measuring: an account is allowed so
many a second, and where creates outrun them callbacks take their place.  The emulator is a
process of its own and not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))  # benchmarks.kills, tests.postgres_servers

from benchmarks.kills import ask  # noqa: E402

RATES = (2, 20, 200, 2000)
CORES = 8
"""Of the database, in the simulation."""
WAITS = 12
"""Times that an item waits for the database, one after the other: taken, looked up, turn,
intent, id, end, and the job's end."""


PROCESSES = 100
HOLDS = 0.1
"""Seconds from a turn to its answer."""


class Turns(NamedTuple):
    """What a book of turns did under load."""

    second: float  # turns a second
    store: float  # CPU seconds of the store a turn
    alone: int  # processes that lost patience


class Cost(NamedTuple):
    """What one task costs."""

    client: float  # CPU seconds
    store: float  # CPU seconds
    stored: float  # bytes
    plan: float  # seconds to plan and queue it


def serve() -> None:
    """Run an emulator without a limit until killed; print its address."""
    from kie_async.emulator import Emulator

    async def main() -> None:
        async with Emulator(rate=None, durations=lambda _rng: 0.1, credits=1e12) as emulator:
            print(emulator.url, flush=True)
            await asyncio.Event().wait()

    asyncio.run(main())


def session(api: str) -> Any:
    """Return a session without limits of its own."""
    from kie_async import KieSession, PollSchedule
    from kie_async.limiter import Unlimited

    return KieSession(
        "emulator-key",
        base_url=api,
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        polling=PollSchedule(first_gap=0.2, min_gap=0.1),
    )


async def work(url: str, api: str) -> None:
    """Be one of the workers."""
    from kie_async.worker import QueuedJournal

    async with QueuedJournal(url, "capacity") as journal, session(api) as kie:
        before = time.process_time()
        number = [outcome.status async for outcome in kie.work(journal)]
        print(len(number), time.process_time() - before, flush=True)


async def on_a_file(api: str, ids: list[str]) -> Cost:
    """Run one process with a journal in a file."""
    from kie_async.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.db"
        async with Journal(path) as journal, session(api) as kie:
            before = time.process_time()
            async for _ in kie.upscale_many(ids, journal=journal):
                pass
            spent = time.process_time() - before
        return Cost(spent / len(ids), 0.0, path.stat().st_size / len(ids), 0.0)


async def on_postgres(api: str, ids: list[str], workers: int) -> Cost:
    """Run several workers on PostgreSQL."""
    from kie_async.worker import QueuedJournal, submit
    from tests.postgres_servers import postgres_server

    with postgres_server() as server:
        async with QueuedJournal(server.url, "capacity") as journal:
            began = time.perf_counter()
            await submit(journal, ids)
            plan = (time.perf_counter() - began) / len(ids)
        before = server.cpu()
        running = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERE), "--work", server.url, api),
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(workers)
        ]
        told = [(await process.communicate())[0].split() for process in running]
        store = server.cpu() - before
        with server.connect() as conn:
            row = conn.execute(
                "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
                "WHERE relkind = 'r' AND relnamespace = 'kie_capacity'::regnamespace"
            ).fetchone()
    assert sum(int(count) for count, _ in told) == len(ids)
    client = sum(float(seconds) for _, seconds in told)
    return Cost(client / len(ids), store / len(ids), float(row[0] if row else 0) / len(ids), plan)


async def turns(url: str, cpu: Callable[[], float], seconds: float) -> Turns:
    """Let many limiters take what 2,000 a second allow, in a window of a second."""
    from kie_async.limiter import StoreLimiter
    from tests.limiter_worker import limiter_on

    clock = asyncio.get_running_loop().time
    limiters = [limiter_on(url, "capacity", RATES[-1], 1.0) for _ in range(PROCESSES)]
    for limiter in limiters:  # connected before the clock runs
        (await limiter.acquire()).give_back()
    began, spent, taken, alone = clock(), cpu(), 0, 0

    async def one(limiter: StoreLimiter) -> None:
        nonlocal taken
        while clock() - began < seconds:
            with await limiter.acquire():
                taken += 1
                await asyncio.sleep(HOLDS)

    async with asyncio.TaskGroup() as group:
        for limiter in limiters * (2 * RATES[-1] // PROCESSES):
            group.create_task(one(limiter))
        while clock() - began < seconds:
            await asyncio.sleep(0.2)
            alone = max(alone, sum(limiter.alone for limiter in limiters))
    lasted, spent = clock() - began, cpu() - spent
    for limiter in limiters:
        await limiter.aclose()
    return Turns(taken / lasted, spent / taken, alone)


def books(seconds: float) -> Iterator[tuple[str, Turns]]:
    """Put each store under load."""
    from tests.postgres_servers import postgres_server
    from tests.redis_servers import SERVER, redis_server

    if SERVER is not None:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
            yield "Redis", asyncio.run(turns(redis.url, redis.cpu, seconds))
    with postgres_server() as server:
        yield "PostgreSQL", asyncio.run(turns(server.url, server.cpu, seconds))


def simulated(rate: float, cost: Cost, seconds: float, rng: random.Random) -> tuple[float, float]:
    """Let creates of *rate* a second ask a database of some cores for what each needs.

    Returns the share of the rate that was reached, and the mean seconds that a create is
    held up by the database.
    """
    steps = [cost.store / WAITS] * WAITS
    free = [0.0] * CORES  # when each core is free
    arrivals: list[tuple[float, int, float]] = []
    at = 0.0
    while at < seconds:
        at += rng.expovariate(rate)
        arrivals.append((at, 0, at))
    total = len(arrivals)
    heapq.heapify(arrivals)
    heapq.heapify(free)
    held, ended, last = 0.0, 0, 0.0
    while arrivals:
        at, step, began = heapq.heappop(arrivals)
        begin = max(at, heapq.heappop(free))
        end = begin + rng.expovariate(1 / steps[step])
        heapq.heappush(free, end)
        if step + 1 < WAITS:
            heapq.heappush(arrivals, (end, step + 1, began))
        else:
            held += end - began
            ended += 1
            last = max(last, end)
    return min(1.0, total / rate / max(last, total / rate)), held / ended


def table(file: Cost, many: Cost, seconds: float) -> None:
    """Print what was measured, and what follows for each size."""
    print(f"{'a task costs':<28}{'one process, a file':>22}{'workers, PostgreSQL':>22}")
    print(f"{'CPU of the client, ms':<28}{file.client * 1e3:>22.2f}{many.client * 1e3:>22.2f}")
    print(f"{'CPU of the database, ms':<28}{'-':>22}{many.store * 1e3:>22.2f}")
    print(f"{'stored, bytes':<28}{file.stored:>22.0f}{many.stored:>22.0f}")
    print(f"{'planned and queued, us':<28}{'-':>22}{many.plan * 1e6:>22.0f}")
    print()
    print(
        f"{'creates/s':>10}{'a file: cores':>16}{'workers: cores':>16}{'database: cores':>17}"
        f"{'reached':>9}{'held up, ms':>13}"
    )
    for rate in RATES:
        reached, held = simulated(rate, many, min(seconds, 20_000 / rate), random.Random(1))
        print(
            f"{rate:>10}{rate * file.client:>16.2f}{rate * many.client:>16.2f}"
            f"{rate * many.store:>17.2f}{reached:>9.0%}{held * 1e3:>13.1f}"
        )
    big = 10**8
    print()
    print(
        f"10^8 ids: {big * many.stored / 1e9:,.0f} GB, {big * many.plan / 3600:,.1f} h to plan, "
        f"{big / RATES[-1] / 3600:,.1f} h to create at {RATES[-1]:,} a second; a database of "
        f"{CORES} cores keeps up with {CORES / many.store:,.0f} creates a second"
    )


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=3000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--smoke", action="store_true", help="a few tasks, in seconds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, metavar=("URL", "API"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve()
    if chosen.work:
        asyncio.run(work(*chosen.work))
        return 0
    from tests.postgres_servers import POSTGRES

    if POSTGRES is None:
        print("no PostgreSQL on this machine: nothing was measured")
        return 0
    print(f"{PROCESSES} processes, {RATES[-1]:,} turns a second allowed:")
    for name, load in books(2.0 if chosen.smoke else 20.0):
        print(
            f"  {name:<12}{load.second:>7,.0f} a second, {load.store * 1e6:>4.0f} us of its CPU "
            f"a turn, {load.alone} processes lost patience"
        )
    print()
    tasks, workers = (150, 2) if chosen.smoke else (chosen.tasks, chosen.workers)
    emulator = subprocess.Popen([sys.executable, str(HERE), "--serve"], stdout=subprocess.PIPE)
    try:
        assert emulator.stdout is not None
        api = emulator.stdout.readline().decode().strip()
        ids = ask(api, "/__emulator__/sources", {"count": 2 * tasks})["task_ids"]
        file = asyncio.run(on_a_file(api, ids[:tasks]))
        many = asyncio.run(on_postgres(api, ids[tasks:], workers))
    finally:
        emulator.kill()
        emulator.communicate()
    table(file, many, 1.0 if chosen.smoke else 60.0)
    print(f"({tasks:,} tasks, {workers} workers, {os.cpu_count()} cores for all of it)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
