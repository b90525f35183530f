"""Rows A06 to A08: an account that is refused for an hour, overcharged, or used by others."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from kie_async import RetryPolicy
from kie_async.bulk import audit, note_balance
from kie_async.emulator import Rule
from kie_async.errors import SpendLimitError
from kie_async.journal import Journal
from kie_async.testing import VirtualKie
from tests.clock import jumping
from tests.faults.world_k import collected, world

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"
CAP = 60.0
"""Seconds: the longest pause after a refusal, by default; half of it is jitter."""


async def an_hour_of_refusals(retry: RetryPolicy) -> tuple[VirtualKie, int]:
    """Let two hundred creates wait through an hour in which all are refused."""
    api = VirtualKie(credits=1e6)
    api.inject(Rule(route="createTask", action="too-many", until=3600.0))
    sources = [api.add_source_task() for _ in range(200)]
    async with api.session(retry=retry) as session:
        made = await asyncio.gather(
            *(session.create_task(UPSCALE, {"task_id": one}, timeout=9000.0) for one in sources)
        )
    return api, len(set(made))


def too_many(asked: list[float]) -> list[str]:
    """Say what is wrong with the creates of an hour of refusals: *asked* tells when."""
    refused = [at for at in asked if at < 3600.0]
    found = [f"{len(refused)} creates in an hour"] if len(refused) > 20 + 2 * 3600 / CAP else []
    probes = [at for at in refused if at > 300.0]  # the pauses have grown to their longest
    quick = [later - at for at, later in pairwise(probes) if later - at < CAP / 2]
    return [*found, *([f"a probe after {min(quick):.1f} s"] if quick else [])]


@jumping
async def test_fault_A06_everything_is_refused_for_an_hour():
    """One create asks for all of them, at the longest pause; afterwards each is made once."""
    api, made = await an_hour_of_refusals(RetryPolicy())

    assert too_many(api.books.times["createTask"]) == []
    assert made == len(api.books.creates) == 200
    assert set(api.books.paid.values()) == {1}
    assert api.books.most_in_window(10.0) <= 20


@jumping
async def test_the_checker_of_the_refusals_catches_an_impatient_client():
    """The control: one that pauses for ten seconds at most."""
    api, _ = await an_hour_of_refusals(RetryPolicy(rate_limit_base=10.0, rate_limit_cap=10.0))

    assert len(too_many(api.books.times["createTask"])) == 2


@pytest.mark.asyncio
async def test_fault_A07_tasks_cost_ten_times_as_much(tmp_path: Path):
    """The cap stops the run before the next create, by the price that was seen."""
    dear = Rule(route="recordInfo", action="patch", data={"creditsConsumed": 100.0})
    async with world(tmp_path, 10) as w:
        w.emulator.inject(dear)
        async with Journal(w.path) as journal, w.session() as session:
            run = session.upscale_many(w.ids, journal=journal, max_credits=150.0, in_flight=1)
            outcomes = []
            with pytest.raises(SpendLimitError):
                async for outcome in run:
                    outcomes.append(outcome.status)  # noqa: PERF401 - they outlive the error

        assert outcomes == ["done"]
        assert run.progress.credits_spent == 100.0
        assert w.paid() == [1] + [0] * 9
        assert list(w.states().values()) == ["done"] + ["planned"] * 9
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_A07_the_control_without_a_surprise(tmp_path: Path):
    """The same cap and the published price of 10: all are made."""
    async with world(tmp_path, 5) as w:
        async with Journal(w.path) as journal, w.session() as session:
            outcomes = await collected(
                session, w.ids, journal=journal, max_credits=150.0, in_flight=1
            )

        assert len(outcomes) == sum(w.paid()) == 5


@pytest.mark.asyncio
@pytest.mark.parametrize("others", [0.0, 70.0], ids=["nobody else", "another client"])
async def test_fault_A08_another_client_spends_on_the_account(tmp_path: Path, others: float):
    """The audit says what nobody explained, next to what doubts may have cost; it clears none."""
    async with world(tmp_path, 4) as w:
        w.emulator.inject(Rule(route="createTask", action="fin", when="after", match=w.ids[1]))
        async with Journal(w.path) as journal, w.session() as session:
            await note_balance(journal, await session.get_credits(), first=True)
            await collected(session, w.ids, journal=journal)
            w.emulator.core.credits -= others
            await note_balance(journal, await session.get_credits(), first=False)

            found = await audit(journal)

            assert found.explained == 30.0
            assert found.unexplained == 10.0 + others
            assert (found.doubts, found.doubts_at_most) == (1, 10.0)
            assert (found.unexplained > found.doubts_at_most) is bool(others)
            assert [one.item.source_id async for one in journal.doubts()] == [w.ids[1]]
        assert w.violations() == []
