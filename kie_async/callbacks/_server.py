"""A small server around a receiver, for trying callbacks out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from kie_async.callbacks._event import CallbackEvent
from kie_async.callbacks._receiver import CallbackReceiver
from kie_async.models import Secret

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["CallbackServer"]

BACKLOG = 10_000
"""Events that wait to be read; what comes after that is dropped."""


class CallbackServer:
    """Listens for callbacks on a port of its own; use it with ``async with``.

    Args:
        hmac_keys: The keys that Kie may sign with.
        host: Where to listen.
        port: The port; 0 takes a free one.
    """

    def __init__(
        self, hmac_keys: Sequence[str | Secret], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        try:
            self.receiver = CallbackReceiver(hmac_keys)
        finally:
            del hmac_keys  # crash reporters show our locals
        self.url = ""
        self._host, self._port = host, port
        self._events: asyncio.Queue[CallbackEvent] = asyncio.Queue(BACKLOG)
        self._runner: web.AppRunner | None = None
        self._disconnect: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            OSError: The port is taken, or the host is none of ours.
        """
        from aiohttp import web

        app = web.Application()
        self.receiver.add_routes(app)
        self._disconnect = self.receiver.connect(self._rung)
        self._runner = web.AppRunner(app)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:  # then nobody calls `__aexit__`
            await self._stop()
            raise
        host, port = self._runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{port}/kie/cb"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        try:
            await self._stop()
        finally:
            self.receiver.close()

    async def _stop(self) -> None:
        self._disconnect()
        if self._runner is not None:
            await self._runner.cleanup()

    def _rung(self, event: CallbackEvent) -> None:
        if not self._events.full():
            self._events.put_nowait(event)

    async def next_event(self) -> CallbackEvent:
        """Wait for the next genuine callback."""
        return await self._events.get()
