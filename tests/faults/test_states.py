"""Rows S01 to S07: what a poll tells of a task, and when it is believed.

Where times matter, they are virtual; else the emulator's sockets are asked.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator import Rule
from kie_async.errors import DownloadError, NotFoundError, WaitTimeoutError
from kie_async.instrumentation import TaskChanged
from kie_async.models import OutcomeStatus, TaskState
from tests.clock import jumping
from tests.faults.world_s import Seen, virtual
from tests.faults.world_t import quick, world

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
