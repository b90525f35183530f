"""How few polls find the end of a task, and how soon: the real scheduler in virtual time.

Loss = mean delay between the end of a task and its discovery + 0.3 s for each poll of it.
The table stands beside the exact optimum (dynamic programming over poll times, the
distribution known), fixed gaps, doubling, and the loops of other clients.  Opens no
socket; seeded, so every run prints the same, except ``--wake``, which measures time.

    python -m benchmarks.polling            all of it; half a minute
    python -m benchmarks.polling --smoke    seconds; fewer tasks, targets a little wider
    python -m benchmarks.polling --wake     what a wake costs with 100,000 waiting tasks

Exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import math
import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._polling_sim import (
    MIDDLE,
    MIXED,
    OTHERS,
    RATE,
    SHAPES,
    WIDE,
    Job,
    Mixture,
    Run,
    Score,
    Window,
    index_policy,
    loop_score,
    optimum,
    settled,
)
from kie_async.models import TaskState
from kie_async.polling import Durations, PollQueue, PollSchedule

SMOKE_SLACK = 1.05  # a smoke run has too few tasks to be exact


@define
class Targets:
    """What is to be reached, and what was not."""

    slack: float = 1.0
    missed: list[str] = field(factory=list)

    def at_most(self, name: str, value: float, bar: float) -> None:
        """Print a figure beside its bar."""
        held = value <= bar * self.slack
        print(f"  {'ok  ' if held else 'MISS'} {name}: {value:.3g} (at most {bar:g})")
        if not held:
            self.missed.append(name)


def queue(rng: random.Random, known: Sequence[float] = (), **settings: float) -> PollQueue:
    """Make a shipped queue that has seen *known* durations."""
    schedule = PollSchedule(**settings)  # type: ignore[arg-type]  # reason: floats only
    durations = Durations(schedule)
    for duration in known:
        durations.observe("m", duration)
    return PollQueue(schedule, durations, rng)


def steady(durations: Sequence[float]) -> list[Job]:
    """Return tasks created at Kie's limit."""
    return [Job(i / RATE, duration) for i, duration in enumerate(durations)]


def mean(scores: Sequence[Score]) -> Score:
    """Return the mean of several runs."""
    return Score(
        statistics.fmean(s.polls for s in scores),
        statistics.fmean(s.delay for s in scores),
        statistics.fmean(s.median for s in scores),
    )


def after_20(shape: Mixture, learnings: int, tasks: int) -> tuple[Score, float]:
    """Learn from 20 tasks and nothing more, *learnings* times; also the worst loss."""
    scores = []
    for seed in range(learnings):
        rng = random.Random(seed)
        known = queue(rng, shape.sample(rng, 20))
        scores.append(Run(known, steady(shape.spread(tasks, rng))).run())
    return mean(scores), max(score.loss for score in scores)


def loss_table(targets: Targets, learnings: int, tasks: int) -> None:
    """Without a limit: the scheduler beside the optimum and the loops of others."""
    print(f"polls a task, mean delay (s), loss / optimum; {tasks} tasks a run")
    for shape in SHAPES:
        rng = random.Random(1)
        durations = shape.spread(tasks * 5, rng)
        best = optimum(shape)
        learned, worst = after_20(shape, learnings, tasks)
        fresh = Run(queue(rng), steady(durations)).run()
        living = Run(queue(rng), steady(durations), learn=True).run()
        rows = {
            "exact optimum": best,
            "kie_async, after 20 tasks": learned,
            "kie_async, fresh, learning": living,
            "kie_async, nothing learned": fresh,
            **{name: loop_score(gaps, durations, rng) for name, gaps in OTHERS.items()},
        }
        print(f"\n{shape.name}")
        for name, row in rows.items():
            print(f"  {name:28}{row.polls:8.2f}{row.delay:8.2f}{row.loss / best.loss:8.2f}")
        bar = 1.20 if shape is MIXED else 1.10
        targets.at_most("after 20, loss / optimum", learned.loss / best.loss, bar)
        print(f"       worst of {learnings} learnings: {worst / best.loss:.2f}")
        targets.at_most("fresh, loss / optimum", fresh.loss / best.loss, 1.75)
        targets.at_most("fresh, polls a task", fresh.polls, 10.5)
        if shape is MIDDLE:
            targets.at_most("polls a task", learned.polls, 5.5)
            targets.at_most("mean delay", learned.delay, 1.4)
            targets.at_most("median delay", learned.median, 1.3)


def crowd(times: Sequence[float], span: float) -> int:
    """Return the most polls in any *span* seconds."""
    return max(bisect.bisect_left(times, t + span - 1e-9) - i for i, t in enumerate(times))


def limit_table(targets: Targets, tasks: int) -> None:
    """Two tasks end each second, and polls are limited: against the index policy.

    Index policy: the greatest hazard × gap² of all tasks, due or not, with the true
    hazard, every poll of the limit used.  Ours stops at the polls that are worth their
    cost, so where the limit hardly binds it polls less.  There the delays do not compare:
    the index policy is given the polls that ours took, which is the fair comparison.
    """
    print("\nA limit that binds: 2 tasks end each second, polls a second limited")
    print(
        "                 polls/s | index: polls  delay | ours: polls  delay"
        " | delay / index, same polls | loss / index, all polls"
    )
    for shape in SHAPES:
        for limit in (4, 6, 8, 10):
            rng = random.Random(3)
            durations = shape.spread(tasks, rng)
            run = Run(
                queue(rng, shape.sample(rng, 50)),
                steady(durations),
                learn=True,
                window=Window(limit),
            )
            run.run()
            ours = settled(run.jobs)
            full = index_policy(shape, durations, limit)
            same = index_policy(shape, durations, limit * min(1.0, ours.polls / full.polls))
            print(
                f"  {shape.name:16}{limit:5} | {full.polls:12.2f}{full.delay:7.2f} | "
                f"{ours.polls:11.2f}{ours.delay:7.2f} | {ours.delay / same.delay:12.2f}"
                f"{ours.loss / full.loss:12.2f}"
            )
            bar = 1.20 if shape is MIXED else 1.10  # the mixture is learned less well
            targets.at_most("delay / index policy", ours.delay / same.delay, bar)
            targets.at_most("loss / index policy", ours.loss / full.loss, 1.10)
            targets.at_most("polls in any second", crowd(run.sent, 1.0), limit)


def lock_step(targets: Targets, tasks: int) -> None:
    """Creates in bursts of twenty, no limit on polls: do the polls come in bursts too?"""
    print("\nTwenty tasks created in one instant, each 10 s: most polls in any 50 ms")
    for name, learned in (("learned", 50), ("nothing learned", 0)):
        found = []
        for jitter in (0.1, 0.0):
            rng = random.Random(5)
            known = MIDDLE.sample(rng, learned)
            jobs = [Job(10.0 * (i // 20), t) for i, t in enumerate(MIDDLE.spread(tasks, rng))]
            run = Run(queue(rng, known, jitter=jitter), jobs)
            run.run()
            found.append(crowd(run.sent, 0.05))
        print(f"  {name}: {found[0]}, without jitter {found[1]}")
        targets.at_most("most polls in 50 ms", found[0], 8)
        targets.at_most("jitter / no jitter", found[0] / found[1], 0.5)


def state_table(targets: Targets, tasks: int) -> None:
    """Tasks that say when they are worked on: what that is worth."""
    print("\nQueue LN(8, 0.9) + work LN(10, 0.2): states told or not")
    scores = []
    for states in (False, True):
        rng = random.Random(6)
        jobs = []
        for i in range(tasks):
            queued = rng.lognormvariate(math.log(8.0), 0.9)
            work = rng.lognormvariate(math.log(10.0), 0.2)
            jobs.append(Job(i / RATE, queued + work, queue_time=queued))
        scores.append(Run(queue(rng), jobs, learn=True, states=states).run())
        told = "told" if states else "not told"
        print(f"  {told:9} polls {scores[-1].polls:.2f}, mean delay {scores[-1].delay:.2f} s")
    targets.at_most("loss told / not told", scores[1].loss / scores[0].loss, 0.9)


def callback_table(targets: Targets, tasks: int) -> None:
    """Callbacks 0.3 s after the end (log-normal, sigma 0.5), some of them lost."""
    print("\nCallbacks at LN(15, 0.5), 50 tasks learned; each takes one confirming poll")
    for lost, bar in ((0.0, 0.5), (0.01, 0.7)):
        rng = random.Random(8)
        known = queue(rng, MIDDLE.sample(rng, 50))
        jobs = steady(MIDDLE.spread(tasks, rng))
        for job in jobs:
            job.rings_after = rng.lognormvariate(math.log(0.3), 0.5)
            if rng.random() < lost:
                job.rings_after = math.inf
        found = Run(known, jobs, learn=True, callbacks=True).run()
        print(f"  {lost:.0%} lost: polls {found.polls:.2f}, mean delay {found.delay:.2f} s")
        targets.at_most("polls a task", found.polls, 1.1)
        targets.at_most("mean delay", found.delay, bar)


def makespan(targets: Targets, tasks: int) -> None:
    """Twenty tasks in flight at most: a late discovery holds back the next create."""
    rng = random.Random(9)
    durations = MIDDLE.spread(tasks, rng)
    run = Run(
        queue(rng),
        [Job(10.0 * (i // 20), t) for i, t in enumerate(durations)],
        learn=True,
        slots=20,
        window=Window(8),
    )
    found = run.run()
    slots = [0.0] * 20
    for i, duration in enumerate(durations):
        heapq.heapreplace(slots, max(slots[0], 10.0 * (i // 20)) + duration)
    print(f"\n{tasks} tasks at LN(15, 0.5), 20 in flight at most: polls {found.polls:.2f}")
    targets.at_most("makespan / ideal", run.now / max(slots), 1.09)
    targets.at_most("polls a task", found.polls, 6.0)


def filled(tasks: int, spread: float, now: float) -> PollQueue:
    """Return a queue of many tasks whose first looks spread over *spread* seconds."""
    rng = random.Random(1)
    many = queue(rng, WIDE.sample(rng, 50))
    for i in range(tasks):
        many.add(str(i), "m", None, now)
        if spread:  # else they are due at once, for their age is unknown
            many.recheck(str(i), 0.5 + spread * rng.random(), now)
    return many


def wake(targets: Targets, tasks: int, seconds: float) -> None:
    """Measure one wake of many waiting tasks; real time, so the machine should be idle."""
    print(f"\n{tasks} waiting tasks")
    tracemalloc.start()
    many = queue(random.Random(1))
    for i in range(tasks):
        many.add(str(i), "m", 0.0, i / 1_000.0)
    size = tracemalloc.get_traced_memory()[0] / tasks
    tracemalloc.stop()
    print(f"  bytes each, with its id: {size:.0f}")
    many = filled(tasks, 10.0, 0.0)
    costs = []
    for _ in range(5):
        started, now = time.process_time(), 0.0
        for _ in range(tasks // 2):
            now = many.next_due(now) or 0.0
            many.answered(many.pop(now) or "", TaskState.WAITING, now)
        costs.append((time.process_time() - started) / (tasks // 2) * 1e6)
    targets.at_most("CPU a wake, us (best of 5)", min(costs), 10.0)
    herd = filled(tasks, 0.0, 0.0)
    worst, started = 0.0, time.process_time()
    while True:
        before = time.perf_counter()
        if herd.pop(100.0) is None:
            break
        worst = max(worst, time.perf_counter() - before)
    each = (time.process_time() - started) / tasks * 1e6
    print(f"  all due at once: CPU a pop {each:.1f} us, longest pop {worst * 1e3:.1f} ms")
    targets.at_most("longest pop of a herd, s", worst, 0.1)
    targets.at_most("latest wake, s", latest_wake(tasks, seconds), 0.1)


def latest_wake(tasks: int, seconds: float) -> float:
    """Wake each task once within *seconds* of real time; return how late the latest was."""
    many = filled(tasks, seconds, time.perf_counter())
    latest, left = 0.0, tasks
    begun = time.perf_counter()
    while left:
        now = time.perf_counter()
        due = many.next_due(now) or now
        if due > now:
            time.sleep(due - now)
            continue
        wanted = many._times[0][0] if many._times else now
        task_id = many.pop(now) or ""
        many.remove(task_id)
        left -= 1
        if now > begun + 1.0:  # what was due while the queue was filled is no measure
            latest = max(latest, now - wanted)
    return latest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]  # reason: it has one
    parser.add_argument("--smoke", action="store_true", help="few tasks, a few seconds")
    parser.add_argument("--wake", action="store_true", help="measure the cost of a wake")
    given = parser.parse_args(arguments)
    targets = Targets(SMOKE_SLACK if given.smoke else 1.0)
    if given.wake:
        wake(targets, 5_000 if given.smoke else 100_000, 1.0 if given.smoke else 5.0)
    else:
        tasks = 100 if given.smoke else 1_000
        loss_table(targets, 10 if given.smoke else 40, tasks)
        limit_table(targets, 4 * tasks)
        lock_step(targets, 4 * tasks)
        state_table(targets, 10 * tasks)
        callback_table(targets, 5 * tasks)
        makespan(targets, 4 * tasks)
    print(f"\n{len(targets.missed)} targets missed" if targets.missed else "\nall targets met")
    return 1 if targets.missed else 0


if __name__ == "__main__":
    sys.exit(main())
