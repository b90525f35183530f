"""A journal's two connections and their threads: opening, closing, asking, telling.

It knows nothing of items; `Questions` reads them and `Journal` records them.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from kie_async.errors import JournalError, WrongLoopError
from kie_async.journal import _records
from kie_async.journal._opening import foreign_error, open_reader, open_writer
from kie_async.journal._schema import SCHEMA, Schema
from kie_async.journal._writer import Writer

__all__ = ["Connected"]

P = ParamSpec("P")
T = TypeVar("T")


class Connected:
    """The part of `Journal` that is alike for every table; see there for the arguments."""

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        full_check: bool = False,
        clock: Callable[[], float] = time.time,
        _schema: Schema = SCHEMA,
        _fault: Callable[[str], None] | None = None,
    ) -> None:
        """Open nothing yet.  ``_fault`` is told where a test may pull the plug."""
        self.path = Path(path)
        self.read_only = read_only
        self._create = create
        self._full_check = full_check
        self._clock = clock
        self._schema = _schema
        self._fault = _fault
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._writer: Writer | None = None
        self._reader: sqlite3.Connection | None = None
        self._lease = 0
        self._journal_id = ""
        self._polls: dict[str, int] = {}

    @classmethod
    async def open(cls, path: str | Path, **options: Any) -> Self:
        """Return an open journal; takes what the class takes.  Close it with `close`."""
        return await cls(path, **options).__aenter__()

    async def __aenter__(self) -> Self:
        """Check the file, take the lock, and open it."""
        if self._executor is not None:
            raise JournalError(f"{self.path} is open already")
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kie-journal-reader")
        opening = self._loop.run_in_executor(self._executor, self._open_files)
        try:
            await asyncio.shield(opening)
        except BaseException:
            # A thread cannot be stopped: let it come to its end, then undo what it did.
            await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                await self.close()
            else:
                self._executor.shutdown(wait=False)
                self._executor = None
            raise
        return self

    def _open_files(self) -> None:
        assert self._loop is not None  # noqa: S101 - reason: for the type checker
        if not self.read_only:
            opened = open_writer(
                self.path,
                create=self._create,
                full_check=self._full_check,
                schema=self._schema,
                now=self._clock(),
                fault=self._fault,
            )
            try:
                self._reader = open_reader(self.path, self._schema, check=False)
            except BaseException:
                opened.close()
                raise
            self._lease = opened.lease_id
            self._journal_id = opened.journal_id
            _leases_of_this_process.add((opened.journal_id, opened.lease_id))
            self._writer = Writer(opened, self.path, self._loop)
        else:
            self._reader = open_reader(self.path, self._schema, check=True)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def close(self) -> None:
        """Write what is queued, end the lease and let go.  Harmless when repeated."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        closing = asyncio.ensure_future(self._close(executor))
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            await asyncio.wait([closing])  # takes as long as one commit
            raise

    async def _close(self, executor: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        reader, self._reader = self._reader, None
        if reader is not None:
            await loop.run_in_executor(executor, reader.close)
        executor.shutdown(wait=False)
        writer = self._writer
        if writer is not None:
            self._write_notes()
            ending = "UPDATE lease SET ended_at = ? WHERE id = ?"
            values = (self._clock(), self._lease)
            last = writer.submit("close", lambda conn: conn.execute(ending, values) and None)
            await asyncio.wait([last])
            last.exception()  # a full disk here changes nothing: the lock is what counts
            self._writer = None
            await writer.close()

    def __del__(self) -> None:
        """Complain about a journal that was left open."""
        if getattr(self, "_executor", None) is not None:
            warnings.warn(f"journal {self.path} was not closed", ResourceWarning, stacklevel=2)

    def _writing(self) -> Writer:
        """Return the writer, if this call may use it."""
        self._check_open()
        if self._writer is None:
            raise JournalError(f"{self.path} was opened read-only")
        return self._writer

    async def _read(
        self,
        question: Callable[Concatenate[sqlite3.Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Ask the reader's thread."""
        self._check_open()
        assert self._loop is not None  # noqa: S101 - reason: for the type checker
        assert self._reader is not None  # noqa: S101 - reason: for the type checker
        conn = self._reader
        try:
            return await self._loop.run_in_executor(
                self._executor, lambda: question(conn, *args, **kwargs)
            )
        except sqlite3.Error as exc:
            raise foreign_error(exc, self.path) from exc

    def _leases_here(self) -> frozenset[int]:
        """Return the leases on this journal that were this process's own."""
        ours = {lease for journal, lease in _leases_of_this_process if journal == self._journal_id}
        return frozenset(ours)

    def _check_open(self) -> None:
        if self._executor is None:
            raise JournalError(f"{self.path} is not open: use `async with`, or `Journal.open`")
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(f"{self.path} was opened in another event loop")

    def _write_notes(self) -> None:
        """Write what nobody waits for."""
        if self._polls and self._writer is not None:
            polls, self._polls = self._polls, {}
            self._writer.send("note_polls", lambda conn: _records.record_polls(conn, polls))


_leases_of_this_process: set[tuple[str, int]] = set()
