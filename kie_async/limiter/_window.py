"""The arithmetic of the sliding window.  Told the time; it reads no clock and never waits."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from kie_async.errors import UsageError

__all__ = ["LIMIT", "WINDOW", "SlidingWindow", "check_seconds"]

LIMIT = 20
"""Creates per window: Kie documents 20 new generation requests per 10 s and account."""

WINDOW = 10.0
"""Seconds of that window."""

GRAIN = 0.001
"""Seconds by which two clocks may disagree about one instant: many servers (and uvloop)
count whole milliseconds, and a window may or may not contain its own ends."""

DRIFT = 0.0005
"""How much faster our clock may run than the server's: 500 ppm is the most that Linux
slews a clock it corrects.  Together 6 ms in 10 s, 0.06 % of the time."""


class SlidingWindow:
    """The book of the turns.  Told the time, it says who may leave; it reads no clock.

    A turn counts from its booking until *window* seconds after its answer.  The server
    sees a request between its sending and its answer, so no window of the server's ever
    holds more than *limit*, whatever the delays and without a common clock.

    Args:
        limit: Turns per window.
        window: Seconds.
        spread: Let used turns come back one by one, a share of the window apart, and not
            in a burst.  For servers that weigh the previous fixed window instead of
            looking at the requests themselves: they refuse the second burst.  The first
            pause turns it on by itself.
    """

    __slots__ = (
        "_calm_until",
        "_ends",
        "_in_flight",
        "_last_left",
        "_pause_length",
        "_paused_until",
        "_return_gap",
        "_returned_at",
        "gap",
        "limit",
        "span",
        "window",
    )

    def __init__(self, limit: int = LIMIT, window: float = WINDOW, *, spread: bool = False) -> None:
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise UsageError(f"limit must be a whole number of at least 1, not {limit!r}")
        self.limit = limit
        self.window = check_seconds(window, "window")
        if not self.window:
            raise UsageError("window must be more than 0 seconds")
        self.span = self.window * (1 + DRIFT) + GRAIN
        self.gap = self.span / limit
        self._return_gap = self.gap if spread else 0.0
        self._in_flight = 0
        self._ends: deque[float] = deque()  # when the answered turns stop counting, in order
        self._returned_at = -math.inf  # when the last of them came back
        self._last_left = -math.inf
        self._paused_until = -math.inf
        self._calm_until = -math.inf
        self._pause_length = 0.0

    def take(self, now: float) -> bool:
        """Book a turn if one is free at *now*."""
        ends = self._ends
        if ends and ends[0] <= now:
            self._return_turns(now)
        if self._in_flight + len(ends) >= self.limit:
            return False
        if now < self._calm_until and now < self._calm_opening():
            return False
        self._in_flight += 1
        self._last_left = now
        return True

    def finish(self, now: float) -> None:
        """Note that a booked turn has its answer: it counts one window from *now*."""
        self._in_flight -= 1
        # Two threads may tell us in the other order; then the later one holds up the
        # earlier one by as much: on the safe side, and shorter than a search.
        self._ends.append(now + self.span)

    def give_back(self) -> None:
        """Forget a booked turn: nothing was sent."""
        self._in_flight -= 1

    def pause(self, now: float, seconds: float) -> None:
        """Book nothing for *seconds*; a pause in force is never shortened.

        Whoever refused us has counted something that we have not.  So in the window after
        the pause turns leave one by one, and from now on they come back spread: that
        costs another 1.3 % of the time, and a server that weighs the previous window
        refuses 7 creates of 10,000 instead of 111 (simulated: benchmarks/makespan.py).
        """
        if not seconds:
            return
        self._return_turns(now)
        self._return_gap = self.gap
        if now + seconds > self._paused_until:
            self._paused_until = now + seconds
            self._calm_until = self._paused_until + self.span
            self._pause_length = seconds

    def remember(self, now: float, ages: Iterable[float]) -> None:
        """Count turns that somebody took before: *ages* are seconds since their answers.

        An age that no turn can have (a clock was set) counts as the nearest possible one.
        """
        ends = [now + self.span - min(max(age, 0.0), self.span) for age in ages]
        if ends:
            self._ends = deque(sorted([*self._ends, *ends]))

    def next_free(self, now: float) -> float:
        """Return when :meth:`take` may say yes; *now* itself if it would say yes now.

        While all turns are unanswered that is one window ahead at the earliest.
        """
        self._mend_clock(now)
        self._return_turns(now)
        opening = now
        if self._in_flight + len(self._ends) >= self.limit:
            opening = now + self.window
            if self._ends:
                opening = max(self._ends[0], self._returned_at + self._return_gap)
        if opening < self._calm_until:
            opening = max(opening, self._calm_opening())
        return opening

    def counted(self, now: float) -> int:
        """Return how many turns count at *now*, those without an answer included."""
        self._return_turns(now)
        return self._in_flight + len(self._ends)

    def _return_turns(self, now: float) -> None:
        ends, gap = self._ends, self._return_gap
        while ends:
            back = ends[0]
            if gap and back < self._returned_at + gap:
                back = self._returned_at + gap
            if back > now:
                break
            ends.popleft()
            self._returned_at = back

    def _calm_opening(self) -> float:
        return max(self._paused_until, min(self._last_left + self.gap, self._calm_until))

    def _mend_clock(self, now: float) -> None:
        """Keep the book true when a new loop's clock began at zero.

        What counts can end at most one span from now; more than that was another clock.
        """
        latest = now + self.span
        if self._ends and self._ends[0] > latest + GRAIN:
            self._ends = deque(min(end, latest) for end in self._ends)
        self._returned_at = min(self._returned_at, now)
        self._last_left = min(self._last_left, now)
        if self._paused_until > now + self._pause_length + GRAIN:
            self._paused_until = now + self._pause_length
            self._calm_until = self._paused_until + self.span


def check_seconds(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{name} must be a number of seconds, not {value!r}")
    if not 0 <= value < math.inf:
        raise UsageError(f"{name} must be finite and not negative, not {value!r} seconds")
    return float(value)
