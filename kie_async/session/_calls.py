"""The calls under way in a session, each with its deadline.

``asyncio.timeout`` in a context manager costs a call twelve microseconds and, while it
waits, half a kilobyte: a timer, a copy of the context, a generator.  Here all calls with
the same timeout stand in one line, in the order in which they end, with one timer for the
first.  Deadlines are exact, and the clock is the loop's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Generic, TypeVar

__all__ = ["Call", "Calls"]

T = TypeVar("T")

IDLE_LINES = 64
"""Lines that are kept without calls: a program uses few timeouts, again and again."""
SLACK = 16
"""Calls that have ended and may stand in a line, beyond as many as still run."""


class Call(Generic[T]):
    """One call of the running task; ``subject`` is what it is for.  :class:`Calls` has it."""

    __slots__ = ("before", "due", "ended", "fired", "line", "subject", "task")

    def __init__(self, subject: T, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)  # named: to look for it is a system call
        assert task is not None  # noqa: S101 - a coroutine that awaits runs in a task
        self.task: asyncio.Task[Any] = task
        self.before = task.cancelling()
        self.subject = subject
        self.line: _Line | None = None
        self.due = 0.0
        self.fired = False
        self.ended = False

    def fire(self) -> None:
        """End it: its time is over.  Safe to call again."""
        if not self.fired and not self.ended:
            self.fired = True
            self.task.cancel()

    @property
    def timed_out(self) -> bool:
        """True when :meth:`fire` has ended it, and nobody else cancelled its task."""
        return self.fired and self.task.cancelling() - 1 <= self.before


class _Line:
    """The calls with one timeout, first to last; some that have ended are still in it."""

    __slots__ = ("calls", "ended", "timeout", "timer")

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.calls: deque[Call[Any]] = deque()
        self.ended = 0
        self.timer: asyncio.TimerHandle | None = None


class Calls(Generic[T]):
    """All calls of a session in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Nothing runs yet."""
        self._loop = loop
        self._lines: dict[float, _Line] = {}
        self._untimed: set[Call[T]] = set()
        self._number = 0

    def __len__(self) -> int:
        """Return how many have begun and not ended."""
        return self._number

    def running(self) -> list[Call[T]]:
        """Return those that run now, but those whose time is over."""
        timed = (call for line in self._lines.values() for call in line.calls if not call.ended)
        return [*self._untimed, *timed]

    def begin(self, timeout: float | None, subject: T) -> Call[T]:
        """Give the running task *timeout* seconds from now; then :meth:`end` the call.

        When they are over the task is cancelled, and ``timed_out`` tells that from a
        cancellation by somebody else.
        """
        call = Call(subject, self._loop)
        self.enter(call, timeout)
        return call

    def enter(self, call: Call[T], timeout: float | None) -> None:
        """Do as :meth:`begin`, for a call that was made already."""
        self._number += 1
        if timeout is None:
            self._untimed.add(call)
            return
        line = call.line = self._line(timeout)
        call.due = self._loop.time() + timeout
        line.calls.append(call)
        if line.timer is None:
            line.timer = self._loop.call_at(call.due, self._ring, line)

    def _line(self, timeout: float) -> _Line:
        line = self._lines.get(timeout)
        if line is None:
            line = self._lines[timeout] = _Line(timeout)
        return line

    def end(self, call: Call[T]) -> None:
        """Count a call out, once, when it awaits nothing any more."""
        call.ended = True
        self._number -= 1
        if call.fired:
            call.task.uncancel()
        line = call.line
        if line is None:
            self._untimed.discard(call)
            return
        calls = line.calls
        line.ended += 1
        if calls and calls[0] is call:
            self._clear(line)
            if not calls and len(self._lines) > IDLE_LINES:
                self._drop(line)
        elif 2 * line.ended > len(calls) + SLACK:
            line.calls = deque(other for other in calls if not other.ended)
            line.ended = 0

    def _clear(self, line: _Line) -> None:
        """Take those out of the front that have ended."""
        calls = line.calls
        while calls and calls[0].ended:
            calls.popleft()
            line.ended -= 1

    def _drop(self, line: _Line) -> None:
        if line.timer is not None:
            line.timer.cancel()
        if self._lines.get(line.timeout) is line:
            del self._lines[line.timeout]

    def _ring(self, line: _Line) -> None:
        """End what is due, and set the timer for the next one."""
        line.timer = None
        now = self._loop.time()
        calls = line.calls
        while calls and (calls[0].ended or calls[0].due <= now):
            call = calls.popleft()
            if call.ended:
                line.ended -= 1
            else:
                call.line = None
                call.fire()
        if calls:
            line.timer = self._loop.call_at(calls[0].due, self._ring, line)
        else:
            self._drop(line)

    def close(self) -> None:
        """Drop the timers; call it when nothing runs any more."""
        for line in list(self._lines.values()):
            self._drop(line)
