"""aiohttp, and nothing else: one request out, one answer in.

The only place that builds aiohttp sessions for the API.  It is imported when a transport
is opened, because aiohttp takes longer to import than all the rest together.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import aiohttp
from yarl import URL

import kie_async
from kie_async.errors import ResponseError, SessionClosedError, UsageError, WrongLoopError
from kie_async.models import Secret
from kie_async.protocol import Request, Response
from kie_async.transport._address import Address
from kie_async.transport._answer import Answer
from kie_async.transport._body import Body
from kie_async.transport._deadline import Deadlines
from kie_async.transport._errors import failed, too_late, unreadable

__all__ = ["Wire"]

READS = 100  # connections; above a hundred, more sockets cost more CPU, not less
KEEPALIVE = 75.0  # seconds; polls are up to a minute apart, and a new TLS costs a millisecond
_PATH = re.compile(r"/[!\"$-\[\]-~]*")  # visible ASCII but # and \
CONNECT = 10.0  # seconds for one address: a black hole must leave time for another one


class Wire:
    """The open pools of one transport, in one event loop.

    Args:
        key: Revealed for the one header, and only for the two addresses.
        addresses: The API's and the upload host's.
        http: The caller's own session, used for everything and never closed.
    """

    def __init__(
        self,
        key: Secret,
        addresses: dict[str, Address],
        http: aiohttp.ClientSession | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._key = key
        self._addresses = addresses
        self._deadlines = Deadlines(loop)
        self._foreign = http is not None
        if http is not None:
            _check_foreign(http, loop)
            self._reads = self._creates = http
        else:
            self._reads = _session(aiohttp.TCPConnector(limit=READS, keepalive_timeout=KEEPALIVE))
            # A create never waits for reads, and never gets a connection that the server
            # may just be closing: 9.8 % of such creates were left in doubt (measured).
            # The limiter in front bounds their number.
            self._creates = _session(aiohttp.TCPConnector(limit=0, force_close=True))
        self._common: dict[str, Any] = {
            "allow_redirects": False,
            "raise_for_status": False,
            "auto_decompress": False,
            # No total: aiohttp rounds deadlines above 5 s up to whole seconds.
            "timeout": aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT, ceil_threshold=3600.0
            ),
        }
        if self._foreign:
            # One that repeats requests would pay twice, one that logs would see the key.
            self._common["middlewares"] = ()
        self._headers = {
            "User-Agent": f"kie_async/{kie_async.__version__} (+python aiohttp)",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
        }

    async def exchange(self, request: Request, timeout: float) -> Response | BaseException:
        """Send *request* once; return the answer, or the exception to raise.

        Returned and not raised: an exception that passed through aiohttp drags frames
        along whose locals hold the key, and crash reporters print locals.
        """
        task = asyncio.current_task(self._loop)  # named: to look for it is a system call
        assert task is not None  # noqa: S101 - a coroutine that awaits runs in a task
        answer = Answer()
        body: Body | None = None
        if request.body is not None or request.paid:
            body = Body(request.body or b"", last=request.paid)
        watch = self._deadlines.watch(task, timeout)
        try:
            return await self._once(request, body, answer)
        except asyncio.CancelledError as cancelled:
            if watch.cancelled_by_caller():
                return asyncio.CancelledError(*cancelled.args)
            if watch.expired:
                return too_late(timeout, request, body, answer)
            return failed(cancelled, request, body, answer)
        except ResponseError as error:
            return unreadable(error, request)
        except UsageError as unusable:
            return unusable.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a KieError
            return failed(error, request, body, answer)
        finally:
            watch.stop()

    async def _once(self, request: Request, body: Body | None, answer: Answer) -> Response:
        options = self._common
        if request.paid and self._foreign:
            options = {**options, **self._freshness(request)}
        url = self._url(request)
        response = await (self._creates if request.paid else self._reads).request(
            request.method, url, data=body, headers=self._signed(request, url), **options
        )
        try:
            content = await answer.read(response)
        finally:
            if response.connection is not None:  # not read to its end: of no further use
                response.close()
        return Response(response.status, response.headers, content)

    def _url(self, request: Request) -> URL:
        if not _PATH.fullmatch(request.path):
            raise UsageError("a request's path starts with a slash and is percent-encoded")
        address = self._addresses[request.host]
        path, _, query = request.path.partition("?")
        return URL.build(
            scheme=address.scheme,
            authority=address.authority,
            path=address.prefix + path,
            query_string=query,
            encoded=True,
        )

    def _signed(self, request: Request, url: URL) -> dict[str, str]:
        """Return the headers; the key goes on last, and to its own origins only."""
        headers = {**self._headers, "Content-Type": request.content_type}
        address = self._addresses[request.host]
        if url.raw_authority == address.authority and url.scheme == address.scheme:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        return headers

    def _freshness(self, request: Request) -> dict[str, Any]:
        """Keep a create off the idle connections of somebody else's pool.

        aiohttp pools by address *and* by ``server_hostname``: naming the host, which
        changes nothing else, makes a shelf of its own, and what is taken from it is
        closed after use (see :class:`Body`).
        """
        return {"server_hostname": self._addresses[request.host].host}

    async def close(self) -> None:
        """Close our own pools."""
        self._deadlines.close()
        if not self._foreign:
            await self._reads.close()
            await self._creates.close()

    @property
    def closed_by_owner(self) -> bool:
        """True when the caller has closed his own session."""
        return self._foreign and self._reads.closed


def _session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
    )


def _check_foreign(http: aiohttp.ClientSession, loop: asyncio.AbstractEventLoop) -> None:
    if http.closed:
        raise SessionClosedError("the aiohttp session that was given is closed")
    if http.auth is not None:
        raise UsageError("the aiohttp session that was given has auth=; the key goes there")
    # aiohttp has no public way to ask, and fails later in ways that look like the network.
    if getattr(http, "_loop", loop) is not loop:
        raise WrongLoopError("the aiohttp session that was given belongs to another event loop")
