"""Those who bring items to their ends: each carrier takes one item after the other.

An asyncio task for each item would cost it more than all the rest of a run does.  There
are carriers only while items wait, and no more than there is room in flight; none is ever
idle, so that nobody needs to be woken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context, copy_context
from typing import Any

from kie_async.journal import Item

__all__ = ["Carriers"]

FEW = 500
"""Items that wait to be begun when more are asked for."""


class Carriers:
    """The carriers of one run, and the items that wait for them."""

    def __init__(
        self,
        room: int,
        untaken: int,
        may_begin: Callable[[Item], bool],
        carry: Callable[[Item], Coroutine[Any, Any, None]],
    ) -> None:
        """Send nobody out yet.

        *room* carriers at once, and *untaken* items at most that were begun and whose
        outcome nobody has taken.  *may_begin* is asked once for each item, when it would
        be begun; *carry* is what a carrier does: from this item on, those that
        :meth:`next` gives him, and then :meth:`leave`.
        """
        self._room = room
        self._most_untaken = untaken
        self._may_begin = may_begin
        self._carry = carry
        self._waiting: deque[Item] = deque()
        self._fewer = asyncio.Event()
        self._few = FEW
        self._untaken = 0
        self._out = 0
        self._group: asyncio.TaskGroup | None = None
        self._owner: asyncio.Task[Any] | None = None
        self._context: Context | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Send carriers into *group*, which the running task has entered, with its context."""
        self._group = group
        self._owner = asyncio.current_task()
        self._context = copy_context()

    def end(self) -> None:
        """Send nobody any more."""
        self._group = None

    async def hand_on(self, items: Sequence[Item]) -> None:
        """Let the items be carried, in this order; return when there may be more."""
        self._waiting.extend(items)
        await self.fewer_than(FEW)

    async def fewer_than(self, number: int) -> None:
        """Wait until fewer than *number* items wait to be begun."""
        self._few = number
        self._fill()
        while len(self._waiting) >= number:
            self._fewer.clear()
            await self._fewer.wait()
            self._fill()

    def keep(self, wanted: Callable[[Item], bool]) -> None:
        """Of the items that wait, let the others go."""
        self._waiting = deque(item for item in self._waiting if wanted(item))
        self._fewer.set()

    def next(self) -> Item | None:
        """Take the next item that may be begun now, if there is one."""
        while self._waiting and self._untaken < self._most_untaken:
            item = self._waiting.popleft()
            if len(self._waiting) < self._few:
                self._fewer.set()
            if self._may_begin(item):
                self._untaken += 1
                return item
        return None

    def add(self) -> None:
        """Count an item in that is begun beside those that wait."""
        self._untaken += 1

    def take(self) -> None:
        """Count an item out: its outcome was taken, or there is none."""
        self._untaken -= 1
        self._fill()

    def leave(self) -> None:
        """Count a carrier out: his room is free."""
        self._out -= 1
        self._fill()

    def _fill(self) -> None:
        """Send carriers out while there is room, and something to carry."""
        while self._waiting and self._out < self._room:
            group, owner, context = self._group, self._owner, self._context
            if group is None or owner is None or context is None or owner.cancelling():
                return  # the run comes down, or has not begun
            item = self.next()
            if item is None:
                return
            self._out += 1
            # Whoever takes an outcome may send a carrier out: his context is his own affair.
            group.create_task(self._carry(item), context=context.copy())
