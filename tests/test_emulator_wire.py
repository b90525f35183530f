"""The emulator's faults of the wire, seen with plain sockets: no HTTP library in between."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from kie_async import KieSession
from kie_async.emulator import ACTIONS, Emulator, Rule

CLOSING = {"Connection": "close"}


def create_body(source: str, callback: str | None = None) -> bytes:
    """Return the body of an upscale."""
    body: dict[str, Any] = {"model": "grok-imagine/upscale", "input": {"task_id": source}}
    return json.dumps({**body, "callBackUrl": callback} if callback else body).encode()


class Plug:
    """One connection to an emulator."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: bytes | ConnectionResetError

    def __init__(self, emulator: Any) -> None:
        self._url, self._key = emulator.url, emulator.api_key

    async def __aenter__(self) -> Self:
        host, _, port = self._url.removeprefix("http://").partition(":")
        self.reader, self.writer = await asyncio.open_connection(host, int(port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        """Send one request."""
        fields = {
            "Host": "kie",
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body or b"")),
            **headers,
        }
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        await self.writer.drain()

    async def rest(self) -> bytes:
        """Return all that comes until the end; a reset is raised."""
        async with asyncio.timeout(20):
            return await self.reader.read()


async def exchange(
    emulator: Any,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a connection of its own; return status, headers and body."""
    async with Plug(emulator) as plug:
        await plug.ask(method, path, body, **{"Connection": "close", **(headers or {})})
        head, _, rest = (await plug.rest()).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    fields = {name.lower(): value for name, _, value in pairs}
    if fields.get("transfer-encoding") == "chunked":
        rest = unchunked(rest)
    return int(first.split()[1]), fields, rest


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until *condition* is true."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - reason: the emulator's books tell nobody
            await asyncio.sleep(0)


def unchunked(data: bytes) -> bytes:
    """Join the chunks of a body."""
    whole = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        whole, data = whole + data[:length], data[length + 2 :]
    return whole


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[tuple[str, asyncio.Queue[tuple[str, bytes]]]]:
    """Run a callback receiver; yield its address, and what was posted to it."""
    posted: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
        await posted.put((head, await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(receive, "127.0.0.1", 0, limit=2**20)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", posted


CREDIT = "/api/v1/chat/credit"
CREATE = "/api/v1/jobs/createTask"


async def struck(action: object, *, when: str = "before", **fields: Any) -> tuple[Plug, Emulator]:
    """Return what a create leaves on the wire under one fault, to its end."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="createTask", action=action, when=when, **fields))
        async with Plug(emulator) as plug:
            await plug.ask("POST", CREATE, create_body("a-source"), **CLOSING)
            try:
                plug.got = await plug.rest()
            except ConnectionResetError as error:
                plug.got = error
    return plug, emulator


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_connection_can_end_without_an_answer(when):
    """A FIN is an end without bytes, a RST an error; paid for only after the work."""
    paid = {"before": {}, "after": {"a-source": 1}}[when]
    closed, first = await struck("fin", when=when)
    reset, second = await struck("rst", when=when)

    assert closed.got == b""
    assert isinstance(reset.got, ConnectionResetError)
    assert first.books.paid == second.books.paid == paid


@pytest.mark.asyncio
async def test_an_answer_can_stop_anywhere():
    """In the status line, in the headers, in the body; and then be silent or reset."""
    status, _ = await struck("half-status", when="after")
    headers, _ = await struck("half-headers", when="after")
    body, _ = await struck("cut", cut=20)
    chunk, _ = await struck("cut", cut=20, framing="chunked")
    close, _ = await struck("cut", cut=20, framing="close")
    reset, _ = await struck("cut", cut=20, then="rst")

    assert status.got == b"HTTP/1.1"
    assert headers.got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n\r\n" not in headers.got
    assert body.got.partition(b"\r\n\r\n")[2] == b'{"code":200,"msg":"s'
    assert b"Content-Length: 1" in body.got
    assert chunk.got.partition(b"\r\n\r\n")[2].partition(b"\r\n")[2] == b'{"code":200,"msg":"s'
    assert b"Content-Length" not in close.got
    assert isinstance(reset.got, ConnectionResetError)


@pytest.mark.asyncio
async def test_bytes_can_be_wrong_or_too_many_or_slow():
    """Garbage, extra, drips, and whatever a callable writes."""
    garbage, _ = await struck("garbage")
    extra, _ = await struck("extra")
    drip, _ = await struck("drip", gap=0.0, size=9)
    drip_all, _ = await struck("drip-all", gap=0.0, size=50)
    own, _ = await struck(lambda request, answer: b"HTTP/1.1 200 OK\r\nX: \xff\r\n")

    assert not garbage.got.startswith(b"HTTP")
    assert extra.got.endswith(b"}}extra bytes")
    assert json.loads(drip.got.partition(b"\r\n\r\n")[2])["code"] == 200
    assert json.loads(drip_all.got.partition(b"\r\n\r\n")[2])["code"] == 200
    assert own.got == b"HTTP/1.1 200 OK\r\nX: \xff\r\n"


@pytest.mark.asyncio
async def test_silence_lasts_until_the_client_hangs_up():
    """The create was paid for; half an answer can be followed by silence, too."""
    for fields in ({"action": "silence", "when": "after"}, {"action": "half-status"}):
        async with Emulator() as emulator:
            emulator.inject(Rule(route="createTask", then="silence", **fields))
            async with Plug(emulator) as plug:
                await plug.ask("POST", CREATE, create_body("a-source"))
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await plug.reader.read()
            await until(lambda: emulator.books.open_now == 0)

        assert emulator.books.paid("a-source") == (fields["action"] == "silence")


@pytest.mark.asyncio
async def test_an_endless_answer_goes_on_until_the_client_hangs_up():
    """Chunk after chunk."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="credit", action="endless"))
        async with Plug(emulator) as plug:
            await plug.ask("GET", CREDIT)
            got = await plug.reader.readexactly(4 * 2**20)
        await until(lambda: emulator.books.open_now == 0)

    assert b"transfer-encoding: chunked" in got[:400].lower()


@pytest.mark.asyncio
async def test_a_body_can_stay_unread_or_meet_a_reset():
    """The one takes no byte of it, the other none of the rest."""
    large = b" " * (32 * 2**20)
    async with Emulator() as emulator:
        emulator.inject(Rule(route="createTask", action="unread", times=1))
        emulator.inject(Rule(route="createTask", action="rst-early"))
        async with Plug(emulator) as plug:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await plug.ask("POST", CREATE, large)
            plug.writer.transport.abort()
        async with Plug(emulator) as plug:
            with pytest.raises(ConnectionError):
                await plug.ask("POST", CREATE, large)
                await plug.rest()

    assert emulator.books.creates == []
    assert emulator.books.requests["createTask"] == 2


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connections_can_be_refused_as_soon_as_they_are_made(loop):
    """The first is closed, the second reset, the third left alone, the fourth served."""
    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(refused_connections())


async def refused_connections() -> None:
    """Meet the first four connections of an emulator that ends three of them."""
    async with Emulator() as emulator:
        for number, action in enumerate(("fin", "rst", "silence")):
            emulator.inject(Rule(route="connect", action=action, nth=number))
        async with Plug(emulator) as plug:
            closed = await plug.rest()
        async with Plug(emulator) as plug:
            with pytest.raises(ConnectionResetError):
                await plug.rest()
        async with Plug(emulator) as silent:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await silent.reader.read()
        status, _, _ = await exchange(emulator, "GET", CREDIT)

    assert closed == b""
    assert status == 200
    assert emulator.connections == 4


@pytest.mark.asyncio
async def test_work_that_is_late_is_done_although_nobody_waits():
    """The client has gone, and the task is created and paid for all the same."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="createTask", action="delay", delay=0.1))
        async with Plug(emulator) as plug:
            await plug.ask("POST", CREATE, create_body("a-source"))
            await until(lambda: emulator.books.requests.get("createTask"))
            before = dict(emulator.books.paid)
        await until(lambda: emulator.books.creates)

    assert before == {}
    assert emulator.books.paid == {"a-source": 1}


@pytest.mark.asyncio
async def test_an_answer_can_be_late():
    """The work was done at once."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="createTask", action="delay", when="after", delay=0.1))
        async with Plug(emulator) as plug:
            await plug.ask("POST", CREATE, create_body("a-source"))
            await until(lambda: emulator.books.creates)
            answered = bool(plug.reader._buffer)
            line = await plug.reader.readline()

    assert not answered
    assert line == b"HTTP/1.1 200 OK\r\n"


OTHERS = {
    "html": (b"502", b"text/html"),
    "status": (b"502", b"application/json"),
    "envelope": (b"502", b'"code":500'),
    "too-many": (b"502", b'"code":429'),
    "maintenance": (b"502", b'"code":455'),
    "maintained": (b"502", b"being maintained"),
    "body": (b"502", b"application/json"),
    "redirect": (b"502", b"Location: "),
    "expired": (b"502", b"AccessDenied"),
    "blocked": (b"403", b"error code: 1010"),
    "bomb": (b"502", b"Content-Encoding: gzip"),
    "gzip": (b"200", b"Content-Encoding: gzip"),
    "not-gzip": (b"200", b"Content-Encoding: gzip"),
    "wrong-type": (b"200", b"text/html"),
    "set-cookie": (b"200", b"JSESSIONID"),
    "headers": (b"200", b"X-Own: 1"),
    "patch": (b"200", b'"data":null'),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("action", OTHERS)
async def test_other_answers_arrive_as_they_were_made(action):
    """Each on the wire, with its status."""
    plug, _ = await struck(action, status=502, size=2**20, headers={"X-Own": "1"})
    status, part = OTHERS[action]

    assert plug.got.split()[1] == status
    assert part in plug.got
    assert b"X-Own: 1" in plug.got


def test_every_action_for_requests_is_tried_somewhere():
    """On a socket here, or without one beside the other rules."""
    here = Path(__file__).parent
    text = "".join((here / f"test_emulator_{n}.py").read_text() for n in ("wire", "rules"))

    assert [name for kind in ACTIONS.values() for name in kind if f'"{name}"' not in text] == []


@pytest.mark.asyncio
async def test_clients_that_leave_before_the_answer_are_nothing_to_hear_of(caplog):
    """Whoever kills a client of the emulator sees no traceback of it."""
    async with Emulator(rate=None) as emulator:
        host, port = emulator.url.removeprefix("http://").split(":")
        asked = (
            f"GET /api/v1/chat/credit HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {emulator.api_key}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        for steps in range(20):  # at every point on the way
            _reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(asked.encode())
            for _ in range(steps):
                await asyncio.sleep(0)
            writer.transport.abort()
        async with KieSession(emulator.api_key, base_url=emulator.url) as kie:
            assert await kie.get_credits() > 0

    assert not [row for row in caplog.records if row.levelno >= logging.ERROR]
