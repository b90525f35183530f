"""How a batch of records becomes durable in the SQLite file, and what a full disk means."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kie_async.errors import JournalError, KieError, StorageFullError
from kie_async.journal._opening import Opened, foreign_error
from kie_async.journal._writer import Write

__all__ = ["FileCommits"]

logger = logging.getLogger("kie_async.journal")


class FileCommits:
    """One transaction for each batch, on the writer's thread.

    Args:
        opened: The connection and what belongs to it; closed here.
        path: For messages.
    """

    def __init__(self, opened: Opened, path: Path) -> None:
        """Write nothing yet."""
        self._opened = opened
        self._path = path
        self._full = False
        self._broken: str | None = None

    def commit(self, batch: Sequence[Write]) -> list[Any]:
        """Write a batch in one transaction; return each one's result or error."""
        if self._broken is not None:
            return [JournalError(self._broken) for _ in batch]
        try:
            return self._transaction(batch)
        except Exception as exc:  # noqa: BLE001 - reason: a caller waits for each answer
            self._roll_back()
            return self._after_failure(batch, exc)

    def _transaction(self, batch: Sequence[Write]) -> list[Any]:
        conn, fault = self._opened.conn, self._opened.fault
        conn.execute("BEGIN IMMEDIATE")
        answers = [self._answer(write) for write in batch]
        conn.execute("UPDATE progress SET commits = commits + 1")
        if fault is not None:
            for write in batch:
                fault(f"{write.name}.before_commit")
        conn.execute("COMMIT")
        self._opened.commits += 1
        with contextlib.suppress(OSError):  # it may only lag behind
            self._opened.lease.record(self._opened.journal_id, self._opened.commits)
        if fault is not None:
            for write in batch:
                fault(f"{write.name}.after_commit")
        return answers

    def _answer(self, write: Write) -> Any:
        if write.intent and self._full:
            return self._no_room()
        try:
            return write.run(self._opened.conn)
        except KieError as exc:
            return exc  # it refused before it wrote anything

    def _after_failure(self, batch: Sequence[Write], exc: Exception) -> list[Any]:
        """Save what can be saved after a rollback."""
        if not isinstance(exc, sqlite3.Error):
            error: KieError = JournalError(f"{self._path}: {type(exc).__name__}: {exc}")
        else:
            error = foreign_error(exc, self._path)
        if isinstance(error, StorageFullError):
            return self._with_ballast(batch)
        name = getattr(exc, "sqlite_errorname", None) or ""
        if name.startswith(("SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_READONLY")):
            # After a failed sync nobody knows what is on the disk, and a second sync may
            # lie: stop, and let the next start find out from the file.
            self._broken = f"{error.message}; nothing more is written: open the journal again"
            return [type(error)(self._broken) for _ in batch]
        if error.retryable or len(batch) == 1:
            return [type(error)(error.message, retryable=error.retryable) for _ in batch]
        return [self.commit([write])[0] for write in batch]  # one was bad: the others are not

    def _with_ballast(self, batch: Sequence[Write]) -> list[Any]:
        """Free the reserve and write the outcomes; refuse intents from now on."""
        self._full = True
        self._opened.ballast.drop()
        logger.error("%s: the disk is full; only outcomes are written now", self._path)
        try:
            return self._transaction(batch)
        except Exception:  # noqa: BLE001 - reason: a caller waits for each answer
            self._roll_back()
            return [self._no_room() for _ in batch]

    def _no_room(self) -> StorageFullError:
        return StorageFullError(
            f"{self._path}: the disk is full; free some space, then start again: it goes on"
        )

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._opened.conn.in_transaction:
                self._opened.conn.execute("ROLLBACK")

    def close(self) -> None:
        """Put everything into the main file, and let go of it."""
        opened = self._opened
        if opened.fault is not None:
            opened.fault("close.checkpoint")
        opened.close()
