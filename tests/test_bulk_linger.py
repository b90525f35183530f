"""How long a run listens for the callbacks of its doubts: from the end of everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kie_async import OutcomeStatus
from kie_async.bulk import BulkRun, Plan
from kie_async.errors import KieConnectionError
from kie_async.session import KieSession
from kie_async.session._bulk import BulkCaller, callback_maker
from tests.clock import jumping
from tests.fakes import FakeAPI, session_on
from tests.test_bulk import _echo, journal_at, outcomes_of

LINGER = 120.0


def now() -> float:
    return asyncio.get_running_loop().time()


class Bell:
    """A receiver of callbacks, rung by hand."""

    def __init__(self) -> None:
        self.listening: list[Callable[[Any], None]] = []

    def connect(self, ring: Callable[[Any], None]) -> Callable[[], None]:
        self.listening.append(ring)
        return lambda: self.listening.remove(ring)

    def ring(self, task_id: str, reference: str) -> None:
        for ring in self.listening:
            ring(SimpleNamespace(task_id=task_id, reference=reference))


def one_lost() -> FakeAPI:
    """Return an API that loses the answer to the second create, and is slow at the first."""
    api = FakeAPI(duration=300.0)
    api.lost = lambda n: KieConnectionError("reset") if n == 1 else None
    api.on_poll = lambda n, r: _echo(api, r)
    return api


def run_of(kie: KieSession, journal: Any, bell: Bell) -> BulkRun:
    plan = Plan(
        source=["source-0", "source-1"],
        new_callback=callback_maker("https://h/cb", None),
        receiver=bell,
        linger=LINGER,
    )
    return BulkRun(BulkCaller(kie._engine), journal, plan)


@jumping
async def test_a_run_listens_for_as_long_after_its_last_item_as_was_asked(tmp_path: Path):
    """That one takes longer than the whole of it."""
    bell = Bell()
    async with journal_at(tmp_path) as journal, session_on(one_lost()) as kie:
        ending = asyncio.ensure_future(outcomes_of(run_of(kie, journal, bell)))
        await asyncio.sleep(200.0)
        assert bell.listening
        await asyncio.sleep(150.0)
        assert bell.listening
        found = await ending

    assert set(found.values()) == {OutcomeStatus.DONE, OutcomeStatus.IN_DOUBT}
    assert 300.0 + LINGER <= now() < 300.0 + LINGER + 60.0  # the end is noticed a little later
    assert bell.listening == []


@jumping
async def test_a_callback_near_the_end_of_that_is_heard(tmp_path: Path):
    """What it settles is collected, and then there is nothing left to wait for."""
    bell, api = Bell(), one_lost()
    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = run_of(kie, journal, bell)
        ending = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(390.0)
        [attempt] = await journal.attempts("source-1")
        bell.ring(f"{1:032x}", attempt.ref)
        assert set((await ending).values()) == {OutcomeStatus.DONE}
        counts = await journal.counts()

    assert (counts.done, counts.in_doubt, run.progress.in_doubt) == (2, 0, 0)
    assert now() < 400.0


@jumping
async def test_a_run_that_is_given_up_does_not_linger(tmp_path: Path):
    """Nobody waits two minutes more for it; the doubts are in the journal."""
    bell = Bell()
    async with journal_at(tmp_path) as journal, session_on(one_lost()) as kie:
        run = run_of(kie, journal, bell)
        ending = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(320.0)
        assert not ending.done()
        await run.give_up_waiting()
        await ending

    assert now() <= 321.5  # it looks once in a second


@jumping
async def test_the_rows_are_not_counted_while_anything_runs(tmp_path: Path):
    """All of them are looked at for that, and the last task may take an hour."""
    bell, counted = Bell(), []
    async with journal_at(tmp_path) as journal, session_on(one_lost()) as kie:
        real = journal.counts

        async def counts() -> Any:
            counted.append(now())
            return await real()

        journal.counts = counts
        await outcomes_of(run_of(kie, journal, bell))

    assert all(at >= 300.0 for at in counted)
    assert 100 < len(counted) < 130
