"""Deadlines for many requests, on few timers.

A timer of its own costs each request about 5 microseconds, and ``asyncio.timeout`` 7: a
twentieth of the whole.  Here all requests that end within the same 50 ms share one timer,
so a deadline is kept at most that much late.  It never reads the wall clock.
"""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["Deadlines", "Watch"]

_PER_SECOND = 20


class Watch:
    """One request under watch."""

    __slots__ = ("_before", "_fired", "_group", "_task")

    def __init__(self, task: asyncio.Task[Any], group: set[Watch]) -> None:
        self._task = task
        self._before = task.cancelling()
        self._fired = False
        self._group = group

    def fire(self) -> None:
        """End the request: its time is over."""
        self._fired = True
        self._task.cancel()

    def stop(self) -> None:
        """Take the request out again.  Call it once, when nothing is awaited any more."""
        group = self._group
        group.discard(self)
        if not group:
            group.clear()  # a set that was large once stays so until it is cleared
        if self._fired:
            self._task.uncancel()

    def cancelled_by_caller(self) -> bool:
        """Say whether somebody else cancelled the task, too or alone.

        A pool that closes cancels futures, not tasks: that is no cancellation of ours.
        """
        return self._task.cancelling() - self._fired > self._before

    @property
    def expired(self) -> bool:
        """True when the deadline has struck."""
        return self._fired


class Deadlines:
    """Cancels tasks when their time is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._groups: dict[int, set[Watch]] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def watch(self, task: asyncio.Task[Any], timeout: float) -> Watch:
        """Cancel *task* after *timeout* seconds, at most 50 ms late, unless stopped."""
        step = int((self._loop.time() + timeout) * _PER_SECOND) + 1
        group = self._groups.get(step)
        if group is None:
            group = self._groups[step] = set()
            self._timers[step] = self._loop.call_at(step / _PER_SECOND, self._fire, step)
        watch = Watch(task, group)
        group.add(watch)
        return watch

    def close(self) -> None:
        """Drop the timers that nobody waits for; who still waits keeps his deadline."""
        for step in [step for step, group in self._groups.items() if not group]:
            self._timers.pop(step).cancel()
            del self._groups[step]

    def _fire(self, step: int) -> None:
        del self._timers[step]
        for watch in list(self._groups.pop(step)):
            watch.fire()
