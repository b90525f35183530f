"""The edges of the limiters, for the mistakes that `tests.mutation` puts in."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

import pytest

from kie_async import SlidingWindowLimiter, UsageError
from kie_async.errors import WrongLoopError
from kie_async.limiter import SlidingWindow
from kie_async.redis_limiter import RedisLimiter
from tests.clock import JumpingLoop, jumping, run_jumping

AWAY = "redis://127.0.0.1:1/0"


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [-0.001, -1.0, math.inf, -math.inf, math.nan])
async def test_a_pause_is_a_number_of_seconds(seconds: float):
    """Of a limiter on a store as of a local one: else nobody would ever go on."""
    async with RedisLimiter.from_url(AWAY, "account") as limiter:
        with pytest.raises(UsageError, match="number of seconds"):
            limiter.pause(seconds)
    with pytest.raises(UsageError, match="pause must"):
        SlidingWindowLimiter().pause(seconds)


@pytest.mark.asyncio
async def test_a_store_limiter_belongs_to_one_loop_at_a_time():
    """Another loop is refused while the first one is open, and taken when it has closed."""
    other = asyncio.new_event_loop()
    async with RedisLimiter.from_url(AWAY, "account") as limiter:
        limiter._loop = other
        with pytest.raises(WrongLoopError):
            await limiter.acquire()
        other.close()
        (await limiter.acquire()).finish()

        assert limiter.alone
        assert limiter._loop is asyncio.get_running_loop()


def test_loops_that_have_closed_are_forgotten():
    """A limiter that lives as long as its process, and loops that come and go."""
    limiter = SlidingWindowLimiter(3, 10.0)

    async def take() -> None:
        turns = [await limiter.acquire() for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await limiter.acquire()
        for turn in turns:
            turn.give_back()
        assert (limiter.in_window, limiter.waiting) == (0, 0)

    for _ in range(5):
        asyncio.run(take())

    assert len(limiter._stations) == 1


class _Closing(JumpingLoop):
    """It closes between the moment it is asked and the moment it is called."""

    closing = False

    def call_soon_threadsafe(self, *args: Any, **named: Any) -> asyncio.Handle:
        if self.closing:
            raise RuntimeError("Event loop is closed")
        return super().call_soon_threadsafe(*args, **named)


def test_a_turn_for_a_loop_that_closes_this_moment_goes_to_the_next():
    """It was booked for a caller who cannot be woken any more."""
    limiter = SlidingWindowLimiter(limit=1)
    closing = _Closing()
    held = closing.run_until_complete(limiter.acquire())
    lost = closing.create_task(limiter.acquire())
    closing.run_until_complete(asyncio.sleep(0))
    closing.closing = True

    async def main() -> None:
        next_one = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        held.give_back()
        (await next_one).give_back()
        assert asyncio.get_running_loop().time() == 0.0
        assert (limiter.waiting, limiter.in_window) == (0, 0)

    run_jumping(main())
    closing.closing = False
    lost.cancel()
    closing.run_until_complete(asyncio.wait([lost]))
    closing.close()


class _Interrupted:
    """A lock; something happens just before it is let go."""

    def __init__(self, lock: Any, then: Callable[[], None]) -> None:
        self._lock, self._then = lock, [then]
        self.acquire, self.release = lock.acquire, lock.release

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_error: object) -> None:
        while self._then:
            self._then.pop()()
        self._lock.release()


@pytest.mark.parametrize("way", ["try_acquire", "acquire", "pause", "remember", "in_window"])
@jumping
async def test_a_turn_that_ends_while_the_book_is_open_wakes_who_waits(way: str):
    """Whoever had the lock looks into the post: there may be nobody else for an hour."""
    limiter = SlidingWindowLimiter(1, 3600.0)
    held = await limiter.acquire()
    waiting = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)
    limiter._lock = _Interrupted(limiter._lock, held.give_back)  # type: ignore[assignment]
    more: asyncio.Task[Any] | None = None
    match way:
        case "try_acquire":
            assert limiter.try_acquire() is None
        case "acquire":
            more = asyncio.create_task(limiter.acquire())
        case "pause":
            limiter.pause(0.0)
        case "remember":
            limiter.remember([])
        case "in_window":
            assert limiter.in_window <= 1
    await waiting
    assert asyncio.get_running_loop().time() == 0.0
    if more is not None:
        more.cancel()
        await asyncio.wait([more])


@jumping
async def test_those_who_gave_up_take_no_room_in_the_line():
    """The line is never more than twice as long as it must be, and 64 places."""
    limiter = SlidingWindowLimiter(1, 1000.0)
    (await limiter.acquire()).finish()
    waits = [asyncio.ensure_future(limiter.acquire()) for _ in range(1000)]
    await asyncio.sleep(1.0)
    for wait in waits[:-10]:
        wait.cancel()
    await asyncio.gather(*waits[:-10], return_exceptions=True)

    assert limiter.waiting == 10
    assert len(limiter._line) <= 64 + 2 * 10
    for wait in waits[-10:]:
        wait.cancel()
    await asyncio.gather(*waits[-10:], return_exceptions=True)
    assert limiter.waiting == 0


def test_the_calm_after_a_pause_ends_by_another_clock_too():
    """One that began at zero: else turns would leave one by one for days."""
    book = SlidingWindow(20, 10.0)
    book.pause(1_000_000.0, 5.0)

    assert book.next_free(0.0) == 5.0
    assert book.take(5.0)
    assert not book.take(5.1)
    assert all(book.take(5.0 + book.span) for _ in range(19))
