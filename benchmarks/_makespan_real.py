"""The makespan over real sockets: 200 creates at 20 per 2 s, raw aiohttp and the limiter.

The server is a process of its own with an exact log.  At 2 s the round trip weighs five
times as much as at Kie's 10 s.  Ideal: 18 s.

    python -m benchmarks._makespan_real [--rounds 2]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import time
from collections import deque
from multiprocessing.connection import Connection

import aiohttp
from attrs import frozen

from kie_async.limiter import SlidingWindowLimiter

LIMIT, WINDOW, ITEMS, WORKERS = 20, 2.0, 200, 40
IDEAL = WINDOW * ((ITEMS - 1) // LIMIT)


class _Log:
    """The server's book: every arrival, and who was refused."""

    def __init__(self, jitter: bool) -> None:
        self.jitter = jitter
        self.seen: deque[float] = deque()
        self.arrivals: list[float] = []
        self.refused = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until the client closes it."""
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                await self._delay()
                body = json.dumps({"code": self._judge(time.monotonic())}).encode()
                await self._delay()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _delay(self) -> None:
        """Wait 15 to 30 ms, each way."""
        if self.jitter:
            await asyncio.sleep(random.uniform(0.015, 0.030))

    def _judge(self, now: float) -> int:
        self.arrivals.append(now)
        while self.seen and self.seen[0] < now - WINDOW:
            self.seen.popleft()
        if len(self.seen) >= LIMIT:
            self.refused += 1
            return 429
        self.seen.append(now)
        return 200


def _serve(pipe: Connection, jitter: bool) -> None:
    """Run the server until the parent asks for its book."""

    async def main() -> None:
        log = _Log(jitter)
        server = await asyncio.start_server(log.answer, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        burst = log.arrivals[LIMIT - 1] - log.arrivals[0]
        pipe.send((log.refused, burst, log.arrivals[-1] - log.arrivals[0]))
        server.close()

    asyncio.run(main())


@frozen(kw_only=True)
class RealRow:
    """One run over sockets; the first burst is measured at the server, in seconds."""

    jitter: bool
    ratio: float
    refused: int
    first_burst: float


async def _client(port: int) -> float:
    """Send all creates; return the seconds that took."""
    limiter = SlidingWindowLimiter(LIMIT, WINDOW)
    left = iter(range(ITEMS))
    url = f"http://127.0.0.1:{port}/"

    async def worker(http: aiohttp.ClientSession) -> None:
        for _ in left:
            taken = False
            while not taken:
                with await limiter.acquire():
                    async with http.get(url) as answer:
                        taken = (await answer.json(content_type=None))["code"] == 200
                if not taken:
                    limiter.pause(1.0)

    async with aiohttp.ClientSession() as http:
        start = time.perf_counter()
        await asyncio.gather(*(worker(http) for _ in range(WORKERS)))
        return time.perf_counter() - start


def run(jitter: bool) -> RealRow:
    """Run once against a fresh server process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs, jitter))
    server.start()
    taken = asyncio.run(_client(ours.recv()))
    ours.send(None)
    refused, burst, _ = ours.recv()
    server.join(10.0)
    return RealRow(jitter=jitter, ratio=taken / IDEAL, refused=refused, first_burst=burst)


def main(rounds: int = 2) -> None:
    print(f"\n{ITEMS} creates over sockets, {LIMIT} per {WINDOW:g} s, exact log")
    for _ in range(rounds):
        for jitter in (False, True):
            row = run(jitter)
            print(
                f"{'15-30 ms each way' if jitter else 'no delay':<20}"
                f" time / ideal {row.ratio:.4f}, refused {row.refused},"
                f" first {LIMIT} arrived within {row.first_burst * 1e3:.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    main(parser.parse_args().rounds)
