"""Rows C08, C10 to C13 and C19: callbacks too early, lost, and of creates that are in doubt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from attrs import evolve

from kie_async.bulk import reconcile
from kie_async.emulator import Answer, Request
from kie_async.emulator._callbacks import Callback
from kie_async.errors import CreateInDoubtError
from tests.faults.world_c import SOON, Door, door, schedule
from tests.faults.world_t import UPSCALE, world

pytestmark = pytest.mark.asyncio

LOST = {"action": "fin", "when": "after"}


def at_once(_rng: Any) -> float:
    return 0.05


async def test_fault_C08_before_the_answer_to_the_create(tmp_path: Path):
    """It is remembered by its reference, and the answer finds the task rung already."""
    async with door(tmp_path, durations=at_once) as d:
        d.spoil("callback", "early")
        d.spoil("createTask", "delay", when="after", delay=0.3)

        await d.ended(d.run("source-a"), "source-a")

        assert await d.posted(1) == [200]
        (row,) = d.w.books.creates
        assert d.receiver.tasks_of(str(row.ref)) == (row.task_id,)
        assert d.polls == 1
        (attempt,) = await d.w.journal.attempts("source-a")
        assert (attempt.ref, attempt.task_id) == (row.ref, row.task_id)


async def test_fault_C08_before_an_answer_that_never_comes(tmp_path: Path):
    """The create ends in doubt after its callback came: the callback is not forgotten."""
    async with door(tmp_path, durations=at_once) as d:
        d.spoil("callback", "early")
        d.spoil("createTask", "silence", when="after", times=1)

        await d.ended(d.run("source-a", request_timeout=0.5), "source-a")


async def test_fault_C10_never(tmp_path: Path):
    """Polls find what nobody tells: each task ends, later only."""
    sources = [f"source-{n}" for n in range(5)]
    async with door(tmp_path, durations=at_once) as d:
        d.spoil("callback", "lost")
        await d.ended(d.run(*sources, polling=schedule(SOON)), *sources)

        assert await d.posted(5) == [None] * 5
        assert d.effects == []


async def test_fault_C11_of_a_create_in_doubt(tmp_path: Path):
    """Answers are lost, callbacks come: the record's own word binds each task, paid for once."""
    sources = [f"source-{n}" for n in range(6)]
    async with door(tmp_path, linger=30.0) as d:
        d.spoil("createTask", times=3, **LOST)
        run = d.run(*sources)
        for task in await d.tasks(sources):
            await in_doubt_or_sent(d, str(task.source_id))
            assert await d.post(d.callback(d.end(task))) == 200

        await d.ended(run, *sources)
        counts = await d.w.journal.counts()
        assert (counts.done, counts.in_doubt) == (6, 0)


async def in_doubt_or_sent(d: Door, source: str) -> None:
    """Wait until the answer to a create is on record, or that there was none."""
    item = await d.w.journal.get(source)
    while item is None or item.state in {"planned", "sending"}:
        await d.quiet()
        item = await d.w.journal.get(source)


async def doubtful(d: Door) -> tuple[Any, Any]:
    """Start a run whose only create ends in doubt; return it, and the task that came of it."""
    d.spoil("createTask", times=1, **LOST)
    run = d.run("source-a")
    task = await d.task("source-a")
    await in_doubt_or_sent(d, "source-a")
    return run, task


async def test_fault_C11_a_task_that_nobody_knows(tmp_path: Path):
    """Rightly signed and with our reference, and Kie has no such task: the doubt stays one."""
    async with door(tmp_path) as d:
        run, task = await doubtful(d)
        unknown = evolve(task, task_id="f" * 32)
        assert await d.post(d.callback(unknown)) == 200

        assert await run == {"source-a": "in_doubt"}
        await d.w.check()
        assert [found.verdict for found in await d.w.settle()] == ["settled"]
        d.end(task)
        await d.w.end_well()


@pytest.mark.parametrize("source", ["source-a", "source-b"])
async def test_fault_C12_of_a_task_with_another_reference(source: str, tmp_path: Path):
    """A true pair of another task of the account, posted to the address of our doubt.

    Also if that task was made of the same source: its own record names another create.
    """
    async with door(tmp_path) as d:
        run, own = await doubtful(d)
        async with d.w.session() as stranger:
            another_url = f"{d.url}/kie/cb/another-reference"
            other_id = await stranger.create_task(
                UPSCALE, {"task_id": source}, callback_url=another_url
            )
        d.w.singles.made(source, other_id)
        other = d.end(d.core.tasks[other_id])
        assert await d.post(d.callback(other), url=own.callback_url) == 200

        assert await run == {"source-a": "in_doubt"}
        (event,) = d.effects
        assert (event.task_id, event.reference) == (other_id, own.callback_url.rpartition("/")[2])
        async with d.w.session() as kie:
            found = [one async for one in reconcile(d.w.journal, kie.get_task, [other_id])]
        assert [one.verdict for one in found] == ["unrelated"]
        item = await d.w.journal.get("source-a")
        assert item is not None
        assert item.task_id is None

        d.end(own)
        assert [one.verdict for one in await d.w.settle()].count("settled") == 1
        item = await d.w.journal.get("source-a")
        assert item is not None
        assert item.task_id == own.task_id


BAD_REFERENCES = ["x", "0" * 42, "0" * 41, "..", "%2e%2e", "a" * 2000, "é"]


async def test_fault_C13_an_unknown_reference(tmp_path: Path):
    """401 before the body is read, whatever it is signed with; nothing is looked up."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = await d.task("source-a")
        reference = str(task.callback_url).rpartition("/")[2]
        flipped = reference[:-1] + ("0" if reference[-1] != "0" else "1")
        true: Callback = d.callback(task)
        for bad in [*BAD_REFERENCES, flipped, reference.upper()]:
            status = await d.post(true, url=f"{d.url}/kie/cb/{bad}")
            assert status in {401, 404}
        await d.quiet()
        assert (d.polls, d.effects, d.receiver.pending) == (0, [], 0)

        assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, "source-a")


# -- C19: the address loses its query ------------------------------------------------------


def without_query(_request: Request, answer: Answer | None) -> Answer:
    """Tell of a task as if Kie had dropped the query of its callback's address."""
    assert answer is not None
    told = answer.json()
    if told.get("data"):
        param = json.loads(told["data"]["param"])
        param["callBackUrl"] = urlsplit(param["callBackUrl"])._replace(query="").geturl()
        told["data"]["param"] = json.dumps(param)
    return evolve(answer, body=json.dumps(told).encode())


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "dropped"])
async def test_fault_C19_the_query_is_lost(kept: bool, tmp_path: Path):
    """The reference is in the path: what happens to the query changes nothing."""
    async with world(tmp_path) as w:
        w.strike("source-a", **LOST)
        hooks = "https://hooks.example/kie/cb/?tenant=7"
        found = await w.run(["source-a", "source-b"], callback_url=hooks)
        error = found["source-a"].error
        assert isinstance(error, CreateInDoubtError)
        parts = [urlsplit(json.loads(row.payload)["callBackUrl"]) for row in w.books.creates]
        assert {part.query for part in parts} == {"tenant=7"}
        assert error.reference in {part.path.removeprefix("/kie/cb/") for part in parts}

        if not kept:
            w.emulator.clear_rules()
            w.strike("", without_query, route="recordInfo", when="after", times=None)
        findings = await w.settle()
        assert [(one.verdict, one.detail) for one in findings if one.verdict != "known"] == [
            ("settled", "reference")
        ]
        await w.end_well()


async def test_fault_C19_our_own_addresses_have_none(tmp_path: Path):
    """A receiver's address of a create is a path alone, and comes through as it was sent."""
    async with door(tmp_path, durations=at_once, linger=30.0) as d:
        d.spoil("createTask", times=1, **LOST)
        await d.ended(d.run("source-a", "source-b"), "source-a", "source-b")
        for row in d.w.books.creates:
            url = urlsplit(json.loads(row.payload)["callBackUrl"])
            assert url.query == ""
            assert url.path == f"/kie/cb/{row.ref}"
