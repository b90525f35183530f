"""A TCP proxy that spoils what goes through it: slow, cut, sliced, or gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from attrs import define, field

__all__ = ["FaultProxy", "reset"]


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:  # else it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@define(eq=False)
class FaultProxy:
    """Stands before a server on this machine; its faults may change at any time.

    Attributes:
        server: The server's address.
        latency: Called for each piece on its way back; returns seconds.
        rate: Bytes per second, either way.
        piece: Bytes of a piece on its way back; 0 leaves them as they come.
        gap: Seconds between such pieces.
        limit: Called for each connection; returns after how many bytes of answers it is
            cut, or None.
        cut: "fin" or "rst".
        one_answer: Close a connection when a second request comes on it, as a server does
            whose idle limit strikes just then.
        connections: How many were made.
        returned: Bytes that went back to clients.
        reused: How many connections were closed so.
    """

    server: str
    latency: Callable[[], float] | None = None
    rate: float = 0.0
    piece: int = 0
    gap: float = 0.0
    limit: Callable[[], int | None] = lambda: None
    cut: str = "fin"
    one_answer: bool = False
    connections: int = 0
    returned: int = 0
    reused: int = 0
    port: int = 0
    _listening: asyncio.Server | None = None
    _open: dict[asyncio.Task[None], asyncio.StreamWriter] = field(factory=dict)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen on a free port."""
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop, and drop every connection."""
        await self.down()

    async def up(self) -> None:
        """Listen; after a `down` on the same port."""
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Refuse connections, and reset those that are open."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        open_now = dict(self._open)
        for task, writer in open_now.items():
            reset(writer)
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = writer
        self.connections += 1
        host, _, port = self.server.rpartition("/")[2].partition(":")
        there: asyncio.StreamWriter | None = None
        ways: list[asyncio.Task[None]] = []
        try:
            back, there = await asyncio.open_connection(host, int(port))
            loop = asyncio.get_running_loop()
            ways = [
                loop.create_task(self._forth(reader, there)),
                loop.create_task(self._back(back, writer)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the server has gone, or the network is down
        finally:
            for way in ways:
                way.cancel()
            with suppress(asyncio.CancelledError):  # the proxy goes down meanwhile
                await asyncio.gather(*ways, return_exceptions=True)
            del self._open[task]
            for end in (writer, there):
                if end is not None:
                    end.close()

    async def _forth(self, reader: asyncio.StreamReader, there: asyncio.StreamWriter) -> None:
        before = self.returned
        while data := await reader.read(65536):
            if self.one_answer and self.returned > before:
                self.reused += 1
                return
            await self._paced(there, data)

    async def _back(self, reader: asyncio.StreamReader, here: asyncio.StreamWriter) -> None:
        left = self.limit()
        while data := await reader.read(65536):
            if self.latency is not None:
                await asyncio.sleep(self.latency())
            kept = data if left is None else data[:left]
            size = self.piece or len(kept) or 1
            for start in range(0, len(kept), size):
                if start and self.gap:
                    await asyncio.sleep(self.gap)
                await self._paced(here, kept[start : start + size])
                self.returned += len(kept[start : start + size])
            if left is not None:
                left -= len(kept)
                if left <= 0:
                    if self.cut == "rst":
                        await _flushed(here)
                        reset(here)
                    return

    async def _paced(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        step = max(1, int(self.rate / 20)) if self.rate else len(data)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if self.rate:
                await asyncio.sleep(step / self.rate)


async def _flushed(writer: asyncio.StreamWriter) -> None:
    """Wait until the kernel has everything, so that a reset does not overtake it."""
    with contextlib.suppress(ConnectionError):
        while writer.transport.get_write_buffer_size():  # noqa: ASYNC110 - no event
            await asyncio.sleep(0)
