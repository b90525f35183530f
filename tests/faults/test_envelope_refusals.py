"""Rows H01 to H14 and H18: the API, or the edge before it, says no.

A refusal that every further create would meet (401, 402, 433, 505, a wrong address, the
edge's block) stops a run: what was not sent stays planned, and the same command goes on
when the cause is gone.  There is no ``spend_limit`` and no ``resume()``: the rows' "lane
pauses" is that stop.
"""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from kie_async import CreateRetry, SlidingWindowLimiter
from kie_async.emulator import Rule
from kie_async.errors import (
    AuthenticationError,
    CreateInDoubtError,
    FeatureDisabledError,
    InsufficientCreditsError,
    KeyQuotaError,
    KieError,
    NotFoundError,
    ValidationError,
)
from kie_async.instrumentation import DoubleSpend, RequestRefused
from kie_async.journal import Verdict
from kie_async.limiter import Turn
from tests.clock import jumping
from tests.faults.world_t import (
    LONGEST,
    UPSCALE,
    World,
    receiving,
    virtual,
    virtual_journal,
    world,
)

IDS = [f"source-{n:02}" for n in range(20)]
DONE = dict.fromkeys(IDS, "done")


@pytest.mark.asyncio
async def test_fault_H01_the_429_envelope_in_http_200(tmp_path: Path):
    """The lane pauses, one probes, all succeed, and no window holds more than it may."""
    async with world(tmp_path, rate=(5, 0.3)) as w:
        w.emulator.inject(Rule(route="createTask", action="too-many", nth=(0, 1, 7)))

        found = await w.statuses(IDS[:10], limiter=SlidingWindowLimiter(5, 0.3))

        assert found == dict.fromkeys(IDS[:10], "done")
        refused = [e for e in w.events if isinstance(e, RequestRefused) and e.code == 429]
        assert len(refused) == 3
        assert w.books.most_in_window(0.3) <= 5
        assert w.books.refused == {}  # none but ours: the pauses wasted no turn
        await w.end_well()


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(
    ("told", "at_least"),
    [("7", 7.0), ("27", 27.0), ("Wed, 21 Oct 2026 07:28:27 GMT", 27.0)],
)
@jumping
async def test_fault_H02_retry_after(told: str, at_least: float, status: int):
    """Seconds, or a date: it is a floor.  A date is read against the answer's own Date."""
    kie, there = virtual()
    headers = {"Retry-After": told, "Date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    there.core.inject(
        Rule(route="createTask", action="too-many", status=status, headers=headers, times=1)
    )

    async with kie:
        await kie.create_task(UPSCALE, {"task_id": "source-a"})

    first, second = there.at("createTask")
    assert at_least <= second - first <= at_least + 11.0
    assert there.core.books.paid == {"source-a": 1}


@pytest.mark.parametrize("told", ["-1", "1e9", "nan", "soon", "Wed, 99 Oct 2026", "", "9" * 400])
@jumping
async def test_fault_H03_a_retry_after_that_makes_no_sense(told: str):
    """It is ignored, or cut at 300 s."""
    kie, there = virtual()
    there.core.inject(
        Rule(
            route="createTask",
            action="too-many",
            status=429,
            headers={"Retry-After": told},
            times=1,
        )
    )

    async with kie:
        await kie.create_task(UPSCALE, {"task_id": "source-a"})

    first, second = there.at("createTask")
    assert 5.0 <= second - first <= (301.0 if told == "1e9" else 11.0)


@jumping
async def test_fault_H04_maintenance_for_minutes():
    """455 for five minutes, 200 waiting: one probe at a time, then all succeed."""
    kie, there = virtual()
    there.core.inject(Rule(route="createTask", action="maintenance", until=300.0))

    async with kie:
        ids = await asyncio.gather(
            *(kie.create_task(UPSCALE, {"task_id": f"s{n}"}, timeout=5000) for n in range(200))
        )

    probes = [at for at in there.at("createTask") if at < 300.0][20:]
    assert len(set(ids)) == 200
    assert there.core.books.paid == {f"s{n}": 1 for n in range(200)}
    assert len(probes) <= 12
    assert all(later - earlier >= 10.0 for earlier, later in itertools.pairwise(probes))
    assert there.core.books.most_in_window(10.0) <= 20


@pytest.mark.asyncio
@pytest.mark.parametrize(("times", "status"), [(1, "done"), (2, "done"), (9, "in_doubt")])
async def test_fault_H05_code_500_and_nothing_was_created(times: int, status: str, tmp_path: Path):
    """Sent again at most twice, with a reference of its own each time; then a doubt."""
    async with world(tmp_path) as w:
        w.strike("source-a", "envelope", times=times)

        assert await w.statuses(["source-a"]) == {"source-a": status}

        assert w.books.requests["createTask"] == min(times, 2) + 1
        attempts = await w.journal.attempts("source-a")
        assert len({attempt.ref for attempt in attempts}) == min(times, 2) + 1
        await w.end_well()


@jumping
async def test_fault_H05_the_waits_of_the_row():
    """At least five seconds before each resend, and growing."""
    kie, there = virtual()
    there.core.inject(Rule(route="createTask", action="envelope"))

    async with kie:
        with pytest.raises(CreateInDoubtError) as caught:
            await kie.create_task(UPSCALE, {"task_id": "source-a"})

    first, second, third = there.at("createTask")
    assert second - first >= 5.0
    assert third - second >= 10.0
    assert caught.value.reported


@pytest.mark.asyncio
@pytest.mark.parametrize("policy", [CreateRetry.NEVER, CreateRetry.REJECTED])
async def test_fault_H06_code_500_and_created_with_a_hard_at_most_once(
    policy: CreateRetry, tmp_path: Path
):
    """One create, one doubt, settled by its reference."""
    async with world(tmp_path) as w:
        w.strike("source-a", "envelope", when="after", times=9)

        found = await w.run(["source-a"], create_retry=policy)

        error = found["source-a"].error
        assert isinstance(error, CreateInDoubtError)
        assert error.reported
        assert w.books.paid == {"source-a": 1}
        await w.end_well()


@pytest.mark.asyncio
@pytest.mark.parametrize("times", [1, 2])
async def test_fault_H06_code_500_and_created_by_default(times: int, tmp_path: Path):
    """Exactly the announced extra, and it shows itself: nothing is paid twice in silence."""
    async with world(tmp_path) as w:
        w.strike("source-a", "envelope", when="after", times=times)

        assert await w.statuses(["source-a"]) == {"source-a": "done"}

        assert w.books.paid == {"source-a": 1 + times}
        verdicts = [finding.verdict for finding in await w.settle()]
        assert sorted(verdicts) == ["double"] * times + ["known"]
        await w.end_well(**{"source-a": times})


@pytest.mark.asyncio
async def test_fault_H06_a_callback_shows_the_double_spend(tmp_path: Path):
    """The first task rings, too: an event names the one too many."""
    lasts = itertools.chain([0.2], itertools.repeat(1.5))
    async with world(tmp_path, durations=lambda _rng: next(lasts)) as w, receiving(w) as heard:
        w.strike("source-a", "envelope", when="after")

        found = await w.statuses(["source-a"], callback_url=None, callbacks=heard)

        assert found == {"source-a": "done"}
        doubles = [event for event in w.events if isinstance(event, DoubleSpend)]
        assert [event.source_id for event in doubles] == ["source-a"]
        assert doubles[0].task_id in {row.task_id for row in w.books.creates}
        await w.end_well(**{"source-a": 1})


class AfterTheClaim(SlidingWindowLimiter):
    """Gives a second turn only when the journal has the item's task."""

    def __init__(self, w: World) -> None:
        super().__init__(400, 0.1)
        self.w, self.asked = w, 0

    async def acquire(self) -> Turn:
        self.asked += 1
        async with asyncio.timeout(LONGEST):
            while self.asked > 1:
                item = await self.w.journal.get("source-a")
                if item is not None and item.task_id is not None:
                    break
                await asyncio.sleep(0.01)
        return await super().acquire()


@pytest.mark.asyncio
async def test_fault_H06_a_callback_before_the_resend_spares_it(tmp_path: Path):
    """While the client waits to send again, the task rings: it is taken, and paid once."""
    async with world(tmp_path) as w, receiving(w) as heard:
        w.strike("source-a", "envelope", when="after")
        turns = AfterTheClaim(w)

        found = await w.statuses(["source-a"], callback_url=None, callbacks=heard, limiter=turns)

        assert turns.asked == 2
        assert found == {"source-a": "done"}
        assert w.books.paid == {"source-a": 1}
        await w.end_well()


@pytest.mark.asyncio
async def test_fault_H07_http_500_with_html_or_nothing(tmp_path: Path):
    """Nobody of the API spoke: four doubts, of which two are tasks."""
    async with world(tmp_path) as w:
        for when in ("before", "after"):
            w.strike(f"html-{when}", "html", status=500, when=when)
            w.strike(f"empty-{when}", "body", body=b"", status=500, when=when)
        ids = [f"{what}-{when}" for what in ("html", "empty") for when in ("before", "after")]

        assert await w.statuses(ids) == dict.fromkeys(ids, "in_doubt")

        assert set(w.books.paid) == {"html-after", "empty-after"}
        await w.end_well()


@pytest.mark.asyncio
@pytest.mark.parametrize("code", [501, 408, 531])
async def test_fault_H08_a_reported_failure_that_is_not_500(code: int, tmp_path: Path):
    """A task may have run: a doubt that says so, and one POST."""
    async with world(tmp_path) as w:
        w.strike("created", "envelope", code=code, when="after")
        w.strike("not-created", "envelope", code=code, when="before")

        found = await w.run(["created", "not-created"])

        assert {str(outcome.status) for outcome in found.values()} == {"in_doubt"}
        assert all(outcome.error.reported for outcome in found.values())  # type: ignore[union-attr]
        assert w.books.requests["createTask"] == 2
        await w.end_well()


async def stops(w: World, error: type[KieError], *, most: int, **settings: Any) -> None:
    """Run into a refusal: the run stops, no item is spent on it, and it is resumed."""
    slowly = {"limiter": SlidingWindowLimiter(5, 0.3), **settings}
    found = await w.statuses(IDS, **slowly)

    assert type(w.stopped_by) is error
    assert set(found.values()) <= {"done", "not_sent"}
    counts = await w.journal.counts()
    assert (counts.failed, counts.in_doubt, counts.sent) == (0, 0, 0)
    assert counts.done + counts.planned == len(IDS)
    assert w.books.requests["createTask"] - counts.done <= most
    assert not w.stopped_by.maybe_charged
    await w.end_well()
    assert w.books.paid == dict.fromkeys(IDS, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("code", [505])
async def test_fault_H09_the_feature_is_switched_off(code: int, tmp_path: Path):
    """Final for a single create; a run of one model stops at it."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", action="envelope", code=code))
        async with w.session() as kie:
            assert isinstance(await w.create(kie, "single"), FeatureDisabledError)
        assert w.books.requests["createTask"] == 1
        await stops(w, FeatureDisabledError, most=1 + 5)


@pytest.mark.asyncio
async def test_fault_H10_401_in_the_middle(tmp_path: Path):
    """The key was withdrawn after five creates: the rest stays planned."""
    async with world(tmp_path) as w:
        gone = tuple(range(5, 100))
        w.emulator.inject(Rule(route="createTask", action="envelope", code=401, nth=gone))
        await stops(w, AuthenticationError, most=5)


@jumping
async def test_fault_H11_402_in_the_middle(tmp_path: Path):
    """The credits end at item 137 of 500: no 363 errors, and it goes on after a top-up."""
    ids = [f"source-{n:03}" for n in range(500)]
    kie, there = virtual(credits=1360.0)
    async with virtual_journal(tmp_path) as journal, kie:
        with pytest.raises(InsufficientCreditsError):
            async for _ in kie.upscale_many(ids, journal=journal):
                pass
        counts = await journal.counts()
        assert (counts.done, counts.planned) == (136, 364)
        assert there.core.books.refused[402] <= 20

        there.core.credits = 1e6
        async for _ in kie.upscale_many(ids, journal=journal):
            pass
        assert (await journal.counts()).done == 500
    assert there.core.books.paid == dict.fromkeys(ids, 1)


@pytest.mark.asyncio
async def test_fault_H12_422_for_one_item(tmp_path: Path):
    """That item is refused for good, the rest is not affected."""
    async with world(tmp_path) as w:
        w.strike("source-07", "envelope", code=422, msg="resolution is wrong")

        found = await w.run(IDS)

        assert {s: str(o.status) for s, o in found.items()} == {**DONE, "source-07": "failed"}
        assert isinstance(found["source-07"].error, ValidationError)
        attempts = await w.journal.attempts("source-07")
        assert [attempt.verdict for attempt in attempts] == [Verdict.REJECTED]
        assert w.books.paid == {source: 1 for source in IDS if source != "source-07"}
        assert await w.run(IDS) == {}
        await w.check()


@pytest.mark.asyncio
async def test_fault_H13_the_keys_own_cap(tmp_path: Path):
    """433 has an error of its own; the run stops at it."""
    async with world(tmp_path) as w:
        capped = tuple(range(3, 100))
        w.emulator.inject(Rule(route="createTask", action="envelope", code=433, nth=capped))
        await stops(w, KeyQuotaError, most=5)


@pytest.mark.asyncio
async def test_fault_H14_404_on_a_create(tmp_path: Path):
    """A wrong base path: said at once, and a run does not spend its items on it."""
    async with world(tmp_path) as w:
        wrong = {"base_url": f"{w.url}/wrong"}
        async with w.session(**wrong) as kie:
            error = await w.create(kie, "single")
        assert isinstance(error, NotFoundError)
        assert "base URL" in str(error)
        assert w.books.requests["createTask"] == 1
        await stops(w, NotFoundError, most=1 + 5, **wrong)


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [400, 404, 405])
async def test_fault_H14_a_page_of_somebody_else(status: int, tmp_path: Path):
    """A web server that is not the API refuses every POST: no item fails of that."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", action="html", status=status))
        await stops(w, NotFoundError if status == 404 else ValidationError, most=5)


@pytest.mark.asyncio
@pytest.mark.parametrize("page", [{"action": "blocked"}, {"action": "html", "status": 403}])
async def test_fault_H18_the_edge_blocks(page: dict[str, Any], tmp_path: Path):
    """403 and no envelope says nothing of the key: the run stops, and does not hammer."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", **page))
        async with w.session() as kie:
            error = await w.create(kie, "single")
        assert isinstance(error, AuthenticationError)
        assert (error.code, error.http_status, error.retryable) == (None, 403, True)
        await stops(w, AuthenticationError, most=1 + 5)
