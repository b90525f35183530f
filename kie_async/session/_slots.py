"""So many at once, first come, first served: the creates of a session.

All the calls of a session may stand in this line, 100,000 of them.  One that leaves it
early costs no more than one that waits for its end, wherever in the line it stood;
``asyncio.Semaphore`` would look for it.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Slots"]

SLACK = 64
"""Places of those that have gone and may stay in the line, beyond as many as still wait."""


class Slots:
    """Hands out *number* slots; belongs to the running loop."""

    def __init__(self, number: int) -> None:
        """Nobody has one yet."""
        self._free = number
        self._line: deque[asyncio.Future[None]] = deque()
        self._gone = 0
        self._loop = asyncio.get_running_loop()

    def try_take(self) -> bool:
        """Take a slot if one is free now; nobody waits then."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def take(self) -> None:
        """Wait for a slot; one who is cancelled has none."""
        if self.try_take():
            return
        handed: asyncio.Future[None] = self._loop.create_future()
        self._line.append(handed)
        try:
            await handed
        except BaseException:
            if handed.done() and not handed.cancelled():
                self.give()  # it came in the turn in which he was cancelled
            else:
                self._left()
            raise

    def give(self) -> None:
        """Give a slot back: to the first one in line, if there is one."""
        while self._line:
            handed = self._line.popleft()
            if not handed.done():
                handed.set_result(None)
                return
            self._gone -= 1
        self._free += 1

    def _left(self) -> None:
        """Count out one who waits no more, and clear the line when half of it is such."""
        self._gone += 1
        if 2 * self._gone > len(self._line) + SLACK:
            self._line = deque(handed for handed in self._line if not handed.done())
            self._gone = 0
