"""The edges of callbacks, for the mistakes that `tests.mutation` puts in."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from kie_async.callbacks import CallbackClockSkewed, CallbackServer, verify_callback
from kie_async.callbacks._body import read_body
from kie_async.callbacks._guards import RateCap, SkewAlarm
from kie_async.callbacks._reading import Reading
from kie_async.callbacks._refusal import Reason
from kie_async.errors import CallbackError, UsageError
from kie_async.models import TaskState
from tests.callback_tools import KEY, NOW, Clock, content, post, receiver, signed
from tests.clock import jumping

# What is refused, and how


def test_the_words_and_the_statuses_of_refusals():
    """The word is what hooks and the log are told, the status is what the sender sees."""
    assert {reason.word: reason.status for reason in Reason} == {
        "method": 405, "path": 404, "reference": 401, "encoding": 415, "type": 415,
        "length": 400, "size": 413, "unsigned": 401, "time": 401, "json": 400, "id": 400,
        "ids": 401, "signature": 401, "slow": 408, "cut": 400, "crowd": 503, "flood": 429,
    }  # fmt: skip


@pytest.mark.parametrize("brackets", [32, 33])
def test_a_body_has_32_levels_at_most(brackets):
    """The object around it is one of them; brackets of texts are none."""
    inner = b"[" * (brackets - 1) + b"]" * (brackets - 1)
    body = b'{"taskId":"t1","y":"' + b"[" * 50 + b'","x":' + inner + b"}"
    if brackets <= 32:
        assert read_body(body) == ("t1", TaskState.UNKNOWN)
    else:
        with pytest.raises(CallbackError):
            read_body(body)


@pytest.mark.parametrize(("lists", "passes"), [(4095, True), (4096, False)])
def test_a_body_has_4096_brackets_at_most(lists, passes):
    """However flat it is; the object itself is one."""
    body = b'{"taskId":"t1","x":"' + b"[" * lists + b'"}'
    with contextlib.nullcontext() if passes else pytest.raises(CallbackError):
        assert read_body(body)[0] == "t1"


def test_a_body_of_as_many_brackets_as_may_be_has_32_levels_too():
    """Texts have most of them, so that only the depth is wrong."""
    text = b"[" * (4096 - 1 - 40)
    body = b'{"taskId":"t1","y":"' + text + b'","x":' + b"[" * 40 + b"]" * 40 + b"}"
    with pytest.raises(CallbackError):
        read_body(body)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Length", "262144"),
        ("Content-Length", "0" * 17 + "1"),
        ("Content-Encoding", ""),
        ("Content-Encoding", " Identity "),
        ("Content-Type", " application/json ;charset=utf-8"),
    ],
)
def test_what_the_head_may_declare(name, value):
    """The last of what is taken."""
    assert verify_callback(content("t1"), signed("t1", **{name: value}), KEY, now=NOW).signed


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://me.example", "http://me.example"),
        ("https://me.example:8443/a//", "https://me.example:8443/a"),
        ("https://me.example/X/", "https://me.example/X"),
    ],
)
def test_where_the_world_may_reach_us(url, base):
    """With http too: a tunnel may stand before it; no slash is doubled."""
    assert receiver(public_url=url).new_callback_url().url.startswith(f"{base}/kie/cb/")


@pytest.mark.parametrize("url", ["https://u@me.example", "https://:p@me.example", "https:///a"])
def test_where_the_world_may_not(url):
    """A name or a password would be shown to Kie."""
    with pytest.raises(UsageError, match="public_url"):
        receiver(public_url=url)


# What is remembered, and for how long


def test_a_short_memory_is_as_long_as_a_replay_may_come():
    """Signed five minutes ahead, it is refused for its age ten minutes later, not before."""
    clock = Clock()
    to = receiver(clock=clock, remember=1.0)
    assert post(to, "t1", at=NOW + 300).event is not None
    clock.now += 599
    assert post(to, "t1", at=NOW + 300).event is None
    assert to.seen("t1")
    clock.now += 1

    assert not to.seen("t1")


def test_a_reference_is_forgotten_after_an_hour():
    """As its task is; then it may be another's."""
    clock = Clock()
    to = receiver(clock=clock)
    reference = to.new_callback_url().reference
    path = f"/kie/cb/{reference}"
    post(to, "t1", path=path)
    clock.now += 3599
    assert to.tasks_of(reference) == ("t1",)
    clock.now += 1
    assert to.tasks_of(reference) == ()
    post(to, "t2", path=path, at=clock.now)

    assert to.tasks_of(reference) == ("t2",)


def test_what_has_rung_keeps_its_place_among_the_young():
    """A task that is told of again after its hour is not the oldest any more."""
    clock = Clock()
    to = receiver(clock=clock, max_pending=2)
    post(to, "t1")
    clock.now += 1800
    post(to, "t2", at=clock.now)
    clock.now += 1800
    assert post(to, "t1", at=clock.now).event is not None
    post(to, "t3", at=clock.now)

    assert [to.seen(name) for name in ("t1", "t2", "t3")] == [True, False, True]


def test_a_task_is_remembered_for_an_hour_after_its_last_news():
    """Not after its first: the replay of a success that came late would ring again."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1", state="generating")
    clock.now += 3599
    assert post(to, "t1", at=NOW + 3599).event is not None
    clock.now += 2
    assert post(to, "t1", at=NOW + 3599).event is None
    assert to.seen("t1")
    clock.now += 3598

    assert not to.seen("t1")


def test_what_is_sent_once_more_is_remembered_from_then_on():
    """A retry has a time of its own, and so has whoever replays it."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1")
    clock.now += 3599
    assert post(to, "t1", at=NOW + 3599).event is None
    clock.now += 2

    assert post(to, "t1", at=NOW + 3599).event is None


def test_replays_prolong_nothing():
    """Else a task would be remembered for as long as somebody sends the same again."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1")
    clock.now += 299
    assert post(to, "t1").event is None
    clock.now += 3301

    assert not to.seen("t1")


def test_the_task_with_the_latest_news_leaves_last():
    """When there are too many."""
    to = receiver(max_pending=2)
    post(to, "t1", state="generating")
    post(to, "t2")
    post(to, "t1", at=NOW + 1)
    post(to, "t3")

    assert [to.seen(name) for name in ("t1", "t2", "t3")] == [True, False, True]


def test_news_from_before_a_clock_was_set_back_is_forgotten_no_sooner():
    """Else what rang before that would ring again when the clock is right."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1")
    clock.now -= 3600
    assert post(to, "t1", at=clock.now, state="generating").event is not None
    clock.now += 3600

    assert post(to, "t1").event is None


def test_a_task_has_eight_marks():
    """A signed callback leaves two, its state and its time; from eight on all are copies."""
    to = receiver()
    words = ["waiting", "queuing", "generating", "success", "fail"]
    rings = [post(to, "t1", state=word, at=NOW + n).event for n, word in enumerate(words)]

    assert [event is not None for event in rings] == [True, True, True, True, False]


def test_a_memory_of_one_task_is_a_memory():
    """The last one that came."""
    to = receiver(max_pending=1)
    post(to, "t1")
    post(to, "t2")

    assert [to.seen(name) for name in ("t1", "t2")] == [False, True]


# Rings of other processes


def test_a_ring_from_elsewhere_is_news_once():
    """A hint: those who wait here are rung, listeners of `subscribe` are not told."""
    clock = Clock()
    to = receiver(clock=clock)
    reference = to.new_callback_url().reference

    assert to.ring("t1", reference)
    assert not to.ring("t1", reference)
    assert to.seen("t1")
    assert to.tasks_of(reference) == ("t1",)
    assert to.ring("t2", "0" * 42)
    assert to.tasks_of("0" * 42) == ()
    assert not to.ring("no id/")
    assert not to.ring("")
    assert not to.seen("")


@jumping
async def test_a_ring_from_elsewhere_reaches_bells_only():
    """With what is known of it: nobody signed it."""
    to = receiver()
    rung: list[Any] = []
    told: list[Any] = []

    async def listener(event: Any) -> None:
        told.append(event)

    leave = to.connect(rung.append)
    to.subscribe(listener)
    reference = to.new_callback_url().reference
    to.ring("t1", reference)
    to.ring("t1", reference)
    await asyncio.sleep(1.0)

    (event,) = rung
    assert (event.task_id, event.signed, event.sent_at) == ("t1", False, None)
    assert (event.received_at, event.reference) == (NOW, reference)
    assert told == []
    leave()
    to.close()


def test_rings_from_elsewhere_are_capped_at_two_thousand_a_second():
    """Whoever can write to the store cannot fill our memory at once."""
    clock = Clock()
    to = receiver(clock=clock)

    assert sum(to.ring(f"a{n}") for n in range(3000)) == 2000
    clock.now += 0.5
    assert sum(to.ring(f"b{n}") for n in range(3000)) == 1000


# Guards


def test_hints_are_twenty_a_second_and_a_hundred_at_once_by_default():
    """For each of the two: those with a reference of ours, and strangers."""
    clock = Clock()
    to = receiver(keys=(), require_signature=False, clock=clock)
    ours = f"/kie/cb/{to.new_callback_url().reference}"

    for path in (ours, "/kie/cb"):
        passed = [to.handle("POST", path, {}, content(f"a{n}")).status for n in range(200)]
        assert passed.count(200) == 100
    clock.now += 1
    for path in (ours, "/kie/cb"):
        passed = [to.handle("POST", path, {}, content(f"b{n}")).status for n in range(200)]
        assert passed.count(200) == 20


@pytest.mark.parametrize("left_out", ["X-Webhook-Timestamp", "X-Webhook-Signature"])
def test_half_a_signature_is_a_wrong_one(left_out: str):
    """It is no hint, even where hints are welcome."""
    headers = signed("t1")
    del headers[left_out]

    to = receiver(require_signature=False)
    assert to.handle("POST", "/kie/cb", headers, content("t1")).status == 401


def test_a_cap_lets_one_pass_however_small_it_is():
    """One hint in a hundred seconds; the first at once."""
    clock = Clock()
    to = receiver(keys=(), require_signature=False, hints_per_second=0.01, clock=clock)

    passed = []
    for number in range(5):
        passed.append(to.handle("POST", "/kie/cb", {}, content(f"t{number}")).status)
        clock.now += 50

    assert passed == [200, 429, 200, 429, 200]


def test_a_cap_fills_to_its_burst_and_a_clock_that_goes_back_gives_nothing():
    """Nor does it take anything."""
    cap = RateCap(1.0, 2.0)
    assert [cap.admits(0.0) for _ in range(3)] == [True, True, False]
    assert [cap.admits(100.0) for _ in range(3)] == [True, True, False]
    assert [cap.admits(at) for at in (50.0, 51.0, 51.0)] == [False, True, False]


def test_the_alarm_needs_three_and_more_than_one_in_twenty():
    """And it rings once in ten minutes."""
    alarm = SkewAlarm()
    assert [alarm.count(0.0, refused=True) for _ in range(4)] == [False, False, True, False]
    assert (alarm.refused, alarm.total) == (4, 4)
    assert not alarm.count(599.9, refused=True)
    assert [alarm.count(600.0, refused=True) for _ in range(3)] == [False, False, True]
    assert [alarm.count(599.0, refused=True) for _ in range(3)] == [False, False, True]
    assert [alarm.count(1500.0, refused=False) for _ in range(57)] == [False] * 57
    assert [alarm.count(1500.0, refused=True) for _ in range(4)] == [False] * 3 + [True]
    assert (alarm.refused, alarm.total) == (4, 61)


def test_a_refusal_for_something_else_says_nothing_of_the_clock():
    """Only those count that were taken, or came at a wrong time."""
    heard: list[object] = []
    clock = Clock()
    to = receiver(hooks=[heard.append], clock=clock)
    for _ in range(1000):
        to.handle("POST", "/kie/cb", signed("t1", key="wrong"), content("t1"))
    for _ in range(3):
        post(to, "t1", at=NOW - 400)

    assert [event for event in heard if isinstance(event, CallbackClockSkewed)] == [
        CallbackClockSkewed(refused=3, total=3)
    ]


# Listeners


def test_a_listeners_thread_ends_with_it():
    """It waits for no more events: a service that comes and goes leaves no threads behind."""
    to = receiver()
    heard = threading.Event()
    to.subscribe(lambda _event: heard.set())
    before = set(threading.enumerate())
    post(to, "t1")
    assert heard.wait(5.0)
    (thread,) = set(threading.enumerate()) - before
    assert thread.name == "kie-callbacks"
    assert thread.daemon

    to.close()
    thread.join(5.0)
    assert not thread.is_alive()


@jumping
async def test_who_left_misses_nothing():
    """What comes afterwards is no event that somebody was too slow for."""
    to = receiver()

    async def listener(_event: Any) -> None:
        pytest.fail("it has left")

    for leave in (to.subscribe(listener), to.subscribe(print), to.connect(print)):
        leave()
        leave()
    post(to, "t1")
    await asyncio.sleep(1.0)

    assert to.dropped == 0


# Bodies that come in pieces


async def _pieces(*sizes: int, wait: float = 0.0) -> AsyncIterator[bytes]:
    for size in sizes:
        await asyncio.sleep(wait)
        yield b"x" * size


@jumping
async def test_a_body_in_pieces_is_as_long_as_a_whole_one():
    """256 KiB, and not a byte more; what it took of the budget is given back."""
    reading = Reading(10.0)

    assert len(await reading.whole(_pieces(100_000, 162_144))) == 256 * 1024
    with pytest.raises(CallbackError, match="too large"):
        await reading.whole(_pieces(100_000, 162_145))
    assert reading.taken == 0


@jumping
async def test_a_body_has_its_seconds_for_all_of_it():
    """Not for each piece."""
    reading = Reading(10.0)

    assert await reading.whole(_pieces(1, 1, 1, wait=3.3)) == b"xxx"
    with pytest.raises(CallbackError, match="slowly"):
        await reading.whole(_pieces(20_000, 1, 1, wait=3.4))
    assert reading.taken == 0


@jumping
async def test_sixteen_mebibytes_are_for_all_large_bodies_together():
    """The first sixteen KiB of each are free: a small one always has room."""
    reading = Reading(10.0)
    small, large = 16 * 1024, 256 * 1024
    room = 16 * 1024 * 1024

    async def held(size: int) -> AsyncIterator[bytes]:
        yield b"x" * (size // 2)
        yield b"x" * (size - size // 2)
        await asyncio.sleep(5.0)

    full, rest = divmod(room, large - small)
    under_way = [asyncio.create_task(reading.whole(held(large))) for _ in range(full)]
    under_way.append(asyncio.create_task(reading.whole(held(small + rest))))
    await asyncio.sleep(1.0)
    assert reading.taken == room

    assert len(await reading.whole(_pieces(small))) == small
    with pytest.raises(CallbackError, match="too many"):
        await reading.whole(_pieces(small + 1))
    assert sum(map(len, await asyncio.gather(*under_way))) == room + small * (full + 1)
    assert reading.taken == 0


# The small server


@pytest.mark.asyncio
async def test_a_server_for_trying_callbacks_out():
    """On a port of its own; what it heard is read in order, and copies are none."""
    async with CallbackServer([KEY]) as server, aiohttp.ClientSession() as http:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.url.endswith("/kie/cb")
        server.receiver._clock = Clock()
        for name in ("t1", "t1", "t2"):
            async with http.post(server.url, data=content(name), headers=signed(name)) as answer:
                assert (answer.status, answer.content_type) == (200, "application/json")
        async with asyncio.timeout(5.0):
            events = [await server.next_event() for _ in range(2)]
        assert [event.task_id for event in events] == ["t1", "t2"]
        assert all(event.signed for event in events)
        assert server._events.empty()

        left: list[Any] = []
        server.receiver.subscribe(left.append)
    assert not server.receiver._listeners._lines
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", int(server.url.split(":")[2].split("/")[0]))


@pytest.mark.asyncio
async def test_a_server_whose_events_nobody_reads_drops_the_latest(monkeypatch):
    """Its memory is bounded, and it raises nothing."""
    from kie_async.callbacks import _server

    monkeypatch.setattr(_server, "BACKLOG", 2)
    async with CallbackServer([KEY]) as server:
        server.receiver._clock = Clock()
        for number in range(4):
            post(server.receiver, f"t{number}")
        await asyncio.sleep(0)
        async with asyncio.timeout(5.0):
            assert [(await server.next_event()).task_id for _ in range(2)] == ["t0", "t1"]
        assert server._events.empty()


@pytest.mark.asyncio
async def test_a_server_that_cannot_listen_leaves_nothing():
    """The port is taken: it can be tried again, and then each event comes once."""
    async with CallbackServer([KEY]) as first:
        port = int(first.url.split(":")[2].split("/")[0])
        second = CallbackServer([KEY], port=port)
        for _ in range(2):
            with pytest.raises(OSError, match=r"(?i)already in use"):
                await second.__aenter__()
        assert second.receiver._listeners._lines == ()
        assert second._runner is not None
        assert second._runner.server is None
    async with second:
        second.receiver._clock = Clock()
        post(second.receiver, "t1")
        await asyncio.sleep(0)
        assert second._events.qsize() == 1


def _has_ipv6() -> bool:
    import socket

    if not socket.has_ipv6:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as one:
        one.bind(("::1", 0))
        return True
    return False


@pytest.mark.asyncio
@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
async def test_a_server_on_ipv6_shows_its_address_as_urls_do():
    """In brackets."""
    async with CallbackServer([KEY], host="::1") as server:
        assert server.url.startswith("http://[::1]:")


# Asgi


@pytest.mark.asyncio
async def test_a_websocket_is_heard_before_it_is_refused():
    """A server may complain about an answer to what was not asked for yet."""
    done: list[str] = []

    async def receive() -> dict[str, Any]:
        done.append("received")
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        done.append(message["type"])

    await receiver().asgi({"type": "websocket", "path": "/kie/cb"}, receive, send)

    assert done == ["received", "websocket.close"]


@pytest.mark.asyncio
async def test_an_asgi_server_may_start_and_stop_it():
    """Each is answered, and after the stop nothing more is asked for."""
    kinds = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": next(kinds)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await receiver().asgi({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


@pytest.mark.asyncio
@pytest.mark.parametrize("twice", ["x-webhook-signature", "x-webhook-timestamp"])
async def test_an_asgi_answer_is_whole(twice):
    """Type and length are declared; a body may come in messages; a header given twice is none."""
    parts = [content("t1")[:40], content("t1")[40:]]
    pairs = [(name.lower().encode(), value.encode()) for name, value in signed("t1").items()]
    answers = []
    for headers in (pairs, [*pairs, *(pair for pair in pairs if pair[0] == twice.encode())]):
        messages = iter(
            [
                {"type": "http.request", "body": parts[0], "more_body": True},
                {"type": "http.request", "body": parts[1]},
            ]
        )
        sent: list[Any] = []

        async def receive(messages: Any = messages) -> Any:
            return next(messages)

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/kie/cb", "headers": headers}
        await receiver().asgi(scope, receive, send)
        answers.append(sent)
    (start, body), (refusal, _) = answers

    assert (start["type"], start["status"]) == ("http.response.start", 200)
    assert body == {"type": "http.response.body", "body": b'{"code":200,"msg":"success"}'}
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"content-length": b"28",
    }
    assert refusal["status"] == 401
    assert (b"connection", b"close") in refusal["headers"]
