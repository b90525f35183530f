"""Posts the callbacks when they are due.  To this machine only."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kie_async.emulator._books import Posted
from kie_async.emulator._callbacks import Callback
from kie_async.emulator._core import EmulatedAPI

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Postman"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 15.0  # documented for the sister APIs; nothing is said for market models


class Postman:
    """Waits for callbacks to become due, and posts each of them once.

    Args:
        core: The API.
        now: Tells the emulator's time.
    """

    def __init__(self, core: EmulatedAPI, now: Callable[[], float]) -> None:
        self._core = core
        self._now = now
        self._news = asyncio.Event()
        self._http: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._round = asyncio.get_running_loop().create_task(self._rounds())

    def hear(self) -> None:
        """Look again: there may be a callback that is due earlier."""
        self._news.set()

    async def close(self) -> None:
        """Post no more."""
        tasks = {self._round, *self._running}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if self._http is not None:
            await self._http.close()

    async def _rounds(self) -> None:
        while True:
            for callback in self._core.due_callbacks(self._now(), time.time()):
                task = asyncio.create_task(self._deliver(callback))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            self._news.clear()
            due = self._core.next_callback()
            wait = None if due is None else max(0.0, due - self._now()) / self._core.speed
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def _deliver(self, callback: Callback) -> None:
        status = None
        if callback.fault != "lost" and urlsplit(callback.url).hostname in LOOPBACK:
            status = await self._post(callback)
        row = Posted(self._now(), callback.task_id, callback.ref, status, callback.fault)
        self._core.books.callbacks.append(row)

    async def _post(self, callback: Callback) -> int | None:
        import aiohttp

        if self._http is None:
            self._http = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=PATIENCE),
            )
        body = io.BytesIO(callback.body)  # in pieces: one of megabytes would hold up the loop
        sending = self._http.post(
            callback.url, data=body, headers=callback.headers, allow_redirects=False
        )
        try:
            async with sending as answer:
                await answer.read()
                return answer.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return None
