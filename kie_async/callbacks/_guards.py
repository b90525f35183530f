"""Two small guards, told the time: a cap on hints, and an alarm for a wrong clock."""

from __future__ import annotations

__all__ = ["RateCap", "SkewAlarm"]

SKEW_WINDOW = 600.0
"""Seconds whose callbacks are counted together."""
SKEW_SHARE = 0.05
SKEW_LEAST = 3
"""Fewer are no sign of a clock: one late retry is normal."""


class RateCap:
    """Lets *burst* pass at once and *per_second* after that."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        """Start with the whole burst."""
        self._per_second = per_second
        self._burst = burst
        self._left = burst
        self._at: float | None = None

    def admits(self, now: float) -> bool:
        """True if one more may pass; a clock that goes back gives nothing."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._left = min(self._burst, self._left + passed * self._per_second)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SkewAlarm:
    """Rings once per window when more than one in twenty is refused for its time."""

    __slots__ = ("_rung", "_since", "refused", "total")

    def __init__(self) -> None:
        """Start counting with the first callback."""
        self._since: float | None = None
        self._rung = False
        self.refused = 0
        self.total = 0

    def count(self, now: float, *, refused: bool) -> bool:
        """Count one callback; True if the alarm is to be given now."""
        if self._since is None or not 0 <= now - self._since < SKEW_WINDOW:
            self._since, self._rung, self.refused, self.total = now, False, 0, 0
        self.total += 1
        self.refused += refused
        wrong = self.refused >= SKEW_LEAST and self.refused > SKEW_SHARE * self.total
        rings, self._rung = wrong and not self._rung, self._rung or wrong
        return rings
