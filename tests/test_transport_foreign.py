"""The caller's own aiohttp session: used, never closed, and never trusted too far."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from kie_async.errors import KieConnectionError, SessionClosedError, UsageError, WrongLoopError
from tests.wire_servers import (
    KEY,
    RawServer,
    always,
    answer,
    create,
    header,
    keep_answering,
    opened,
    read,
    reset,
    silence,
    transport,
)

pytestmark = pytest.mark.asyncio


async def again(request: Any, handler: Any) -> Any:
    """A middleware that repeats whatever fails."""
    for _ in range(3):
        response = await handler(request)
        if response.status < 400:
            break
    return response


async def test_a_strange_session_gives_the_same_answers():
    """base_url, raise_for_status, headers, timeouts, middlewares: none of them matters."""
    async with (
        RawServer(always(answer(b"{}", "500 Oops"))) as server,
        RawServer(silence) as elsewhere,
        aiohttp.ClientSession(
            base_url=f"{elsewhere.url}/",
            raise_for_status=True,
            headers={"Authorization": "Bearer theirs", "Content-Type": "text/plain", "X-Own": "1"},
            timeout=aiohttp.ClientTimeout(total=0.000001),
            middlewares=(again,),
            auto_decompress=True,
        ) as http,
    ):
        async with opened(server.url, http=http) as wire:
            for request in (create(), read()):
                response = await wire.send(request, timeout=5.0)
                assert (response.status, response.body) == (500, b"{}")

        assert not http.closed
        assert elsewhere.connections == 0
        assert len(server.heads) == 2
        for head in server.heads:
            assert header(head, "authorization") == f"Bearer {KEY}"
            assert header(head, "content-type") == "application/json"
            assert header(head, "x-own") == "1"
            assert head.lower().count("authorization") == 1


async def test_a_create_gets_a_fresh_connection_in_a_pool_that_is_not_ours():
    """Idle connections of reads, and of earlier creates, are left alone."""
    async with RawServer(keep_answering) as server, aiohttp.ClientSession() as http:
        async with opened(server.url, http=http) as wire:
            for _ in range(3):
                await wire.send(read(), timeout=5.0)
            before = server.connections
            for _ in range(3):
                await wire.send(create(), timeout=5.0)
                await wire.send(read(), timeout=5.0)

        assert before == 1
        assert server.connections == 1 + 3


async def test_redirects_are_not_followed_with_it_either():
    """The key and the body stay where they are."""
    async with RawServer(keep_answering) as elsewhere, aiohttp.ClientSession() as http:
        moved = answer(b"", "308 Moved", f"Location: {elsewhere.url}/\r\n")
        async with RawServer(always(moved)) as server, opened(server.url, http=http) as wire:
            for request in (create(), read()):
                assert (await wire.send(request, timeout=5.0)).status == 308

        assert elsewhere.connections == 0


async def test_what_may_have_left_is_sent_with_it_too():
    """The proof is our own body, not the session."""

    async def created_then_reset(server: RawServer, reader: Any, writer: Any) -> None:
        await server.request(reader)
        server.created += 1
        reset(writer)

    async with RawServer(created_then_reset) as server, aiohttp.ClientSession() as http:
        async with opened(server.url, http=http) as wire:
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(create(), timeout=5.0)

        assert caught.value.sent
        assert server.created == 1


async def test_its_own_credentials_are_refused_at_once():
    """Because aiohttp would refuse each request, late and obscurely."""
    with pytest.warns(DeprecationWarning, match="auth"):
        http = aiohttp.ClientSession(auth=aiohttp.BasicAuth("a", "b"))
    async with http:
        with pytest.raises(UsageError, match="auth="):
            await transport("https://api.kie.ai", http=http).open()


async def test_credentials_from_netrc_are_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
):
    """trust_env with an entry for the host: nothing was sent, and trying again is no use."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with RawServer(keep_answering) as server, aiohttp.ClientSession(trust_env=True) as http:
        async with opened(server.url, http=http) as wire:
            with pytest.raises(KieConnectionError, match="netrc") as caught:
                await wire.send(create(), timeout=5.0)

        assert (caught.value.sent, caught.value.retryable) == (False, False)
        assert server.connections == 0


async def test_a_session_that_its_owner_closed_is_told_apart():
    """Before opening and after."""
    http = aiohttp.ClientSession()
    wire = transport("https://api.kie.ai", http=http)
    await wire.open()
    await http.close()

    with pytest.raises(SessionClosedError):
        await wire.send(create(), timeout=1.0)
    await wire.close()
    with pytest.raises(SessionClosedError):
        await wire.open()


async def test_a_session_of_another_loop_is_told_apart():
    """Because aiohttp itself fails later, and as if it were the network."""
    http = aiohttp.ClientSession()

    async def elsewhere() -> None:
        with pytest.raises(WrongLoopError):
            await transport("https://api.kie.ai", http=http).open()

    await asyncio.to_thread(asyncio.run, elsewhere())
    await http.close()


async def test_the_cookies_of_its_jar_are_its_owners_affair():
    """What cannot be switched off for one request, and is documented."""
    sets = answer(extra="Set-Cookie: a=b; Path=/\r\n")
    jars = {aiohttp.CookieJar(unsafe=True): "a=b", aiohttp.DummyCookieJar(): None}
    for jar, sent_back in jars.items():
        async with (
            RawServer(always(sets)) as server,
            aiohttp.ClientSession(cookie_jar=jar) as http,
            opened(server.url, http=http) as wire,
        ):
            await wire.send(read(), timeout=5.0)
            await wire.send(read(), timeout=5.0)

            assert header(server.heads[1], "cookie") == sent_back
