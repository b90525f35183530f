"""``max_concurrency``: who waits for a slot has sent nothing, and may leave as he likes."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from kie_async import SessionClosedError, SlidingWindowLimiter, WaitTimeoutError
from kie_async.instrumentation import CreateInDoubt
from kie_async.limiter import Turn
from kie_async.session._slots import Slots
from tests.clock import jumping
from tests.fakes import FakeAPI, envelope, session_on
from tests.test_bulk import journal_at, outcomes_of


def now() -> float:
    return asyncio.get_running_loop().time()


@jumping
async def test_a_deadline_behind_the_slot_costs_nothing():
    """The error says so, and it stays true: no request follows."""
    api = FakeAPI(latency=20.0)

    async with session_on(api, max_concurrency=1) as kie:
        first = asyncio.create_task(kie.create_task("m", {"n": 1}))
        await asyncio.sleep(1.0)
        with pytest.raises(WaitTimeoutError, match="nothing was created") as caught:
            await kie.create_task("m", {"n": 2}, timeout=5.0)
        await first
        await asyncio.sleep(25.0)
        await kie.create_task("m", {"n": 3})

    assert caught.value.maybe_charged is False
    assert [sent["input"]["n"] for _, sent in api.creates] == [1, 3]


@jumping
async def test_one_who_is_cancelled_behind_the_slot_has_sent_nothing():
    """And the slot goes to the next one."""
    api = FakeAPI(latency=4.0)

    async with session_on(api, max_concurrency=1) as kie:
        calls = [asyncio.create_task(kie.create_task("m", {"n": n})) for n in range(3)]
        await asyncio.sleep(1.0)
        calls[1].cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)

    assert isinstance(ended[1], asyncio.CancelledError)
    assert [sent["input"]["n"] for _, sent in api.creates] == [0, 2]
    assert now() == pytest.approx(8.0)


@jumping
async def test_nobody_behind_the_slot_is_sent_after_a_close_nor_is_a_doubt():
    """One create is under way and brings its id; the others are told that nothing was sent."""
    api, seen = FakeAPI(latency=20.0), []
    kie = session_on(api, max_concurrency=1, hooks=[seen.append])

    async with kie:
        calls = [asyncio.create_task(kie.create_task("m", {"n": n})) for n in range(5)]
        await asyncio.sleep(5.0)
        await kie.close()
        ended = await asyncio.gather(*calls, return_exceptions=True)

    assert ended[0] in api.tasks
    assert all(isinstance(end, SessionClosedError) for end in ended[1:])
    assert not any(end.maybe_charged for end in ended[1:])
    assert len(api.creates) == 1
    assert not any(isinstance(event, CreateInDoubt) for event in seen)


@jumping
async def test_items_behind_the_slot_are_no_doubts_of_a_run(tmp_path: Path):
    """The session closes under it: they are planned as before, and the next run sends them."""
    api = FakeAPI(latency=20.0)
    kie = session_on(api, max_concurrency=1)
    async with journal_at(tmp_path) as journal, kie:
        run = kie.upscale_many([f"source-{n}" for n in range(5)], journal=journal)
        ending = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(5.0)
        await kie.close()
        await asyncio.gather(ending, return_exceptions=True)
        counts = await journal.counts()

    assert (counts.sent, counts.planned, counts.in_doubt) == (1, 4, 0)
    assert run.progress.in_doubt == 0
    assert len(api.creates) == 1


@jumping
async def test_no_turn_of_the_limiter_is_held_behind_a_slot():
    """Other sessions of the account would wait for turns that nobody uses."""
    limiter = SlidingWindowLimiter(20, 10.0)
    api = FakeAPI(latency=20.0)

    async with session_on(api, max_concurrency=2, limiter=limiter) as kie:
        calls = [asyncio.create_task(kie.create_task("m", {"n": n})) for n in range(30)]
        await asyncio.sleep(1.0)
        assert limiter.in_window == 2
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


@jumping
async def test_a_refusal_holds_those_behind_the_slot_back_too():
    """They have no turn yet: after the lesson one goes alone, and not all that waited."""
    api = FakeAPI(latency=1.0)
    api.on_create = lambda n, r: envelope(429, "too high") if n < 2 else None

    async with session_on(api, max_concurrency=2) as kie:
        await asyncio.gather(*(kie.create_task("m", {"n": n}) for n in range(6)))

    times = [at for at, _ in api.creates]
    assert times[:2] == [0.0, 0.0]
    assert times[2] >= 5.0
    assert times[3] >= times[2] + api.latency  # the probe went alone


class NoTurn:
    """A limiter that is broken for a while."""

    def __init__(self) -> None:
        self.broken = True

    async def acquire(self) -> Turn:
        await asyncio.sleep(1.0)
        if self.broken:
            raise ZeroDivisionError("a bug")
        return Turn(lambda _finished: None)

    def pause(self, seconds: float) -> None:
        raise AssertionError("nothing is refused here")


@jumping
async def test_a_slot_without_a_turn_is_given_back():
    """A limiter raises, or its caller is cancelled there: the next one finds the slot free."""
    api, limiter = FakeAPI(), NoTurn()

    async with session_on(api, max_concurrency=1, limiter=limiter) as kie:
        with pytest.raises(ZeroDivisionError):
            await kie.create_task("m", {})
        waiting = asyncio.create_task(kie.create_task("m", {}))
        await asyncio.sleep(0.5)
        waiting.cancel()
        limiter.broken = False
        assert await kie.create_task("m", {}, timeout=5.0) in api.tasks


# -- the line itself -----------------------------------------------------------------------


@jumping
async def test_slots_go_in_the_order_of_arrival():
    """Cancelled ones are passed over, and one who comes later does not overtake."""
    slots, order = Slots(1), []
    assert slots.try_take()

    async def one(n: int) -> None:
        await slots.take()
        order.append(n)
        slots.give()

    calls = [asyncio.create_task(one(n)) for n in range(6)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[3].cancel()
    slots.give()
    assert not slots.try_take()  # it is on its way to the first in line
    await asyncio.gather(*calls, return_exceptions=True)

    assert order == [1, 2, 4, 5]
    assert slots.try_take()
    assert not slots.try_take()


@jumping
async def test_a_slot_that_meets_a_cancelled_one_goes_on():
    """It was handed to him in the same turn: nobody has two, and none is lost."""
    slots = Slots(1)
    await slots.take()
    gone, after = (asyncio.create_task(slots.take()) for _ in range(2))
    await asyncio.sleep(0)

    slots.give()
    gone.cancel()
    await asyncio.wait([gone])
    await after

    assert gone.cancelled()
    assert not slots.try_take()
    slots.give()
    assert slots.try_take()


def test_any_sequence_of_comings_and_goings_keeps_the_number():
    """At most so many at once, and in the end all are free."""

    @jumping
    async def story(seed: int) -> None:
        rng, slots, at_once = random.Random(seed), Slots(3), 0

        async def one() -> None:
            nonlocal at_once
            if not slots.try_take():
                await slots.take()
            try:
                at_once += 1
                assert at_once <= 3
                await asyncio.sleep(rng.random())
            finally:
                at_once -= 1
                slots.give()

        calls = []
        for _ in range(200):
            calls.append(asyncio.create_task(one()))
            await asyncio.sleep(rng.random() / 4)
            if rng.random() < 0.4:
                rng.choice(calls).cancel()
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert not any(isinstance(end, AssertionError) for end in ended)
        assert [slots.try_take() for _ in range(4)] == [True, True, True, False]

    for seed in range(10):
        story(seed)


@jumping
async def test_a_hundred_thousand_may_leave_a_line_from_its_end():
    """Each by himself: `asyncio.Semaphore` would search the line for each, half a minute in all."""
    slots = Slots(1)
    await slots.take()
    calls = [asyncio.create_task(slots.take()) for _ in range(100_000)]
    await asyncio.sleep(0)

    began = time.process_time()
    for count, call in enumerate(reversed(calls)):
        call.cancel()
        if count % 1000 == 0:
            await asyncio.sleep(0)
    await asyncio.wait(calls)

    assert time.process_time() - began < 10.0
    assert len(slots._line) < 200
    slots.give()
    assert slots.try_take()
