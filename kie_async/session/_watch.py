"""A task that is waited for, and those who wait for it."""

from __future__ import annotations

import asyncio

from attrs import define

from kie_async.limiter import Turn
from kie_async.models import Task, TaskState

__all__ = ["Found", "Waiter", "Watch", "may_flip"]

A_DAY = 86_400.0
"""Seconds that no task takes, where nobody here knows when it was created."""
SLACK = 60.0
"""Seconds by which its create may have been noticed late."""

Found = asyncio.Future[Task | Turn]


class Waiter:
    """One caller.  ``found`` brings him the ended task, its error, or a turn to look."""

    __slots__ = ("found",)

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.found: Found = loop.create_future()

    def hand(self, turn: Turn) -> None:
        """Let him look; what comes after goes to a new ``found``."""
        found, self.found = self.found, self.found.get_loop().create_future()
        found.set_result(turn)

    def tell(self, task: Task) -> None:
        """Bring him the end of the task."""
        if not self.found.done():
            self.found.set_result(task)

    def fail(self, error: Exception) -> None:
        """Bring him an error."""
        if not self.found.done():
            self.found.set_exception(error)

    def leave(self, awaited: Found) -> Turn | None:
        """Return a turn that he was handed in *awaited* and never took up, if any."""
        unused = None
        if awaited is not self.found and not awaited.cancelled():
            given = awaited.result()
            unused = given if isinstance(given, Turn) else None
        if not self.found.done():
            self.found.cancel()
        elif not self.found.cancelled():
            self.found.exception()  # asked for, so that nobody calls it forgotten
        return unused


@define(eq=False)
class Watch:
    """What is known of the task, and who waits."""

    task_id: str
    model: str | None
    unknown_until: float
    created_at: float | None
    state: TaskState = TaskState.UNKNOWN
    polls: int = 0
    doubts: int = 0
    looked_again: bool = False
    rung: bool = False
    waiters: tuple[Waiter, ...] = ()

    def next_looker(self) -> Waiter | None:
        """Return the first who has not left."""
        for waiter in self.waiters:
            if not waiter.found.done():
                return waiter
        return None

    def learnable(self, task: Task, now: float) -> float | None:
        """Return how long it took, if that can be: stamps that are wrong must not be learned.

        Else a first look would be planned for hours or years ahead.
        """
        longest = A_DAY if self.created_at is None else now - self.created_at + SLACK
        taken = task.duration
        return taken if taken is not None and taken <= longest else None

    def lateness(self, task: Task, now: float) -> float | None:
        """How long after its end it was noticed; the server's clock is not needed."""
        if self.created_at is None or task.duration is None:
            return None
        return max(0.0, now - self.created_at - task.duration)


def may_flip(task: Task) -> bool:
    """True for a failure by time-out: such tasks were reported to succeed a minute later."""
    text = (task.fail_message or "").lower()
    return task.fail_code == "524" or "timeout" in text or "timed out" in text
