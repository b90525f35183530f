"""Callbacks as a doorbell: waiting costs next to no polls, and a lost one only latency."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import statistics

import pytest

from kie_async import KieSession, OutcomeStatus, PollSchedule, SlidingWindowLimiter
from kie_async.bulk import audit
from kie_async.callbacks import CallbackReceiver
from kie_async.emulator import Emulator, Rule
from kie_async.errors import KieConnectionError
from kie_async.instrumentation import DoubleSpend, TaskChanged
from kie_async.journal import Journal
from tests.clock import jumping
from tests.fakes import FakeAPI, envelope, session_on
from tests.test_bulk import journal_at


def receiver() -> CallbackReceiver:
    return CallbackReceiver(["hmac-key"], public_url="https://h.example", clock=lambda: 1e9)


class CallingAPI(FakeAPI):
    """Rings the receiver after the end of each task, unless told to lose it."""

    def __init__(self, to: CallbackReceiver, *, lose=lambda n: False, delay=0.35, **settings):
        super().__init__(**settings)
        self.to, self.lose, self.delay = to, lose, delay

    def called_back(self, number: int) -> None:
        """Post the signed end of a task, as Kie does."""
        task_id = f"{number:032x}"
        url = self.creates[number][1]["callBackUrl"]
        path = url.removeprefix("https://h.example")
        signed = hmac.new(b"hmac-key", f"{task_id}.1000000000".encode(), hashlib.sha256).digest()
        headers = {
            "content-type": "application/json",
            "x-webhook-timestamp": "1000000000",
            "x-webhook-signature": base64.b64encode(signed).decode(),
        }
        body = json.dumps({"code": 200, "data": {"taskId": task_id, "state": "success"}}).encode()
        reply = self.to.handle("POST", path, headers, body)
        assert reply.status == 200, reply


async def post_when_due(api: CallingAPI) -> None:
    """Send each task's callback when it has ended."""
    loop, sent = asyncio.get_running_loop(), set()
    while True:
        for task_id, ends in list(api.tasks.items()):
            number = int(task_id, 16)
            if number not in sent and loop.time() >= ends + api.delay:
                sent.add(number)
                if not api.lose(number):
                    api.called_back(number)
        await asyncio.sleep(0.05)


@jumping
async def test_one_poll_a_task_with_callbacks():
    """The callback wakes the waiter, and recordInfo tells the truth."""
    to = receiver()
    api, changed = CallingAPI(to, duration=30.0), []

    async with session_on(api, callbacks=to, hooks=[changed.append]) as kie:
        posting = asyncio.create_task(post_when_due(api))
        await asyncio.gather(*(kie.upscale(f"source-{n}", timeout=5000) for n in range(60)))
        posting.cancel()

    ended = [e for e in changed if isinstance(e, TaskChanged) and e.state == "success"]
    assert statistics.median(e.polls for e in ended) == 1
    assert max(e.lateness for e in ended) < 4.0  # twenty ring at once, eight polls a second
    urls = {sent["callBackUrl"] for _, sent in api.creates}
    assert len(urls) == 60


@jumping
async def test_a_lost_callback_costs_only_latency():
    """The safety polls find the end, within a bound."""
    to = receiver()
    api, changed = CallingAPI(to, duration=30.0, lose=lambda n: n % 5 == 0), []

    async with session_on(api, callbacks=to, hooks=[changed.append]) as kie:
        posting = asyncio.create_task(post_when_due(api))
        tasks = await asyncio.gather(*(kie.upscale(f"source-{n}", timeout=5000) for n in range(60)))
        posting.cancel()

    ended = [e for e in changed if isinstance(e, TaskChanged) and e.state == "success"]
    assert all(task.succeeded for task in tasks)
    assert max(e.lateness for e in ended) <= 65.0


@jumping
async def test_doubts_are_claimed_by_their_callbacks(tmp_path):
    """The answer was lost, the callback came: recordInfo is the proof, nothing is paid again."""
    to = receiver()
    api = CallingAPI(to, duration=20.0)
    api.lost = lambda n: KieConnectionError("reset") if n % 3 == 0 else None

    def echo(_n, request):
        task_id = request.path.rpartition("=")[2]
        sent = api.creates[int(task_id, 16)][1]
        param = json.dumps({**sent, "input": json.dumps(sent["input"])})
        return api.record(task_id, param=param)

    api.on_poll = echo
    ids = [f"source-{n}" for n in range(1500)]
    async with journal_at(tmp_path) as journal, session_on(api, callbacks=to) as kie:
        posting = asyncio.create_task(post_when_due(api))
        found = [o async for o in kie.upscale_many(ids, journal=journal)]
        posting.cancel()
        counts = await journal.counts()

    assert len(api.creates) == 1500  # 500 of them in doubt at first
    assert (counts.done, counts.in_doubt) == (1500, 0)
    done = {o.source_id for o in found if o.status is OutcomeStatus.DONE}
    assert done == set(ids)


@jumping
async def test_a_callback_that_overtakes_the_answer_is_no_second_outcome(tmp_path):
    """The create is under way, not in doubt: its own answer tells the id."""
    to = receiver()
    api = CallingAPI(to, duration=0.5, delay=0.0, latency=6.0)
    api.lost = lambda n: KieConnectionError("reset") if n == 3 else None

    def echo(_n, request):
        task_id = request.path.rpartition("=")[2]
        sent = api.creates[int(task_id, 16)][1]
        return api.record(task_id, param=json.dumps({**sent, "input": json.dumps(sent["input"])}))

    api.on_poll = echo
    ids = [f"source-{n}" for n in range(10)]
    async with journal_at(tmp_path) as journal, session_on(api, callbacks=to) as kie:
        posting = asyncio.create_task(post_when_due(api))
        found = [o async for o in kie.upscale_many(ids, journal=journal)]
        posting.cancel()
        counts = await journal.counts()

    assert sorted(o.source_id for o in found if o.status is OutcomeStatus.DONE) == ids
    assert [o.source_id for o in found if o.status is OutcomeStatus.IN_DOUBT] == ["source-3"]
    assert (counts.done, counts.in_doubt, len(api.creates)) == (10, 0, 10)


@jumping
async def test_a_double_spend_that_shows_itself_is_reported(tmp_path):
    """Code 500 and yet a task: the resend made a second one, and the first one rings."""
    to, seen = receiver(), []
    api = CallingAPI(to, duration=20.0)

    def five_hundred(number, request):
        if number:
            return None
        api.tasks["0" * 32] = asyncio.get_running_loop().time() + 20.0
        return envelope(500, "internal error")

    def echo(_n, request):
        task_id = request.path.rpartition("=")[2]
        sent = api.creates[int(task_id, 16)][1]
        return api.record(task_id, param=json.dumps({**sent, "input": json.dumps(sent["input"])}))

    api.on_create, api.on_poll = five_hundred, echo
    async with (
        journal_at(tmp_path) as journal,
        session_on(api, callbacks=to, hooks=[seen.append]) as kie,
    ):
        posting = asyncio.create_task(post_when_due(api))
        _ = [o async for o in kie.upscale_many(["source-a"], journal=journal)]
        posting.cancel()
        found = await audit(journal)

    doubles = [e for e in seen if isinstance(e, DoubleSpend)]
    assert [e.source_id for e in doubles] == ["source-a"]
    assert [d["source_id"] for d in found.double_spends] == ["source-a"]
    assert len(api.creates) == 2


@jumping
async def test_a_callback_that_is_not_confirmed_binds_nothing(tmp_path):
    """A replayed header pair cannot give a foreign task to our doubt."""
    to = receiver()
    api = CallingAPI(to, duration=20.0)
    api.lost = lambda n: KieConnectionError("reset")
    api.on_poll = lambda n, r: api.record(r.path.rpartition("=")[2], param="{}")

    async with journal_at(tmp_path) as journal, session_on(api, callbacks=to) as kie:
        posting = asyncio.create_task(post_when_due(api))
        _ = [o async for o in kie.upscale_many(["source-a"], journal=journal)]
        posting.cancel()
        counts = await journal.counts()

    assert (counts.done, counts.in_doubt) == (0, 1)
    assert len(api.creates) == 1


FAULTS = [
    None,
    {"action": "lost", "probability": 0.3},
    {"action": "double"},
    {"action": "delay", "delay": 0.4},
    {"action": "forged"},
    {"action": "early"},
]


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f["action"] if f else "none")
async def test_real_callbacks_over_real_sockets(fault, tmp_path):
    """The emulator posts them: signed, lost, doubled, late, forged; each task ends once."""
    from aiohttp import web

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    heard = CallbackReceiver(["emulator-hmac-key"], public_url=f"http://127.0.0.1:{port}")
    app = web.Application()
    heard.add_routes(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Emulator(durations=lambda _rng: 0.3) as emulator:
            if fault is not None:
                emulator.inject(Rule(route="callback", **fault))
            kie = KieSession(
                emulator.api_key,
                base_url=emulator.url,
                callbacks=heard,
                polling=PollSchedule(safety_gap=2.0, min_gap=0.05),
                poll_limiter=SlidingWindowLimiter(100, 1.0),
            )
            async with Journal(tmp_path / "run.db") as journal, kie:
                ids = [f"source-{n}" for n in range(10)]
                found = [o async for o in kie.upscale_many(ids, journal=journal)]
    finally:
        await runner.cleanup()

    assert sorted(o.source_id for o in found) == sorted(ids)
    assert all(o.status is OutcomeStatus.DONE for o in found)
    assert emulator.books.paid == dict.fromkeys(ids, 1)
    if fault is None:
        assert emulator.books.requests["recordInfo"] <= 12
