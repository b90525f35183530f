"""A bulk run without a journal of the user's: its own goes with it, the ids must not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kie_async import OutcomeStatus
from kie_async.bulk import _run
from kie_async.errors import KieConnectionError
from kie_async.instrumentation import CreateInDoubt, Event, TaskOrphaned
from kie_async.testing import in_virtual_time
from tests.fakes import FakeAPI, session_on
from tests.test_bulk import journal_at, outcomes_of

IDS = [f"source-{n}" for n in range(10)]


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run's own journal takes no virtual time."""
    monkeypatch.setattr(_run, "own_journal", lambda: journal_at(tmp_path))


def orphans(seen: list[Event]) -> list[str | None]:
    return sorted(str(event.task_id) for event in seen if isinstance(event, TaskOrphaned))


def left_after(
    seconds: float, api: FakeAPI, seen: list[Event], caplog: Any, **settings: Any
) -> Callable[[], None]:
    """Return what cancels the consumer of a run after so long."""

    @in_virtual_time
    async def story() -> None:
        async with session_on(api, hooks=[seen.append]) as kie:
            task = asyncio.ensure_future(outcomes_of(kie.upscale_many(IDS, **settings)))
            await asyncio.sleep(seconds)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        assert len(asyncio.all_tasks()) == 1
        assert all(task_id in caplog.text for task_id in orphans(seen))

    return story


@pytest.mark.parametrize("seconds", [0.01, 0.1, 1.0, 20.0])
def test_who_is_cancelled_leaves_no_paid_id_behind(seconds: float, caplog: Any):
    """While the creates are under way, and while the tasks run."""
    api, seen = FakeAPI(duration=60.0), []

    left_after(seconds, api, seen, caplog)()

    assert len(api.tasks) == 10
    assert orphans(seen) == sorted(api.tasks)


def test_a_create_that_outlives_the_grace_is_told_when_its_answer_comes(caplog: Any):
    """A second cancellation cuts the grace short; the section goes on, for the close to drain."""
    api, seen = FakeAPI(duration=60.0, latency=8.0), []

    @in_virtual_time
    async def story() -> None:
        async with session_on(api, hooks=[seen.append]) as kie:
            run = kie.upscale_many(IDS)
            task = asyncio.ensure_future(outcomes_of(run))
            await asyncio.sleep(1.0)
            await run.give_up_waiting(grace=2.0)
            await asyncio.wait([task])
            assert orphans(seen) == []

    story()

    assert len(api.tasks) == 10
    assert orphans(seen) == sorted(api.tasks)


@in_virtual_time
async def test_outcomes_that_nobody_took_are_told(caplog: Any):
    """`break` after the first: the others are paid and done, and in no journal that stays."""
    api, seen = FakeAPI(duration=5.0), []

    async with session_on(api, hooks=[seen.append]) as kie:
        run = kie.upscale_many(IDS)
        taken = await anext(run)
        await asyncio.sleep(20.0)
        await run.aclose()

    assert taken.task is not None
    assert orphans(seen) == sorted(set(api.tasks) - {taken.task.task_id})


@in_virtual_time
async def test_doubts_that_nobody_took_are_told(caplog: Any):
    """The hooks when they arise, as ever; the log when their outcomes go with the run."""
    api, seen = FakeAPI(duration=5.0), []
    api.lost = lambda n: KieConnectionError("reset") if n in (3, 7) else None

    async with session_on(api, hooks=[seen.append]) as kie:
        run = kie.upscale_many(IDS)
        taken = await anext(run)
        await asyncio.sleep(20.0)
        await run.aclose()

    assert taken.status is OutcomeStatus.IN_DOUBT
    doubts = [line for line in caplog.messages if "is in doubt" in line]
    assert len([event for event in seen if isinstance(event, CreateInDoubt)]) == 2
    assert len(doubts) == 1
    assert "source-" in doubts[0]
    assert taken.source_id not in doubts[0]


@in_virtual_time
async def test_a_doubt_that_arises_behind_the_leaver_is_told(caplog: Any):
    """Its create was under way when he left."""
    api, seen = FakeAPI(duration=5.0, latency=4.0), []
    api.lost = lambda n: KieConnectionError("reset")

    async with session_on(api, hooks=[seen.append]) as kie:
        run = kie.upscale_many(IDS[:1])
        task = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(1.0)
        await run.give_up_waiting(grace=1.0)
        await asyncio.wait([task])

    assert len([event for event in seen if isinstance(event, CreateInDoubt)]) == 1
    assert [line for line in caplog.messages if "in doubt" in line]


@in_virtual_time
async def test_who_takes_every_outcome_is_told_of_no_orphan():
    """Nor of one whose task took too long: its outcome has the id."""
    api, seen = FakeAPI(duration=60.0), []

    async with session_on(api, hooks=[seen.append]) as kie:
        found = [outcome async for outcome in kie.upscale_many(IDS, task_timeout=5.0)]

    assert {outcome.status for outcome in found} == {OutcomeStatus.FAILED}
    assert sorted(str(outcome.error.task_id) for outcome in found) == sorted(api.tasks)
    assert not any("run the same again" in str(outcome.error) for outcome in found)  # paid twice
    assert orphans(seen) == []


@in_virtual_time
async def test_a_bug_takes_no_id_along(monkeypatch: pytest.MonkeyPatch):
    """That of the item that met it, and those of the others that it ends."""
    api, seen = FakeAPI(duration=5.0), []

    async def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    async with session_on(api, hooks=[seen.append]) as kie:
        run = kie.upscale_many(IDS)
        task = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(1.0)
        run._journal.record_done = broken
        with pytest.raises(ZeroDivisionError):
            await task

    assert len(api.tasks) == 10
    assert orphans(seen) == sorted(api.tasks)


@in_virtual_time
async def test_a_journal_of_the_users_keeps_the_ids_itself(tmp_path: Path):
    """Nothing is said to be lost: the same journal collects it."""
    api, seen = FakeAPI(duration=60.0), []

    async with journal_at(tmp_path) as journal, session_on(api, hooks=[seen.append]) as kie:
        run = kie.upscale_many(IDS, journal=journal)
        task = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(20.0)
        task.cancel()
        await asyncio.wait([task])
        counts = await journal.counts()

    assert counts.sent == 10
    assert orphans(seen) == []


@in_virtual_time
async def test_a_stop_plans_nothing_more_into_a_journal_that_goes_with_the_run():
    """The rest of the list would be written for nobody."""
    api = FakeAPI(duration=5.0)

    async with session_on(api) as kie:
        run = kie.upscale_many([f"source-{n}" for n in range(3500)])
        asyncio.get_running_loop().call_later(3.0, run.stop)
        await outcomes_of(run)

    assert not run.progress.loaded
    assert run.progress.total < 3500
