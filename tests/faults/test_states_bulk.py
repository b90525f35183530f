"""Rows S09 and S14: an outage, and a long list; and the controls of all rows of this group."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kie_async.errors import TaskFailedError, UsageError, ValidationError
from kie_async.limiter import SlidingWindowLimiter
from kie_async.testing import VirtualKie
from tests.clock import jumping
from tests.faults.world_s import Seen, asked, in_outage, made, virtual
from tests.faults.world_t import Account, violations

# -- S09: an outage of all polls ----------------------------------------------------------------


async def ours(kie: VirtualKie, ids: list[str]) -> dict[str, float]:
    """Wait for all of them with a session; return when each was seen to be done."""
    found: dict[str, float] = {}

    async def wait(client: Any, task_id: str) -> None:
        assert (await client.wait_for_result(task_id, timeout=10_000.0)).succeeded
        found[task_id] = kie.now()

    turns = SlidingWindowLimiter(10_000, 1.0)  # it shall not be the limiter that saves us
    async with kie.session(poll_limiter=turns, request_timeout=10.0) as client:
        await asyncio.gather(*(wait(client, task_id) for task_id in ids))
    return found


async def hammering(kie: VirtualKie, ids: list[str]) -> dict[str, float]:
    """A bad client: a look a minute, and each failed one again after a second."""
    found: dict[str, float] = {}

    async def wait(task_id: str) -> None:
        while True:
            answer = asked(kie, task_id)
            good = answer.wire is None and answer.status == 200
            if good and answer.json()["code"] == 200:
                if answer.json()["data"]["state"] == "success":
                    found[task_id] = kie.now()
                    return
                await asyncio.sleep(60.0)
            else:
                await asyncio.sleep(1.0)

    await asyncio.gather(*(wait(task_id) for task_id in ids))
    return found


@cache
def usual() -> float:
    """Return our polls per second for as many tasks without an outage."""
    return in_outage(ours, 1000, None)[0]


OUTAGES: list[dict[str, Any]] = [
    {"action": "html", "status": 503},
    {"action": "fin"},
    {"action": "silence"},
    {"action": "maintenance"},
]


@pytest.mark.parametrize("fault", OUTAGES, ids=lambda fault: fault["action"])
def test_fault_S09_ten_minutes_without_an_answer(fault: dict[str, Any]):
    """1,000 tasks: the rate stays below 1.1 times the usual, and all is found soon after.

    Soon is a minute, plus what the answer of the last vain look took.
    """
    rate, late = in_outage(ours, 1000, fault)

    assert 0.0 < rate <= 1.1 * usual()
    assert late <= 60.0 + (10.0 if fault["action"] == "silence" else 1.0)


def test_control_S09_who_hammers_in_an_outage_is_caught():
    """The measure sees one who tries again each second."""
    well, _ = in_outage(hammering, 50, None)
    rate, late = in_outage(hammering, 50, OUTAGES[0])

    assert rate > 10.0 * well
    assert late <= 60.0


@jumping
async def test_fault_S09_with_the_usual_limit(tmp_path: Path):
    """A run meets the outage: no second holds more than eight polls, and every task ends."""
    ids = [f"source-{n:03}" for n in range(300)]
    async with virtual(tmp_path, durations=lambda rng: rng.uniform(50.0, 400.0), rate=None) as w:
        w.kie.inject(route="recordInfo", action="html", status=502, since=100.0, until=700.0)
        turns = SlidingWindowLimiter(1000, 1.0)

        found = await w.statuses(ids, session=w.session(limiter=turns), in_flight=300)

        assert found == dict.fromkeys(ids, "done")
        assert w.kie.books.most_in_window(1.0, of="recordInfo") <= 8
        assert w.kie.now() <= 700.0 + 60.0 + 300 / 8
        assert w.kie.books.paid == dict.fromkeys(ids, 1)
        await w.check()


# -- S14: a long list ---------------------------------------------------------------------------

LONG = 2_000
"""The row has ten thousand: set so, the test passes, and takes half a minute and more."""
ROOM = 50


def long_list() -> list[str]:
    """Return the ids of the row: 5 % malformed, 20 % expired, 2 % there twice, in no order.

    Malformed are those that only the vendor can tell: what no id can be is refused before
    anything is sent, see the next test.
    """
    ids = [f"malformed-{n}" for n in range(LONG * 5 // 100)]
    ids += [f"expired-{n}" for n in range(LONG * 20 // 100)]
    ids += [f"good-{n}" for n in range(LONG * 73 // 100)]
    rng = random.Random(14)
    ids += rng.sample(ids, LONG - len(ids))
    rng.shuffle(ids)
    return ids


ENDS = {
    "malformed": ("failed", ValidationError),
    "expired": ("failed", TaskFailedError),
    "good": ("done", type(None)),
}


@jumping
async def test_fault_S14_thousands_of_earlier_ids(tmp_path: Path):
    """Each has a typed result, and one; nobody is paid twice; what runs is bounded."""
    ids = long_list()
    assert (len(ids), len(set(ids))) == (LONG, LONG * 98 // 100)
    most, ended = 0, Counter[str]()
    async with virtual(tmp_path) as w:
        w.kie.inject(route="createTask", action="envelope", code=422, msg="no", match="malformed-")
        w.kie.inject(route="task", action="fail", code=422, msg="expired", match="expired-")
        async with w.session(hooks=[w.seen]) as kie:
            async for outcome in kie.upscale_many(iter(ids), journal=w.journal, in_flight=ROOM):
                kind = outcome.source_id.partition("-")[0]
                status, error = ENDS[kind]
                assert outcome.status == status
                assert type(outcome.error) is error
                ended[outcome.source_id] += 1
                most = max(most, len(asyncio.all_tasks()))

        assert ended == dict.fromkeys(ids, 1)
        assert w.kie.books.paid == {one: 1 for one in ids if not one.startswith("malformed")}
        assert w.kie.books.returned == {one: 1 for one in ids if one.startswith("expired")}
        assert most <= 2 * ROOM  # in flight, and what serves them (I8)
        assert w.kie.books.most_in_window(10.0, of="arrivals") <= 20
        await w.check()
        assert await w.run(iter(ids)) == {}  # I20
        assert len(w.kie.books.creates) == len(w.kie.books.paid)


@pytest.mark.parametrize("bad", ["", "two words", "../../etc", "x" * 101, "ä", "a\0b", "."])
@jumping
async def test_fault_S14_what_no_id_can_be(tmp_path: Path, bad: str):
    """The run stops in good order and names the place: a list that is no list is not sent.

    Not a result per item, on purpose: a wrong column would otherwise be thousands of them.
    Without that line, the same journal goes on.
    """
    good = [f"source-{n}" for n in range(20)]
    async with virtual(tmp_path) as w:
        with pytest.raises(UsageError, match=r"^item 11: task_id "):
            await w.run([*good[:10], bad, *good[10:]])
        assert w.kie.books.paid.keys() <= set(good[:10])
        await w.check()

        await w.run(good)

        assert await w.states() == dict.fromkeys(good, "done")
        assert w.kie.books.paid == dict.fromkeys(good, 1)
        await w.check()


# -- the controls -------------------------------------------------------------------------------


async def careful(kie: VirtualKie, source: str, told: Account, seen: Seen) -> None:
    """One create; an end is an end."""
    task_id = made(kie, source)
    told.made(source, task_id)
    for _ in range(30):
        state = look(kie, task_id)
        if state is not None:
            seen.note(task_id, state)
        if state in {"success", "fail"}:
            return
        await asyncio.sleep(5.0)


async def impatient(kie: VirtualKie, source: str, told: Account, seen: Seen) -> None:
    """No end after a minute: create it again."""
    for _ in range(2):
        task_id = made(kie, source)
        told.made(source, task_id)
        for _ in range(12):
            if look(kie, task_id) == "success":
                return
            await asyncio.sleep(5.0)


async def forgetful(kie: VirtualKie, source: str, told: Account, seen: Seen) -> None:
    """An unknown task is none: its id is thrown away."""
    task_id = made(kie, source)
    if look(kie, task_id) is not None:
        told.made(source, task_id)


async def believing(kie: VirtualKie, source: str, told: Account, seen: Seen) -> None:
    """Tell every state that an answer names, whatever was told before."""
    task_id = made(kie, source)
    told.made(source, task_id)
    for _ in range(30):
        seen.note(task_id, look(kie, task_id) or "unknown")
        await asyncio.sleep(5.0)


def look(kie: VirtualKie, task_id: str) -> str | None:
    """Return the state that a look shows, if any."""
    data = asked(kie, task_id).json().get("data")
    return data["state"] if data else None


LATE = {"route": "task", "action": "late", "seconds": 20.0}
NEVER = {"route": "task", "action": "never"}
BACK = {"route": "recordInfo", "action": "backwards", "nth": (5, 9)}
UNKNOWN = {"route": "recordInfo", "action": "envelope", "code": 422, "nth": (8,)}

CONTROLS: list[tuple[Any, dict[str, Any], set[str]]] = [
    (careful, LATE, set()),
    (careful, NEVER, set()),
    (careful, BACK, set()),
    (impatient, NEVER, {"I1"}),
    (forgetful, LATE, {"I2"}),
    (believing, BACK, {"I5"}),
    (believing, UNKNOWN, {"I5"}),
]


@pytest.mark.parametrize(("client", "fault", "caught"), CONTROLS)
@jumping
async def test_control_S_a_bad_client_is_caught(
    client: Any, fault: dict[str, Any], caught: set[str]
):
    """Who creates again, loses an id or goes back from an end; the careful one passes."""
    kie = VirtualKie(durations=lambda _rng: 15.0)
    kie.inject(**fault)
    told, seen = Account(), Seen()

    await client(kie, "source-a", told, seen)

    wrong = violations(kie.books, told) + seen.violations()
    assert {entry[:2] for entry in wrong} == caught
