"""Rows L01 to L06: the store that keeps the rate for all processes is away, slow or wrong.

Where the matrix speaks of a local share, that is ``RedisLimiter(share=...)``; the event is
a warning in the log.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator import Rule
from kie_async.journal import Journal
from kie_async.redis_limiter import RedisLimiter
from tests.faults.world_k import KILLED, World, until, world
from tests.redis_servers import SERVER, Server, free_port, redis_server

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey on this machine"),
]

LIMIT, WINDOW = 20, 0.5
AWAY = "the store of the rate limit is away"


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Iterator[Server]:
    """Run a server of this test's own."""
    folder = tmp_path / "store"
    folder.mkdir()
    with redis_server(folder) as server:
        yield server


@asynccontextmanager
async def running(
    w: World, url: str, items: int, share: float = 0.5
) -> AsyncIterator[tuple[RedisLimiter, Callable[[], Any]]]:
    """Run some items in this process with a limiter on a store; return what waits for the end."""
    settings: dict[str, Any] = {"limit": LIMIT, "window": WINDOW, "share": share, "lease": 1.0}
    async with (
        Journal(w.path) as journal,
        RedisLimiter.from_url(url, "account", **settings) as limiter,
        w.session(limiter=limiter) as session,
    ):
        run = session.upscale_many(w.ids[:items], journal=journal)

        async def consume() -> list[str]:
            return [str(outcome.status) async for outcome in run]

        task = asyncio.ensure_future(consume())

        async def ended() -> None:
            async with asyncio.timeout(40.0):
                assert await task == ["done"] * items
            assert w.paid() == [1] * items
            assert w.violations() == []

        try:
            yield limiter, ended
        finally:
            task.cancel()
            await asyncio.wait([task])


@pytest.mark.asyncio
async def test_fault_L01_the_store_is_not_there_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Each process keeps to its share, and says so once."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    async with world(tmp_path, 25, rate=(LIMIT, WINDOW)) as w:
        async with running(w, url, 25) as (limiter, ended):
            await ended()
            assert limiter.alone

        assert w.books.refused == {}
        assert w.books.most_in_window(WINDOW) <= LIMIT // 2
    assert [AWAY in row.message for row in caplog.records].count(True) == 1


@pytest.mark.asyncio
async def test_fault_L02_the_store_is_killed_in_the_middle(
    tmp_path: Path, store: Server, caplog: pytest.LogCaptureFixture
):
    """The run goes on with its share, and comes back when the store does; nothing twice."""
    async with world(tmp_path, 50, rate=(LIMIT, WINDOW)) as w:
        async with running(w, store.url, 50) as (limiter, ended):
            await until(lambda: len(w.books.creates) >= 5)
            store.signal(signal.SIGKILL)
            await until(lambda: limiter.alone)
            made = len(w.books.creates)
            await until(lambda: len(w.books.creates) > made)
            await asyncio.to_thread(store.start)
            await until(lambda: not limiter.alone)
            await ended()

        # What is under way as the store goes or comes is counted by its beginning, so that on
        # a machine which is slow for a whole window a burst may be too many: refused, not paid.
        assert w.books.refused.get(429, 0) <= LIMIT
        assert w.books.most_in_window(WINDOW) <= LIMIT
        assert w.books.most_in_window(WINDOW, of="arrivals") <= 2 * LIMIT
    assert any("is back" in row.message for row in caplog.records)


@pytest.mark.asyncio
async def test_fault_L03_the_store_is_slow(tmp_path: Path, store: Server):
    """A call has a quarter of a second; a store that sleeps for a minute holds nobody up."""
    async with world(tmp_path, 25, rate=(LIMIT, WINDOW)) as w:
        async with running(w, store.url, 25) as (limiter, ended):
            await until(lambda: w.books.creates)
            with store.client as client:
                client.execute_command("CLIENT", "PAUSE", 60_000, "ALL")
            await ended()
            assert limiter.alone
            store.stop()

        assert w.books.most_in_window(WINDOW) <= LIMIT


@pytest.mark.asyncio
async def test_fault_L04_the_store_forgets_the_last_writes(tmp_path: Path, store: Server):
    """One burst too many at most; what the API refuses of it is made later, once."""
    async with world(tmp_path, 50, rate=(LIMIT, WINDOW)) as w:
        async with running(w, store.url, 50) as (_, ended):
            await until(lambda: len(w.books.creates) >= LIMIT)
            with store.client as client:
                client.flushall()
            await ended()

        assert w.books.refused.get(429, 0) <= LIMIT
        assert w.books.most_in_window(WINDOW, of="arrivals") <= 2 * LIMIT


async def forgets_scripts(_limiter: RedisLimiter, store: Server) -> None:
    with store.client as client:
        client.script_flush()


async def is_a_replica(limiter: RedisLimiter, store: Server) -> None:
    with store.client as client:
        client.replicaof("127.0.0.1", free_port())
    await until(lambda: limiter.alone)


async def has_a_foreign_value(limiter: RedisLimiter, store: Server) -> None:
    with store.client as client:
        client.set("kie:{account}:turns", "something else")
    await until(lambda: limiter.alone)


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", [forgets_scripts, is_a_replica, has_a_foreign_value])
async def test_fault_L05_the_store_refuses(
    tmp_path: Path, store: Server, trouble: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    """An emptied script cache is handled; a store that cannot serve counts as away."""
    async with world(tmp_path, 25, rate=(LIMIT, WINDOW)) as w:
        async with running(w, store.url, 25) as (limiter, ended):
            await until(lambda: w.books.creates)
            await trouble(limiter, store)
            await ended()

        assert w.books.refused == {}
        assert w.books.most_in_window(WINDOW) <= LIMIT
    away = any(AWAY in row.message for row in caplog.records)
    if trouble is forgets_scripts and not away:  # a busy machine may be too slow for the store
        with store.client as client:
            served = client.zrange("kie:{account}:served", 0, -1, withscores=True)
        assert sum(turns for _, turns in served) == 25
    else:
        assert away


@pytest.mark.asyncio
async def test_fault_L06_one_of_eight_workers_dies_with_its_turns(tmp_path: Path, store: Server):
    """Its turns are free again after their lease and a window; the others take them."""
    async with world(tmp_path, 40, rate=(LIMIT, WINDOW)) as w:
        # Without a share: a worker that cannot reach the store in time waits for it.
        job = {"redis": store.url, "rate": (LIMIT, WINDOW), "share": 0.0, "callbacks": True}
        shares = [w.ids[number::8] for number in range(8)]
        folders = [tmp_path / str(number) for number in range(8)]
        for folder in folders:
            folder.mkdir()
        w.emulator.inject(
            Rule(
                route="createTask",
                action="delay",
                when="after",
                delay=60.0,
                match=lambda request: any(request.holds(one) for one in shares[0]),
            )
        )
        pool = [
            w.start(folder=folder, ids=share, **job)
            for folder, share in zip(folders, shares, strict=True)
        ]
        await until(lambda: any(w.books.paid(one) for one in shares[0]))
        assert await pool[0].kill() == KILLED
        assert [await worker.ended() for worker in pool[1:]] == [0] * 7
        w.emulator.clear_rules()
        assert await w.run(folder=folders[0], ids=shares[0], **job) == 0

        assert w.books.refused == {}
        assert w.books.most_in_window(WINDOW) <= LIMIT
        assert max(w.paid()) == 1
        for folder, share in zip(folders, shares, strict=True):
            assert World(w.emulator, folder, share).violations() == []
        with store.client as client:
            assert client.zcard("kie:{account}:turns") <= LIMIT


@pytest.mark.asyncio
async def test_the_checker_of_the_store_catches_workers_that_do_not_share(tmp_path: Path):
    """The control: two with a limiter of their own each are refused."""
    async with world(tmp_path, 60, rate=(LIMIT, 30.0)) as w:
        shares = [w.ids[number::2] for number in range(2)]
        pool = []
        for number, share in enumerate(shares):
            folder = tmp_path / str(number)
            folder.mkdir()
            pool.append(w.start(folder=folder, ids=share, rate=(LIMIT, 30.0)))
        await until(lambda: w.books.refused or len(w.books.arrivals) > LIMIT)
        for worker in pool:
            await worker.kill()

        assert w.books.refused.get(429, 0) > 0
