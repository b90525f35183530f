"""What `StoreLimiter` does about a store, whichever it is: on a clock that jumps."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from kie_async.errors import KieConnectionError, UsageError
from kie_async.limiter import Ask, StoreLimiter, _store
from kie_async.limiter._own import FEW, OwnTurns
from kie_async.testing import in_virtual_time
from tests.fakes import Altered


class Store(StoreLimiter):
    """A store of one process: it gives what is wanted, or raises."""

    error: Exception | None = None
    pauses: list[float]
    asks: list[Ask]
    connecting = 0.0
    forgetful = 0
    room = 10_000
    again = 0.0
    cut = 0  # so many calls fail
    called = 0

    async def _book(self, ask: Ask) -> tuple[int, float]:
        self.called += 1
        if self.cut:
            self.cut -= 1
            raise OSError("cut")
        await asyncio.sleep(self.connecting)
        self.connecting = 0.0  # a call that is cut off has not connected
        if ask.restored and self.forgetful:
            self.forgetful -= 1
            raise OSError("away again")
        if self.error is not None:
            raise self.error
        self.pauses.append(ask.pause)
        self.asks.append(ask)
        given = min(ask.wanted, self.room)
        self.room -= given
        return given, self.again

    def told(self, what: str) -> list[str]:
        """Return whatever the calls told of one kind, in their order."""
        return [one for ask in self.asks for one in getattr(ask, what)]

    async def _let_go(self) -> None:
        pass


def store(**settings) -> Store:
    made = Store("test", **{"limit": 20, "window": 10.0, "share": 0.1, "lease": 35.0, **settings})
    made.pauses, made.asks = [], []
    return made


async def settle() -> None:
    """Let happen what happens without waiting."""
    await asyncio.sleep(0.1)


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
        own.finish(str(number), float(number))
        own.forget(float(number))
        assert len(own.left(float(number))) <= FEW + 1
    assert [left for _, left in own.left(9_999.0) if left] == [float(n) for n in range(1, 11)]


# --- what the store is told ---------------------------------------------------------------


@in_virtual_time
async def test_the_store_is_told_of_each_turn_how_it_ended():
    """Once, by the name that it was given with: the process's and the turn's number."""
    limiter = store()
    async with limiter:
        finished, returned = await limiter.acquire(), await limiter.acquire()
        finished.finish()
        returned.give_back()
        await settle()
        await limiter.acquire()

    name = limiter._ledger.process
    assert [list(ask.numbers) for ask in limiter.asks if ask.wanted] == [[0], [1], [2]]
    assert limiter.told("finished") == [f"{name}:0"]
    assert limiter.told("returned") == [f"{name}:1"]
    assert limiter.told("restored") == []


@in_virtual_time
async def test_ends_that_come_together_are_told_together():
    """A call costs a journey to the store; two milliseconds of answers make one."""
    limiter = store()
    limiter.room, limiter.again = 20, 60.0
    async with limiter:
        turns = [await limiter.acquire() for _ in range(20)]
        waiting = asyncio.create_task(limiter.acquire())  # the one who drives is there
        await settle()
        before = len(limiter.asks)
        for turn in turns:
            turn.finish()
            await asyncio.sleep(0.0001)
        await settle()
        assert len(limiter.asks) == before + 1
        assert len(limiter.asks[-1].finished) == 20
        assert limiter.waiting == 1
        waiting.cancel()


@in_virtual_time
async def test_no_call_carries_more_than_five_hundred():
    """Neither of those who wait nor of ends: the rest goes with the next one."""
    limiter = store(limit=1200)
    async with limiter:
        turns = await asyncio.gather(*(limiter.acquire() for _ in range(1200)))
        assert [ask.wanted for ask in limiter.asks] == [500, 500, 200]
        for number, turn in enumerate(turns):
            turn.finish() if number < 600 else turn.give_back()
        await settle()
    names = [f"{limiter._ledger.process}:{number}" for number in range(1200)]
    assert limiter.told("finished") == names[:600]
    assert limiter.told("returned") == names[600:]
    assert [len(ask.finished) for ask in limiter.asks if ask.finished] == [500, 100]
    assert [len(ask.returned) for ask in limiter.asks if ask.returned] == [500, 100]


@in_virtual_time
async def test_a_store_that_is_back_is_told_how_long_each_turn_still_counts():
    """Those without an answer count for their lease and a window more."""
    limiter = store(share=1.0)
    async with limiter:
        turns = [await limiter.acquire() for _ in range(3)]
        limiter.error = OSError("away")
        for turn in turns[:2]:
            turn.finish()
        await settle()
        assert limiter.alone
        limiter.error = None
        await asyncio.sleep(2.0)
        (await limiter.acquire()).give_back()
        await asyncio.sleep(2.0)
        (await limiter.acquire()).give_back()
        assert not limiter.alone
        left = dict(limiter.told("restored"))
        assert sum(ask.wanted for ask in limiter.asks) == 3 + 2  # no look takes a turn
    name = limiter._ledger.process
    span = limiter._span
    assert left[f"{name}:0"] == left[f"{name}:1"] == pytest.approx(span - 1.0, abs=0.1)
    assert left[f"{name}:2"] == pytest.approx(span + 35.0 - 1.0, abs=0.1)


@in_virtual_time
async def test_a_store_is_asked_again_when_it_said():
    """Not before, if nothing ends meanwhile, and it is not asked when nobody waits."""
    limiter = store()
    limiter.room, limiter.again = 0, 7.0
    loop = asyncio.get_running_loop()
    async with limiter:
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(20.0)
        assert len(limiter.asks) == 3
        limiter.room = 1
        turn = await waiting
        assert loop.time() == pytest.approx(21.0)
        await asyncio.sleep(100.0)
        assert len(limiter.asks) == 4
        turn.finish()
        await settle()
        assert len(limiter.asks) == 5


@in_virtual_time
async def test_a_pause_is_told_at_once_also_while_somebody_waits():
    """The others of the account are not to run on for the rest of the time he waits."""
    limiter = store()
    limiter.room, limiter.again = 0, 60.0
    async with limiter:
        waiting = asyncio.create_task(limiter.acquire())
        await settle()
        limiter.pause(0.5)
        await settle()
        assert limiter.pauses == [0.0, pytest.approx(0.5, abs=0.01)]
        limiter.pause(20.0)
        limiter.pause(5.0)
        await settle()
        assert limiter.pauses[-1] == pytest.approx(20.0, abs=0.01)
        waiting.cancel()


# --- who gives up, and the end ------------------------------------------------------------


@in_virtual_time
async def test_a_turn_that_came_too_late_goes_back():
    """The caller is cancelled in the very step in which he gets it."""
    limiter = store()
    async with limiter:
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        while limiter.waiting:  # noqa: ASYNC110 - until the step in which he gets it
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
        await settle()
        assert limiter.told("returned") == [f"{limiter._ledger.process}:0"]
        assert limiter.told("finished") == []


@in_virtual_time
async def test_who_is_cancelled_as_he_is_refused_is_cancelled():
    """Nothing was sent either way, and a cancelling is never swallowed."""
    limiter = store(share=0.0)
    limiter.error = OSError("away")
    async with limiter:
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        while limiter._line:  # noqa: ASYNC110 - until the step in which he is refused
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()


@pytest.mark.parametrize("away", [False, True])
@in_virtual_time
async def test_closing_cancels_who_waits_and_waits_for_nobody(away):
    """However long the store had told him to wait; alone, until the next look at most."""
    limiter = store()
    limiter.room, limiter.again = 0, 60.0
    loop = asyncio.get_running_loop()
    if away:
        limiter.error = OSError("away")
    limiter.pause(60.0)
    async with limiter:
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await settle()
        before = loop.time()
    assert loop.time() - before < (1.0 if away else 0.1)
    assert limiter.waiting == 0
    assert len(limiter.asks) == (0 if away else 2)  # the store is not asked for them any more
    done, _ = await asyncio.wait(waiting, timeout=1.0)
    assert done == set(waiting)
    assert all(task.cancelled() for task in waiting)


@in_virtual_time
async def test_a_limiter_may_be_used_again_after_its_close():
    """A store that is back by then is asked first, also if it was being looked for."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    async with limiter:
        (await limiter.acquire()).finish()
        limiter.connecting = 1000.0
        await asyncio.sleep(2.0)
        (await limiter.acquire()).finish()
        assert limiter.alone
    limiter.connecting, limiter.error = 0.0, None
    turn = await limiter.acquire()
    assert not limiter.alone
    turn.finish()
    await settle()
    assert limiter.told("finished")
    await limiter.aclose()


# --- alone --------------------------------------------------------------------------------


@in_virtual_time
async def test_it_says_when_the_store_is_away_and_when_it_is_back(caplog):
    """One line each; the share is in it, and nothing of what the error said."""
    limiter = store(share=0.5)
    assert repr(limiter) == "<Store 20 per 10.0 s, shared>"
    assert (limiter.limit, limiter.window) == (20, 10.0)
    async with limiter:
        limiter.error = OSError("secret")
        (await limiter.acquire()).finish()
        assert repr(limiter) == "<Store 20 per 10.0 s, by its share alone>"
        limiter.error = None
        await asyncio.sleep(1.0)
        (await limiter.acquire()).finish()
    away, back = (record for record in caplog.records if record.name == "kie_async.limiter")
    assert "10 turns per 10 s" in away.getMessage()
    assert "OSError" in away.getMessage()
    assert "secret" not in away.getMessage()
    assert "back" in back.getMessage()


@in_virtual_time
async def test_a_share_of_nothing_says_that_nothing_is_sent(caplog):
    """Neither in the log nor to the callers is it a number of turns."""
    limiter = store(share=0.0)
    limiter.error = OSError("away")
    async with limiter:
        with pytest.raises(KieConnectionError) as refused:
            await limiter.acquire()
    assert refused.value.sent is False
    assert "nothing is sent" in caplog.text


@in_virtual_time
async def test_turns_given_back_as_the_store_goes_are_free_alone():
    """What was not used does not count; what was answered counts one window from then."""
    limiter = store(share=1.0)
    loop = asyncio.get_running_loop()
    async with limiter:
        await asyncio.sleep(1000.0)
        turns = [await limiter.acquire() for _ in range(20)]
        limiter.error = OSError("away")
        for turn in turns[:5]:
            turn.finish()
        for turn in turns[5:]:
            turn.give_back()
        at = loop.time()
        for _ in range(15):
            await limiter.acquire()
        assert loop.time() - at < 0.5
        await limiter.acquire()
        assert loop.time() - at == pytest.approx(limiter._span, abs=0.5)


@in_virtual_time
async def test_a_pause_holds_back_a_process_that_is_alone_too():
    """Whether it was meant before the store went or after."""
    limiter = store(share=1.0)
    loop = asyncio.get_running_loop()
    async with limiter:
        limiter.error = OSError("away")
        limiter.pause(30.0)
        (await limiter.acquire()).finish()
        assert loop.time() == pytest.approx(30.0, abs=0.1)
        limiter.pause(40.0)
        (await limiter.acquire()).finish()
        assert loop.time() == pytest.approx(70.0, abs=0.2)
        assert limiter.alone


@pytest.mark.parametrize("account", ["", "a b", "a{b", "a}b", "a\nb", "a\x00"])
def test_an_account_is_a_plain_name(account):
    """It stands in the keys of the store."""
    with pytest.raises(UsageError, match="plain name"):
        Store(account, limit=20, window=10.0, share=0.1, lease=35.0)


@pytest.mark.parametrize(
    "settings", [{"share": -0.1}, {"share": 1.1}, {"lease": 0.0}, {"lease": -1.0}]
)
def test_shares_and_leases_that_cannot_be(settings):
    """A lease of nothing would free a turn before its answer."""
    with pytest.raises(UsageError, match="share must be 0 to 1, and lease more than 0"):
        store(**settings)
    for fine in ({"share": 0}, {"share": 1}, {"lease": 0.001}):
        assert store(**fine).limit == 20


@pytest.mark.parametrize("waits", [False, True])
@in_virtual_time
async def test_a_turn_that_ends_in_another_thread_is_told_at_once(waits):
    """Whether the one who drives has gone home or sleeps."""
    limiter = store()
    limiter.room, limiter.again = 1, 60.0
    loop = asyncio.get_running_loop()
    async with limiter:
        turn = await limiter.acquire()
        waiting = asyncio.create_task(limiter.acquire() if waits else settle())
        await settle()
        with loop.held():
            await asyncio.to_thread(turn.finish)
        await settle()
        assert limiter.told("finished") == [f"{limiter._ledger.process}:0"]
        waiting.cancel()


@in_virtual_time
async def test_a_pause_before_the_first_caller_goes_with_him():
    """In one call: there is only one who drives."""
    limiter = store()
    async with limiter:
        limiter.pause(3.0)
        (await limiter.acquire()).finish()
        assert [ask.wanted for ask in limiter.asks] == [1]
        assert limiter.pauses == [pytest.approx(3.0)]


@in_virtual_time
async def test_a_limiter_of_years_remembers_some_dozens_of_its_turns():
    """Those that count no more are forgotten as it goes."""
    limiter = store()
    async with limiter:
        for _ in range(500):
            (await limiter.acquire()).finish()
            await asyncio.sleep(1.0)
        assert len(limiter._ledger._stored.left(0.0)) <= 2 * FEW


@pytest.mark.parametrize(
    ("share", "says"),
    [(0.05, "1 turns per 10 s"), (0.075, "1 turns per 10 s"), (0.01, "1 turns per 50 s"),
     (0.125, "2 turns per 10 s"), (1, "20 turns per 10 s")],
)  # fmt: skip
@in_virtual_time
async def test_less_than_a_turn_is_one_in_a_longer_window(share, says, caplog):
    """And one and a half are one."""
    limiter = store(share=share)
    limiter.error = OSError("away")
    async with limiter:
        waiting = asyncio.create_task(limiter.acquire())
        await settle()
        waiting.cancel()
    assert says in caplog.text


@in_virtual_time
async def test_a_small_share_begins_at_a_time_of_its_own(monkeypatch):
    """All lose the store at once; what the last turn was is no reason to go earlier."""
    monkeypatch.setattr(_store, "random", Altered(random, uniform=lambda low, _high: low))
    limiter = store(share=0.01)
    loop = asyncio.get_running_loop()
    async with limiter:
        (await limiter.acquire()).finish()
        await asyncio.sleep(5.0)
        limiter.error = OSError("away")
        at = loop.time()
        (await limiter.acquire()).finish()
        assert loop.time() - at == pytest.approx(50.0, abs=0.5)


@in_virtual_time
async def test_turns_of_the_share_are_told_when_the_store_is_back():
    """From when they ended, also if that was while it was looked for."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    async with limiter:
        ended, late, open_still = [await limiter.acquire() for _ in range(3)]
        ended.finish()
        await asyncio.sleep(0.5)
        await limiter.acquire()
        limiter.error, limiter.connecting = None, 0.2
        waiting = asyncio.create_task(_used(limiter, 10))
        await asyncio.sleep(0.6)
        late.finish()  # the store is being looked for
        await waiting
        assert not limiter.alone
        left = dict(limiter.told("restored"))
        open_still.finish()
        await settle()
    name, span = limiter._ledger.process, limiter._span  # the first number was for the store
    assert left[f"{name}:1"] == pytest.approx(span - 1.2, abs=0.05)
    assert left[f"{name}:2"] == pytest.approx(span - 0.1, abs=0.05)
    assert left[f"{name}:3"] == pytest.approx(span + 35.0 - 1.2, abs=0.05)
    assert f"{name}:3" in limiter.told("finished")


async def _used(limiter: Store, times: int) -> None:
    for _ in range(times):
        await limiter.acquire()
        await asyncio.sleep(0.1)


@in_virtual_time
async def test_turns_of_the_share_that_ended_before_the_look_are_told_too():
    """Not as if they had no answer: they would count for a lease, and a window more."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    async with limiter:
        finished, returned = [await limiter.acquire() for _ in range(2)]
        finished.finish()
        returned.give_back()
        limiter.error = None
        await asyncio.sleep(1.5)
        await limiter.acquire()
        assert not limiter.alone
        left = dict(limiter.told("restored"))
    assert left[f"{limiter._ledger.process}:1"] <= limiter._span
    assert left[f"{limiter._ledger.process}:2"] == 0.0


@pytest.mark.parametrize("forgetful", [0, 2])
@in_virtual_time
async def test_turns_of_a_call_without_an_answer_are_given_back(forgetful):
    """The store may have booked them after we gave up: each would count for its lease."""
    limiter = store(share=1.0)
    async with limiter:
        (await limiter.acquire()).finish()
        await settle()
        limiter.connecting = 0.3  # longer than a call may take
        waiting = [asyncio.create_task(limiter.acquire()) for _ in range(3)]
        await settle()
        limiter.error, limiter.forgetful = OSError("away"), forgetful
        for turn in await asyncio.gather(*waiting):
            turn.finish()
        limiter.error = None
        while limiter.alone:
            await _used(limiter, 1)
        await settle()
    returned = limiter.told("returned")  # more than once is no more than once
    assert set(returned) == {f"{limiter._ledger.process}:{n}" for n in (1, 2, 3)}


@in_virtual_time
async def test_a_store_that_goes_again_as_it_is_told_is_looked_for_once_a_second():
    """Not without end: it has enough to do as it comes up."""
    limiter = store(share=1.0)
    limiter.error = OSError("away")
    loop = asyncio.get_running_loop()
    async with limiter:
        (await limiter.acquire()).finish()
        limiter.error, limiter.forgetful = None, 6  # each call is made twice
        limiter.room = 1_000
        while limiter.alone:
            (await limiter.acquire()).finish()
            await asyncio.sleep(0.05)
            assert loop.time() < 100.0
        assert loop.time() == pytest.approx(4.0, abs=0.3)
        assert limiter.told("restored")
