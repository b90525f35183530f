"""`try_acquire`: a turn at once or none, and never past those who wait."""

from __future__ import annotations

import asyncio

import pytest

from kie_async.limiter import SlidingWindowLimiter, Unlimited
from tests.clock import jumping


@jumping
async def test_turns_are_given_at_once_up_to_the_limit():
    """The fourth of three gets None, and one window after their end there are three more."""
    limiter = SlidingWindowLimiter(3, 10.0)

    turns = [limiter.try_acquire() for _ in range(4)]

    assert [turn is not None for turn in turns] == [True, True, True, False]
    for turn in turns[:3]:
        assert turn is not None
        turn.finish()
    await asyncio.sleep(9.9)
    assert limiter.try_acquire() is None
    await asyncio.sleep(0.2)
    assert limiter.try_acquire() is not None
    assert limiter.in_window == 1


@jumping
async def test_nobody_goes_past_those_who_wait():
    """A free turn belongs to the first in line, even before he has woken up."""
    limiter = SlidingWindowLimiter(1, 10.0)
    held = limiter.try_acquire()
    assert held is not None
    first = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(0)

    held.give_back()

    assert limiter.try_acquire() is None
    (await first).give_back()
    assert limiter.try_acquire() is not None


@jumping
async def test_a_pause_holds_back_those_too_who_do_not_wait():
    """And it ends."""
    limiter = SlidingWindowLimiter(5, 10.0)
    limiter.pause(30.0)

    assert limiter.try_acquire() is None
    await asyncio.sleep(30.1)
    assert limiter.try_acquire() is not None


@jumping
async def test_without_a_limit_there_is_always_a_turn():
    """Also the thousandth."""
    limiter = Unlimited()

    assert all(limiter.try_acquire() for _ in range(1000))


def test_outside_of_a_loop_it_says_so():
    """As `acquire` does."""
    with pytest.raises(RuntimeError, match="event loop"):
        SlidingWindowLimiter(1, 1.0).try_acquire()
