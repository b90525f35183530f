"""Eight processes share one rate limit in a store: is it kept, used, and fair?

    python benchmarks/shared_limiter.py [--seconds 60] [--window 10] [--smoke]

The book is kept by the server that they send to, another process than any of them.  The
limit is 20 in each window.  Bars: no window over the limit, at least 95 % of the ideal,
each process within 10 % of the mean.  Then the cost of one turn, for one process alone.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.…_servers

LIMIT = 20
PROCESSES = 8


async def shared(url: str, window: float, seconds: float) -> list[tuple[float, str]]:
    """Run the processes; return when each turn arrived, and whose it was."""
    book: list[tuple[float, str]] = []
    loop = asyncio.get_running_loop()

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            book.append((loop.time(), line.decode().strip()))
            writer.write(b"ok\n")
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    workers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.limiter_worker", url, "bench", str(port)),
            *(f"w{number}", str(LIMIT), str(window), str(seconds)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[1],
        )
        for number in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        await worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write(b"go\n")
    for worker in workers:
        await worker.wait()
    server.close()
    return book


async def cost(url: str, turns: int) -> tuple[float, float]:
    """Return the microseconds of CPU a turn, alone and with a hundred callers."""
    from kie_async.limiter import StoreLimiter
    from tests.limiter_worker import limiter_on

    figures = []
    for callers in (1, 100):
        async with limiter_on(url, f"cost-{callers}", 10**9, 1.0) as limiter:
            left = turns

            async def one(limiter: StoreLimiter = limiter) -> None:
                nonlocal left
                while left > 0:
                    left -= 1
                    (await limiter.acquire()).finish()

            await one()
            left = turns
            began = time.process_time()
            await asyncio.gather(*(one() for _ in range(callers)))
            figures.append((time.process_time() - began) / turns * 1e6)
    return figures[0], figures[1]


def main() -> int:
    """Print the table; exit 1 if a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=60.0)
    arguments.add_argument("--window", type=float, default=10.0)
    arguments.add_argument("--smoke", action="store_true", help="some seconds, wide bars")
    asked = arguments.parse_args()
    seconds, window = (4.0, 0.5) if asked.smoke else (asked.seconds, asked.window)
    used, fair = (0.6, 0.5) if asked.smoke else (0.95, 0.10)
    good = True
    for name, url in stores():
        book = asyncio.run(shared(url, window, seconds))
        alone, many = asyncio.run(cost(url, 300 if asked.smoke else 5000))
        over, share, off = judged(book, window, seconds)
        print(f"{name}")
        print(f"  windows over the limit     {over:>8}")
        print(f"  turns of the ideal         {share:>8.1%}   ({len(book)})")
        print(f"  furthest from its share    {off:>8.1%}")
        print(f"  CPU us a turn, one caller  {alone:>8.0f}")
        print(f"  CPU us a turn, a hundred   {many:>8.0f}")
        good = good and not over and share >= used and off <= fair
    return 0 if good else 1


def stores() -> Iterator[tuple[str, str]]:
    """Start each store that this machine has; yield its name and address."""
    from tests.postgres_servers import POSTGRES, postgres_server
    from tests.redis_servers import SERVER, redis_server

    if SERVER is None:
        print("no Redis or Valkey on this machine")
    else:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as redis:
            yield "Redis", redis.url
    if POSTGRES is None:
        print("no PostgreSQL on this machine")
    else:
        with postgres_server() as postgres:
            yield "PostgreSQL", postgres.url


def judged(
    book: list[tuple[float, str]], window: float, seconds: float
) -> tuple[int, float, float]:
    """Return windows over the limit, the share of the ideal, and the unfairest process."""
    times = sorted(at for at, _ in book)
    pairs = zip(times, times[LIMIT:], strict=False)
    over = sum(later - earlier < window for earlier, later in pairs)
    ideal = LIMIT * (1 + (seconds - 1e-9) // window)
    mean = len(book) / PROCESSES
    shares = Counter(who for _, who in book)
    off = max(abs(shares[f"w{n}"] - mean) for n in range(PROCESSES)) / mean
    return over, len(book) / ideal, off


if __name__ == "__main__":
    sys.exit(main())
