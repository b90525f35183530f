"""Tells whoever listens, later and elsewhere: a listener can stop nobody.

`deliver` only posts.  A bell rings in the event loop that it belongs to; a plain
function runs in a thread of its own, a coroutine function in a task of its own, with a
deadline.  Each has a bounded line; what does not fit is dropped and counted, because a
callback is a doorbell and polling finds what it missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol, cast

from kie_async.callbacks._event import CallbackEvent
from kie_async.instrumentation import logger

__all__ = ["Listener", "Listeners"]

Listener = Callable[[CallbackEvent], None] | Callable[[CallbackEvent], Awaitable[None]]
BACKLOG = 10_000
"""Events that wait for one listener: two minutes of the fastest account, and more."""


class _Line(Protocol):
    def post(self, event: CallbackEvent) -> bool:
        """Take an event without waiting; False if the line is full or closed."""

    def close(self) -> None:
        """Take no more."""


class Listeners:
    """Everybody who wants to know of callbacks.  Any thread may deliver."""

    def __init__(self, timeout: float) -> None:
        """A coroutine listener has *timeout* seconds for each event."""
        self._timeout = timeout
        self._lines: tuple[_Line, ...] = ()
        self._lock = threading.Lock()
        self.dropped = 0

    def add_bell(self, ring: Callable[[CallbackEvent], None]) -> Callable[[], None]:
        """Let *ring* be called in the running loop; return what takes it away."""
        return self._add(_Bell(asyncio.get_running_loop(), ring))

    def add(self, listener: Listener) -> Callable[[], None]:
        """Add a user's listener; return what takes it away."""
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(
            getattr(listener, "__call__", None)  # noqa: B004 - an object whose call is async
        ):
            slow = cast("Callable[[CallbackEvent], Awaitable[None]]", listener)
            return self._add(_TaskLine(asyncio.get_running_loop(), slow, self._timeout))
        return self._add(_ThreadLine(cast("Callable[[CallbackEvent], None]", listener)))

    def deliver(self, event: CallbackEvent) -> None:
        """Post *event* to everybody; returns at once and raises nothing."""
        for line in self._lines:
            if not line.post(event):
                if self.dropped % 1000 == 0:  # the log is not to be flooded as well
                    logger.warning("a listener to callbacks is gone or too slow: it misses some")
                self.dropped += 1

    def ring(self, event: CallbackEvent) -> None:
        """Post *event* to the bells only."""
        for line in self._lines:
            if isinstance(line, _Bell):
                line.post(event)

    def close(self) -> None:
        """Let everybody go."""
        with self._lock:
            lines, self._lines = self._lines, ()
        for line in lines:
            line.close()

    def _add(self, line: _Line) -> Callable[[], None]:
        def remove() -> None:
            with self._lock:
                self._lines = tuple(other for other in self._lines if other is not line)
            line.close()

        with self._lock:
            self._lines = (*self._lines, line)
        return remove


class _Bell:
    """Rings in its loop."""

    __slots__ = ("_loop", "_ring")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ring: Callable[[CallbackEvent], None]
    ) -> None:
        self._loop = loop
        self._ring: Callable[[CallbackEvent], None] | None = ring

    def post(self, event: CallbackEvent) -> bool:
        try:
            self._loop.call_soon_threadsafe(self._rung, event)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def close(self) -> None:
        self._ring = None

    def _rung(self, event: CallbackEvent) -> None:
        if self._ring is not None:
            with _contained():
                self._ring(event)


class _TaskLine:
    """Awaits a listener, one event after another, in a task that ends when idle."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Callable[[CallbackEvent], Awaitable[None]],
        timeout: float,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._timeout = timeout
        self._events: deque[CallbackEvent] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def post(self, event: CallbackEvent) -> bool:
        if self._closed or len(self._events) >= BACKLOG:
            return False
        self._events.append(event)
        try:
            self._loop.call_soon_threadsafe(self._begin)
        except RuntimeError:  # the loop is closed
            return False
        return True

    def close(self) -> None:
        self._closed = True
        self._events.clear()
        with contextlib.suppress(RuntimeError):  # the loop is closed, and its tasks with it
            self._loop.call_soon_threadsafe(self._stop)

    def _begin(self) -> None:
        if self._task is None and self._events:
            self._task = self._loop.create_task(self._drain())

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _drain(self) -> None:
        try:
            while self._events:
                event = self._events.popleft()
                with _contained():
                    async with asyncio.timeout(self._timeout):
                        await self._listener(event)
        finally:
            self._task = None


class _ThreadLine:
    """Calls a listener in a thread of its own, which is made for the first event.

    The thread is a daemon: a listener that never returns cannot hold up the end of the
    process either.
    """

    def __init__(self, listener: Callable[[CallbackEvent], None]) -> None:
        self._listener = listener
        self._events: deque[CallbackEvent] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, event: CallbackEvent) -> bool:
        with self._changed:
            if self._closed or len(self._events) >= BACKLOG:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="kie-callbacks", daemon=True)
                try:
                    thread.start()  # it waits for us to leave the lock
                except RuntimeError:  # the system has none left: the next event asks again
                    return False
                self._thread = thread
            self._events.append(event)
            self._changed.notify()
        return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._events.clear()
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._events and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                event = self._events.popleft()
            with _contained():
                self._listener(event)


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Log what a listener raises; only what is meant for us, or for the process, passes."""
    try:
        yield
    except TimeoutError:
        logger.error("a listener took too long over a callback")
    except BaseException as error:
        if _is_for_all(error):
            raise
        logger.exception("a listener failed on a callback")


def _is_for_all(error: BaseException) -> bool:
    """True for an exit of the process, and for a cancellation of the task that we are."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a listener's thread: it ends with its line, and not before
        return False
    if isinstance(error, asyncio.CancelledError):
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | SystemExit)
