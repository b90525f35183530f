"""Small raw servers that misbehave on demand and know the truth.

``RawServer.created`` counts the creates that arrived whole and that the script accepted:
the ground truth that the client's ``sent`` is compared with.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from kie_async.models import Secret
from kie_async.protocol import Request
from kie_async.transport import Transport

TASK_ID = "0123456789abcdef0123456789abcdef"
ACCEPTED = json.dumps({"code": 200, "msg": "success", "data": {"taskId": TASK_ID}}).encode()
KEY = "test-key-1f2e3d4c5b6a"

Script = Callable[["RawServer", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answer(body: bytes = ACCEPTED, status: str = "200 OK", extra: str = "") -> bytes:
    """Return a whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def create(body: bytes = b'{"model":"m","input":{}}') -> Request:
    """Return a create."""
    return Request(method="POST", path="/api/v1/jobs/createTask", body=body, paid=True)


def read(task_id: str = TASK_ID) -> Request:
    """Return a read."""
    return Request(method="GET", path=f"/api/v1/jobs/recordInfo?taskId={task_id}")


class RawServer:
    """Runs one script per connection; keeps what came."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        """Take the script; nothing listens yet."""
        self._script = script
        self._tls = tls
        self._handlers: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.open_connections = 0
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.created = 0
        self.go_on = asyncio.Event()
        self.heard = asyncio.Semaphore(0)  # one more for each request that is left unanswered
        self.quiet = asyncio.Event()  # set while no connection is open

    async def __aenter__(self) -> Self:
        """Listen on a free port of this machine."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", 0, ssl=self._tls, limit=2**16
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and end every script."""
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        handler.add_done_callback(self._handlers.discard)
        self.connections += 1
        self.open_connections += 1
        self.quiet.clear()
        try:
            await self._script(self, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test is over
        finally:
            self.open_connections -= 1
            if not self.open_connections:
                self.quiet.set()
            writer.close()

    async def quiet_soon(self) -> None:
        """Wait until no connection is open; also those that are still being accepted."""
        while self.open_connections:
            await self.quiet.wait()
            await asyncio.sleep(0)

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one whole request; return its body."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.split("\r\n") if line.lower().startswith("content-length")]
        body = await reader.readexactly(int(length[0].split(":")[1])) if length else b""
        self.heads.append(head)
        self.bodies.append(body)
        return body


def header(head: str, name: str) -> str | None:
    """Return one header of a raw request."""
    for line in head.split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.lower() == name:
            return value.strip()
    return None


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def keep_answering(
    server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer every request well, for as long as the client likes."""
    while True:
        await server.request(reader)
        server.created += 1
        writer.write(answer())


def always(data: bytes) -> Script:
    """Answer every request with these bytes."""

    async def script(
        server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await server.request(reader)
            server.created += 1
            writer.write(data)

    return script


async def silence(
    server: RawServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Create, and never answer."""
    await server.request(reader)
    server.created += 1
    server.heard.release()
    await reader.read()  # until the client leaves


def transport(url: str, **options: Any) -> Transport:
    """Return a transport to *url*, closed."""
    options.setdefault("upload_url", url)
    return Transport(api_key=Secret(options.pop("key", KEY)), base_url=url, **options)


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Transport]:
    """Open a transport to *url*."""
    made = transport(url, **options)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
