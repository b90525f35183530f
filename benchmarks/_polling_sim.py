"""The world that `benchmarks/polling.py` polls: durations, the optimum, and the drivers.

Pure and seeded: virtual time, no socket.  The distributions are known here and only here;
the scheduler under test sees nothing but finished tasks.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from attrs import define, field, frozen

from kie_async.models import TaskState
from kie_async.polling import PollQueue

COST = 0.3  # seconds of delay that one poll is worth
RATE = 2.0  # tasks created per second: Kie's 20 per 10 s
NORMAL = statistics.NormalDist()


# Distributions


@frozen
class Mixture:
    """Log-normal durations, or several kinds mixed: (share, median, sigma) each."""

    name: str
    parts: tuple[tuple[float, float, float], ...]

    def cdf(self, t: float) -> float:
        if t <= 0.0:
            return 0.0
        return sum(w * NORMAL.cdf(math.log(t / median) / s) for w, median, s in self.parts)

    def quantile(self, share: float) -> float:
        if len(self.parts) == 1:
            _, median, sigma = self.parts[0]
            return median * math.exp(sigma * NORMAL.inv_cdf(share))
        low, high = 0.0, 5_000.0
        while high - low > 1e-6 * high:
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.cdf(middle) < share else (low, middle)
        return high

    def sample(self, rng: random.Random, count: int) -> list[float]:
        """Draw independent durations."""
        weights = [part[0] for part in self.parts]
        drawn = rng.choices(self.parts, weights, k=count)
        return [rng.lognormvariate(math.log(median), sigma) for _, median, sigma in drawn]

    def spread(self, count: int, rng: random.Random) -> list[float]:
        """Return one duration from each of *count* equally likely slices, shuffled."""
        found = list(slices(self, count))
        rng.shuffle(found)
        return found


@functools.cache
def slices(shape: Mixture, count: int) -> tuple[float, ...]:
    """Return the middles of *count* equally likely slices: little noise in the means."""
    return tuple(shape.quantile((i + 0.5) / count) for i in range(count))


NARROW = Mixture("LN(15, 0.25)", ((1.0, 15.0, 0.25),))
MIDDLE = Mixture("LN(15, 0.5)", ((1.0, 15.0, 0.5),))
WIDE = Mixture("LN(15, 1.0)", ((1.0, 15.0, 1.0),))
MIXED = Mixture("80/20 mixture", ((0.8, 12.0, 0.3), (0.2, 60.0, 0.5)))
SHAPES = (NARROW, MIDDLE, WIDE, MIXED)


@frozen
class Score:
    """Means over the tasks of a run."""

    polls: float
    delay: float
    median: float = math.nan  # of the delay

    @property
    def loss(self) -> float:
        """Return the loss that is to be kept small."""
        return self.delay + COST * self.polls


def score(jobs: Sequence[Job]) -> Score:
    """Return the means over finished jobs."""
    delays = [job.delay for job in jobs]
    polls = statistics.fmean(job.polls for job in jobs)
    return Score(polls, statistics.fmean(delays), statistics.median(delays))


# The exact optimum


def optimum(shape: Mixture, step: float = 0.05, widest: float = 25.0) -> Score:
    """Return the least possible loss, by dynamic programming over poll times on a grid.

    ``best[i]`` is the loss still to come, per task created, after a poll at grid point i
    that found it running: the next poll at j costs COST × S(i), and the delays of the
    ends between, which are ``G(j) - G(i) - (j - i) × step × F(i)`` with G the integral
    of F.
    """
    last = math.ceil(shape.quantile(0.9999) / step)
    cdf = [shape.cdf(i * step) for i in range(last + 1)]
    area = [0.0]
    for left, right in itertools.pairwise(cdf):
        area.append(area[-1] + (left + right) / 2.0 * step)
    best = [0.0] * (last + 1)
    follow = [last] * (last + 1)
    best[last] = (1.0 - cdf[last]) * 10.0  # the last of 10,000: some seconds of loss each
    reach = round(widest / step)
    for i in range(last - 1, -1, -1):
        ended = cdf[i] * step
        upto = last + 1 if i == 0 else min(last, i + reach) + 1
        # area[j] + best[j] - j × ended: all that depends on j
        least, at = min((area[j] + best[j] - j * ended, j) for j in range(i + 1, upto))
        best[i] = COST * (1.0 - cdf[i]) + least - area[i] + i * ended
        follow[i] = at
    polls, i = 0.0, 0
    while i < last:
        polls += 1.0 - cdf[i]
        i = follow[i]
    return Score(polls, best[0] - COST * polls)


# What others do

Gaps = Callable[[random.Random], Iterator[float]]


def fixed(gap: float, spread: float = 0.0) -> Gaps:
    """Look every *gap* seconds, give or take *spread*."""

    def gaps(rng: random.Random) -> Iterator[float]:
        while True:
            yield gap + spread * rng.uniform(-1.0, 1.0)

    return gaps


def doubling(_rng: random.Random) -> Iterator[float]:
    """Look after 1, 2, 4, ... seconds."""
    gap = 1.0
    while True:
        yield gap
        gap *= 2.0


OTHERS: dict[str, Gaps] = {
    "fixed 1 s": fixed(1.0),
    "fixed 3 s": fixed(3.0),
    "fixed 5 s": fixed(5.0),
    "doubling from 1 s": doubling,
    "fal-client's loop, 0.1 s": fixed(0.1),
    "replicate's, 0.5 s": fixed(0.5),
    "openai's, 1 s": fixed(1.0),
    "runwayml's, 6 ± 1.5 s": fixed(6.0, 1.5),
}


def loop_score(gaps: Gaps, durations: Sequence[float], rng: random.Random) -> Score:
    """Let each task be waited for by a loop of its own."""
    jobs = [Job(0.0, duration) for duration in durations]
    for job in jobs:
        age = 0.0
        for gap in gaps(rng):
            age += gap
            job.polls += 1
            if age >= job.duration:
                break
        job.delay = age - job.duration
    return score(jobs)


# The real scheduler


class Window:
    """The account's limit, exact: at most *limit* polls in any *seconds*."""

    def __init__(self, limit: int, seconds: float = 1.0) -> None:
        self.seconds = seconds
        self.turns: deque[float] = deque(maxlen=limit)

    def free_at(self, now: float) -> float:
        """Return when the next poll may be sent, *now* at the soonest."""
        full = len(self.turns) == self.turns.maxlen
        return max(now, self.turns[0] + self.seconds) if full else now

    def take(self, now: float) -> None:
        """Count a poll."""
        self.turns.append(now)


@define
class Job:
    """A task of the simulation."""

    created: float
    duration: float
    queue_time: float = 0.0  # until it is worked on
    rings_after: float = math.inf  # its end, that the callback comes
    polls: int = 0
    delay: float = 0.0


@define
class Run:
    """Drives a real PollQueue as a session does: a due task, a turn, then the choice."""

    queue: PollQueue
    jobs: Sequence[Job]
    learn: bool = False
    window: Window | None = None
    states: bool = False  # the server tells when a task is being worked on
    callbacks: bool = False
    slots: int = 10**9  # tasks in flight at once
    sent: list[float] = field(factory=list)
    now: float = 0.0
    waiting: deque[int] = field(factory=deque)
    bells: list[tuple[float, str]] = field(factory=list)

    def run(self) -> Score:
        """Run to the end of all tasks."""
        self.waiting.extend(range(len(self.jobs)))
        while (when := self.next_time()) < math.inf:
            self.now = when
            self.start_jobs()
            while self.bells and self.bells[0][0] <= when:
                self.queue.ring(heapq.heappop(self.bells)[1], when)
            due = self.queue.next_due(when)
            if due is not None and due <= when and self.turn_at(when) <= when:
                self.poll()
        return score(self.jobs)

    def next_time(self) -> float:
        """Return when something happens next; infinity at the end."""
        due = self.queue.next_due(self.now)
        when = math.inf if due is None else self.turn_at(max(due, self.now))
        if self.waiting and len(self.queue) < self.slots:
            when = min(when, max(self.now, self.jobs[self.waiting[0]].created))
        return min(when, max(self.now, self.bells[0][0])) if self.bells else when

    def turn_at(self, now: float) -> float:
        """Return when the account's limit lets a poll go."""
        return now if self.window is None else self.window.free_at(now)

    def start_jobs(self) -> None:
        """Create the tasks whose time has come, while there are slots."""
        while self.waiting and len(self.queue) < self.slots:
            job = self.jobs[self.waiting[0]]
            if job.created > self.now:
                return
            job.created = self.now  # it may have waited for a slot
            task_id = str(self.waiting.popleft())
            self.queue.add(task_id, "m", 0.0, self.now, self.callbacks)
            rings = self.now + job.duration + job.rings_after
            if rings < math.inf:
                heapq.heappush(self.bells, (rings, task_id))

    def poll(self) -> None:
        """Spend one poll."""
        task_id = self.queue.pop(self.now)
        if task_id is None:
            raise RuntimeError("a task was due, and none was handed out")
        job = self.jobs[int(task_id)]
        job.polls += 1
        self.sent.append(self.now)
        if self.window is not None:
            self.window.take(self.now)
        age = self.now - job.created
        if age < job.duration:
            working = self.states and age >= job.queue_time
            state = TaskState.GENERATING if working else TaskState.WAITING
            self.queue.answered(task_id, state, self.now)
            return
        job.delay = age - job.duration
        if self.learn:
            self.queue.finished(task_id, "m", job.duration)
        else:
            self.queue.remove(task_id)


# A limit that binds


def hazards(shape: Mixture, step: float = 0.05) -> list[float]:
    """Return the true hazard on a grid of ages."""
    points = [shape.cdf(i * step) for i in range(round(300.0 / step))]
    return [(b - a) / step / max(1.0 - a, 1e-9) for a, b in itertools.pairwise(points)]


def settled(jobs: Sequence[Job]) -> Score:
    """Return the means without the first and the last tasks: there no limit binds."""
    return score(jobs[len(jobs) // 20 : len(jobs) * 3 // 4])


def index_policy(shape: Mixture, durations: Sequence[float], budget: float) -> Score:
    """Spend each poll on the greatest hazard × gap² of all tasks, the hazard known.

    The hazard is that at the middle of the gap, which does better than at its end.  Polls
    are evenly spaced, which is the best that the limit can give.
    """
    hazard = hazards(shape)

    def worth(age: float, gap: float) -> float:
        return hazard[min(int((age - gap / 2.0) / 0.05), len(hazard) - 1)] * gap * gap

    jobs = [Job(i / RATE, duration) for i, duration in enumerate(durations)]
    looked = [job.created for job in jobs]
    flying: set[int] = set()
    turn = created = 0
    while created < len(jobs) or flying:
        now = turn / budget
        turn += 1
        while created < len(jobs) and jobs[created].created <= now:
            flying.add(created)
            created += 1
        if not flying:
            continue
        best = max(flying, key=lambda i: worth(now - jobs[i].created, now - looked[i]))
        jobs[best].polls += 1
        looked[best] = now
        if now >= jobs[best].created + jobs[best].duration:
            jobs[best].delay = now - jobs[best].created - jobs[best].duration
            flying.remove(best)
    return settled(jobs)
