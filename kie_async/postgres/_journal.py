"""``PostgresJournal``: the journal of a run that several machines work on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import psycopg

from kie_async.errors import JournalError, KieError, UsageError
from kie_async.journal._recording import Recording
from kie_async.journal._records import HEAD, Row
from kie_async.journal._sql import Connection
from kie_async.journal._values import PlannedItem
from kie_async.journal._writer import Writer
from kie_async.postgres._commits import Commits
from kie_async.postgres._connect import Place, in_line, lost
from kie_async.postgres._schema import check_run, enter, prepare
from kie_async.postgres._sql import Records

__all__ = ["PostgresJournal"]

T = TypeVar("T")

_DEAD = (
    "UPDATE lease SET ended_at = ? WHERE ended_at IS NULL AND id <> ? "
    "AND seen_at < clock_timestamp() - make_interval(secs => ?)"
)
_ORPHANS = HEAD + (
    "FROM items AS i JOIN attempts AS a ON a.item = i.seq AND a.number = i.attempts "
    "JOIN lease AS l ON l.id = a.lease "
    "WHERE i.state = 'sending' AND i.state <> 'planned' AND l.ended_at IS NOT NULL "
    "FOR UPDATE OF i"
)
# One that was taken for dead and lives says so again.
_BEAT = "UPDATE lease SET seen_at = clock_timestamp(), ended_at = NULL WHERE id = ?"


class PostgresJournal(Recording):
    """A journal in PostgreSQL, which any number of processes write at once.

    It keeps what `Journal` keeps, in the same tables, under the same rules; each run has a
    schema of its own.  A process shows by a heartbeat that it lives.  The creates of one
    that has not been seen for *lease* seconds are put in doubt by `recover`, and if it was
    only slow, its records are taken all the same.

    Through a restart of the server records wait; whether one that was under way has been
    written is asked, not guessed.

    Args:
        url: ``postgresql://user@host/database``, or any libpq connection string.  A pooler
            in between must keep a session on one server connection.
        run: The name of the run: a small letter, then small letters, digits or ``_``.
        create: Make the tables if there are none.
        read_only: Only look.
        lease: Seconds without a sign of life after which a process counts as dead.
        patience: Seconds to wait for a server that is away; then records are refused.  On
            opening, one that starts is waited for as long, one that is not there for 5 s.
        clock: Returns Unix seconds.

    Raises:
        UsageError: *url*, *run* or a number cannot work.
        JournalTooNewError: On opening: a later version of this package made the tables.
        JournalError: On opening: the server cannot be reached, or refuses.
    """

    def __init__(
        self,
        url: str,
        run: str = "run",
        *,
        create: bool = True,
        read_only: bool = False,
        lease: float = 30.0,
        patience: float = 60.0,
        clock: Callable[[], float] = time.time,
        _fault: Callable[[str], None] | None = None,
    ) -> None:
        """Open nothing yet."""
        if not lease > 0 or not patience >= 0:
            raise UsageError("lease must be more than 0 seconds, and patience 0 or more")
        self.run = run
        self.place = Place(url, check_run(run))
        super().__init__(self.place.name, read_only=read_only, clock=clock)
        self._create = create and not read_only
        self._dead_after = lease
        self._patience = patience
        self._fault = _fault
        self._conn: psycopg.Connection[Any] | None = None
        self._commits: Commits | None = None
        self._beat: asyncio.TimerHandle | None = None
        self._away: tuple[float, KieError] | None = None  # when the reader failed last, and how
        self._ending = threading.Event()

    def _open_here(self, loop: asyncio.AbstractEventLoop) -> None:
        self._away, self._ending = None, threading.Event()
        began, refused = time.monotonic(), 0
        while self._conn is None:
            patience, error = 0.0, None
            try:
                self._conn = self._entered()
            except psycopg.Error as exc:
                error = self.place.error(exc)
                if isinstance(exc, psycopg.OperationalError):
                    patience, refused = self.place.patience(refused, self._patience)
            if error is not None:
                if time.monotonic() - began >= patience:
                    raise error  # out here: the frames of psycopg's hold the password
                time.sleep(0.1)  # on the reader's own thread
        if not self.read_only:
            self._commits = Commits(self.place, patience=self._patience, fault=self._fault)
            self._writer = Writer(self._commits, loop)
            loop.call_soon_threadsafe(self._live)

    def _entered(self) -> psycopg.Connection[Any]:
        """Return a connection to the tables, with a lease of this process in them."""
        conn = self.place.connect()
        try:
            journal_id = self._prepare(conn)
            if not self.read_only:
                self._own(journal_id, enter(conn, self._clock()))
        except BaseException:
            conn.close()
            raise
        return conn

    def _prepare(self, conn: psycopg.Connection[Any]) -> str:
        """See that the tables are there; return the journal's id."""
        return prepare(conn, self.place.schema, create=self._create)

    @staticmethod
    def _own_connection(conn: Connection) -> psycopg.Connection[Any]:
        """Return what is behind the connection that a record is given."""
        assert isinstance(conn, Records)  # noqa: S101 - reason: for the type checker
        return conn.conn

    def _live(self) -> None:
        """Show a sign of life, and again in a third of the lease."""
        writer, loop = self._writer, self._loop
        if writer is None or loop is None or self._executor is None:
            return
        writer.send("beat", lambda conn: conn.execute(_BEAT, (self._lease,)) and None)
        self._beat = loop.call_later(self._dead_after / 3, self._live)

    async def close(self) -> None:
        """Write what is queued, end the lease and let go.  Harmless when repeated."""
        if self._beat is not None:
            self._beat.cancel()
        self._ending.set()
        if self._commits is not None:
            self._commits.hurry()
        await super().close()

    def _close_reader(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            conn.close()

    def _ask(self, question: Callable[[Connection], T], asked: float) -> T:
        pause = 0.05
        while not self._is_over(asked):
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = None
                    self._conn = self.place.connect()
                answer = question(Records(self._conn, locking=False))
            except psycopg.Error as exc:
                error, away = self.place.error(exc), lost(self._conn, exc)
            else:
                self._away = None
                return answer
            self._away = (time.monotonic(), error) if away else None
            if not away:
                raise error  # out here: the frames of psycopg's hold the password
            left = asked + self._patience - time.monotonic()
            self._ending.wait(max(0.0, min(pause, left)))  # on the reader's own thread
            pause = min(pause * 2, 2.0)
        assert self._away is not None  # noqa: S101 - reason: for the type checker
        raise JournalError(self._away[1].message, retryable=True)

    def _is_over(self, asked: float) -> bool:
        """True if this question has waited long enough for a server that is away.

        It has if another one failed meanwhile: those who queue do not try one by one.
        """
        if self._away is None or self._away[0] < asked:
            return False
        return self._ending.is_set() or time.monotonic() - asked >= self._patience

    def _plan_chunk(
        self, conn: Connection, *, items: Sequence[PlannedItem], now: float
    ) -> list[str]:
        # Rows are numbered in their order: those who plan at the same time queue here.
        with in_line(self._own_connection(conn)):
            conn.execute("LOCK TABLE ids IN SHARE ROW EXCLUSIVE MODE")
        return super()._plan_chunk(conn, items=items, now=now)

    def _orphans(self, conn: Connection) -> Sequence[Row]:
        conn.execute(_DEAD, (self._clock(), self._lease, self._dead_after))
        return conn.execute(_ORPHANS).fetchall()
