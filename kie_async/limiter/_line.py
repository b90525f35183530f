"""The sliding window for asyncio: a line of callers, one timer per event loop."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from kie_async.limiter._loops import running_loop
from kie_async.limiter._turn import Turn
from kie_async.limiter._window import LIMIT, WINDOW, SlidingWindow, check_seconds

__all__ = ["SlidingWindowLimiter"]


class _WindowTurn(Turn):
    """A turn that posts its end; it takes no lock, so that even a collector may end it."""

    __slots__ = ("_limiter", "_loop")

    def __init__(self, limiter: SlidingWindowLimiter, loop: asyncio.AbstractEventLoop) -> None:
        self._limiter: SlidingWindowLimiter | None = limiter  # None: it has ended
        self._loop = loop

    def finish(self) -> None:
        limiter = self._limiter
        if limiter is not None:
            self._limiter = None
            # Nobody is to be woken: who waits has a timer no later than this turn's end.
            limiter._posted.append(self._loop.time())  # noqa: SLF001 - its own turn

    def give_back(self) -> None:
        limiter = self._limiter
        if limiter is not None:
            self._limiter = None
            limiter._post(None)  # noqa: SLF001 - its own turn


class _Station:
    """What one event loop has at a limiter: its waiters' number, and one timer."""

    __slots__ = ("due", "loop", "timer", "waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.waiting = 0
        self.due = math.inf
        self.timer: asyncio.TimerHandle | None = None


class _Waiter:
    """One caller in line.  It leaves the line granted or gone, whichever is first."""

    __slots__ = ("future", "gone", "granted", "station")

    def __init__(self, station: _Station) -> None:
        self.station = station
        self.future: asyncio.Future[None] = station.loop.create_future()
        self.granted = False
        self.gone = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class SlidingWindowLimiter:
    """At most *limit* turns in any *window*: first come, first served.

    Usable from several event loops, in one thread after another or in several threads at
    once, as long as their clocks are the same one (asyncio's own are).  Waiting costs one
    future per caller and one timer per loop.  A waiter of a closed loop is skipped.

    Args:
        limit: Turns per window.
        window: Seconds; a turn counts this long after its answer.
        spread: See :class:`SlidingWindow`.

    Raises:
        UsageError: *limit* is not a whole number from 1, or *window* not a finite
            number above 0.
    """

    def __init__(self, limit: int = LIMIT, window: float = WINDOW, *, spread: bool = False) -> None:
        self._book = SlidingWindow(limit, window, spread=spread)
        self._lock = threading.Lock()
        self._line: deque[_Waiter] = deque()  # those that have gone are in it until their turn
        self._waiting = 0
        self._stations: dict[asyncio.AbstractEventLoop, _Station] = {}
        # What has happened and is not in the book yet: a time is an answer, None a turn
        # given back, a waiter one that has gone.  Posting takes no lock: a garbage
        # collector may close a coroutine, and so end its turn, while this very thread
        # holds the lock.
        self._posted: deque[float | _Waiter | None] = deque()

    def __repr__(self) -> str:
        """Say what it allows and who waits."""
        return f"<SlidingWindowLimiter {self.limit} per {self.window} s, {self._waiting} waiting>"

    @property
    def limit(self) -> int:
        """Turns per window."""
        return self._book.limit

    @property
    def window(self) -> float:
        """Seconds that a turn counts after its answer."""
        return self._book.window

    @property
    def waiting(self) -> int:
        """How many callers wait for their turn."""
        return self._waiting

    @property
    def in_window(self) -> int:
        """How many turns count now, those without an answer included."""
        self._settle()
        with self._lock:
            counted = self._book.counted(_now())
        self._settle()
        return counted

    def try_acquire(self) -> Turn | None:
        """Take a turn if one is free now and nobody waits for it; else return None.

        Call it in a running event loop, as :meth:`acquire`.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            turn = None if self._waiting else self._free_turn(loop)
        if turn is None and self._posted:  # by another thread, which found the lock held
            self._settle()
        return turn

    def _free_turn(self, loop: asyncio.AbstractEventLoop) -> Turn | None:
        """Book a turn if one is free and nobody waits.  The lock is held."""
        # What is posted unread still counts as unanswered: that is on the safe side.
        if not self._waiting and self._book.take(loop.time()):
            return _WindowTurn(self, loop)
        if self._posted:
            self._read_posted()
            if not self._waiting and self._book.take(loop.time()):
                return _WindowTurn(self, loop)
        return None

    async def acquire(self) -> Turn:
        """Wait for a turn; it is counted from here until one window after its end.

        Cancelling is safe at any point: a turn that was already granted goes to the next
        in line.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            turn = self._free_turn(loop)
            if turn is not None:
                return turn
            waiter = self._join(loop)
        if self._posted:
            self._settle()
        try:
            await waiter.future
        except BaseException:
            self._post(waiter)
            raise
        return _WindowTurn(self, loop)

    def pause(self, seconds: float) -> None:
        """Hold every caller back for *seconds* from now, in all loops.

        A longer pause in force stays in force.  Turns already taken are not affected.  In
        the window after the pause callers leave one by one, and from then on there are no
        more bursts but after idle time.  Any jitter is the caller's to add.

        Raises:
            UsageError: *seconds* is negative or not finite.
        """
        seconds = check_seconds(seconds, "pause")
        with self._lock:
            # Timers in force come too early now; they look again and are set anew.
            self._book.pause(_now(), seconds)
        self._settle()

    def remember(self, ages: Iterable[float]) -> None:
        """Count turns that an earlier process took, so that a restart is no second burst.

        Args:
            ages: Seconds since each one's answer came, or its process was last seen.
        """
        with self._lock:
            self._book.remember(_now(), ages)
        self._settle()

    def _join(self, loop: asyncio.AbstractEventLoop) -> _Waiter:
        """Put a new waiter of *loop* in line; it has a timer from here on."""
        station = self._stations.get(loop)
        if station is None:
            self._stations = {k: s for k, s in self._stations.items() if not k.is_closed()}
            station = self._stations[loop] = _Station(loop)
        waiter = _Waiter(station)
        self._line.append(waiter)
        self._waiting += 1
        station.waiting += 1
        self._arm(station)
        return waiter

    def _post(self, event: _Waiter | None) -> None:
        """Note a turn given back or a waiter gone, and let the next in line go."""
        self._posted.append(event)
        self._settle()

    def _settle(self) -> None:
        """Bring the book up to date, and wake whose turn it is.

        If somebody else holds the lock, he looks into the post after he has released it;
        so nothing posted is ever overlooked.
        """
        while self._posted and self._lock.acquire(blocking=False):
            try:
                self._read_posted()
                granted = self._grant()
                late = self._overdue()
            finally:
                self._lock.release()
            self._wake(granted)
            if late is not None:
                self._call(late, self._tick, late)

    def _read_posted(self) -> None:
        """Write into the book what was posted."""
        posted, book = self._posted, self._book
        while posted:
            event = posted.popleft()
            if event is None:
                book.give_back()
            elif not isinstance(event, _Waiter):
                book.finish(event)
            elif event.granted:
                book.give_back()
            else:
                self._drop(event)

    def _drop(self, waiter: _Waiter) -> None:
        """Count a waiter out; its place in the line is cleared when its time comes."""
        if waiter.gone:
            return
        waiter.gone = True
        waiter.station.waiting -= 1
        self._waiting -= 1
        if len(self._line) > 64 + 2 * self._waiting:  # at most half of the line is empty places
            self._line = deque(w for w in self._line if not w.gone)

    def _grant(self) -> list[_Waiter]:
        """Book turns for the first in line, as many as are free."""
        granted: list[_Waiter] = []
        while self._line:
            first = self._line[0]
            loop = first.station.loop
            if first.gone or first.future.done() or loop.is_closed():
                self._line.popleft()
                self._drop(first)
                continue
            if not self._book.take(loop.time()):
                break
            self._line.popleft()
            first.granted = True
            first.station.waiting -= 1
            self._waiting -= 1
            granted.append(first)
        return granted

    def _wake(self, granted: list[_Waiter]) -> None:
        """Resolve the futures, each in its own loop."""
        for waiter in granted:
            if not self._call(waiter.station, waiter.wake):
                self._posted.append(waiter)  # its loop closed this moment: to the next in line

    def _call(self, station: _Station, what: Callable[..., object], *args: object) -> bool:
        """Run *what* in the station's loop; return False if that loop is closed."""
        if station.loop is running_loop():
            what(*args)
            return True
        try:
            station.loop.call_soon_threadsafe(what, *args)
        except RuntimeError:
            return False
        return True

    def _overdue(self) -> _Station | None:
        """Return the first one's station if its timer would ring too late."""
        if not self._line:
            return None
        station = self._line[0].station
        opening = self._book.next_free(station.loop.time())
        return station if opening < station.due else None

    def _arm(self, station: _Station) -> None:
        """Set the loop's timer, unless it rings in time already.  In that loop only."""
        opening = self._book.next_free(station.loop.time())
        if opening >= station.due:
            return
        if station.timer is not None:
            station.timer.cancel()
        station.due = opening
        station.timer = station.loop.call_at(opening, self._ring, station)

    def _ring(self, station: _Station) -> None:
        """The timer rang."""
        station.timer = None
        station.due = math.inf
        self._tick(station)

    def _tick(self, station: _Station) -> None:
        """Let go whose turn it is, and set the timer for the next one."""
        with self._lock:
            self._read_posted()
            granted = self._grant()
            if station.waiting:
                self._arm(station)
            late = self._overdue()
        self._wake(granted)
        if late is not None:
            self._call(late, self._tick, late)
        self._settle()


def _now() -> float:
    loop = running_loop()
    return time.monotonic() if loop is None else loop.time()
