"""The receiver as a handler of aiohttp.web.  Thin: it moves bytes and decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from aiohttp import ClientError, web

from kie_async.callbacks._refusal import Reason, refused

if TYPE_CHECKING:
    from kie_async.callbacks._receiver import CallbackReceiver

__all__ = ["handler"]

ENDLESS = {reason.status for reason in (Reason.SLOW, Reason.SIZE, Reason.CROWD)}
"""Refusals of a body that may go on: aiohttp would read on for ten more seconds."""


def handler(receiver: CallbackReceiver) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler.  It serves any method and path; the receiver judges them."""

    async def answer(request: web.Request) -> web.Response:
        headers: dict[str, str] = {}
        for raw_name, value in request.headers.items():
            name = raw_name.lower()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        reply = await receiver.serve(request.method, request.path, headers, _chunks(request))
        response = web.Response(
            status=reply.status,
            body=reply.body,
            headers=dict(reply.headers),
            content_type="application/json",
        )
        if reply.status in ENDLESS:
            await response.prepare(request)
            await response.write_eof()
            request.protocol.force_close()
        return response

    return answer


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (ClientError, OSError, web.HTTPException):
        raise refused(Reason.CUT) from None
