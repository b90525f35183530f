"""The emulator on a port of this machine: HTTP around `EmulatedAPI`.

A small server of its own, on asyncio's streams, so that every fault of the wire can be
played: an answer that stops anywhere, or never comes.  It listens on loopback only.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from kie_async.emulator._core import Answer, EmulatedAPI, EmulatedTask, Rule
from kie_async.emulator._pictures import draw, enlarge, png

__all__ = ["Emulator"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BIGGEST_BODY = 16 * 2**20
KEPT = 256
"""Results that are kept in memory."""
REASONS = {
    200: "OK",
    206: "Partial Content",
    307: "Temporary Redirect",
    404: "Not Found",
    416: "Range Not Satisfiable",
    502: "Bad Gateway",
    524: "A Timeout Occurred",
}


class Emulator:
    """An emulated Kie on 127.0.0.1; use it with ``async with``.

    Args:
        port: The port; 0 takes a free one.
        speed: How much faster than real time the tasks run.
        hmac_key: Signs the callbacks.
        paint: Makes a result from its name and task; by default a picture, which takes
            a quarter of a second.
        settings: As `EmulatedAPI`.

    Attributes:
        url: Its address.
        core: The `EmulatedAPI`, with ``books`` and ``inject``.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        speed: float = 1.0,
        hmac_key: str = "emulator-hmac-key",
        paint: Callable[[str, EmulatedTask], bytes] | None = None,
        **settings: Any,
    ) -> None:
        self.core = EmulatedAPI(**{"epoch": time.time(), **settings})
        self.url = ""
        self.hmac_key = hmac_key
        self._paint = paint or _painted
        self.connections = 0
        self._port = port
        self._speed = speed
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._pictures: dict[str, bytes] = {}
        self._began = time.monotonic()

    @property
    def books(self) -> Any:
        """What was paid, refused and asked."""
        return self.core.books

    @property
    def api_key(self) -> str:
        """The key that it accepts."""
        return self.core.api_key

    def now(self) -> float:
        """Return the emulator's time in seconds since its start."""
        return (time.monotonic() - self._began) * self._speed

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self.core.inject(rule)

    async def add_source_task(self, task_id: str | None = None) -> str:
        """Put a finished source task on record and return its id."""
        return self.core.add_source_task(self.now(), task_id)

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, backlog=2048
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = self.core.origin = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and drop every connection."""
        assert self._server is not None  # noqa: S101 - reason: entered before
        self._server.close()
        for task in self._background:
            task.cancel()
        for writer in list(self._clients):
            writer.transport.abort()
        if self._background:
            await asyncio.wait(self._background)
        await self._server.wait_closed()

    # -- connections ------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._clients.add(writer)
        task = asyncio.current_task()
        if task is not None:
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        try:
            while await self._one(reader, writer):
                pass
        except (
            ConnectionError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ValueError,
            asyncio.CancelledError,
        ):
            pass  # the client has gone, or we close
        finally:
            self._clients.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; return whether the connection stays."""
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", "0"))
        if length > BIGGEST_BODY:
            return False
        body = await reader.readexactly(length)
        answer = await self._answer(method, target, headers, body)
        if answer.delay:
            await asyncio.sleep(answer.delay)
        keep = await self._send(writer, answer)
        return keep and headers.get("connection", "").lower() != "close"

    async def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> Answer:
        path = urlsplit(target).path
        if path.startswith("/__emulator__/"):
            return await self._about_itself(path.rpartition("/")[2], body)
        if path.startswith("/files/"):
            rule = self.core.strike("files", self.now(), target, body)
            answer = await self._file(path.rpartition("/")[2], headers)
            return answer if rule is None else self.core.faulty(rule, answer)
        known = len(self.core.books.creates)
        answer = self.core.answer(method, target, headers, body, self.now())
        for _at, _source, task_id, _ref in self.core.books.creates[known:]:
            self._call_back_later(str(task_id))
        return answer

    async def _about_itself(self, what: str, body: bytes) -> Answer:
        """Serve other processes: books, sources, rules."""
        told: Any = self.core.books.snapshot()
        if what == "sources":
            count = int(json.loads(body).get("count", 1))
            told = {"task_ids": [self.core.add_source_task(self.now()) for _ in range(count)]}
        elif what == "rules":
            self.inject(Rule(**json.loads(body)))
            told = {"rules": len(self.core.rules)}
        return Answer(200, json.dumps(told).encode())

    async def _send(self, writer: asyncio.StreamWriter, answer: Answer) -> bool:
        """Write an answer, or the part of it that a fault lets through."""
        fault = answer.fault
        if fault == "silence":
            await asyncio.sleep(3600)
        if fault in {"silence", "fin"}:
            return False
        if fault == "rst":
            writer.transport.abort()
            return False
        head = f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Status')}\r\n"
        fields = {
            "Content-Type": "application/json;charset=UTF-8",
            "Server": "cloudflare",
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        head += "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        whole = head.encode("latin-1") + answer.body
        sent = self._part(fault, whole, len(head), answer.cut)
        writer.write(sent)
        await writer.drain()
        while fault == "endless":
            writer.write(b" " * 65536)
            await writer.drain()
        return fault is None

    @staticmethod
    def _part(fault: str | None, whole: bytes, head: int, cut: int) -> bytes:
        if fault == "half-status":
            return whole[:8]
        if fault == "half-headers":
            return whole[: head // 2]
        if fault == "cut":
            return whole[: head + cut]
        if fault == "garbage":
            return b"\x00\x01garbage, and no HTTP\r\n\r\n"
        if fault == "extra":
            return whole + b"extra bytes"
        if fault == "endless":
            return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
        return whole

    # -- files ------------------------------------------------------------------------

    async def _file(self, name: str, headers: Mapping[str, str]) -> Answer:
        """Serve a result, whole or from an offset."""
        task = self.core.tasks.get(name.partition("-")[0])
        if task is None:
            return Answer(404, b"gone", {"Content-Type": "text/plain"})
        data = self._pictures.get(name)
        if data is None:
            data = await asyncio.to_thread(self._paint, name, task)
            self._pictures[name] = data
            if len(self._pictures) > KEPT:  # the oldest is painted again if it is asked for
                del self._pictures[next(iter(self._pictures))]
        tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
        fields = {"Content-Type": "image/png", "ETag": tag, "Accept-Ranges": "bytes"}
        wanted = headers.get("range", "")
        if wanted.startswith("bytes=") and headers.get("if-range", tag) == tag:
            start = int(wanted[6:].partition("-")[0] or 0)
            if start >= len(data):
                return Answer(416, b"", {**fields, "Content-Range": f"bytes */{len(data)}"})
            fields["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return Answer(206, data[start:], fields)
        return Answer(200, data, fields)

    # -- callbacks --------------------------------------------------------------------

    def _call_back_later(self, task_id: str) -> None:
        task = self.core.tasks[task_id]
        if task.callback_url and urlsplit(task.callback_url).hostname in LOOPBACK:
            waiting = asyncio.get_running_loop().create_task(self._call_back(task_id))
            self._background.add(waiting)
            waiting.add_done_callback(self._background.discard)

    async def _call_back(self, task_id: str) -> None:
        """Post the signed end of a task, once, as documented."""
        task = self.core.tasks[task_id]
        rule = self.core.strike("callback", self.now(), task_id, b"")
        fault = rule.action if rule is not None else ""
        if fault != "early":
            await asyncio.sleep(max(0.0, task.ends - self.now()) / self._speed)
        if fault == "lost":
            return
        if rule is not None and rule.delay:
            await asyncio.sleep(rule.delay)
        record = self.core.describe(task, self.now())
        frame = (
            {"code": 501, "msg": "Playground task failed."}
            if task.fails
            else {"code": 200, "msg": "Playground task completed successfully."}
        )
        body = json.dumps({**frame, "data": record}).encode()
        stamp = str(int(time.time()))
        key = b"not the key" if fault == "forged" else self.hmac_key.encode()
        signed = hmac.new(key, f"{task_id}.{stamp}".encode(), hashlib.sha256)
        signature = base64.b64encode(signed.digest()).decode()
        for _ in range(2 if fault == "double" else 1):
            await _post(task.callback_url or "", stamp, signature, body)


async def _post(url: str, stamp: str, signature: str, body: bytes) -> None:
    """Post one callback; who does not answer within 15 s has lost it."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError, TimeoutError):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        try:
            head = (
                f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
                "Content-Type: application/json\r\nConnection: close\r\n"
                f"Content-Length: {len(body)}\r\nX-Webhook-Timestamp: {stamp}\r\n"
                f"X-Webhook-Signature: {signature}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            async with asyncio.timeout(15):
                await reader.read(4096)
        finally:
            writer.close()


def _painted(name: str, task: EmulatedTask) -> bytes:
    """Draw a source's picture, or really enlarge it."""
    if task.source_id is None:
        return png(draw(name))
    larger = 3 if '\\"1080p\\"' in task.param else 2
    return png(enlarge(draw(f"{task.source_id}-0.png"), larger))
