"""The turns of one process, as it knows them itself."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["OwnTurns"]

FEW = 64
"""So many are not worth a look at which of them still count."""


class OwnTurns:
    """Until when each turn counts, by the loop's clock.

    A turn counts until a window after its answer; one without an answer until its lease has
    run out, and a window more.
    """

    def __init__(self, span: float, lease: float) -> None:
        """There are none yet."""
        self._span = span
        self._lease = lease
        self._until: dict[str, float] = {}
        self._many = FEW

    def take(self, names: Iterable[str], now: float) -> None:
        """Note new turns."""
        until = now + self._span + self._lease
        self._until.update((name, until) for name in names)

    def finish(self, name: str, at: float) -> None:
        """Note that a turn was answered; a stranger's is passed over."""
        if name in self._until:
            self._until[name] = at + self._span

    def give_back(self, name: str, at: float) -> None:
        """Note that a turn was not used; a stranger's is passed over."""
        if name in self._until:
            self._until[name] = at

    def forget(self, now: float) -> None:
        """Forget those that count no more, when there are many."""
        if len(self._until) > self._many:
            self._until = {name: until for name, until in self._until.items() if until > now}
            self._many = max(FEW, 2 * len(self._until))

    def ages(self, now: float) -> list[float]:
        """Return how long ago each was answered, the last one first; 0 if it was not yet."""
        return sorted(max(0.0, self._span - (until - now)) for until in self._until.values())

    def left(self, now: float) -> list[tuple[str, float]]:
        """Return how long each still counts; 0 if no longer."""
        return [(name, max(0.0, until - now)) for name, until in self._until.items()]

    def join(self, others: OwnTurns) -> None:
        """Take over the turns of *others*."""
        self._until |= others._until
        others._until = {}
