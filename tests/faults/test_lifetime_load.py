"""Rows X09 to X12: other loops, hooks that misbehave, ten thousand waiters, a reader that stops."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kie_async import KieSession, OutcomeStatus
from kie_async.bulk import _run as bulk_run
from kie_async.emulator import Rule
from kie_async.emulator.pytest_plugin import EmulatorHandle
from kie_async.errors import CreateInDoubtError, JournalError, SessionClosedError, WaitTimeoutError
from kie_async.instrumentation import Event, RequestSent, TaskCreated, TaskOrphaned
from kie_async.journal import Journal
from kie_async.limiter import Unlimited
from kie_async.testing import VirtualKie
from tests.clock import Held, jumping
from tests.faults.world_k import until, world
from tests.faults.world_k_work import CALLBACKS, quick

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"


# -- X09: other loops ----------------------------------------------------------------------


class Begun(Coroutine[Any, Any, Any]):
    """A coroutine whose first step is done already."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._first: Callable[[], Any] | None = None

    def begin(self) -> None:
        """Do the first step, and keep what came of it."""
        try:
            future = self._coroutine.send(None)
        except BaseException as end:  # noqa: BLE001 - raised in its place, a little later
            self._first = partial(_raised, end)
        else:
            self._first = lambda: future

    def send(self, value: Any) -> Any:
        first, self._first = self._first, None
        return self._coroutine.send(value) if first is None else first()

    def throw(self, *error: Any) -> Any:
        self._first = None
        return self._coroutine.throw(*error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise NotImplementedError


def _raised(error: BaseException) -> Any:
    raise error


def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **named: Any) -> asyncio.Task[Any]:
    """Make a task whose first step is done at once, as `asyncio.eager_task_factory` does.

    That came with Python 3.12.  A coroutine that ends in its first step ends at once, too;
    only its task says so a turn later.
    """
    begun = Begun(coroutine)
    task = asyncio.Task(begun, loop=loop, **named)
    if not loop.is_running():
        return task
    outer = asyncio.current_task(loop)
    if outer is not None:
        asyncio.tasks._leave_task(loop, outer)
    asyncio.tasks._enter_task(loop, task)
    try:
        begun.begin()
    finally:
        asyncio.tasks._leave_task(loop, task)
        if outer is not None:
            asyncio.tasks._enter_task(loop, outer)
    return task


def an_eager_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_task_factory(getattr(asyncio, "eager_task_factory", eager))
    return loop


def a_fast_loop() -> asyncio.AbstractEventLoop:
    return importlib.import_module("uvloop").new_event_loop()


LOOPS: dict[str, dict[str, Any]] = {
    "debug": {"debug": True},
    "eager": {"loop_factory": an_eager_loop},
    "eager and debug": {"loop_factory": an_eager_loop, "debug": True},
}
if importlib.util.find_spec("uvloop"):
    LOOPS["uvloop"] = {"loop_factory": a_fast_loop}


async def story(folder: Path) -> dict[str, Any]:
    """Let all kinds of things happen to ten items; return what came of it."""
    folder.mkdir()
    async with world(folder, 10) as w:
        faults: dict[int, dict[str, Any]] = {
            1: {"action": "fin", "when": "after"},
            2: {"action": "envelope", "code": 422},
            3: {"action": "envelope", "code": 500, "times": 1},
            4: {"action": "rst"},
        }
        for number, fault in faults.items():
            w.emulator.inject(Rule(route="createTask", match=w.ids[number], **fault))
        w.emulator.inject(Rule(route="task", action="fail", code=501, match=w.ids[5]))
        async with Journal(w.path) as journal, w.session() as session:
            run = session.upscale_many(
                w.ids,
                journal=journal,
                directory=folder / "out",
                callback_url=CALLBACKS,
                allow_private=True,
            )
            outcomes = {one.source_id: str(one.status) async for one in run}
            other = await w.emulator.add_source_task()
            with pytest.raises(WaitTimeoutError):
                await session.upscale(other, timeout=0.001)
            await session.get_credits()
        number = {source: index for index, source in enumerate(w.ids)}
        return {
            "outcomes": {number[one]: status for one, status in sorted(outcomes.items())},
            "states": list(w.states().values()),
            "paid": w.paid(),
            "files": sorted(number[path.stem] for path in folder.glob("out/*.png")),
            "violations": w.violations(extra=1),
        }


def told(loop: dict[str, Any], folder: Path) -> dict[str, Any]:
    with asyncio.Runner(**loop) as runner:
        return runner.run(story(folder))


@pytest.mark.parametrize("kind", LOOPS)
def test_fault_X09_another_kind_of_loop(tmp_path: Path, kind: str):
    """The same results as in a plain loop.  The versions of Python are for CI to vary."""
    plain = told({}, tmp_path / "plain")

    assert plain["violations"] == []
    assert plain["states"][1:6] == ["in_doubt", "failed", "done", "in_doubt", "failed"]
    assert told(LOOPS[kind], tmp_path / "other") == plain


@pytest.mark.asyncio
async def test_fault_X09_an_eager_section_that_ends_at_once(tmp_path: Path):
    """A journal that takes no intent ends the section in its first step: nothing is in flight."""
    loop = asyncio.get_running_loop()
    async with world(tmp_path, 2) as w, w.session() as session:
        async with Journal(w.path) as journal:

            async def refuse(*_args: Any, **_named: Any) -> int:
                raise JournalError("not to be written")  # at once, without any await

            journal.begin_sending = refuse  # type: ignore[method-assign]
            loop.set_task_factory(getattr(asyncio, "eager_task_factory", eager))
            run = session.upscale_many(w.ids, journal=journal, in_flight=1)
            outcomes = []
            with pytest.raises(JournalError, match="not to be written"):
                async for outcome in run:
                    outcomes.append(outcome.status)  # noqa: PERF401 - they outlive the error
            loop.set_task_factory(None)

        assert outcomes == [OutcomeStatus.NOT_SENT]
        assert w.paid() == [0, 0]
        assert set(w.states().values()) == {"planned"}


# -- X10: hooks ----------------------------------------------------------------------------


class Nasty(BaseException):
    """No `Exception`."""


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [Nasty, GeneratorExit, asyncio.CancelledError, ValueError])
async def test_fault_X10_a_hook_raises(
    tmp_path: Path, error: type[BaseException], caplog: pytest.LogCaptureFixture
):
    """It is logged and goes no further; the other hooks hear everything."""
    heard: list[Event] = []

    def raising(_event: Event) -> None:
        raise error("a bad hook")

    async with world(tmp_path, 2) as w:
        async with w.session(hooks=[raising, heard.append]) as session:
            assert (await session.upscale(w.ids[0])).succeeded
            async with Journal(w.path) as journal:
                outcomes = [o async for o in session.upscale_many(w.ids[1:], journal=journal)]

        assert [str(one.status) for one in outcomes] == ["done"]
        assert w.paid() == [1, 1]
        assert len([one for one in heard if isinstance(one, TaskCreated)]) == 2
        assert any("a hook failed" in row.message for row in caplog.records)


@pytest.mark.blocks
@pytest.mark.asyncio
async def test_fault_X10_a_hook_blocks_the_loop(request: pytest.FixtureRequest):
    """Longer than any deadline: calls end all the same, and every paid task is known.

    The server answers meanwhile, in a thread of its own.
    """
    api: EmulatorHandle = request.getfixturevalue("kie_emulator")
    source = api.add_source_task()
    known: set[str | None] = set()
    blocked: list[float] = []

    def block(event: Event) -> None:
        if isinstance(event, TaskOrphaned):
            known.add(event.task_id)
        if isinstance(event, RequestSent) and event.route == "createTask" and not blocked:
            blocked.append(0.7)
            time.sleep(0.7)

    settings = quick(limiter=Unlimited(), request_timeout=0.5, hooks=[block])
    async with KieSession(api.api_key, base_url=api.url, **settings) as kie:
        create = partial(kie.create_task, UPSCALE, {"task_id": source}, timeout=5.0)
        waits = partial(kie.wait_for_result, source, timeout=0.3)
        found = await asyncio.gather(
            *(create() for _ in range(10)), waits(), return_exceptions=True
        )

    *made, waited = found
    doubts = [one for one in made if isinstance(one, CreateInDoubtError)]
    known |= {one for one in made if isinstance(one, str)}
    assert blocked
    assert isinstance(waited, WaitTimeoutError) or waited.succeeded
    assert len(known) + len(doubts) == 10
    assert len({row.task_id for row in api.books.creates} - known) <= len(doubts)


# -- X11, X12: very many, very slow --------------------------------------------------------


def memory() -> int:
    """Return the bytes of memory that this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.asyncio
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory in /proc")
async def test_fault_X11_ten_thousand_waiters(tmp_path: Path):
    """A few connections, some kilobytes for each, and all of them end with the session."""
    waiters = 10_000
    async with world(tmp_path, 0, durations=lambda _rng: 1e9) as w:
        core = w.emulator.core
        ids = [core.add_source_task(0.0) for _ in range(waiters)]
        for one in ids:
            core.tasks[one].ends = 1e9
        async with w.session() as session:
            before = memory()
            waits = [asyncio.ensure_future(session.wait_for_result(one)) for one in ids]
            await until(lambda: w.books.requests.get("recordInfo", 0) > 300)
            grown = memory() - before
            assert not any(wait.done() for wait in waits)
            assert w.books.most_open <= 100
            assert len(asyncio.all_tasks()) <= waiters + 400
        results = await asyncio.gather(*waits, return_exceptions=True)

    assert {type(one) for one in results} == {SessionClosedError}
    assert [one.task_id for one in results] == ids
    assert grown < 200 * 2**20, grown


@jumping
async def test_fault_X12_whoever_reads_the_outcomes_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The run waits for him, with a bounded number of outcomes; nothing is lost or stalled.

    Progress is an object to look at: a view that stops looking holds up nothing.
    """
    monkeypatch.setattr(bulk_run, "RESULTS", 5)
    api = VirtualKie(credits=1e6, durations=lambda _rng: 5.0)
    ids = [api.add_source_task() for _ in range(100)]
    opened = Journal(tmp_path / "run.db")
    async with opened, api.session() as session:
        run = session.upscale_many(ids, journal=Held(opened), in_flight=10)
        first = await anext(run)
        await asyncio.sleep(3600.0)
        created = len(api.books.creates)
        assert run.progress.created == created
        async with contextlib.aclosing(run):
            others = [outcome async for outcome in run]

    assert created <= 1 + 5 + 10 + 10
    assert {one.status for one in [first, *others]} == {OutcomeStatus.DONE}
    assert len({one.source_id for one in [first, *others]}) == 100
    assert set(api.books.paid.values()) == {1}
