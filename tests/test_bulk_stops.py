"""A bulk run that is stopped or given up at any turn of the loop, by anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

from kie_async import OutcomeStatus, UsageError
from kie_async.bulk import BulkRun, _run
from kie_async.errors import KieConnectionError
from kie_async.instrumentation import Event, TurnTaken
from kie_async.journal import ItemState
from tests.clock import jumping
from tests.fakes import FakeAPI, envelope, session_on
from tests.test_bulk import IDS, journal_at, outcomes_of, paid

TURNS = range(25)


def after_turns(number: int, act: Callable[[], Any]) -> None:
    """Do *act* when the loop has turned *number* times."""
    if number == 0:
        act()
    else:
        asyncio.get_running_loop().call_soon(after_turns, number - 1, act)


class AtThePage:
    """A journal that tells when it hands out the planned rows for the first time."""

    def __init__(self, journal: Any, handed: Callable[[], None]) -> None:
        self._journal = journal
        self._handed: Callable[[], None] | None = handed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    async def page(self, state: ItemState, **more: Any) -> Any:
        found = await self._journal.page(state, **more)
        if self._handed is not None:
            handed, self._handed = self._handed, None
            handed()
        return found


@pytest.mark.parametrize("turns", TURNS)
def test_stopped_at_any_turn_of_its_beginning(tmp_path: Path, turns: int):
    """The run ends; what was sent is finished, the rest stays planned and is done later."""

    @jumping
    async def story():
        api = FakeAPI(duration=5.0)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            watched = AtThePage(journal, lambda: after_turns(turns, run.stop))
            run = kie.upscale_many(IDS, journal=watched, in_flight=10)
            async with asyncio.timeout(1000):
                found = await outcomes_of(run)
            counts = await journal.counts()
            assert len(found) == len(api.creates) == counts.done <= 10
            assert counts.planned == 50 - counts.done
            await outcomes_of(kie.upscale_many(IDS, journal=journal))
            assert (await journal.counts()).done == 50
        assert paid(api) == dict.fromkeys(IDS, 1)
        assert len(asyncio.all_tasks()) == 1

    story()


@pytest.mark.parametrize("turns", TURNS)
def test_given_up_at_any_turn_of_a_resume(tmp_path: Path, turns: int):
    """More tasks wait to be collected than there is room: none of the others is begun."""

    @jumping
    async def story():
        api = FakeAPI(duration=5000.0)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            late = kie.upscale_many(IDS, journal=journal, task_timeout=60.0)
            assert set((await outcomes_of(late)).values()) == {OutcomeStatus.FAILED}

            run = kie.upscale_many(IDS, journal=journal, in_flight=10)
            collecting = asyncio.ensure_future(outcomes_of(run))
            while not run.progress.running:  # noqa: ASYNC110 - turn by turn, in no time
                await asyncio.sleep(0)
            polls = len(api.polls)
            given_up: list[asyncio.Future[None]] = []
            after_turns(turns, lambda: given_up.append(asyncio.ensure_future(give_up(run))))
            assert await collecting == {}
            await given_up[0]
            assert len(api.polls) == polls
            assert (await journal.counts()).sent == 50
            again = kie.upscale_many(IDS, journal=journal, task_timeout=9000.0)
            assert set((await outcomes_of(again)).values()) == {OutcomeStatus.DONE}
        assert paid(api) == dict.fromkeys(IDS, 1)

    story()


async def give_up(run: BulkRun) -> None:
    await run.give_up_waiting()


class AtTheRecord:
    """A journal that tells when *method* begins, or has returned."""

    def __init__(self, journal: Any, method: str, told: Callable[[], None], *, after: bool) -> None:
        self._journal, self._method, self._told, self._after = journal, method, told, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._journal, name)
        if name != self._method:
            return found

        async def wrapped(*args: Any, **more: Any) -> Any:
            if not self._after:
                self._told()
            answer = await found(*args, **more)
            if self._after:
                self._told()
            return answer

        return wrapped


ANSWERS = {
    "record_in_doubt": (KieConnectionError("reset"), OutcomeStatus.IN_DOUBT),
    "record_rejected": (envelope(422, "bad input"), OutcomeStatus.FAILED),
}


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("method", ANSWERS)
@pytest.mark.parametrize("how", ["stop", "give_up_waiting"])
def test_an_answer_that_comes_with_the_stop_is_an_outcome(
    tmp_path: Path, how: str, method: str, turns: int
):
    """The journal has it, so the consumer must have it, too: nobody tells him later."""

    @jumping
    async def story():
        answer, status = ANSWERS[method]
        api = FakeAPI(duration=5.0)
        api.on_create = lambda n, r: answer
        acts: list[asyncio.Future[Any]] = []

        def act() -> None:
            if how == "stop":
                run.stop()
            else:
                acts.append(asyncio.ensure_future(run.give_up_waiting()))

        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            watched = AtTheRecord(journal, method, lambda: after_turns(turns, act), after=True)
            run = kie.upscale_many(["source-a"], journal=watched)
            assert await outcomes_of(run) == {"source-a": status}
            counts = await journal.counts()
        assert (run.progress.in_doubt, run.progress.failed) == (counts.in_doubt, counts.failed)

    story()


@pytest.mark.parametrize("turns", [*range(12), 20, 40])
def test_an_end_that_is_being_recorded_when_the_waits_are_given_up_is_an_outcome(
    tmp_path: Path, turns: int
):
    """What is done on record and was told to nobody, no later run tells."""

    @jumping
    async def story():
        api, acts = FakeAPI(duration=5.0), []

        def act() -> None:
            if not acts:
                acts.append(asyncio.ensure_future(run.give_up_waiting()))

        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            watched = AtTheRecord(
                journal, "record_done", lambda: after_turns(turns, act), after=False
            )
            run = kie.upscale_many(IDS[:5], journal=watched)
            found = await outcomes_of(run)
            counts = await journal.counts()
        assert len(found) == counts.done == run.progress.done
        assert counts.done + counts.sent == 5

    story()


@pytest.mark.parametrize("refusal", [envelope(429, "too high"), envelope(455, "maintenance")])
@pytest.mark.parametrize("stop_at", [0.02, 0.2, 3.0])
def test_a_create_that_is_refused_for_the_moment_is_not_sent_again_after_a_stop(
    tmp_path: Path, stop_at: float, refusal: Any
):
    """It was under way when the run was stopped, or waits for its next turn: it stays planned."""

    @jumping
    async def story():
        api = FakeAPI(latency=0.1)
        api.on_create = lambda n, r: refusal
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(IDS[:5], journal=journal)
            asyncio.get_running_loop().call_at(stop_at, run.stop)
            assert await outcomes_of(run) == {}
            counts = await journal.counts()
        assert len(api.creates) == 5
        assert (counts.planned, counts.sending, counts.in_doubt) == (5, 0, 0)

    story()


@jumping
async def test_a_carrier_takes_one_item_after_the_other(tmp_path: Path):
    """There are as many asyncio tasks for the items as are in flight, and none is left."""
    api, born = FakeAPI(duration=1.0), []
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> Any:
        born.append(getattr(coroutine, "__qualname__", ""))
        return asyncio.Task(coroutine, loop=loop, **more)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        loop.set_task_factory(factory)
        found = await outcomes_of(kie.upscale_many(IDS, journal=journal, in_flight=5))
        loop.set_task_factory(None)

    assert len(found) == 50
    assert born.count("BulkRun._carry") == 5
    assert len(asyncio.all_tasks()) == 1


@jumping
async def test_one_carrier_that_is_cancelled_takes_only_its_item_with_it(tmp_path: Path):
    """By somebody who should not: another goes on with the rest."""
    api = FakeAPI(duration=100.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal, in_flight=5)
        collecting = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(5.0)
        carriers = [t for t in asyncio.all_tasks() if t.get_coro().__qualname__.endswith("_carry")]
        for carrier in carriers:
            carrier.cancel()
        found = await collecting
        counts = await journal.counts()

    assert len(carriers) == counts.sent == 5
    assert len(found) == counts.done == 45
    assert set(paid(api).values()) == {1}


@jumping
async def test_a_bug_ends_the_run_and_reaches_its_caller(tmp_path: Path):
    """Whoever else is under way is cancelled; his task is on record."""
    api = FakeAPI(duration=100.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:

        async def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        journal.record_done = broken
        run = kie.upscale_many(IDS, journal=journal, in_flight=5)
        with pytest.raises(ZeroDivisionError):
            await outcomes_of(run)
        counts = await journal.counts()

    assert counts.sent == len(api.creates) == 5
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("pause", [0.0, 0.1])
@pytest.mark.parametrize("times", [2, 3])
def test_a_consumer_that_is_cancelled_again_leaves_nothing_running(
    tmp_path: Path, pause: float, times: int
):
    """As a second Ctrl-C does: the second one cuts the grace of the creates short."""

    @jumping
    async def story():
        api = FakeAPI(duration=500.0, latency=5.0)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(IDS[:5], journal=journal)
            before = asyncio.all_tasks()
            task = asyncio.ensure_future(outcomes_of(run))
            await asyncio.sleep(3.0)
            for _ in range(times):
                task.cancel()
                await asyncio.sleep(pause)
            await asyncio.wait([task])
            await asyncio.sleep(10.0)  # the creates under way have brought their ids
            assert asyncio.all_tasks() == before
            polls = len(api.polls)
            await asyncio.sleep(600.0)
            assert len(api.polls) == polls
            assert (await journal.counts()).sent == len(api.creates) == 5

    story()


@pytest.mark.parametrize("waits", [False, True], ids=["iterable", "async iterable"])
def test_a_source_that_breaks_ends_the_run_with_its_own_error(tmp_path: Path, waits: bool):
    """While carriers are out: the items that they bring are on record, and no other error comes."""

    def ids() -> Iterator[str]:
        yield from IDS * 100
        raise LookupError("the list broke")

    async def slow_ids() -> AsyncIterator[str]:
        for one in IDS * 20:
            yield one
        await asyncio.sleep(3.0)
        raise LookupError("the list broke")

    @jumping
    async def story():
        api = FakeAPI(duration=500.0)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(slow_ids() if waits else ids(), journal=journal, in_flight=10)
            with pytest.raises(LookupError, match="the list broke"):
                await outcomes_of(run)
            counts = await journal.counts()
        assert counts.sent == len(api.creates) <= 10
        assert counts.sending == 0
        assert len(asyncio.all_tasks()) == 1

    story()


@pytest.mark.parametrize("method", ["plan", "page", "iterate"])
def test_a_bug_of_the_journal_reaches_the_caller(tmp_path: Path, method: str):
    """In the first page or a later one, with carriers out."""

    @jumping
    async def story():
        api, calls = FakeAPI(duration=5.0), 0
        many = [f"source-{n}" for n in range(1200)]
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            real = getattr(journal, method)

            def breaks(*args: Any, **more: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls > 1 or method == "iterate":
                    raise ZeroDivisionError("a bug")
                return real(*args, **more)

            setattr(journal, method, breaks)
            with pytest.raises(ZeroDivisionError):
                await outcomes_of(kie.upscale_many(many, journal=journal, in_flight=10))
        assert len(asyncio.all_tasks()) == 1

    story()


@jumping
async def test_what_the_consumer_sets_is_not_seen_by_the_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Context variables: those of the run's beginning, whoever makes room for an item."""
    monkeypatch.setattr(_run, "RESULTS", 0)
    trace: ContextVar[str] = ContextVar("trace", default="")
    seen: list[str] = []

    def hear(event: Event) -> None:
        if isinstance(event, TurnTaken):
            seen.append(trace.get())

    async with journal_at(tmp_path) as journal, session_on(FakeAPI(), hooks=[hear]) as kie:
        trace.set("begun")
        async for outcome in kie.upscale_many(IDS[:5], journal=journal, in_flight=1):
            trace.set(outcome.source_id)

    assert set(seen) == {"begun"}


@pytest.mark.parametrize("left", ["break", "error", "return"])
def test_a_block_that_is_left_ends_the_run(tmp_path: Path, left: str):
    """However it is left: nothing more is paid for, and nothing of the run stays."""

    async def first_of(run: BulkRun) -> None:
        async with run as entered:
            assert entered is run
            async for _ in run:
                if left == "return":
                    return
                if left == "error":
                    raise LookupError
                break

    @jumping
    async def story() -> None:
        api = FakeAPI(duration=5.0)
        many = [f"source-{n}" for n in range(2000)]
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            with pytest.raises(LookupError) if left == "error" else nullcontext():
                await first_of(kie.upscale_many(many, journal=journal))
            created = len(api.creates)
            await asyncio.sleep(1000.0)
            assert len(api.creates) == created
            assert len(asyncio.all_tasks()) == 1
            assert (await journal.counts()).sending == 0

    story()


@jumping
async def test_a_block_around_all_of_it_changes_nothing(tmp_path: Path):
    """Nor does one around a run that is never begun."""
    api = FakeAPI(duration=5.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        async with kie.upscale_many(IDS, journal=journal):
            pass
        assert api.creates == []
        async with kie.upscale_many(IDS, journal=journal) as run:
            found = await outcomes_of(run)

    assert len(found) == 50


@jumping
async def test_a_time_out_around_an_outcome_ends_the_run_and_says_so(tmp_path: Path):
    """It looks like a look in between, and like the end of the list then: it is neither."""
    api = FakeAPI(duration=50.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS[:5], journal=journal)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10.0):
                await anext(run)
        with pytest.raises(UsageError, match="before its list"):
            await anext(run)
        found = await outcomes_of(kie.upscale_many(IDS[:5], journal=journal))

    assert set(found.values()) == {OutcomeStatus.DONE}
    assert len(api.creates) == 5


@jumping
async def test_who_looks_in_between_keeps_the_task(tmp_path: Path):
    """As the documentation of `__anext__` says."""
    api, looks, found = FakeAPI(duration=50.0), 0, 0

    async with (
        journal_at(tmp_path) as journal,
        session_on(api) as kie,
        kie.upscale_many(IDS[:5], journal=journal) as run,
    ):
        task = asyncio.ensure_future(anext(run))
        while True:
            await asyncio.wait([task], timeout=10.0)
            looks += 1
            if not task.done():
                continue
            if isinstance(task.exception(), StopAsyncIteration):
                break
            found += 1
            task = asyncio.ensure_future(anext(run))

    assert found == 5
    assert looks > 5


@pytest.mark.parametrize("seconds", [0.0, 0.01, 5.0])
def test_a_run_is_closed_while_another_task_iterates(tmp_path: Path, seconds: float):
    """That one gets the end; what was created is collected later."""

    @jumping
    async def story() -> None:
        api = FakeAPI(duration=500.0)
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            run = kie.upscale_many(IDS[:5], journal=journal)
            taking = asyncio.ensure_future(outcomes_of(run))
            await asyncio.sleep(seconds)
            await run.aclose()
            assert await taking == {}
            counts = await journal.counts()
            assert counts.sent == len(api.creates)
            assert counts.sending == counts.in_doubt == 0
        assert len(asyncio.all_tasks()) == 1

    story()
