"""The clock that jumps, as the package ships it, and what makes real threads fit to it.

Never for real sockets: a loop with nothing but a socket to wait for would jump over its
own deadlines.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from kie_async.testing import JumpingLoop, in_virtual_time, run_in_virtual_time

__all__ = ["NOW", "Held", "JumpingLoop", "WallClock", "jumping", "run_jumping"]

T = TypeVar("T")

NOW = 1_790_000_000.0
"""Seconds since 1970 at which a `WallClock` stands."""


class WallClock:
    """A wall clock that a test sets, for what is on record."""

    now = NOW

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Held:
    """Wraps a journal: its thread's work takes no virtual time."""

    def __init__(self, wrapped: Any) -> None:
        """Stand in for *wrapped*."""
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        """Return the wrapped attribute; what is awaited holds the clock."""
        found = getattr(self._wrapped, name)
        if inspect.iscoroutinefunction(found):
            return lambda *args, **kwargs: _held(found(*args, **kwargs))
        if inspect.isasyncgenfunction(found):
            return lambda *args, **kwargs: _held_each(found(*args, **kwargs))
        return found


async def _held(work: Coroutine[Any, Any, T]) -> T:
    loop = asyncio.get_running_loop()
    if not isinstance(loop, JumpingLoop):
        return await work
    with loop.held():
        return await work


async def _held_each(rows: AsyncIterator[T]) -> AsyncIterator[T]:
    while True:
        try:
            row = await _held(rows.__anext__())  # type: ignore[arg-type]  # it is a coroutine
        except StopAsyncIteration:
            return
        yield row


run_jumping = run_in_virtual_time
jumping = in_virtual_time
