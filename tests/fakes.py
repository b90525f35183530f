"""Doubles written by hand: an API in memory that a session talks to in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from kie_async import KieSession, SlidingWindowLimiter
from kie_async.errors import KieError
from kie_async.protocol import Request, Response

Answer = Response | KieError
Script = Callable[[int, Request], Answer | None]


def envelope(code: int, msg: str = "", data: Any = None, status: int = 200) -> Response:
    """Make an answer in Kie's frame."""
    return Response(status, {}, json.dumps({"code": code, "msg": msg, "data": data}).encode())


class Altered:
    """A module of which some functions are others: for whoever imports it, not for all.

    ``monkeypatch.setattr(_part, "os", Altered(os, write=full))``; with ``setattr(os, ...)``
    a write of pytest, of a thread or of a test long over would meet the fake too.
    """

    def __init__(self, module: Any, **others: Callable[..., Any]) -> None:
        """Stand in for *module*."""
        self._module = module
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        """Return what the module has."""
        return getattr(self._module, name)


class FakeAPI:
    """Creates tasks and lets them end after ``duration`` seconds of loop time.

    ``on_create`` and ``on_poll`` may answer instead: they get the number of the request
    (from 0) and the request, and return an answer, an error to raise, or None for the
    usual.  ``lost`` creates the task and then raises.
    """

    def __init__(self, *, duration: float = 10.0, latency: float = 0.1) -> None:
        """Start with an empty book."""
        self.duration = duration
        self.latency = latency
        self.on_create: Script | None = None
        self.on_poll: Script | None = None
        self.lost: Callable[[int], KieError | None] = lambda _n: None
        self.creates: list[tuple[float, dict[str, Any]]] = []
        self.polls: list[tuple[float, str]] = []
        self.tasks: dict[str, float] = {}
        self.others = 0

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Answer one request after the latency, as the transport would."""
        assert timeout > 0
        if request.paid:
            return await self._create(request)
        if "recordInfo" in request.path:
            return await self._poll(request)
        self.others += 1
        await asyncio.sleep(self.latency)
        return envelope(200, data=42.5)

    async def _create(self, request: Request) -> Response:
        number = len(self.creates)
        now = asyncio.get_running_loop().time()
        self.creates.append((now, json.loads(request.body or b"")))
        await asyncio.sleep(self.latency / 2)
        scripted = self.on_create(number, request) if self.on_create else None
        if scripted is None:
            task_id = f"{number:032x}"
            self.tasks[task_id] = asyncio.get_running_loop().time() + self.duration
            scripted = self.lost(number) or envelope(200, "success", {"taskId": task_id})
        await asyncio.sleep(self.latency / 2)
        if isinstance(scripted, KieError):
            raise scripted
        return scripted

    async def _poll(self, request: Request) -> Response:
        task_id = request.path.rpartition("=")[2]
        number = len(self.polls)
        self.polls.append((asyncio.get_running_loop().time(), task_id))
        await asyncio.sleep(self.latency)
        scripted = self.on_poll(number, request) if self.on_poll else None
        if isinstance(scripted, KieError):
            raise scripted
        if scripted is not None:
            return scripted
        return self.record(task_id)

    def record(self, task_id: str, **fields: Any) -> Response:
        """Answer as ``recordInfo`` does."""
        ends = self.tasks.get(task_id)
        if ends is None:
            return envelope(422, "recordInfo is null")
        over = asyncio.get_running_loop().time() >= ends
        data = {
            "taskId": task_id,
            "model": "grok-imagine/upscale",
            "state": "success" if over else "waiting",
            "resultJson": json.dumps({"resultUrls": ["https://h/r.png"]}) if over else "",
            "createTime": int((1_800_000_000 + ends - self.duration) * 1000),
            "completeTime": int((1_800_000_000 + ends) * 1000) if over else None,
            **fields,
        }
        return envelope(200, "success", data)


def session_on(api: FakeAPI, **settings: Any) -> KieSession:
    """Make a session whose transport is *api*, with limits of its own."""
    settings.setdefault("limiter", SlidingWindowLimiter(20, 10.0))
    settings.setdefault("poll_limiter", SlidingWindowLimiter(8, 1.0))
    kie = KieSession("test-key", base_url="http://127.0.0.1:9", **settings)
    kie._transport.send = api.send  # type: ignore[method-assign]  # the seam of these tests
    return kie
