"""The transport: what goes out, what comes in, and over which connections."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

import kie_async
from kie_async.errors import (
    KieConnectionError,
    UsageError,
)
from kie_async.protocol import Request
from tests.aioresponses_shim import CallbackResult, aioresponses
from tests.wire_servers import (
    ACCEPTED,
    KEY,
    TASK_ID,
    RawServer,
    always,
    answer,
    create,
    header,
    keep_answering,
    opened,
    read,
)

API = "https://api.kie.ai"
READ = f"{API}/api/v1/jobs/recordInfo?taskId={TASK_ID}"
CREATE = f"{API}/api/v1/jobs/createTask"


@pytest.mark.asyncio
async def test_an_answer_is_status_headers_and_body():
    """Whatever the status, and whatever a session's raise_for_status would do."""
    for status in (200, 204, 404, 429, 500, 503):
        with aioresponses() as mocked:
            mocked.get(READ, status=status, body=b"{}", headers={"Retry-After": "7"})
            async with opened(API) as wire:
                response = await wire.send(read(), timeout=5.0)

        assert (response.status, response.body) == (status, b"{}")
        assert response.headers["retry-after"] == "7"


@pytest.mark.asyncio
async def test_a_create_goes_out_as_it_is():
    """Method, address, bytes and headers."""
    with aioresponses() as mocked:
        mocked.post(CREATE, body=ACCEPTED)
        async with opened(API) as wire:
            response = await wire.send(create(b'{"a":1}'), timeout=5.0)
        ((_, sent),) = [(key, calls[0].kwargs) for key, calls in mocked.requests.items()]

    assert response.body == ACCEPTED
    assert sent["data"] == b'{"a":1}'
    assert sent["headers"]["Authorization"] == f"Bearer {KEY}"
    assert sent["headers"]["Content-Type"] == "application/json"
    assert sent["allow_redirects"] is False
    assert sent["raise_for_status"] is False


BROKEN = [
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientOSError(104, "Connection reset by peer"),
    aiohttp.SocketTimeoutError(),
    aiohttp.ClientPayloadError("cut"),
    aiohttp.ClientConnectionError("?"),
    TimeoutError(),
    OSError(5, "Input/output error"),
    RuntimeError("?"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("error", BROKEN, ids=lambda e: type(e).__name__)
async def test_an_error_that_proves_nothing_means_sent(error: Exception):
    """Also where something stands in for aiohttp and never touched the body."""
    for request, mock in ((create(), "post"), (read(), "get")):
        with aioresponses() as mocked:
            getattr(mocked, mock)(CREATE if request.paid else READ, exception=error)
            async with opened(API) as wire:
                with pytest.raises(KieConnectionError) as caught:
                    await wire.send(request, timeout=5.0)

        assert caught.value.sent
        assert type(error).__name__ in str(caught.value)


@pytest.mark.asyncio
async def test_a_mock_that_sleeps_past_the_deadline_means_sent():
    """The deadline alone proves nothing."""

    async def sleepy(_url: Any, **_: Any) -> CallbackResult:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    with aioresponses() as mocked:
        mocked.post(CREATE, callback=sleepy)
        async with opened(API) as wire:
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(create(), timeout=0.05)

    assert caught.value.sent


@pytest.mark.asyncio
async def test_an_error_names_the_request_without_its_query():
    """Method, path, class, reason."""
    with aioresponses() as mocked:
        mocked.get(READ, exception=aiohttp.ServerDisconnectedError())
        async with opened(API) as wire:
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(read(), timeout=5.0)

    assert str(caught.value) == (
        "GET /api/v1/jobs/recordInfo: ServerDisconnectedError: "
        "the server closed the connection before it had answered"
    )


# -- headers --------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_the_headers_on_the_wire():
    """Also a GET has a content type: without it Kie was seen to answer differently."""
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        await wire.send(read(), timeout=5.0)
        await wire.send(create(), timeout=5.0)

        for head in server.heads:
            assert header(head, "authorization") == f"Bearer {KEY}"
            assert header(head, "content-type") == "application/json"
            assert header(head, "accept-encoding") == "gzip, deflate"
            agent = f"kie_async/{kie_async.__version__} (+python aiohttp)"
            assert header(head, "user-agent") == agent
            assert header(head, "cookie") is None
            assert head.lower().count("authorization:") == 1
        assert server.heads[0].startswith(f"GET /api/v1/jobs/recordInfo?taskId={TASK_ID} HTTP/1.1")
        assert header(server.heads[1], "connection") == "close"


@pytest.mark.asyncio
async def test_an_upload_goes_to_its_host_with_its_content_type():
    """Two hosts, one key, each request to its own."""
    form = Request(
        method="POST",
        path="/api/file-stream-upload",
        body=b"--b--",
        host="upload",
        content_type="multipart/form-data; boundary=b",
    )
    async with RawServer(keep_answering) as api, RawServer(keep_answering) as upload:
        async with opened(f"{api.url}/v9", upload_url=f"{upload.url}/up") as wire:
            await wire.send(form, timeout=5.0)
            await wire.send(read(), timeout=5.0)

        assert upload.heads[0].startswith("POST /up/api/file-stream-upload HTTP/1.1")
        assert header(upload.heads[0], "content-type") == "multipart/form-data; boundary=b"
        assert header(upload.heads[0], "authorization") == f"Bearer {KEY}"
        assert api.heads[0].startswith("GET /v9/api/v1/jobs/recordInfo?")
        assert (len(api.heads), len(upload.heads)) == (1, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "path",
    ["", "x", "@evil.example/", ".evil.example/", ":1/", "http://evil.example/", "/a b", "/a#b",
     "/\r\nX: y", "/ä", "/a\\b", "/\x00", "/\x7f"],
)  # fmt: skip
async def test_a_path_cannot_turn_the_request_elsewhere(path: str):
    """What would change the host or the headers is refused; nothing is sent."""
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        with pytest.raises(UsageError):
            await wire.send(Request(method="GET", path=path), timeout=1.0)

        assert server.connections == 0


@pytest.mark.asyncio
async def test_a_doubled_slash_stays_on_the_host():
    """It is a path, not an authority."""
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        await wire.send(Request(method="GET", path="//evil.example/x"), timeout=5.0)

        assert server.heads[0].startswith("GET //evil.example/x HTTP/1.1")


@pytest.mark.asyncio
@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b"])
async def test_a_header_cannot_be_injected(value: str):
    """The client refuses it, we say that nothing was sent, and the server sees nothing."""
    request = Request(method="POST", path="/x", body=b"{}", paid=True, content_type=value)
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(request, timeout=1.0)

        assert not caught.value.sent
        assert not caught.value.retryable
        assert server.created == 0


@pytest.mark.asyncio
async def test_cookies_are_never_sent_back():
    """Neither on the same connection nor on the next."""
    sets = answer(extra="Set-Cookie: a=b; Path=/\r\n")
    async with RawServer(always(sets)) as server, opened(server.url) as wire:
        for _ in range(2):
            await wire.send(read(), timeout=5.0)
            await wire.send(create(), timeout=5.0)

        assert [header(head, "cookie") for head in server.heads] == [None] * 4


@pytest.mark.asyncio
async def test_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    """Proxies and netrc of the environment have no say."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        await wire.send(read(), timeout=5.0)

        assert header(server.heads[0], "authorization") == f"Bearer {KEY}"


# -- connections ----------------------------------------------------------------------


@pytest.mark.asyncio
async def test_reads_share_a_connection_and_creates_get_fresh_ones():
    """A warm one is cheap; a reused one can leave a create in doubt."""
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        for _ in range(5):
            await wire.send(read(), timeout=5.0)
        after_reads = server.connections
        for _ in range(5):
            await wire.send(create(), timeout=5.0)

        assert (after_reads, server.connections) == (1, 6)


@pytest.mark.asyncio
async def test_reads_never_have_more_than_a_hundred_connections():
    """Above that, more sockets cost more and bring nothing."""
    together = asyncio.Barrier(100)

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        while True:
            await server.request(reader)
            await together.wait()
            writer.write(answer())

    async with RawServer(script) as server, opened(server.url) as wire:
        await asyncio.gather(*(wire.send(read(), timeout=20.0) for _ in range(300)))

        assert server.connections == 100


@pytest.mark.asyncio
async def test_a_connection_that_the_server_closed_harms_no_create():
    """The server closes each connection when it has answered: nothing is in doubt."""

    async def one_answer(server: RawServer, reader: Any, writer: Any) -> None:
        await server.request(reader)
        writer.write(answer())

    async with RawServer(one_answer) as server, opened(server.url) as wire:
        for _ in range(20):
            assert (await wire.send(create(), timeout=5.0)).status == 200

        assert server.connections == 20
