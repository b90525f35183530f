"""Those who wait for a turn, in the order of their arrival."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from kie_async.limiter._turn import Turn

__all__ = ["Callers"]


class Callers:
    """A line of callers.  Whoever gives up takes no room in it."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._line: OrderedDict[asyncio.Future[Turn], None] = OrderedDict()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._line)

    def join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Turn]:
        """Join the line; await what is returned, and `leave` if that does not bring a turn."""
        future: asyncio.Future[Turn] = loop.create_future()
        self._line[future] = None
        return future

    def leave(self, future: asyncio.Future[Turn]) -> None:
        """Wait no longer; harmless for one who is not in the line any more."""
        self._line.pop(future, None)

    def hand_out(self, turn: Turn) -> None:
        """Give *turn* to the first in line; what nobody wants any more goes back."""
        while self._line:
            future, _ = self._line.popitem(last=False)
            if not future.done():
                future.set_result(turn)
                return
        turn.give_back()

    def fail(self, error: Callable[[], Exception]) -> None:
        """Tell everybody that there is no turn, each with an error of his own."""
        self._end(lambda future: future.set_exception(error()))

    def cancel(self) -> None:
        """Cancel everybody."""
        self._end(lambda future: future.cancel())

    def _end(self, how: Callable[[asyncio.Future[Turn]], object]) -> None:
        line, self._line = self._line, OrderedDict()
        for future in line:
            if not future.done():
                how(future)
