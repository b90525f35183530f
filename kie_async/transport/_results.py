"""Fetches result files.  It never holds the API key, so it cannot leak it.

A session of its own: no cookies, nothing from the environment, no compression, and
redirects followed by hand, each checked like the first address.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from kie_async.errors import DownloadError
from kie_async.transport._guard import BlockedAddressError, guarded_sockets

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Fetched", "ResultTransport"]

HOPS = 3
"""Redirects that are followed."""
CHUNK = 256 * 1024
"""Bytes read at once: fewer, larger writes."""
PIECE_TIMEOUT = 30.0
"""Seconds without a single byte after which a download is broken off."""


@frozen
class Fetched:
    """The head of an answer, and its bytes as they come."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


class ResultTransport:
    """Opens result URLs; use it with ``async with``.

    Args:
        allow_private: Allow private addresses, http and any port, for an emulator.
    """

    def __init__(self, *, allow_private: bool = False) -> None:
        """Nothing is opened yet."""
        self._allow_private = allow_private
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the pool in the running loop."""
        import aiohttp

        connector = aiohttp.TCPConnector(
            limit=16, socket_factory=guarded_sockets(allow_private=self._allow_private)
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=PIECE_TIMEOUT, sock_read=PIECE_TIMEOUT
            ),
            headers={"Accept-Encoding": "identity", "User-Agent": "kie_async (result download)"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        if self._http is not None:
            await self._http.close()
            self._http = None

    @asynccontextmanager
    async def fetch(
        self, url: str, *, offset: int = 0, etag: str | None = None
    ) -> AsyncIterator[Fetched]:
        """Open *url*, from byte *offset* on if the file is still the one with *etag*.

        Raises:
            DownloadError: The URL is not allowed, or it cannot be reached or read.
        """
        import aiohttp

        headers = {}
        if offset and etag:
            headers = {"Range": f"bytes={offset}-", "If-Range": etag}
        problem: DownloadError | None = None
        try:
            async with self._opened(url, headers) as answer:
                names = {name.lower(): value for name, value in answer.headers.items()}
                yield Fetched(answer.status, names, _pieces(answer.content))
        except BlockedAddressError:
            problem = _refused("the address is private or special; see allow_private")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            blocked = "private or special" in str(error)
            kind = type(error).__name__
            problem = (
                _refused("the address is private or special; see allow_private")
                if blocked
                else DownloadError(f"the download from {_host(url)} broke off ({kind}); try again")
            )
        if problem is not None:  # raised here: nothing of aiohttp's is chained to it
            raise problem

    @asynccontextmanager
    async def _opened(
        self, url: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Follow redirects by hand; each address is checked."""
        if self._http is None:
            raise DownloadError("the result transport is not open", retryable=False)
        for _ in range(HOPS + 1):
            self._check(url)
            async with self._http.get(url, headers=headers, allow_redirects=False) as answer:
                if answer.status not in (301, 302, 303, 307, 308):
                    yield answer
                    return
                url = urljoin(url, answer.headers.get("Location", ""))
        raise _refused(f"more than {HOPS} redirects")

    def _check(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _refused("it is no address") from None
        schemes = {"https", "http"} if self._allow_private else {"https"}
        if parts.scheme not in schemes or not parts.hostname:
            raise _refused("only https is fetched")
        if "@" in parts.netloc or "\\" in url or not url.isprintable():
            raise _refused("it holds credentials or odd characters")
        if not self._allow_private and port not in (None, 443):
            raise _refused("only port 443 is used")


async def _pieces(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield what comes, also what came before a cut."""
    import aiohttp

    problem: Exception | None = None
    try:
        while piece := await content.read(CHUNK):
            yield piece
    except aiohttp.ClientError as error:
        problem = error
    if problem is not None:
        # aiohttp raises before it gives out what it has buffered, and there is no public
        # way to those bytes; with them the download resumes where it really stopped.
        for piece in list(getattr(content, "_buffer", None) or ()):
            yield piece
        raise problem


def _refused(why: str) -> DownloadError:
    return DownloadError(f"a result URL is not fetched: {why}", retryable=False)


def _host(url: str) -> str:
    return urlsplit(url).hostname or "?"
