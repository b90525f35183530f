"""Leave to send one request, and who gives it."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

__all__ = ["RateLimiter", "Turn", "Unlimited"]


class Turn:
    """Leave to send one request.  Use it as a context manager: it finishes at the end.

    Both endings may be called again and from any thread; the first one counts.
    """

    __slots__ = ("_end",)

    def __init__(self, end: Callable[[bool], None]) -> None:
        """Call *end* once: with True when finished, with False when given back."""
        self._end: Callable[[bool], None] | None = end

    def finish(self) -> None:
        """Say that the answer came, or failed: the turn counts one more window from now."""
        end, self._end = self._end, None
        if end is not None:
            end(True)

    def give_back(self) -> None:
        """Say that nothing was sent: somebody else may go at once."""
        end, self._end = self._end, None
        if end is not None:
            end(False)

    def __enter__(self) -> Self:
        """Return the turn."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish it, unless it was given back."""
        self.finish()


@runtime_checkable
class RateLimiter(Protocol):
    """Who decides when a request may leave."""

    async def acquire(self) -> Turn:
        """Wait for a turn.  Cancelling is safe: the turn goes to the next in line."""
        ...

    def pause(self, seconds: float) -> None:
        """Hold every caller back for *seconds*; a longer pause in force stays in force."""
        ...


class Unlimited:
    """A limiter that never says no: for servers without a limit, and for tests."""

    async def acquire(self) -> Turn:
        """Return a turn at once."""
        return Turn(_ignore)

    def try_acquire(self) -> Turn | None:
        """Return a turn at once."""
        return Turn(_ignore)

    def pause(self, seconds: float) -> None:
        """Do nothing: who has no limit has nothing to wait for."""


def _ignore(_sent: bool) -> None:
    """Forget a turn that nobody counts."""
