"""``Transport``: sends one request to the API and brings its answer back.

It decides nothing: no retry, no redirect, no waiting for a turn, no reading of the
answer's meaning.  It promises three things.  It ends in time.  It says that a request was
not sent only when that is proved.  And the key is seen by nobody but the API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from kie_async.errors import SessionClosedError, UsageError, WrongLoopError
from kie_async.models import Secret
from kie_async.protocol import Request, Response
from kie_async.transport._address import check_address
from kie_async.transport._place import Place

if TYPE_CHECKING:
    import aiohttp

    from kie_async.transport._wire import Wire

__all__ = ["Transport"]

_LONGEST = 1e6  # seconds; what is longer is a mistake


@frozen
class _Opened:
    """The pools, and the place that they belong to."""

    wire: Wire
    place: Place


class Transport:
    """The way to the API: an HTTP client that can do nothing else.

    Creates get a fresh connection each; everything else shares warm ones.  Cookies,
    redirects, proxies and credentials from the environment are off.

    Args:
        api_key: Sent to the two addresses below, and nowhere else.
        base_url: The API's address; https, or http to this machine.
        upload_url: The upload host's address; the same.
        http: Your own ``aiohttp.ClientSession``.  It is used for everything and never
            closed.  Its timeouts, ``raise_for_status``, ``base_url`` and middlewares have
            no effect here; its proxy, TLS settings, resolver and limits have.  Its
            cookie jar takes and sends cookies, its default headers go along, and its
            trace configs see the key: use a ``DummyCookieJar``, and trace with care.
            A create still gets a fresh connection, if its connector is aiohttp's own.
        allow_insecure: Accept http to any host.  The key then travels in the clear.

    Raises:
        UsageError: An address or the key cannot be used.
    """

    def __init__(
        self,
        *,
        api_key: Secret,
        base_url: str,
        upload_url: str,
        http: aiohttp.ClientSession | None = None,
        allow_insecure: bool = False,
    ) -> None:
        if any(not 33 <= ord(char) <= 126 for char in api_key.reveal()):
            raise UsageError("the API key holds a character that cannot stand in a header")
        self._key = api_key
        self._addresses = {
            "api": check_address(base_url, "base_url", allow_insecure=allow_insecure),
            "upload": check_address(upload_url, "upload_url", allow_insecure=allow_insecure),
        }
        self._http = http
        self._opened: _Opened | None = None

    @property
    def base_url(self) -> str:
        """The API's address, without a slash at its end."""
        return self._addresses["api"].text

    @property
    def upload_url(self) -> str:
        """The upload host's address, without a slash at its end."""
        return self._addresses["upload"].text

    def __repr__(self) -> str:
        """Say where it goes, and nothing of the key."""
        if not hasattr(self, "_opened"):  # a traceback of its making shows it
            return "<Transport unfinished>"
        state = "closed" if self._opened is None else "open"
        return f"<Transport {self.base_url} {state}>"

    async def open(self) -> None:
        """Build the pools in the running loop.  Safe to call again in the same loop.

        Raises:
            WrongLoopError: It is open in another loop that is still there.
            SessionClosedError: The aiohttp session that was given is closed.
            UsageError: The aiohttp session that was given has credentials of its own.
        """
        from kie_async.transport._wire import Wire

        opened = self._opened
        if opened is not None and opened.place.same_process:
            if opened.place.is_here:
                return
            if not opened.place.loop.is_closed():
                raise WrongLoopError("the transport is open in another event loop: close it there")
        self._forget()
        self._opened = _Opened(Wire(self._key, self._addresses, self._http), Place())

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Send *request* once, and read the whole answer, whatever its status.

        Args:
            request: What to send.
            timeout: Seconds for all of it together: a place in the pool, the name, the
                connection, the sending, the answer to its last byte.  Kept within 0.1 s.

        Raises:
            KieConnectionError: No whole answer came.  ``sent`` is False only on proof
                that no complete request left; ``partial`` is what came of the answer.
            ResponseError: The answer is longer than 2 MiB or wrongly compressed.
            UsageError: The timeout or the path cannot be used; nothing was sent.
            SessionClosedError: The transport is not open; nothing was sent.
            WrongLoopError: It was opened in another loop or process; nothing was sent.
        """
        if not 0 < timeout < _LONGEST:
            raise UsageError(f"timeout must be a number of seconds above zero, not {timeout}")
        outcome = await self._here().exchange(request, timeout)
        if isinstance(outcome, Response):
            return outcome
        try:
            raise outcome
        finally:
            del outcome  # an error and its own frame would keep each other alive

    def _here(self) -> Wire:
        """Return the pools if this is their place."""
        opened = self._opened
        if opened is None:
            raise SessionClosedError("the transport is not open")
        if not opened.place.is_here:
            if not opened.place.same_process:
                raise WrongLoopError(
                    "this process was forked from the one that opened the transport: open one here"
                )
            raise WrongLoopError("the transport was opened in another event loop")
        if opened.wire.closed_by_owner:
            raise SessionClosedError("the aiohttp session that was given is closed")
        return opened.wire

    async def close(self) -> None:
        """Close the pools; requests under way fail.  Safe to call again, or in a fork."""
        opened = self._opened
        if opened is not None and opened.place.same_process and not opened.place.loop.is_closed():
            if not opened.place.is_here:
                raise WrongLoopError("the transport was opened in another event loop")
            self._opened = None
            await opened.wire.close()
        self._forget()

    def _forget(self) -> None:
        """Let go of pools that cannot be closed from here."""
        opened, self._opened = self._opened, None
        if opened is not None and not opened.place.same_process:
            # Kept alive on purpose: to destroy them would take the parent's sockets out
            # of the selector that both processes share.
            _inherited.append(opened)


_inherited: list[_Opened] = []
