"""A server that costs next to nothing, in a process of its own.

It speaks the wire formats of Kie and of the clients that ours is compared with.  Answers
are bytes that were made beforehand; only the id is put in.  It counts connections and its
own CPU, so that a run can show that it was not the server that was measured.

    with Stub() as stub:            # polls find every task done
    with Stub(running=True) as stub:  # polls find every task still running
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

ID = b"@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@"  # 32 bytes, as long as every id: lengths never change
_NAME = ID.decode()
_MEDIA = "https://files.example/results/8f3d0c1b9a7e4f52a6d1c0b3e4f5a697/upscaled-1080p.png"


def _kie(done: bool) -> dict[bytes, Any]:
    record = {
        "taskId": _NAME,
        "model": "grok-imagine/upscale",
        "state": "success" if done else "waiting",
        "param": json.dumps(
            {"model": "grok-imagine/upscale", "input": json.dumps({"task_id": "0" * 32})}
        ),
        "resultJson": json.dumps({"resultUrls": [_MEDIA]}) if done else "",
        "failCode": None,
        "failMsg": None,
        "costTime": 1 if done else None,
        "completeTime": 1_800_000_000_001 if done else None,
        "createTime": 1_800_000_000_000,
        "updateTime": 1_800_000_000_001,
        "creditsConsumed": 10.0,
    }
    return {
        b"POST /api/v1/jobs/createTask": _envelope({"taskId": _NAME}),
        b"GET /api/v1/jobs/recordInfo": _envelope(record),
    }


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 200, "msg": "success", "data": data}


def _fal(done: bool, base: str) -> dict[bytes, Any]:
    links = {
        "request_id": _NAME,
        "response_url": f"{base}/fal/result/{_NAME}",
        "status_url": f"{base}/fal/status/{_NAME}",
        "cancel_url": f"{base}/fal/cancel/{_NAME}",
    }
    status = {"status": "COMPLETED", "logs": [], "metrics": {"inference_time": 1.0}, **links}
    queued = {"status": "IN_QUEUE", "queue_position": 3, **links}
    return {
        b"POST /fal/upscaler": {"status": "IN_QUEUE", "queue_position": 0, **links},
        b"GET /fal/status/*": status if done else queued,
        b"GET /fal/result/*": {"image": {"url": _MEDIA, "width": 1920, "height": 1080}},
    }


def _replicate(done: bool, base: str) -> dict[bytes, Any]:
    prediction = {
        "id": _NAME,
        "model": "upscaler",
        "version": "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa",
        "input": {"task_id": "0" * 32},
        "logs": "",
        "output": None,
        "error": None,
        "status": "starting",
        "created_at": "2026-11-01T12:00:00.000Z",
        "urls": {
            "get": f"{base}/v1/predictions/{_NAME}",
            "cancel": f"{base}/v1/predictions/{_NAME}/cancel",
        },
    }
    ended = {
        **prediction,
        "status": "succeeded",
        "output": [_MEDIA],
        "started_at": "2026-11-01T12:00:01.000Z",
        "completed_at": "2026-11-01T12:00:02.000Z",
        "metrics": {"predict_time": 1.0},
    }
    return {
        b"POST /v1/predictions": prediction,
        b"GET /v1/predictions/*": ended if done else prediction,
    }


def _openai(done: bool) -> dict[bytes, Any]:
    video = {
        "id": _NAME,
        "object": "video",
        "model": "sora-2",
        "status": "queued",
        "progress": 0,
        "prompt": "a lighthouse",
        "created_at": 1_800_000_000,
        "completed_at": None,
        "expires_at": None,
        "error": None,
        "remixed_from_video_id": None,
        "seconds": "4",
        "size": "720x1280",
    }
    ended = {**video, "status": "completed", "progress": 100, "completed_at": 1_800_000_001}
    return {b"POST /openai/videos": video, b"GET /openai/videos/*": ended if done else video}


def _runway(done: bool) -> dict[bytes, Any]:
    created = "2026-11-01T12:00:00.000Z"
    running = {"id": _NAME, "createdAt": created, "status": "PENDING"}
    ended = {"id": _NAME, "createdAt": created, "status": "SUCCEEDED", "output": [_MEDIA]}
    return {
        b"POST /runway/v1/image_upscale": {"id": _NAME},
        b"GET /runway/v1/tasks/*": ended if done else running,
    }


def routes(done: bool, base: str) -> dict[bytes, bytes]:
    """Return whole HTTP answers by method and path; ``*`` stands for an id."""
    tables = (_kie(done), _fal(done, base), _replicate(done, base), _openai(done), _runway(done))
    found = {}
    for table in tables:
        for route, content in table.items():
            body = json.dumps(content, separators=(",", ":")).encode()
            found[route] = _answer(body)
    return found


def _answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


class Book:
    """What the server has seen since the last reset."""

    def __init__(self) -> None:
        """Start with empty pages."""
        self.answers: dict[bytes, bytes] = {}
        self.open = 0
        self.ids = 0
        self.reset()

    def reset(self) -> None:
        """Forget what was counted; connections that are open stay so."""
        self.connections = 0
        self.peak = self.open
        self.requests = 0
        self.reads = 0
        self.reads_reused = 0
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def counts(self) -> dict[str, float]:
        """Return the figures."""
        return {
            "connections": self.connections,
            "open": self.open,
            "peak": self.peak,
            "requests": self.requests,
            "reads": self.reads,
            "reads_reused": self.reads_reused,
            "cpu": time.process_time() - self._cpu,
            "wall": time.perf_counter() - self._wall,
        }


class Connection(asyncio.Protocol):
    """One connection.  A request is answered in the call that brings its last byte."""

    def __init__(self, book: Book) -> None:
        """Serve from *book*."""
        self._book = book
        self._pending = b""
        self._used = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it out."""
        if self._used:
            self._book.open -= 1

    def _count(self) -> None:
        """Count it with its first request: what the benchmark itself asks is not counted."""
        book = self._book
        self._used = True
        book.connections += 1
        book.open += 1
        book.peak = max(book.peak, book.open)

    def data_received(self, data: bytes) -> None:
        """Answer whole requests; keep what is not whole."""
        if self._pending:
            data = self._pending + data
        while data:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                break
            size = end + 4
            head = data[:end]
            if not head.startswith(b"GET"):
                size += _body_size(head)
                if len(data) < size:
                    break
            data = data[size:]
            self._respond(head)
        self._pending = data

    def _respond(self, head: bytes) -> None:
        book = self._book
        method, target, _ = head[: head.index(b"\r\n")].split(b" ", 2)
        path, _, query = target.partition(b"?")
        if path.startswith(b"/_stub/"):
            self._transport.write(_administer(book, path))
            return
        book.requests += 1
        reused = self._used
        if not reused:
            self._count()
        template = book.answers.get(method + b" " + path)
        if method == b"GET":
            book.reads += 1
            book.reads_reused += reused
            if template is None:
                folder, _, name = path.rpartition(b"/")
                template = book.answers.get(b"GET " + folder + b"/*")
            else:
                name = query.rpartition(b"=")[2]
        else:
            book.ids += 1
            name = b"%032x" % book.ids
        if template is None:
            self._transport.write(_answer(b'{"code":404}', b"404 Not Found"))
        else:
            self._transport.write(template.replace(ID, name))
        if b"onnection: close" in head:
            self._transport.close()


def _body_size(head: bytes) -> int:
    found = head.lower().find(b"\r\ncontent-length:")
    return int(head[found + 17 :].split(b"\r\n", 1)[0]) if found >= 0 else 0


def _administer(book: Book, path: bytes) -> bytes:
    """Answer the benchmark itself."""
    if path.endswith(b"reset"):
        book.reset()
    return _answer(json.dumps(book.counts()).encode())


async def _serve(running: bool) -> None:
    book, loop = Book(), asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(book), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    book.answers = routes(not running, f"http://127.0.0.1:{port}")
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)  # the parent's end closes with the parent
    server.close()


class Stub:
    """The server's process, for whoever measures."""

    def __init__(self, *, running: bool = False) -> None:
        """Nothing is started yet; with *running* no task ever ends."""
        self._command = [sys.executable, str(Path(__file__).resolve())]
        if running:
            self._command.append("--running")

    def __enter__(self) -> Self:
        """Start it."""
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def reset(self) -> None:
        """Count from here."""
        self._ask("reset")

    def counts(self) -> dict[str, float]:
        """Return what was counted; see :class:`Book`."""
        return self._ask("counts")

    def _ask(self, what: str) -> dict[str, float]:
        with urllib.request.urlopen(f"{self.url}/_stub/{what}", timeout=30.0) as answer:
            found: dict[str, float] = json.load(answer)
            return found


def main() -> None:
    """Serve until stdin ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--running", action="store_true", help="no task ever ends")
    chosen = parser.parse_args()
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(chosen.running))


if __name__ == "__main__":
    main()
