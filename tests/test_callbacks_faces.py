"""Callbacks over real sockets: each face keeps the same contract.

aiohttp.web, the bare ASGI application, and it mounted in Starlette and FastAPI; the last
three are served by uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from kie_async.callbacks import CallbackReceiver, CallbackRefused
from kie_async.instrumentation import Event
from tests.callback_tools import Clock, content, receiver, signed

uvicorn = pytest.importorskip("uvicorn", reason="the ASGI faces need their test tools")
starlette_applications = pytest.importorskip("starlette.applications")
starlette_routing = pytest.importorskip("starlette.routing")
fastapi = pytest.importorskip("fastapi")

Served = contextlib.AbstractAsyncContextManager[int]


@contextlib.asynccontextmanager
async def by_aiohttp(to: CallbackReceiver) -> AsyncIterator[int]:
    """Serve with aiohttp.web and yield the port."""
    app = web.Application()
    to.add_routes(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


class _Server(uvicorn.Server):  # type: ignore[name-defined,misc]  # imported if it is there
    """Says when it has started."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.is_up = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.is_up.set()


@contextlib.asynccontextmanager
async def by_uvicorn(app: Any, lifespan: str = "on") -> AsyncIterator[int]:
    """Serve an ASGI application and yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan=lifespan, backlog=2048,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await asyncio.wait_for(server.is_up.wait(), 10)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def by_asgi(to: CallbackReceiver) -> Served:
    """Serve the bare application, its lifespan included."""
    return by_uvicorn(to.asgi)


def by_starlette(to: CallbackReceiver) -> Served:
    """Mount it in Starlette."""
    mount = starlette_routing.Mount("/kie/cb", app=to.asgi)
    return by_uvicorn(starlette_applications.Starlette(routes=[mount]))


def by_fastapi(to: CallbackReceiver) -> Served:
    """Mount it in FastAPI."""
    app = fastapi.FastAPI()
    app.mount("/kie/cb", to.asgi)
    return by_uvicorn(app)


@pytest.fixture(params=[by_aiohttp, by_asgi, by_starlette, by_fastapi], ids=lambda f: f.__name__)
def serve(request) -> Callable[[CallbackReceiver], Served]:
    """Return each face in turn."""
    return request.param


def request_bytes(
    path: str, headers: dict[str, str], body: bytes, method: str = "POST", *, length: bool = True
) -> bytes:
    """Return a request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: me.example", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def exchange(port: int, sent: bytes, *, end: bool = False) -> tuple[int, bytes]:
    """Send bytes, and return the status and the body that come back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    # A server that does not read a body to its end resets the connection after its answer.
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            if end:
                writer.write_eof()
            async with asyncio.timeout(10):
                while part := await reader.read(65_536):
                    answer += part
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return (int(head.split()[1]), body) if head else (0, b"")


def true_request(to: CallbackReceiver, task_id: str = "t1") -> bytes:
    """Return a true callback, to a path with a reference."""
    path = f"/kie/cb/{to.new_callback_url().reference}"
    return request_bytes(path, signed(task_id), content(task_id))


@pytest.mark.asyncio
async def test_a_true_callback_is_thanked_for_and_rings(serve):
    """And its copy is thanked for as well."""
    to = receiver()
    rung: list[str] = []

    async with serve(to) as port:
        to.connect(lambda event: rung.append(event.task_id))
        sent = true_request(to)
        replies = [await exchange(port, sent) for _ in range(3)]

    assert replies == [(200, b'{"code":200,"msg":"success"}')] * 3
    assert rung == ["t1"]


@pytest.mark.asyncio
async def test_a_body_in_chunks_is_read(serve):
    """With no length declared, and a pause in the middle of a word."""
    to = receiver()
    body = content("t1")
    head = request_bytes(
        f"/kie/cb/{to.new_callback_url().reference}",
        signed("t1", **{"Transfer-Encoding": "chunked"}), b"", length=False,
    )  # fmt: skip
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)

    async with serve(to) as port:
        status, _ = await exchange(port, head + chunks + b"0\r\n\r\n")

    assert status == 200
    assert to.seen("t1")


@pytest.mark.asyncio
async def test_each_refusal_has_its_status_and_the_same_words(serve):
    """Method, reference, signature, age, type, encoding, size, form."""
    to = receiver()
    path = f"/kie/cb/{to.new_callback_url().reference}"
    true, body = signed("t1"), content("t1")
    raw = signed("t1", **{"X-Webhook-Signature": "\xe9" * 44})
    wanted = {
        405: [request_bytes(path, true, body, "PUT"), request_bytes(path, {}, b"", "GET")],
        401: [
            request_bytes("/kie/cb/junk", true, body),
            request_bytes(path, {}, body),
            request_bytes(path, signed("t1", key="wrong"), body),
            request_bytes(path, signed("t1", at=1_700_000_000), body),
            request_bytes(path, raw, body),
            request_bytes(path, {"x-webhook-signature": "A" * 43 + "="} | true, body),
        ],
        415: [
            request_bytes(path, signed("t1", **{"Content-Type": "text/plain"}), body),
            request_bytes(path, signed("t1", **{"Content-Encoding": "gzip"}), gzip.compress(body)),
        ],
        413: [request_bytes(path, true | {"Content-Length": "262145"}, b"x", length=False)],
        400: [request_bytes(path, true, b'{"taskId":'), request_bytes(path, true, b"{}")],
    }

    async with serve(to) as port:
        replies = {
            status: [await exchange(port, request) for request in requests]
            for status, requests in wanted.items()
        }

    refused = b'{"msg":"refused"}'
    assert replies == {status: [(status, refused)] * len(got) for status, got in wanted.items()}
    assert to.pending == 0


@pytest.mark.asyncio
async def test_a_body_without_a_declared_end_is_cut_at_the_cap(serve):
    """The sender goes on and on; the answer comes at 256 KiB."""
    to = receiver()
    head = request_bytes(
        f"/kie/cb/{to.new_callback_url().reference}",
        signed("t1", **{"Transfer-Encoding": "chunked"}), b"", length=False,
    )  # fmt: skip
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"

    async with serve(to) as port:
        status, _ = await exchange(port, head + chunk * 5)

    assert status == 413


@pytest.mark.asyncio
async def test_a_sender_that_leaves_early_leaves_nothing(serve):
    """Its last chunk is missing, and the connection is gone: no event; the service goes on."""
    heard: list[Event] = []
    told = asyncio.Event()

    def hook(event: Event) -> None:
        heard.append(event)
        told.set()

    to = receiver(hooks=[hook])
    head = request_bytes(
        f"/kie/cb/{to.new_callback_url().reference}",
        signed("t1", **{"Transfer-Encoding": "chunked"}), b"", length=False,
    )  # fmt: skip
    body = content("t1")

    async with serve(to) as port:
        await exchange(port, head + b"%x\r\n%b\r\n" % (len(body), body), end=True)
        await asyncio.wait_for(told.wait(), 5)
        assert not to.seen("t1")
        status, _ = await exchange(port, true_request(to))

    assert heard[0] == CallbackRefused(reason="cut", http_status=400)
    assert status == 200


@pytest.mark.asyncio
async def test_a_bomb_does_not_inflate(serve):
    """A gigabyte in a megabyte: refused by its head, and read by nobody."""
    to = receiver()
    bomb = gzip.compress(bytes(64 * 2**20))
    headers = signed("t1", **{"Content-Encoding": "gzip"})
    path = f"/kie/cb/{to.new_callback_url().reference}"

    async with serve(to) as port:
        status, _ = await exchange(port, request_bytes(path, headers, bomb))

    assert status == 415


@pytest.mark.asyncio
async def test_a_thousand_that_trickle_are_closed_in_time(serve):
    """They hold up nobody: a true callback is answered among them."""
    reasons: list[str] = []

    def hook(event: Event) -> None:
        if isinstance(event, CallbackRefused):
            reasons.append(event.reason)

    to = receiver(read_timeout=1.0, hooks=[hook])
    head = request_bytes(
        f"/kie/cb/{to.new_callback_url().reference}", signed("t1", **{"Content-Length": "999"}),
        b"", length=False,
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    writers: list[asyncio.StreamWriter] = []

    async def trickle(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(head + b"{")
        with contextlib.suppress(ConnectionError):
            return await reader.read()
        return b""

    async with serve(to) as port:
        trickles = [asyncio.create_task(trickle(port)) for _ in range(1000)]
        began = loop.time()
        dripping = True

        def drip() -> None:
            for writer in writers:
                if not writer.is_closing():
                    writer.write(b" ")
            if dripping:
                loop.call_later(0.2, drip)

        drip()
        status, _ = await exchange(port, true_request(to))
        answered = loop.time() - began
        answers = await asyncio.wait_for(asyncio.gather(*trickles), 60)
        ended = loop.time() - began
        dripping = False
        for writer in writers:
            writer.close()

    assert status == 200
    assert answered < 30  # most of it: this one process opens a thousand connections
    assert ended < 60  # without a limit they would drip for 200 s
    assert {answer[:12] for answer in answers} <= {b"HTTP/1.1 408", b""}
    assert reasons.count("slow") == 1000


@pytest.mark.asyncio
async def test_bodies_share_a_budget(serve, monkeypatch):
    """Many large ones at once are refused; a small one always has room."""
    from kie_async.callbacks import _reading

    monkeypatch.setattr(_reading, "SHARED", 100_000)
    to = receiver()
    path = f"/kie/cb/{to.new_callback_url().reference}"
    large = request_bytes(path, signed("t1"), b"x" * 90_000)[:-1]

    async with serve(to) as port:
        reader, first = await asyncio.open_connection("127.0.0.1", port)
        first.write(large)
        await first.drain()
        statuses = {(await exchange(port, large + b"x"))[0] for _ in range(3)}
        small, _ = await exchange(port, true_request(to))
        first.write(b"x")
        answer = await asyncio.wait_for(reader.read(), 5)
        first.close()
        await first.wait_closed()

    assert statuses <= {503, 400}
    assert 503 in statuses
    assert small == 200
    assert answer.startswith(b"HTTP/1.1 400 ")  # read to its end, and no JSON
    assert to._reading.taken == 0


@pytest.mark.asyncio
async def test_a_listener_that_hangs_does_not_delay_the_answer(serve):
    """Two hundred answers while it hangs over the first event."""
    to = receiver()

    async def hangs(_event: object) -> None:
        await asyncio.Event().wait()

    async with serve(to) as port:
        to.subscribe(hangs)
        began = asyncio.get_running_loop().time()
        statuses = [(await exchange(port, true_request(to, f"t{n}")))[0] for n in range(50)]
        seconds = asyncio.get_running_loop().time() - began
        to.close()

    assert set(statuses) == {200}
    assert seconds < 10


@pytest.mark.asyncio
async def test_a_handler_fits_any_route_of_aiohttp():
    """For those who want another place for it, behind a prefix of their own."""
    to = receiver()
    app = web.Application()
    app.router.add_post("/hooks/kie/cb/{rest}", to.aiohttp_handler())
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    path = f"/hooks/kie/cb/{to.new_callback_url().reference}"
    try:
        status, _ = await exchange(
            runner.addresses[0][1], request_bytes(path, signed("t1"), content("t1"))
        )
    finally:
        await runner.cleanup()

    assert status == 200


@pytest.mark.asyncio
async def test_the_asgi_face_refuses_websockets():
    """It closes them, and raises nothing."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await receiver().asgi({"type": "websocket", "path": "/kie/cb"}, receive, send)
    await receiver().asgi({"type": "another"}, receive, send)

    assert sent == [{"type": "websocket.close", "code": 1000}]


@pytest.mark.asyncio
@pytest.mark.parametrize(("version", "says"), [("1.1", True), ("2", False)])
async def test_only_http_1_is_told_to_close(version, says):
    """The header is an error in HTTP/2."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        pytest.fail("the body is not to be read")

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/kie/cb", "headers": [],
        "http_version": version,
    }  # fmt: skip
    await receiver().asgi(scope, receive, send)

    assert sent[0]["status"] == 401
    assert ((b"connection", b"close") in sent[0]["headers"]) is says


@pytest.mark.asyncio
async def test_the_read_deadline_is_ten_seconds_by_default():
    """Of real time: a clock on the wall does not end it."""
    from tests.clock import JumpingLoop

    def run() -> tuple[int, float]:
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            return runner.run(slow())

    async def slow() -> tuple[int, float]:
        async def receive() -> dict[str, Any]:
            await asyncio.sleep(3)
            return {"type": "http.request", "body": b" ", "more_body": True}

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(name.encode(), value.encode()) for name, value in signed("t1").items()]
        scope = {"type": "http", "method": "POST", "path": "/kie/cb", "headers": headers}
        await receiver(clock=Clock()).asgi(scope, receive, send)
        return sent[0]["status"], asyncio.get_running_loop().time()

    assert await asyncio.to_thread(run) == (408, 10.0)
