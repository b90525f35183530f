"""A task that is waited for, and those who wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypeVar

from kie_async.limiter import Turn
from kie_async.models import Task, TaskState
from kie_async.polling import Entry
from kie_async.session._calls import Call

__all__ = ["Waiter", "Watch", "may_flip"]

T = TypeVar("T")

A_DAY = 86_400.0
"""Seconds that no task takes, where nobody here knows when it was created."""
SLACK = 60.0
"""Seconds by which its create may have been noticed late."""
NOT_YET_VISIBLE = 90.0
"""Seconds after its create in which an unknown task may only be late (reported)."""
NOT_YET_KNOWN = 10.0
"""The same for a task that somebody else created: how long ago is unknown."""


class Waiter(Call[T]):
    """A call that waits for a task, without a coroutine of the poller's.

    While it waits it has a future, ``found``: it brings the ended task, an error, or None,
    and then this caller is the one to look.
    """

    __slots__ = ("found", "next", "turn", "watch")

    def __init__(self, subject: T, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for nothing yet."""
        super().__init__(subject, loop)
        self.watch: Watch | None = None
        self.next: Waiter[Any] | None = None  # who waits for the same task
        self.turn: Turn | None = None  # handed, and not taken up yet
        self.found: asyncio.Future[Task | None]

    def hand(self, turn: Turn) -> None:
        """Let him look."""
        self.turn = turn
        self.found.set_result(None)

    def tell(self, task: Task) -> None:
        """Bring him the end of the task."""
        if self.turn is not None:
            self._call_off()
        if not self.found.done():
            self.found.set_result(task)

    def fail(self, error: Exception) -> None:
        """Bring him an error."""
        if self.turn is not None:
            self._call_off()
        if not self.found.done():
            self.found.set_exception(error)

    def _call_off(self) -> None:
        """Take back the turn of one who was about to look: what he would see is known."""
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.give_back()
            self.found = self.found.get_loop().create_future()

    def leave(self) -> bool:
        """Wait no more; True if a turn was left unused.  It is given back."""
        if not self.found.done():
            self.found.cancel()
        elif not self.found.cancelled():
            self.found.exception()  # asked for, so that nobody calls it forgotten
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.give_back()
        return turn is not None


class Watch(Entry):
    """What is known of the task, and who waits."""

    __slots__ = (
        "doubts",
        "first",
        "looked_again",
        "ours",
        "polls",
        "since",
        "state",
        "told",
    )

    def __init__(
        self,
        task_id: str,
        model: str | None,
        created_at: float | None,
        now: float,
        callbacks: bool = False,
    ) -> None:
        """Begin at *now*; *created_at* is known of a task that was created here."""
        super().__init__(task_id, model, created_at, now, callbacks)
        self.ours = created_at is not None
        young = self.ours and now - self.started < NOT_YET_VISIBLE - NOT_YET_KNOWN
        self.since = self.started if young else now  # young: the same end, and no number more
        self.state = TaskState.UNKNOWN
        self.polls = 0
        self.doubts = 0
        self.looked_again = False
        self.told = False  # by a callback, that it has ended
        self.first: Waiter[Any] | None = None

    @property
    def unknown_until(self) -> float:
        """Until when the API may not know it yet."""
        until = self.since + NOT_YET_KNOWN
        return max(until, self.started + NOT_YET_VISIBLE) if self.ours else until

    def waiters(self) -> Iterator[Waiter[Any]]:
        """Yield who waits: a chain of them, since mostly there is one."""
        waiter = self.first
        while waiter is not None:
            yield waiter
            waiter = waiter.next

    def join(self, waiter: Waiter[Any]) -> None:
        """Add one who waits."""
        waiter.watch, waiter.next = self, self.first
        self.first = waiter

    def leave(self, leaver: Waiter[Any]) -> None:
        """Take out one who waits no more."""
        if self.first is leaver:
            self.first = leaver.next
            return
        for waiter in self.waiters():
            if waiter.next is leaver:
                waiter.next = leaver.next

    def next_looker(self) -> Waiter[Any] | None:
        """Return one who has not been told anything yet."""
        waiter = self.first
        while waiter is not None and waiter.found.done():
            waiter = waiter.next
        return waiter

    def last_seen(self) -> Task | None:
        """Return what the last look saw of it, if there was one."""
        if not self.polls:
            return None
        return Task(task_id=self.task_id, model=self.model, state=self.state)

    def learnable(self, task: Task, now: float) -> float | None:
        """Return how long it took, if that can be: stamps that are wrong must not be learned.

        Else a first look would be planned for hours or years ahead.
        """
        longest = now - self.started + SLACK if self.ours else A_DAY
        taken = task.duration
        return taken if taken is not None and taken <= longest else None

    def lateness(self, task: Task, now: float) -> float | None:
        """How long after its end it was noticed; the server's clock is not needed."""
        if not self.ours or task.duration is None:
            return None
        return max(0.0, now - self.started - task.duration)


def may_flip(task: Task) -> bool:
    """True for a failure by time-out: such tasks were reported to succeed a minute later."""
    text = (task.fail_message or "").lower()
    return task.fail_code == "524" or "timeout" in text or "timed out" in text
