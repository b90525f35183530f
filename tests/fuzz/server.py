"""A server that answers every request with something mutated.  A process of its own.

    python -m tests.fuzz.server SEED [rare]

What is asked for says whose true answers are mutated.  It prints its port, and ends when
its standard input does.
"""

from __future__ import annotations

import asyncio
import random
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator

from tests.fuzz.mutate import mutated
from tests.fuzz.readers import READERS, STATUSES
from tests.wire_servers import reset

__all__ = ["answer"]

HANG = 2.5
"""Seconds that a silent or dripping connection stays: longer than any patience here."""
Pieces = Iterator[bytes | float | str]
"""Bytes to write, seconds to wait, or "rst"."""


def answer(rng: random.Random, endpoint: str, *, rare: bool = False) -> Pieces:
    """Return one answer: what is written, and how the connection goes on.

    Args:
        rng: Decides.
        endpoint: Whose answers are mutated.
        rare: Only of the kinds that cost time or memory: bombs, drips, endless ones.
    """
    body = mutated(rng, READERS[endpoint].seeds)[1:]
    kind = rng.choice(RARE) if rare else rng.choices(list(KINDS), list(KINDS.values()))[0]
    yield from kind(rng, body)
    # Most ends are told: where none is, the client waits for it, and that takes its time.
    if rng.random() < (0.05 if kind is framed else 0.95):
        yield "fin"


def _head(rng: random.Random, body: bytes, *more: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {rng.choice(STATUSES)} Status", "Content-Type: application/json", *more]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


ODD_HEADERS = (
    "Retry-After: 99999999999",
    "Retry-After: Wed, 99 Foo 2026 07:28:00 GMT",
    "Set-Cookie: a=b; Domain=kie.ai",
    "Location: http://169.254.169.254/",
    "Transfer-Encoding: chunked",
    "Content-Length: 3",
    "Content-Length: -1",
    "Content-Encoding: gzip",
    "Connection: close",
    "X-Long: " + "y" * 9000,
)


def framed(rng: random.Random, body: bytes) -> Pieces:
    yield _head(rng, body) + body


def labelled(rng: random.Random, body: bytes) -> Pieces:
    yield _head(rng, body, rng.choice(ODD_HEADERS)) + body


def encoded(rng: random.Random, body: bytes) -> Pieces:
    name, wbits = rng.choice((("gzip", 31), ("deflate", 15), ("deflate", -15), ("br", 31)))
    packed = zlib.compress(body, wbits=wbits)
    if rng.random() < 0.5:
        packed = mutated(rng, (packed,))
    yield _head(rng, packed, f"Content-Encoding: {name}") + packed


def scrambled(rng: random.Random, body: bytes) -> Pieces:
    yield mutated(rng, (_head(rng, body) + body,))


def cut(rng: random.Random, body: bytes) -> Pieces:
    whole = _head(rng, body) + body
    yield whole[: rng.randrange(len(whole))]
    yield rng.choice(("fin", "rst"))


def chunked(rng: random.Random, body: bytes) -> Pieces:
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:9], body[9:]) if part)
    if rng.random() < 0.5:
        pieces = mutated(rng, (pieces,))
    yield _head(rng, body, "Transfer-Encoding: chunked", length=False) + pieces
    yield b"0\r\n\r\n"


def extra(rng: random.Random, body: bytes) -> Pieces:
    yield _head(rng, body) + body + rng.choice((b"x", b"HTTP/1.1 200 OK\r\n\r\n", b"\r\n" * 50))


def endless_headers(rng: random.Random, body: bytes) -> Pieces:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(2000):
        yield b"X-%d: %s\r\n" % (number, b"y" * 500)


def endless_body(rng: random.Random, body: bytes) -> Pieces:
    yield _head(rng, body, "Transfer-Encoding: chunked", length=False)
    for _ in range(200):
        yield b"10000\r\n" + b"x" * 65536 + b"\r\n"


BOMB = zlib.compress(bytes(2**26), wbits=31)


def bomb(rng: random.Random, body: bytes) -> Pieces:
    yield _head(rng, BOMB, "Content-Encoding: gzip") + BOMB


def drip(rng: random.Random, body: bytes) -> Pieces:
    whole = _head(rng, body) + body
    for at in range(min(len(whole), int(HANG / 0.05))):
        yield whole[at : at + 1]
        yield 0.05


def silent(rng: random.Random, body: bytes) -> Pieces:
    yield HANG


KINDS: dict[Callable[[random.Random, bytes], Pieces], float] = {
    framed: 66,
    labelled: 4,
    encoded: 9,
    scrambled: 8,
    cut: 4,
    chunked: 5,
    extra: 2,
    endless_headers: 0.3,
    endless_body: 0.2,
    bomb: 0.4,
    drip: 0.4,
    silent: 0.4,
}


RARE = [kind for kind, weight in KINDS.items() if weight < 1]


PATHS = {
    b"createTask": "create",
    b"recordInfo": "task",
    b"credit": "credits",
    b"download-url": "address",
    b"file-url-upload": "upload",
}


def endpoint_of(head: bytes) -> str:
    """Return whose answers are wanted; a task's, if it is none of ours."""
    path = head.split(b" ", 2)[1].partition(b"?")[0]
    return PATHS.get(path.rpartition(b"/")[2], "task")


async def serve(seed: int, *, rare: bool) -> None:
    """Listen until standard input ends."""
    numbers: Counter[str] = Counter()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = [line for line in head.lower().split(b"\r\n") if line[:15] == LENGTH]
                if length:
                    await reader.readexactly(int(length[0][15:]))
                endpoint = endpoint_of(head)
                numbers[endpoint] += 1
                rng = random.Random(f"{endpoint} {seed} {numbers[endpoint]}")
                for piece in answer(rng, endpoint, rare=rare):
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                    elif piece == "rst":
                        reset(writer)
                    elif piece == "fin":
                        return
                    else:
                        assert isinstance(piece, bytes)
                        writer.write(piece)
                        await writer.drain()
        except (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client has left, as it should, or the run is over
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


LENGTH = b"content-length:"

if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), rare="rare" in sys.argv))
