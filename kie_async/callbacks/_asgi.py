"""The receiver as an ASGI application.  Thin: it moves bytes and decides nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from kie_async.callbacks._refusal import Reason, refused

if TYPE_CHECKING:
    from kie_async.callbacks._receiver import CallbackReceiver

__all__ = ["ASGIApp"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ASGIApp:
    """Answers the connections of an ASGI server."""

    # A class and not a method: servers take a bound method for an application of ASGI 2.

    __slots__ = ("_receiver",)

    def __init__(self, receiver: CallbackReceiver) -> None:
        """Pass everything on to *receiver*."""
        self._receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, or the server's own start and stop."""
        if scope["type"] == "http":
            await _answer(self._receiver, scope, receive, send)
        elif scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})


async def _answer(receiver: CallbackReceiver, scope: Scope, receive: Receive, send: Send) -> None:
    headers = _headers(scope["headers"])
    reply = await receiver.serve(scope["method"], scope["path"], headers, _chunks(receive))
    may_close = scope.get("http_version", "1.1").startswith("1")  # HTTP/2 forbids the header
    lines = [
        (name.encode("latin-1"), value.encode("latin-1"))
        for name, value in reply.headers
        if may_close or name != "connection"
    ]
    lines += [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(reply.body)),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": lines})
    await send({"type": "http.response.body", "body": reply.body})


def _headers(pairs: Any) -> dict[str, str]:
    """Return the headers as text; one given twice is joined, and so matches no shape."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise refused(Reason.CUT)
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _live(receive: Receive, send: Send) -> None:
    """Start and stop with the server when served alone; there is nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
