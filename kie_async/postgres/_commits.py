"""How a batch of records becomes durable in PostgreSQL, through restarts of the server.

A connection may break between COMMIT and its answer.  Then nobody here knows whether the
records are there; the server does: a transaction that wrote has a number, and the status
of a number can be asked for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from kie_async.errors import JournalError, KieError
from kie_async.journal._writer import Write
from kie_async.postgres._connect import AWAY, HASTY, Place, lost, wait_for_locks
from kie_async.postgres._sql import Records

__all__ = ["Commits"]

logger = logging.getLogger("kie_async.postgres")

LONGEST = 2.0
"""Seconds between two attempts to reach the server, at most."""


class Commits:
    """One transaction for each batch, on the writer's thread.

    Args:
        place: Where the server is.
        patience: Seconds to wait for a server that is away before records are refused.
        fault: Told where a test may pull the plug.
    """

    def __init__(
        self, place: Place, *, patience: float, fault: Callable[[str], None] | None = None
    ) -> None:
        """Connect at the first batch."""
        self._place = place
        self._patience = patience
        self._fault = fault
        self._conn: psycopg.Connection[Any] | None = None
        self._backend = 0
        self._number: str | None = None  # of the transaction whose COMMIT was sent
        self._told: list[Any] = []
        self._away_since: float | None = None
        self._ending = threading.Event()

    def hurry(self) -> None:
        """Wait for no server any more: the journal closes.  Callable from any thread."""
        self._ending.set()

    def commit(self, batch: Sequence[Write]) -> Sequence[Any]:
        """Write a batch in one transaction; return each one's result or error."""
        return self._committed(batch)

    def _committed(self, batch: Sequence[Write], *, hasty: bool = False) -> Sequence[Any]:
        pause = 0.05
        while True:
            try:
                answers = self._settled(batch, hasty)
            except Exception as exc:  # noqa: BLE001 - reason: a caller waits for each answer
                if not lost(self._conn, exc):
                    return self._refused(batch, exc)
                if not self._wait(pause, exc):
                    return self._give_up(batch, exc)
                pause = min(pause * 2, LONGEST)
            else:
                if self._away_since is not None:
                    logger.warning("%s is back", self._place.name)
                    self._away_since = None
                return answers

    def _settled(self, batch: Sequence[Write], hasty: bool) -> list[Any]:
        if self._conn is None or self._conn.closed:
            self._conn = None
            self._conn = self._place.connect()
            if self._number is not None and self._is_committed(self._conn, self._number):
                self._number = None
                return self._told
            self._backend = self._conn.info.backend_pid
        self._number = None
        return self._transaction(self._conn, batch, hasty)

    def _transaction(
        self, conn: psycopg.Connection[Any], batch: Sequence[Write], hasty: bool
    ) -> list[Any]:
        conn.execute("BEGIN")
        if hasty:
            wait_for_locks(conn, HASTY)
        records = Records(conn, locking=True)
        answers = [_answer(write, records) for write in batch]
        found = conn.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
        self._reach(batch, "before_commit")
        self._told, self._number = answers, found[0] if found is not None else None
        conn.execute("COMMIT")
        self._number = None
        self._reach(batch, "after_commit")
        return answers

    def _is_committed(self, conn: psycopg.Connection[Any], number: str) -> bool:
        """Ask what became of the transaction whose answer was lost."""
        # The server may not have noticed yet that we are gone, and hold its rows.
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid = %s AND application_name = current_setting('application_name')",
            (self._backend,),
        )
        status = "in progress"
        while status == "in progress":
            try:
                row = conn.execute("SELECT pg_xact_status(%s::xid8)", (number,)).fetchone()
            except psycopg.errors.InvalidParameterValue:
                return False  # a number of the future: this server never saw it
            status = row[0] if row is not None and row[0] is not None else "unknown"
            if status == "in progress":
                time.sleep(0.02)
        return status == "committed"

    def _reach(self, batch: Sequence[Write], where: str) -> None:
        if self._fault is not None:
            for write in batch:
                self._fault(f"{write.name}.{where}")

    def _wait(self, pause: float, exc: Exception) -> bool:
        """Wait a little for a server that is away; False if that has taken too long."""
        self._drop()
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            logger.warning("%s; records wait for it", self._place.error(exc).message)
        if now - self._away_since >= self._patience:
            return False
        return not self._ending.wait(pause)

    def _give_up(self, batch: Sequence[Write], exc: Exception) -> list[Any]:
        error = self._place.error(exc)
        self._number = None
        return [JournalError(error.message, retryable=True) for _ in batch]

    def _refused(self, batch: Sequence[Write], exc: Exception) -> list[Any]:
        """The server refused a record: the others of the batch are written one by one."""
        self._roll_back()
        again = isinstance(
            exc, psycopg.errors.DeadlockDetected | psycopg.errors.SerializationFailure
        )
        if len(batch) == 1 and not again:
            return [self._place.error(exc)]
        # A whole list may be held: the others of the batch have waited together with the first.
        hasty = isinstance(exc, psycopg.errors.LockNotAvailable)
        return [self._committed([write], hasty=hasty)[0] for write in batch]

    def _roll_back(self) -> None:
        if self._conn is not None and not self._conn.closed:
            try:
                self._conn.execute("ROLLBACK")
            except psycopg.Error:
                self._drop()

    def _drop(self) -> None:
        if self._conn is not None:
            with contextlib.suppress(*AWAY):
                self._conn.close()

    def close(self) -> None:
        """Let go of the server."""
        self._drop()
        self._conn = None


def _answer(write: Write, records: Records) -> Any:
    try:
        return write.run(records)
    except KieError as exc:
        return exc  # it refused before it wrote anything
