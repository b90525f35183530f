"""Rows H15 to H17, H19 and H28: what stands between us and the API answers in its place.

``UnexpectedRedirect`` is a `ResponseError` here.  It stops a run: a captive portal or a
wrong address would meet every create, and none of the items is to be spent on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kie_async import RetryPolicy
from kie_async.emulator import Emulator, Rule
from kie_async.errors import CreateInDoubtError, ResponseError
from kie_async.instrumentation import RequestRetried
from tests.faults.world_t import QUICK, UPSCALE, world

pytestmark = pytest.mark.asyncio

BOTH = ("before", "after")


def pages(*statuses: int) -> dict[str, tuple[int, str]]:
    """Name a source for each status, before the create and after it."""
    return {f"s{status}-{when}": (status, when) for status in statuses for when in BOTH}


@pytest.mark.parametrize("body", ["html", "nothing"])
async def test_fault_H15_502_503_504(body: str, tmp_path: Path):
    """The origin may have worked and its answer got lost: doubts, each POST once."""
    struck = pages(502, 503, 504)
    async with world(tmp_path) as w:
        for source, (status, when) in struck.items():
            what = {"action": "html"} if body == "html" else {"action": "body", "body": b""}
            w.strike(source, status=status, when=when, **what)

        found = await w.run(struck)

        assert {s: str(o.status) for s, o in found.items()} == dict.fromkeys(struck, "in_doubt")
        assert {o.error.http_status for o in found.values() if o.error} == {502, 503, 504}
        assert w.books.requests["createTask"] == len(struck)
        assert set(w.books.paid) == {s for s in struck if s.endswith("after")}
        await w.end_well()


async def test_fault_H15_503_is_trusted_when_told(tmp_path: Path):
    """``trust_503``: then a bare 503 is "not taken", and is sent again; 502 is not."""
    trusting = RetryPolicy(base=0.01, cap=0.02, trust_503=True)
    async with world(tmp_path) as w:
        w.strike("s503", "html", status=503)
        w.strike("s502", "html", status=502)

        found = await w.statuses(["s503", "s502"], retry=trusting)

        assert found == {"s503": "done", "s502": "in_doubt"}
        await w.end_well()


async def test_fault_H16_what_the_edge_says_of_a_talk_it_had(tmp_path: Path):
    """520, 522, 524, 530: it had reached the origin, or may have."""
    struck = pages(520, 522, 524, 530)
    async with world(tmp_path) as w:
        for source, (status, when) in struck.items():
            w.strike(source, "html", status=status, when=when)

        found = await w.run(struck)

        assert all(isinstance(o.error, CreateInDoubtError) for o in found.values())
        assert w.books.requests["createTask"] == len(struck)
        await w.end_well()


async def test_fault_H17_what_the_edge_says_of_a_talk_it_never_had(tmp_path: Path):
    """521, 523, 525, 526: the origin saw nothing; sent again, and paid once."""
    struck = [f"s{status}" for status in (521, 523, 525, 526)]
    async with world(tmp_path) as w:
        for source in struck:
            w.strike(source, "html", status=int(source[1:]))

        assert await w.statuses(struck) == dict.fromkeys(struck, "done")

        assert sum(isinstance(event, RequestRetried) for event in w.events) == len(struck)
        assert w.books.paid == dict.fromkeys(struck, 1)
        await w.end_well()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_fault_H19_a_create_is_redirected(status: int, tmp_path: Path):
    """Nothing goes to the other host; it is said at once, and a run keeps its items."""
    ids = [f"source-{n}" for n in range(5)]
    async with world(tmp_path) as w, Emulator(api_key=w.emulator.api_key) as elsewhere:
        there = {"status": status, "location": f"{elsewhere.url}/api/v1/jobs/createTask"}
        w.emulator.inject(Rule(route="createTask", action="redirect", **there))
        async with w.session() as kie:
            error = await w.create(kie, "single")
        assert isinstance(error, ResponseError)
        assert (error.http_status, error.retryable, error.maybe_charged) == (status, False, False)
        assert w.books.requests["createTask"] == 1

        await w.run(ids)

        assert isinstance(w.stopped_by, ResponseError)
        assert (await w.journal.counts()).planned == len(ids)
        assert w.books.paid == {}
        assert elsewhere.connections == 0
        await w.end_well()


async def test_fault_H19_a_poll_is_redirected(tmp_path: Path):
    """It is looked at again; the key goes nowhere else, and no item is lost of it."""
    async with world(tmp_path) as w, Emulator(api_key=w.emulator.api_key) as elsewhere:
        there = f"{elsewhere.url}/api/v1/jobs/recordInfo"
        w.emulator.inject(Rule(route="recordInfo", action="redirect", location=there, times=2))

        assert await w.statuses(["source-a"]) == {"source-a": "done"}

        assert elsewhere.connections == 0
        await w.end_well()


async def test_fault_H28_a_cookie_with_every_answer(tmp_path: Path):
    """None ever comes back, on no route and no connection."""
    cookies: list[str] = []

    def noted(request: Any) -> bool:
        cookies.extend(value for name, value in request.headers.items() if name == "cookie")
        return True

    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="*", action="set-cookie", match=noted))
        ids = [f"source-{n}" for n in range(5)]

        assert await w.statuses(ids) == dict.fromkeys(ids, "done")
        async with w.session(retry=QUICK) as kie:
            await kie.get_credits()
            await kie.get_task(w.books.creates[0].task_id)
            w.singles.made("single", await kie.create_task(UPSCALE, {"task_id": "single"}))

        assert w.books.requests["recordInfo"] >= len(ids)
        assert cookies == []
        w.emulator.clear_rules()
        await w.check()
