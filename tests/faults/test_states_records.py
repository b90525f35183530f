"""Rows S10 to S13: records whose code, times, credits or owner make no sense."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kie_async.bulk import audit, note_balance
from kie_async.emulator import Answer, Request, Rule
from kie_async.errors import (
    AuthenticationError,
    FeatureDisabledError,
    GenerationError,
    KieError,
    NotFoundError,
    SpendLimitError,
    ValidationError,
)
from kie_async.instrumentation import TaskChanged
from kie_async.limiter import SlidingWindowLimiter
from kie_async.models import TaskState
from tests.clock import jumping
from tests.faults.world_s import virtual
from tests.faults.world_t import World, world

# -- S10: a code and data that contradict each other ---------------------------------------------


def contradicting(code: int) -> Any:
    """Put *code* over the record of a task."""

    def act(_request: Request, answer: Answer | None) -> Answer:
        assert answer is not None
        told = {**answer.json(), "code": code, "msg": "no"}
        return evolve(answer, body=json.dumps(told).encode())

    return act


FINAL = {505: FeatureDisabledError, 501: GenerationError, 422: ValidationError}


@pytest.mark.parametrize("code", FINAL)
@pytest.mark.asyncio
async def test_fault_S10_a_final_code_over_a_success(code: int, tmp_path: Path):
    """Looked at three times, then the code counts: its error has it, and the task's id.

    It is the code's own error and not a `ResponseError`; nothing of the data is believed.
    """
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="recordInfo", action=contradicting(code), when="after"))

        found = await w.run(["source-a"])

        error = found["source-a"].error
        assert type(error) is FINAL[code]
        assert (error.code, error.task_id) == (code, w.books.creates[0].task_id)
        assert len(w.books.polls) == 3
        assert not [event for event in w.events if isinstance(event, TaskChanged)]
        item = await w.journal.get("source-a")
        assert item is not None
        assert item.state.value == "sent"
        await w.end_well()


@pytest.mark.parametrize("code", [505, 501, 422, 500, 455, 429, "x", None, True, 0])
@pytest.mark.asyncio
async def test_fault_S10_a_slip_is_outlived(code: Any, tmp_path: Path):
    """Two such answers, and then the right one."""
    async with world(tmp_path) as w:
        rule = Rule(route="recordInfo", action=contradicting(code), when="after", times=2)
        w.emulator.inject(rule)

        assert await w.statuses(["source-a"]) == {"source-a": "done"}

        assert len(w.books.polls) >= 3
        states = [event.state for event in w.events if isinstance(event, TaskChanged)]
        assert states == [TaskState.SUCCESS]
        await w.end_well()


# -- S11: times ---------------------------------------------------------------------------------

TIMES: list[Any] = [None, -1, 0, 1, 1_790_000_000, 253_402_300_799_000, 4e9, 1e300, 10**400]
TIMES += ["1790000000000", "soon", True, [], {}]


@pytest.mark.parametrize("told", TIMES, ids=lambda told: repr(told)[:20])
@pytest.mark.asyncio
async def test_fault_S11_times_that_make_no_sense(told: Any, tmp_path: Path):
    """No crash; a time that cannot be is None, and no expiry is made up of it."""
    async with world(tmp_path) as w:
        for name in ("createTime", "completeTime", "costTime"):
            patch = Rule(route="recordInfo", action="patch", data={name: told}, times=4)
            both = {"createTime": told, "completeTime": told, "costTime": told}
            w.emulator.inject(patch)
            w.emulator.inject(evolve(patch, data=both))
        sources = [f"source-{n}" for n in range(8)]

        found = await w.run(sources)

        assert {str(outcome.status) for outcome in found.values()} == {"done"}
        for outcome in found.values():
            for time in (outcome.task.created_at, outcome.task.completed_at):
                assert time is None or 0.0 < time < 4_102_444_800.0
            assert outcome.task.duration is None or outcome.task.duration >= 0.0
        await w.end_well()


NONSENSE = [
    {"createTime": 1},
    {"completeTime": 4_000_000_000},
    {"createTime": 1_790_000_000, "completeTime": 1_790_040_000},
]


@pytest.mark.parametrize("told", NONSENSE)
@jumping
async def test_fault_S11_nothing_is_learned_of_such_times(told: dict[str, int], tmp_path: Path):
    """Forty tasks say that they took eleven hours and more: the next is found as soon as ever."""
    async with virtual(tmp_path, rate=None) as w:
        w.kie.inject(route="recordInfo", action="patch", data=told)
        turns = SlidingWindowLimiter(1000, 1.0)
        async with w.session(limiter=turns) as kie:
            await asyncio.gather(*(kie.upscale(f"source-{n}") for n in range(40)))
            w.kie.api.clear_rules()
            begun = w.kie.now()
            await kie.upscale("source-z", timeout=900.0)

        assert w.kie.now() - begun <= 20.0


@jumping
async def test_fault_S11_nothing_is_learned_of_them_by_one_who_adopts(tmp_path: Path):
    """He does not know when the tasks were made, but none takes more than a day."""
    async with virtual(tmp_path, rate=None) as w:
        w.kie.inject(route="recordInfo", action="patch", data={"createTime": 1})
        ids = [w.kie.add_source_task(model="grok-imagine/upscale") for _ in range(20)]
        async with w.session() as kie:
            await asyncio.gather(*(kie.wait_for_result(task_id) for task_id in ids))
            w.kie.api.clear_rules()
            begun = w.kie.now()
            await kie.upscale("source-z", timeout=900.0)

        assert w.kie.now() - begun <= 20.0


# -- S12: credits -------------------------------------------------------------------------------


async def audited(w: World, said: dict[str, Any], drop: tuple[str, ...] = ()) -> Any:
    """Run three items whose records say *said* of their credits; return the audit."""
    patch = Rule(route="recordInfo", action="patch", data=said, drop=drop)
    w.emulator.inject(patch)
    async with w.session() as kie:
        await note_balance(w.journal, await kie.get_credits(), first=True)
        assert set((await w.statuses(["a", "b", "c"])).values()) == {"done"}
        await note_balance(w.journal, await kie.get_credits(), first=False)
    return await audit(w.journal)


ODD: list[Any] = [None, "", "ten", "nan", "-inf", -5, -0.01, True, [], {"amount": 10}]


@pytest.mark.parametrize("drop", [(), ("creditsConsumed",)])
@pytest.mark.parametrize("told", ODD, ids=repr)
@pytest.mark.asyncio
async def test_fault_S12_credits_that_make_no_sense(
    told: Any, drop: tuple[str, ...], tmp_path: Path
):
    """The item has none, and the audit says that it does not know, instead of a number."""
    async with world(tmp_path) as w:
        result = await audited(w, {"creditsConsumed": told}, drop)

        assert (result.before, result.after) == (1e6, 1e6 - 30.0)
        assert result.unexplained is None
        assert result.explained == 0.0
        item = await w.journal.get("a")
        assert item is not None
        assert item.credits is None
        await w.end_well()


@pytest.mark.parametrize(("told", "unexplained"), [("10.0", 0.0), (10, 0.0), (4.0, 18.0), (0, 30)])
@pytest.mark.asyncio
async def test_fault_S12_credits_that_are_numbers_are_counted(
    told: Any, unexplained: float, tmp_path: Path
):
    """The control of the audit: with a number in each record it gives one, and a true one."""
    async with world(tmp_path) as w:
        assert (await audited(w, {"creditsConsumed": told})).unexplained == unexplained


@pytest.mark.asyncio
async def test_fault_S12_a_cap_holds_without_credits(tmp_path: Path):
    """A task that does not say what it cost counts as the published price."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="recordInfo", action="patch", data={"creditsConsumed": None}))
        async with w.session() as kie:
            run = kie.upscale_many(list("abcdefgh"), journal=w.journal, max_credits=35.0)
            with pytest.raises(SpendLimitError):
                async for _ in run:
                    pass

        assert sum(w.books.paid.values()) == 3
        await w.check()


# -- S13: somebody else's task --------------------------------------------------------------------

FOREIGN: list[tuple[dict[str, Any], type[KieError]]] = [
    ({"code": 401, "msg": "You do not have access permissions"}, AuthenticationError),
    ({"code": 404, "msg": "not found"}, NotFoundError),
    ({"code": 422, "msg": "recordInfo is null"}, NotFoundError),
    ({"code": 422, "msg": "taskId does not exist"}, NotFoundError),
    ({"code": 403, "msg": "forbidden"}, AuthenticationError),
    ({"code": 422, "msg": "this task is not yours"}, ValidationError),
]


@pytest.mark.parametrize(("said", "error"), FOREIGN, ids=lambda one: str(one)[:40])
@jumping
async def test_fault_S13_the_task_of_another_account(
    said: dict[str, Any], error: type[KieError], tmp_path: Path
):
    """Each has its error, with the id, within seconds; whoever asks.  Nothing is paid."""
    async with virtual(tmp_path) as w, w.session() as kie:
        w.kie.inject(route="recordInfo", action="envelope", **said)
        for call in (kie.get_task, kie.wait_for_result):
            with pytest.raises(error) as caught:
                await call("not-ours")
            assert type(caught.value) is error
            assert caught.value.task_id == "not-ours"
            assert not caught.value.maybe_charged

        assert w.kie.now() <= 60.0
        assert w.kie.books.creates == []


@pytest.mark.asyncio
async def test_fault_S13_a_source_of_another_account(tmp_path: Path):
    """The create of that item is refused; the others are not affected."""
    async with world(tmp_path) as w:
        w.strike("source-b", "envelope", code=422, msg="task_id does not exist", times=None)

        found = await w.run(["source-a", "source-b", "source-c"])

        assert isinstance(found["source-b"].error, ValidationError | NotFoundError)
        assert [str(found[f"source-{x}"].status) for x in "abc"] == ["done", "failed", "done"]
        assert w.books.paid == {"source-a": 1, "source-c": 1}
        await w.check()


@pytest.mark.asyncio
async def test_fault_S13_the_key_of_another_account(tmp_path: Path):
    """It may not look at what the first one paid for: the run stops, and nothing is lost."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="recordInfo", action="envelope", code=401, msg="no"))

        found = await w.run(["source-a", "source-b"])

        assert isinstance(w.stopped_by, AuthenticationError)
        assert {str(one.status) for one in found.values()} <= {"failed", "not_sent"}
        counts = await w.journal.counts()
        assert counts.sent == sum(w.books.paid.values())
        assert counts.sent + counts.planned == 2
        await w.end_well()
