"""What a limiter of many processes promises, on real servers: Redis and PostgreSQL.

`STORES` (`limiter_stores.py`) names the implementations; each test runs against each of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import time
from collections import Counter

import pytest

from kie_async.errors import KieConnectionError
from kie_async.limiter import RateLimiter, StoreLimiter
from tests.limiter_stores import STORES, shown, windows_hold

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=STORES.values(), ids=list(STORES))
def store(request: pytest.FixtureRequest, tmp_path):
    """Run a server of its own for each test."""
    yield from request.param(tmp_path)


def limiter_on(store, **settings) -> StoreLimiter:
    settings.setdefault("limit", 5)
    settings.setdefault("window", 0.5)
    return store.limiter(**settings)


@pytest.mark.asyncio
async def test_it_is_a_rate_limiter_and_keeps_its_window(store):
    """In the order of arrival; the window counts from the answer."""
    async with limiter_on(store) as limiter:
        assert isinstance(limiter, RateLimiter)
        loop, order, times = asyncio.get_running_loop(), [], []

        async def one(number):
            with await limiter.acquire():
                order.append(number)
                await asyncio.sleep(0.02)
                times.append(loop.time())

        await asyncio.gather(*(one(n) for n in range(20)))

    assert order == list(range(20))
    assert windows_hold(times, 5, 0.48)
    assert times[-1] - times[0] >= 1.4


@pytest.mark.asyncio
async def test_two_processes_share_one_limit(store):
    """Turns of the one are missing for the other, by the store's clock."""
    async with limiter_on(store) as one, limiter_on(store) as other:
        first = [await one.acquire() for _ in range(3)]
        second = [await other.acquire() for _ in range(2)]
        third = asyncio.create_task(other.acquire())
        await asyncio.sleep(0.1)
        waited = not third.done()
        first[0].give_back()
        async with asyncio.timeout(5):
            (await third).give_back()
        for turn in (*first[1:], *second):
            turn.finish()

    assert waited


@pytest.mark.asyncio
async def test_a_cancelled_caller_loses_no_turn(store):
    """Before or after the turn was booked."""
    async with limiter_on(store, limit=3, window=30.0) as limiter:
        for _ in range(40):
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        for _ in range(10):
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0.003)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.result().give_back()
        async with asyncio.timeout(10):
            turns = [await limiter.acquire() for _ in range(3)]

    assert len(turns) == 3


@pytest.mark.asyncio
async def test_a_pause_reaches_all_and_then_one_goes_at_a_time(store):
    """Whichever process was refused."""
    async with limiter_on(store, limit=10, window=0.5) as one, limiter_on(store, limit=10) as other:
        (await one.acquire()).give_back()
        (await other.acquire()).give_back()
        loop = asyncio.get_running_loop()
        began = loop.time()
        one.pause(0.4)
        await asyncio.sleep(0.05)
        times = []
        for _ in range(3):
            with await other.acquire():
                times.append(loop.time() - began)

    assert times[0] >= 0.4
    assert times[1] >= 0.44  # by the store's clock; here a turn is heard of later or not
    assert times[2] >= 0.48


@pytest.mark.asyncio
async def test_eight_processes_use_it_all_fairly_and_not_more(store):
    """By the book of the server that they send to."""
    limit, window = 20, 0.5
    book = await shown(store, 8, limit, window, 4.0)

    times = [at for at, _ in book]
    assert windows_hold(times, limit, window)
    ideal = limit / window * (times[-1] - times[0])
    assert len(book) >= 0.75 * ideal  # benchmarks/ asks for 95 % in quiet
    shares = Counter(who for _, who in book)  # who began with a burst waits for the others
    assert len(shares) == 8
    assert max(shares.values()) - min(shares.values()) <= 4


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["dies", "hangs", "forgets"])
async def test_processes_live_through_a_store_that(store, fault):
    """No window holds more than one extra burst, nobody stands still, all come back."""
    limit, window = 20, 1.0
    loop = asyncio.get_running_loop()
    struck: list[float] = []

    async def strike():
        await asyncio.sleep(1.0)
        struck.append(loop.time())
        if fault == "forgets":
            store.forget()
            return
        (store.crash if fault == "dies" else store.hang)()
        await asyncio.sleep(2.5)
        struck.append(loop.time())
        await asyncio.to_thread(store.start if fault == "dies" else store.go_on)
        struck.append(loop.time())

    book = await shown(store, 4, limit, window, 10.0, strike)

    times = [at for at, _ in book]
    assert windows_hold(times, 2 * limit, window)
    for who in {f"w{n}" for n in range(4)}:
        its = [at for at, by in book if by == who]
        assert max(later - earlier for earlier, later in itertools.pairwise(its)) < 5.0
    if fault != "forgets":
        away = [at for at in times if struck[0] + 1.5 < at < struck[1]]
        assert windows_hold(away, 4 * 2, window)  # each keeps to a tenth
        after = [at for at in times if at > struck[2] + 3.0]
        assert windows_hold(after, limit, window)  # it is exact again
        whole = [at for at in after if at < after[0] + 3 * window]
        assert len(whole) >= 2 * limit  # and no turn is lost in an answer that nobody got


@pytest.mark.asyncio
async def test_a_store_that_dies_leaves_a_share_and_comes_back(store, caplog):
    """Said once each way; no call hangs, and no create is lost in the line."""
    caplog.set_level(logging.WARNING, "kie_async.limiter")
    async with limiter_on(store, limit=10, window=0.5, share=0.5) as limiter:
        (await limiter.acquire()).finish()
        store.crash()
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(12):
            async with asyncio.timeout(5):
                with await limiter.acquire():
                    times.append(loop.time())
        alone = limiter.alone
        await asyncio.to_thread(store.start)
        async with asyncio.timeout(10):
            while limiter.alone:
                (await limiter.acquire()).finish()
        known = store.known()

    assert alone
    assert windows_hold(times, 5, 0.5)
    assert known > 0  # what was taken meanwhile was told
    assert [r.message.split(" (")[0] for r in caplog.records] == [
        "the store of the rate limit is away",
        "the store of the rate limit is back",
    ]


@pytest.mark.asyncio
async def test_a_store_that_hangs_is_not_waited_for(store):
    """A quarter of a second, and the share is used."""
    async with limiter_on(store, limit=10, window=5.0, share=0.3) as limiter:
        (await limiter.acquire()).finish()
        store.hang()
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        spent = asyncio.get_running_loop().time() - began
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:
                await asyncio.wait([asyncio.create_task(limiter.acquire())], timeout=0.1)

    assert spent < 3


@pytest.mark.asyncio
async def test_answers_that_came_while_the_store_was_away_are_told_when_it_is_back(store):
    """Else their turns would count until their leases end: nobody could go meanwhile."""
    async with limiter_on(store, limit=2, window=0.3, lease=60.0) as limiter:
        turns = [await limiter.acquire() for _ in range(2)]
        store.hang()
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        assert limiter.alone
        for turn in turns:
            turn.finish()
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:
                (await limiter.acquire()).finish()
            (await limiter.acquire()).finish()
        assert not limiter.alone


@pytest.mark.asyncio
async def test_a_turn_of_the_share_counts_from_its_answer_when_the_store_is_back(store):
    """It was taken alone, and is answered after the return: the store hears of it."""
    async with limiter_on(store, limit=1, window=1.0, share=1.0, lease=60.0) as limiter:
        store.hang()
        async with asyncio.timeout(5):
            alone = await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire())
        store.go_on()
        async with asyncio.timeout(10):
            while limiter.alone:  # noqa: ASYNC110 - who drives looks by itself
                await asyncio.sleep(0.01)
        await asyncio.sleep(1.2)
        assert not waiting.done()  # it has no answer yet
        answered = asyncio.get_running_loop().time()
        alone.finish()
        async with asyncio.timeout(10):
            (await waiting).finish()
        assert asyncio.get_running_loop().time() - answered >= 1.0


@pytest.mark.asyncio
async def test_a_clock_that_is_set_back_holds_nobody_up(store):
    """A failover to a server whose clock is behind: nothing counts for an hour."""
    async with limiter_on(store, limit=2, window=0.3, lease=0.5) as limiter:
        async with limiter_on(store, limit=2, window=0.3, lease=0.5) as other:
            limiter.pause(0.0001)
            for _ in range(2):
                (await limiter.acquire()).finish()
            left = asyncio.create_task(other.acquire())  # it counts as one who waits
            await asyncio.sleep(0.05)
            left.cancel()
            await asyncio.wait([left])
        limiter.pause(0.01)  # over long before
        (await limiter.acquire()).finish()
        store.set_clock_back(3600.0)
        async with asyncio.timeout(10):
            for _ in range(4):
                (await limiter.acquire()).finish()
        assert not limiter.alone


@pytest.mark.asyncio
async def test_a_call_that_comes_twice_gets_what_it_got(store):
    """A client that sends again by itself, as its answer was lost, loses no turn."""
    async with limiter_on(store, limit=3, window=30.0) as limiter:
        (await limiter.acquire()).give_back()
        await asyncio.sleep(0.05)
        ask = limiter._ledger.ask(1, 0.0)
        assert [await limiter._book(ask) for _ in range(3)] == [(1, 0.0)] * 3
        assert store.known() == 1
        for name in limiter._ledger.told(ask, 1, asyncio.get_running_loop().time()):
            limiter._turn(name).give_back()
        async with asyncio.timeout(10):
            turns = [await limiter.acquire() for _ in range(3)]
        assert store.known() == len(turns) == 3
        full = limiter._ledger.ask(1, 0.0)
        assert [(await limiter._book(full))[0] for _ in range(2)] == [0, 0]


@pytest.mark.asyncio
async def test_a_call_that_comes_behind_a_later_one_does_nothing(store):
    """It was cut off on its way and brought after all; nobody waits for its answer."""
    async with limiter_on(store, limit=8, window=30.0) as limiter:
        turn = await limiter.acquire()
        late = [limiter._ledger.ask(1, 0.0), limiter._ledger.everything(0.0)]
        assert late[1].restored
        turn.give_back()
        (await limiter.acquire()).give_back()
        await asyncio.sleep(0.05)
        assert store.known() == 0
        for ask in late:
            assert await limiter._book(ask) == (0, 0.0)
        assert store.known() == 0
        async with asyncio.timeout(10):
            assert len([await limiter.acquire() for _ in range(8)]) == 8


@pytest.mark.asyncio
async def test_a_loop_that_stood_still_reads_the_answer_before_it_gives_up(store):
    """A picture that was decoded in the loop is no outage of the store."""
    async with limiter_on(store, limit=20) as limiter:
        (await limiter.acquire()).finish()
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(limiter.acquire())
        for _ in range(30):  # the call is under way
            await asyncio.sleep(0)
        time.sleep(limiter._patience + 0.1)  # noqa: ASYNC251 - the point of it
        (await waiting).give_back()
        assert not limiter.alone


@pytest.mark.asyncio
async def test_without_a_share_nothing_is_sent_without_the_store(store):
    """And the error says so: it may be tried again."""
    async with limiter_on(store, share=0.0) as limiter:
        (await limiter.acquire()).finish()
        store.crash()
        with pytest.raises(KieConnectionError, match="nothing was sent") as caught:
            await limiter.acquire()

    assert caught.value.sent is False


@pytest.mark.asyncio
async def test_a_flushed_store_costs_one_burst_at_most(store):
    """And scripts that were forgotten are sent again."""
    async with limiter_on(store, limit=5, window=30.0) as limiter:
        for _ in range(5):
            (await limiter.acquire()).finish()
        store.forget()
        again = [asyncio.create_task(limiter.acquire()) for _ in range(12)]
        limiter.pause(0)
        await asyncio.wait(again, timeout=1.0)
        granted = sum(task.done() for task in again)
        for task in again:
            task.cancel()
        await asyncio.wait(again)

    assert granted <= 5


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["read-only", "wrong type"])
async def test_a_store_that_refuses_is_a_store_that_is_away(store, fault):
    """A demoted master, somebody else's key."""
    store.refuse(fault)
    async with limiter_on(store, share=0.4) as limiter:
        async with asyncio.timeout(5):
            (await limiter.acquire()).finish()
        assert limiter.alone


@pytest.mark.asyncio
async def test_a_large_account_is_no_burden_to_the_store(store):
    """Thousands of turns in a window, and a call walks over none of them."""
    async with contextlib.AsyncExitStack() as stack:
        many = [
            await stack.enter_async_context(limiter_on(store, limit=6000, window=120.0, share=0.0))
            for _ in range(10)
        ]
        for limiter in many:
            limiter._patience = 30.0  # it is the work that is looked at, not the clock
            (await limiter.acquire()).give_back()  # it is connected now

        async def one(limiter: StoreLimiter) -> None:
            for _ in range(20):
                (await limiter.acquire()).finish()

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for limiter in many * 20:
                group.create_task(one(limiter))
        assert store.known() == 4000


@pytest.mark.asyncio
async def test_a_dead_process_frees_its_turns_after_its_lease(store):
    """Nobody else will."""
    async with limiter_on(store, limit=2, window=0.2, lease=0.5) as dead:
        kept = [await dead.acquire() for _ in range(2)]
        async with limiter_on(store, limit=2, window=0.2, lease=0.5) as other:
            began = asyncio.get_running_loop().time()
            async with asyncio.timeout(10):
                (await other.acquire()).finish()
            waited = asyncio.get_running_loop().time() - began
        for turn in kept:
            turn.finish()

    assert waited >= 0.6
