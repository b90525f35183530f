"""What was learned about how long tasks take: per model, from the last few."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property

from attrs import frozen

from kie_async.models import TaskState
from kie_async.polling._schedule import PollSchedule

__all__ = ["Durations", "Law"]

MODELS = 256
"""Models remembered at once: names come from outside and must not fill the memory."""
CELLS = 10
"""Pieces of the learned hazard: five durations each when fifty are remembered."""


@frozen
class Law:
    """How to poll tasks of one model, learned from its durations.  Times in seconds.

    Attributes:
        first: Age at the first poll.
        gap: The fixed gap from then on.
        safety: Age at the first safety poll when a callback is expected.
        longest: The longest duration seen; past it nothing is known.
        sizes: The durations themselves, by length.
        least: A width that keeps equal durations from an infinite hazard.
    """

    first: float
    gap: float
    safety: float
    longest: float
    sizes: tuple[float, ...]
    least: float

    @cached_property
    def _steps(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # Asked for only while tasks compete for polls, and it costs more than all the rest.
        return _hazards(self.sizes, self.least)

    @property
    def edges(self) -> tuple[float, ...]:
        """Ages at which the hazard changes."""
        return self._steps[0]

    @property
    def hazards(self) -> tuple[float, ...]:
        """Ends per second of a task still running; one more than *edges*."""
        return self._steps[1]

    def hazard(self, age: float) -> tuple[float, float]:
        """Return the hazard at *age*, and the age from which it is another one."""
        edges, hazards = self._steps
        cell = bisect_right(edges, age)
        return hazards[cell], edges[cell] if cell < len(edges) else math.inf


class _Seen:
    """The last durations of one kind of task, in order of arrival and of length."""

    __slots__ = ("fresh", "law", "order", "sizes")

    def __init__(self) -> None:
        self.order: deque[float] = deque()
        self.sizes: list[float] = []
        self.law: Law | None = None
        self.fresh = 0

    def add(self, seconds: float, memory: int) -> None:
        self.order.append(seconds)
        insort(self.sizes, seconds)
        while len(self.order) > memory:
            self.sizes.remove(self.order.popleft())
        self.fresh += 1


class Durations:
    """The last durations of each model, and the law of polling that follows from them.

    Holds no time of day and belongs to no event loop: one object may serve a session
    through several loops.  Not safe to share between threads.
    """

    def __init__(self, schedule: PollSchedule | None = None) -> None:
        """Start with nothing learned."""
        self._schedule = schedule or PollSchedule()
        self._seen: dict[tuple[str, TaskState | None], _Seen] = {}
        self.listener: Callable[[str, float, TaskState | None], None] | None = None
        """Told of each duration that was observed here, and not of those learned."""

    def observe(self, model: str | None, seconds: float, *, after: TaskState | None = None) -> None:
        """Learn one duration; nonsense (not a finite number of 0 or more) is dropped.

        Args:
            model: The task's model; None teaches nothing.
            seconds: From creation to completion, as the server stamped it.
            after: It is the time from a poll that saw this state to completion instead.
        """
        if not model or not isinstance(seconds, int | float) or not 0.0 <= seconds < math.inf:
            return
        self.learn(model, float(seconds), after=after)
        if self.listener is not None:
            self.listener(model, float(seconds), after)

    def learn(self, model: str, seconds: float, *, after: TaskState | None = None) -> None:
        """Learn a duration that somebody else observed; the listener is not told."""
        seen = self._seen.get((model, after))
        if seen is None:
            while len(self._seen) >= MODELS:
                del self._seen[next(iter(self._seen))]
            seen = self._seen[model, after] = _Seen()
        seen.add(seconds, self._schedule.memory)

    def count(self, model: str | None, *, after: TaskState | None = None) -> int:
        """Return how many durations of *model* are remembered."""
        seen = self._seen.get((model or "", after))
        return len(seen.order) if seen is not None else 0

    def law(self, model: str | None, *, after: TaskState | None = None) -> Law | None:
        """Return how to poll tasks of *model*, or None while too few have been seen.

        It is fitted again when a tenth of the durations are new.
        """
        seen = self._seen.get((model or "", after))
        if seen is None or len(seen.sizes) < self._schedule.learned_from:
            return None
        if seen.law is None or seen.fresh * 10 > len(seen.sizes):
            seen.law = _fit(seen.sizes, self._schedule)
            seen.fresh = 0
        return seen.law


def _fit(sizes: list[float], schedule: PollSchedule) -> Law:
    """Fit the law to durations sorted by length."""
    first = _percentile(sizes, schedule.percentile)
    rest = sizes[bisect_right(sizes, first) :]
    residual = sum(rest) / len(rest) - first if rest else 0.0
    gap = math.sqrt(2.0 * schedule.poll_cost * residual)
    # Of n seen, the share that the next one stays below has the rank share × (n + 1).
    rank = (schedule.safety_percentile * (len(sizes) + 1) - 1.0) / (len(sizes) - 1)
    return Law(
        first,
        min(max(gap, schedule.min_gap), schedule.longest_gap),
        _percentile(sizes, min(max(rank, 0.0), 1.0)),
        sizes[-1],
        tuple(sizes),
        schedule.min_gap,
    )


def _percentile(sizes: list[float], share: float) -> float:
    """Return the percentile, linear between the two nearest."""
    place = share * (len(sizes) - 1)
    low = int(place)
    high = min(low + 1, len(sizes) - 1)
    return sizes[low] + (place - low) * (sizes[high] - sizes[low])


def _hazards(sizes: Sequence[float], least: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the hazard as steps: in each cell, ends divided by seconds lived in it.

    Cells hold about equally many ends, so that none is noise; *least* is the width that
    keeps equal durations from an infinite hazard.
    """
    count = len(sizes)
    edges: list[float] = []
    hazards: list[float] = []
    start, done = 0.0, 0
    for cell in range(1, min(CELLS, count) + 1):
        upto = count * cell // min(CELLS, count)
        end = max(sizes[upto - 1], start + least)
        upto = bisect_right(sizes, end)
        if upto <= done:
            continue
        lived = sum(size - start for size in sizes[done:upto]) + (count - upto) * (end - start)
        hazards.append((upto - done) / max(lived, least))
        edges.append(end)
        start, done = end, upto
    return tuple(edges[:-1]), tuple(hazards)
