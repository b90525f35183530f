"""One file: attempts until it is whole, each going on where the last one stopped."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

from attrs import frozen

from kie_async.errors import DownloadError, KieError
from kie_async.files._part import Part, Progress, UnfitError
from kie_async.files._place import UNVERIFIED
from kie_async.files._threads import Writer, in_thread
from kie_async.transport import Fetched

__all__ = ["Fetcher", "Fetching", "Renew"]

Renew = Callable[[str], Awaitable[str]]

EXPIRED = frozenset({400, 401, 403, 404, 410})
"""Statuses of an address whose time is over (400: some hosts say so to an old signature)."""
GOOD_PROGRESS = 64 * 1024
"""Bytes that make an attempt count as none: it brought us on."""

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")
_NOTHING = re.compile(r"bytes \*/(\d{1,18})")


class Fetcher(Protocol):
    """What opens a result URL; `kie_async.transport.ResultTransport` does."""

    def fetch(
        self,
        url: str,
        *,
        offset: int = 0,
        etag: str | None = None,
        timeout: float = 900.0,
        max_bytes: int = 2**31,
    ) -> AbstractAsyncContextManager[Fetched]:
        """Open *url* from byte *offset* on."""


class _OverError(Exception):
    """The address leads to no file any more: a status says so, or a page in its place."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.status = status


@frozen(kw_only=True)
class Fetching:
    """Brings one result into a part.

    ``timeout`` is for one answer, in seconds.  ``attempts`` counts those that brought
    nothing; ``pause`` gives the seconds to wait after so many of them.
    """

    fetcher: Fetcher
    renew: Renew
    max_bytes: int
    timeout: float
    attempts: int
    pause: Callable[[int], float]

    async def bring(self, part: Part, url: str) -> str:
        """Bring the whole file into the open *part*; return the suffix of its content.

        Raises:
            DownloadError: It cannot be had, or not now.
            OSError: It cannot be written.
        """
        fruitless, thrown, renewed_at = 0, 0, -1  # -1: not renewed yet
        while True:
            had = await in_thread(part.progress)
            try:
                return await self._attempt(part, url, had)
            except _OverError as over:
                reason = DownloadError(over.why, http_status=over.status)
                # Once; and once more for a link that brought us on before its time was over.
                if renewed_at < 0 or had.offset - renewed_at >= GOOD_PROGRESS:
                    renewed_at, url = had.offset, await self._renewed(url, over)
                    continue
                if over.status is not None:
                    raise DownloadError(
                        f"{over.why}, the renewed address too: look at Kie's site; the task "
                        "was paid for once and stays done",
                        http_status=over.status,
                        retryable=False,
                    ) from None
            except DownloadError as error:
                if not error.retryable:
                    raise
                reason = error
            came = (await in_thread(part.progress)).offset - had.offset
            fruitless = fruitless + 1 if came < GOOD_PROGRESS else 0
            # Never forgiven: bringing the same bytes again and again is no progress.
            thrown += came < 0
            if max(fruitless, thrown) >= self.attempts:
                raise reason
            await asyncio.sleep(self.pause(fruitless))

    async def _renewed(self, url: str, over: _OverError) -> str:
        """Ask for a fresh address."""
        try:
            return await self.renew(url)
        except KieError as error:
            raise DownloadError(
                f"{over.why}, and could not be renewed: {error.message}",
                http_status=over.status,
                retryable=error.retryable,
            ) from None

    async def _attempt(self, part: Part, url: str, had: Progress) -> str:
        if had.complete:  # an earlier run was stopped before the last steps
            return await self._examined(part, "", framed=True)
        async with self.fetcher.fetch(
            url,
            offset=had.offset,
            etag=had.etag,
            timeout=self.timeout,
            max_bytes=self.max_bytes,
        ) as answer:
            total = await self._begun(part, answer, had)
            if answer.status == 416:
                return await self._proven(part, answer, had)
            await self._stream(part, answer, had.offset, total)
        return await self._examined(
            part, answer.headers.get("content-type", ""), framed=answer.framed
        )

    async def _proven(self, part: Part, answer: Fetched, had: Progress) -> str:
        """Examine what a 416 calls all; the label of a 416 is that of its own words.

        If the host had told of more, its word is not enough: the bytes must show an end.
        """
        framed = answer.framed and had.total is None
        suffix = await self._examined(part, "", framed=framed)
        if had.total is not None and suffix.startswith(UNVERIFIED):
            await in_thread(part.drop)
            raise DownloadError("the host told two lengths of the file; it is fetched anew")
        return suffix

    async def _examined(self, part: Part, said: str, *, framed: bool) -> str:
        try:
            return await in_thread(partial(part.examine, said, framed=framed))
        except UnfitError as unfit:
            why, page = str(unfit), unfit.page
        if page:
            raise _OverError(why)
        raise DownloadError(why)

    async def _begun(self, part: Part, answer: Fetched, had: Progress) -> int | None:
        """Check the head and make the part ready; return the length that it will have."""
        status, headers = answer.status, answer.headers
        _check_status(status, headers)
        if status == 416:
            if _is_at_the_end(headers, had):
                return had.offset
            await in_thread(part.drop)
            raise DownloadError("the file has changed meanwhile; it is fetched anew")
        if status == 206:
            total = _rest(headers, had)
            if total is None:
                await in_thread(part.drop)
                raise DownloadError("the host resumed elsewhere; the file is fetched anew")
        else:
            length = headers.get("content-length", "")
            total = int(length) if _LENGTH.fullmatch(length) else None
        if total is not None and total > self.max_bytes:
            raise _too_large(self.max_bytes)
        if status == 200 or not had.offset:
            await in_thread(part.start, headers.get("etag"), total)
        return total

    async def _stream(self, part: Part, answer: Fetched, offset: int, total: int | None) -> None:
        """Write what comes; what came is kept, also when it breaks off."""
        size = offset if answer.status == 206 else 0
        writer = Writer(part)
        try:
            async for chunk in answer.chunks:
                size += len(chunk)
                if total is not None and size > total:
                    break
                await writer.write(chunk)
        finally:
            await writer.flush()
        if total is not None and size != total:
            if size > total:
                await in_thread(part.drop)
            raise DownloadError(f"{size} bytes came instead of {total}")


def _check_status(status: int, headers: Mapping[str, str]) -> None:
    if status in EXPIRED:
        raise _OverError(f"the result has expired (HTTP {status})", status)
    if status not in (200, 206, 416):
        raise DownloadError(
            f"the result's host answered HTTP {status}",
            http_status=status,
            retryable=status >= 500 or status in (408, 425, 429),
        )
    if headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        # Inflating it would hide a cut, and could fill the disk.
        raise DownloadError("the host compressed the file, which was not asked for")


def _rest(headers: Mapping[str, str], had: Progress) -> int | None:
    """Return the whole length if a 206 goes on just where we stopped, in the same file."""
    told = _RANGE.fullmatch(headers.get("content-range", ""))
    if told is None:
        return None
    start, end, total = int(told[1]), int(told[2]), int(told[3])
    same = headers.get("etag") == had.etag if had.offset else True
    fits = start == had.offset and start <= end < total and had.total in (None, total)
    return total if fits and same else None


def _is_at_the_end(headers: Mapping[str, str], had: Progress) -> bool:
    """True if a 416 says that nothing follows what we have, in the same file.

    Many hosts leave the tag out of a 416.
    """
    told = _NOTHING.fullmatch(headers.get("content-range", ""))
    same = headers.get("etag", had.etag) == had.etag
    return told is not None and same and int(told[1]) == had.offset > 0


def _too_large(max_bytes: int) -> DownloadError:
    return DownloadError(
        f"the result is larger than {max_bytes} bytes: raise max_bytes if that is right",
        retryable=False,
    )
