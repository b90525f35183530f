"""What `StoreLimiter` tells a store that was away, slow, or only seemed so; in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from kie_async.errors import KieConnectionError
from kie_async.limiter import Ask, StoreLimiter
from kie_async.limiter._ledger import Ledger
from kie_async.testing import in_virtual_time
from tests.examples import many
from tests.limiter_stores import windows_hold
from tests.test_store_limiter import settle, store

LIMIT, WINDOW, LEASE = 20, 10.0, 35.0


# --- nobody waits ---------------------------------------------------------------------------


@in_virtual_time
async def test_an_end_that_could_not_be_told_is_told_without_a_new_caller():
    """One slow call, and then nobody wants a turn for long: the others do."""
    limiter = store()
    async with limiter:
        turn = await limiter.acquire()
        limiter.connecting = 0.3  # longer than a call may take
        turn.finish()
        await asyncio.sleep(5.0)
        assert dict(limiter.told("restored")) == {
            f"{limiter._ledger.process}:0": pytest.approx(limiter._span - 1.5, abs=0.2)
        }
        assert not limiter.alone


@in_virtual_time
async def test_turns_of_a_call_without_an_answer_are_given_back_without_a_new_caller():
    """They would count for their lease."""
    limiter = store(share=1.0)
    async with limiter:
        limiter.connecting = 0.3
        (await limiter.acquire()).finish()
        await asyncio.sleep(5.0)
        assert limiter.told("returned") == [f"{limiter._ledger.process}:0"]


@in_virtual_time
async def test_a_store_that_stays_away_is_looked_for_while_a_turn_may_count_there():
    """Not for ever: a process that needs nothing does nothing."""
    limiter = store(share=1.0)
    async with limiter:
        turn = await limiter.acquire()
        limiter.error, before = OSError("away"), limiter.called
        turn.finish()
        await asyncio.sleep(100.0)
        looks = (limiter.called - before) / 2  # each is made twice
        assert 40 <= looks <= 50  # a window and a lease, once a second
        await asyncio.sleep(1000.0)
        assert limiter.called == before + 2 * looks


@in_virtual_time
async def test_closing_tells_a_store_that_is_back():
    """Nobody else would, and nobody has waited since."""
    limiter = store(share=1.0)
    async with limiter:
        limiter.error = OSError("away")
        (await limiter.acquire()).finish()
        limiter.error = None
        assert limiter.alone
    assert limiter.told("restored")


@in_virtual_time
async def test_closing_does_not_wait_for_a_store_that_is_away():
    """Not for the next look either."""
    limiter = store(share=0.05)
    loop = asyncio.get_running_loop()
    async with limiter:
        limiter.error = OSError("away")
        (await limiter.acquire()).finish()
        waiting = asyncio.create_task(limiter.acquire())
        await settle()
        at = loop.time()
    assert loop.time() - at < 0.05
    await asyncio.wait([waiting])
    assert waiting.cancelled()


@in_virtual_time
async def test_closing_ends_while_others_go_on_asking():
    """They wait for the close, and use the limiter again."""
    limiter = store()
    limiter.room, limiter.again = 0, 1.0
    tasks: list[asyncio.Task[object]] = []

    async def users() -> None:
        while True:
            tasks.append(asyncio.create_task(limiter.acquire()))
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(users())
    await asyncio.sleep(1.0)
    async with asyncio.timeout(5.0):
        await limiter.aclose()
    limiter.room = 10_000
    await asyncio.sleep(2.0)
    asking.cancel()
    async with limiter:
        await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks[:10])
    assert all(not task.cancelled() for task in tasks[-10:])


@in_virtual_time
async def test_a_pause_after_the_close_opens_nothing():
    """Nobody would close it."""
    limiter = store()
    async with limiter:
        (await limiter.acquire()).finish()
    before = len(limiter.asks)
    limiter.pause(5.0)
    await settle()
    assert len(limiter.asks) == before


# --- what it takes for an outage --------------------------------------------------------------


@in_virtual_time
async def test_a_connection_that_was_cut_off_while_idle_is_no_outage():
    """The call is made again at once, by the same number."""
    limiter = store(share=0.0)
    async with limiter:
        (await limiter.acquire()).finish()
        await asyncio.sleep(600.0)
        limiter.cut = 1
        (await limiter.acquire()).finish()
        assert not limiter.alone
        await settle()
        limiter.cut = 2
        with pytest.raises(KieConnectionError):
            await limiter.acquire()


# --- what happened meanwhile ------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@in_virtual_time
async def test_turns_that_end_in_an_outage_count_from_then(share):
    """And not from when the store is back, nor from when it was looked for."""
    limiter = store(share=share)
    async with limiter:
        turns = [await limiter.acquire() for _ in range(20)]
        limiter.error = OSError("away")
        waiting = asyncio.create_task(limiter.acquire())
        await settle()
        for turn in turns:
            turn.finish()
        await asyncio.sleep(7.0)
        limiter.error = None
        while limiter.alone:  # noqa: ASYNC110 - by the virtual clock
            await asyncio.sleep(0.1)
        left = dict(limiter.told("restored"))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    for number in range(20):
        assert left[f"{limiter._ledger.process}:{number}"] < limiter._span - 6.0


@in_virtual_time
async def test_a_pause_holds_though_the_store_that_knew_it_goes():
    """And a store that comes back empty is told it again."""
    limiter = store(share=1.0)
    loop = asyncio.get_running_loop()
    async with limiter:
        (await limiter.acquire()).finish()
        limiter.pause(60.0)
        await settle()
        limiter.error, at = OSError("away"), loop.time()
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(20.0)
        limiter.error = None
        await asyncio.sleep(5.0)
        assert not limiter.alone
        assert max(limiter.pauses[2:]) == pytest.approx(60.0 - 20.5, abs=0.6)
        waiting.cancel()

        limiter.error = OSError("away")
        (await limiter.acquire()).finish()
        assert loop.time() - at == pytest.approx(60.0, abs=0.5)


@in_virtual_time
async def test_who_gives_up_takes_no_room_behind_one_who_waits():
    """Callers with time-outs, in an outage of hours."""
    limiter = store()
    limiter.room, limiter.again = 0, 3600.0
    async with limiter:
        first = asyncio.create_task(limiter.acquire())
        await settle()
        for _ in range(200):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await limiter.acquire()
        assert limiter.waiting == len(limiter._line._line) == 1
        first.cancel()


# --- processes ------------------------------------------------------------------------------


FORK = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from kie_async.errors import WrongLoopError
from tests.test_store_limiter import store

async def name(limiter):
    try:
        (await limiter.acquire()).finish()
    except WrongLoopError as error:
        return str(error)
    return limiter._ledger.process

limiter = store()
if {used}:
    asyncio.run(name(limiter))
for _ in range(2):
    if not os.fork():
        print(asyncio.run(name(limiter)), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("used", [False, True])
def test_no_two_processes_of_a_fork_take_turns_by_one_name(used: bool):
    """A server that loads the application first and forks then; or uses it first, and is told."""
    script = FORK.format(root=str(Path(__file__).parents[1]), used=used)
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    one, other = ended.stdout.splitlines()
    if used:
        assert one == other
        assert "make one in each process" in one
    else:
        assert one != other
        assert len(one) == len(other) == 12


# --- a world --------------------------------------------------------------------------------


class Book:
    """The store's book, and how the way to it is."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.turns: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self.way = "good"

    def do(self, ask: Ask, span: float) -> tuple[int, float]:
        now, turns = asyncio.get_running_loop().time(), self.turns
        last = self.calls.get(ask.process, 0)
        if ask.call < last:
            return 0, 0.0
        self.calls[ask.process] = ask.call
        turns.update((turn, now + span) for turn in ask.finished if turn in turns)
        for turn in ask.returned:
            turns.pop(turn, None)
        turns.update((turn, now + left) for turn, left in ask.restored)
        for turn in [turn for turn, until in turns.items() if until <= now]:
            del turns[turn]
        names = [f"{ask.process}:{number}" for number in ask.numbers]
        if ask.call == last and (booked := sum(name in turns for name in names)):
            return booked, 0.0
        granted = max(0, min(ask.wanted, LIMIT - len(turns), 3))
        turns.update((name, now + span + LEASE) for name in names[:granted])
        return granted, 0.0 if granted or not turns else min(min(turns.values()) - now, span)


class Reached(StoreLimiter):
    """A limiter with a book, over a way that may be bad."""

    book: Book

    async def _book(self, ask: Ask) -> tuple[int, float]:
        book, loop = self.book, asyncio.get_running_loop()
        match book.way:
            case "refused":
                raise OSError("refused")
            case "cut":  # it is done, and the answer is lost
                book.do(ask, self._span)
                raise OSError("cut")
            case "hangs":  # it is done much later, if no later call was
                loop.call_later(book.rng.uniform(0.3, 4.0), book.do, ask, self._span)
                await asyncio.Event().wait()
            case "slow":
                await asyncio.sleep(book.rng.uniform(0.0, 0.3))
        answer = book.do(ask, self._span)
        await asyncio.sleep(book.rng.choice([0.001, 0.02, 0.2]))
        return answer

    async def _let_go(self) -> None:
        pass


@pytest.mark.parametrize("seed", range(many(60)))
def test_nothing_counts_when_all_has_ended(seed: int):
    """Three processes, callers who give up, closes, and a store to which the way is bad.

    No window holds more than one burst too many, everybody gets a turn, and a while after
    the last one has ended there is none in the book, nor a task in the loop.
    """
    _live(seed)


def test_the_world_finds_out_who_forgets_a_call_without_an_answer(monkeypatch):
    """Such a call may have been done: the control of the test above."""
    monkeypatch.setattr(Ledger, "failed", lambda *_: None)
    with pytest.raises(AssertionError, match=r"== \{\}"):
        for seed in range(60):
            _live(seed)


@in_virtual_time
async def _live(seed: int) -> None:
    await _World(seed).play()


class _World:
    """One seeded life of three processes."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.loop = asyncio.get_running_loop()
        self.book = Book(self.rng)
        share = (0.0, 0.1, 1 / 3)[seed % 3]
        self.limiters = [
            Reached("test", limit=LIMIT, window=WINDOW, share=share, lease=LEASE) for _ in range(3)
        ]
        for limiter in self.limiters:
            limiter.book = self.book
        self.sent: list[float] = []

    async def play(self) -> None:
        before = asyncio.all_tasks()
        async with asyncio.timeout(300.0):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.trouble(70.0))
                group.create_task(self.closes(30.0))
                for limiter in self.limiters:
                    group.create_task(self.load(limiter, group, 60.0))
        await asyncio.sleep(WINDOW + 10.0)
        now = self.loop.time()
        assert {turn: until - now for turn, until in self.book.turns.items() if until > now} == {}
        assert windows_hold(self.sent, 2 * LIMIT, WINDOW)
        for limiter in self.limiters:
            await limiter.aclose()
        assert asyncio.all_tasks() == before

    async def trouble(self, until: float) -> None:
        while self.loop.time() < until:
            self.book.way = "good"
            await asyncio.sleep(self.rng.choice([0.3, 1.0, 5.0, 15.0]))
            self.book.way = self.rng.choice(["refused", "slow", "hangs", "cut"])
            await asyncio.sleep(self.rng.choice([0.01, 0.3, 1.0, 3.0, 8.0]))
        self.book.way = "good"

    async def closes(self, until: float) -> None:
        while self.loop.time() < until:
            await asyncio.sleep(self.rng.uniform(0.0, 10.0))
            await self.rng.choice(self.limiters).aclose()

    async def load(self, limiter: Reached, group: asyncio.TaskGroup, until: float) -> None:
        while self.loop.time() < until:
            for _ in range(self.rng.choice([1, 1, 3, 10])):
                group.create_task(self.caller(limiter))
            await asyncio.sleep(self.rng.expovariate(1 / 3))

    async def caller(self, limiter: Reached) -> None:
        patience = self.rng.uniform(0.0, 3.0) if self.rng.random() < 0.2 else None
        try:
            async with asyncio.timeout(patience):
                turn = await limiter.acquire()
        except (TimeoutError, KieConnectionError, asyncio.CancelledError):
            return  # he gave up, nothing is sent, or it was closed
        if self.rng.random() < 0.1:
            await asyncio.sleep(self.rng.uniform(0.0, 0.1))
            turn.give_back()
            return
        self.sent.append(self.loop.time())
        with turn:
            await asyncio.sleep(self.rng.uniform(0.0, 3.0))
