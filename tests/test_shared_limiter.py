"""What a limiter of many processes promises, on real servers: Redis and PostgreSQL.

`STORES` names the implementations; each test runs against each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kie_async.errors import KieConnectionError
from kie_async.limiter import RateLimiter, StoreLimiter
from kie_async.postgres import PostgresLimiter
from kie_async.redis_limiter import RedisLimiter
from tests.postgres_servers import POSTGRES, Postgres, postgres_server
from tests.redis_servers import SERVER, Server, redis_server

pytestmark = pytest.mark.timeout(120)


class RedisStore:
    """Redis, and what can happen to it."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.url = server.url
        self.start, self.signal = server.start, server.signal

    def limiter(self, **settings) -> StoreLimiter:
        return RedisLimiter.from_url(self.url, "test", **settings)

    def crash(self) -> None:
        self._server.signal(signal.SIGKILL)

    def hang(self) -> None:
        self._server.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.signal(signal.SIGCONT)

    def forget(self) -> None:
        self._server.client.script_flush()
        self._server.client.flushall()

    def known(self) -> int:
        return self._server.client.zcard("kie:{test}:turns")

    def set_clock_back(self, seconds: float) -> None:
        client, micro = self._server.client, seconds * 1e6
        for key in ("turns", "asks"):
            for member in client.zrange(f"kie:{{test}}:{key}", 0, -1):
                client.zincrby(f"kie:{{test}}:{key}", micro, member)
        client.hincrby("kie:{test}:state", "left", int(micro))

    def refuse(self, fault: str) -> None:
        if fault == "read-only":
            self._server.client.replicaof("127.0.0.1", 1)
        else:
            self._server.client.set("kie:{test}:turns", "something else")


class PostgresStore:
    """PostgreSQL; the accounts of two tests are two."""

    def __init__(self, server: Postgres) -> None:
        self._server = server
        self.url = server.url
        self.account = secrets.token_hex(6)
        self.start = server.start

    def limiter(self, **settings) -> StoreLimiter:
        return PostgresLimiter(self.url, self.account, **settings)

    def crash(self) -> None:
        self._server.stop()

    def hang(self) -> None:
        self._server.signal_all(signal.SIGSTOP)

    def go_on(self) -> None:
        self._server.signal_all(signal.SIGCONT)

    def forget(self) -> None:
        self._ask("TRUNCATE kie_limits.turns, kie_limits.accounts, kie_limits.processes")

    def known(self) -> int:
        there, counted = self._ask(
            "SELECT (SELECT count(*) FROM kie_limits.turns),"
            " (SELECT sum(counted) FROM kie_limits.accounts)"
        ).fetchone()
        assert there == counted
        return there

    def set_clock_back(self, seconds: float) -> None:
        micro = int(seconds * 1e6)
        self._ask(f"UPDATE kie_limits.turns SET until = until + {micro}")
        self._ask(f"UPDATE kie_limits.processes SET asks = asks + {micro}")
        self._ask(f"UPDATE kie_limits.accounts SET last_turn = last_turn + {micro}")

    def refuse(self, fault: str) -> None:
        if fault == "read-only":
            self._ask("ALTER ROLE kie SET default_transaction_read_only = on")
        else:
            self._ask("DROP SCHEMA IF EXISTS kie_limits CASCADE")
            self._ask("CREATE SCHEMA kie_limits")
            self._ask("CREATE TABLE kie_limits.turns (something TEXT)")

    def _ask(self, text):
        with self._server.connect() as conn:
            return conn.execute(text)


def _redis(tmp_path: Path) -> Iterator[RedisStore]:
    with redis_server(tmp_path) as server:
        yield RedisStore(server)


def _postgres(_tmp_path: Path) -> Iterator[PostgresStore]:
    with postgres_server() as server:
        yield PostgresStore(server)


STORES = {
    "redis": pytest.param(
        _redis, marks=pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey here")
    ),
    "postgres": pytest.param(
        _postgres, marks=pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL here")
    ),
}


@pytest.fixture(params=STORES.values(), ids=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path: Path):
    """Run a server of its own for each test."""
    yield from request.param(tmp_path)


def limiter_on(store, **settings) -> StoreLimiter:
    settings.setdefault("limit", 5)
    settings.setdefault("window", 0.5)
    return store.limiter(**settings)


def windows_hold(times: list[float], limit: int, window: float) -> bool:
    """True if no window of the book held more than the limit."""
    ordered = sorted(times)
    pairs = zip(ordered, ordered[limit:], strict=False)
    return all(later - earlier >= window for earlier, later in pairs)


@pytest.mark.asyncio
async def test_it_is_a_rate_limiter_and_keeps_its_window(store):
    """In the order of arrival; the window counts from the answer."""
    async with limiter_on(store) as limiter:
        assert isinstance(limiter, RateLimiter)
        loop, order, times = asyncio.get_running_loop(), [], []

        async def one(number):
            with await limiter.acquire():
                order.append(number)
                await asyncio.sleep(0.02)
                times.append(loop.time())

        await asyncio.gather(*(one(n) for n in range(20)))

    assert order == list(range(20))
    assert windows_hold(times, 5, 0.48)
    assert times[-1] - times[0] >= 1.4


@pytest.mark.asyncio
async def test_two_processes_share_one_limit(store):
    """Turns of the one are missing for the other, by the store's clock."""
    async with limiter_on(store) as one, limiter_on(store) as other:
        first = [await one.acquire() for _ in range(3)]
        second = [await other.acquire() for _ in range(2)]
        third = asyncio.create_task(other.acquire())
        await asyncio.sleep(0.1)
        waited = not third.done()
        first[0].give_back()
        async with asyncio.timeout(5):
            (await third).give_back()
        for turn in (*first[1:], *second):
            turn.finish()

    assert waited


@pytest.mark.asyncio
async def test_a_cancelled_caller_loses_no_turn(store):
    """Before or after the turn was booked."""
    async with limiter_on(store, limit=3, window=30.0) as limiter:
        for _ in range(40):
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        for _ in range(10):
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0.003)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result().give_back()
        async with asyncio.timeout(10):
            turns = [await limiter.acquire() for _ in range(3)]

    assert len(turns) == 3


@pytest.mark.asyncio
async def test_a_pause_reaches_all_and_then_one_goes_at_a_time(store):
    """Whichever process was refused."""
    async with limiter_on(store, limit=10, window=0.5) as one, limiter_on(store, limit=10) as other:
        (await one.acquire()).give_back()
        (await other.acquire()).give_back()
        loop = asyncio.get_running_loop()
        began = loop.time()
        one.pause(0.4)
        await asyncio.sleep(0.05)
        times = []
        for _ in range(3):
            with await other.acquire():
                times.append(loop.time() - began)

    assert times[0] >= 0.4
    assert times[1] - times[0] >= 0.04
    assert times[2] - times[1] >= 0.04


@pytest.mark.asyncio
async def test_eight_processes_use_it_all_fairly_and_not_more(store):
    """By the book of the server that they send to."""
    limit, window, seconds = 20, 0.5, 4.0
    book: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()

    async def served(reader, writer):
        while line := await reader.readline():
            book.append((loop.time(), line.decode().strip()))
            writer.write(b"ok\n")
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.limiter_worker"),
            *(
                store.url,
                getattr(store, "account", "test"),
                str(port),
                f"w{n}",
                str(limit),
                str(window),
                str(seconds),
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for n in range(8)
    ]
    for worker in workers:
        assert await worker.stdout.readline() == b"ready\n"
    for worker in workers:
        worker.stdin.write(b"go\n")
    codes = [await worker.wait() for worker in workers]
    server.close()
    await server.wait_closed()

    assert codes == [0] * 8
    times = [at for at, _ in book]
    assert windows_hold(times, limit, window)
    ideal = limit / window * (times[-1] - times[0])
    assert len(book) >= 0.75 * ideal  # benchmarks/ asks for 95 % in quiet
    shares = Counter(who for _, who in book)  # who began with a burst waits for the others
    assert len(shares) == 8
    assert max(shares.values()) - min(shares.values()) <= 4


@pytest.mark.asyncio
async def test_a_store_that_dies_leaves_a_share_and_comes_back(store, caplog):
    """Said once each way; no call hangs, and no create is lost in the line."""
    caplog.set_level(logging.WARNING, "kie_async.limiter")
    async with limiter_on(store, limit=10, window=0.5, share=0.5) as limiter:
        (await limiter.acquire()).finish()
        store.crash()
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(12):
            async with asyncio.timeout(5):
                with await limiter.acquire():
                    times.append(loop.time())
        alone = limiter.alone
        await asyncio.to_thread(store.start)
        async with asyncio.timeout(10):
            while limiter.alone:
                (await limiter.acquire()).finish()
        known = store.known()

    assert alone
    assert windows_hold(times, 5, 0.5)
    assert known > 0  # what was taken meanwhile was told
    assert [r.message.split(" (")[0] for r in caplog.records] == [
        "the store of the rate limit is away",
        "the store of the rate limit is back",
    ]


@pytest.mark.asyncio
async def test_a_store_that_hangs_is_not_waited_for(store):
    """A quarter of a second, and the share is used."""
    async with limiter_on(store, limit=10, window=5.0, share=0.3) as limiter:
        (await limiter.acquire()).finish()
        store.hang()
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        spent = asyncio.get_running_loop().time() - began
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:
                await asyncio.wait([asyncio.create_task(limiter.acquire())], timeout=0.1)

    assert spent < 3


@pytest.mark.asyncio
async def test_answers_that_came_while_the_store_was_away_are_told_when_it_is_back(store):
    """Else their turns would count until their leases end: nobody could go meanwhile."""
    async with limiter_on(store, limit=2, window=0.3, lease=60.0) as limiter:
        turns = [await limiter.acquire() for _ in range(2)]
        store.hang()
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        assert limiter.alone
        for turn in turns:
            turn.finish()
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:
                (await limiter.acquire()).finish()
            (await limiter.acquire()).finish()
        assert not limiter.alone


@pytest.mark.asyncio
async def test_a_turn_of_the_share_counts_from_its_answer_when_the_store_is_back(store):
    """It was taken alone, and is answered after the return: the store hears of it."""
    async with limiter_on(store, limit=1, window=1.0, share=1.0, lease=60.0) as limiter:
        store.hang()
        async with asyncio.timeout(5):
            alone = await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:  # noqa: ASYNC110 - who drives looks by itself
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.2)
        assert not waiting.done()  # it has no answer yet
        answered = asyncio.get_running_loop().time()
        alone.finish()
        async with asyncio.timeout(10):
            (await waiting).finish()
        assert asyncio.get_running_loop().time() - answered >= 1.0


@pytest.mark.asyncio
async def test_a_clock_that_is_set_back_holds_nobody_up(store):
    """A failover to a server whose clock is behind: nothing counts for an hour."""
    async with limiter_on(store, limit=2, window=0.3, lease=0.5) as limiter:
        async with limiter_on(store, limit=2, window=0.3, lease=0.5) as other:
            limiter.pause(0.0001)
            for _ in range(2):
                (await limiter.acquire()).finish()
            left = asyncio.create_task(other.acquire())  # it counts as one who waits
            await asyncio.sleep(0.05)
            left.cancel()
            await asyncio.wait([left])
        store.set_clock_back(3600.0)
        async with asyncio.timeout(10):
            for _ in range(4):
                (await limiter.acquire()).finish()
        assert not limiter.alone


@pytest.mark.asyncio
async def test_without_a_share_nothing_is_sent_without_the_store(store):
    """And the error says so: it may be tried again."""
    async with limiter_on(store, share=0.0) as limiter:
        (await limiter.acquire()).finish()
        store.crash()
        with pytest.raises(KieConnectionError, match="nothing was sent") as caught:
            await limiter.acquire()

    assert caught.value.sent is False


@pytest.mark.asyncio
async def test_a_flushed_store_costs_one_burst_at_most(store):
    """And scripts that were forgotten are sent again."""
    async with limiter_on(store, limit=5, window=30.0) as limiter:
        for _ in range(5):
            (await limiter.acquire()).finish()
        store.forget()
        again = [asyncio.create_task(limiter.acquire()) for _ in range(12)]
        limiter.pause(0)
        await asyncio.wait(again, timeout=1.0)
        granted = sum(task.done() for task in again)
        for task in again:
            task.cancel()
        await asyncio.wait(again)

    assert granted <= 5


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["read-only", "wrong type"])
async def test_a_store_that_refuses_is_a_store_that_is_away(store, fault):
    """A demoted master, somebody else's key."""
    store.refuse(fault)
    async with limiter_on(store, share=0.4) as limiter:
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        assert limiter.alone


@pytest.mark.asyncio
async def test_a_large_account_is_no_burden_to_the_store(store):
    """Thousands of turns in a window, and a call walks over none of them."""
    async with contextlib.AsyncExitStack() as stack:
        many = [
            await stack.enter_async_context(limiter_on(store, limit=6000, window=120.0, share=0.0))
            for _ in range(10)
        ]
        for limiter in many:
            (await limiter.acquire()).give_back()  # it is connected now

        async def one(limiter: StoreLimiter) -> None:
            for _ in range(20):
                (await limiter.acquire()).finish()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for limiter in many * 20:
                group.create_task(one(limiter))
        assert store.known() == 4000


@pytest.mark.asyncio
async def test_a_dead_process_frees_its_turns_after_its_lease(store):
    """Nobody else will."""
    async with limiter_on(store, limit=2, window=0.2, lease=0.5) as dead:
        kept = [await dead.acquire() for _ in range(2)]
        async with limiter_on(store, limit=2, window=0.2, lease=0.5) as other:
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(10):
                (await other.acquire()).finish()
            waited = asyncio.get_running_loop().time() - began
        for turn in kept:
            turn.finish()

    assert waited >= 0.6
