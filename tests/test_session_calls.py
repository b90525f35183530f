"""The calls under way: exact deadlines in lines, and nothing left behind."""

from __future__ import annotations

import asyncio
import random

import pytest

from kie_async.session._calls import IDLE_LINES, SLACK, Calls
from tests.clock import jumping


def loop_time() -> float:
    return asyncio.get_running_loop().time()


async def sleeping(calls: Calls[str], timeout: float | None, seconds: float) -> float | None:
    """Sleep within a deadline; return when the deadline struck, or None."""
    call = calls.begin(timeout, "sleep")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        if not call.timed_out:
            raise
        return loop_time()
    finally:
        calls.end(call)
    return None


@jumping
async def test_each_call_ends_exactly_when_its_time_is_over():
    """A thousand calls with few timeouts, begun at any time: each has its own deadline."""
    calls: Calls[str] = Calls(asyncio.get_running_loop())
    rng = random.Random(1)
    wrong: list[tuple[float, float, float | None]] = []

    async def one(start: float, timeout: float, needs: float) -> None:
        await asyncio.sleep(start)
        began = loop_time()
        struck = await sleeping(calls, timeout, needs)
        expected = None if needs < timeout else pytest.approx(began + timeout)
        if struck != expected:
            wrong.append((timeout, needs, struck))

    async with asyncio.TaskGroup() as group:
        for _ in range(1000):
            timeout = rng.choice([1.0, 7.0, 30.0])
            needs = timeout * rng.choice([0.01, 0.5, 0.9, 1.1, 4.0])
            group.create_task(one(rng.random() * 20.0, timeout, needs))

    assert not wrong
    assert len(calls) == 0


@jumping
async def test_a_call_without_a_timeout_ends_only_when_it_is_ended():
    """A close fires it; until then it may take for ever."""
    calls: Calls[str] = Calls(asyncio.get_running_loop())
    task = asyncio.create_task(sleeping(calls, None, 1e9))
    await asyncio.sleep(1e6)

    for call in calls.running():
        call.fire()
        call.fire()

    assert await task == loop_time()
    assert task.cancelling() == 0


@jumping
async def test_a_cancellation_by_the_caller_is_told_from_the_deadline():
    """Even in the very moment in which both come."""
    calls: Calls[str] = Calls(asyncio.get_running_loop())
    alone = asyncio.create_task(sleeping(calls, 10.0, 1e9))
    both = asyncio.create_task(sleeping(calls, 10.0, 1e9))
    await asyncio.sleep(5.0)
    alone.cancel()
    [last] = [call for call in calls.running() if call.task is both]
    last.fire()
    both.cancel()

    ends = await asyncio.gather(alone, both, return_exceptions=True)

    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert len(calls) == 0


@jumping
async def test_one_long_call_does_not_keep_the_short_ones_behind_it():
    """The line of a long wait stays as short as what still runs in it."""
    calls: Calls[str] = Calls(asyncio.get_running_loop())
    long = asyncio.create_task(sleeping(calls, 900.0, 1e9))
    await asyncio.sleep(0)

    for _ in range(10_000):
        assert await sleeping(calls, 900.0, 0.01) is None

    [line] = calls._lines.values()
    assert len(line.calls) <= 2 + 2 * SLACK
    assert await long == pytest.approx(900.0)


@jumping
async def test_thousands_of_different_timeouts_leave_few_timers():
    """Whoever computes his timeouts has a new one each time."""
    calls: Calls[str] = Calls(asyncio.get_running_loop())

    for number in range(1000):
        assert await sleeping(calls, 900.0 + number / 7, 0.01) is None

    assert len(calls._lines) <= IDLE_LINES + 1
    calls.close()
    assert not calls._lines
