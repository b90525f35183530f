"""The law of polling: what is learned from durations, and what gap follows."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.errors import UsageError
from kie_async.models import TaskState
from kie_async.polling import Durations, Law, PollSchedule

SCHEDULE = PollSchedule()

durations = st.floats(0.0, 5_000.0)
ages = st.floats(0.0, 10_000.0)


def learned(*seconds: float, schedule: PollSchedule = SCHEDULE) -> Law:
    """Return the law learned from *seconds*."""
    seen = Durations(schedule)
    for duration in seconds:
        seen.observe("m", duration)
    law = seen.law("m")
    assert law is not None
    return law


# ---- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"poll_cost": 0.0},
        {"poll_cost": math.nan},
        {"percentile": 1.0},
        {"percentile": -0.1},
        {"safety_percentile": 1.5},
        {"jitter": 1.0},
        {"growth": -1.0},
        {"growth": math.inf},
        {"memory": 1},
        {"memory": 20.0},
        {"learned_from": True},
        {"learned_from": 51},
        {"first_gap": "2"},
        {"min_gap": 0.0},
        {"min_gap": 3.0},
        {"longest_gap": -1.0},
        {"safety_gap": 0.0},
        {"error_cap": math.inf},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]):
    """A schedule is refused when it is made, not when it is used."""
    with pytest.raises(UsageError):
        PollSchedule(**wrong)  # type: ignore[arg-type]  # reason: wrong on purpose


def test_settings_are_frozen():
    """One schedule may be shared by sessions."""
    with pytest.raises(AttributeError):
        SCHEDULE.poll_cost = 1.0  # type: ignore[misc]  # reason: refused at run time too


# ---- the gap


@pytest.mark.parametrize(("age", "gap"), [(0.0, 2.0), (19.0, 2.0), (50.0, 5.0), (9_000.0, 60.0)])
def test_before_anything_is_learned_the_gap_follows_the_age(age: float, gap: float):
    """Two seconds, or a tenth of the age, at most a minute."""
    assert SCHEDULE.gap(age, None) == pytest.approx(gap)


def test_a_learned_task_is_left_alone_until_the_tenth_percentile():
    """Then it is looked at a fixed gap: sqrt(2 × cost × mean residual time)."""
    law = learned(*(float(n) for n in range(10, 21)))  # 10 ... 20: the percentile is 11

    assert law.first == pytest.approx(11.0)
    assert law.gap == pytest.approx(math.sqrt(2 * 0.3 * 5.0))  # 12 ... 20 are 16 on average
    assert SCHEDULE.gap(0.0, law) == pytest.approx(11.0)
    assert SCHEDULE.gap(4.0, law) == pytest.approx(7.0)
    assert SCHEDULE.gap(11.0, law) == SCHEDULE.gap(19.0, law) == law.gap


def test_a_look_just_before_the_percentile_is_not_repeated_at_it():
    """First looks are spread around it; each is followed by a whole gap."""
    law = learned(*(float(n) for n in range(10, 21)))

    assert SCHEDULE.gap(10.9, law) == law.gap


def test_a_task_that_outlives_all_others_is_looked_at_more_and_more_slowly():
    """A tenth of the excess; a stuck task costs little."""
    law = learned(*(float(n) for n in range(10, 21)))

    assert SCHEDULE.gap(21.0, law) == law.gap
    assert SCHEDULE.gap(120.0, law) == pytest.approx(10.0)
    assert SCHEDULE.gap(10_000.0, law) == SCHEDULE.longest_gap


def test_an_adopted_task_of_unknown_age_has_no_first_wait():
    """It may be at any point of its life."""
    law = learned(*(float(n) for n in range(10, 21)))

    assert SCHEDULE.gap(0.0, law, aged=False) == law.gap


def test_with_callbacks_the_first_safety_poll_is_late():
    """At the 95th percentile of 1 ... 19, which is 19, then each minute."""
    law = learned(*(float(n) for n in range(1, 20)))

    assert SCHEDULE.safety_wait(0.0, law) == pytest.approx(19.0)
    assert SCHEDULE.safety_wait(19.0, law) == 60.0
    assert SCHEDULE.safety_wait(0.0, None) == 60.0


@given(st.lists(durations, min_size=10, max_size=60), ages, st.booleans())
def test_every_gap_is_positive_and_bounded(seconds: list[float], age: float, aged: bool):
    """Whatever was learned: after the first look never below min_gap or above longest_gap."""
    law = learned(*seconds)

    gap = SCHEDULE.gap(age, law, aged=aged)

    assert SCHEDULE.min_gap <= gap <= max(SCHEDULE.longest_gap, law.first - age)
    assert SCHEDULE.min_gap <= SCHEDULE.gap(age, None) <= SCHEDULE.longest_gap
    assert SCHEDULE.min_gap <= SCHEDULE.safety_wait(age, law) <= max(60.0, law.safety)


@given(ages, ages)
def test_the_gap_of_an_unknown_model_grows_with_age(one: float, other: float):
    """The older a task, the less urgent the next look."""
    young, old = sorted((one, other))

    assert SCHEDULE.gap(young, None) <= SCHEDULE.gap(old, None)


@given(st.lists(durations, min_size=10, max_size=50), st.floats(0.01, 5.0), st.floats(1.0, 9.0))
def test_dearer_polls_are_fewer(seconds: list[float], cost: float, factor: float):
    """The one knob turns one way."""
    cheap = learned(*seconds, schedule=PollSchedule(poll_cost=cost))
    dear = learned(*seconds, schedule=PollSchedule(poll_cost=cost * factor))

    assert cheap.gap <= dear.gap
    assert cheap.first == dear.first


# ---- durations


@pytest.mark.parametrize("nonsense", [-1.0, math.nan, math.inf, -math.inf, "7", None])
def test_nonsense_teaches_nothing(nonsense: object):
    """Times come from a server: clocks jump, fields are missing."""
    seen = Durations()

    seen.observe("m", nonsense)  # type: ignore[arg-type]  # reason: wrong on purpose

    assert seen.count("m") == 0


@pytest.mark.parametrize("model", [None, ""])
def test_a_task_without_a_model_teaches_nothing(model: str | None):
    """It must not be mixed up with another one's."""
    seen = Durations()

    for _ in range(20):
        seen.observe(model, 5.0)

    assert seen.law(model) is None
    assert seen.count(model) == 0


def test_nine_durations_are_too_few():
    """Ten are believed."""
    seen = Durations()

    for _ in range(9):
        seen.observe("m", 5.0)
    assert seen.law("m") is None
    seen.observe("m", 5.0)

    assert seen.law("m") is not None


def test_models_are_learned_apart():
    """A slow model does not slow down a quick one."""
    seen = Durations()

    for _ in range(10):
        seen.observe("quick", 5.0)
        seen.observe("slow", 100.0)

    quick, slow = seen.law("quick"), seen.law("slow")
    assert quick is not None
    assert slow is not None
    assert (quick.first, slow.first) == (5.0, 100.0)
    assert seen.law("other") is None


def test_equal_durations_are_no_trouble():
    """Residual time zero: the least gap, and a finite hazard."""
    law = learned(*[15.0] * 50)

    assert law.gap == SCHEDULE.min_gap
    assert all(0.0 < hazard < 1_000.0 for hazard in law.hazards)


def test_drift_is_followed():
    """After fifty of another length, nothing is left of the old ones."""
    seen = Durations()
    for _ in range(50):
        seen.observe("m", 15.0)
    assert seen.law("m") is not None

    for _ in range(50):
        seen.observe("m", 45.0)

    law = seen.law("m")
    assert law is not None
    assert law.first == law.longest == 45.0
    assert seen.count("m") == SCHEDULE.memory


@given(st.lists(durations, max_size=130), st.integers(2, 60))
def test_just_the_last_durations_are_remembered(seconds: list[float], memory: int):
    """The law is that of the window, give or take the tenth that may still be new."""
    schedule = PollSchedule(memory=memory, learned_from=2)
    seen = Durations(schedule)

    for number, duration in enumerate(seconds):
        seen.observe("m", duration)
        law = seen.law("m")
        window = seconds[max(0, number + 1 - memory) : number + 1]
        assert seen.count("m") == len(window)
        assert (law is None) == (len(window) < 2)

    if len(seconds) >= 2:
        assert law is not None
        assert law.longest in seconds


def test_names_of_models_do_not_fill_the_memory():
    """They come from answers; the oldest are forgotten."""
    seen = Durations()

    for number in range(10_000):
        seen.observe(f"m{number}", 1.0)

    assert len(seen._seen) <= 256
    assert seen.count("m9999") == 1
    assert seen.count("m0") == 0


def test_the_time_after_a_state_is_learned_apart():
    """What follows `generating` is not a whole duration."""
    seen = Durations()

    for _ in range(10):
        seen.observe("m", 30.0)
        seen.observe("m", 8.0, after=TaskState.GENERATING)

    whole, rest = seen.law("m"), seen.law("m", after=TaskState.GENERATING)
    assert whole is not None
    assert rest is not None
    assert (whole.first, rest.first) == (30.0, 8.0)
    assert seen.law("m", after=TaskState.WAITING) is None


# ---- hazards


def test_the_hazard_counts_ends_over_time_lived():
    """Five ends in a cell, over the seconds that all spent in it."""
    law = learned(*(float(n) for n in range(1, 51)))  # 1 ... 50: ten cells of five

    hazard, until = law.hazard(3.0)

    assert until == 5.0
    assert hazard == pytest.approx(5 / (1 + 2 + 3 + 4 + 5 + 45 * 5))
    assert law.hazard(5.0) == (pytest.approx(5 / (1 + 2 + 3 + 4 + 5 + 40 * 5)), 10.0)


def test_the_hazard_of_exponential_durations_is_flat():
    """Twenty seconds on average: one in twenty, at any age."""
    rng = random.Random(4)
    law = learned(
        *(rng.expovariate(1 / 20.0) for _ in range(7_000)), schedule=PollSchedule(memory=7_000)
    )

    assert all(hazard == pytest.approx(0.05, rel=0.15) for hazard in law.hazards)


@given(st.lists(durations, min_size=10, max_size=50), ages)
def test_the_hazard_is_positive_and_changes_later(seconds: list[float], age: float):
    """So a task's worth always grows, and the age of the next change lies ahead."""
    law = learned(*seconds)

    hazard, until = law.hazard(age)

    assert 0.0 < hazard < math.inf
    assert until > age
    assert list(law.edges) == sorted(set(law.edges))
    assert len(law.hazards) == len(law.edges) + 1
