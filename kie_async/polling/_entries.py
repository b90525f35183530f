"""Which of the waiting tasks is looked at next.

A task *waits* until its gap is over, then it is *due*, then it is *out*: being polled.
Waiting tasks stand in one heap by time.  Due tasks stand in lanes by their hazard: within
a lane the longest gap goes first, so the best of all is the best of the few heads.  Work
per poll does not grow with the number of tasks, except for the heap's logarithm.
"""

from __future__ import annotations

import math
import random
from collections import deque
from heapq import heapify, heappop, heappush
from typing import Generic, TypeVar

from kie_async.models import TaskState
from kie_async.polling._durations import Durations, Law
from kie_async.polling._entry import DUE, GONE, OUT, WAITING, Entry
from kie_async.polling._schedule import PollSchedule

__all__ = ["EntryQueue"]

E = TypeVar("E", bound=Entry)

BATCH = 256
"""Tasks that become due in one step at most: a herd is taken in pieces."""
FIRST_SPREAD = 5.0
"""Jitter of a first look, in gaps, over the jitter of the later ones."""
ERROR_SPREAD = 0.25
"""Jitter of the back-off after a failed poll, either way."""
ERROR_DOUBLINGS = 4
RETRY_AFTER_CAP = 300.0
REVIEW = 0.05
"""Seconds until a due task's hazard is looked at again, at least."""
LANES = range(-24, 9)
"""Hazards from 2^-12 to 2^4 per second, a factor of sqrt(2) apart."""
HAZARD = {lane: 2.0 ** (lane / 2.0) for lane in LANES}


class EntryQueue(Generic[E]):
    """All waiting tasks of a session, each an entry, and which is looked at next.

    The driver's part: wait until :meth:`next_due`, acquire a turn from the account's poll
    limiter (that may take a while when the limit binds), then ask :meth:`take` at the
    moment of the turn, and report with one of :meth:`answered`, :meth:`failed`,
    :meth:`recheck`, :meth:`finished`, :meth:`remove`.  The queue need not be told the
    limit: under one that binds, due tasks pile up, and :meth:`take` gives the one with the
    greatest hazard × gap²; a task that is not due has a smaller one.

    No task starves: its gap grows until it is the greatest.
    """

    def __init__(
        self,
        schedule: PollSchedule | None = None,
        durations: Durations | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Make an empty queue.

        Args:
            schedule: The settings.
            durations: What was learned, and where more is learned.
            rng: The source of jitter.
        """
        self._schedule = schedule or PollSchedule()
        self._durations = durations or Durations(self._schedule)
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._entries: dict[str, E] = {}
        self._times: list[tuple[float, int, E]] = []
        self._lanes: dict[int, list[tuple[float, int, E]]] = {}
        self._rung: deque[tuple[int, E]] = deque()
        self._tickets = 0
        self._due = 0  # entries that are due
        self._items = 0  # items in all heaps, valid or not

    def __len__(self) -> int:
        """Return how many tasks are waited for, those being polled included."""
        return len(self._entries)

    def __contains__(self, task_id: object) -> bool:
        """Return whether the task is waited for."""
        return task_id in self._entries

    def get(self, task_id: str) -> E | None:
        """Return the entry of a task that is waited for."""
        return self._entries.get(task_id)

    def entries(self) -> list[E]:
        """Return all of them."""
        return list(self._entries.values())

    def put(self, entry: E, now: float) -> None:
        """Wait for a task that is not waited for yet.

        One whose age is known is looked at when its model's tasks begin to end; one whose
        age is not may be over, so it is looked at once, now.
        """
        self._entries[entry.task_id] = entry
        first = self._jittered_gap(entry, entry.started) if entry.aged else 0.0
        self._wait(entry, max(now, entry.started + first))

    def remove(self, task_id: str) -> None:
        """Forget a task; one that is unknown is no error."""
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            self._move(entry, GONE)
            self._tidy()

    def ring(self, task_id: str, now: float) -> None:
        """Look at a task now: somebody says that it has changed.  Unknown ones are ignored.

        Rings do not add up, and none comes sooner than ``min_gap`` after the last look.
        """
        entry = self._entries.get(task_id)
        if entry is None or entry.rung:
            return
        entry.rung = True
        if entry.place != OUT:  # else: once more when its answer is here
            soonest = max(entry.last + self._schedule.min_gap, entry.floor)
            self._wait(entry, max(now, min(entry.due, soonest)))

    def next_due(self, now: float) -> float | None:
        """Return when the next poll is wanted; None if nobody waits for one."""
        if self._due:
            return now
        times = self._times
        while times and times[0][1] != times[0][2].ticket:
            self._drop(times)
        return times[0][0] if times else None

    def take(self, now: float) -> E | None:
        """Return the entry to spend a poll on, and count it as being polled; or None."""
        entry = self._only_one(now)
        if entry is None:
            self._promote(now)
            entry = self._next_rung() or self._best(now)
        if entry is None:
            return None
        self._move(entry, OUT)
        entry.rung = False
        entry.last = now
        return entry

    def answered(
        self,
        task_id: str,
        state: TaskState,
        now: float,
        *,
        age: float | None = None,
        model: str | None = None,
    ) -> None:
        """Note that a task still runs; its next poll is a gap after the last.

        Args:
            task_id: The task; an unknown one is ignored.
            state: Its state.
            now: The time.
            age: Seconds since its creation, if only the answer told it.
            model: Its model, if only the answer told it.
        """
        entry = self._entries.get(task_id)
        if entry is None:
            return
        entry.failures = 0
        entry.model = entry.model or model
        if not entry.aged and age is not None and 0.0 <= age < math.inf:
            entry.aged = True
            entry.started = now - age
        elif entry.aged:
            self._note_state(entry, state)
        least = self._schedule.min_gap
        gap = least if entry.rung else self._jittered_gap(entry, entry.last)
        self._wait(entry, max(entry.last + gap, now if entry.rung else now + least))

    def failed(self, task_id: str, now: float, retry_after: float | None = None) -> None:
        """Note that a poll failed: wait longer each time, until one succeeds.

        The wait is ``gap × 2^n`` with jitter, at most ``error_cap`` or the gap itself if that
        is longer: an outage raises the rate of requests by a tenth at most.  *retry_after*
        is a floor.
        """
        entry = self._entries.get(task_id)
        if entry is None:
            return
        entry.rung = False
        entry.failures = min(entry.failures + 1, ERROR_DOUBLINGS)
        gap = self._gap(entry, now)
        cap = self._schedule.error_cap
        longest = max(gap, cap / (1.0 + ERROR_SPREAD))
        wait = min(gap * 2.0**entry.failures, longest) * self._spread(ERROR_SPREAD)
        wait = min(wait, max(gap, cap))  # no jitter beyond what is promised
        if retry_after is not None and retry_after > 0.0:
            asked = min(retry_after, RETRY_AFTER_CAP)
            entry.floor = now + asked
            wait = max(wait, asked * (1.0 + ERROR_SPREAD * self._rng.random()))
        self._wait(entry, now + wait)

    def recheck(self, task_id: str, delay: float, now: float) -> None:
        """Look at a task again in *delay* seconds, whatever its law says."""
        entry = self._entries.get(task_id)
        if entry is not None:
            entry.rung = False
            self._wait(entry, now + max(delay, self._schedule.min_gap))

    def finished(self, task_id: str, model: str | None, duration: float | None) -> None:
        """Learn from a task that has ended, and forget it.

        Args:
            task_id: The task.
            model: Its model.
            duration: Seconds from its creation to its completion, if known.
        """
        entry = self._entries.get(task_id)
        if duration is not None:
            self._durations.observe(model, duration)
            for state, age in entry.looks() if entry is not None and entry.seen else ():
                self._durations.observe(model, max(0.0, duration - age), after=state)
        self.remove(task_id)

    def _note_state(self, entry: Entry, state: TaskState) -> None:
        """Remember the look that first saw it worked on, and any one of those before."""
        if state is TaskState.GENERATING:
            if entry.sighted is None:
                entry.sighted = entry.last
        elif state is not TaskState.UNKNOWN and entry.sighted is None:
            entry.idles += 1
            if self._rng.random() * entry.idles < 1.0:  # each of them equally likely
                entry.idle = entry.last

    def _law(self, entry: Entry) -> tuple[Law | None, float]:
        """Return the law to poll by, and the time that its ages count from.

        Once a task was seen being worked on, it is that of the time since such a sighting,
        when it has been learned.  What was learned and what is asked are then the same
        quantity, so it does not matter that a sighting is late.
        """
        if entry.sighted is not None:
            law = self._durations.law(entry.model, after=TaskState.GENERATING)
            if law is not None:
                return law, entry.sighted
        return self._durations.law(entry.model), entry.started

    def _gap(self, entry: Entry, at: float) -> float:
        """Return the planned gap after a look at time *at*."""
        return self._planned(entry, at, *self._law(entry))

    def _planned(self, entry: Entry, at: float, law: Law | None, since: float) -> float:
        plan = self._schedule.safety_wait if entry.callbacks else self._schedule.gap
        gap = plan(max(0.0, at - since), law, aged=entry.aged)
        if entry.idle is not None and entry.sighted is None:
            # Hardly any task ended sooner after a look that saw it not yet worked on.  Of
            # a model that never shows `generating` some did, so this changes nothing.
            rest = self._durations.law(entry.model, after=TaskState.WAITING)
            if rest is not None:
                gap = max(gap, min(rest.first, self._schedule.longest_gap))
        return gap

    def _jittered_gap(self, entry: Entry, at: float) -> float:
        """Return the gap after a look at time *at*, apart from everybody else's.

        A first look falls anywhere within half a gap of its plan: tasks created together
        are spread over a whole gap, and it costs less than half a per cent of the loss.
        """
        law, since = self._law(entry)
        gap = self._planned(entry, at, law, since)
        width = self._schedule.jitter * gap
        if law is None:
            first, room = self._schedule.first_gap, self._schedule.first_gap
        else:
            first, room = (law.safety if entry.callbacks else law.first), law.gap
        if entry.aged and (at <= since or first - (at - since) > room / 2.0):
            width = min(0.5, FIRST_SPREAD * self._schedule.jitter) * room
        return max(gap + width * (2.0 * self._rng.random() - 1.0), self._schedule.min_gap)

    def _spread(self, share: float) -> float:
        return 1.0 + share * (2.0 * self._rng.random() - 1.0)

    def _hazard(self, entry: Entry, now: float) -> tuple[float, float]:
        """Return the chance per second that it ended in the gap, and until when that holds.

        It is taken at the middle of the gap: where hazards rise, that has 0.8 of the delay
        of taking it at the end (simulated).  Where nothing was learned, it is the hazard
        for which the planned gap is the best one: then all are worth the same when due.
        """
        law, since = self._law(entry)
        if law is None or not entry.aged or entry.callbacks or now - since > law.longest:
            return 2.0 * self._schedule.poll_cost / self._gap(entry, entry.last) ** 2, math.inf
        looked = max(0.0, entry.last - since)
        hazard, edge = law.hazard((looked + now - since) / 2.0)
        return hazard, since + 2.0 * edge - looked

    def _move(self, entry: E, place: int) -> None:
        """Put *entry* into another place; what the heaps hold of it is void from now on."""
        self._due += (place == DUE) - (entry.place == DUE)
        entry.place = place
        self._tickets += 1
        entry.ticket = self._tickets

    def _wait(self, entry: E, due: float) -> None:
        """Let it wait until *due*."""
        self._move(entry, WAITING)
        entry.due = due
        self._push(self._times, due, entry)
        self._tidy()

    def _only_one(self, now: float) -> E | None:
        """Return the task that is due, if there is just one: the way while no limit binds."""
        times = self._times
        if self._due or not times or times[0][0] > now:
            return None
        if len(times) > 1 and (times[1][0] <= now or times[min(2, len(times) - 1)][0] <= now):
            return None  # one of its children in the heap is due as well
        _, ticket, entry = self._drop(times)
        return entry if entry.ticket == ticket else None

    def _promote(self, now: float) -> None:
        """Take the waiting tasks whose time has come, and the due ones whose hazard changes."""
        times, taken = self._times, 0
        while taken < BATCH and times and times[0][0] <= now:
            _, ticket, entry = self._drop(times)
            if entry.ticket == ticket:
                self._become_due(entry, now)
                taken += 1

    def _become_due(self, entry: E, now: float) -> None:
        self._move(entry, DUE)
        if entry.rung:
            self._rung.append((entry.ticket, entry))
            self._items += 1
            return
        hazard, until = self._hazard(entry, now)
        lane = round(2.0 * math.log2(hazard)) if hazard > 0.0 else LANES[0]
        lane = min(max(lane, LANES[0]), LANES[-1])
        self._push(self._lanes.setdefault(lane, []), entry.last, entry)
        if until < math.inf:
            self._push(self._times, max(until, now + REVIEW), entry)

    def _next_rung(self) -> E | None:
        """Return the task whose bell rang first."""
        while self._rung:
            ticket, entry = self._rung.popleft()
            self._items -= 1
            if entry.ticket == ticket:
                return entry
        return None

    def _best(self, now: float) -> E | None:
        """Return the due task with the greatest hazard × gap²."""
        best, most = None, -1.0
        for lane, items in self._lanes.items():
            while items and items[0][1] != items[0][2].ticket:
                self._drop(items)
            if items:
                worth = HAZARD[lane] * (now - items[0][0]) ** 2
                if worth > most:
                    best, most = items[0][2], worth
        return best

    def _push(self, heap: list[tuple[float, int, E]], key: float, entry: E) -> None:
        heappush(heap, (key, entry.ticket, entry))
        self._items += 1

    def _drop(self, heap: list[tuple[float, int, E]]) -> tuple[float, int, E]:
        self._items -= 1
        return heappop(heap)

    def _tidy(self) -> None:
        """Drop void items once they outnumber the others: memory follows the tasks."""
        if self._items <= 4 * len(self._entries) + 1024:
            return
        for heap in (self._times, *self._lanes.values()):
            heap[:] = [item for item in heap if item[1] == item[2].ticket]
            heapify(heap)
        self._rung = deque(item for item in self._rung if item[0] == item[1].ticket)
        self._items = len(self._times) + len(self._rung) + sum(map(len, self._lanes.values()))
