"""Rows T22 to T26: a network that is slow, drips, or comes and goes."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import aiohttp
import pytest

from kie_async import SlidingWindowLimiter
from kie_async.emulator import Rule
from kie_async.errors import CreateInDoubtError, KieConnectionError
from tests.clock import jumping
from tests.conftest import CANARY_KEY
from tests.faults.world_t import UPSCALE, account_of, violations, virtual, virtual_journal, world
from tests.faults.world_t_proxy import FaultProxy

HASTY = 0.4  # seconds for a request that will not come to its end


@pytest.mark.asyncio
async def test_fault_T22_an_idle_connection_is_closed_just_before_its_use(tmp_path: Path):
    """The server's idle limit strikes as the next request comes: no create is ever hit.

    Reads are: they go out again by themselves and cost nothing.  The control, a client
    with a pool, loses its second create in exactly this way.
    """
    ids = [f"source-{n}" for n in range(20)]
    async with world(tmp_path) as w, FaultProxy(w.url, one_answer=True) as proxy:
        found = await w.statuses(ids, base_url=proxy.url)

        assert found == dict.fromkeys(ids, "done")
        assert w.books.paid == dict.fromkeys(ids, 1)
        await w.end_well()

        proxy.reused = 0
        headers = {"Authorization": f"Bearer {CANARY_KEY}"}
        async with aiohttp.ClientSession(proxy.url, headers=headers) as pooled:
            sent = {"model": UPSCALE, "input": {"task_id": "pooled"}}
            async with pooled.post("/api/v1/jobs/createTask", json=sent) as answer:
                await answer.read()
            with pytest.raises(aiohttp.ClientError):
                await pooled.post("/api/v1/jobs/createTask", json=sent)
        assert proxy.reused == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["drip", "drip-all"])
async def test_fault_T23_drop_by_drop(what: str, tmp_path: Path):
    """Each drop would start an idle clock anew; the deadline of the request does not care.

    A create is then a doubt, a poll is made again.
    """
    slow = {"size": 1, "gap": 0.1}
    async with world(tmp_path, gzip_answers=False) as w:
        w.strike("source-a", what, when="after", **slow)
        found = await w.run(["source-a"], request_timeout=HASTY)
        assert isinstance(found["source-a"].error, CreateInDoubtError)

        assert [finding.verdict for finding in await w.settle()] == ["settled"]
        before = w.books.requests["recordInfo"]
        w.emulator.inject(Rule(route="recordInfo", action=what, times=1, **slow))
        assert await w.statuses([], request_timeout=HASTY) == {"source-a": "done"}
        assert w.books.requests["recordInfo"] - before >= 2
        await w.end_well()


@pytest.mark.asyncio
async def test_fault_T24_latency_below_the_time_out(tmp_path: Path):
    """A fiftieth of the row's figures: answers that come late but in time make no doubt."""
    rng = random.Random(24)
    ids = [f"source-{n}" for n in range(10)]
    async with world(tmp_path) as w, FaultProxy(w.url) as proxy:
        proxy.latency = lambda: rng.uniform(0.2, 0.4)

        found = await w.statuses(ids, base_url=proxy.url)

        assert found == dict.fromkeys(ids, "done")
        await w.end_well()


@jumping
async def test_fault_T24_latency_of_the_row():
    """The row's own figures in virtual time: what is below our 25 s is no doubt."""
    rng = random.Random(24)
    kie, there = virtual(latency=lambda: rng.uniform(10.0, 24.9))

    async with kie:
        creates = (kie.create_task(UPSCALE, {"task_id": f"source-{n}"}) for n in range(40))
        ids = await asyncio.gather(*creates)
        assert sorted(ids) == sorted(row.task_id for row in there.core.books.creates)

        there.latency = 30.0
        with pytest.raises(CreateInDoubtError):
            await kie.create_task(UPSCALE, {"task_id": "too-slow"})


@pytest.mark.asyncio
async def test_fault_T25_one_kilobyte_a_second(tmp_path: Path):
    """It works while there is time, and ends within it while there is not."""
    async with world(tmp_path) as w, FaultProxy(w.url, rate=1024.0) as proxy:
        assert await w.statuses(["source-a"], base_url=proxy.url) == {"source-a": "done"}

        hasty = {"base_url": proxy.url, "request_timeout": 0.3}
        async with w.session(**hasty) as kie:
            error = await w.create(kie, "single")

        assert isinstance(error, KieConnectionError)
        assert error.sent or not w.books.paid("single")
        await w.end_well()


@pytest.mark.asyncio
async def test_fault_T26_the_network_comes_and_goes(tmp_path: Path):
    """Over real sockets: all end, doubts are listed, and no more is asked than allowed."""
    ids = [f"source-{n:02}" for n in range(16)]
    limits = {"poll_limiter": SlidingWindowLimiter(50, 1.0)}
    async with world(tmp_path) as w, FaultProxy(w.url) as proxy:
        w.emulator.core.durations = lambda _rng: 0.3
        limits["limiter"] = SlidingWindowLimiter(20, 0.3)
        run = asyncio.create_task(w.statuses(ids, base_url=proxy.url, **limits))
        while not run.done():
            await asyncio.wait([run], timeout=0.25)
            await proxy.down()
            await asyncio.wait([run], timeout=0.1)
            await proxy.up()

        found = await run
        assert set(found) == set(ids)
        assert set(found.values()) <= {"done", "in_doubt"}
        assert w.books.most_in_window(1.0, of="recordInfo") <= 50
        await w.end_well()


def in_window(times: list[float], start: float) -> int:
    """Count what falls into the ten seconds after *start*."""
    return sum(start <= at < start + 10.0 for at in times)


@jumping
async def test_fault_T26_the_row_in_virtual_time(tmp_path: Path):
    """Two seconds up, two seconds down, for two minutes, 100 tasks: the row's own figures."""

    def trouble(now: float, left: bool) -> KieConnectionError | None:
        if now >= 120.0 or now % 4.0 < 2.0:
            return None
        return KieConnectionError("the network is away", sent=left)

    ids = [f"source-{n:03}" for n in range(100)]
    calm, undisturbed = virtual()
    kie, there = virtual(trouble=trouble)
    counts = []
    for session, path in ((calm, tmp_path / "calm"), (kie, tmp_path / "stormy")):
        path.mkdir()
        async with virtual_journal(path) as journal, session:
            outcomes = [o async for o in session.upscale_many(ids, journal=journal)]
            counts.append(await journal.counts())
            told = await account_of(journal)

    assert {str(outcome.status) for outcome in outcomes} <= {"done", "in_doubt"}
    assert len(outcomes) == 100
    assert (counts[0].done, counts[1].done + counts[1].in_doubt) == (100, 100)
    assert violations(there.core.books, told) == []
    most = max(in_window(undisturbed.at("recordInfo"), at) for at in range(300))
    for at in range(300):
        assert in_window(there.at("createTask"), at) <= 20
        assert in_window(there.at("recordInfo"), at) <= 1.1 * most
    assert len(there.at("recordInfo")) <= 2 * len(undisturbed.at("recordInfo"))
