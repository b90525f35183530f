"""Reads a body in bounded time and memory, for both faces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kie_async.callbacks._body import MAX_BODY
from kie_async.callbacks._refusal import Reason, refused

__all__ = ["Reading"]

SMALL = 16 * 1024
"""Bytes that every body may have, whoever else is sending."""
SHARED = 16 * 1024 * 1024
"""Bytes beyond `SMALL` that all bodies under way may have together."""


class Reading:
    """How long a body may take, and what all bodies under way have taken."""

    __slots__ = ("_timeout", "taken")

    def __init__(self, timeout: float) -> None:
        """A body has *timeout* seconds from its request's head."""
        self._timeout = timeout
        self.taken = 0

    async def whole(self, chunks: AsyncIterator[bytes]) -> bytes:
        """Return the body that comes in *chunks*.

        Raises:
            CallbackError: 408: too slow.  413: too large.  503: too many large ones.
        """
        body = bytearray()
        taken = 0
        try:
            async with asyncio.timeout(self._timeout):
                async for chunk in chunks:
                    if len(body) + len(chunk) > MAX_BODY:
                        raise refused(Reason.SIZE)
                    body += chunk
                    more = max(0, len(body) - SMALL) - taken
                    if self.taken + more > SHARED:
                        raise refused(Reason.CROWD)
                    taken += more
                    self.taken += more
        except TimeoutError:
            raise refused(Reason.SLOW) from None
        finally:
            self.taken -= taken
        return bytes(body)
