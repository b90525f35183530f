"""The lane of the creates: one refusal is one lesson for all of them.

After a 429 or 455 the limiter is paused for everybody, and then one create goes ahead
alone.  Only when it is let through do the others follow.
"""

from __future__ import annotations

import asyncio
import random

from kie_async.errors import KieError
from kie_async.limiter import RateLimiter, Turn
from kie_async.retry import RetryPolicy

__all__ = ["Lane"]


class Lane:
    """Gives turns to creates, and remembers how often the API refused in a row."""

    def __init__(self, limiter: RateLimiter, retry: RetryPolicy, rng: random.Random) -> None:
        """Start with no refusals; the lock belongs to the loop it is first used in."""
        self._limiter = limiter
        self._retry = retry
        self._rng = rng
        self._refusals = 0
        self._lesson_at = float("-inf")
        self._probe = asyncio.Lock()

    def refusing(self) -> bool:
        """True from a refusal until a create is let through."""
        return self._refusals > 0

    async def enter(self) -> tuple[Turn, bool]:
        """Wait for a turn; the flag says that this create is the probe: leave() after it."""
        while not self.refusing():
            turn = await self._limiter.acquire()
            if not self.refusing():
                return turn, False
            turn.give_back()  # the lesson was learned while we waited for the turn
        await self._probe.acquire()
        try:
            turn = await self._limiter.acquire()
        except BaseException:
            self._probe.release()
            raise
        if self.refusing():
            return turn, True
        self._probe.release()  # the probe before us was let through
        return turn, False

    def leave(self) -> None:
        """End a probe, however it went."""
        self._probe.release()

    def refused(self, error: KieError, sent_at: float, now: float) -> float | None:
        """Pause everybody; return the seconds, or None if this refusal teaches nothing new.

        A create that was under way when the last lesson was learned tells the same.
        """
        if sent_at < self._lesson_at:
            return None
        self._refusals += 1
        self._lesson_at = now
        floor = getattr(error, "retry_after", None) or 0.0
        seconds = max(floor, self._retry.pause(error, self._refusals, self._rng))
        self._limiter.pause(seconds)
        return seconds

    def let_through(self) -> None:
        """Forget the refusals: the API took a create, or judged it on its own merits."""
        self._refusals = 0
