"""Read one answer: bounded, decoded, and what came of it survives a cut."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from kie_async.errors import ResponseError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["MAX_BODY", "Answer"]

MAX_BODY = 2 * 1024 * 1024
"""Bytes of a decoded answer, at most: a record of a task has about two thousand."""

_GZIP = {"gzip", "x-gzip"}
_REFUSED = {"br", "zstd", "compress"}  # never asked for, and not to be decoded by hand


class Answer:
    """The body of one answer while it is coming."""

    __slots__ = ("_decoder", "_encoding", "_parts", "_raw", "_size", "_source", "status")

    def __init__(self) -> None:
        self.status: int | None = None
        self._encoding: str | None = None
        self._decoder: zlib._Decompress | None = None
        self._parts: list[bytes] = []
        self._raw = 0
        self._size = 0
        self._source: aiohttp.StreamReader | None = None

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the whole body.

        Raises:
            ResponseError: It is longer than 2 MiB, or not encoded as it says.
        """
        self.status = response.status
        source = self._source = response.content
        encoding = response.headers.get("Content-Encoding")
        if encoding is None:
            while chunk := await source.readany():
                self._keep(chunk)
        else:
            self._encoding = encoding.strip().lower()
            await self._read_encoded(source)
        self._source = None
        parts = self._parts
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_encoded(self, source: aiohttp.StreamReader) -> None:
        if self._encoding in _REFUSED:
            raise self._unreadable(f"the answer is encoded with {self._encoding}, unasked")
        while chunk := await source.readany():
            self._take(chunk)
        if self._decoder is not None and not self._decoder.eof:
            raise self._unreadable("the compressed answer ends in the middle")

    def _take(self, chunk: bytes) -> None:
        """Decode one piece, never further than the limit."""
        if not self._raw and self._encoding is not None:
            self._decoder = _decoder(self._encoding, chunk)
        self._raw += len(chunk)
        decoder = self._decoder
        if decoder is None:
            self._keep(chunk)
            return
        if self._raw > MAX_BODY:
            raise self._unreadable(f"the answer is longer than {MAX_BODY} bytes")
        if decoder.eof:
            raise self._unreadable("the compressed answer has something behind its end")
        try:
            piece = decoder.decompress(chunk, MAX_BODY + 1 - self._size)
        except zlib.error:
            piece = None
        if piece is None:
            raise self._unreadable("the answer is not compressed as it says", chunk)
        if piece:
            self._keep(piece)
        if decoder.unused_data:
            raise self._unreadable("the compressed answer has something behind its end")

    def _keep(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > MAX_BODY:
            raise self._unreadable(f"the answer is longer than {MAX_BODY} bytes")

    def _unreadable(self, why: str, instead: bytes = b"") -> ResponseError:
        body = b"".join(self._parts[:16]) or instead
        return ResponseError(why, body=body, http_status=self.status)

    def partial(self) -> bytes:
        """Return what came before a cut, decoded.  Call it after a failure, once."""
        # aiohttp raises before it gives out what it has buffered, and a loop that reads
        # several times in a row (uvloop) can deliver bytes and their end together.  There
        # is no public way to these bytes; a task id may be in them.
        buffered = getattr(self._source, "_buffer", None) or ()
        try:
            for chunk in list(buffered):
                self._take(chunk)
        except ResponseError:
            pass  # what is kept is kept
        return b"".join(self._parts)[:MAX_BODY]


def _decoder(encoding: str, start: bytes) -> zlib._Decompress | None:
    """Return what undoes *encoding*, or None if the body is plain after all."""
    if encoding in _GZIP and start[0] == 0x1F:  # else a wrong label: JSON has no such byte
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    if encoding == "deflate":  # with the zlib header as standardised, or without as some do
        return zlib.decompressobj(zlib.MAX_WBITS if start[0] & 0x0F == 8 else -zlib.MAX_WBITS)
    return None
