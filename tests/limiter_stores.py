"""The stores that a limiter of many processes can have, and what can happen to them."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kie_async.limiter import StoreLimiter
from kie_async.postgres import PostgresLimiter
from kie_async.redis_limiter import RedisLimiter
from tests.postgres_servers import POSTGRES, Postgres, postgres_server
from tests.redis_servers import SERVER, Server, redis_server

__all__ = ["STORES", "shown", "windows_hold"]


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
        for field in ("left", "paused"):
            client.hincrby("kie:{test}:state", field, int(micro))

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
        self._ask(
            f"UPDATE kie_limits.accounts SET last_turn = last_turn + {micro},"
            f" paused = paused + {micro}"
        )

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


def windows_hold(times: list[float], limit: int, window: float) -> bool:
    """True if no window of the book held more than the limit."""
    ordered = sorted(times)
    pairs = zip(ordered, ordered[limit:], strict=False)
    return all(later - earlier >= window for earlier, later in pairs)


async def shown(
    store, processes: int, limit: int, window: float, seconds: float, meanwhile=None
) -> list[tuple[float, str]]:
    """Let processes take turns; return the book of the server that they send to."""
    book: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()

    async def served(reader, writer):
        try:
            while line := await reader.readline():
                book.append((loop.time(), line.decode().strip()))
                writer.write(b"ok\n")
        finally:  # also when the loop ends first
            writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    account = getattr(store, "account", "test")
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.limiter_worker"),
            *(store.url, account, str(port), f"w{n}", str(limit), str(window), str(seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for n in range(processes)
    ]
    for worker in workers:
        assert await worker.stdout.readline() == b"ready\n"
    for worker in workers:
        worker.stdin.write(b"go\n")
    if meanwhile is not None:
        await meanwhile()
    codes = [await worker.wait() for worker in workers]
    server.close()
    await server.wait_closed()
    assert codes == [0] * processes
    return book
