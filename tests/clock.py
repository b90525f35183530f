"""A clock that jumps: an event loop that never sleeps.

When nothing is ready, the loop's time moves straight to its next timer, so an hour of
back-off takes a millisecond.  Never for real sockets: a loop with nothing but a socket to
wait for would jump over its own deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at the sockets, and skips the time it was asked to wait."""

    skipped = 0.0
    held = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; count *timeout* as passed when nothing is."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.held:
            ready = super().select(5.0)  # a thread may wake us; a real hang fails loudly
            if not ready:
                raise RuntimeError("deadlock: nothing is ready and no timer is set")
        else:
            self.skipped += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, starting at 0.0 seconds."""

    def __init__(self) -> None:
        """Start the clock at zero."""
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumps.skipped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass inside: somebody waits for a real thread."""
        self._jumps.held += 1
        try:
            yield
        finally:
            self._jumps.held -= 1


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


def run_jumping(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* to its end in virtual time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def jumping(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test in virtual time: it becomes a plain test for pytest."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_jumping(test(*args, **kwargs))

    return run
