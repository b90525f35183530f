"""The emulator on a port of this machine: HTTP around `EmulatedAPI`, on loopback only."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kie_async.emulator._books import Books
from kie_async.emulator._core import EmulatedAPI
from kie_async.emulator._messages import Answer, Request, blob, not_found
from kie_async.emulator._rules import Rule, Visit
from kie_async.emulator._tasks import EmulatedTask

if TYPE_CHECKING:
    from aiohttp import web

    from kie_async.emulator._posting import Postman
    from kie_async.emulator._wire import CountingServer

__all__ = ["Emulator"]

ABOUT_ITSELF = "/__emulator__/"


class Emulator:
    """An emulated Kie on 127.0.0.1; use it with ``async with``.

    Other processes may ask it about itself: ``GET /__emulator__/books`` returns the books;
    ``POST /__emulator__/rules`` adds the rule, or list of rules, of its JSON body, and
    ``DELETE`` forgets all; ``POST /__emulator__/sources`` makes source tasks, from
    ``{"count": 3}`` or ``{"task_ids": ["a", "b"]}``.

    Args:
        port: The port; 0 takes a free one.
        speed: How much faster than real time the tasks run.
        keepalive: Seconds after which it closes an idle connection.
        gzip_answers: Compress for clients that accept it, as the real API does.
        paint: Makes a result's bytes from its name and task, in a thread; None paints a
            picture that opens.
        settings: As `EmulatedAPI`.

    Attributes:
        url: Its address.
        core: The `EmulatedAPI`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        speed: float = 1.0,
        keepalive: float = 75.0,
        gzip_answers: bool = True,
        paint: Callable[[str, EmulatedTask], bytes] | None = None,
        **settings: Any,
    ) -> None:
        self.core = EmulatedAPI(**{"epoch": time.time(), "speed": speed, **settings})
        self.url = ""
        self._port = port
        self._keepalive = keepalive
        self._gzip = gzip_answers
        self._paint = paint or self.core.media.paint
        self._server: asyncio.Server | None = None
        self._web: CountingServer | None = None
        self._postman: Postman | None = None
        self._refused: set[asyncio.Transport] = set()
        self._painting: dict[str, asyncio.Task[None]] = {}
        self._late: set[asyncio.Task[Answer]] = set()
        self._began = time.monotonic()

    @property
    def books(self) -> Books:
        """What was paid, refused and asked."""
        return self.core.books

    @property
    def connections(self) -> int:
        """How many connections were made."""
        return self.core.books.connections

    @property
    def api_key(self) -> str:
        """The key that it accepts."""
        return self.core.api_key

    @property
    def hmac_key(self) -> str:
        """The key that signs its callbacks."""
        return self.core.hmac_key

    @property
    def rules(self) -> list[Rule]:
        """The faults, in the order in which they are tried."""
        return self.core.rules

    def now(self) -> float:
        """Return the emulator's time in seconds since its start."""
        return (time.monotonic() - self._began) * self.core.speed

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self.core.inject(rule)

    def clear_rules(self) -> None:
        """Forget every fault."""
        self.core.clear_rules()

    async def add_source_task(self, task_id: str | None = None, **options: Any) -> str:
        """Put a finished source task on record and return its id.

        Args:
            task_id: The id; None makes one.
            options: As `EmulatedAPI.add_source_task`.
        """
        return self.core.add_source_task(self.now(), task_id, **options)

    async def __aenter__(self) -> Self:
        """Listen."""
        from kie_async.emulator._posting import Postman
        from kie_async.emulator._wire import CountingServer

        self._web = CountingServer(
            self._handle,
            handler_cancellation=True,  # who hangs up frees what was waiting for him
            access_log=None,
            keepalive_timeout=self._keepalive,
        )
        self._web.books = self.books
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocol, "127.0.0.1", self._port, backlog=2048
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = self.core.origin = f"http://127.0.0.1:{port}"
        self._postman = Postman(self.core, self.now)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening and drop every connection."""
        if self._server is None or self._web is None or self._postman is None:
            raise RuntimeError("the emulator was not started")
        self._server.close()
        await self._postman.close()
        for task in (*self._late, *self._painting.values()):
            task.cancel()
        for transport in (*self._refused, *(c.transport for c in self._web.connections)):
            if transport is not None:
                transport.abort()
        await self._web.shutdown(1.0)
        await self._server.wait_closed()

    # -- connections ------------------------------------------------------------------

    def _protocol(self) -> asyncio.Protocol:
        """Return what serves a new connection: HTTP, or a fault."""
        from kie_async.emulator._wire import Unkind

        if self._web is None:
            raise RuntimeError("the emulator was not started")
        rule = self.core.strike("connect", self.now())
        if rule is not None:
            return Unkind(str(rule.action), self.books, self._refused)
        return self._web()

    async def _handle(self, asked: web.BaseRequest) -> web.StreamResponse:
        """Serve one request."""
        from kie_async.emulator._wire import read_body, respond, stop_reading

        if asked.path.startswith(ABOUT_ITSELF):
            told = self._about_itself(asked.method, asked.path, await read_body(asked))
            return await respond(asked, told, packing=False)
        headers = {name.lower(): value for name, value in asked.headers.items()}
        request = Request(asked.method, asked.raw_path, headers)
        visit = self.core.arrive(request, self.now())
        if not visit.early:
            request.body = await read_body(asked)
            visit = self.core.begin(visit)
        elif visit.rule is not None and visit.rule.action == "unread":
            stop_reading(asked)
        answer = await self._answered(visit)
        if answer.delay:
            await asyncio.sleep(answer.delay)
        return await respond(asked, answer, packing=self._gzip)

    async def _answered(self, visit: Visit) -> Answer:
        if not visit.delay:
            return await self._work(visit)

        async def later() -> Answer:
            await asyncio.sleep(visit.delay)
            return await self._work(visit)

        # Work that is late is done all the same, even if nobody waits for it any more.
        task = asyncio.create_task(later())
        self._late.add(task)
        task.add_done_callback(self._late.discard)
        return await asyncio.shield(task)

    async def _work(self, visit: Visit) -> Answer:
        request = visit.strike.request
        if request.path.startswith("/files/"):
            name = self.core.media.to_paint(request, self.now())
            if name is not None:
                await self._painted(name)
        answer = self.core.finish(visit, self.now())
        if self._postman is not None and request.route == "createTask":
            self._postman.hear()
        return answer

    async def _painted(self, name: str) -> None:
        """Paint a picture in a thread: once, however many ask for it."""
        task = self._painting.get(name)
        if task is None:

            async def paint() -> None:
                made = self.core.media.task_of(name)
                if made is not None:
                    self.core.media.keep(name, await asyncio.to_thread(self._paint, name, made))

            task = self._painting[name] = asyncio.create_task(paint())
            task.add_done_callback(lambda _: self._painting.pop(name, None))
        await asyncio.shield(task)

    def _about_itself(self, method: str, path: str, body: bytes) -> Answer:
        """Serve other processes: books, rules, sources."""
        what = (method, path.removeprefix(ABOUT_ITSELF))
        told: Any
        try:
            if what == ("GET", "books"):
                told = self.books.snapshot()
            elif what == ("POST", "sources"):
                told = {"task_ids": self._sources(json.loads(body))}
            elif what == ("POST", "rules"):
                given = json.loads(body)
                for fields in given if isinstance(given, list) else [given]:
                    self.inject(Rule(**fields))
                told = {"rules": len(self.rules)}
            elif what == ("DELETE", "rules"):
                self.clear_rules()
                told = {"rules": 0}
            else:
                return not_found()
        except (ValueError, TypeError) as error:
            return Answer(400, blob({"error": str(error)}))
        return Answer(200, blob(told))

    def _sources(self, asked: dict[str, Any]) -> list[str]:
        ids = asked.get("task_ids") or [None] * int(asked.get("count", 1))
        return [self.core.add_source_task(self.now(), task_id) for task_id in ids]
