"""``PostgresLimiter``: the book of the turns in the database that has the journal."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, ClassVar

import psycopg

from kie_async.limiter import LIMIT, WINDOW, Ask, StoreLimiter
from kie_async.postgres._book import CALL, NAME, SCHEMA, TABLES
from kie_async.postgres._connect import Place

__all__ = ["PostgresLimiter"]

_LOCK = 0x4B494542  # of making the tables

# `_book` says why a call does not wait for the disk.  A process that is stopped while it
# makes the tables holds nobody up.
_SETTINGS = """
SELECT set_config('synchronous_commit', 'off', false),
    set_config('idle_in_transaction_session_timeout', '5s', false),
    set_config('default_transaction_isolation', 'read committed', false)
"""


class PostgresLimiter(StoreLimiter):
    """At most *limit* turns in any *window* for all processes together, each in its order.

    What `RedisLimiter` promises, without a Redis: the server's clock, equal shares while
    all wait, and a share of the limit for each process while the server is away.

    Args:
        url: ``postgresql://user@host/database``, or any libpq connection string.
        account: Names the account; all who share its limit say the same.  Not the key.
        limit: Turns per window.
        window: Seconds.
        share: Of the limit, for this process while the server is away: 1 / processes.
            With 0 nothing is sent without it.
        lease: Seconds after which a turn of a process that died is taken to be answered;
            more than a request may take.

    Raises:
        UsageError: A setting cannot work.
    """

    _patience: ClassVar[float] = 1.0

    def __init__(
        self,
        url: str,
        account: str,
        *,
        limit: int = LIMIT,
        window: float = WINDOW,
        share: float = 0.1,
        lease: float = 35.0,
    ) -> None:
        """Connect to nothing yet."""
        super().__init__(account, limit=limit, window=window, share=share, lease=lease)
        self._account = account
        self._place = Place(url, SCHEMA)
        self._conn: psycopg.AsyncConnection[Any] | None = None

    async def _book(self, ask: Ask) -> tuple[int, float]:
        # A call that is cancelled asks the server to cancel too, and waits for that; one
        # that hangs would make us wait for seconds.  So it is cut off.
        calling = asyncio.get_running_loop().create_task(self._asked(ask))
        try:
            return await asyncio.shield(calling)
        except BaseException:
            while not calling.done():
                calling.cancel()
                await asyncio.wait([calling], timeout=0.02)
            with contextlib.suppress(BaseException):
                calling.result()
            await self._let_go()
            raise

    async def _asked(self, ask: Ask) -> tuple[int, float]:
        if self._conn is None:
            self._conn = await self._connected()
        cursor = await self._conn.execute(
            CALL,
            (
                self._account,
                self._limit,
                _micro(self._span),
                _micro(self._lease),
                ask.process,
                ask.call,
                ask.wanted,
                _micro(ask.pause),
                list(ask.finished),
                list(ask.returned),
                [name for name, _ in ask.restored],
                [_micro(left) for _, left in ask.restored],
                list(ask.numbers),
            ),
        )
        row = await cursor.fetchone()
        assert row is not None  # noqa: S101 - reason: for the type checker
        return int(row[0]), row[1] / 1e6

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        settings = self._place.settings
        conn = await psycopg.AsyncConnection.connect(**settings, autocommit=True)
        try:
            await conn.execute(_SETTINGS)
            found = await (await conn.execute("SELECT to_regproc(%s)", (NAME,))).fetchone()
            if found == (None,):
                async with conn.transaction():
                    await conn.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                    await conn.execute(TABLES)
        except BaseException:
            await conn.close()
            raise
        return conn

    async def _let_go(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)
