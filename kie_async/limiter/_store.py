"""A limiter whose book a store keeps, for all processes of an account.

One task drives: whatever waits or has ended goes to the store in one call, however many
callers there are, and the store says who may go and when to come back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import secrets
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from kie_async.errors import KieConnectionError, UsageError, WrongLoopError
from kie_async.limiter._ask import Ask
from kie_async.limiter._line import SlidingWindowLimiter
from kie_async.limiter._loops import running_loop
from kie_async.limiter._own import OwnTurns
from kie_async.limiter._turn import Turn
from kie_async.limiter._window import SlidingWindow

__all__ = ["StoreLimiter"]

logger = logging.getLogger("kie_async.limiter")

RETRY = 1.0
"""Seconds between two looks whether the store is there again."""
REACH = 5.0
"""Seconds for such a look: a new connection takes several journeys to the store."""
GATHER = 0.002
"""Seconds in which ends are gathered into one call."""
CARRIED = 500
"""Turns wanted, or ends told, in one call: a script that runs long holds up everybody."""


class StoreLimiter(ABC):
    """What `RedisLimiter` and `PostgresLimiter` have in common: all but the store."""

    _patience: ClassVar[float] = 0.25
    """Seconds for one call; a limiter that hangs is worse than a smaller share."""

    def __init__(
        self, account: str, *, limit: int, window: float, share: float, lease: float
    ) -> None:
        """Check the settings; the store is asked when somebody waits."""
        if not account or not account.isprintable() or set(account) & set("{} "):
            raise UsageError("account must be a plain name; it stands in the keys of the store")
        if not 0 <= share <= 1 or not lease > 0:
            raise UsageError("share must be 0 to 1, and lease more than 0 seconds")
        book = SlidingWindow(limit, window)  # checks both, and knows the margin
        self._limit, self._window, self._span = book.limit, book.window, book.span
        self._lease, self._share = lease, share
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._line: deque[asyncio.Future[Turn]] = deque()
        self._finished: deque[str] = deque()
        self._returned: deque[str] = deque()
        self._pause = 0.0  # until when, by the loop's clock
        # What we know of our turns is what a store is told that comes back, whatever it
        # has kept itself.
        self._own = OwnTurns(self._span, lease)  # that the store gave
        self._own_alone = OwnTurns(self._span, lease)  # that were taken without it
        self._lost: list[str] = []  # turns of calls without an answer: booked, or not
        self._closed = False
        self._local: SlidingWindowLimiter | None = None
        self._retry_at = 0.0
        self._look: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()

    @abstractmethod
    async def _book(self, ask: Ask) -> tuple[int, float]:
        """Tell the store; return how many turns it gives, and when to come back (seconds)."""

    @abstractmethod
    async def _let_go(self) -> None:
        """Close the connection to the store."""

    def __repr__(self) -> str:
        """Say what it allows; nothing of the store's address, which may hold a password."""
        where = "by its share alone" if self.alone else "shared"
        return f"<{type(self).__name__} {self._limit} per {self._window} s, {where}>"

    async def __aenter__(self) -> Self:
        """Return it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.aclose()

    async def aclose(self) -> None:
        """Tell the store what has ended, and let go of it.  Who waits is cancelled.

        Turns that end later are not told: their leases end.
        """
        self._closed = True
        for future in self._line:
            future.cancel()
        self._line.clear()
        self._wake.set()
        if self._look is not None:
            self._look.cancel()
        ending = [task for task in (self._driver, self._look) if task is not None]
        if ending:
            await asyncio.wait(ending)
        self._look = None
        await self._let_go()

    @property
    def limit(self) -> int:
        """Turns per window, of all processes together."""
        return self._limit

    @property
    def window(self) -> float:
        """Seconds that a turn counts after its answer."""
        return self._window

    @property
    def waiting(self) -> int:
        """How many callers of this process wait."""
        return sum(not future.done() for future in self._line)

    @property
    def alone(self) -> bool:
        """True while the store is away and the process keeps to its share."""
        return self._local is not None

    # -- what callers do ---------------------------------------------------------------

    async def acquire(self) -> Turn:
        """Wait for a turn; cancelling is safe, and the turn goes to the next.

        Raises:
            KieConnectionError: The store is away and ``share`` is 0; nothing was sent.
            WrongLoopError: It belongs to another event loop.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._loop is not None and not self._loop.is_closed():
                raise WrongLoopError("this limiter belongs to another event loop: make one here")
            self._loop, self._driver, self._wake = loop, None, asyncio.Event()
            self._look = None
        self._closed = False
        future: asyncio.Future[Turn] = loop.create_future()
        self._line.append(future)
        self._drive_on(wake=len(self._line) == 1)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().give_back()
            raise

    def pause(self, seconds: float) -> None:
        """Hold back every caller of every process; after it one goes at a time, for a window.

        Raises:
            UsageError: *seconds* is negative or not finite.
        """
        if not 0 <= seconds < float("inf"):
            raise UsageError(f"pause must be a number of seconds, not {seconds!r}")
        self._pause = max(self._pause, self._now() + seconds)
        if self._local is not None:
            self._local.pause(seconds)
        self._drive_on(wake=True)

    def _ended(self, turn: str, *, finished: bool) -> None:
        (self._finished if finished else self._returned).append(turn)
        loop = self._loop
        if loop is None or loop.is_closed() or self._closed:
            return
        if loop is running_loop():
            self._drive_on(wake=True)
        else:
            loop.call_soon_threadsafe(self._drive_on)

    def _drive_on(self, *, wake: bool = True) -> None:
        if wake:
            self._wake.set()
        loop = running_loop()
        if loop is not None and (self._driver is None or self._driver.done()):
            self._loop = self._loop or loop
            self._driver = loop.create_task(self._drive(), name="kie-limiter")

    # -- the one who drives --------------------------------------------------------------

    async def _drive(self) -> None:
        """Bring ends to the store and turns to the line, until there is neither."""
        while self._line or (self._local is None and self._news):
            if self._local is not None:
                await self._without_store()
                continue
            self._wake.clear()
            wanted = min(self.waiting, CARRIED)
            try:
                granted, wait = await self._ask(wanted)
            except Exception as error:  # noqa: BLE001 - reason: whatever it is, nobody may hang
                self._leave(error)
                continue
            self._hand_out([self._turn(name) for name in granted])
            if self._line:
                await self._sleep(wait)

    @property
    def _news(self) -> bool:
        """True if there is something to tell the store."""
        return bool(self._finished or self._returned or self._pause > self._now())

    def _now(self) -> float:
        loop = running_loop() or self._loop
        return time.monotonic() if loop is None else loop.time()

    async def _sleep(self, seconds: float) -> None:
        """Wait as told, or until something has ended; a few of those go together."""
        try:
            async with asyncio.timeout(max(seconds, GATHER)):
                await self._wake.wait()
                await asyncio.sleep(GATHER)
        except TimeoutError:
            pass

    async def _ask(
        self,
        wanted: int,
        restored: Sequence[tuple[str, float]] = (),
        *,
        patience: float | None = None,
    ) -> tuple[list[str], float]:
        """Make one call; what could not be told is told again by the next one."""
        now = self._now()
        pause, self._pause = self._pause, 0.0
        finished = [self._finished.popleft() for _ in range(min(CARRIED, len(self._finished)))]
        returned = [self._returned.popleft() for _ in range(min(CARRIED, len(self._returned)))]
        numbers = [next(self._numbers) for _ in range(wanted)]
        ask = Ask(
            wanted=wanted,
            numbers=numbers,
            pause=max(0.0, pause - now),
            finished=finished,
            returned=returned,
            restored=restored,
        )
        try:
            async with asyncio.timeout(patience or self._patience):
                granted, wait = await self._book(ask)
        except BaseException:
            self._pause = max(self._pause, pause)
            self._finished.extendleft(reversed(finished))
            self._returned.extendleft(reversed(returned))
            self._lost += map(self._named, numbers)
            raise
        names = [self._named(number) for number in numbers[:granted]]
        now = self._now()
        self._own.end(finished, returned, now)
        self._own_alone.end(finished, returned, now)  # which the store does not know yet
        self._own.take(names, now)
        if self._local is None:  # else it is not told yet which of them have ended
            self._own.forget(now)
        return names, wait

    def _named(self, number: int) -> str:
        return f"{self._name}:{number}"

    def _turn(self, name: str) -> Turn:
        return Turn(lambda finished: self._ended(name, finished=finished))

    def _hand_out(self, turns: list[Turn]) -> None:
        """Give turns to the first in line; what nobody wants any more goes back."""
        for turn in turns:
            while self._line and self._line[0].done():
                self._line.popleft()
            if self._line:
                self._line.popleft().set_result(turn)
            else:
                turn.give_back()
        while self._line and self._line[0].done():
            self._line.popleft()

    # -- without the store ---------------------------------------------------------------

    def _leave(self, error: Exception) -> None:
        """Go on alone, with a share of the limit, or not at all."""
        self._settle()
        now = self._now()
        self._retry_at = now + RETRY
        turns = self._limit * self._share
        # Less than one turn in a window is one in a longer window.
        window = self._window if turns >= 1 or not turns else self._window / turns
        local = SlidingWindowLimiter(max(1, int(turns)), window)
        ages = self._own.ages(now)
        if window > self._window:  # many processes lose the store at once: not all at once
            ages.insert(0, random.uniform(0.0, min([window, *ages])))  # noqa: S311 - no secret
        local.remember(ages[: local.limit])
        local.pause(max(0.0, self._pause - now))
        self._local = local
        kind = type(error).__name__
        how = f"{local.limit} turns per {window:g} s" if self._share else "nothing is sent"
        logger.warning("the store of the rate limit is away (%s): until it is back, %s", kind, how)

    async def _without_store(self) -> None:
        """Serve the first in line from the share, and see whether the store is back."""
        loop = asyncio.get_running_loop()
        left = self._retry_at - loop.time()
        if left < GATHER and self._look is None:
            self._look = loop.create_task(self._ask(0, patience=REACH))
            self._look.add_done_callback(_failure)
            await asyncio.wait([self._look], timeout=self._patience)  # it may be there
        look = self._look
        if look is not None and look.done():
            self._look = None
            await self._come_back(reached=_failure(look) is None)
            return
        self._hand_out([])
        local = self._local
        if not self._line or local is None:
            return
        if not self._share:
            self._refuse()
            return
        taking = loop.create_task(local.acquire())
        waiting = [taking] if look is None else [taking, look]
        try:
            timeout = left if look is None else None
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not taking.done():
                taking.cancel()
                await asyncio.wait([taking])
        if not taking.cancelled():
            self._hand_out([self._turn_alone(taking.result())])

    def _turn_alone(self, turn: Turn) -> Turn:
        """Wrap a turn of the share: if the store is back when it ends, it is told."""
        name = self._named(next(self._numbers))
        self._settle()
        self._own_alone.take([name], self._now())

        def end(finished: bool) -> None:
            (turn.finish if finished else turn.give_back)()
            self._ended(name, finished=finished)

        return Turn(end)

    def _refuse(self) -> None:
        error = "the store of the rate limit cannot be reached; nothing was sent"
        for future in self._line:
            if not future.done():
                future.set_exception(KieConnectionError(error, sent=False))
        self._line.clear()

    def _settle(self) -> None:
        """Note what has ended while nobody could be told."""
        now = self._now()
        finished, returned = list(self._finished), list(self._returned)
        self._finished.clear()
        self._returned.clear()
        self._own.end(finished, returned, now)
        self._own_alone.end(finished, returned, now)
        self._own_alone.forget(now)

    async def _come_back(self, *, reached: bool) -> None:
        """If the store has answered, tell it until when our turns count.

        A store that hung may have booked turns after we gave up: nobody uses them.
        """
        if not reached:
            self._retry_at = self._now() + RETRY
            return
        self._settle()
        self._returned.extend(self._lost)
        now = self._now()
        try:
            await self._ask(0, [*self._own.left(now), *self._own_alone.left(now)])
        except Exception:  # noqa: BLE001 - reason: as in `_drive`
            self._retry_at = self._now() + RETRY
            return
        self._own.join(self._own_alone)
        self._lost.clear()
        self._local = None
        logger.warning("the store of the rate limit is back")


def _failure(look: asyncio.Task[Any]) -> BaseException | None:
    """Return why a look at the store failed, if it did."""
    return asyncio.CancelledError() if look.cancelled() else look.exception()
