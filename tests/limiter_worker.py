"""A process that takes turns as fast as it may, and shows each one to a server's book.

python -m tests.limiter_worker STORE_URL ACCOUNT BOOK_PORT NAME LIMIT WINDOW SECONDS
"""

from __future__ import annotations

import asyncio
import sys

from kie_async.limiter import StoreLimiter


def limiter_on(url: str, account: str, limit: int, window: float) -> StoreLimiter:
    """Return a limiter whose book is kept there."""
    if url.startswith("postgresql:"):
        from kie_async.postgres import PostgresLimiter

        return PostgresLimiter(url, account, limit=limit, window=window)
    from kie_async.redis_limiter import RedisLimiter

    return RedisLimiter.from_url(url, account, limit=limit, window=window)


async def main(
    url: str, account: str, port: int, name: str, limit: int, window: float, seconds: float
) -> None:
    """Work from a line on stdin on, until the time is over."""
    async with limiter_on(url, account, limit, window) as limiter:
        (await limiter.acquire()).give_back()  # it is connected now
        while limiter.alone:  # it took long to connect
            await asyncio.sleep(0.1)
            (await limiter.acquire()).give_back()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        loop = asyncio.get_running_loop()
        ends = loop.time() + seconds

        async def one() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while loop.time() < ends:
                with await limiter.acquire() as turn:
                    if loop.time() >= ends:
                        turn.give_back()
                        break
                    writer.write(f"{name}\n".encode())
                    await reader.readline()
            writer.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(limit):
                group.create_task(one())


if __name__ == "__main__":
    url, account, port, name, limit, window, seconds = sys.argv[1:]
    asyncio.run(main(url, account, int(port), name, int(limit), float(window), float(seconds)))
