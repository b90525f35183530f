"""The only part that knows the HTTP library: reading requests, sending answers and faults."""

from __future__ import annotations

import asyncio
import gzip
import socket
import struct
from typing import cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from kie_async.emulator._books import Books
from kie_async.emulator._messages import HEADERS, Answer, Wire

__all__ = ["CountingServer", "Unkind", "read_body", "respond", "stop_reading"]

BIGGEST_BODY = 64 * 2**20
ENDLESS = b" " * 65536


class CountingServer(web.Server):
    """aiohttp's low-level server, which books its connections."""

    books: Books

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Book a connection."""
        self.books.connected()
        super().connection_made(handler, transport)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        """Book its end."""
        self.books.open_now -= 1
        super().connection_lost(handler, exc)


class Unkind(asyncio.Protocol):
    """A connection that is closed, reset or left alone as soon as it is made.

    Args:
        action: "fin", "rst" or "silence".
        books: Where it is counted.
        kept: Holds it while it is open.
    """

    def __init__(self, action: str, books: Books, kept: set[asyncio.Transport]) -> None:
        self._action, self._books, self._kept = action, books, kept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Do what it is here for."""
        transport = cast("asyncio.Transport", transport)  # uvloop's derive from nothing of it
        self._transport = transport
        self._books.connected()
        self._kept.add(transport)
        if self._action == "silence":
            transport.pause_reading()
        else:
            _end(transport, self._action)

    def connection_lost(self, exc: Exception | None) -> None:
        """Book its end."""
        self._books.open_now -= 1
        self._kept.discard(self._transport)


async def read_body(asked: web.BaseRequest) -> bytes:
    """Read a request's body, whole."""
    parts = bytearray()
    async for part in asked.content.iter_chunked(2**20):
        parts += part
        if len(parts) > BIGGEST_BODY:
            raise ConnectionError("no request is that large")
    return bytes(parts)


def stop_reading(asked: web.BaseRequest) -> None:
    """Take no more bytes from a client."""
    if asked.transport is not None:
        asked.transport.pause_reading()


async def respond(asked: web.BaseRequest, answer: Answer, *, packing: bool) -> web.StreamResponse:
    """Send an answer, or play the fault of the wire that is in it."""
    if answer.wire is not None:
        return await _played(asked, answer, answer.wire)
    headers = dict(answer.headers)
    plain = "Content-Encoding" in headers or headers.get("Content-Type") != HEADERS["Content-Type"]
    if not packing or plain or "gzip" not in asked.headers.get("Accept-Encoding", ""):
        return web.Response(status=answer.status, body=answer.body, headers=headers)
    response = web.StreamResponse(
        status=answer.status, headers={**headers, "Content-Encoding": "gzip"}
    )
    response.enable_chunked_encoding()  # as captured: gzip, and chunked
    try:
        await response.prepare(asked)
        await response.write(gzip.compress(answer.body, 1))
    except ConnectionError:  # the client has gone: nothing that one need hear of
        return web.Response()
    return response


async def _played(asked: web.BaseRequest, answer: Answer, wire: Wire) -> web.StreamResponse:
    """Write a fault's bytes and end the connection as it says."""
    if wire.end == "endless":
        return await _endless(asked, answer)
    transport = asked.transport
    if transport is None:
        raise ConnectionError("the client has gone")
    for number, chunk in enumerate(wire.chunks):
        if number:
            await asyncio.sleep(wire.gap)
        transport.write(chunk)
    if wire.end == "silence":
        await asyncio.Event().wait()  # until the client hangs up, or we close
    _end(transport, wire.end)
    return web.Response()  # never sent: the transport is closing


async def _endless(asked: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    response.enable_chunked_encoding()
    try:
        await response.prepare(asked)
        while True:
            await response.write(ENDLESS)
            await asyncio.sleep(0)
    except ConnectionError:
        return web.Response()


def _end(transport: asyncio.Transport, how: str) -> None:
    """Close a connection: with FIN after what was written, or with RST."""
    if how == "fin":
        transport.close()
        return
    connection = transport.get_extra_info("socket")
    if connection is not None:  # without this a close is a FIN, even an abrupt one
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
