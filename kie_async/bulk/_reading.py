"""Reads a source lazily and hands out what came, in batches; it can be stopped at any time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sized
from typing import Protocol

from kie_async.bulk._items import Batch, BulkItem, Source, listed
from kie_async.instrumentation import logger
from kie_async.journal import PlannedItem

__all__ = ["Reading", "planned_batches", "reading"]

SOON = 1.0
"""Seconds that an id waits for others to be planned with: a commit for each would be dear."""
CLOSING = 5.0
"""Seconds for an async source to close itself, when it was not read to its end."""


class Reading(Protocol):
    """A source that is being read."""

    ended: bool
    """True when it was read to its end."""

    async def next(self) -> list[PlannedItem]:
        """Return the next batch, checked; empty at the end, or when reading was stopped.

        What came before an entry that cannot work, or before an error of the source, is
        returned first.

        Raises:
            UsageError: An id or a resolution cannot work; its position is in the message.
        """

    def stop(self, *, at_once: bool) -> None:
        """Read no further.

        Not *at_once*, a list whose end is in sight is read on to it: a journal that has
        all of it goes on by itself.
        """

    async def close(self) -> None:
        """Let the source go."""


def reading(source: Source, resolution: str | None, size: int) -> Reading:
    """Begin to read *source* in batches of *size*; call it where a loop runs."""
    batch = Batch(resolution, size)
    if isinstance(source, AsyncIterable):
        return _Arriving(source, batch)
    return _Listed(source, batch)


async def planned_batches(
    source: Source, resolution: str | None, size: int
) -> AsyncIterator[list[PlannedItem]]:
    """Yield the items in batches of *size* at most, checked; see :meth:`Reading.next`."""
    source_read = reading(source, resolution, size)
    try:
        while items := await source_read.next():
            yield items
    finally:
        await source_read.close()


class _Listed:
    """An iterable: it never waits, so that it is read batch by batch where it is asked for."""

    def __init__(self, source: object, batch: Batch) -> None:
        self.ended = False
        self._entries = iter(listed(source))
        self._finite = isinstance(source, Sized)
        self._batch = batch
        self._broken: Exception | None = None
        self._stopped = False

    async def next(self) -> list[PlannedItem]:
        batch = self._batch
        if self._broken is not None:
            raise self._broken
        if not self._stopped and not self.ended and not batch.whole:
            try:
                for entry in self._entries:
                    if batch.add(entry):
                        break
                else:
                    self.ended = True
            except Exception as error:
                if not batch.items:
                    raise
                self._broken = error
        return batch.take()

    def stop(self, *, at_once: bool) -> None:
        if at_once or not self._finite:
            self._stopped = True

    async def close(self) -> None:
        self._stopped = True


class _Arriving:
    """An async iterable, which may make wait: read by a task of its own, a batch ahead.

    So it is one task that runs the source from its beginning to its end, and nothing that
    waits for ids for some time only has to cancel it.
    """

    def __init__(self, source: AsyncIterable[str | BulkItem], batch: Batch) -> None:
        self.ended = False
        self._entries = aiter(source)
        self._batch = batch
        self._broken: BaseException | None = None
        self._over = False
        self._some = asyncio.Event()  # something has come, or it is over
        self._whole = asyncio.Event()  # a whole batch, or it is over
        self._room = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def next(self) -> list[PlannedItem]:
        await self._some.wait()
        if not self._whole.is_set():
            try:
                async with asyncio.timeout(SOON):
                    await self._whole.wait()
            except TimeoutError:
                pass
        items = self._batch.take()
        if self._over:
            if not items and self._broken is not None:
                raise self._broken
        else:
            self._some.clear()
            self._whole.clear()
            self._room.set()
        return items

    def stop(self, *, at_once: bool) -> None:
        del at_once  # nobody knows how long it goes on
        if not self._over:
            self._end()
            self._task.cancel()

    async def close(self) -> None:
        self.stop(at_once=True)
        _, late = await asyncio.wait([self._task], timeout=CLOSING)
        if late:
            logger.warning("the source of a run does not let itself be closed")

    def _end(self) -> None:
        self._over = True
        self._some.set()
        self._whole.set()

    async def _read(self) -> None:
        try:
            async for entry in self._entries:
                whole = self._batch.add(entry)
                self._some.set()
                if whole:
                    self._room.clear()
                    self._whole.set()
                    await self._room.wait()
                if self._batch.whole:  # still: it cannot work
                    return
            self.ended = True
        except BaseException as error:  # noqa: BLE001 - it is raised to who reads
            self._broken = None if self._over else error  # else it was stopped
        finally:
            self._end()
            await self._let_go()

    async def _let_go(self) -> None:
        """Close the source at once, and not when it is collected: it may have to give back."""
        closing = getattr(self._entries, "aclose", None)
        if closing is not None:
            try:
                await closing()
            except Exception:  # noqa: BLE001 - reason: how the run ends is decided already
                logger.exception("the source of a run failed when it was closed")
