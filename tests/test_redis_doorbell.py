"""`RedisDoorbell` on real servers: what one hears, all know; and whatever is said, no harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any, Self

import pytest
from redis.asyncio import Redis

from kie_async import KieSession, RedisDoorbell, UsageError, redis_doorbell
from kie_async.callbacks import CallbackReceiver
from kie_async.emulator import Emulator
from kie_async.models import TaskState
from kie_async.polling import Durations
from tests.callback_tools import content, signed
from tests.redis_servers import SERVER, Server, redis_server

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey on this machine"),
]

KEY = "hmac-key-for-tests"


@pytest.fixture(name="store")
def _store(tmp_path) -> Iterator[Server]:
    with redis_server(tmp_path) as server:
        yield server


class Replica:
    """A process of a service, as far as the doorbell is concerned."""

    def __init__(self, store: Server, **settings: Any) -> None:
        self.redis = Redis.from_url(store.url, **settings)
        self.receiver = CallbackReceiver(KEY, public_url="http://127.0.0.1:1")
        self.durations = Durations()
        self.bell = RedisDoorbell(
            self.redis, "test", receiver=self.receiver, durations=self.durations
        )
        self.rung: list[str] = []
        self.heard = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.bell.__aenter__()
        self._disconnect = self.receiver.connect(self._ring)
        return self

    def _ring(self, event) -> None:
        self.rung.append(event.task_id)
        self.heard.set()

    async def __aexit__(self, *_: object) -> None:
        self._disconnect()
        await self.bell.__aexit__(None, None, None)
        self.receiver.close()
        await self.redis.aclose()

    def called(self, task_id: str) -> None:
        """Let Kie's callback arrive here."""
        headers = signed(task_id, at=time.time(), key=KEY)
        reply = self.receiver.handle("POST", "/kie/cb", headers, content(task_id))
        assert reply.status == 200


async def ready(*replicas: Replica) -> None:
    async with asyncio.timeout(20):
        for replica in replicas:
            await replica.bell.ready()


@pytest.mark.asyncio
async def test_a_callback_at_one_replica_rings_in_the_others(store: Server):
    """Once each, and it does not come back."""
    async with Replica(store) as one, Replica(store) as other, Replica(store) as third:
        await ready(one, other, third)
        one.called("task-1")
        async with asyncio.timeout(10):
            await other.heard.wait()
            await third.heard.wait()
        other.called("task-2")
        third.heard.clear()
        async with asyncio.timeout(10):
            await third.heard.wait()

        assert one.rung[0] == "task-1"
        assert other.rung == ["task-1", "task-2"]
        assert third.rung == ["task-1", "task-2"]
        assert third.receiver.seen("task-2")  # for one who begins to wait later


@pytest.mark.asyncio
async def test_durations_are_learned_by_all(store: Server):
    """From what one has observed; what was learned is not told again."""
    async with Replica(store) as one, Replica(store) as other:
        await ready(one, other)
        for _ in range(5):
            one.durations.observe("m", 12.0)
        one.durations.observe("m", 3.0, after=TaskState.GENERATING)
        async with asyncio.timeout(10):
            while not other.durations.count("m", after=TaskState.GENERATING):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        await asyncio.sleep(0.1)
        assert one.durations.count("m") == 5
        assert other.durations.count("m") == 5


@pytest.mark.asyncio
async def test_a_waiting_session_is_woken_by_another_replica(store: Server):
    """The callback comes to the one, the result to the other: without waiting for a poll."""
    async with (
        Emulator(durations=lambda _rng: 1.0, hmac_key=KEY) as api,
        Replica(store) as one,
        Replica(store) as other,
        KieSession(api.api_key, base_url=api.url, callbacks=other.receiver) as kie,
    ):
        await ready(one, other)
        waiting = asyncio.ensure_future(kie.upscale(await api.add_source_task(), timeout=60.0))
        while not api.books.creates:  # noqa: ASYNC110 - the emulator runs in this loop
            await asyncio.sleep(0.01)
        task_id = api.books.creates[0].task_id
        while api.now() < api.core.tasks[task_id].ends:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        polls = len(api.books.polls)
        one.called(task_id)
        async with asyncio.timeout(5.0):  # the safety poll would be much later
            task = await waiting

        assert task.succeeded
        assert len(api.books.polls) == polls + 1


FORGED = [
    b"",
    b"\x00\xff",
    b"[]",
    b"[" * 100_000,
    b'{"rings": 5, "taken": {}}',
    b'{"rings": [["t"], ["a b", null], [5, null], ["x", 7, 8]], "taken": [[1, 2, 3]]}',
    b'{"taken": [["m", null, NaN], ["m", null, -1], ["m", null, 1e99], ["m", "odd", 1]]}',
    b'{"taken": [["m", null, true], ["", null, 1], ["m", [], 1]]}',
    b'{"taken": [["m", null, 1' + b"0" * 400 + b"]]}",
    b'{"rings": [["\\ud800", null]], "taken": [["\\ud800", "\\ud800", 1]]}',
    b'{"rings": [["task-9", "\\ud800\\u00e9"]]}',
    json.dumps({"rings": [["t" * 5000, None]] * 5000}).encode(),
    json.dumps({"rings": [["task-9", "forged-reference"]]}).encode(),
]


@pytest.mark.asyncio
async def test_whatever_is_said_on_the_channel_does_no_harm(store: Server):
    """Garbage is passed over; a forged ring is a hint, without its reference."""
    async with Replica(store) as one, Replica(store) as other:
        await ready(one, other)
        with store.client as client:
            for message in FORGED:
                client.publish("kie:{test}:bell", message)
        async with asyncio.timeout(10):
            await one.heard.wait()

        assert one.rung == ["task-9"]
        assert one.receiver.tasks_of("forged-reference") == ()
        assert one.durations.count("m") == 0


@pytest.mark.asyncio
async def test_text_that_is_none_does_not_end_the_hearing(store: Server):
    """A client that decodes what it reads (``decode_responses=True``) stumbles over it itself."""
    async with Replica(store, decode_responses=True) as one, Replica(store) as other:
        await ready(one, other)
        with store.client as client:
            client.publish("kie:{test}:bell", b"\xff\xfe")
        for number in range(100):  # those that come while it connects anew are lost
            other.called(f"{number:032x}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await one.heard.wait()
                    break

        assert one.rung


@pytest.mark.asyncio
async def test_what_waits_to_be_told_is_told_when_the_store_is_back(
    store: Server, monkeypatch: pytest.MonkeyPatch
):
    """All of it, without another callback; of too many the oldest are dropped."""
    monkeypatch.setattr(redis_doorbell, "BACKLOG", 250)
    async with Replica(store) as one, Replica(store) as other:
        await ready(one, other)
        publish, away = one.redis.publish, 3

        async def broken(*told: str) -> int:
            nonlocal away
            if away:
                away -= 1
                if not away:
                    one.bell._rings.extend((f"{n:032x}", None) for n in range(250, 260))
                raise ConnectionError("away")
            return await publish(*told)

        one.redis.publish = broken
        one.bell._rings.extend((f"{n:032x}", None) for n in range(250))
        one.bell._news.set()
        async with asyncio.timeout(20):
            while len(other.rung) < 250:
                other.heard.clear()
                await other.heard.wait()

        assert other.rung == [f"{n:032x}" for n in range(10, 260)]


@pytest.mark.asyncio
async def test_a_store_that_dies_costs_latency_and_comes_back(
    store: Server, caplog: pytest.LogCaptureFixture
):
    """Said once each way; the callback is answered at once all the same."""
    caplog.set_level(logging.WARNING, "kie_async.redis_doorbell")
    async with Replica(store) as one, Replica(store) as other:
        await ready(one, other)
        store.signal(signal.SIGKILL)
        for number in range(50):
            one.called(f"lost-{number}")
        await asyncio.sleep(0.3)
        assert len(one.rung) == 50
        await asyncio.to_thread(store.start)
        other.heard.clear()
        await ready(one, other)
        one.called("found")
        async with asyncio.timeout(20):
            while "found" not in other.rung:
                await other.heard.wait()
                other.heard.clear()
    said = [row.message for row in caplog.records]
    assert sum("is away" in text for text in said) == 2  # each of the two says it
    assert sum("is back" in text for text in said) == 2


@pytest.mark.asyncio
async def test_a_store_that_hangs_holds_nobody_up(store: Server):
    """Neither a callback's answer nor the end."""
    async with Replica(store) as one:
        await ready(one)
        store.signal(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        for number in range(200):
            one.called(f"task-{number}")
        assert asyncio.get_running_loop().time() - began < 5.0
        try:
            async with asyncio.timeout(10.0):
                await one.bell.__aexit__(None, None, None)
        finally:
            store.signal(signal.SIGCONT)
        await one.bell.__aenter__()


@pytest.mark.asyncio
async def test_nothing_is_left_behind(store: Server):
    """No task, no listener, no connection."""
    before = asyncio.all_tasks()
    replica = Replica(store)
    async with replica:
        await ready(replica)
        assert "shared" in repr(replica.bell)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before
    assert replica.durations.listener is None
    assert "closed" in repr(replica.bell)
    with store.client as client:
        assert client.pubsub_numsub("kie:{test}:bell")[0][1] == 0


def test_settings_that_cannot_work_are_refused():
    """Before anything is asked."""
    with pytest.raises(UsageError, match="nothing to share"):
        RedisDoorbell(Redis(), "a")
    with pytest.raises(UsageError, match="plain name"):
        RedisDoorbell(Redis(), "a b", durations=Durations())


@pytest.mark.parametrize("seconds", ["1" + "0" * 400, "-1", "0", "1e400", "NaN", "true", "[]"])
def test_no_duration_of_a_stranger_ends_the_hearing(seconds: str):
    """Anybody who reaches the store can publish, and JSON has numbers that no float has."""
    durations = Durations()
    bell = RedisDoorbell(Redis(), "a", durations=durations)

    bell._hear(f'{{"from": "b", "taken": [["m", "waiting", {seconds}], ["n", "waiting", 7.0]]}}')

    assert durations.count("m", after=TaskState.WAITING) == 0
    assert durations.count("n", after=TaskState.WAITING) == 1
