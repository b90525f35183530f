"""Say what went wrong on the wire, in our own words.

aiohttp's errors carry the request with its headers, the key among them.  So none of them
is shown, chained or kept: only their class and the system's own reason are told.
"""

from __future__ import annotations

import asyncio

import aiohttp

from kie_async.errors import KieConnectionError, ResponseError
from kie_async.protocol import Request
from kie_async.transport._answer import Answer
from kie_async.transport._body import Body

__all__ = ["failed", "too_late", "unreadable"]

_BEFORE_SENDING = (
    aiohttp.ClientConnectorError,  # and its kin: name, certificate, handshake, proxy
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
_REFUSED_BY_CLIENT = (ValueError, TypeError)


def failed(
    error: BaseException, request: Request, body: Body | None, answer: Answer
) -> KieConnectionError:
    """Return our error for one of aiohttp's, or for any other."""
    sent = _was_sent(error, body)
    partial = answer.partial()
    reason, retryable = _reason(error, len(partial), sent)
    return KieConnectionError(
        f"{_route(request)}: {type(error).__name__}: {reason}",
        sent=sent,
        partial=partial,
        http_status=answer.status,
        retryable=retryable,
    )


def too_late(
    timeout: float, request: Request, body: Body | None, answer: Answer
) -> KieConnectionError:
    """Return the error for a request whose deadline has passed."""
    sent = not (body is not None and body.never_left())
    partial = answer.partial()
    if answer.status is not None:
        how_far = f"the answer stopped after {len(partial)} bytes"
    elif not sent:
        how_far = "the request was not sent"
    else:
        how_far = "no answer came"
    return KieConnectionError(
        f"{_route(request)}: {how_far} within {timeout:g} s",
        sent=sent,
        partial=partial,
        http_status=answer.status,
    )


def unreadable(error: ResponseError, request: Request) -> ResponseError:
    """Return the error for an answer that cannot be read, with the request's name."""
    return ResponseError(
        f"{_route(request)}: {error.message}", body=error.body, http_status=error.http_status
    )


def _was_sent(error: BaseException, body: Body | None) -> bool:
    """Say False only on proof; there are two kinds, and each is enough."""
    if body is None:
        return not isinstance(error, _BEFORE_SENDING)
    if isinstance(error, _BEFORE_SENDING + _REFUSED_BY_CLIENT) and not body.begun:
        return False
    return not body.never_left()


def _route(request: Request) -> str:
    """Name the request without its query."""
    return f"{request.method} {request.path.partition('?')[0]}"


def _reason(error: BaseException, came: int, sent: bool) -> tuple[str, bool]:
    """Say why, and whether the same request may work later."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = getattr(error.certificate_error, "verify_message", "") or "it is not trusted"
        return _UNTRUSTED.format(why), False
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host's name cannot be resolved: check the address and the network", True
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "the encrypted connection could not be set up", True
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused with {error.status}: check its settings", error.status != 407
    if isinstance(error, aiohttp.ClientResponseError):
        return "what came back is not an HTTP answer", True
    if isinstance(error, aiohttp.ClientPayloadError):
        return f"the answer was cut after {came} bytes", True
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the server closed the connection before it had answered", True
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror), True
    if isinstance(error, _REFUSED_BY_CLIENT) and not sent:
        return _UNFIT, False
    if isinstance(error, asyncio.CancelledError):
        return "the connections were closed meanwhile", True
    return "the request failed", True


_UNTRUSTED = (
    "the server's certificate was refused ({}): check the address, this machine's clock and "
    "its trusted certificates; nothing was sent"
)
_UNFIT = (
    "the request was refused before it was sent; with an aiohttp session of your own, check "
    "that it brings no credentials (auth=, netrc)"
)
