"""The files of tasks and uploads: names, lives, parts.  Pictures are painted when asked for."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from urllib.parse import unquote

from attrs import define, field

from kie_async.emulator._faults import DENIED
from kie_async.emulator._messages import Answer, Request, not_found
from kie_async.emulator._pictures import draw, enlarge, png
from kie_async.emulator._tasks import EmulatedTask
from kie_async.emulator._uploads import Uploads

__all__ = ["Media"]

LINK_LIFE = 20 * 60.0
CACHE = 64 * 2**20


@define
class Media:
    """What can be fetched under ``/files/``.

    Args:
        tasks: All tasks.
        uploads: All uploads.
        life: Seconds from a task's end until its files are gone.
        links: The links of download-url: name of the file, and when they end.
        painted: Pictures that are kept; the oldest go first, and can be painted again.
    """

    tasks: dict[str, EmulatedTask]
    uploads: Uploads
    life: float
    links: dict[str, tuple[str, float]] = field(factory=dict)
    painted: OrderedDict[str, bytes] = field(factory=OrderedDict)
    size: int = 0

    def knows(self, name: str) -> bool:
        """True if there is, or was, such a file."""
        return unquote(name) in self.uploads.files or self.task_of(unquote(name)) is not None

    def renew(self, name: str, token: str, now: float) -> str:
        """Return a path that works for twenty minutes from *now*."""
        self.links[token] = (unquote(name), now + LINK_LIFE)
        return f"/files/{name}?token={token}"

    def task_of(self, name: str) -> EmulatedTask | None:
        """Return the task that made a file."""
        stem, _, number = name.removesuffix(".png").rpartition("-")
        task = self.tasks.get(stem)
        there = task is not None and number.isdigit() and int(number) < task.outputs
        return task if there else None

    def to_paint(self, request: Request, now: float) -> str | None:
        """Return the name of the picture that an answer needs and that is not there yet."""
        name = _name(request)
        task = self.task_of(name)
        wanted = task is not None and self._alive(task, now) and name not in self.painted
        return name if wanted and name not in self.uploads.files else None

    def keep(self, name: str, data: bytes) -> None:
        """Keep a painted picture, and no more than 64 MiB of them."""
        if name not in self.painted:
            self.painted[name] = data
            self.size += len(data)
        while self.size > CACHE and len(self.painted) > 1:
            self.size -= len(self.painted.popitem(last=False)[1])

    def answer(self, request: Request, now: float) -> Answer:
        """Serve a file, whole or in part."""
        name = _name(request)
        token = request.query.get("token")
        linked, until = self.links.get(token or "", ("", 0.0))
        if token is not None and (linked != name or now >= until):
            return Answer(403, DENIED, {"Content-Type": "application/xml"})
        if request.method not in {"GET", "HEAD"}:
            return not_found()
        if name in self.uploads.files:
            data, kind, ends = self.uploads.files[name]
            return _part(request, data, kind) if now < ends else not_found()
        task = self.task_of(name)
        if task is None or not self._alive(task, now):
            return not_found()
        if name not in self.painted:
            self.keep(name, self.paint(name, task))
        return _part(request, self.painted[name], "image/png")

    def _alive(self, task: EmulatedTask, now: float) -> bool:
        return task.state(now) == "success" and now < task.ends + self.life

    def paint(self, name: str, task: EmulatedTask) -> bytes:
        """Paint a picture: takes some tenths of a second, so it belongs in a thread."""
        seen: set[str] = set()
        source: EmulatedTask | None = task
        while source is not None and source.source_id and source.task_id not in seen:
            seen.add(source.task_id)
            name, source = f"{source.source_id}-0.png", self.tasks.get(source.source_id)
        rows = draw(name)
        if task.source_id is None or not task.model.endswith("/upscale"):
            return png(rows)
        return png(enlarge(rows, 3 if task.given.get("resolution") == "1080p" else 2))


def _name(request: Request) -> str:
    return unquote(request.path.removeprefix("/files/"))


def _part(request: Request, data: bytes, kind: str) -> Answer:
    """Return the range that is asked for, or all of it."""
    tag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
    fields = {"Content-Type": kind, "ETag": tag, "Accept-Ranges": "bytes"}
    wanted = request.headers.get("range", "")
    if request.headers.get("if-none-match") == tag:
        return Answer(304, b"", fields)
    first, dash, last = wanted.removeprefix("bytes=").partition("-")
    usable = wanted.startswith("bytes=") and dash and f"{first}{last}".isdigit()
    if not usable or request.headers.get("if-range", tag) != tag:
        return Answer(200, data, fields, whole=data)
    size = len(data)
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        return Answer(416, b"", {**fields, "Content-Range": f"bytes */{size}"}, whole=data)
    fields["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Answer(206, data[start:end], fields, whole=data)
