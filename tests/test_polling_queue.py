"""The queue of waiting tasks: who is looked at next, and when."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from kie_async.models import TaskState
from kie_async.polling import Durations, PollQueue, PollSchedule
from kie_async.polling._entries import BATCH

EXACT = PollSchedule(jitter=0.0)
WAITING, GENERATING = TaskState.WAITING, TaskState.GENERATING


def queue(*seconds: float, schedule: PollSchedule = EXACT, seed: int = 1) -> PollQueue:
    """Make a queue that has learned *seconds* of model ``m``; exact unless told."""
    durations = Durations(schedule)
    for duration in seconds:
        durations.observe("m", duration)
    return PollQueue(schedule, durations, random.Random(seed))


def looks(waiting: PollQueue, until: float, state: TaskState = WAITING) -> list[float]:
    """Let every task run on until *until*; return the times of all looks."""
    times = []
    while (due := waiting.next_due(0.0)) is not None and due <= until:
        task_id = waiting.pop(due)
        assert task_id is not None
        times.append(due)
        waiting.answered(task_id, state, due)
    return times


TEN_TO_TWENTY = tuple(float(n) for n in range(10, 21))  # first look at 11, gap sqrt(3)


# ---- when


def test_an_empty_queue_wants_nothing():
    """No time, no task."""
    waiting = queue()

    assert waiting.next_due(5.0) is None
    assert waiting.pop(5.0) is None
    assert len(waiting) == 0


def test_a_new_model_is_looked_at_each_two_seconds_then_at_a_tenth_of_the_age():
    """Nothing is known yet."""
    waiting = queue()

    waiting.add("a", "m", 0.0, 0.0)

    assert looks(waiting, 27.0) == pytest.approx([*range(2, 21, 2), 22, 24.2, 26.62])


def test_a_learned_model_is_looked_at_late_and_then_evenly():
    """The tenth percentile is 11; the gap sqrt(2 × 0.3 × 5)."""
    waiting = queue(*TEN_TO_TWENTY)

    waiting.add("a", "m", 0.0, 0.0)

    gap = math.sqrt(3.0)
    assert looks(waiting, 17.0) == pytest.approx([11, 11 + gap, 11 + 2 * gap, 11 + 3 * gap])


def test_the_age_at_adding_counts():
    """A task created four seconds ago is looked at four seconds sooner."""
    waiting = queue(*TEN_TO_TWENTY)

    waiting.add("a", "m", 4.0, 100.0)

    assert waiting.next_due(100.0) == pytest.approx(107.0)


@pytest.mark.parametrize("age", [None, 11.0, 5_000.0, math.inf, math.nan])
def test_a_task_that_may_be_over_is_looked_at_once_now(age: float | None):
    """Adopted: its age is unknown, or past the first look."""
    waiting = queue(*TEN_TO_TWENTY)

    waiting.add("a", "m", age, 50.0)

    assert waiting.next_due(50.0) == 50.0
    assert waiting.pop(50.0) == "a"


def test_an_age_below_zero_is_zero():
    """A clock was set back."""
    waiting = queue(*TEN_TO_TWENTY)

    waiting.add("a", "m", -3.0, 50.0)

    assert waiting.next_due(50.0) == pytest.approx(61.0)


def test_an_adopted_task_follows_the_learned_gap():
    """It may end at any moment: no first wait."""
    waiting = queue(*TEN_TO_TWENTY)

    waiting.add("a", "m", None, 50.0)

    assert looks(waiting, 54.0) == pytest.approx([50.0, 50 + math.sqrt(3), 50 + 2 * math.sqrt(3)])


def test_the_answer_may_tell_age_and_model():
    """An adopted task turns out to be two seconds old: nine to go until the first look."""
    waiting = queue(*TEN_TO_TWENTY)
    waiting.add("a", None, None, 50.0)

    waiting.pop(50.0)
    waiting.answered("a", WAITING, 50.0, age=2.0, model="m")

    assert waiting.next_due(50.0) == pytest.approx(59.0)


def test_a_slow_answer_is_not_followed_by_a_poll_at_once():
    """The gap runs from look to look, but min_gap from the answer."""
    waiting = queue()
    waiting.add("a", "m", 0.0, 0.0)
    waiting.pop(2.0)

    waiting.answered("a", WAITING, 25.0)

    assert waiting.next_due(25.0) == pytest.approx(25.25)


def test_callbacks_leave_just_safety_polls():
    """At the 95th percentile, then each minute."""
    waiting = queue(*(float(n) for n in range(1, 20)))

    waiting.add("a", "m", 0.0, 0.0, callbacks=True)

    assert looks(waiting, 150.0) == pytest.approx([19.0, 79.0, 139.0])


def test_adding_again_changes_nothing():
    """Several waiters of one task share its looks."""
    waiting = queue()
    waiting.add("a", "m", 0.0, 0.0)

    waiting.add("a", "m", None, 1.0)

    assert len(waiting) == 1
    assert waiting.next_due(1.0) == 2.0


def test_a_removed_task_is_never_looked_at():
    """Whether it waits, is due, or is being polled."""
    waiting = queue()
    for task_id in ("waits", "due", "out"):
        waiting.add(task_id, "m", 0.0 if task_id == "waits" else None, 0.0)
    waiting.remove("due")
    assert waiting.pop(0.0) == "out"

    for task_id in ("waits", "out", "unknown"):
        waiting.remove(task_id)
    waiting.answered("out", WAITING, 1.0)
    waiting.failed("out", 1.0)
    waiting.recheck("out", 1.0, 1.0)
    waiting.ring("out", 1.0)

    assert len(waiting) == 0
    assert waiting.next_due(100.0) is None
    assert waiting.pop(100.0) is None


def test_a_task_being_polled_is_not_handed_out_again():
    """One look at a time."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)

    assert waiting.pop(0.0) == "a"

    assert waiting.pop(100.0) is None
    assert waiting.next_due(100.0) is None
    assert "a" in waiting


def test_recheck_looks_again_when_told():
    """The driver doubts a failure: a look in a minute."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    waiting.pop(0.0)

    waiting.recheck("a", 60.0, 1.0)

    assert waiting.next_due(1.0) == pytest.approx(61.0)


# ---- bells


def test_a_ring_brings_the_look_forward():
    """And only once: the schedule goes on as before."""
    waiting = queue(*TEN_TO_TWENTY)
    waiting.add("a", "m", 0.0, 0.0)

    waiting.ring("a", 5.0)
    waiting.ring("a", 5.0)

    assert waiting.next_due(5.0) == 5.0
    assert waiting.pop(5.0) == "a"
    waiting.answered("a", WAITING, 5.0)
    assert waiting.next_due(5.0) == pytest.approx(11.0)


def test_who_rang_goes_first():
    """A bell is worth more than any guess, in the order of ringing."""
    waiting = queue()
    for task_id in ("old", "b", "c"):
        waiting.add(task_id, "m", 500.0 if task_id == "old" else 0.0, 0.0)

    waiting.ring("c", 1.0)
    waiting.ring("b", 1.0)

    assert [waiting.pop(1.0) for _ in range(3)] == ["c", "b", "old"]


def test_a_ring_during_a_look_asks_for_another():
    """The answer under way may be older than the bell."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    waiting.pop(0.0)

    waiting.ring("a", 0.1)
    waiting.answered("a", WAITING, 0.2)

    assert waiting.next_due(0.2) == pytest.approx(0.25)


def test_a_storm_of_rings_is_bounded():
    """Never sooner than min_gap after the last look."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    polls = 0

    for tick in range(1_000):  # ten seconds
        now = tick / 100.0
        waiting.ring("a", now)
        if waiting.pop(now):
            polls += 1
            waiting.answered("a", WAITING, now)

    assert polls == 40


def test_a_ring_never_delays_a_look():
    """The earlier of the two holds."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)

    waiting.ring("a", 0.0)

    assert waiting.next_due(0.0) == 0.0


# ---- failures


def test_failed_looks_wait_longer_and_longer_up_to_the_cap():
    """Twice, four, eight, sixteen times the gap, give or take a quarter; then the same."""
    waiting = queue(*TEN_TO_TWENTY)
    waiting.add("a", "m", 15.0, 0.0)
    gap, now = math.sqrt(3.0), 0.0

    for factor in (2, 4):
        waiting.pop(now)
        waiting.failed("a", now)
        due = waiting.next_due(now)
        assert due is not None
        assert 0.75 * factor * gap <= due - now <= 1.25 * factor * gap
        now = due

    for _ in range(6):
        waiting.pop(now)
        waiting.failed("a", now)
        due = waiting.next_due(now)
        assert due is not None
        now, last = due, now
    assert 36.0 <= now - last <= 60.0


def test_success_ends_the_back_off():
    """The next failure starts from the beginning: twice the gap."""
    waiting = queue(*TEN_TO_TWENTY)
    waiting.add("a", "m", 12.0, 0.0)
    for _ in range(4):
        waiting.pop(0.0)
        waiting.failed("a", 0.0)
        waiting.recheck("a", 0.0, 0.0)

    waiting.pop(1.0)
    waiting.answered("a", WAITING, 1.0)
    waiting.pop(5.0)
    waiting.failed("a", 5.0)

    due = waiting.next_due(5.0)
    assert due is not None
    assert due - 5.0 <= 1.25 * 2.0 * math.sqrt(3.0)


@pytest.mark.parametrize("asked", [7.0, 120.0])
def test_retry_after_is_a_floor(asked: float):
    """Jitter adds to it; not even a bell cuts it."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    waiting.pop(0.0)

    waiting.failed("a", 0.0, asked)
    waiting.ring("a", 0.1)

    due = waiting.next_due(0.1)
    assert due is not None
    assert asked <= due <= asked * 1.25


@pytest.mark.parametrize("nonsense", [math.nan, -5.0, 0.0, None])
def test_a_senseless_retry_after_is_ignored(nonsense: float | None):
    """The back-off holds."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    waiting.pop(0.0)

    waiting.failed("a", 0.0, nonsense)

    due = waiting.next_due(0.0)
    assert due is not None
    assert 3.0 <= due <= 5.0


def test_an_endless_retry_after_is_cut():
    """Five minutes at most, and a quarter of jitter."""
    waiting = queue()
    waiting.add("a", "m", None, 0.0)
    waiting.pop(0.0)

    waiting.failed("a", 0.0, math.inf)

    due = waiting.next_due(0.0)
    assert due is not None
    assert 300.0 <= due <= 375.0


@pytest.mark.parametrize("callbacks", [False, True])
def test_an_outage_never_raises_the_rate_of_requests(callbacks: bool):
    """A thousand tasks, ten minutes: hardly more looks than while all was well, and soon back."""
    rates = []
    for outage in (False, True):
        waiting = queue(*TEN_TO_TWENTY, schedule=PollSchedule())
        for number in range(1_000):
            waiting.add(str(number), "m", 30.0, 0.0, callbacks=callbacks)
        polls, now = 0, 0.0
        while (due := waiting.next_due(now)) is not None and due < 600.0:
            now = max(now, due)
            task_id = waiting.pop(now)
            assert task_id is not None
            polls += 1
            if outage:
                waiting.failed(task_id, now)
            else:
                waiting.answered(task_id, WAITING, now)
        rates.append(polls)
        assert due is not None
        assert due <= 660.0

    well, ill = rates
    assert ill <= 1.1 * well


# ---- who


def test_under_a_limit_the_most_promising_goes_first():
    """Hazard × gap²: one past the usual end beats one that is too young to end."""
    waiting = queue(*TEN_TO_TWENTY)
    waiting.add("young", "m", 1.0, 0.0)
    waiting.add("ripe", "m", 8.0, 0.0)
    waiting.recheck("young", 1.0, 0.0)

    assert [waiting.pop(8.0), waiting.pop(8.0)] == ["ripe", "young"]


def test_a_long_gap_outweighs_a_greater_hazard():
    """Old and unlikely, but unseen for 200 s, against young and likely, seen 4 s ago."""
    waiting = queue()
    waiting.add("old", "m", 500.0, 0.0)
    waiting.add("young", "m", 0.0, 196.0)
    waiting.recheck("old", 50.0, 0.0)
    waiting.ring("old", 0.0)
    waiting.pop(0.25)
    waiting.answered("old", WAITING, 0.25)

    assert [waiting.pop(200.0), waiting.pop(200.0)] == ["old", "young"]


def test_equal_hazards_go_by_the_longest_gap():
    """Within a lane: who was not looked at for longest."""
    waiting = queue()
    for number in range(5):
        waiting.add(str(number), "m", None, float(number))

    assert [waiting.pop(10.0) for _ in range(5)] == ["0", "1", "2", "3", "4"]


def test_a_due_task_rises_when_its_hazard_does():
    """Both became due early; at the turn, one of them is in the dangerous age."""
    waiting = queue(*[5.0] * 3, *(20.0 + n / 10 for n in range(47)))
    waiting.add("late", "m", 18.0, 18.0)  # few end before 20 s of age, most soon after
    waiting.add("other", "n", 0.0, 18.0)
    for task_id in ("late", "other"):
        waiting.ring(task_id, 18.3)
        waiting.pop(18.3)
        waiting.recheck(task_id, 0.25, 18.3)
    waiting.add("first", "m", None, 18.6)
    waiting.ring("first", 18.9)
    assert waiting.pop(18.9) == "first"  # the others are due from now on

    assert waiting.pop(24.0) == "late"


@pytest.mark.parametrize("limit", [1, 3])
def test_nobody_starves(limit: int):
    """Far fewer polls than wanted, new tasks all the time: each is looked at in the end."""
    waiting = queue(*TEN_TO_TWENTY, schedule=PollSchedule())
    polled: Counter[str] = Counter()
    waiting.add("slow", "unknown model", 900.0, 0.0)
    waiting.add("safe", "m", 0.0, 0.0, callbacks=True)
    for number in range(200):
        waiting.add(f"old{number}", "m", 5.0, 0.0)

    for tick in range(2_000 * limit):
        now = tick / limit
        if tick % 2:
            waiting.add(f"new{tick}", "m", 0.0, now)
        task_id = waiting.pop(now)
        if task_id is not None:
            polled[task_id] += 1
            if task_id.startswith("new"):
                waiting.remove(task_id)
            else:
                waiting.answered(task_id, WAITING, now)

    assert polled["slow"] > 1
    assert polled["safe"] > 1
    assert all(polled[f"old{number}"] > 1 for number in range(200))


def test_tasks_created_together_are_not_looked_at_together():
    """Twenty creates at once: never more than a few looks within 50 ms."""
    waiting = queue(*TEN_TO_TWENTY, schedule=PollSchedule())
    for number in range(20):
        waiting.add(str(number), "m", 0.0, 0.0)

    times = looks(waiting, 60.0)

    crowd = max(sum(t <= other < t + 0.05 for other in times) for t in times)
    assert crowd <= 5


def test_the_same_seed_gives_the_same_looks():
    """Randomness comes from the given source alone."""
    runs = []
    for seed in (1, 1, 2):
        waiting = queue(*TEN_TO_TWENTY, schedule=PollSchedule(), seed=seed)
        waiting.add("a", "m", 0.0, 0.0)
        runs.append(looks(waiting, 60.0))

    assert runs[0] == runs[1] != runs[2]


# ---- learning


def test_finished_tasks_teach():
    """Ten tasks later the model is known."""
    durations = Durations(EXACT)
    waiting = PollQueue(EXACT, durations, random.Random(1))

    for number in range(10):
        waiting.add(str(number), "m", 0.0, 0.0)
        waiting.finished(str(number), "m", 10.0 + number)

    assert durations.count("m") == 10
    assert len(waiting) == 0


def test_an_unknown_duration_teaches_nothing():
    """The task is forgotten all the same."""
    durations = Durations(EXACT)
    waiting = PollQueue(EXACT, durations, random.Random(1))
    waiting.add("a", "m", 0.0, 0.0)

    waiting.finished("a", "m", None)
    waiting.finished("b", "m", 5.0)

    assert durations.count("m") == 1
    assert len(waiting) == 0


def teach_states(waiting: PollQueue) -> None:
    """Ten tasks wait about 20 s, and are then worked on for exactly 30 s."""
    for number in range(10):
        task_id = f"t{number}"
        waiting.add(task_id, "m", 0.0, 0.0)
        for at, state in ((10.0, WAITING), (20.0 + number, GENERATING)):
            waiting.ring(task_id, at)
            assert waiting.pop(at) == task_id
            waiting.answered(task_id, state, at)
        waiting.finished(task_id, "m", 50.0 + number)


def test_a_task_seen_at_work_is_left_alone_for_the_rest_of_it():
    """Thirty seconds follow such a sighting, always."""
    waiting = queue()
    teach_states(waiting)
    waiting.add("a", "m", 0.0, 100.0)

    waiting.ring("a", 103.0)
    waiting.pop(103.0)
    waiting.answered("a", GENERATING, 103.0)

    assert waiting.next_due(103.0) == pytest.approx(133.0)


def test_a_task_seen_waiting_is_left_alone_while_none_ever_ended():
    """Forty seconds at least passed from a look that saw `waiting` to the end."""
    waiting = queue()
    teach_states(waiting)
    waiting.add("a", "m", 45.0, 100.0)
    assert waiting.next_due(100.0) == pytest.approx(105.9)

    waiting.pop(106.0)
    waiting.answered("a", WAITING, 106.0)

    assert waiting.next_due(106.0) == pytest.approx(106.0 + 40.9)


def test_a_model_that_stays_waiting_until_its_end_is_polled_as_ever():
    """So do Grok's: the last look before the end saw `waiting`, a moment ago."""
    rng = random.Random(3)
    gaps = []
    for state in (WAITING, TaskState.UNKNOWN):
        waiting = queue(seed=5)
        for number in range(50):
            waiting.add(str(number), "m", 0.0, 0.0)
            duration = 10.0 + 10.0 * rng.random()
            while (due := waiting.next_due(0.0)) is not None and due < duration:
                waiting.pop(due)
                waiting.answered(str(number), state, due)
            waiting.finished(str(number), "m", duration)
        waiting.add("a", "m", 0.0, 0.0)
        times = looks(waiting, 20.0, state)
        gaps.append(times[1] - times[0])

    assert gaps[0] == pytest.approx(gaps[1], rel=0.15)


def test_each_look_that_saw_it_waiting_is_learned_from_equally_often():
    """One of four is remembered: a quarter of the time each."""
    kept: Counter[float | None] = Counter()

    for seed in range(400):
        waiting = queue(seed=seed)
        waiting.add("a", "m", 0.0, 0.0)
        looks(waiting, 8.0)
        kept[waiting._entries["a"].idle] += 1

    assert set(kept) == {2.0, 4.0, 6.0, 8.0}
    assert all(70 <= times <= 130 for times in kept.values())


# ---- many


def test_a_herd_is_taken_in_pieces():
    """All due at once: the work of one pop stays bounded, and none is lost."""
    waiting = queue()
    count = 5 * BATCH
    for number in range(count):
        waiting.add(str(number), "m", 0.0, 0.0)

    first = waiting.pop(2.0)
    assert waiting._due <= BATCH
    popped = {first, *(waiting.pop(2.0) for _ in range(count - 1))}

    assert len(popped) == count
    assert None not in popped
    assert waiting.pop(2.0) is None


def test_a_task_behind_many_removed_ones_is_found():
    """Void items do not count as work done: the turn is not wasted."""
    waiting = queue()
    for number in range(4 * BATCH):
        waiting.add(str(number), "m", 0.0, 0.0)
    for number in range(4 * BATCH - 1):
        waiting.remove(str(number))

    assert waiting.pop(2.0) == str(4 * BATCH - 1)


def test_what_was_removed_leaves_the_memory():
    """A session that lives for days holds no more than its waiting tasks."""
    waiting = queue(*TEN_TO_TWENTY)

    for number in range(20_000):
        waiting.add(str(number), "m", 0.0, 0.0)
        waiting.ring(str(number), 0.0)
        waiting.remove(str(number))

    assert waiting._items <= 1_024
    assert len(waiting._times) + len(waiting._rung) <= 1_024
