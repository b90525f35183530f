"""The one thread that writes: everybody who waits shares one synced commit.

Callers on the event loop leave their record and await a future.  What gathered while the
disk was busy goes into the next commit together.  Without a durable commit nobody is told
that his record is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from kie_async.errors import JournalError, KieError, StorageFullError
from kie_async.journal._opening import Opened, foreign_error

__all__ = ["Writer"]

logger = logging.getLogger("kie_async.journal")


class Write(NamedTuple):
    """A record on its way to the disk."""

    name: str
    run: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any] | None  # None: nobody waits for it
    intent: bool  # refused once the disk was full; everything else is an outcome
    undo: Callable[[Any], None] | None = None  # for a result that nobody took


_Batch = list[Write]


class Writer:
    """Takes records on the loop, commits them on a thread, answers on the loop.

    Args:
        opened: The connection and what belongs to it; the writer closes it.
        path: For messages.
        loop: The loop that its callers run on.
    """

    def __init__(self, opened: Opened, path: Path, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        self._opened = opened
        self._path = path
        self._loop = loop
        self._gathered: _Batch = []
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._full = False
        self._broken: str | None = None
        self._closed = loop.create_future()
        # A daemon: a journal that was never closed must not keep the process alive, and
        # stopping in the middle of a commit is what a journal is for.
        thread = threading.Thread(target=self._serve, name="kie-journal", daemon=True)
        thread.start()

    def submit(
        self,
        name: str,
        run: Callable[[sqlite3.Connection], Any],
        *,
        intent: bool = False,
        undo: Callable[[Any], None] | None = None,
    ) -> asyncio.Future[Any]:
        """Queue a record; the future is done when it is durable, or was refused.

        Cancelling the future does not take the record back: *undo* is called with its
        result, on the loop, so that the caller can.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._gather(Write(name, run, future, intent, undo))
        return future

    def send(self, name: str, run: Callable[[sqlite3.Connection], Any]) -> None:
        """Queue a record that nobody waits for; if it fails, that is logged."""
        self._gather(Write(name, run, None, intent=False))

    def _gather(self, write: Write) -> None:
        # One loop turn later, so that all callers of this turn share the commit.
        if not self._gathered:
            self._loop.call_soon(self._flush)
        self._gathered.append(write)

    def _flush(self) -> None:
        if self._gathered:
            self._queue.put(self._gathered)
            self._gathered = []

    async def close(self) -> None:
        """Write what was queued, put everything into the main file, and let go of it.

        A last record must have been awaited before: with it, all undoing is queued.
        """
        self._flush()
        self._queue.put(None)
        await asyncio.shield(self._closed)

    # From here on: the thread.

    def _serve(self) -> None:
        closing = False
        while not closing:
            batch = self._queue.get()
            closing = batch is None
            writes = list(batch or ())
            with contextlib.suppress(Empty):
                while not closing:
                    more = self._queue.get_nowait()
                    closing = more is None
                    writes += more or ()
            if writes:
                self._tell(list(zip(writes, self._commit(writes), strict=True)))
        self._finish()
        self._on_loop(self._tell_closed)

    def _tell(self, answers: list[tuple[Write, Any]]) -> None:
        for write, answer in answers:
            if write.future is None and isinstance(answer, BaseException):
                logger.warning("the journal could not keep %s: %s", write.name, answer)
        self._on_loop(_settle, answers)

    def _tell_closed(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone, and so are the callers
            self._loop.call_soon_threadsafe(call, *args)

    def _commit(self, batch: _Batch) -> list[Any]:
        """Write a batch in one transaction; return each one's result or error."""
        if self._broken is not None:
            return [JournalError(self._broken) for _ in batch]
        try:
            return self._transaction(batch)
        except Exception as exc:  # noqa: BLE001 - reason: a caller waits for each answer
            self._roll_back()
            return self._after_failure(batch, exc)

    def _transaction(self, batch: _Batch) -> list[Any]:
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

    def _after_failure(self, batch: _Batch, exc: Exception) -> list[Any]:
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
        return [self._commit([write])[0] for write in batch]  # one was bad: the others are not

    def _with_ballast(self, batch: _Batch) -> list[Any]:
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

    def _finish(self) -> None:
        opened = self._opened
        if opened.fault is not None:
            opened.fault("close.checkpoint")
        opened.close()


def _settle(answers: list[tuple[Write, Any]]) -> None:
    for write, answer in answers:
        future, failed = write.future, isinstance(answer, BaseException)
        if future is None:
            continue
        if future.cancelled():
            if write.undo is not None and not failed:
                write.undo(answer)
        elif failed:
            future.set_exception(answer)
        else:
            future.set_result(answer)
