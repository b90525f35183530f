"""What a server may count to keep an account within its rate, each kind told the time.

Kie's own kind is not known.  A client must be right with all of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol

__all__ = ["KINDS", "Gate", "gate"]


class Gate(Protocol):
    """Admits or refuses one request."""

    def admit(self, now: float) -> bool:
        """Return whether a request at *now* is within the rate, and count it."""


class _Log:
    """The exact log: the times of all that was admitted in the window."""

    counts_refused = False

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._times: deque[float] = deque()

    def admit(self, now: float) -> bool:
        times = self._times
        while times and times[0] <= now - self._window:
            times.popleft()
        admitted = len(times) < self._limit
        if admitted or self.counts_refused:
            times.append(now)
        return admitted


class _StrictLog(_Log):
    """The log that counts what it refuses: who hammers on the door stays outside."""

    counts_refused = True

    def admit(self, now: float) -> bool:
        admitted = super().admit(now)
        if len(self._times) > self._limit:
            self._times.popleft()  # only the newest can matter: a storm takes no memory
        return admitted


class _Counter:
    """The sliding counter: this window, and the share of the last one still in sight."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._number, self._here, self._before = 0, 0, 0

    def admit(self, now: float) -> bool:
        number, inside = divmod(now, self._window)
        if number != self._number:
            self._before = self._here if number == self._number + 1 else 0
            self._number, self._here = int(number), 0
        seen = self._before * (1 - inside / self._window) + self._here
        if seen >= self._limit:
            return False
        self._here += 1
        return True


class _Fixed:
    """Fixed windows: the count starts again at each."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._window = limit, window
        self._number, self._here = -1, 0

    def admit(self, now: float) -> bool:
        number = int(now // self._window)
        if number != self._number:
            self._number, self._here = number, 0
        admitted = self._here < self._limit
        self._here += admitted
        return admitted


class _Bucket:
    """The token bucket: full at the start, filled steadily."""

    def __init__(self, limit: int, window: float) -> None:
        self._limit, self._speed = limit, limit / window
        self._tokens, self._seen = float(limit), 0.0

    def admit(self, now: float) -> bool:
        self._tokens = min(self._limit, self._tokens + (now - self._seen) * self._speed)
        self._seen = now
        admitted = self._tokens >= 1 - 1e-9
        self._tokens -= admitted
        return admitted


KINDS: Mapping[str, Callable[[int, float], Gate]] = {
    "log": _Log,
    "strict-log": _StrictLog,
    "counter": _Counter,
    "fixed": _Fixed,
    "bucket": _Bucket,
}


def gate(kind: str, limit: int, window: float) -> Gate:
    """Make a gate of *kind*: one of `KINDS`."""
    if kind not in KINDS:
        raise ValueError(f"no limiter {kind!r}: one of {', '.join(KINDS)}")
    return KINDS[kind](limit, window)
