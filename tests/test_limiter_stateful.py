"""The line of callers against a naive model: any sequence of calls, the same promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from attrs import define, field
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from kie_async.limiter import SlidingWindowLimiter, Turn
from kie_async.limiter._window import DRIFT, GRAIN
from tests.clock import JumpingLoop
from tests.examples import play

WINDOW = 10.0
SPAN = WINDOW * (1 + DRIFT) + GRAIN


@define
class Caller:
    """One who asked for a turn; the naive model keeps them all."""

    task: asyncio.Task[Turn]
    gone: bool = False
    left: float | None = None
    ended: float | None = None
    given_back: bool = False
    number: int = field(default=0)


class LineMachine(RuleBasedStateMachine):
    """Callers come, give up, get answers or give back, and somebody pauses the line.

    The model: whoever has left counts until a span after his answer; the first in line
    leaves as soon as fewer than the limit count.  After a pause turns leave one by one, so
    that from then on only "not too early, in order, and in the end all" is known.
    """

    kind: type[Any] = SlidingWindowLimiter

    @initialize(limit=st.integers(1, 4))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.loop = JumpingLoop()
        self.limiter = self.kind(limit, WINDOW)
        self.callers: list[Caller] = []
        self.order: list[int] = []
        self.paused_until = float("-inf")
        self.paused = False

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that is ready."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            for _ in range(5):
                await asyncio.sleep(0)

        self.loop.run_until_complete(wait())

    async def acquire(self, number: int) -> Turn:
        turn: Turn = await self.limiter.acquire()
        self.order.append(number)
        self.callers[number].left = self.loop.time()
        return turn

    @rule(many=st.integers(1, 5))
    def come(self, many: int) -> None:
        for _ in range(many):
            number = len(self.callers)
            self.callers.append(Caller(self.loop.create_task(self.acquire(number)), number=number))
        self.run()

    @rule(seconds=st.floats(0.0, 25.0))
    def time_passes(self, seconds: float) -> None:
        self.run(seconds)

    def one_of(self, data: Any, callers: list[Caller]) -> Caller:
        return callers[data.draw(st.integers(0, len(callers) - 1))]

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        caller = self.one_of(data, self.waiting())
        caller.task.cancel()
        caller.gone = True
        self.run()

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def answer(self, data: Any) -> None:
        caller = self.one_of(data, self.in_flight())
        caller.task.result().finish()
        caller.ended = self.loop.time()
        self.run()

    @precondition(lambda self: self.in_flight())
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        caller = self.one_of(data, self.in_flight())
        caller.task.result().give_back()
        caller.given_back = True
        self.run()

    @rule(seconds=st.floats(0.1, 30.0))
    def pause(self, seconds: float) -> None:
        async def pause() -> None:
            self.limiter.pause(seconds)

        self.paused_until = max(self.paused_until, self.loop.time() + seconds)
        self.paused = True
        self.loop.run_until_complete(pause())
        self.checked = len(self.order)

    def waiting(self) -> list[Caller]:
        return [c for c in self.callers if c.left is None and not c.gone]

    def in_flight(self) -> list[Caller]:
        held = [c for c in self.callers if c.left is not None and c.ended is None]
        return [c for c in held if not c.given_back]

    def counted(self, at: float) -> int:
        """Return how many count at *at*, of those who left by then."""
        return sum(
            c.left is not None
            and c.left <= at
            and not c.given_back
            and (c.ended is None or at < c.ended + SPAN - 1e-9)
            for c in self.callers
        )

    @invariant()
    def nobody_leaves_early_or_out_of_order(self) -> None:
        assert self.order == sorted(self.order)
        assert all(self.counted(c.left) <= self.limit for c in self.callers if c.left is not None)
        late = [self.callers[number].left for number in self.order[getattr(self, "checked", 0) :]]
        assert all(at >= self.paused_until - 1e-9 for at in late)

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        waiting = len(self.waiting())
        assert self.limiter.waiting == waiting
        if waiting and not self.paused:
            assert self.counted(self.loop.time()) == self.limit

    def teardown(self) -> None:
        """Whoever waits gets his turn in the end, and nothing is left."""
        if not hasattr(self, "loop"):
            return
        try:
            for _ in range(3 * len(self.callers) + 3):
                for caller in self.in_flight():
                    caller.task.result().finish()
                    caller.ended = self.loop.time()
                self.run(SPAN + 30.0)
            assert self.waiting() == []
            assert self.limiter.waiting == 0
            self.run(2 * SPAN)
            assert self.loop.run_until_complete(self.count()) == 0
        finally:
            for caller in self.callers:
                caller.task.cancel()
            self.run()
            self.loop.close()

    async def count(self) -> int:
        return int(self.limiter.in_window)


LineMachine.TestCase.settings = play(80, 30)
TestAnySequenceOfCallers = LineMachine.TestCase


class Bucket(SlidingWindowLimiter):
    """Counts a turn from its sending, as most limiters do."""

    async def acquire(self) -> Turn:
        turn = await super().acquire()
        turn.finish()
        return Turn(lambda finished: None)


class Hasty(SlidingWindowLimiter):
    """Lets who has given up keep his turn."""

    def _drop(self, waiter: Any) -> None:
        self._book._in_flight += 1
        super()._drop(waiter)


@pytest.mark.parametrize(
    ("bad", "broken"),
    [(Bucket, "nobody_leaves_early_or_out_of_order"), (Hasty, "nobody_waits_for_nothing")],
)
def test_the_model_catches_a_bad_limiter(bad: type[Any], broken: str) -> None:
    """One that counts from the sending, and one that loses the turns of who gave up."""
    machine = LineMachine()
    machine.kind = bad
    machine.begin(2)
    try:
        machine.come(5)
        machine.waiting()[0].task.cancel()
        machine.waiting()[0].gone = True
        for caller in machine.in_flight()[: 1 if bad is Bucket else 2]:
            caller.task.result().finish()
            caller.ended = machine.loop.time()
        machine.time_passes(SPAN)
        machine.time_passes(SPAN)

        with pytest.raises(AssertionError):
            getattr(machine, broken)()
    finally:
        for caller in machine.callers:
            caller.task.cancel()
        machine.run()
        machine.loop.close()
