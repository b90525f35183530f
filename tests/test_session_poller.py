"""The poller: when it polls, whose turns it takes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kie_async.errors import KieError
from kie_async.instrumentation import Event, Hooks, TurnTaken
from kie_async.limiter import SlidingWindowLimiter, Turn, Unlimited
from kie_async.models import Task, TaskState
from kie_async.polling import Durations, PollSchedule
from kie_async.retry import RetryPolicy
from kie_async.session._poller import Poller
from kie_async.session._watch import Waiter
from tests.clock import jumping


class Tasks:
    """Tasks that end at known times; every look takes 0.1 s."""

    def __init__(self, **ends: float) -> None:
        self.ends = ends
        self.looks: list[tuple[float, str]] = []

    async def fetch(self, task_id: str) -> Task:
        now = asyncio.get_running_loop().time()
        self.looks.append((now, task_id))
        await asyncio.sleep(0.1)
        over = now >= self.ends[task_id]
        state = TaskState.SUCCESS if over else TaskState.WAITING
        return Task(task_id=task_id, state=state, result_urls=("https://h/r",) if over else ())


class OnlyAcquire:
    """A limiter of somebody else: it has what the protocol asks for and no more."""

    def __init__(self, bug: Exception | None = None) -> None:
        self.bug = bug
        self.asked = 0

    async def acquire(self) -> Turn:
        self.asked += 1
        await asyncio.sleep(0.5)
        if self.bug is not None:
            raise self.bug
        return Turn(lambda _finished: None)

    def pause(self, seconds: float) -> None:
        raise AssertionError("nothing is refused here")


class Broken(Unlimited):
    """A limiter with a bug in the quick way."""

    def try_acquire(self) -> Turn | None:
        raise ZeroDivisionError("a bug")


def poller(tasks: Tasks, limiter: object, hooks: Hooks | None = None) -> Poller:
    schedule = PollSchedule(first_gap=2.0, growth=0.0, jitter=0.0)
    return Poller(
        tasks.fetch,
        schedule,
        Durations(schedule),
        limiter,  # type: ignore[arg-type]
        RetryPolicy(),
        hooks or Hooks(),
        random.Random(1),
        lambda: 1.8e9,
    )


async def wait(looking: Poller, task_id: str, created_at: float | None = None) -> Task:
    """Wait as a call of the session does."""
    waiter: Waiter[None] = Waiter(None, asyncio.get_running_loop())
    looking.join(waiter, task_id, created_at=created_at)
    try:
        while (ended := await waiter.found) is None:
            await looking.look(waiter)
        return ended
    finally:
        looking.leave(waiter)


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


def alarms() -> int:
    loop = asyncio.get_running_loop()
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


@jumping
async def test_a_loop_may_hand_out_timers_that_do_not_tell_when(monkeypatch):
    """Those of uvloop are plain handles if they are due by the time that they are set."""
    loop = asyncio.get_running_loop()
    real = loop.call_at

    class Plain:
        def __init__(self, handle: asyncio.TimerHandle) -> None:
            self.cancel = handle.cancel

    def call_at(when, callback, *args, **more):
        handle = real(when, callback, *args, **more)
        return Plain(handle) if getattr(callback, "__self__", None) is waiting else handle

    monkeypatch.setattr(loop, "call_at", call_at)
    tasks = Tasks(late=9.0, soon=3.0)
    waiting = poller(tasks, Unlimited())

    waits = [asyncio.create_task(wait(waiting, name, created_at=0.0)) for name in tasks.ends]
    done = await asyncio.gather(*waits)

    assert [task.task_id for task in done] == ["late", "soon"]
    await waiting.close()


@jumping
async def test_a_task_made_here_is_looked_at_when_it_is_due_and_not_before():
    """Each 2 s from its create on; between the looks there is an alarm and no task."""
    tasks = Tasks(a=7.0)
    looking = poller(tasks, Unlimited())
    waiting = asyncio.create_task(wait(looking, "a", created_at=0.0))
    await asyncio.sleep(5.0)

    assert others() == {waiting}
    assert alarms() == 1
    await waiting
    assert [at for at, _ in tasks.looks] == pytest.approx([2.0, 4.0, 6.0, 8.0])
    await asyncio.sleep(0)
    assert (others(), alarms()) == (set(), 0)


@jumping
async def test_a_nearer_task_moves_the_alarm():
    """The one that is due first is looked at first, though it came last."""
    tasks = Tasks(old=100.0, new=0.0)
    looking = poller(tasks, Unlimited())
    first = asyncio.create_task(wait(looking, "old", created_at=0.0))
    await asyncio.sleep(0.5)

    await wait(looking, "new")

    assert tasks.looks == [(0.5, "new")]
    first.cancel()
    await asyncio.sleep(0)
    assert alarms() == 0


@pytest.mark.parametrize("limiter", [OnlyAcquire(), SlidingWindowLimiter(1, 0.5)])
@jumping
async def test_a_limiter_that_makes_wait_is_waited_for(limiter: object):
    """Whether or not it can say at once that there is no turn."""
    tasks = Tasks(a=0.0, b=0.0, c=0.0)
    seen: list[Event] = []
    looking = poller(tasks, limiter, Hooks([seen.append]))

    await asyncio.gather(*(wait(looking, name) for name in "abc"))

    assert sorted(name for _, name in tasks.looks) == ["a", "b", "c"]
    gaps = [b[0] - a[0] for a, b in zip(tasks.looks, tasks.looks[1:], strict=False)]
    assert all(gap >= 0.5 for gap in gaps)
    waited = [event.waited for event in seen if isinstance(event, TurnTaken)]
    assert len(waited) == 3
    assert max(waited) >= 0.5
    await asyncio.sleep(0)
    assert others() == set()


@pytest.mark.parametrize("limiter", [OnlyAcquire(ZeroDivisionError("a bug")), Broken()])
@jumping
async def test_a_bug_in_a_limiter_reaches_every_waiter(limiter: object):
    """Instead of hanging them."""
    looking = poller(Tasks(a=0.0, b=0.0), limiter)

    ends = await asyncio.gather(*(wait(looking, name) for name in "ab"), return_exceptions=True)

    assert [type(end) for end in ends] == [ZeroDivisionError, ZeroDivisionError]


class TwoArguments(Exception):
    """An exception that `copy.copy` cannot make again."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(f"{host}:{port}")


class Misleading(Exception):
    """One whose copy is no exception at all."""

    def __copy__(self) -> str:
        return "a copy"


class BreaksAtOnce(Unlimited):
    """A limiter whose quick way raises what it is given."""

    def __init__(self, bug: Exception) -> None:
        self.bug = bug

    def try_acquire(self) -> Turn | None:
        raise self.bug


@pytest.mark.parametrize("kind", [OnlyAcquire, BreaksAtOnce])
@pytest.mark.parametrize("bug", [TwoArguments("redis", 6379), Misleading("x"), StopIteration(1)])
def test_a_bug_that_cannot_be_copied_reaches_every_waiter_too(kind: Any, bug: Exception):
    """Each waiter gets one of his own where that is possible, and the same one where it is not."""

    @jumping
    async def story() -> None:
        looking = poller(Tasks(a=0.0, b=0.0), kind(bug))
        async with asyncio.timeout(10.0):
            waits = (wait(looking, name) for name in "aab")
            ends = await asyncio.gather(*waits, return_exceptions=True)
        expected = RuntimeError if isinstance(bug, StopIteration) else type(bug)
        assert [type(end) for end in ends] == [expected] * 3

    story()


class BreaksLater(Unlimited):
    """A limiter that gives one turn, and then has a bug."""

    def __init__(self) -> None:
        self.ends: list[bool] = []
        self.given = 0

    def try_acquire(self) -> Turn | None:
        self.given += 1
        if self.given > 1:
            raise ZeroDivisionError("a bug")
        return Turn(self.ends.append)


@jumping
async def test_one_who_is_told_the_end_with_a_turn_in_his_hands_does_not_look():
    """The turn goes back unused: what he would have seen, he knows."""
    tasks = Tasks(a=0.0, b=0.0)
    limiter = BreaksLater()
    looking = poller(tasks, limiter)
    waits = [asyncio.create_task(wait(looking, name, created_at=0.0)) for name in "ab"]

    ends = await asyncio.gather(*waits, return_exceptions=True)

    assert [type(end) for end in ends] == [ZeroDivisionError, ZeroDivisionError]
    assert (tasks.looks, limiter.ends) == ([], [False])
    assert (others(), alarms()) == (set(), 0)


@jumping
async def test_a_closed_poller_starts_nothing_more():
    """Whoever still waits then is ended by the session, and his look with him."""
    tasks = Tasks(a=100.0, b=100.0)
    looking = poller(tasks, OnlyAcquire())
    waiting = [asyncio.create_task(wait(looking, name)) for name in "ab"]
    await asyncio.sleep(0.55)  # one look under way, and a driver that waits for a turn

    await looking.close()

    assert others() == set(waiting)
    await asyncio.sleep(5.0)
    assert len(tasks.looks) == 1
    for task in waiting:
        task.cancel()
    ends = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert not any(isinstance(end, KieError) for end in ends)
    assert (others(), alarms()) == (set(), 0)


@jumping
async def test_when_the_one_who_looks_is_cancelled_another_one_looks():
    """He is in the middle of it: the turn is spent, and the look is made again."""
    tasks = Tasks(a=0.0)
    looking = poller(tasks, Unlimited())
    other, looker = (asyncio.create_task(wait(looking, "a", created_at=0.0)) for _ in range(2))
    await asyncio.sleep(2.05)
    assert len(tasks.looks) == 1

    looker.cancel()

    assert (await other).succeeded
    assert len(tasks.looks) == 2
    assert (others(), alarms()) == (set(), 0)


@jumping
async def test_a_turn_that_meets_a_cancelled_waiter_is_given_back():
    """He was handed it, and cancelled before he woke up: the next one looks."""
    limiter = SlidingWindowLimiter(1, 1.0)
    tasks = Tasks(a=0.0)
    looking = poller(tasks, limiter)
    other, looker = (asyncio.create_task(wait(looking, "a", created_at=0.0)) for _ in range(2))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(2.0 + 1e-10, looker.cancel)  # right behind the alarm

    assert (await other).succeeded

    assert looker.cancelled()
    assert len(tasks.looks) == 1
    assert tasks.looks[0][0] < 2.0 + 1.0  # no window had to pass: that turn was not used
    assert (others(), alarms()) == (set(), 0)


@pytest.mark.parametrize("turns", range(5))
@pytest.mark.parametrize("limiter", [Unlimited, OnlyAcquire])
def test_one_who_joins_while_the_only_waiter_leaves_is_looked_for(limiter: type, turns: int):
    """The turn came for the leaver, who has given up and is not gone yet: it wakes nobody."""

    @jumping
    async def story() -> None:
        tasks = Tasks(a=0.0)
        looking = poller(tasks, limiter())
        loop = asyncio.get_running_loop()
        leaver = asyncio.create_task(wait(looking, "a", created_at=0.0))
        joined: list[asyncio.Task[Task]] = []

        def meet() -> None:
            joined.append(asyncio.create_task(wait(looking, "a", created_at=0.0)))
            leaver.cancel()

        def after(number: int) -> None:
            if number:
                loop.call_soon(after, number - 1)
            else:
                meet()

        came = 2.0 if limiter is Unlimited else 2.5  # when the turn comes
        await asyncio.sleep(0)
        loop.call_at(came - 1e-10, after, turns)
        async with asyncio.timeout(60.0):
            await asyncio.wait([leaver])
            assert (await joined[0]).succeeded

        await asyncio.sleep(0)
        assert (others(), alarms()) == (set(), 0)

    story()


@pytest.mark.parametrize("when", [1.0, 2.05])
@jumping
async def test_the_last_waiter_takes_everything_with_him(when: float):
    """Before his look and in the middle of it."""
    tasks = Tasks(a=100.0)
    looking = poller(tasks, Unlimited())
    waiting = asyncio.create_task(wait(looking, "a", created_at=0.0))
    await asyncio.sleep(when)

    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    assert (others(), alarms()) == (set(), 0)
    assert not len(looking._queue)


@jumping
async def test_waiters_of_one_task_share_its_looks():
    """Also those who come while somebody looks; each gets the same task."""
    tasks = Tasks(a=3.0)
    looking = poller(tasks, Unlimited())
    early = [asyncio.create_task(wait(looking, "a", created_at=0.0)) for _ in range(3)]
    await asyncio.sleep(2.05)
    late = [asyncio.create_task(wait(looking, "a", created_at=0.0)) for _ in range(3)]

    found = await asyncio.gather(*early, *late)

    assert len({id(task) for task in found}) == 1
    assert [at for at, _ in tasks.looks] == pytest.approx([2.0, 4.0])
