"""The limiter: no window ever holds more than its limit, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kie_async.errors import UsageError
from kie_async.limiter import (
    RateLimiter,
    SlidingWindow,
    SlidingWindowLimiter,
    Turn,
    Unlimited,
    shared_limiter,
)
from kie_async.limiter._window import DRIFT, GRAIN
from tests.clock import JumpingLoop, jumping, run_jumping
from tests.examples import play

SPAN = 10.0 * (1 + DRIFT) + GRAIN  # how long a turn counts after its answer, margins included


def now() -> float:
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let everything run that can run now."""
    for _ in range(5):
        await asyncio.sleep(0)


# --- the arithmetic -------------------------------------------------------------------


class Book(RuleBasedStateMachine):
    """The window beside a list of turns that is searched from end to end."""

    limit = 3
    window = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.book = SlidingWindow(self.limit, self.window)
        self.now = 1000.0
        self.in_flight = 0
        self.ended: list[float] = []
        self.left: list[float] = []
        self.paused_until = -math.inf
        self.first_pause = math.inf

    def counted(self, at: float) -> int:
        counted, back = self.in_flight, -math.inf
        for answered in self.ended:
            end = answered + SPAN
            back = max(end, back + SPAN / self.limit) if end > self.first_pause else end
            counted += back > at
        return counted

    def free(self, at: float) -> bool:
        if self.counted(at) >= self.limit or at < self.paused_until:
            return False
        calm = at < self.paused_until + SPAN
        return not (calm and self.left and at < self.left[-1] + SPAN / self.limit)

    @rule(seconds=st.floats(0.0, 25.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def time_passes_until_somebody_may_go(self) -> None:
        opening = self.book.next_free(self.now)
        assert opening >= self.now
        if opening > self.now:
            assert not self.free(math.nextafter(opening, 0.0) - 1e-9)
        if self.in_flight < self.limit:
            assert self.free(opening)
        self.now = opening

    @rule()
    def take(self) -> None:
        expected = self.free(self.now)
        assert self.book.take(self.now) is expected
        if expected:
            self.in_flight += 1
            self.left.append(self.now)

    @precondition(lambda self: self.in_flight)
    @rule()
    def answer(self) -> None:
        self.book.finish(self.now)
        self.in_flight -= 1
        self.ended.append(self.now)

    @precondition(lambda self: self.in_flight)
    @rule()
    def give_back(self) -> None:
        self.book.give_back()
        self.in_flight -= 1

    @rule(seconds=st.floats(0.001, 30.0))
    def pause(self, seconds: float) -> None:
        self.book.pause(self.now, seconds)
        self.first_pause = min(self.first_pause, self.now)
        self.paused_until = max(self.paused_until, self.now + seconds)

    @invariant()
    def the_count_is_right(self) -> None:
        assert self.book.counted(self.now) == self.counted(self.now) <= self.limit


TestBook = Book.TestCase
TestBook.settings = play(150, 40)


@given(
    answered=st.floats(0.0, 1e9, allow_nan=False),
    window=st.floats(0.1, 3600.0),
)
def test_no_rounding_lets_a_turn_leave_early(answered: float, window: float):
    """Whatever the magnitude of the clock, a full window lies between answer and next turn."""
    book = SlidingWindow(1, window)
    assert book.take(answered)
    book.finish(answered)

    opening = book.next_free(answered)

    assert not book.take(answered)
    assert opening - answered > window  # strictly: a window may contain both its ends
    assert not book.take(answered + window)
    assert book.take(opening)


def test_the_margin_covers_milliseconds_and_the_fastest_slew_and_no_more():
    """Server and client read different clocks: 1 ms of grain, 500 ppm; 0.06 % in all."""
    book = SlidingWindow(20, 10.0)

    margin = book.span - book.window

    assert margin == pytest.approx(0.001 + 10.0 * 500e-6)
    assert margin / book.window < 0.001


def test_spread_turns_come_back_one_by_one():
    """A burst goes at once; its turns are used again a share of the window apart."""
    book = SlidingWindow(4, 10.0, spread=True)
    assert all(book.take(0.0) for _ in range(4))
    for _ in range(4):
        book.finish(0.1)

    times, at = [], 0.1
    for _ in range(4):
        at = book.next_free(at)
        assert book.take(at)
        times.append(at)

    assert times == pytest.approx([0.1 + SPAN + i * SPAN / 4 for i in range(4)])


def test_the_first_pause_spreads_the_turns_from_then_on():
    """One refusal is one lesson, and it is not forgotten after the next burst."""
    book = SlidingWindow(2, 10.0)
    book.pause(0.0, 1.0)
    for _ in range(2):  # an hour later all is forgotten but this
        assert book.take(3600.0)
        book.finish(3600.0)

    assert book.take(3600.0 + SPAN)
    assert book.next_free(3600.0 + SPAN) == pytest.approx(3600.0 + 1.5 * SPAN)


def test_spread_turns_unused_for_two_windows_may_burst_again():
    """An idle account has its whole limit."""
    book = SlidingWindow(4, 10.0, spread=True)
    for _ in range(4):
        book.take(0.0)
        book.finish(0.0)

    assert [book.take(2 * SPAN) for _ in range(5)] == [True] * 4 + [False]


def test_another_clock_that_began_at_zero_does_not_block_for_ever():
    """Turns and pauses of an older, larger clock count at most their length from now."""
    book = SlidingWindow(1, 10.0)
    book.take(1e6)
    book.finish(1e6)
    book.pause(1e6, 30.0)

    assert book.next_free(5.0) == pytest.approx(35.0)
    assert book.take(35.0)


def test_answers_told_in_the_other_order_let_nobody_leave_early():
    """Two threads may swap by a moment: both turns count to the end of the later one."""
    book = SlidingWindow(2, 10.0)
    assert book.take(0.0)
    assert book.take(0.0)
    book.finish(5.1)
    book.finish(5.0)

    assert not book.take(5.0 + SPAN)
    assert [book.take(5.1 + SPAN) for _ in range(3)] == [True, True, False]


def test_turns_of_another_clock_do_not_hide_behind_newer_ones():
    """The old stamps stand in front of the new ones; they are mended nevertheless."""
    book = SlidingWindow(2, 10.0)
    assert book.take(1e6)
    book.finish(1e6)
    assert book.take(0.0)
    book.finish(1.0)

    assert book.next_free(1.0) == pytest.approx(1.0 + SPAN)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "20", None])
def test_a_limit_is_a_whole_number_from_one(limit: Any):
    """Anything else is refused before it can do harm."""
    with pytest.raises(UsageError, match="limit must"):
        SlidingWindowLimiter(limit, 10.0)


@pytest.mark.parametrize("window", [0, -1.0, math.inf, math.nan, True, "10", None])
def test_a_window_is_finite_and_above_zero(window: Any):
    """Anything else is refused before it can do harm."""
    with pytest.raises(UsageError, match="window must"):
        SlidingWindowLimiter(20, window)


@pytest.mark.parametrize("seconds", [-0.1, math.inf, math.nan, True, "1", None])
def test_a_pause_is_finite_and_not_negative(seconds: Any):
    """Anything else is refused before it can do harm."""
    with pytest.raises(UsageError, match="pause must"):
        SlidingWindowLimiter().pause(seconds)


# --- the line -------------------------------------------------------------------------


@jumping
async def test_twenty_leave_at_once_and_the_next_one_window_after_the_first_answer():
    """An idle account sends its whole limit in no time."""
    limiter = SlidingWindowLimiter()
    turns = [await limiter.acquire() for _ in range(20)]
    assert now() == 0.0
    await asyncio.sleep(0.25)
    turns[7].finish()

    await limiter.acquire()

    assert now() == pytest.approx(0.25 + SPAN)
    assert limiter.in_window == 20


@jumping
async def test_callers_leave_in_the_order_they_came():
    """First come, first served; nobody overtakes, not even one who finds a turn free."""
    limiter = SlidingWindowLimiter(limit=2)
    order: list[int] = []

    async def caller(number: int) -> None:
        with await limiter.acquire():
            order.append(number)
            await asyncio.sleep(0.1 * (number % 3))

    async with asyncio.TaskGroup() as group:
        for number in range(25):
            group.create_task(caller(number))
            if number % 5 == 0:
                await asyncio.sleep(3.0)

    assert order == list(range(25))


@jumping
async def test_who_comes_while_somebody_waits_goes_behind_him():
    """A turn given back is not snatched by a newcomer."""
    limiter = SlidingWindowLimiter(limit=1)
    held = await limiter.acquire()
    order: list[str] = []

    async def caller(name: str) -> None:
        (await limiter.acquire()).give_back()
        order.append(name)

    first = asyncio.create_task(caller("first"))
    await settle()
    held.give_back()
    await caller("newcomer")  # runs before `first` has been resumed
    await first

    assert order == ["first", "newcomer"]
    assert now() == 0.0


@jumping
async def test_nobody_overtakes_while_the_timer_is_late():
    """A busy loop: the first one's turn is free for long, but he has not been told yet."""
    limiter = SlidingWindowLimiter(limit=1)
    (await limiter.acquire()).finish()
    first = asyncio.create_task(limiter.acquire())
    await settle()
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    loop._jumps.skipped = 15.0  # the loop did nothing else for so long

    newcomer = asyncio.create_task(limiter.acquire())
    (await first).finish()

    assert now() == 15.0
    await newcomer
    assert now() == pytest.approx(15.0 + SPAN)


@jumping
async def test_a_turn_given_back_wakes_the_next_one_at_once():
    """Nothing was sent, so nothing counts."""
    limiter = SlidingWindowLimiter(limit=1)
    held = await limiter.acquire()
    waiter = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1.0)

    held.give_back()
    (await waiter).finish()

    assert now() == 1.0


@jumping
async def test_both_endings_may_be_called_again():
    """The first one counts: a finished turn cannot be given back, nor the reverse."""
    limiter = SlidingWindowLimiter(limit=2)
    finished, returned = await limiter.acquire(), await limiter.acquire()

    for _ in range(3):
        finished.finish()
        finished.give_back()
        returned.give_back()
        returned.finish()

    assert limiter.in_window == 1


@jumping
async def test_a_turn_ends_with_its_block_however_that_ends():
    """A task that dies holds nothing."""
    limiter = SlidingWindowLimiter(limit=2)

    with contextlib.suppress(KeyError), await limiter.acquire():
        raise KeyError
    with await limiter.acquire() as turn:
        turn.give_back()

    assert limiter.in_window == 1
    await asyncio.sleep(SPAN + 0.001)
    assert limiter.in_window == 0


@pytest.mark.parametrize("steps", range(8))
def test_a_caller_cancelled_at_any_point_loses_nothing(steps: int):
    """Before, at and after its grant: the next in line gets the turn at the same instant."""

    async def main() -> None:
        limiter = SlidingWindowLimiter(limit=1)
        held = await limiter.acquire()
        granted: list[Turn] = []

        async def caller() -> None:
            granted.append(await limiter.acquire())

        victim = asyncio.create_task(caller())
        heir = asyncio.create_task(caller())
        for step in range(8):
            if step == 3:
                held.give_back()
            if step == steps:
                victim.cancel()
            await asyncio.sleep(0)
        if granted and victim.done() and not victim.cancelled():
            granted.pop().give_back()
        await asyncio.wait_for(heir, 1.0)

        assert now() == 0.0
        assert len(granted) == 1
        assert (limiter.waiting, limiter.in_window) == (0, 1)

    run_jumping(main())


@jumping
async def test_cancelled_between_grant_and_wake_the_turn_goes_on():
    """The classic lost wake-up: the future is resolved, and its task cancelled before it ran."""
    limiter = SlidingWindowLimiter(limit=1)
    held = await limiter.acquire()
    victim = asyncio.create_task(limiter.acquire())
    heir = asyncio.create_task(limiter.acquire())
    await settle()

    held.give_back()
    victim.cancel()
    turn = await heir

    assert victim.cancelled()
    assert now() == 0.0
    turn.finish()
    assert limiter.in_window == 1


@jumping
async def test_cancelled_before_the_grant_in_the_same_step_the_turn_goes_past():
    """A cancelled caller that has not noticed yet is no longer in line."""
    limiter = SlidingWindowLimiter(limit=1)
    held = await limiter.acquire()
    victim = asyncio.create_task(limiter.acquire())
    heir = asyncio.create_task(limiter.acquire())
    await settle()

    victim.cancel()
    held.give_back()
    await heir

    assert victim.cancelled()
    assert (now(), limiter.waiting, limiter.in_window) == (0.0, 0, 1)


@jumping
async def test_many_who_give_up_leave_no_trace():
    """Callers with a deadline shorter than a pause do not pile up behind it."""
    limiter = SlidingWindowLimiter(limit=1)
    limiter.pause(3600.0)
    patient = asyncio.create_task(limiter.acquire())
    await settle()

    for _ in range(20):
        callers = [asyncio.create_task(limiter.acquire()) for _ in range(100)]
        await settle()
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    assert limiter.waiting == 1
    assert len(limiter._line) < 300
    await patient
    assert now() == pytest.approx(3600.0)


# --- pause ----------------------------------------------------------------------------


@jumping
async def test_a_pause_holds_everybody_those_in_line_too():
    """Those who waited already wait longer."""
    limiter = SlidingWindowLimiter(limit=1)
    (await limiter.acquire()).finish()
    waiter = asyncio.create_task(limiter.acquire())
    await asyncio.sleep(1.0)

    limiter.pause(60.0)
    await waiter

    assert now() == pytest.approx(61.0)


@jumping
async def test_a_shorter_pause_never_shortens():
    """The longest pause in force counts."""
    limiter = SlidingWindowLimiter()
    limiter.pause(30.0)
    limiter.pause(1.0)
    limiter.pause(0.0)

    await limiter.acquire()

    assert now() == pytest.approx(30.0)


@jumping
async def test_a_pause_of_nothing_changes_nothing():
    """Zero seconds is no lesson."""
    limiter = SlidingWindowLimiter()
    limiter.pause(0.0)

    for _ in range(20):
        await limiter.acquire()

    assert now() == 0.0


@jumping
async def test_after_a_pause_callers_leave_one_by_one_for_one_window():
    """Whoever was refused does not come back with a burst."""
    limiter = SlidingWindowLimiter(limit=4)
    limiter.pause(5.0)
    left: list[float] = []

    async def caller() -> None:
        with await limiter.acquire():
            left.append(now())

    await asyncio.gather(*(caller() for _ in range(8)))

    assert left == pytest.approx(
        [5.0 + i * SPAN / 4 for i in range(4)] + [5.0 + SPAN + i * SPAN / 4 for i in range(4)]
    )


@jumping
async def test_a_turn_given_back_during_a_pause_is_found_when_the_pause_ends():
    """The timer was set for a later moment; it is set anew."""
    limiter = SlidingWindowLimiter(limit=4)
    held = [await limiter.acquire() for _ in range(4)]
    waiter = asyncio.create_task(limiter.acquire())
    await settle()
    limiter.pause(2.0)
    held[0].give_back()

    await waiter

    assert now() == pytest.approx(SPAN / 4)  # one by one: a share of the window after the last


# --- for all --------------------------------------------------------------------------

callers = st.lists(
    st.fixed_dictionaries(
        {
            "comes": st.floats(0.0, 12.0),
            "to_server": st.floats(0.0, 4.0),
            "to_client": st.floats(0.0, 4.0),
            "fate": st.sampled_from(["sends", "sends", "sends", "gives back", "dies", "gives up"]),
            "patience": st.floats(0.0, 15.0),
        }
    ),
    min_size=1,
    max_size=30,
)


@given(
    callers=callers,
    limit=st.integers(1, 4),
    window=st.sampled_from([0.1, 1.0, 10.0]),
    spread=st.booleans(),
    pauses=st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 8.0)), max_size=2),
)
@settings(deadline=None, max_examples=200)
def test_no_window_ever_holds_more_than_its_limit(
    callers: list[dict[str, Any]],
    limit: int,
    window: float,
    spread: bool,
    pauses: list[tuple[float, float]],
):
    """Whatever the delays, cancellations, failures and turns given back; and all get through."""
    arrived: list[float] = []
    done: list[str] = []

    async def main() -> None:
        limiter = SlidingWindowLimiter(limit, window, spread=spread)

        async def caller(plan: dict[str, Any]) -> None:
            await asyncio.sleep(plan["comes"])
            patience = plan["patience"] if plan["fate"] == "gives up" else None
            with contextlib.suppress(TimeoutError, KeyError):
                async with asyncio.timeout(patience):
                    with await limiter.acquire() as turn:
                        if plan["fate"] == "gives back":
                            turn.give_back()
                            return
                        await asyncio.sleep(plan["to_server"])
                        arrived.append(now())
                        if plan["fate"] == "dies":
                            raise KeyError
                        await asyncio.sleep(plan["to_client"])
            done.append(plan["fate"])

        async def refuse(at: float, seconds: float) -> None:
            await asyncio.sleep(at)
            limiter.pause(seconds)

        await asyncio.gather(*map(caller, callers), *(refuse(*pause) for pause in pauses))
        await asyncio.sleep(2 * SPAN)
        assert (limiter.waiting, limiter.in_window) == (0, 0)

    run_jumping(main())

    arrived.sort()
    for first, beyond in zip(arrived, arrived[limit:], strict=False):
        assert beyond - first > window
    assert len(arrived) >= sum(1 for plan in callers if plan["fate"] in ("sends", "dies"))


def test_a_send_stamped_window_would_break_that_property():
    """The control: without the wait for the answer, 21 arrive in one window."""
    arrived: list[float] = []

    async def main() -> None:
        limiter = SlidingWindowLimiter()

        async def caller(number: int) -> None:
            (await limiter.acquire()).finish()  # wrong: it says "answered" before it has sent
            await asyncio.sleep(0.5 if number < 20 else 0.1)
            arrived.append(now())

        await asyncio.gather(*(caller(number) for number in range(21)))

    run_jumping(main())

    arrived.sort()
    assert arrived[20] - arrived[0] < 10.0


# --- loops and threads ----------------------------------------------------------------


def run_on_one_clock(*mains: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run each in a loop of its own, one after another, in virtual time that goes on."""
    at = 0.0
    for main in mains:

        def loop(start: float = at) -> JumpingLoop:
            made = JumpingLoop()
            made._jumps.skipped = start
            return made

        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())
            at = runner.get_loop().time()


def test_a_second_loop_finds_the_window_as_the_first_one_left_it():
    """`asyncio.run` twice within one window: the limit is the account's, not the loop's."""
    limiter = SlidingWindowLimiter(limit=2)
    left: list[float] = []

    async def one() -> None:
        with await limiter.acquire():
            left.append(now())

    async def three() -> None:
        await asyncio.gather(one(), one(), one())

    run_on_one_clock(three, three)

    assert left == pytest.approx([0.0, 0.0, SPAN, SPAN, 2 * SPAN, 2 * SPAN])


def test_waiters_of_an_ended_loop_are_skipped():
    """What `asyncio.run` cancelled at its end holds no turn and no place."""
    limiter = SlidingWindowLimiter(limit=1)
    forgotten: list[asyncio.Task[Turn]] = []

    async def leaves_waiters_behind() -> None:
        (await limiter.acquire()).finish()
        forgotten.extend(asyncio.create_task(limiter.acquire()) for _ in range(50))
        await settle()

    async def comes_later() -> None:
        assert limiter.waiting == 0
        await limiter.acquire()
        assert now() == pytest.approx(SPAN)

    run_on_one_clock(leaves_waiters_behind, comes_later)

    assert all(task.cancelled() for task in forgotten)


@pytest.mark.filterwarnings("ignore:coroutine")  # reason: the loop is killed on purpose
def test_waiters_of_a_loop_that_was_closed_under_them_are_skipped():
    """Not even cancelled: the loop was closed while they waited."""
    limiter = SlidingWindowLimiter(limit=1)
    dead = JumpingLoop()
    turn = dead.run_until_complete(limiter.acquire())
    tasks = [dead.create_task(limiter.acquire()) for _ in range(3)]
    dead.run_until_complete(settle())
    dead.close()
    assert limiter.waiting == 3

    async def main() -> None:
        waiter = asyncio.create_task(limiter.acquire())
        await settle()
        turn.give_back()
        (await waiter).give_back()
        assert (now(), limiter.waiting) == (0.0, 0)

    run_jumping(main())
    for task in tasks:
        task._log_destroy_pending = False  # reason: dying with its loop is the test
    del tasks
    gc.collect()
    assert limiter.in_window == 0


def test_a_turn_whose_loop_was_closed_under_it_comes_back_when_it_is_collected():
    """The collector closes the block, and the block ends the turn."""
    limiter = SlidingWindowLimiter(limit=1)
    dead = JumpingLoop()

    async def holds() -> None:
        with await limiter.acquire():
            await asyncio.Event().wait()

    task = dead.create_task(holds())
    dead.run_until_complete(settle())
    dead.close()
    task._log_destroy_pending = False  # reason: dying with its loop is the test
    del task
    gc.collect()

    async def main() -> None:
        await limiter.acquire()
        assert now() == pytest.approx(SPAN)

    run_jumping(main())


def test_ending_a_turn_while_the_lock_is_held_neither_blocks_nor_gets_lost():
    """A collector may end turns in the middle of our own bookkeeping."""

    async def main() -> None:
        limiter = SlidingWindowLimiter(limit=2)
        first, second = await limiter.acquire(), await limiter.acquire()
        waiter = asyncio.create_task(limiter.acquire())
        await settle()
        with limiter._lock:
            first.finish()
            second.give_back()  # a blocking lock would hang here
        limiter.pause(0.0)  # whoever had the lock looks into the post
        await waiter
        assert now() == 0.0

    run_jumping(main())


def test_two_threads_share_one_limit():
    """Real time, real threads: 8 per 0.1 s over both, first to last."""
    limiter = SlidingWindowLimiter(limit=8, window=0.1)
    left: list[float] = []
    lock = threading.Lock()

    async def caller() -> None:
        with await limiter.acquire(), lock:
            left.append(asyncio.get_running_loop().time())

    async def many() -> None:
        await asyncio.gather(*(caller() for _ in range(20)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)

    left.sort()
    assert len(left) == 40
    assert all(b - a > 0.1 for a, b in zip(left, left[8:], strict=False))
    assert left[-1] - left[0] < 2.0  # ideal 0.4


def test_a_turn_given_back_in_one_thread_wakes_a_waiter_in_another():
    """The waiter's timer would have rung an hour later."""
    limiter = SlidingWindowLimiter(limit=1, window=3600.0)
    held = asyncio.run(limiter.acquire())
    done = threading.Event()

    async def wait() -> None:
        with await limiter.acquire():
            done.set()

    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    while not limiter.waiting:
        pass
    held.give_back()

    assert done.wait(5.0)
    thread.join(5.0)


def test_threads_in_a_hurry_lose_no_turn():
    """Takes, gives back and cancels in three threads; at the end all is free."""
    limiter = SlidingWindowLimiter(limit=2, window=0.001)
    served: list[int] = []

    async def caller(number: int) -> None:
        turn = await limiter.acquire()
        try:
            await asyncio.sleep(0)
        finally:
            turn.give_back()
        served.append(number)

    async def many() -> None:
        tasks = [asyncio.create_task(caller(number)) for number in range(300)]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)

    assert not any(thread.is_alive() for thread in threads)
    assert len(served) >= 600
    assert (limiter.waiting, limiter.in_window) == (0, 0)


# --- shared, and others ---------------------------------------------------------------


def test_an_account_has_one_limiter_in_this_process():
    """Two sessions of one key keep one limit together."""
    first, second, other = (shared_limiter(name) for name in ("a", "a", "b"))

    assert first is second
    assert other is not first
    assert (first.limit, first.window) == (20, 10.0)


def test_an_account_cannot_have_two_limits():
    """The second one would be a silent lie."""
    shared_limiter("a", limit=8, window=1.0)

    with pytest.raises(UsageError, match=r"8 per 1\.0 s"):
        shared_limiter("a")


@jumping
async def test_unlimited_never_waits():
    """For servers without a limit."""
    limiter = Unlimited()
    limiter.pause(60.0)

    for _ in range(100):
        with await limiter.acquire() as turn:
            turn.give_back()

    assert now() == 0.0


def test_a_turn_calls_its_end_once():
    """Other limiters build their turns on it."""
    ends: list[bool] = []
    finished, returned = Turn(ends.append), Turn(ends.append)

    with finished:
        pass
    finished.give_back()
    returned.give_back()
    returned.finish()

    assert ends == [True, False]


def test_both_are_rate_limiters():
    """The protocol is what the session asks for."""
    assert isinstance(SlidingWindowLimiter(), RateLimiter)
    assert isinstance(Unlimited(), RateLimiter)
    assert not isinstance(object(), RateLimiter)


def test_repr_says_who_waits():
    """One line for a log."""
    assert repr(SlidingWindowLimiter()) == "<SlidingWindowLimiter 20 per 10.0 s, 0 waiting>"


@jumping
async def test_a_hundred_thousand_may_wait():
    """One future each, one timer in all; the first ones leave on time."""
    limiter = SlidingWindowLimiter(limit=1000)
    left: list[float] = []

    async def caller() -> None:
        with await limiter.acquire():
            left.append(now())

    tasks: list[Awaitable[None]] = [asyncio.create_task(caller()) for _ in range(100_000)]
    await settle()
    assert limiter.waiting == 99_000
    assert len(asyncio.get_running_loop()._scheduled) == 1
    await asyncio.gather(*tasks)

    assert left[-1] == pytest.approx(99 * SPAN)


@jumping
async def test_turns_of_an_earlier_process_count():
    """A restart within the window is no second burst."""
    limiter = SlidingWindowLimiter(20, 10.0)
    loop = asyncio.get_running_loop()
    limiter.remember([9.0] * 5 + [3.0] * 5 + [-7.0] * 5 + [1e9] * 5)

    assert limiter.in_window == 15
    left = [loop.time() for _ in range(20) if (await limiter.acquire()).finish() is None]

    assert left[:5] == [0.0] * 5
    assert left[5:10] == pytest.approx([1.0] * 5, abs=0.02)
    assert left[10:15] == pytest.approx([7.0] * 5, abs=0.02)
    assert left[15:] == pytest.approx([10.0] * 5, abs=0.02)
