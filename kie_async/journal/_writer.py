"""The one thread that writes: everybody who waits shares one synced commit.

Callers on the event loop leave their record and await a future.  What gathered while the
disk was busy goes into the next commit together.  Without a durable commit nobody is told
that his record is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

from kie_async.journal._sql import Connection

__all__ = ["Commits", "Write", "Writer"]

logger = logging.getLogger("kie_async.journal")


class Write(NamedTuple):
    """A record on its way to the disk."""

    name: str
    run: Callable[[Connection], Any]
    future: asyncio.Future[Any] | None  # None: nobody waits for it
    intent: bool  # refused once the disk was full; everything else is an outcome
    undo: Callable[[Any], None] | None = None  # for a result that nobody took


_Batch = list[Write]


class Commits(Protocol):
    """Makes batches durable, on the writer's thread."""

    def commit(self, batch: Sequence[Write]) -> Sequence[Any]:
        """Write a batch in one transaction; return each one's result or error."""

    def close(self) -> None:
        """Let go of the database."""


class Writer:
    """Takes records on the loop, commits them on a thread, answers on the loop.

    Args:
        commits: Makes them durable; the writer closes it.
        loop: The loop that its callers run on.
    """

    def __init__(self, commits: Commits, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread."""
        self._commits = commits
        self._loop = loop
        self._gathered: _Batch = []
        self._queue: SimpleQueue[_Batch | None] = SimpleQueue()
        self._closed = loop.create_future()
        # A daemon: a journal that was never closed must not keep the process alive, and
        # stopping in the middle of a commit is what a journal is for.
        thread = threading.Thread(target=self._serve, name="kie-journal", daemon=True)
        thread.start()

    def submit(
        self,
        name: str,
        run: Callable[[Connection], Any],
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

    def send(self, name: str, run: Callable[[Connection], Any]) -> None:
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
        """Write what was queued, and let go of the database.

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
                self._tell(list(zip(writes, self._commits.commit(writes), strict=True)))
        self._commits.close()
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
