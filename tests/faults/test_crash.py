"""Rows K01 to K08: killed at each step of a task, and none is lost or paid for twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kie_async.bulk import audit
from kie_async.emulator import Rule
from kie_async.journal import ItemState, Journal
from kie_async.testing import VirtualKie
from tests.clock import Held, jumping
from tests.faults.world_k import KILLED, until, world

pytestmark = pytest.mark.timeout(120)


@pytest.mark.asyncio
async def test_fault_K01_killed_before_the_intent_is_kept(tmp_path: Path):
    """Nothing was sent: the item is planned still, and the next run sends it once."""
    async with world(tmp_path) as w:
        killed = await w.run(kill_at="begin_sending.before_commit", in_flight=1)

        assert killed == KILLED
        assert w.paid() == [0, 0, 0]
        assert set(w.states().values()) == {"planned"}
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K02_killed_after_the_intent_before_the_request(tmp_path: Path):
    """In doubt, though nothing was created; with the audit's proof a person releases it."""
    async with world(tmp_path) as w:
        killed = await w.run(kill_at="begin_sending.after_commit", in_flight=1)
        finished = await w.run()

        assert (killed, finished) == (KILLED, 0)
        assert w.paid() == [0, 1, 1]
        assert list(w.states().values()) == ["in_doubt", "done", "done"]
        assert w.violations() == []
        async with Journal(w.path) as journal:
            assert (await audit(journal)).doubts == 1
            await journal.resolve(w.ids[0], not_created=True, evidence={"balance": "unmoved"})
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("created", [False, True], ids=["never created", "created later"])
async def test_fault_K03_killed_after_the_request_before_the_create(tmp_path: Path, created: bool):
    """In doubt, whether the server works on it after our death or not."""
    fault = {"action": "delay", "delay": 0.3} if created else {"action": "silence"}
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", nth=0, **fault))
        worker = w.start(in_flight=1, callbacks=True)
        await until(lambda: w.books.requests.get("createTask"))
        assert await worker.kill() == KILLED
        assert w.paid() == [0, 0, 0]
        if created:
            await until(lambda: w.books.creates)

        assert await w.run(callbacks=True) == 0
        assert w.paid() == [int(created), 1, 1]
        assert w.states()[w.ids[0]] == "in_doubt"
        assert w.violations() == []
        verdicts = {one.source_id: one.verdict for one in await w.settle()}
        assert (w.ids[0] in verdicts) is created
        assert set(verdicts.values()) == {"known", *(["settled"] * created)}
        assert await w.run() == 0
        assert w.paid() == [int(created), 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K04_killed_after_the_create_before_the_answer(tmp_path: Path):
    """In doubt; the reference in the task's own record binds it."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=60.0, nth=0))
        worker = w.start(in_flight=1, callbacks=True)
        await until(lambda: w.books.creates)
        assert await worker.kill() == KILLED

        assert await w.run(callbacks=True) == 0
        assert list(w.states().values()) == ["in_doubt", "done", "done"]
        assert w.violations() == []
        assert [one.verdict for one in await w.settle()] == ["settled", "known", "known"]
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K05_killed_after_the_answer_before_the_id_is_kept(tmp_path: Path):
    """The same as no answer: in doubt, and bound by its reference."""
    async with world(tmp_path) as w:
        job = {"in_flight": 1, "callbacks": True}
        assert await w.run(kill_at="record_created.before_commit", **job) == KILLED

        assert await w.run(**job) == 0
        assert list(w.states().values()) == ["in_doubt", "done", "done"]
        assert [one.verdict for one in await w.settle()] == ["settled", "known", "known"]
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K06_killed_after_the_id_is_kept_before_it_is_returned(tmp_path: Path):
    """The next run waits for the task that there is."""
    async with world(tmp_path) as w:
        assert await w.run(kill_at="record_created.after_commit", in_flight=1) == KILLED
        assert list(w.states().values()) == ["sent", "planned", "planned"]

        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K07_killed_while_polling(tmp_path: Path):
    """All three are adopted, and asked about again; none is created again."""
    async with world(tmp_path, durations=lambda _rng: 0.8) as w:
        worker = w.start()
        await until(lambda: len(w.books.polls) >= 3)
        assert await worker.kill() == KILLED
        assert set(w.states().values()) == {"sent"}

        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@jumping
async def test_fault_K07_an_adopted_task_is_asked_about_within_a_second(tmp_path: Path):
    """Its wait begins with a look: who knows how long it has been done."""
    api = VirtualKie(durations=lambda _rng: 1000.0)
    loop = asyncio.get_running_loop()
    source = api.add_source_task()
    opened = Journal(tmp_path / "run.db", clock=lambda: api.api.unix(loop.time()))
    async with opened, api.session() as kie:
        journal = Held(opened)
        first = [o async for o in kie.upscale_many([source], journal=journal, task_timeout=30.0)]
        polls = len(api.books.polls)

        again = [o async for o in kie.upscale_many([source], journal=journal, task_timeout=1.0)]

        assert [outcome.status for outcome in (*first, *again)] == ["failed", "failed"]
        assert len(api.books.polls) == polls + 1
        assert (await journal.get(source)).state is ItemState.SENT
        assert api.books.paid(source) == 1


@pytest.mark.asyncio
async def test_fault_K08_killed_after_success_before_the_download(tmp_path: Path):
    """The next run saves what is paid for."""
    async with world(tmp_path) as w:
        job = {"in_flight": 1, "save": True}
        assert await w.run(kill_at="record_done.after_commit", **job) == KILLED
        assert w.states()[w.ids[0]] == "done"
        assert list(tmp_path.glob("out/*.png")) == []

        assert await w.run(**job) == 0
        assert w.paid() == [1, 1, 1]
        assert {path.stem for path in tmp_path.glob("out/*.png")} == set(w.ids)
        assert w.violations() == []
