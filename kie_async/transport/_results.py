"""Fetches result files.  It never holds the API key, so it cannot leak it.

A session of its own: no cookies, nothing from the environment (no proxy either: the guard
could not look behind it), no compression, and redirects followed by hand, each checked
like the first address.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from attrs import frozen

from kie_async.errors import DownloadError, SessionClosedError, UsageError
from kie_async.models import check_seconds
from kie_async.transport._guard import BLOCKED, guarded_sockets

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from kie_async.transport._links import Links

__all__ = ["MAX_BYTES", "Fetched", "Pace", "ResultTransport"]

HOPS = 3
"""Redirects that are followed."""
BUFFER = 64 * 1024
"""Bytes held for a reader that is slow; the socket is not read on beyond twice that."""
CONNECT = 10.0
"""Seconds for one address."""
PATIENCE = 30.0
"""Seconds without a byte, or with too few of them, after which a download is broken off."""
SLOWEST = 1024.0
"""Bytes a second, averaged over PATIENCE, that must come: a drip never trips a time-out."""
MAX_BYTES = 2 * 2**30
"""Bytes of one file, at most: a result is a picture or a clip of seconds."""
DEADLINE = 900.0
"""Seconds for one answer, from the connecting to its last byte."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@frozen
class Fetched:
    """The head of an answer, and its bytes as they come.

    ``framed`` is True if the answer says where it ends (a length, or chunks), so that a
    cut cannot pass for an end.  The names in ``headers`` are lower-case.
    """

    status: int
    headers: Mapping[str, str]
    framed: bool
    chunks: AsyncIterator[bytes]


class Pace:
    """Notices a download that drips.

    Args:
        least: Bytes a second that must come.
        over: Seconds that this is averaged over.
        now: The time at the start.
    """

    def __init__(self, least: float, over: float, now: float) -> None:
        self._least = least * over
        self._over = over
        self._since = now
        self._came = 0

    def too_slow(self, size: int, now: float) -> bool:
        """Count *size* bytes that came at *now*; True when the average is too low."""
        self._came += size
        if now - self._since < self._over:
            return False
        slow = self._came < self._least * (now - self._since) / self._over
        self._since, self._came = now, 0
        return slow


class ResultTransport:
    """Opens result URLs; use it with ``async with``, or with `open` and `close`.

    Args:
        allow_private: Allow loopback and private networks, by http and on any port, for
            an emulator.  Link-local addresses stay refused: clouds keep keys there.
        hosts: Host names that results may come from, with all names below them.  By
            default every public host: Kie promises nowhere which hosts it uses.
        connections: Downloads at once; others wait their turn.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        hosts: Iterable[str] | None = None,
        connections: int = 16,
    ) -> None:
        """Nothing is opened yet."""
        if not isinstance(connections, int) or connections < 1:
            raise UsageError("connections must be a whole number above zero")
        self._allow_private = allow_private
        self._hosts = None if hosts is None else hosts if isinstance(hosts, str) else tuple(hosts)
        self._connections = connections
        self._pool: _Pool | None = None

    async def open(self) -> None:
        """Open the pool in the running loop; safe to repeat."""
        from kie_async.transport._links import Links, host_names  # loads yarl

        if self._pool is None:
            links = Links(host_names(self._hosts), allow_private=self._allow_private)
            sockets = guarded_sockets(allow_private=self._allow_private)
            self._pool = _Pool(links, sockets, self._connections)

    async def close(self) -> None:
        """Close the pool; safe to repeat, and it may be opened again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.http.close()

    async def __aenter__(self) -> Self:
        """Open the pool."""
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the pool."""
        await self.close()

    @asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        offset: int = 0,
        etag: str | None = None,
        timeout: float = DEADLINE,
        max_bytes: int = MAX_BYTES,
    ) -> AsyncIterator[Fetched]:
        """Open *url*, from byte *offset* on if the file is still the one with *etag*.

        Args:
            url: The result's address.
            offset: Where to go on; only with *etag*.
            etag: The strong ETag of what is there already.
            timeout: Seconds until the last byte must have come.
            max_bytes: The largest answer that is read.

        Raises:
            DownloadError: The URL is not allowed, or it cannot be reached or read; also
                while the chunks are read.  Safe to repeat if it is ``retryable``.
            SessionClosedError: The transport is not open.
        """
        pool = self._pool
        if pool is None:
            raise SessionClosedError("the result transport is not open")
        headers = {"Range": f"bytes={offset}-", "If-Range": etag} if offset and etag else {}
        check_seconds(timeout, "timeout")
        async with pool.turns:
            answer = await pool.opened(url, headers, timeout)
            chunks = _chunks(answer, max_bytes)
            try:
                yield _fetched(answer, chunks)
            finally:
                await chunks.aclose()
                answer.close()  # a connection that was read to its end has gone back before


class _Pool:
    """An open session, and how many may use it."""

    def __init__(self, links: Links, sockets: Callable[..., object], connections: int) -> None:
        import aiohttp

        self.turns = asyncio.Semaphore(connections)
        self._links = links
        self.http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, socket_factory=sockets),  # type: ignore[arg-type]  # aiohttp's own type of an address is private
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=BUFFER,
            headers={
                "Accept": "*/*",
                "Accept-Encoding": "identity",
                "User-Agent": "kie_async (result download)",
            },
        )

    async def opened(
        self, text: str, headers: Mapping[str, str], timeout: float
    ) -> aiohttp.ClientResponse:
        """Return the answer behind *text*, its body unread; each hop is checked."""
        ends = time.monotonic() + timeout
        url = self._links.read(text)
        for _ in range(HOPS + 1):
            answer = await self._asked(url, headers, max(0.001, ends - time.monotonic()))
            if answer.status not in _REDIRECTS:
                return answer
            location = answer.headers.get("Location", "")
            answer.close()
            url = self._links.read(location, base=url)
        raise DownloadError(
            f"a result URL is not fetched: more than {HOPS} redirects", retryable=False
        )

    async def _asked(
        self, url: URL, headers: Mapping[str, str], timeout: float
    ) -> aiohttp.ClientResponse:
        import aiohttp

        limits = aiohttp.ClientTimeout(
            # total is short of a ceiling: aiohttp rounds what is longer up to full seconds
            total=timeout,
            sock_connect=CONNECT,
            sock_read=PATIENCE,
            ceil_threshold=3600.0,
        )
        try:
            return await self.http.get(
                url, headers=headers, allow_redirects=False, timeout=limits, middlewares=()
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a KieError
            problem = _broken(error, url.raw_host or "?")
        raise problem  # here, and not above: nothing of aiohttp's is chained to it


def _fetched(answer: aiohttp.ClientResponse, chunks: AsyncIterator[bytes]) -> Fetched:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    framed = "content-length" in headers or "chunked" in headers.get("transfer-encoding", "")
    return Fetched(answer.status, headers, framed, chunks)


async def _chunks(answer: aiohttp.ClientResponse, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes; break off what is too large, too slow or cut."""
    host = answer.url.raw_host or "?"
    clock = asyncio.get_running_loop().time
    pace, room = Pace(SLOWEST, PATIENCE, clock()), max_bytes
    problem: DownloadError | None = None
    while problem is None:
        try:
            chunk = await answer.content.readany()
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a KieError
            problem, chunk = _broken(error, host), _buffered(answer)
        if not chunk:
            break
        room -= len(chunk)
        if room < 0:
            problem = DownloadError(
                f"the result is larger than {max_bytes} bytes: raise max_bytes if that is right",
                retryable=False,
            )
            break
        yield chunk
        if problem is None and pace.too_slow(len(chunk), clock()):
            problem = DownloadError(f"{host} sends less than {SLOWEST:g} bytes a second")
    if problem is not None:  # raised here: nothing of aiohttp's is chained to it
        raise problem


def _buffered(answer: aiohttp.ClientResponse) -> bytes:
    """Return what came before a cut; it need not be fetched again.

    aiohttp raises before it gives out what it has buffered, and there is no public way to
    it.  Without it a resume begins a little earlier, and nothing else changes.
    """
    return b"".join(getattr(answer.content, "_buffer", ()))


def _broken(error: Exception, host: str) -> DownloadError:
    """Return our error for one of aiohttp's, or for any other; it never shows the URL."""
    import aiohttp

    if BLOCKED in str(error):
        return DownloadError(
            f"a result URL is not fetched: {BLOCKED} ({host}); see allow_private", retryable=False
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return DownloadError(f"the certificate of {host} was refused", retryable=False)
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return DownloadError("a result URL is not fetched: it is no address", retryable=False)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return DownloadError(f"the name {host} cannot be resolved: check the network")
    if isinstance(error, TimeoutError):
        return DownloadError(f"nothing came from {host} in time")
    return DownloadError(f"the download from {host} broke off ({type(error).__name__})")
