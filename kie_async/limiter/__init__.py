"""Waiting one's turn: at most so many requests in any window of time.

:class:`SlidingWindow` is the arithmetic, told the time; :class:`SlidingWindowLimiter` is
its face for asyncio.  Neither opens a socket or starts a task.  No lock is ever held over
an ``await``.  :class:`StoreLimiter` is the face of a book that a store keeps for many
processes; the stores themselves are elsewhere.
"""

from __future__ import annotations

import threading

from kie_async.errors import UsageError
from kie_async.limiter._ask import Ask
from kie_async.limiter._line import SlidingWindowLimiter
from kie_async.limiter._store import StoreLimiter
from kie_async.limiter._turn import RateLimiter, Turn, Unlimited
from kie_async.limiter._window import LIMIT, WINDOW, SlidingWindow

__all__ = [
    "LIMIT",
    "WINDOW",
    "Ask",
    "RateLimiter",
    "SlidingWindow",
    "SlidingWindowLimiter",
    "StoreLimiter",
    "Turn",
    "Unlimited",
    "shared_limiter",
]


def shared_limiter(
    fingerprint: str, *, limit: int = LIMIT, window: float = WINDOW
) -> SlidingWindowLimiter:
    """Return this process's one limiter for an account.

    Args:
        fingerprint: What stands for the account; never the key itself.
        limit: Turns per window, for the first who asks.
        window: Seconds, for the first who asks.

    Raises:
        UsageError: It exists already with another *limit* or *window*.
    """
    with _shared_lock:
        limiter = _shared.get(fingerprint)
        if limiter is None:
            limiter = _shared[fingerprint] = SlidingWindowLimiter(limit, window)
    if (limiter.limit, limiter.window) != (limit, window):
        raise UsageError(
            f"this account's limiter allows {limiter.limit} per {limiter.window} s already; "
            "give the session a limiter of its own"
        )
    return limiter


_shared: dict[str, SlidingWindowLimiter] = {}  # for the life of the process: the window goes on
_shared_lock = threading.Lock()
