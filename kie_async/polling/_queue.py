"""The queue of those who know their tasks by the ids only."""

from __future__ import annotations

import math

from kie_async.polling._entries import EntryQueue
from kie_async.polling._entry import Entry

__all__ = ["PollQueue"]


class PollQueue(EntryQueue[Entry]):
    """All waiting tasks, by id, and which is looked at next; :class:`EntryQueue` tells how."""

    def add(
        self,
        task_id: str,
        model: str | None,
        started_at_age: float | None,
        now: float,
        callbacks: bool = False,
    ) -> None:
        """Wait for a task.  One that is already waited for stays as it is.

        Args:
            task_id: The task.
            model: Its model, if known.
            started_at_age: Seconds since its creation; None if unknown: it may be over,
                so it is looked at once, now.
            now: The time.
            callbacks: A callback is expected: polls are only a safety net.
        """
        if task_id in self._entries:
            return
        started = None
        if started_at_age is not None and started_at_age < math.inf:
            started = now - max(0.0, started_at_age)  # a clock may have been set back
        self.put(Entry(task_id, model, started, now, callbacks), now)

    def pop(self, now: float) -> str | None:
        """Return the task to spend a poll on, and count it as being polled; or None."""
        entry = self.take(now)
        return None if entry is None else entry.task_id
