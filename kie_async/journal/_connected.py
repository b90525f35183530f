"""A journal's two connections and their threads: opening, closing, asking, telling.

It knows nothing of items, and not what kind of database it is: `Questions` reads them,
`Recording` writes them, and `Journal` knows its file.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from kie_async.errors import JournalError, WrongLoopError
from kie_async.journal import _records
from kie_async.journal._records import Row
from kie_async.journal._sql import Connection
from kie_async.journal._writer import Writer

__all__ = ["Connected"]

P = ParamSpec("P")
T = TypeVar("T")


class Connected(ABC):
    """The part of every journal that is alike for all its tables."""

    def __init__(self, name: str, *, read_only: bool, clock: Callable[[], float]) -> None:
        """Open nothing yet; *name* is for messages."""
        self.read_only = read_only
        self._named = name
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._undoing: asyncio.Task[None] | None = None
        self._writer: Writer | None = None
        self._lease = 0
        self._journal_id = ""
        self._polls: dict[str, int] = {}

    # -- what each kind of journal does its own way -----------------------------------------

    @abstractmethod
    def _open_here(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the connections, on the reader's thread; enter the lease."""

    @abstractmethod
    def _close_reader(self) -> None:
        """Close the reader's connection, on its thread."""

    @abstractmethod
    def _ask(self, question: Callable[[Connection], T], asked: float) -> T:
        """Ask *question* on the reader's thread; the database's errors become ours.

        *asked* is when somebody wanted to know, by ``time.monotonic()``: he may have stood
        in the thread's queue since.
        """

    @abstractmethod
    def _orphans(self, conn: Connection) -> Sequence[Row]:
        """Return the heads of creates under way whose owner is dead."""

    # -- what all of them do alike -----------------------------------------------------------

    @classmethod
    async def open(cls, *where: Any, **options: Any) -> Self:
        """Return an open journal; takes what the class takes.  Close it with `close`."""
        journal = cls(*where, **options)
        del where, options  # an address has a password, and a traceback shows variables
        return await journal.__aenter__()

    async def __aenter__(self) -> Self:
        """Check what is there, and open it."""
        if self._executor is not None:
            raise JournalError(f"{self._named} is open already")
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="kie-journal-reader")
        opening = self._loop.run_in_executor(self._executor, self._open_here, self._loop)
        try:
            await asyncio.shield(opening)
        except BaseException:
            # A thread cannot be stopped: let it come to its end, then undo what it did.  Who
            # is cancelled again does not wait for that, and it is done all the same.
            self._undoing = asyncio.ensure_future(self._undo(opening))
            await asyncio.wait([self._undoing])
            raise
        return self

    async def _undo(self, opening: asyncio.Future[None]) -> None:
        await asyncio.wait([opening])
        if not opening.cancelled() and opening.exception() is None:
            await self.close()
        elif self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

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
        await loop.run_in_executor(executor, self._close_reader)
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
            warnings.warn(f"journal {self._named} was not closed", ResourceWarning, stacklevel=2)

    def _writing(self) -> Writer:
        """Return the writer, if this call may use it."""
        self._check_open()
        if self._writer is None:
            raise JournalError(f"{self._named} was opened read-only")
        return self._writer

    async def _read(
        self,
        question: Callable[Concatenate[Connection, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Ask the reader's thread."""
        self._check_open()
        assert self._loop is not None  # noqa: S101 - reason: for the type checker
        return await self._loop.run_in_executor(
            self._executor,
            self._ask,
            lambda conn: question(conn, *args, **kwargs),
            time.monotonic(),
        )

    def _own(self, journal_id: str, lease: int) -> None:
        """Remember, for as long as the process lives, that this lease was its own."""
        self._journal_id, self._lease = journal_id, lease
        _leases_of_this_process.add((journal_id, lease))

    def _leases_here(self) -> frozenset[int]:
        """Return the leases on this journal that were this process's own."""
        ours = {lease for journal, lease in _leases_of_this_process if journal == self._journal_id}
        return frozenset(ours)

    def _check_open(self) -> None:
        if self._executor is None:
            raise JournalError(f"{self._named} is not open: use `async with`, or `Journal.open`")
        if asyncio.get_running_loop() is not self._loop:
            raise WrongLoopError(f"{self._named} was opened in another event loop")

    def _write_notes(self) -> None:
        """Write what nobody waits for."""
        if self._polls and self._writer is not None:
            polls, self._polls = self._polls, {}
            self._writer.send("note_polls", lambda conn: _records.record_polls(conn, polls))


_leases_of_this_process: set[tuple[str, int]] = set()
