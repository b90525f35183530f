"""Rows S01 to S08: what a poll tells of a task, and when it is believed.

Where times matter, they are virtual; else the emulator's sockets are asked.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator import Rule
from kie_async.errors import (
    DownloadError,
    NotFoundError,
    ResponseError,
    TaskFailedError,
    WaitTimeoutError,
)
from kie_async.instrumentation import TaskChanged
from kie_async.models import OutcomeStatus, TaskState
from tests.clock import jumping
from tests.faults.world_s import TROUBLES, Seen, virtual
from tests.faults.world_t import World, quick, world

IDS = ["source-a", "source-b", "source-c"]
DONE = dict.fromkeys(IDS, "done")


# -- S01, S02: a task that is not known --------------------------------------------------------


@pytest.mark.parametrize("seconds", [20.0, 59.0, 85.0])
@jumping
async def test_fault_S01_a_fresh_task_is_not_known_yet(tmp_path: Path, seconds: float):
    """422 "recordInfo is null" after the create is outlived: our grace is 90 s, not 60."""
    async with virtual(tmp_path) as w:
        w.kie.inject(route="task", action="late", seconds=seconds)

        assert await w.statuses(IDS) == DONE

        assert w.kie.now() > seconds
        assert w.kie.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


@jumping
async def test_fault_S01_a_resumed_run_has_the_same_grace(tmp_path: Path):
    """The journal knows when the task was created: who adopts it waits for it, too."""
    async with virtual(tmp_path) as w:
        w.kie.inject(route="task", action="late", seconds=60.0)
        first = await w.run(IDS, task_timeout=20.0)
        assert {type(one.error) for one in first.values()} == {WaitTimeoutError}

        assert await w.statuses() == DONE

        assert w.kie.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


@jumping
async def test_fault_S02_a_task_that_is_never_known(tmp_path: Path):
    """After its grace that one item fails, with its id; it is not created again."""
    async with virtual(tmp_path) as w:
        w.kie.inject(route="task", action="late", seconds=math.inf, match="source-b")

        found = await w.run(IDS)

        assert {s: str(o.status) for s, o in found.items()} == {**DONE, "source-b": "failed"}
        error = found["source-b"].error
        assert isinstance(error, NotFoundError)
        known = {row.source_id: row.task_id for row in w.kie.books.creates}
        assert error.task_id == known["source-b"]
        assert (await w.states())["source-b"] == "sent"  # it was paid for: nobody gives it up
        assert 90.0 <= w.kie.now() <= 300.0
        await w.check()

        w.kie.api.tasks[known["source-b"]].visible = 0.0
        assert await w.statuses(IDS) == {"source-b": "done"}
        assert w.kie.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


@jumping
async def test_fault_S02_an_old_id_that_nobody_knows(tmp_path: Path):
    """Told at once by a look, after ten seconds by a wait; nothing is paid."""
    async with virtual(tmp_path) as w, w.session() as kie:
        with pytest.raises(NotFoundError) as looked:
            await kie.get_task("long-gone")
        with pytest.raises(NotFoundError) as waited:
            await kie.wait_for_result("long-gone")

        assert looked.value.task_id == waited.value.task_id == "long-gone"
        assert not looked.value.maybe_charged
        assert not waited.value.maybe_charged
        assert 10.0 <= w.kie.now() <= 60.0
        assert w.kie.books.creates == []


# -- S03, S04: states --------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["paused_for_review", "SUCCESS", "", None, 3, ["success"]])
@pytest.mark.asyncio
async def test_fault_S03_an_unknown_state_and_then_success(
    word: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It counts as running.  We do not warn in the log: a hook hears of it, once.

    The word itself stays in ``Task.raw``.
    """
    caplog.set_level(logging.WARNING, "kie_async")
    seen = Seen()
    async with world(tmp_path) as w:
        w.emulator.inject(
            Rule(
                route="recordInfo",
                action="patch",
                data={"state": word, "resultJson": ""},
                drop=("response",),
                times=4,
            )
        )
        async with w.session(**quick(hooks=[w.events.append, seen])) as kie:
            task_id = await w.create(kie, "source-a")
            assert isinstance(task_id, str)
            look = await kie.get_task(task_id)
            task = await kie.wait_for_result(task_id)

        assert look.state is TaskState.UNKNOWN
        assert look.raw["state"] == word
        assert not look.done
        assert task.succeeded
        changes = [event.state for event in w.events if isinstance(event, TaskChanged)]
        assert changes == [TaskState.SUCCESS]
        assert seen.violations() == []
        assert w.books.paid == {"source-a": 1}
        await w.check()


@jumping
async def test_fault_S04_from_success_back_to_generating(tmp_path: Path):
    """What the journal calls done stays done, and no later look at the task changes it."""
    async with virtual(tmp_path) as w:
        assert await w.statuses(IDS) == DONE
        w.kie.inject(route="recordInfo", action="backwards")

        polls = len(w.kie.books.polls)
        assert await w.run(IDS) == {}

        assert len(w.kie.books.polls) == polls
        assert await w.states() == DONE
        assert w.kie.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


@jumping
async def test_fault_S04_one_who_comes_later_takes_what_there_is(tmp_path: Path):
    """A wait that has not seen the success goes on until it is there again."""
    async with virtual(tmp_path) as w, w.session() as kie:
        source = w.kie.add_source_task()
        task = await kie.upscale(source)
        w.kie.inject(route="recordInfo", action="backwards", times=3)

        again = await kie.wait_for_result(task.task_id)

        assert task.succeeded
        assert again.result_urls == task.result_urls


@pytest.mark.parametrize("action", ["backwards", "weird-result"])
@pytest.mark.asyncio
async def test_fault_S04_files_of_a_done_item_whose_record_lost_its_result(
    action: str, tmp_path: Path
):
    """It is not called saved because there is nothing to save: a later run brings the files."""
    async with world(tmp_path) as w:
        async with w.session() as kie:
            assert {o.status async for o in kie.upscale_many(IDS, journal=w.journal)} == {"done"}
            w.emulator.inject(Rule(route="recordInfo", action=action))
            saving = {"journal": w.journal, "directory": tmp_path / "out"}
            early = [one async for one in kie.upscale_many(IDS, **saving)]
            assert [str(one.status) for one in early] == ["done"] * 3
            assert [type(one.error) for one in early] == [DownloadError] * 3

            w.emulator.clear_rules()
            late = [one async for one in kie.upscale_many(IDS, **saving)]

        assert sorted(one.source_id for one in late) == IDS
        assert all(one.files and one.status is OutcomeStatus.DONE for one in late)
        assert all(path.stat().st_size for one in late for path in one.files)
        assert w.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


# -- S05, S06: ends that say too little ---------------------------------------------------------

SILENT: list[dict[str, Any]] = [
    {"failCode": None, "failMsg": None},
    {"failCode": "", "failMsg": ""},
    {"failCode": [None], "failMsg": {"text": None}},
    {"failCode": True, "failMsg": 1.5},
]


@pytest.mark.parametrize("drop", [(), ("failCode", "failMsg")])
@pytest.mark.parametrize("said", SILENT)
@pytest.mark.asyncio
async def test_fault_S05_a_failure_without_a_reason(
    said: dict[str, Any], drop: tuple[str, ...], tmp_path: Path
):
    """It is a failure all the same, with no reason, and final for its item."""
    async with world(tmp_path) as w:
        failed = {"state": "fail", "resultJson": "", **said}
        dropped = ("response", *drop)
        w.emulator.inject(Rule(route="recordInfo", action="patch", data=failed, drop=dropped))

        found = await w.run(["source-a"])

        error = found["source-a"].error
        assert isinstance(error, TaskFailedError)
        assert (error.task.fail_code, error.task.fail_message) == (None, None)
        assert "no reason given" in str(error)
        assert error.task_id == w.books.creates[0].task_id
        assert not error.maybe_charged
        assert (await w.journal.counts()).failed == 1
        w.emulator.clear_rules()
        assert await w.run(["source-a"]) == {}
        assert w.books.paid == {"source-a": 1}
        await w.check()


RESULTS = [None, "", "{", "null", "[null]", '{"resultUrls":null}', '{"resultUrls":[null]}', "7"]


async def emptied(w: World, result: str | None, looks: int | None) -> Any:
    """Run one item while *looks* looks show a success with *result*; return its outcome."""
    w.emulator.inject(Rule(route="recordInfo", action="weird-result", body=result, times=looks))
    return (await w.run(["source-a"]))["source-a"]


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.asyncio
async def test_fault_S06_a_success_without_a_result(result: str | None, tmp_path: Path):
    """Looked at three times, then an error with the id; the next run collects the result."""
    async with world(tmp_path) as w:
        outcome = await emptied(w, result, None)

        assert isinstance(outcome.error, ResponseError)
        assert len(w.books.polls) == 3
        assert outcome.error.task_id == w.books.creates[0].task_id
        assert outcome.error.maybe_charged
        item = await w.journal.get("source-a")
        assert item is not None
        assert (item.state.value, item.task_id) == ("sent", outcome.error.task_id)
        told = sum(event.state is TaskState.SUCCESS for event in changes(w))
        assert told == 0  # nobody heard of a success that had nothing in it
        await w.end_well()


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.asyncio
async def test_fault_S06_a_result_that_is_a_little_late(result: str | None, tmp_path: Path):
    """Two empty looks are outlived."""
    async with world(tmp_path) as w:
        outcome = await emptied(w, result, 2)

        assert outcome.status is OutcomeStatus.DONE
        assert outcome.task.result_urls
        await w.end_well()


def changes(w: World) -> list[TaskChanged]:
    """Return what was told of states."""
    return [event for event in w.events if isinstance(event, TaskChanged)]


# -- S07, S08: time and trouble -----------------------------------------------------------------


@jumping
async def test_fault_S07_a_task_that_never_ends(tmp_path: Path):
    """Its wait ends by the clock and keeps the id; no new create; a later run adopts it."""
    async with virtual(tmp_path) as w:
        w.kie.inject(route="task", action="never", match="source-b")

        found = await w.run(IDS, task_timeout=600.0)

        error = found["source-b"].error
        [task_id] = [row.task_id for row in w.kie.books.creates if row.source_id == "source-b"]
        assert isinstance(error, WaitTimeoutError)
        assert error.task_id == task_id
        assert 600.0 <= w.kie.now() <= 615.0
        again = await w.run(IDS, task_timeout=600.0)
        assert {type(one.error) for one in again.values()} == {WaitTimeoutError}
        await w.check()

        w.kie.api.tasks[task_id].ends = w.kie.now() + 5.0
        assert await w.statuses(IDS) == {"source-b": "done"}
        assert w.kie.books.paid == dict.fromkeys(IDS, 1)
        await w.check()


@jumping
async def test_fault_S07_a_single_call(tmp_path: Path):
    """The deadline's error has the id; waiting again is free."""
    async with virtual(tmp_path) as w, w.session() as kie:
        w.kie.inject(route="task", action="never")
        with pytest.raises(WaitTimeoutError) as caught:
            await kie.upscale("source-a", timeout=100.0)
        assert w.kie.now() == pytest.approx(100.0, abs=1.0)

        [create] = w.kie.books.creates
        assert caught.value.task_id == create.task_id
        w.kie.api.tasks[create.task_id].ends = 200.0
        assert (await kie.wait_for_result(create.task_id)).succeeded
        assert len(w.kie.books.creates) == 1


MANY = [f"source-{n:03}" for n in range(200)]


@jumping
async def test_fault_S08_three_polls_in_ten_fail(tmp_path: Path):
    """All tasks end, none fails of a poll, and no second holds more polls than usual."""
    async with virtual(tmp_path) as w:
        for trouble in TROUBLES:
            w.kie.inject(route="recordInfo", probability=0.04, **trouble)

        assert await w.statuses(MANY) == dict.fromkeys(MANY, "done")

        polls, refused = len(w.kie.books.polls), w.refused()
        assert 0.2 <= refused / polls <= 0.4
        assert w.kie.books.most_in_window(1.0, of="recordInfo") <= 8
        assert w.kie.books.paid == dict.fromkeys(MANY, 1)
        await w.check()


@pytest.mark.asyncio
async def test_fault_S08_three_polls_in_ten_fail_on_real_sockets(tmp_path: Path):
    """The same where connections break."""
    async with world(tmp_path, durations=lambda _rng: 0.3) as w:
        for trouble in TROUBLES:
            if trouble["action"] != "silence":
                w.emulator.inject(Rule(route="recordInfo", probability=0.05, **trouble))

        assert await w.statuses(MANY[:30]) == dict.fromkeys(MANY[:30], "done")
        await w.end_well()
