"""A request's body that knows how far it got.

The class of an exception does not tell whether a paid request left, and neither does
``aiohttp.UploadTracker``: it calls a body incomplete while the rest of it still stands in
the socket's buffer, and closing the connection *sends* that rest (measured with 3.14.5:
4 to 30 MB arrived whole after "not fully sent").  So the body looks for itself, and cuts
the connection before it says that something has not left.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Self

import aiohttp

if TYPE_CHECKING:
    import asyncio

    from aiohttp.abc import AbstractStreamWriter

__all__ = ["Body"]

_PIECE = 65536
# On Windows a write may be done before the loop hears of it: what counts as unsent there
# may have left.
_BUFFER_IS_EXACT = sys.platform != "win32"


class Body(bytes, aiohttp.Payload):
    """The bytes of one request.  It is written once and never again.

    It is the bytes themselves, too: what stands in for aiohttp in a test can read them.
    """

    _autoclose = True

    def __new__(cls, value: bytes, *, last: bool = False) -> Self:
        """Make the bytes; *last* closes their connection after use."""
        return super().__new__(cls, value)

    def __init__(self, value: bytes, *, last: bool = False) -> None:
        aiohttp.Payload.__init__(self, value)
        self._last = last
        self._taken = False
        self._begun = False
        self._handed_over = False
        self._revoked = False
        self._transport: asyncio.WriteTransport | None = None

    def __bool__(self) -> bool:
        """Be true also when empty, or the client would send it without us."""
        return True

    @property
    def size(self) -> int:
        """How long the body is; the client asks when it builds the request."""
        self._taken = True
        return len(self)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write everything; the base class wants it."""
        await self.write_with_length(writer, None)

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        """Hand the body over piece by piece."""
        if self._begun:  # a second attempt by whatever means: not with our money
            raise ConnectionAbortedError("a body is sent once")
        self._begun = True
        self._transport = writer.transport
        if self._last:
            # The connection is not used again, whatever pool it came from.
            writer.protocol.force_close()  # type: ignore[attr-defined]  # StreamWriter has it
        last_piece = max(len(self) - 1, 0) // _PIECE * _PIECE
        for start in range(0, last_piece, _PIECE):
            await self._hand_over(writer, self[start : start + _PIECE])
        # Before the write and not after it: from here on nothing is certain.
        self._handed_over = not self._revoked
        await self._hand_over(writer, self[last_piece:])

    async def _hand_over(self, writer: AbstractStreamWriter, piece: bytes) -> None:
        if self._revoked:
            raise ConnectionAbortedError("the request was given up")
        await writer.write(piece)

    def never_left(self) -> bool:
        """Say whether it is *proved* that the body did not leave whole; give it up if so.

        Call it after a failure.  False means: nobody knows.
        """
        if not self._taken:
            return False
        if not self._handed_over:
            self._revoked = True
            return True
        transport = self._transport
        if transport is None or not _BUFFER_IS_EXACT or not transport.get_write_buffer_size():
            return False
        transport.abort()  # drops what is unsent; between the look and the cut nothing runs
        return True

    @property
    def begun(self) -> bool:
        """True when the connection stood and writing had begun."""
        return self._begun
