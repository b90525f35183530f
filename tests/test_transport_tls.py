"""TLS: a certificate that is not right stops everything, before anything is sent."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
import trustme

from kie_async.errors import KieConnectionError
from kie_async.transport._api import Transport
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


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """One authority for all tests here; keys take time."""
    return trustme.CA()


def server_side(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    return context


@pytest.fixture
def trusted(authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine trust the authority, for connectors made from now on."""
    from aiohttp import connector

    context = ssl.create_default_context()
    authority.configure_trust(context)
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", context)


async def refused(server: RawServer, wire: Transport) -> KieConnectionError:
    with pytest.raises(KieConnectionError) as caught:
        await wire.send(create(), timeout=5.0)
    assert server.heads == []
    return caught.value


async def test_a_trusted_certificate_is_fine(authority: trustme.CA, trusted: None):
    """The way it is meant: a read, a create, a body in pieces."""
    tls = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(keep_answering, tls=tls) as server, opened(server.url) as wire:
        assert (await wire.send(read(), timeout=5.0)).status == 200
        assert (await wire.send(read(), timeout=5.0)).status == 200
        assert (await wire.send(create(b"x" * 300_000), timeout=5.0)).status == 200

        assert server.connections == 2
        assert server.bodies[-1] == b"x" * 300_000


async def test_an_unknown_authority_is_refused(authority: trustme.CA):
    """The message says what to look at; sending again is no use."""
    tls = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(keep_answering, tls=tls) as server, opened(server.url) as wire:
        error = await refused(server, wire)

    assert (error.sent, error.retryable) == (False, False)
    assert "certificate was refused" in str(error)
    assert "trusted certificates" in str(error)


async def test_a_wrong_name_is_refused(authority: trustme.CA, trusted: None):
    """A good certificate for somebody else."""
    tls = server_side(authority.issue_cert("other.example"))
    async with RawServer(keep_answering, tls=tls) as server, opened(server.url) as wire:
        error = await refused(server, wire)

    assert (error.sent, error.retryable) == (False, False)
    assert "IP address mismatch" in str(error)


async def test_an_expired_certificate_is_refused(authority: trustme.CA, trusted: None):
    """Yesterday's; the message names the clock too."""
    past = datetime.now(UTC) - timedelta(days=2)
    tls = server_side(authority.issue_cert("127.0.0.1", not_after=past))
    async with RawServer(keep_answering, tls=tls) as server, opened(server.url) as wire:
        error = await refused(server, wire)

    assert (error.sent, error.retryable) == (False, False)
    assert "clock" in str(error)


async def test_a_server_without_tls_was_not_sent_to():
    """Speaking https to a plain port: the handshake fails, and it may be passing trouble."""
    async with (
        RawServer(keep_answering) as server,
        opened(server.url.replace("http:", "https:")) as wire,
    ):
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(), timeout=0.4)

    assert not caught.value.sent


async def test_a_peer_that_does_not_read_over_tls_is_cut_off(authority: trustme.CA, trusted: None):
    """As without TLS: what we call unsent never arrives whole."""

    async def hears_nothing(server: RawServer, reader: asyncio.StreamReader,
                            writer: asyncio.StreamWriter) -> None:  # fmt: skip
        await server.go_on.wait()
        await server.request(reader)
        server.created += 1
        writer.write(answer())

    tls = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(hears_nothing, tls=tls) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(b"x" * 20_000_000), timeout=0.5)
        server.go_on.set()
        await server.quiet.wait()

        assert not caught.value.sent
        assert server.created == 0


async def test_a_created_task_over_tls_is_in_doubt(authority: trustme.CA, trusted: None):
    """Silence after the create."""
    tls = server_side(authority.issue_cert("127.0.0.1"))
    async with RawServer(silence, tls=tls) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(), timeout=0.5)

        assert caught.value.sent
        assert server.created == 1


async def test_the_callers_session_brings_its_own_trust(authority: trustme.CA):
    """His SSL context is his; creates are fresh there too, and the name is still checked."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    good = server_side(authority.issue_cert("127.0.0.1"))
    bad = server_side(authority.issue_cert("other.example"))
    async with (
        RawServer(keep_answering, tls=good) as server,
        RawServer(keep_answering, tls=bad) as other,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http,
    ):
        async with opened(server.url, http=http) as wire:
            for request in (read(), create(), create(), read()):
                assert (await wire.send(request, timeout=5.0)).status == 200
        assert server.connections == 3
        wire = transport(other.url, http=http)
        await wire.open()
        error = await refused(other, wire)
        await wire.close()

    assert (error.sent, error.retryable) == (False, False)
