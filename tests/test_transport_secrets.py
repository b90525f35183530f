"""The key: seen by the API's two origins, and by nothing that looks at our errors."""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import traceback
from typing import Any

import aiohttp
import pytest

from kie_async.errors import KieError
from tests.conftest import CANARY_KEY
from tests.wire_servers import RawServer, always, answer, create, opened, read, silence

pytestmark = pytest.mark.asyncio


async def cut(server: RawServer, reader: Any, writer: Any) -> None:
    await server.request(reader)
    writer.write(answer()[:-5])
    writer.close()


async def drop(server: RawServer, reader: Any, writer: Any) -> None:
    await server.request(reader)


FAILURES = {
    "disconnected": drop,
    "not HTTP": always(b"what?\r\n\r\n"),
    "cut": cut,
    "too late": silence,
    "too long": always(answer(b"x" * 3_000_000)),
    "badly encoded": always(answer(b"\x1f\x8b???", extra="Content-Encoding: gzip\r\n")),
}


def chain(error: BaseException) -> list[BaseException]:
    """Return the error and all that hang on it."""
    links, todo = [], [error]
    while todo:
        link = todo.pop()
        links.append(link)
        todo += [other for other in (link.__cause__, link.__context__) if other is not None]
    return links


def shown(error: BaseException) -> str:
    """Return what a crash reporter shows: everything, with the locals of all frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    parts = ["".join(told.format())]
    for link in chain(error):
        parts += [str(link), repr(link), repr(vars(link))]
        frame = link.__traceback__
        while frame is not None:
            for value in frame.tb_frame.f_locals.values():
                parts += [repr(value), repr(getattr(value, "__dict__", ""))]
            frame = frame.tb_next
    return "\n".join(parts)


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("request_of", [create, read], ids=["create", "read"])
async def test_an_error_shows_nothing_of_the_key(
    kind: str, request_of: Any, caplog: pytest.LogCaptureFixture
):
    """Text, repr, chain, locals of all frames, pickle, logs at DEBUG; no aiohttp in sight."""
    caplog.set_level(logging.DEBUG)
    asyncio.get_running_loop().set_debug(True)
    async with RawServer(FAILURES[kind]) as server, opened(server.url, key=CANARY_KEY) as wire:
        with pytest.raises(KieError) as caught:
            await wire.send(request_of(), timeout=1.0 if kind == "too late" else 30.0)
        assert server.heads
        assert CANARY_KEY in server.heads[0]
        server.heads.clear()

        error = caught.value
        assert CANARY_KEY not in shown(error)
        assert not [link for link in chain(error) if isinstance(link, aiohttp.ClientError)]
        assert CANARY_KEY.encode() not in pickle.dumps(error)
        assert CANARY_KEY not in repr(wire)
    assert CANARY_KEY not in caplog.text


async def test_a_cancellation_shows_nothing_of_the_key():
    """It passes through aiohttp, whose frames hold the headers: ours begins anew."""
    async with RawServer(silence) as server, opened(server.url, key=CANARY_KEY) as wire:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.2):
                await wire.send(create(), timeout=30.0)
        server.heads.clear()

        assert CANARY_KEY not in shown(caught.value)
        frames = [
            frame.filename
            for link in chain(caught.value)
            for frame in traceback.extract_tb(link.__traceback__)
        ]
        assert not [name for name in frames if "aiohttp" in name]


async def test_an_unsent_request_shows_nothing_of_the_key():
    """Nobody listens: the connector's error holds the request too."""
    async with RawServer(drop) as server:
        url = server.url
    async with opened(url, key=CANARY_KEY) as wire:
        with pytest.raises(KieError) as caught:
            await wire.send(create(), timeout=2.0)

    assert CANARY_KEY not in shown(caught.value)


async def test_the_key_does_not_follow_a_redirect():
    """Not to another host, and not to http."""
    async with RawServer(silence) as elsewhere:
        moved = answer(b"", "307 Moved", f"Location: {elsewhere.url}/x\r\n")
        async with RawServer(always(moved)) as server, opened(server.url, key=CANARY_KEY) as wire:
            for request in (create(), read()):
                await wire.send(request, timeout=2.0)

        assert elsewhere.connections == 0


async def test_nothing_that_stays_holds_the_key_in_the_open():
    """Between requests no header with the key lies about in the transport or its pools."""
    async with RawServer(always(answer())) as server, opened(server.url, key=CANARY_KEY) as wire:
        await wire.send(create(), timeout=2.0)
        await wire.send(read(), timeout=2.0)
        server.heads.clear()
        gc.collect()

        opened_wire = wire._opened
        assert opened_wire is not None
        inside = opened_wire.wire
        for thing in (wire, opened_wire, inside, inside._reads, inside._creates):
            assert CANARY_KEY not in repr(thing)
            assert CANARY_KEY not in repr(getattr(thing, "__dict__", ""))
        for session in (inside._reads, inside._creates):
            assert CANARY_KEY not in repr(dict(session.headers))


@pytest.mark.parametrize("shift", ["scheme", "authority"])
async def test_the_key_stays_off_when_the_origin_is_not_ours(
    shift: str, monkeypatch: pytest.MonkeyPatch
):
    """A second lock: whatever makes the URL wrong, the key is not put on it."""
    from yarl import URL

    async with RawServer(always(answer())) as server, opened(server.url, key=CANARY_KEY) as wire:
        opened_wire = wire._opened
        assert opened_wire is not None
        wrong = URL("https://api.evil.example/x" if shift == "authority" else
                    server.url.replace("http:", "https:") + "/x")  # fmt: skip
        headers = opened_wire.wire._signed(read(), wrong)

        assert "Authorization" not in headers
        right = opened_wire.wire._signed(read(), URL(f"{server.url}/x"))
        assert right["Authorization"] == f"Bearer {CANARY_KEY}"
