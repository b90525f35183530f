"""The size and the encoding of an answer: bounded, whatever it says about itself."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

from kie_async.errors import KieConnectionError, ResponseError
from kie_async.transport._answer import MAX_BODY, Answer
from tests.wire_servers import (
    ACCEPTED,
    RawServer,
    always,
    answer,
    create,
    opened,
    read,
)

pytestmark = pytest.mark.asyncio


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


ENCODINGS = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZip", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "deflate without header": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "a label that is none": ("utf-8", bytes),
    "gzip as a label only": ("gzip", bytes),
}


@pytest.mark.parametrize("kind", ENCODINGS)
async def test_an_encoded_answer_is_decoded(kind: str):
    """Also with a wrong label: a task id may be in it."""
    label, encode = ENCODINGS[kind]
    sent = answer(encode(ACCEPTED), extra=f"Content-Encoding: {label}\r\n")
    async with RawServer(always(sent)) as server, opened(server.url) as wire:
        response = await wire.send(create(), timeout=5.0)

    assert response.body == ACCEPTED


async def test_an_encoded_answer_is_decoded_wherever_it_is_split():
    """Byte by byte, in chunks."""
    packed = gzip.compress(ACCEPTED)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in packed) + b"0\r\n\r\n"
    async with RawServer(always(head + chunks)) as server, opened(server.url) as wire:
        response = await wire.send(create(), timeout=5.0)

    assert response.body == ACCEPTED


async def test_an_empty_answer_with_an_encoding_is_empty():
    """204 and its like."""
    sent = answer(b"", extra="Content-Encoding: gzip\r\n")
    async with RawServer(always(sent)) as server, opened(server.url) as wire:
        assert (await wire.send(read(), timeout=5.0)).body == b""


UNREADABLE = {
    "br": ("br", b"\x0b\x02\x80"),
    "zstd": ("zstd", b"(\xb5/\xfd"),
    "cut gzip": ("gzip", gzip.compress(ACCEPTED)[:-9]),
    "damaged gzip": ("gzip", gzip.compress(ACCEPTED)[:20] + b"\xff" * 40),
    "two gzips": ("gzip", gzip.compress(ACCEPTED) * 2),
    "no deflate": ("deflate", b"\x78\x00\x00\x00"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_an_answer_that_cannot_be_decoded_is_an_error(kind: str):
    """A ResponseError with what could be read of it."""
    label, body = UNREADABLE[kind]
    sent = answer(body, extra=f"Content-Encoding: {label}\r\n")
    async with RawServer(always(sent)) as server, opened(server.url) as wire:
        with pytest.raises(ResponseError) as caught:
            await wire.send(create(), timeout=5.0)

    assert caught.value.http_status == 200
    assert caught.value.__context__ is None
    if kind in {"cut gzip", "two gzips"}:
        assert caught.value.body.startswith(ACCEPTED[:20])


async def test_what_came_of_a_compressed_answer_is_kept_decoded():
    """Cut in the middle of its bytes: what could be decoded is in ``partial``."""
    packed = gzip.compress(ACCEPTED)
    whole = answer(packed, extra="Content-Encoding: gzip\r\n")

    async def script(server: RawServer, reader: Any, writer: Any) -> None:
        await server.request(reader)
        writer.write(whole[:-6])
        writer.close()

    async with RawServer(script) as server, opened(server.url) as wire:
        with pytest.raises(KieConnectionError) as caught:
            await wire.send(create(), timeout=5.0)

    assert caught.value.partial
    assert ACCEPTED.startswith(caught.value.partial)


async def test_what_was_buffered_of_a_compressed_answer_is_decoded_too():
    """The first bytes and the cut came together: nothing had been read yet."""
    packed = gzip.compress(ACCEPTED)
    loop = asyncio.get_running_loop()
    content = aiohttp.StreamReader(BaseProtocol(loop), 65536, loop=loop)
    content.feed_data(packed[:-8])
    content.set_exception(aiohttp.ClientPayloadError("cut"))
    came = Answer()
    response = SimpleNamespace(status=200, headers={"Content-Encoding": "gzip"}, content=content)
    with pytest.raises(aiohttp.ClientPayloadError):
        await came.read(response)  # type: ignore[arg-type]  # a stand-in

    assert came.partial() == ACCEPTED


async def test_an_empty_gzip_is_an_empty_answer():
    """Twenty bytes that stand for none."""
    sent = answer(gzip.compress(b""), extra="Content-Encoding: gzip\r\n")
    async with RawServer(always(sent)) as server, opened(server.url) as wire:
        assert (await wire.send(read(), timeout=5.0)).body == b""


async def test_a_compressed_answer_that_is_long_itself_is_cut():
    """Empty blocks without end: two mebibytes of packed bytes are enough."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(b"x") + packer.flush(zlib.Z_SYNC_FLUSH)
    body = start + b"\x00\x00\x00\xff\xff" * (MAX_BODY // 4)
    sent = answer(body, extra="Content-Encoding: gzip\r\n")
    async with RawServer(always(sent)) as server, opened(server.url) as wire:
        with pytest.raises(ResponseError, match="longer than"):
            await wire.send(read(), timeout=10.0)


async def test_two_mebibytes_are_read_and_one_byte_more_is_not():
    """The limit is exact, plain and compressed."""
    for encode, extra in ((bytes, ""), (gzip.compress, "Content-Encoding: gzip\r\n")):
        fits = always(answer(encode(b"x" * MAX_BODY), extra=extra))
        async with RawServer(fits) as server, opened(server.url) as wire:
            assert len((await wire.send(read(), timeout=10.0)).body) == MAX_BODY
        over = always(answer(encode(b"x" * (MAX_BODY + 1)), extra=extra))
        async with RawServer(over) as server, opened(server.url) as wire:
            with pytest.raises(ResponseError, match="longer than") as caught:
                await wire.send(read(), timeout=10.0)
            assert len(caught.value.body) == 500


async def test_an_answer_without_end_is_cut():
    """Chunk after chunk: at two mebibytes we leave."""

    async def endless(server: RawServer, reader: Any, writer: Any) -> None:
        await server.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
            await writer.drain()

    async with RawServer(endless) as server, opened(server.url) as wire:
        with pytest.raises(ResponseError, match="longer than"):
            await wire.send(read(), timeout=10.0)


BOMB = """
import asyncio, gzip, resource, sys, time, zlib
sys.path.insert(0, {root!r})
from kie_async.errors import ResponseError
from tests.wire_servers import RawServer, always, answer, opened, read

def pack(bits):
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    first, again = [
        packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    ]
    return first + again * 1023  # a full flush makes blocks that can be repeated

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def one(script):
    async with RawServer(script) as server, opened(server.url) as wire:
        started = time.perf_counter()
        try:
            await wire.send(read(), timeout=10.0)
        except ResponseError:
            print(round(time.perf_counter() - started, 3), end=" ")

async def main():
    bits, label = {{"gzip": (31, "gzip"), "deflate": (15, "deflate"), "raw": (-15, "deflate")}}[
        sys.argv[1]]
    bomb = always(answer(pack(bits), extra="Content-Encoding: " + label + "\\r\\n"))
    await one(always(answer(b"x" * 3000000)))  # what an innocent long answer takes
    before = peak()
    await one(bomb)
    print(round(peak() - before, 1))

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["gzip", "deflate", "raw"])
async def test_a_bomb_never_inflates(kind: str):
    """One mebibyte that stands for a gibibyte: refused within a second and 16 MiB."""
    code = BOMB.format(root=str(Path(__file__).parents[1]))

    ran = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code, kind], capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stderr
    _, seconds, mebibytes = ran.stdout.split()
    assert float(seconds) < 1.0
    assert float(mebibytes) <= 16.0


class Pieces:
    """A stand-in for aiohttp's stream: gives out pieces, then fails if it is told to."""

    def __init__(self, *pieces: bytes, buffered: tuple[bytes, ...] = ()) -> None:
        """Take the pieces; *buffered* ones are there, but withheld by an error."""
        self._pieces = list(pieces)
        self._buffer = buffered

    async def readany(self) -> bytes:
        """Return the next piece."""
        if not self._pieces and self._buffer:
            raise aiohttp.ClientPayloadError("cut")
        return self._pieces.pop(0) if self._pieces else b""


def stand_in(content: Pieces) -> Any:
    return SimpleNamespace(status=200, headers={"Content-Encoding": "gzip"}, content=content)


async def test_something_behind_the_end_of_gzip_is_an_error_wherever_it_comes():
    """Also when it comes later than the end."""
    with pytest.raises(ResponseError, match="behind its end") as caught:
        await Answer().read(stand_in(Pieces(gzip.compress(ACCEPTED), b"more")))

    assert caught.value.body == ACCEPTED


async def test_what_cannot_be_decoded_of_a_cut_answer_is_left_out():
    """A failure is told as what it is; the attempt to save bytes adds no second one."""
    packed = gzip.compress(ACCEPTED)
    came = Answer()
    with pytest.raises(aiohttp.ClientPayloadError):
        await came.read(stand_in(Pieces(packed[:40], buffered=(b"\xff" * 40,))))

    assert ACCEPTED.startswith(came.partial())
