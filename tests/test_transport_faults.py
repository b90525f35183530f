"""Faults on the wire, each against the server's ground truth.

``sent`` may be True when nothing was created; it must never be False when something was.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from kie_async.errors import KieConnectionError
from kie_async.protocol import Response
from kie_async.transport import _body
from kie_async.transport._answer import Answer
from kie_async.transport._body import Body
from tests.wire_servers import (
    ACCEPTED,
    TASK_ID,
    RawServer,
    Script,
    always,
    answer,
    create,
    keep_answering,
    opened,
    read,
    reset,
    silence,
)

BIG = b"x" * 12_000_000  # more than the kernel takes for a peer that does not read

pytestmark = pytest.mark.asyncio


async def fin_unread(server: RawServer, reader: Any, writer: Any) -> None:
    writer.close()


async def rst_unread(server: RawServer, reader: Any, writer: Any) -> None:
    reset(writer)


async def rst_after_headers(server: RawServer, reader: Any, writer: Any) -> None:
    await reader.readuntil(b"\r\n\r\n")
    reset(writer)


async def read_then_fin(server: RawServer, reader: Any, writer: Any) -> None:
    await server.request(reader)
    writer.close()


async def created_then_rst(server: RawServer, reader: Any, writer: Any) -> None:
    await server.request(reader)
    server.created += 1
    reset(writer)


def created_then(data: bytes) -> Script:
    """Create, say *data*, close."""

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        await server.request(reader)
        server.created += 1
        writer.write(data)
        writer.close()

    return script


IN_DOUBT: dict[str, Script] = {
    "accepts, then RST": rst_unread,
    "accepts, then FIN": fin_unread,
    "reads, creates nothing, FIN": read_then_fin,
    "creates, FIN": created_then(b""),
    "creates, RST": created_then_rst,
    "creates, silence": silence,
    "half of the status line": created_then(b"HTTP/1.1 20"),
    "half of the headers": created_then(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    "half of the body": created_then(answer()[:-30]),
    "garbage": created_then(b"\x00\x01\x02 what? \xff\xfe\r\n\r\n"),
    "something behind a good answer": created_then(answer() + b"and more"),
    "two lengths": created_then(answer(extra="Content-Length: 3\r\n")),
    "length and chunks": created_then(answer(extra="Transfer-Encoding: chunked\r\n")),
    "a header of 70 KB": created_then(answer(extra=f"X: {'y' * 70_000}\r\n")),
    "a thousand headers": created_then(answer(extra="X: y\r\n" * 1000)),
    "a broken chunk": created_then(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"
    ),
}


@pytest.mark.parametrize("script", IN_DOUBT.values(), ids=list(IN_DOUBT))
async def test_what_may_have_arrived_is_never_called_unsent(script: Script):
    """Whatever the exception's class: the request left, so nobody can know."""
    async with RawServer(script) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(), timeout=0.4)

        assert caught.value.sent
        assert server.created <= 1
        assert server.connections == 1


async def hears_nothing(server: RawServer, reader: Any, writer: Any) -> None:
    await server.go_on.wait()
    await server.request(reader)
    server.created += 1
    writer.write(answer())


@pytest.mark.parametrize("piece", [65536, 2**30], ids=["in pieces", "in one piece"])
async def test_a_peer_that_does_not_read_is_cut_off_before_it_is_called_unsent(
    piece: int, monkeypatch: pytest.MonkeyPatch
):
    """It reads on after we gave up, and still never gets the whole body.

    A plain aiohttp request of one piece delivers all of it: closing flushes the buffer.
    """
    monkeypatch.setattr(_body, "_PIECE", piece)
    async with RawServer(hears_nothing) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(BIG), timeout=0.3)
        server.go_on.set()
        await server.quiet.wait()

        assert not caught.value.sent
        assert server.created == 0


async def test_what_the_kernel_took_is_not_called_unsent():
    """The peer reads after we gave up and creates: we said that it may have been sent."""
    async with RawServer(hears_nothing) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(b"x" * 100_000), timeout=0.2)
        server.go_on.set()
        await server.quiet.wait()

        assert server.created == 1
        assert caught.value.sent


async def test_a_reset_in_the_middle_of_the_body_is_proof():
    """The peer reads the headers of 8 MB and resets: the body cannot have arrived."""
    async with RawServer(rst_after_headers) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(BIG), timeout=2.0)

        assert not caught.value.sent
        assert server.created == 0


async def test_an_early_answer_to_a_big_body_is_an_answer():
    """413 before the body was read is read, and the rest of the body is not sent."""

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(b"{}", status="413 Too Large"))
        await server.go_on.wait()

    async with RawServer(script) as server, opened(server.url) as wire:
        response = await wire.send(create(BIG), timeout=2.0)

        assert response.status == 413


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 3_000_000])
async def test_a_body_of_any_size_arrives_whole(size: int):
    """Nothing is lost or doubled at the borders of the pieces."""
    body = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        response = await wire.send(create(body), timeout=5.0)

        assert response.body == ACCEPTED
        assert server.bodies == [body]


@pytest.mark.parametrize("status", ["502 Bad Gateway", "524 A Timeout Occurred", "200 OK"])
async def test_a_page_instead_of_an_answer_is_left_to_the_rules(status: str):
    """HTML, or JSON without an id, is a Response: the transport judges nothing."""
    async with (
        RawServer(always(answer(b"<html>", status=status))) as server,
        opened(server.url) as wire,
    ):
        response = await wire.send(create(), timeout=2.0)

        assert (response.status, response.body) == (int(status[:3]), b"<html>")


async def test_an_answer_cut_at_every_byte_keeps_what_came():
    """Cut anywhere: nothing wrong is made of it, and what came of the body is kept."""
    whole = answer()
    head = len(whole) - len(ACCEPTED)
    cuts = iter(range(len(whole)))

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        await created_then(whole[: next(cuts)])(server, reader, writer)

    async with RawServer(script) as server, opened(server.url) as wire:
        for cut in range(len(whole)):
            with pytest.raises(KieConnectionError) as caught:
                await wire.send(create(), timeout=2.0)
            assert caught.value.sent
            assert caught.value.partial == ACCEPTED[: max(0, cut - head)]
        assert server.created == len(whole)


async def test_a_task_id_in_a_cut_answer_is_there_to_be_salvaged():
    """The id came, the end did not."""
    async with RawServer(created_then(answer()[:-3])) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(), timeout=2.0)

        assert TASK_ID.encode() in caught.value.partial
        assert caught.value.http_status == 200


async def test_bytes_that_come_together_with_their_end_are_kept_too():
    """A loop that reads twice in a row buffers bytes that aiohttp then withholds."""
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 65536, loop=loop)
    content.feed_data(ACCEPTED[:-3])
    content.set_exception(aiohttp.ClientPayloadError("cut"))

    class Cut:
        status = 200
        headers: dict[str, str] = {}  # noqa: RUF012 - read only

    Cut.content = content  # type: ignore[attr-defined]  # as aiohttp's own response has
    came = Answer()
    with pytest.raises(aiohttp.ClientPayloadError):
        await came.read(Cut())  # type: ignore[arg-type]  # a stand-in

    assert came.partial() == ACCEPTED[:-3]


# -- the body itself ------------------------------------------------------------------


async def test_a_body_is_written_once():
    """Whoever tries again, a client or a middleware, gets an error and not our money."""

    class Writer:
        transport = None
        written = 0

        async def write(self, piece: bytes) -> None:
            self.written += len(piece)

    writer = Writer()
    body = Body(b"{}")
    await body.write(writer)  # type: ignore[arg-type]  # a stand-in

    with pytest.raises(ConnectionAbortedError):
        await body.write(writer)  # type: ignore[arg-type]  # a stand-in
    assert writer.written == 2


async def test_a_body_that_was_given_up_is_not_written():
    """Once it was called unsent it cannot leave any more."""

    class Writer:
        transport = None

        async def write(self, piece: bytes) -> None:
            raise AssertionError("written")

    body = Body(b"{}")
    assert body.size == 2
    assert body.never_left()

    with pytest.raises(ConnectionAbortedError):
        await body.write(Writer())  # type: ignore[arg-type]  # a stand-in


async def test_a_body_that_nobody_took_proves_nothing():
    """Something else than aiohttp may stand in its place."""
    assert not Body(b"{}").never_left()


async def test_redirects_are_answers():
    """No status makes the transport go elsewhere, and the body stays here."""
    async with RawServer(keep_answering) as elsewhere:
        for status in (301, 302, 303, 307, 308):
            moved = answer(b"", f"{status} Moved", f"Location: {elsewhere.url}/x\r\n")
            async with RawServer(always(moved)) as server, opened(server.url) as wire:
                for request in (create(), read()):
                    response = await wire.send(request, timeout=2.0)
                    assert isinstance(response, Response)
                    assert response.status == status
                    assert response.headers["location"].startswith(elsewhere.url)
        assert elsewhere.connections == 0


async def test_an_upgrade_is_an_answer_and_does_not_hang():
    """101 has no body; its connection is not kept."""
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
    async with RawServer(always(upgrade)) as server, opened(server.url) as wire:
        response = await wire.send(read(), timeout=0.5)

        assert response.status == 101
