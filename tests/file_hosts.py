"""A result host that answers as it is told, and files for it to give."""

from __future__ import annotations

import asyncio
import random
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kie_async import DownloadError, Task, TaskState
from kie_async.files import Downloader
from kie_async.transport import ResultTransport


def chunk(kind: bytes, data: bytes) -> bytes:
    """Make a PNG's chunk."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(size: int, seed: int = 1) -> bytes:
    """Make a PNG of about *size* bytes, as far as its structure goes."""
    noise = random.Random(seed)
    parts = [
        chunk(b"IDAT", noise.randbytes(min(32_768, size - at))) for at in range(0, size, 32_768)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def boxes(*named: tuple[bytes, bytes]) -> bytes:
    """Make a film of boxes."""
    return b"".join((len(data) + 8).to_bytes(4, "big") + name + data for name, data in named)


PNG = png(300_000)
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 1000 + b"\xff\xd9"
GIF = b"GIF89a" + b"g" * 1000 + b";"
WEBP = b"RIFF" + (1004).to_bytes(4, "little") + b"WEBP" + b"w" * 1000
MP4 = boxes((b"ftyp", b"isom" + bytes(12)), (b"mdat", b"m" * 999), (b"moov", b"x" * 50))
WEBM = b"\x1aE\xdf\xa3\x84webm" + b"\x18\x53\x80\x67" + b"\x43\xe8" + b"v" * 1000
TAG = '"v1"'


class Host:
    """Answers request by request as told, and gives the whole file after that."""

    def __init__(self, *answers: Any, body: bytes = PNG) -> None:
        """Take raw answers, or functions of the request that make them."""
        self.answers = list(answers)
        self.body = body
        self.requests: list[str] = []
        self.url = ""
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        self.open += 1
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            answer = self.answers.pop(0) if self.answers else self.whole
            writer.write(answer(head) if callable(answer) else answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            self.open -= 1
            writer.close()

    def whole(self, head: str) -> bytes:
        """Answer the file, or the rest of it that is asked for."""
        start = asked_from(head)
        if start:
            end = len(self.body) - 1
            fields = f"Content-Range: bytes {start}-{end}/{len(self.body)}"
            return response(206, self.body[start:], fields)
        return response(200, self.body)


def asked_from(head: str) -> int:
    """Return the offset that a request asks for."""
    return int(head.lower().partition("range: bytes=")[2].partition("-")[0] or 0)


def response(
    status: int,
    body: bytes = b"",
    *fields: str,
    kind: str = "image/png",
    length: int | None = None,
    tag: str = TAG,
) -> bytes:
    """Make a raw answer; a *length* below zero is not told."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"ETag: {tag}"] if tag else []
    lines += [f"Content-Length: {size}"] if size >= 0 else []
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


def chunked(body: bytes, *, end: bool) -> bytes:
    """Answer in chunks, with or without the last one."""
    head = response(200, b"", "Transfer-Encoding: chunked", length=-1)
    return head + f"{len(body):x}\r\n".encode() + body + (b"\r\n0\r\n\r\n" if end else b"")


def cut(at: int, body: bytes = PNG, tag: str = TAG) -> bytes:
    """Answer with the first *at* bytes of the file and no more."""
    return response(200, body[:at], length=len(body), tag=tag)


async def no_renewal(url: str) -> str:
    """Refuse, as `download-url` does for an address that is not Kie's."""
    raise DownloadError("url is wrong", retryable=False)


@asynccontextmanager
async def served(host: Host) -> AsyncIterator[Host]:
    """Run *host*."""
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, limit=2**20)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/r/file?sig=s3cr3t"
    async with server:
        yield host


@asynccontextmanager
async def hosted(
    host: Host,
    tmp_path: Path,
    renew: Callable[[str], Awaitable[str]] = no_renewal,
    **settings: Any,
) -> AsyncIterator[Downloader]:
    """Run *host* and a downloader on it that does not pause."""
    async with served(host), ResultTransport(allow_private=True) as fetcher:
        yield Downloader(fetcher, renew, tmp_path / "out", **{"backoff": 0.0, **settings})


def task(*urls: str, task_id: str = "task-1") -> Task:
    """Make a finished task."""
    return Task(task_id=task_id, state=TaskState.SUCCESS, result_urls=urls)


def files(tmp_path: Path) -> dict[str, int]:
    """List what is in the folder."""
    return {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}


def finals(tmp_path: Path) -> list[str]:
    """List what has its final name."""
    return sorted(n for n in files(tmp_path) if not n.endswith((".part", ".part.json")))
