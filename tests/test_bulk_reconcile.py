"""What proves that a task is a doubt's, and what is kept of tasks that were one too many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from kie_async.bulk import audit, reconcile
from kie_async.bulk._record import note_double_spend
from kie_async.instrumentation import Event
from kie_async.journal import Journal, PlannedItem, Verdict
from kie_async.models import Task, TaskState
from tests.clock import NOW, WallClock

ONE, OTHER = "1" * 32, "2" * 32


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest_asyncio.fixture(name="journal")
async def _journal(tmp_path: Path, clock: WallClock) -> AsyncIterator[Journal]:
    async with Journal(tmp_path / "run.db", clock=clock) as journal:
        await journal.plan([PlannedItem(source_id="a", model="m", input={"task_id": "a"})])
        yield journal


def task(task_id: str, created_at: float, reference: str | None = None) -> Task:
    """A task of the only item's input, as ``recordInfo`` shows it."""
    param: dict[str, object] = {"input": {"task_id": "a"}}
    if reference is not None:
        param["callBackUrl"] = f"https://h.test/cb/{reference}"
    return Task(
        task_id=task_id,
        model="m",
        state=TaskState.SUCCESS,
        created_at=created_at,
        raw={"param": param},
    )


def looks(*tasks: Task) -> Callable[[str], Awaitable[Task]]:
    known = {one.task_id: one for one in tasks}

    async def look(task_id: str) -> Task:
        return known[task_id]

    return look


async def refused_then_doubted(journal: Journal, clock: WallClock, between: float) -> None:
    attempt = await journal.begin_sending("a")
    await journal.record_rejected("a", attempt, final=False, reason="RateLimitError")
    clock.now += between
    attempt = await journal.begin_sending("a")
    await journal.record_in_doubt("a", attempt, reason="reset")


@pytest.mark.asyncio
async def test_an_attempt_that_was_refused_has_no_task(journal: Journal, clock: WallClock):
    """A task of its time, with this input, is somebody else's."""
    await refused_then_doubted(journal, clock, 600.0)

    found = [f async for f in reconcile(journal, looks(task(ONE, NOW)), [ONE])]

    assert [f.verdict for f in found] == ["unrelated"]
    assert (await journal.counts()).in_doubt == 1


@pytest.mark.asyncio
async def test_an_attempt_that_was_refused_makes_no_doubt_of_a_proof(
    journal: Journal, clock: WallClock
):
    """Only one attempt of this time can have brought the task."""
    await refused_then_doubted(journal, clock, 10.0)

    found = [f async for f in reconcile(journal, looks(task(ONE, clock.now + 1)), [ONE])]

    assert [f.verdict for f in found] == ["settled"]
    assert [made.task_id for made in await journal.attempts("a")] == [None, ONE]


@pytest.mark.asyncio
async def test_a_failure_that_was_reported_may_have_a_task(journal: Journal, clock: WallClock):
    """It named none, and may have made one all the same."""
    attempt = await journal.begin_sending("a")
    await journal.record_reported("a", attempt, again=False, body_code=500)

    found = [f async for f in reconcile(journal, looks(task(ONE, NOW + 1)), [ONE])]

    assert [f.verdict for f in found] == ["settled"]


@pytest.mark.asyncio
async def test_a_reference_binds_the_attempt_that_carried_it(journal: Journal):
    """The other one stays in doubt: when its task turns up too, two were paid."""
    first = await journal.begin_sending("a", ref=ONE)
    await journal.record_reported("a", first, again=True, body_code=500)
    second = await journal.begin_sending("a", ref=OTHER)
    await journal.record_in_doubt("a", second, reason="reset")
    tasks = [task("e" * 32, NOW, ONE), task("f" * 32, NOW, OTHER)]

    (settled,) = [f async for f in reconcile(journal, looks(*tasks), ["e" * 32])]
    made = await journal.attempts("a")
    item = await journal.get("a")
    (other,) = [f async for f in reconcile(journal, looks(*tasks), ["f" * 32])]

    assert settled.verdict == "settled"
    assert [(one.task_id, one.verdict) for one in made] == [
        ("e" * 32, Verdict.CREATED),
        (None, Verdict.IN_DOUBT),
    ]
    assert item is not None
    assert (item.task_id, item.maybe_charged) == ("e" * 32, True)
    assert other.verdict == "double"
    assert [one.task_id for one in await journal.attempts("a")] == ["e" * 32, "f" * 32]


@pytest.mark.asyncio
async def test_tasks_that_were_one_too_many_are_all_kept(journal: Journal):
    """Also those that are noticed at the same time, more than once, or by an older version."""
    told: list[Event] = []
    old = {"source_id": "source-9", "task_id": "9" * 32}
    await journal.set_meta("double_spends", [old])
    ids = [*(str(number) for number in range(5)), "3", "9"]
    await asyncio.gather(
        *(note_double_spend(journal, told.append, f"source-{n}", n * 32) for n in ids)
    )

    kept = (await audit(journal)).double_spends

    assert sorted(one["task_id"][0] for one in kept) == ["0", "1", "2", "3", "4", "9"]
    assert old in kept
    assert len(told) == 7
