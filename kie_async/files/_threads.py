"""Blocking file work beside the event loop, never left half done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from kie_async.files._part import Part

__all__ = ["Writer", "in_thread"]

T = TypeVar("T")

BLOCK = 2**20
"""Bytes written in one hop to a thread: hops cost, and a block is held in memory twice."""


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """Do *work* in a thread; a cancellation is answered when the work is at its end.

    A thread cannot be stopped, and whoever closes the file must not do it under its hands.
    """
    return await _finished(asyncio.get_running_loop().run_in_executor(None, work, *args))


async def _finished(future: asyncio.Future[T]) -> T:
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:  # once more: it is under way already
                continue
        if not future.cancelled():
            future.exception()  # looked at, so that the loop does not complain
        raise


class Writer:
    """Gathers chunks to blocks and writes one while the next one comes in.

    After a failed write nothing more is written: what is there stays a beginning.
    """

    def __init__(self, part: Part) -> None:
        """Take the open part."""
        self._part = part
        self._block = bytearray()
        self._under_way: asyncio.Future[None] | None = None

    async def write(self, chunk: bytes) -> None:
        """Take *chunk*; it may reach the file later, at the latest in `flush`."""
        self._block += chunk
        if len(self._block) >= BLOCK:
            await self._settle()
            self._begin()

    async def flush(self) -> None:
        """Bring all to the file; a cancellation is answered after that."""
        await self._settle()
        if self._block:
            self._begin()
            await self._settle()

    def _begin(self) -> None:
        block, self._block = self._block, bytearray()
        loop = asyncio.get_running_loop()
        self._under_way = loop.run_in_executor(None, self._part.append, block)

    async def _settle(self) -> None:
        """Wait for the block under way."""
        future, self._under_way = self._under_way, None
        if future is None:
            return
        try:
            await _finished(future)
        except BaseException:
            # A cancellation hides how the write ended, and a block behind one that is
            # missing would make a hole.
            if future.cancelled() or future.exception() is not None:
                self._block.clear()
            raise
