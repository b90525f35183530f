"""What a run reads its ids from: lists, generators, queues that wait, and those without an end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from kie_async import OutcomeStatus, UsageError, errors
from kie_async.bulk import planned_batches
from tests.clock import jumping
from tests.fakes import FakeAPI, envelope, session_on
from tests.test_bulk import journal_at, outcomes_of, paid

IDS = [f"source-{n}" for n in range(10)]


def now() -> float:
    return asyncio.get_running_loop().time()


class Queue:
    """A source that brings ids and then waits; it tells how it was left."""

    def __init__(self, *ids: str, pause: float = 0.0) -> None:
        self.ids = ids
        self.pause = pause
        self.given: list[str] = []
        self.closed_at: float | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            for one in self.ids:
                self.given.append(one)
                yield one
                await asyncio.sleep(self.pause)
            await asyncio.Event().wait()
        finally:
            self.closed_at = now()


# -- begun when it is there ---------------------------------------------------------------


@jumping
async def test_what_a_queue_brings_is_begun_while_it_waits_for_more(tmp_path: Path):
    """Ten ids, and then nothing for ever: within a second they are sent."""
    api, queue = FakeAPI(duration=5.0), Queue(*IDS)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(queue, journal=journal)
        found = [await anext(run) for _ in IDS]
        assert now() < 10.0
        await run.aclose()

    assert {outcome.status for outcome in found} == {OutcomeStatus.DONE}
    assert api.creates[-1][0] <= 1.5
    assert paid(api) == dict.fromkeys(IDS, 1)


@jumping
async def test_a_source_may_wait_for_an_outcome(tmp_path: Path):
    """The next id depends on the result of the one before."""
    api, done = FakeAPI(duration=5.0), asyncio.Event()

    async def source() -> AsyncIterator[str]:
        yield "source-1"
        await done.wait()
        yield "source-2"

    async with journal_at(tmp_path) as journal, session_on(api) as kie, asyncio.timeout(60.0):
        async for _ in kie.upscale_many(source(), journal=journal):
            done.set()

    assert list(paid(api)) == ["source-1", "source-2"]


async def quick(count: int) -> AsyncIterator[str]:
    for n in range(count):
        yield f"source-{n}"


async def slow(count: int, pause: float) -> AsyncIterator[str]:
    for n in range(count):
        await asyncio.sleep(pause)
        yield f"source-{n}"


@jumping
async def test_a_quick_source_is_planned_in_whole_batches():
    """A commit for each id would be dear; and the end of a list does not wait."""
    sizes = [len(batch) async for batch in planned_batches(quick(2500), None, 1000)]

    assert sizes == [1000, 1000, 500]
    assert now() == 0.0


@jumping
async def test_a_slow_source_is_planned_once_in_a_second():
    """However it paces them: no id waits for longer than that."""
    sizes = [len(batch) async for batch in planned_batches(slow(40, 0.1), None, 1000)]

    assert sum(sizes) == 40
    assert 3 <= len(sizes) <= 5


@jumping
async def test_no_more_than_a_batch_is_read_ahead():
    """Who takes nothing has a list of a million ids wait, and not in memory."""
    given = 0

    async def source() -> AsyncIterator[str]:
        nonlocal given
        async for one in quick(1_000_000):
            given += 1
            yield one

    batches = planned_batches(source(), None, 1000)
    async with aclosing(batches):  # type: ignore[type-var]  # it is a generator
        await anext(batches)
        await asyncio.sleep(100.0)

    assert given <= 2001


@pytest.mark.parametrize("waits", [False, True], ids=["iterable", "async iterable"])
def test_what_comes_before_a_bad_one_is_planned_and_nothing_behind_it_is_read(waits: bool):
    """Its position is in the error."""
    read = []

    def ids() -> Iterator[str]:
        for one in ["source-1", "source-2", "not an id", "source-4"]:
            read.append(one)
            yield one

    async def slow_ids() -> AsyncIterator[str]:
        for one in ids():
            yield one

    @jumping
    async def story() -> None:
        batches = planned_batches(slow_ids() if waits else ids(), None, 1000)
        assert [item.source_id for item in await anext(batches)] == ["source-1", "source-2"]
        with pytest.raises(UsageError, match="item 3"):
            await anext(batches)
        assert read[-1] == "not an id"

    story()


@pytest.mark.parametrize("waits", [False, True], ids=["iterable", "async iterable"])
def test_what_a_source_gave_before_it_broke_is_planned(tmp_path: Path, waits: bool):
    """A queue may count it as taken."""

    def ids() -> Iterator[str]:
        yield from IDS
        raise LookupError("the list broke")

    async def slow_ids() -> AsyncIterator[str]:
        for one in ids():
            yield one

    @jumping
    async def story() -> None:
        async with journal_at(tmp_path) as journal, session_on(FakeAPI()) as kie:
            run = kie.upscale_many(slow_ids() if waits else ids(), journal=journal)
            with pytest.raises(LookupError):
                await outcomes_of(run)
            assert (await journal.counts()).total == 10

    story()


# -- ended when it is enough ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "give_up_waiting", "cancel"])
@pytest.mark.parametrize("at", [0.5, 100.0])
def test_a_source_that_waits_does_not_hold_up_the_end(tmp_path: Path, how: str, at: float):
    """It is closed at once, and what it brought is on record, however short ago that was."""

    @jumping
    async def story() -> None:
        api, queue = FakeAPI(duration=5.0), Queue(*IDS)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(queue, journal=journal)
            taking = asyncio.ensure_future(outcomes_of(run))
            await asyncio.sleep(at)
            if how == "stop":
                run.stop()
            elif how == "give_up_waiting":
                await run.give_up_waiting()
            else:
                taking.cancel()
            await asyncio.wait([taking])
            assert now() < at + 1.0
            assert queue.closed_at is not None
            assert queue.closed_at < at + 1.0
            counts = await journal.counts()
            assert counts.total == 10
            assert (counts.sending, counts.in_doubt) == (0, 0)
            assert not run.progress.loaded
        assert len(asyncio.all_tasks()) == 1

    story()


@pytest.mark.parametrize("waits", [False, True], ids=["iterable", "async iterable"])
@pytest.mark.parametrize("cap", [False, True], ids=["402", "max_credits"])
def test_a_source_without_an_end_is_not_read_on_when_the_run_has_stopped(
    tmp_path: Path, waits: bool, cap: bool
):
    """By a refusal, or by its own cap."""
    read = 0

    def ids() -> Iterator[str]:
        nonlocal read
        while read < 30_000:
            read += 1
            yield f"source-{read}"

    async def slow_ids() -> AsyncIterator[str]:
        for one in ids():
            yield one

    @jumping
    async def story() -> None:
        api = FakeAPI(duration=5.0)
        if not cap:
            api.on_create = lambda n, r: envelope(402, "no credits")
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(
                slow_ids() if waits else ids(), journal=journal, max_credits=30 if cap else None
            )
            expected = errors.SpendLimitError if cap else errors.InsufficientCreditsError
            with pytest.raises(expected):
                await outcomes_of(run)
            assert read <= 3000
            assert (await journal.counts()).total >= read - 1000

    story()


@jumping
async def test_a_list_is_planned_to_its_end_when_the_run_is_stopped(tmp_path: Path):
    """So that the journal alone goes on with all of it."""
    api, ids = FakeAPI(duration=5.0), [f"source-{n}" for n in range(3500)]

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(ids, journal=journal)
        asyncio.get_running_loop().call_later(3.0, run.stop)
        await outcomes_of(run)
        counts = await journal.counts()

    assert run.progress.loaded
    assert counts.total == 3500
    assert counts.done == len(api.creates) <= 20


@jumping
async def test_but_not_when_it_is_given_up(tmp_path: Path):
    """Whoever leaves does not wait for the rest of a long list."""
    api, ids = FakeAPI(duration=5.0), [f"source-{n}" for n in range(3500)]

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(ids, journal=journal)
        taking = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(3.0)
        await run.give_up_waiting()
        await taking
        counts = await journal.counts()

    assert not run.progress.loaded
    assert counts.total < 3500


@jumping
async def test_a_source_that_cannot_be_closed_holds_nobody_up(tmp_path: Path, caplog: Any):
    """Its `finally` hangs, or fails: the one is left behind, the other is logged."""
    hangs = asyncio.Event()

    async def source(fails: bool) -> AsyncIterator[str]:
        try:
            yield "source-1"
            await asyncio.Event().wait()
        finally:
            if fails:
                raise LookupError("the queue is away")
            await hangs.wait()

    for fails in (False, True):
        async with journal_at(tmp_path) as journal, session_on(FakeAPI()) as kie:
            run = kie.upscale_many(source(fails), journal=journal)
            taking = asyncio.ensure_future(outcomes_of(run))
            await asyncio.sleep(30.0)
            began = now()
            run.stop()
            await taking
            assert now() - began < 10.0
    hangs.set()
    await asyncio.sleep(0.1)

    assert "does not let itself be closed" in caplog.text
    assert len(asyncio.all_tasks()) == 1
