"""The polling benchmark, in small: its optimum is one, and its targets hold."""

from __future__ import annotations

import random

import pytest

from benchmarks import polling
from benchmarks._polling_sim import (
    COST,
    MIDDLE,
    MIXED,
    NARROW,
    SHAPES,
    Job,
    Mixture,
    Run,
    Window,
    fixed,
    loop_score,
    optimum,
    score,
)
from kie_async.polling import PollQueue


def test_the_smoke_run_meets_its_targets(capsys: pytest.CaptureFixture[str]):
    """Exit status 0, and every row was printed."""
    assert polling.main(["--smoke"]) == 0

    printed = capsys.readouterr().out
    assert "all targets met" in printed
    assert all(shape.name in printed for shape in SHAPES)


def test_a_missed_target_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """With polls ten times as dear as they are counted, the loss is too great."""
    shipped = polling.PollSchedule
    monkeypatch.setattr(polling, "PollSchedule", lambda **kw: shipped(poll_cost=30.0, **kw))

    assert polling.main(["--smoke"]) == 1

    assert "MISS" in capsys.readouterr().out


def test_the_optimum_is_the_known_one():
    """2.78 for LN(15, 0.5): published with the theory (4.8 polls, 1.34 s)."""
    best = optimum(MIDDLE)

    assert best.loss == pytest.approx(2.78, abs=0.01)
    assert best.polls == pytest.approx(4.8, abs=0.05)
    assert best.delay == pytest.approx(1.34, abs=0.01)


@pytest.mark.parametrize("shape", [NARROW, MIXED], ids=lambda shape: shape.name)
@pytest.mark.parametrize("gap", [0.5, 2.0, 3.0, 5.0])
def test_nothing_beats_the_optimum(shape: Mixture, gap: float):
    """No fixed gap has a smaller loss."""
    rng = random.Random(1)

    found = loop_score(fixed(gap), shape.spread(2_000, rng), rng)

    assert found.loss > optimum(shape).loss


def test_a_fixed_gap_has_the_loss_of_the_formula():
    """Delay d / 2 and E[T] / d + 1/2 polls: the simulation counts as the theory does."""
    rng = random.Random(2)
    durations = MIDDLE.spread(5_000, rng)

    found = loop_score(fixed(1.0), durations, rng)

    polls = sum(durations) / len(durations) + 0.5
    assert found.loss == pytest.approx(0.5 + COST * polls, rel=0.01)


def test_the_window_holds_its_limit():
    """Three a second: the fourth waits for the first to leave."""
    window = Window(3)
    for turn in (0.0, 0.2, 0.4):
        assert window.free_at(turn) == turn
        window.take(turn)

    assert window.free_at(0.5) == 1.0
    assert window.free_at(7.0) == 7.0


def test_a_run_counts_every_poll_of_every_task():
    """The times sent are as many as the polls scored, and each task is found after its end."""
    rng = random.Random(3)
    jobs = [Job(0.5 * i, duration) for i, duration in enumerate(MIDDLE.spread(50, rng))]
    run = Run(PollQueue(rng=rng), jobs, window=Window(8))

    found = run.run()

    assert len(run.sent) == sum(job.polls for job in jobs)
    assert all(job.delay >= 0.0 and job.polls >= 1 for job in jobs)
    assert found.loss == pytest.approx(score(jobs).loss)
    assert polling.crowd(run.sent, 1.0) <= 8
