"""Rows T01 to T08 and T27: the request cannot have left, so it may be sent again.

"Not sent" is a `KieConnectionError` with ``sent`` False, which costs nothing.  A single
create is tried five times (``RetryPolicy.attempts``) and then raises it; a bulk run waits
for a network that is away, and stops for what only other settings can mend.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from kie_async import RetryPolicy
from kie_async.emulator import Rule
from kie_async.errors import CreateInDoubtError, KieConnectionError
from kie_async.instrumentation import RequestRetried
from tests.faults.world_t import LONGEST, QUICK, World, world
from tests.faults.world_t_proxy import FaultProxy
from tests.hygiene import asyncio_only

pytestmark = pytest.mark.asyncio

HASTY = 0.3  # seconds for a request that will hang
TWICE = RetryPolicy(attempts=2, base=0.01, cap=0.02)


def retries(w: World) -> int:
    return sum(isinstance(event, RequestRetried) for event in w.events)


def not_sent(w: World, error: object, *, again: bool, attempts: int) -> KieConnectionError:
    """See that *error* says so, and how often it was tried."""
    assert isinstance(error, KieConnectionError)
    assert not isinstance(error, CreateInDoubtError)
    assert (error.sent, error.maybe_charged, error.retryable) == (False, False, again)
    assert retries(w) == attempts - 1
    assert w.books.requests.get("createTask", 0) == 0
    return error


@contextmanager
def names(monkeypatch: pytest.MonkeyPatch, resolve: Callable[..., Any]) -> Iterator[None]:
    """Let every name be looked up by *resolve*."""
    asyncio_only()
    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        yield


def nobody(*_: Any, **__: Any) -> Any:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def at(*hosts: str) -> Callable[..., Any]:
    def resolve(_host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    return resolve


def named(url: str) -> str:
    """Return the address of this machine with a name to look up."""
    return url.replace("127.0.0.1", "localhost")


async def test_fault_T01_the_name_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tried to the end of the budget, then raised as not sent; a run waits for the name."""
    async with world(tmp_path) as w:
        with names(monkeypatch, nobody):
            async with w.session(base_url=named(w.url)) as kie:
                error = await w.create(kie, "single")
            not_sent(w, error, again=True, attempts=QUICK.attempts)
            assert "name cannot be resolved" in str(error)

        looked_up = []

        def soon(host: str, port: int, *more: Any, **options: Any) -> Any:
            looked_up.append(host)
            return at("127.0.0.1")(host, port) if len(looked_up) > 6 else nobody()

        with names(monkeypatch, soon):
            assert await w.statuses(["source-a"], base_url=named(w.url)) == {"source-a": "done"}
        await w.end_well()


async def test_fault_T02_the_name_server_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each attempt ends with its time; the look-up itself cannot be stopped."""
    free = threading.Event()

    def hang(*_: Any, **__: Any) -> Any:
        free.wait(20)
        return nobody()

    async with world(tmp_path) as w:
        with names(monkeypatch, hang):
            hasty = w.session(base_url=named(w.url), request_timeout=HASTY, retry=TWICE)
            async with hasty as kie:
                error = await w.create(kie, "single")
            free.set()
        not_sent(w, error, again=True, attempts=2)
        await w.check()


async def test_fault_T03_one_dead_and_one_live_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Nobody listens at the first; the create goes to the second, once."""
    async with world(tmp_path) as w:
        with names(monkeypatch, at("127.0.0.2", "127.0.0.1")):
            assert await w.statuses(["source-a"], base_url=named(w.url)) == {"source-a": "done"}
        assert retries(w) == 0
        await w.end_well()


async def test_fault_T04_the_connection_is_refused(tmp_path: Path):
    """Sent again until somebody listens; a single create gives up after its attempts."""
    async with world(tmp_path) as w, FaultProxy(w.url) as proxy:
        await proxy.down()
        async with w.session(base_url=proxy.url) as kie:
            not_sent(w, await w.create(kie, "single"), again=True, attempts=QUICK.attempts)

        run = asyncio.create_task(w.statuses(["source-a"], base_url=proxy.url))
        async with asyncio.timeout(LONGEST):
            while retries(w) < 6:  # noqa: ASYNC110 - until it has been refused again
                await asyncio.sleep(0.01)
        await proxy.up()

        assert await run == {"source-a": "done"}
        await w.end_well()


async def test_fault_T05_nobody_answers_the_syn(tmp_path: Path):
    """The queue of the listening socket is full: the connect hangs, and ends in time."""
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        async with world(tmp_path) as w:
            url = f"http://127.0.0.1:{hole.getsockname()[1]}"
            async with w.session(base_url=url, request_timeout=HASTY, retry=TWICE) as kie:
                not_sent(w, await w.create(kie, "single"), again=True, attempts=2)
            await w.check()
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """One authority for all tests here; keys take time."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine trust it."""
    from aiohttp import connector

    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", context)


@contextmanager
def tls_server(certificate: trustme.LeafCert) -> Iterator[tuple[str, list[bytes]]]:
    """Listen with *certificate*; keep what comes through the encryption."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    came: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:  # the test is over
                return
            try:
                with client, context.wrap_socket(client, server_side=True) as talk:
                    came.append(talk.recv(65536))
            except OSError:
                pass  # the client does not trust us

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", came
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("flaw", ["authority", "name", "age"])
async def test_fault_T06_a_certificate_that_is_not_right(
    flaw: str, authority: trustme.CA, trusted: None, tmp_path: Path
):
    """One attempt and no byte of the request; a run stops and keeps its items planned."""
    good_until = datetime.now(UTC) + timedelta(days=-2 if flaw == "age" else 2)
    issuer = trustme.CA() if flaw == "authority" else authority
    name = "other.example" if flaw == "name" else "127.0.0.1"
    with tls_server(issuer.issue_cert(name, not_after=good_until)) as (url, came):
        async with world(tmp_path) as w:
            async with w.session(base_url=url) as kie:
                error = await w.create(kie, "single")
            not_sent(w, error, again=False, attempts=1)
            assert "certificate was refused" in str(error)

            ids = [f"source-{n}" for n in range(5)]
            await w.run(ids, base_url=url)

            assert isinstance(w.stopped_by, KieConnectionError)
            assert (await w.journal.counts()).planned == 5
            assert [piece for piece in came if piece] == []
            await w.end_well()


async def test_fault_T07_the_handshake_stalls(tmp_path: Path):
    """The server takes the greeting and says nothing: not sent, within the time."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="connect", action="silence"))
        url = w.url.replace("http:", "https:")
        async with w.session(base_url=url, request_timeout=HASTY, retry=TWICE) as kie:
            not_sent(w, await w.create(kie, "single"), again=True, attempts=2)
        assert w.books.connections == 2
        await w.check()


async def test_fault_T08_no_connection_is_free(tmp_path: Path):
    """The caller's own pool has one place, and a slow peer holds it: that is no doubt."""
    async with world(tmp_path) as w:
        w.strike("slow", "silence", when="after")
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http:
            hasty = w.session(http=http, request_timeout=0.6)
            async with hasty as kie:
                slow, waiting = await asyncio.gather(
                    w.create(kie, "slow"), w.create(kie, "waiting")
                )

        assert isinstance(slow, CreateInDoubtError)
        assert not isinstance(waiting, CreateInDoubtError)
        assert w.books.paid("waiting") == isinstance(waiting, str)
        await w.check()


@pytest.mark.parametrize(
    ("status", "again"), [("407 Proxy Authentication", False), ("502 Bad", True)]
)
async def test_fault_T27_a_proxy_refuses(status: str, again: bool, tmp_path: Path):
    """Nothing left; 407 needs other settings and is final.  Its password is not shown."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split()[0])
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    asked: list[bytes] = []
    async with world(tmp_path) as w:
        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        proxy = f"http://someone:a-proxy-password@127.0.0.1:{port}"
        async with server, aiohttp.ClientSession(proxy=proxy) as http:
            far = {"base_url": "https://api.invalid", "http": http}
            async with w.session(**far) as kie:
                error = await w.create(kie, "single")
            attempts = QUICK.attempts if again else 1
            not_sent(w, error, again=again, attempts=attempts)
            assert asked == [b"CONNECT"] * attempts
            assert "a-proxy-password" not in f"{error} {error!r} {vars(error)} {w.events}"

            if not again:
                await w.run(["source-a"], **far)
                assert isinstance(w.stopped_by, KieConnectionError)
        await w.end_well()
