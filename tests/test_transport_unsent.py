"""What fails before anything is sent: it may be sent again, and nobody pays twice."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import pytest

from kie_async.errors import KieConnectionError
from tests.hygiene import asyncio_only
from tests.wire_servers import (
    RawServer,
    answer,
    create,
    keep_answering,
    opened,
    read,
    silence,
    transport,
)

pytestmark = pytest.mark.asyncio


@contextmanager
def names(monkeypatch: pytest.MonkeyPatch, resolve: Any) -> Iterator[None]:
    """Let every name be resolved by *resolve*."""
    asyncio_only()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


def addresses(*hosts: str) -> Any:
    def resolve(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    return resolve


async def test_a_refused_connection_was_not_sent():
    """Nobody listens."""
    async with RawServer(keep_answering) as server:
        url = server.url
    async with opened(url) as wire:
        with pytest.raises(KieConnectionError, match=r"Connection refused|Connect call") as caught:
            await wire.send(create(), timeout=2.0)

        assert not caught.value.sent
        assert caught.value.retryable


async def test_an_unknown_name_was_not_sent(monkeypatch: pytest.MonkeyPatch):
    """The name does not resolve; the message says where to look."""

    def nobody(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with names(monkeypatch, nobody):
        async with opened("https://nobody.invalid") as wire:
            with pytest.raises(KieConnectionError, match="name cannot be resolved") as caught:
                await wire.send(create(), timeout=2.0)

    assert not caught.value.sent


async def test_a_resolver_that_hangs_is_left_at_the_deadline(monkeypatch: pytest.MonkeyPatch):
    """It sits in a thread and cannot be stopped; the call ends all the same."""
    free = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        free.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with names(monkeypatch, hang):
        async with opened("https://slow.invalid") as wire:
            started = asyncio.get_running_loop().time()
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(create(), timeout=0.2)
            took = asyncio.get_running_loop().time() - started
            free.set()

    assert not caught.value.sent
    assert took < 1.0


async def test_a_dead_address_beside_a_live_one_does_no_harm(monkeypatch: pytest.MonkeyPatch):
    """The name has two addresses; nobody listens on the first."""
    with names(monkeypatch, addresses("127.0.0.2", "127.0.0.1")):
        async with RawServer(keep_answering) as server:
            url = f"http://api.invalid:{server.port}"
            async with opened(url, allow_insecure=True) as wire:
                response = await wire.send(create(), timeout=3.0)

    assert response.status == 200
    assert server.created == 1


async def test_a_black_hole_was_not_sent():
    """The connection is never accepted: the queue of the listening socket is full."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        async with opened(f"http://127.0.0.1:{hole.getsockname()[1]}") as wire:
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(create(), timeout=0.3)
        for filler in fillers:
            filler.close()

    assert not caught.value.sent


async def test_waiting_for_a_place_in_the_pool_was_not_sent():
    """One connection, taken by a slow peer: the second create never started."""
    connector = aiohttp.TCPConnector(limit=1)
    async with RawServer(silence) as server, aiohttp.ClientSession(connector=connector) as http:
        async with opened(server.url, http=http) as wire:
            first, second = await asyncio.gather(
                wire.send(create(), timeout=0.4),
                wire.send(create(), timeout=0.2),
                return_exceptions=True,
            )

        assert isinstance(first, KieConnectionError)
        assert isinstance(second, KieConnectionError)
        assert (first.sent, second.sent) == (True, False)
        assert server.created == 1


@pytest.mark.parametrize(("status", "again"), [("407 Auth", False), ("502 Bad", True)])
async def test_a_proxy_that_refuses_was_not_sent(status: str, again: bool):
    """CONNECT is refused: the request never left; only 407 needs other settings."""

    async def script(_server: RawServer, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    async with RawServer(script) as server, aiohttp.ClientSession(proxy=server.url) as http:
        wire = transport("https://api.invalid", http=http)
        await wire.open()
        with pytest.raises(KieConnectionError, match="proxy refused") as caught:
            await wire.send(create(), timeout=2.0)
        await wire.close()

    assert not caught.value.sent
    assert caught.value.retryable is again


async def test_a_read_tells_too_what_was_not_sent():
    """A read without a body has the connector's word for it, and no other."""
    async with RawServer(silence) as server:
        async with opened(server.url) as wire:
            with pytest.raises(KieConnectionError) as lost:
                await wire.send(read(), timeout=0.2)
        url = server.url
    async with opened(url) as wire:
        with pytest.raises(KieConnectionError) as refused:
            await wire.send(read(), timeout=2.0)

    assert (lost.value.sent, refused.value.sent) == (True, False)


async def test_closing_while_a_name_is_looked_up_is_an_error_and_no_cancellation(
    monkeypatch: pytest.MonkeyPatch,
):
    """The pool cancels the look-up; nobody cancelled the caller."""
    free, asked = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        asked.set()
        free.wait(10)
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with names(monkeypatch, hang):
        wire = transport("https://slow.invalid")
        await wire.open()
        task = asyncio.create_task(wire.send(create(), timeout=10.0))
        await asyncio.to_thread(asked.wait, 5.0)
        await wire.close()
        with pytest.raises(KieConnectionError, match="closed meanwhile") as caught:
            await task
        free.set()

    assert not caught.value.sent


async def test_a_handshake_that_fails_was_not_sent():
    """The server answers the greeting with plain text; it may be passing trouble."""

    async def plain(_server: RawServer, reader: Any, writer: Any) -> None:
        await reader.read(1)
        writer.write(answer(b"", "400 Bad Request"))
        await reader.read()

    async with RawServer(plain) as server, opened(server.url.replace("http", "https")) as wire:
        with pytest.raises(KieConnectionError, match="encrypted") as caught:
            await wire.send(create(), timeout=5.0)

    assert (caught.value.sent, caught.value.retryable) == (False, True)
