"""A limiter whose book a store keeps, for all processes of an account.

One task drives: whatever waits or has ended goes to the store in one call, however many
callers there are, and the store says who may go and when to come back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, ClassVar, Self

from kie_async.errors import KieConnectionError, UsageError, WrongLoopError
from kie_async.limiter._ask import Ask
from kie_async.limiter._callers import Callers
from kie_async.limiter._ledger import Ledger
from kie_async.limiter._line import SlidingWindowLimiter
from kie_async.limiter._loops import running_loop
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
GRACE = 0.02
"""Seconds, of those for a call, in which an answer that is here already is read."""


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
        self._ledger = Ledger(self._span, lease)
        self._line = Callers()
        self._closed = False
        self._local: SlidingWindowLimiter | None = None
        self._retry_at = 0.0
        self._process = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._driver: asyncio.Task[None] | None = None
        self._look: asyncio.Task[Any] | None = None
        self._taking: asyncio.Task[Any] | None = None
        self._wake = asyncio.Event()
        self._open = asyncio.Event()  # clear while it is being closed

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

        Turns that end later are not told: their leases end.  Who wants a turn meanwhile
        waits for the close, and may use the limiter again.
        """
        was_alone = self.alone
        self._closed = True
        self._open.clear()
        try:
            self._line.cancel()
            self._wake.set()
            for helper in (self._look, self._taking):
                if helper is not None:
                    helper.cancel()
            ending = [task for task in (self._driver, self._look) if task is not None]
            if ending:
                await asyncio.wait(ending)
            self._look = None
            if self._loop is running_loop():
                if was_alone and self.alone and self._ledger.counts(self._now()):
                    await self._come_back()
                await self._drive()  # what ended in another thread just now
            await self._let_go()
        finally:
            self._open.set()

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
        return len(self._line)

    @property
    def alone(self) -> bool:
        """True while the store is away and the process keeps to its share."""
        return self._local is not None

    # -- what callers do ---------------------------------------------------------------

    async def acquire(self) -> Turn:
        """Wait for a turn; cancelling is safe, and the turn goes to the next.

        Raises:
            KieConnectionError: The store is away and ``share`` is 0; nothing was sent.
            WrongLoopError: It belongs to another event loop, or to another process.
        """
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._bind(loop)
        if not self._open.is_set():
            await self._open.wait()
        self._closed = False
        future = self._line.join(loop)
        self._drive_on(wake=len(self._line) == 1)
        try:
            return await future
        except BaseException:
            self._line.leave(future)
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().give_back()
            raise

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to *loop*, and to this process: two must not take turns by one name."""
        if self._loop is not None and not self._loop.is_closed():
            raise WrongLoopError("this limiter belongs to another event loop: make one here")
        if self._process not in (0, os.getpid()):
            raise WrongLoopError("this limiter was used before a fork: make one in each process")
        self._process = os.getpid()
        self._loop, self._driver, self._look, self._taking = loop, None, None, None
        self._line, self._wake, self._open = Callers(), asyncio.Event(), asyncio.Event()
        self._open.set()

    def pause(self, seconds: float) -> None:
        """Hold back every caller of every process; after it one goes at a time, for a window.

        Raises:
            UsageError: *seconds* is negative or not finite.
        """
        if not 0 <= seconds < float("inf"):
            raise UsageError(f"pause must be a number of seconds, not {seconds!r}")
        self._ledger.pause(self._now() + seconds)
        if self._local is not None:
            self._local.pause(seconds)
        self._go_on()

    def _ended(self, turn: str, *, finished: bool) -> None:
        self._ledger.end(turn, self._now(), finished=finished)
        if self._loop is not None and not self._loop.is_closed():
            self._go_on()

    def _go_on(self) -> None:
        """Have the driver look at what is new, whichever thread says so."""
        loop = self._loop
        if loop is None or loop.is_closed() or loop is running_loop():
            self._drive_on()
        else:
            loop.call_soon_threadsafe(self._drive_on)

    def _drive_on(self, *, wake: bool = True) -> None:
        loop = running_loop()
        if loop is None or self._closed:
            return
        if self._loop is not loop:
            self._bind(loop)
        if wake:
            self._wake.set()
        if self._driver is None or self._driver.done():
            self._driver = loop.create_task(self._drive(), name="kie-limiter")

    # -- the one who drives --------------------------------------------------------------

    async def _drive(self) -> None:
        """Bring ends to the store and turns to the line, until there is neither."""
        while self._has_work:
            if self._local is not None:
                await self._without_store()
                continue
            self._wake.clear()
            ask = self._ledger.ask(len(self._line), self._now())
            try:
                granted, wait = await self._call(ask, self._patience)
            except Exception as error:  # noqa: BLE001 - reason: whatever it is, nobody may hang
                self._leave(error)
                continue
            for name in self._ledger.told(ask, granted, self._now()):
                self._line.hand_out(self._turn(name))
            if self._line:
                await self._sleep(wait)

    @property
    def _has_work(self) -> bool:
        if self._line:
            return True
        if self._local is None:
            return self._ledger.has_news(self._now())
        return not self._closed and self._ledger.counts(self._now())

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

    async def _call(self, ask: Ask, seconds: float) -> tuple[int, float]:
        """Make one call; what it could not tell is told by the next one.

        It is made again at once if it fails: the connection may have been cut off while it
        was idle, and the store knows a call by its number.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                # A loop that stood still must not find the time over before it has read.
                timer = loop.call_later(
                    seconds - GRACE, lambda: limit.reschedule(loop.time() + GRACE)
                )
                try:
                    with contextlib.suppress(Exception):
                        return await self._book(ask)
                    return await self._book(ask)
                finally:
                    timer.cancel()
        except BaseException:
            self._ledger.failed(ask, loop.time())
            raise

    def _turn(self, name: str) -> Turn:
        return Turn(lambda finished: self._ended(name, finished=finished))

    # -- without the store ---------------------------------------------------------------

    def _leave(self, error: Exception) -> None:
        """Go on alone, with a share of the limit, or not at all."""
        now = self._now()
        self._retry_at = now + RETRY
        ages, pause = self._ledger.leave(now)
        turns = self._limit * self._share
        # Less than one turn in a window is one in a longer window.
        window = self._window if turns >= 1 or not turns else self._window / turns
        local = SlidingWindowLimiter(max(1, int(turns)), window)
        if window > self._window:  # many processes lose the store at once: not all at once
            ages.insert(0, random.uniform(0.0, min([window, *ages])))  # noqa: S311 - no secret
        local.remember(ages[: local.limit])
        local.pause(pause)
        self._local = local
        kind = type(error).__name__
        how = f"{local.limit} turns per {window:g} s" if self._share else "nothing is sent"
        logger.warning("the store of the rate limit is away (%s): until it is back, %s", kind, how)

    async def _without_store(self) -> None:
        """Serve the first in line from the share, and see whether the store is back."""
        loop = asyncio.get_running_loop()
        left = self._retry_at - loop.time()
        if left < GATHER and self._look is None:
            self._look = loop.create_task(self._call(self._ledger.look(), REACH))
            self._look.add_done_callback(_failure)
            await asyncio.wait([self._look], timeout=self._patience)  # it may be there
        look = self._look
        if look is not None and look.done():
            self._look = None
            self._retry_at = loop.time() + RETRY
            if _failure(look) is None:
                await self._come_back()
        elif self._share or not self._line:
            await self._served(left if look is None else None)
        else:
            error = "the store of the rate limit cannot be reached; nothing was sent"
            self._line.fail(lambda: KieConnectionError(error, sent=False))

    async def _served(self, seconds: float | None) -> None:
        """Serve the first in line; or wait until there is one, or a look ends, or *seconds*."""
        assert self._local is not None  # noqa: S101 - only then
        self._ledger.settle(self._now())
        self._wake.clear()
        loop = asyncio.get_running_loop()
        taking = loop.create_task(self._local.acquire() if self._line else self._wake.wait())
        self._taking = taking
        waiting = [taking] if self._look is None else [taking, self._look]
        try:
            await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._taking = None
            if not taking.done():
                taking.cancel()
                await asyncio.wait([taking])
        if not taking.cancelled() and isinstance(turn := taking.result(), Turn):
            self._line.hand_out(self._turn_alone(turn))

    def _turn_alone(self, turn: Turn) -> Turn:
        """Wrap a turn of the share: if the store is back when it ends, it is told."""
        name = self._ledger.take_alone(self._now())

        def end(finished: bool) -> None:
            (turn.finish if finished else turn.give_back)()
            self._ended(name, finished=finished)

        return Turn(end)

    async def _come_back(self) -> None:
        """The store has answered: tell it until when our turns count."""
        ask = self._ledger.everything(self._now())
        try:
            await self._call(ask, self._patience)
        except Exception:  # noqa: BLE001 - reason: as in `_drive`
            return
        self._ledger.told(ask, 0, self._now())
        self._local = None
        logger.warning("the store of the rate limit is back")


def _failure(look: asyncio.Task[Any]) -> BaseException | None:
    """Return why a look at the store failed, if it did."""
    return asyncio.CancelledError() if look.cancelled() else look.exception()
