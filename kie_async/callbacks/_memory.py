"""What the receiver remembers: bounded in number and in time, the oldest leave first."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

from attrs import define

from kie_async.callbacks._event import CallbackEvent

__all__ = ["Memory"]

MARKS = 8
"""Marks of one task.  A real task has two or three; more are taken for copies."""
TASKS_OF_A_REFERENCE = 4
"""Ids kept of one reference.  More than one is a surprise, and shown to whoever asks."""


@define
class _Kept:
    expires: float


@define
class _Task(_Kept):
    marks: tuple[object, ...]


@define
class _Reference(_Kept):
    task_ids: tuple[str, ...]


Remembered = TypeVar("Remembered", bound=_Kept)


class Memory:
    """Which tasks have rung, and for which references.  Told the time, in Unix seconds."""

    __slots__ = ("_keep", "_limit", "_references", "_tasks")

    def __init__(self, limit: int, keep: float) -> None:
        """Keep at most *limit* tasks and as many references, each for *keep* seconds.

        A task's seconds begin anew with each news of it; a reference is for the answer to
        its create, and has those after its first ring.
        """
        self._limit = limit
        self._keep = keep
        self._tasks: OrderedDict[str, _Task] = OrderedDict()
        self._references: OrderedDict[str, _Reference] = OrderedDict()

    def __len__(self) -> int:
        """Tasks that are remembered."""
        return len(self._tasks)

    def is_new(self, event: CallbackEvent, now: float) -> bool:
        """Remember *event*; True if it is the first of its kind.

        A copy has the same signed time (a replay), or the same state (sent once more).
        """
        if event.reference is not None:
            self._bind(event.reference, event.task_id, now)
        told = (event.signed, event.state)  # a hint must not pass for the signed one
        marks: set[object] = {told} if event.sent_at is None else {told, event.sent_at}
        known = self._tasks.get(event.task_id)
        if known is None or known.expires <= now:
            self._tasks.pop(event.task_id, None)
            self._tasks[event.task_id] = _Task(now + self._keep, tuple(marks))
            _trim(self._tasks, self._limit, now)
            return True
        is_new = marks.isdisjoint(known.marks) and len(known.marks) < MARKS
        if is_new:
            known.marks = (*known.marks, *marks)
        if is_new or (event.signed and event.sent_at not in known.marks):
            # Its own replay is to be known for as long as one may come.  A clock that was
            # set back shortens nothing.
            known.expires = max(known.expires, now + self._keep)
            self._tasks.move_to_end(event.task_id)
        return is_new

    def knows(self, task_id: str, now: float) -> bool:
        """True if *task_id* has rung lately."""
        known = self._tasks.get(task_id)
        return known is not None and known.expires > now

    def forget(self, task_id: str) -> None:
        """Let a task go."""
        self._tasks.pop(task_id, None)

    def tasks_of(self, reference: str, now: float) -> tuple[str, ...]:
        """Return the ids that came with *reference* lately, the first one first."""
        known = self._references.get(reference)
        return known.task_ids if known is not None and known.expires > now else ()

    def _bind(self, reference: str, task_id: str, now: float) -> None:
        known = self._references.get(reference)
        if known is None or known.expires <= now:
            self._references.pop(reference, None)
            self._references[reference] = _Reference(now + self._keep, (task_id,))
            _trim(self._references, self._limit, now)
        elif task_id not in known.task_ids and len(known.task_ids) < TASKS_OF_A_REFERENCE:
            known.task_ids = (*known.task_ids, task_id)


def _trim(kept: OrderedDict[str, Remembered], limit: int, now: float) -> None:
    """Drop the expired from the front, and the oldest beyond the limit."""
    # Never empties it: whatever was just added is young, and the limit is one or more.
    while len(kept) > limit or next(iter(kept.values())).expires <= now:
        kept.popitem(last=False)
