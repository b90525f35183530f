"""A limiter whose book a store keeps, for all processes of an account.

One task drives: whatever waits or has ended goes to the store in one call, however many
callers there are, and the store says who may go and when to come back.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from attrs import frozen

from kie_async.errors import KieConnectionError, UsageError, WrongLoopError
from kie_async.limiter._line import SlidingWindowLimiter
from kie_async.limiter._turn import Turn
from kie_async.limiter._window import SlidingWindow

__all__ = ["Ask", "StoreLimiter"]

logger = logging.getLogger("kie_async.limiter")

RETRY = 1.0
"""Seconds between two looks whether the store is there again."""
GATHER = 0.002
"""Seconds in which ends are gathered into one call."""
CARRIED = 500
"""Turns wanted, or ends told, in one call: a script that runs long holds up everybody."""


@frozen(kw_only=True)
class Ask:
    """What one call tells the store, and what it wants; times are in seconds.

    Attributes:
        wanted: Turns for callers who wait, and
        numbers: how these turns will be called, behind the process's name.
        pause: Hold everybody back for so long.
        finished: Turns whose answer has come.
        returned: Turns that were not used.
        restored: Turns taken while the store was away, and how long each still counts.
    """

    wanted: int
    numbers: Sequence[int]
    pause: float
    finished: Sequence[str]
    returned: Sequence[str]
    restored: Sequence[tuple[str, float]]


class StoreLimiter(ABC):
    """What `RedisLimiter` and `PostgresLimiter` have in common: all but the store."""

    _away: ClassVar[tuple[type[Exception], ...]]
    """What a store raises that cannot be asked."""

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
        self._failures: tuple[type[Exception], ...] = (*self._away, OSError, TimeoutError)
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._line: deque[asyncio.Future[Turn]] = deque()
        self._finished: deque[str] = deque()
        self._returned: deque[str] = deque()
        self._pause = 0.0
        # The last turns and their loop times: for the fallback, and for a flushed store.
        self._taken: deque[tuple[str, float]] = deque(maxlen=book.limit)
        self._local: SlidingWindowLimiter | None = None
        self._retry_at = 0.0
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
        """Tell the store what has ended, and let go of it.  Who waits is cancelled."""
        for future in self._line:
            future.cancel()
        self._line.clear()
        self._wake.set()
        if self._driver is not None:
            await asyncio.wait([self._driver])
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
        self._pause = max(self._pause, seconds)
        if self._local is not None:
            self._local.pause(seconds)
        self._drive_on(wake=True)

    def _ended(self, turn: str, *, finished: bool) -> None:
        (self._finished if finished else self._returned).append(turn)
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if loop is _running_loop():
            self._drive_on(wake=True)
        else:
            loop.call_soon_threadsafe(self._drive_on)

    def _drive_on(self, *, wake: bool = True) -> None:
        if wake:
            self._wake.set()
        loop = _running_loop()
        if loop is not None and (self._driver is None or self._driver.done()):
            self._loop = self._loop or loop
            self._driver = loop.create_task(self._drive(), name="kie-limiter")

    # -- the one who drives --------------------------------------------------------------

    async def _drive(self) -> None:
        """Bring ends to the store and turns to the line, until there is neither."""
        while self._line or self._finished or self._returned or self._pause:
            if self._local is not None:
                await self._without_store()
                continue
            self._wake.clear()
            wanted = min(self.waiting, CARRIED)
            try:
                granted, wait = await self._ask(wanted)
            except self._failures as error:
                self._leave(error)
                continue
            self._hand_out([self._turn(name) for name in granted])
            if self._line:
                await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        """Wait as told, or until something has ended; a few of those go together."""
        try:
            async with asyncio.timeout(max(seconds, GATHER)):
                await self._wake.wait()
                await asyncio.sleep(GATHER)
        except TimeoutError:
            pass

    async def _ask(
        self, wanted: int, restored: Sequence[tuple[str, float]] = ()
    ) -> tuple[list[str], float]:
        """Make one call; what could not be told is told again by the next one."""
        pause, self._pause = self._pause, 0.0
        finished = [self._finished.popleft() for _ in range(min(CARRIED, len(self._finished)))]
        returned = [self._returned.popleft() for _ in range(min(CARRIED, len(self._returned)))]
        numbers = [next(self._numbers) for _ in range(wanted)]
        ask = Ask(
            wanted=wanted,
            numbers=numbers,
            pause=pause,
            finished=finished,
            returned=returned,
            restored=restored,
        )
        try:
            async with asyncio.timeout(self._patience):
                granted, wait = await self._book(ask)
        except BaseException:
            self._pause = max(self._pause, pause)
            self._finished.extendleft(reversed(finished))
            self._returned.extendleft(reversed(returned))
            raise
        now = asyncio.get_running_loop().time()
        names = [f"{self._name}:{number}" for number in numbers[:granted]]
        self._taken.extend((name, now) for name in names)
        return names, wait

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
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._retry_at = now + RETRY
        self._finished.clear()  # their leases end by themselves
        self._returned.clear()
        turns = int(self._limit * self._share)
        self._local = SlidingWindowLimiter(max(1, turns), self._window)
        ages = [now - at for _, at in self._taken if now - at < self._span]
        self._local.remember(ages[-max(1, turns) :])
        self._local.pause(self._pause)
        kind = type(error).__name__
        how = f"{max(1, turns)} turns per {self._window:g} s" if self._share else "nothing is sent"
        logger.warning("the store of the rate limit is away (%s): until it is back, %s", kind, how)

    async def _without_store(self) -> None:
        """Serve the first in line from the share, or see whether the store is back."""
        loop = asyncio.get_running_loop()
        left = self._retry_at - loop.time()
        if left <= 0:
            await self._come_back()
            return
        self._hand_out([])
        local = self._local
        if not self._line or local is None:
            self._wake.clear()
            self._finished.clear()
            self._returned.clear()
            self._pause = 0.0
            return
        if not self._share:
            self._refuse()
            return
        taking = loop.create_task(local.acquire())
        try:
            await asyncio.wait([taking], timeout=left)
        finally:
            if not taking.done():
                taking.cancel()
                await asyncio.wait([taking])
        if not taking.cancelled():
            self._taken.append((f"{self._name}:{next(self._numbers)}", loop.time()))
            self._hand_out([taking.result()])

    def _refuse(self) -> None:
        error = "the store of the rate limit cannot be reached; nothing was sent"
        for future in self._line:
            if not future.done():
                future.set_exception(KieConnectionError(error, sent=False))
        self._line.clear()

    async def _come_back(self) -> None:
        """Look whether the store answers; tell it what was taken meanwhile."""
        now = asyncio.get_running_loop().time()
        restored = [
            (name, self._span - (now - at)) for name, at in self._taken if now - at < self._span
        ]
        try:
            await self._ask(0, restored)
        except self._failures:
            self._retry_at = asyncio.get_running_loop().time() + RETRY
            return
        self._local = None
        logger.warning("the store of the rate limit is back")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
