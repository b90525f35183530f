"""The queue against a naive model of it: any sequence of calls, the same promises."""

from __future__ import annotations

import math
import random

from attrs import define
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from kie_async.models import TaskState
from kie_async.polling import Durations, PollQueue, PollSchedule
from tests.examples import play

SCHEDULE = PollSchedule(jitter=0.0)
LANE = math.sqrt(2.0)  # the queue's choice is this exact
EPSILON = 1e-6


@define
class Waiting:
    """What the naive model knows of a task: its next look lies between two times."""

    started: float
    last: float
    soonest: float
    latest: float
    out: bool = False
    rung: bool = False
    failures: int = 0
    floor: float = 0.0

    def gap(self, at: float) -> float:
        """Return max(2 s, a tenth of the age), at most a minute."""
        return min(60.0, max(2.0, 0.1 * (at - self.started)))


class QueueMachine(RuleBasedStateMachine):
    """Nothing is ever learned here, so each due time is known by hand."""

    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.queue = PollQueue(SCHEDULE, Durations(SCHEDULE), random.Random(7))
        self.model: dict[str, Waiting] = {}
        self.now = 0.0
        self.count = 0

    def at(self, task: Waiting, soonest: float, latest: float | None = None) -> None:
        task.out = False
        task.soonest = soonest
        task.latest = soonest if latest is None else latest

    @rule(seconds=st.floats(0.0, 30.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=ids, age=st.none() | st.floats(0.0, 500.0))
    def add(self, age: float | None) -> str:
        self.count += 1
        task_id = f"t{self.count}"
        self.queue.add(task_id, "m", age, self.now)
        started = self.now - (age or 0.0)
        first = self.now if age is None else max(self.now, started + 2.0)
        self.model[task_id] = Waiting(started, started, first, first)
        return task_id

    @rule(task_id=ids)
    def add_again(self, task_id: str) -> None:
        if task_id in self.model:
            self.queue.add(task_id, "m", None, self.now)

    @rule(task_id=consumes(ids))
    def remove(self, task_id: str) -> None:
        self.queue.remove(task_id)
        self.model.pop(task_id, None)

    @rule(task_id=consumes(ids))
    def finished(self, task_id: str) -> None:
        self.queue.finished(task_id, "m", None)
        self.model.pop(task_id, None)

    @rule(task_id=ids)
    def ring(self, task_id: str) -> None:
        self.queue.ring(task_id, self.now)
        task = self.model.get(task_id)
        if task is None or task.rung:
            return
        task.rung = True
        if not task.out:
            soonest = max(task.last + 0.25, task.floor)
            self.at(
                task,
                max(self.now, min(task.soonest, soonest)),
                max(self.now, min(task.latest, soonest)),
            )

    @rule()
    def pop(self) -> None:
        due = {k: t for k, t in self.model.items() if not t.out and t.soonest <= self.now}
        wanted = self.queue.next_due(self.now)
        task_id = self.queue.pop(self.now)

        assert (task_id is not None) == (wanted is not None and wanted <= self.now)
        if task_id is None:
            assert all(t.out or t.latest > self.now - EPSILON for t in self.model.values())
            return
        assert task_id in due or due == {}  # due == {}: within EPSILON
        task = self.model[task_id]
        assert not task.out
        surely = [t for t in due.values() if t.latest <= self.now]
        if any(t.rung for t in surely):
            assert task.rung
        elif not task.rung:
            most = max((self.worth(t) for t in surely), default=0.0)
            assert self.worth(task) * LANE >= most * (1.0 - EPSILON)
        task.out, task.rung, task.last = True, False, self.now

    def worth(self, task: Waiting) -> float:
        return ((self.now - task.last) / task.gap(task.last)) ** 2

    @rule(task_id=ids, state=st.sampled_from([TaskState.WAITING, TaskState.GENERATING]))
    def answered(self, task_id: str, state: TaskState) -> None:
        task = self.model.get(task_id)
        if task is None or not task.out:
            return
        self.queue.answered(task_id, state, self.now)
        task.failures = 0
        if task.rung:
            self.at(task, max(task.last + 0.25, self.now))
        else:
            self.at(task, max(task.last + task.gap(task.last), self.now + 0.25))

    @rule(task_id=ids, retry_after=st.none() | st.floats(-1.0, 400.0))
    def failed(self, task_id: str, retry_after: float | None) -> None:
        task = self.model.get(task_id)
        if task is None or not task.out:
            return
        self.queue.failed(task_id, self.now, retry_after)
        task.rung = False
        task.failures = min(task.failures + 1, 4)
        gap = task.gap(self.now)
        wait = min(gap * 2.0**task.failures, max(gap, 48.0))
        low, high = 0.75 * wait, 1.25 * wait
        if retry_after is not None and retry_after > 0.0:
            asked = min(retry_after, 300.0)
            task.floor = self.now + asked
            low, high = max(low, asked), max(high, asked * 1.25)
        self.at(task, self.now + low, self.now + high)

    @rule(task_id=ids, delay=st.floats(-5.0, 100.0))
    def recheck(self, task_id: str, delay: float) -> None:
        task = self.model.get(task_id)
        if task is None:
            return
        self.queue.recheck(task_id, delay, self.now)
        task.rung = False
        self.at(task, self.now + max(delay, 0.25))

    @invariant()
    def the_same_tasks_wait(self) -> None:
        assert len(self.queue) == len(self.model)
        assert all(task_id in self.queue for task_id in self.model)

    @invariant()
    def the_next_look_is_when_the_model_says(self) -> None:
        waiting = [task for task in self.model.values() if not task.out]
        due = self.queue.next_due(self.now)
        assert (due is None) == (not waiting)
        if due is not None:
            due = max(due, self.now)
            assert due >= max(self.now, min(t.soonest for t in waiting)) - EPSILON
            assert due <= max(self.now, min(t.latest for t in waiting)) + EPSILON

    def teardown(self) -> None:
        """Every task that waits is looked at in the end, and then none is left."""
        end = self.now + 2_000.0
        waiting = {task_id for task_id, task in self.model.items() if not task.out}
        seen = set()
        while (task_id := self.queue.pop(end)) is not None:
            seen.add(task_id)
        assert seen == waiting
        for task_id in list(self.model):
            self.queue.remove(task_id)
        assert len(self.queue) == 0
        assert self.queue.next_due(end) is None


QueueMachine.TestCase.settings = play(150, 40)
TestAnySequenceOfCalls = QueueMachine.TestCase
