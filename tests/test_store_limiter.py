"""What `StoreLimiter` does about a store, whichever it is: on a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from kie_async.errors import KieConnectionError
from kie_async.limiter import Ask, StoreLimiter
from kie_async.limiter._own import FEW, OwnTurns
from kie_async.testing import in_virtual_time


class Store(StoreLimiter):
    """A store of one process: it gives what is wanted, or raises."""

    error: Exception | None = None
    pauses: list[float]
    connecting = 0.0

    async def _book(self, ask: Ask) -> tuple[int, float]:
        await asyncio.sleep(self.connecting)
        self.connecting = 0.0  # a call that is cut off has not connected
        if self.error is not None:
            raise self.error
        self.pauses.append(ask.pause)
        return ask.wanted, 0.0

    async def _let_go(self) -> None:
        pass


def store(**settings) -> Store:
    made = Store("test", **{"limit": 20, "window": 10.0, "share": 0.1, "lease": 35.0, **settings})
    made.pauses = []
    return made


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 1 / 3])
@in_virtual_time
async def test_many_processes_without_a_store_keep_to_the_limit_together(share):
    """Also where each one's share is less than a turn; a burst may come at the beginning."""
    random.seed(1)
    loop, times = asyncio.get_running_loop(), []
    processes = [store(share=share) for _ in range(int(1 / share))]

    async def send(limiter: Store) -> None:
        while loop.time() < 150.0:
            with await limiter.acquire():
                times.append(loop.time())

    for process in processes:
        process.error = OSError("away")
    async with asyncio.TaskGroup() as group:
        for process in processes:
            group.create_task(send(process))

    times = [at for at in times if at < 150.0]
    assert 0.7 * 20 * 15 <= len(times) <= 20 * 15 + 20
    for first, later in zip(times, times[40:], strict=False):
        assert later - first >= 10.0  # never more than one burst too many


@pytest.mark.parametrize("error", [ValueError("odd"), RuntimeError("odd"), TypeError("odd")])
@in_virtual_time
async def test_no_error_of_a_driver_lets_anybody_hang(error):
    """Whatever a library raises, the process goes on alone, and comes back."""
    limiter = store()
    limiter.error = error
    async with limiter, asyncio.timeout(60.0):
        (await limiter.acquire()).finish()
        assert limiter.alone
        limiter.error = None
        while limiter.alone:
            (await limiter.acquire()).finish()


@in_virtual_time
async def test_a_store_that_is_slow_to_connect_to_is_reached_all_the_same():
    """A far one, by TLS: the share is used meanwhile, and nobody waits for the connection."""
    limiter = store(share=1.0)
    limiter.connecting = 1.5
    loop = asyncio.get_running_loop()
    async with limiter, asyncio.timeout(10.0):
        for _ in range(20):
            (await limiter.acquire()).finish()
        assert loop.time() < 0.5  # the first call alone was waited for
        while not limiter.pauses:
            waiting = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0.1)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert loop.time() == pytest.approx(0.25 + 1.0 + 1.5, abs=0.2)
        (await limiter.acquire()).finish()
        assert not limiter.alone


@pytest.mark.parametrize("share", [0.0, 1.0])
@in_virtual_time
async def test_a_store_that_hangs_while_it_is_looked_for_holds_up_no_end(share):
    """Closing does not wait for it."""
    limiter = store(share=share)
    loop = asyncio.get_running_loop()
    limiter.connecting = 1000.0
    async with limiter:
        for _ in range(3):
            with contextlib.suppress(KieConnectionError):
                (await limiter.acquire()).finish()
            await asyncio.sleep(1.0)
        before = loop.time()
    assert loop.time() - before < 0.5
    assert asyncio.all_tasks() == {asyncio.current_task()}


@in_virtual_time
async def test_a_pause_is_over_when_it_is_over():
    """One that was meant while the store was away is not begun anew when it is back."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    async with limiter:
        (await limiter.acquire()).finish()
        limiter.pause(5.0)
        await asyncio.sleep(6.0)
        limiter.error = None
        while limiter.alone:
            (await limiter.acquire()).finish()
        assert set(limiter.pauses) == {0.0}


@in_virtual_time
async def test_a_pause_reaches_a_store_that_is_back_in_time():
    """What is left of it."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    async with limiter:
        (await limiter.acquire()).finish()
        limiter.pause(60.0)
        limiter.error = None
        waiting = asyncio.create_task(limiter.acquire())
        while limiter.alone:  # noqa: ASYNC110 - who drives looks by itself
            await asyncio.sleep(0.1)
        (await waiting).finish()
        assert [pause for pause in limiter.pauses if pause] == [pytest.approx(59.0, abs=0.5)]


@in_virtual_time
async def test_a_turn_that_ends_after_the_close_opens_nothing():
    """Its lease ends by itself."""
    limiter = store()
    async with limiter:
        turn = await limiter.acquire()
    turn.finish()
    await asyncio.sleep(0)
    assert limiter._driver is not None
    assert limiter._driver.done()


def test_turns_that_count_no_more_are_forgotten():
    """A process of years remembers some dozens."""
    own = OwnTurns(10.0, 35.0)
    for number in range(10_000):
        own.take([str(number)], float(number))
        own.end([str(number)], [], float(number))
        own.forget(float(number))
        assert len(own.left(float(number))) <= FEW + 1
    assert [left for _, left in own.left(9_999.0) if left] == [float(n) for n in range(1, 11)]
