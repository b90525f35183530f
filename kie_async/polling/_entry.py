"""What the queue remembers of one waiting task: slots only, for there may be 100,000."""

from __future__ import annotations

from kie_async.models import TaskState

__all__ = ["DUE", "GONE", "OUT", "WAITING", "Entry"]

WAITING, DUE, OUT, GONE = range(4)
"""Where an entry is: its gap runs; it may be polled; it is being polled; it was removed."""


class Entry:
    """One waiting task.  Its items in the heaps are valid while they hold its ticket."""

    __slots__ = (
        "aged",
        "callbacks",
        "due",
        "failures",
        "floor",
        "idle",
        "idles",
        "last",
        "model",
        "place",
        "rung",
        "sighted",
        "started",
        "task_id",
        "ticket",
    )

    def __init__(
        self,
        task_id: str,
        model: str | None,
        started: float | None,
        now: float,
        callbacks: bool = False,
    ) -> None:
        self.task_id = task_id
        self.model = model
        self.aged = started is not None
        self.started = now if started is None else started
        self.last = self.started  # the last moment at which it was known to run
        self.sighted: float | None = None  # the first look that saw it being worked on
        self.idle: float | None = None  # one of the looks that saw it not yet worked on
        self.idles = 0  # how many such looks there were
        self.due = self.started
        self.floor = self.started  # a server's Retry-After: not even a bell is answered before
        self.failures = 0
        self.ticket = 0
        self.place = WAITING
        self.callbacks = callbacks
        self.rung = False

    @property
    def seen(self) -> bool:
        """True if there are looks to remember."""
        return self.idle is not None or self.sighted is not None

    def looks(self) -> list[tuple[TaskState, float]]:
        """Return what the remembered looks saw, and the task's age at each."""
        looks = ((TaskState.WAITING, self.idle), (TaskState.GENERATING, self.sighted))
        return [(state, at - self.started) for state, at in looks if at is not None]
