"""What a checked, resumable, durable download costs beside a plain one.

    python benchmarks/downloads.py            # a few files of 64 MiB, and many small ones
    python benchmarks/downloads.py --smoke    # a second

A server in a process of its own sends from memory over loopback.  Three clients save the
same files: aiohttp's recommended loop (64 KiB chunks into an open file), the same with an
fsync at the end, and `Downloader`, which also checks, syncs and renames.  The goal is at
most 1.3 times the plain loop at line speed, which is files of 64 MiB here.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Report, options, table, versions
from kie_async import Task
from kie_async.files import Downloader
from kie_async.transport import ResultTransport

CHUNK = 64 * 1024
GOAL = 1.3
LINE_SPEED = 2**26
"""Bytes: smaller files are a matter of opening, syncing and renaming, not of speed."""

Client = Callable[[list[str], Path], Awaitable[None]]


def film(size: int) -> bytes:
    """Make a film of *size* bytes, as far as its boxes go."""
    rest = size - 16 - 16
    head = b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x10moov" + bytes(8)
    return head + rest.to_bytes(4, "big") + b"mdat" + os.urandom(rest - 8)


def serve(size: int, told: Connection) -> None:
    """Send the same film to whoever asks, until the process is ended."""
    body = film(size)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nContent-Type: video/mp4\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head)
                writer.write(body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


async def plain(urls: list[str], folder: Path, *, sync: bool = False) -> None:
    """Save with the loop of aiohttp's own documents."""
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        for number, url in enumerate(urls):
            async with http.get(url) as answer:
                with (folder / f"{number}.mp4").open("wb") as file:
                    async for chunk in answer.content.iter_chunked(CHUNK):
                        file.write(chunk)
                    if sync:
                        file.flush()
                        os.fsync(file.fileno())


async def synced(urls: list[str], folder: Path) -> None:
    """The same, durable."""
    await plain(urls, folder, sync=True)


async def ours(urls: list[str], folder: Path) -> None:
    """`Downloader`."""
    async with ResultTransport(allow_private=True) as pool:

        async def renew(url: str) -> str:
            return url

        downloader = Downloader(pool, renew, folder)
        for number, url in enumerate(urls):
            await downloader.save(Task(task_id=str(number), result_urls=(url,)))


CLIENTS: dict[str, Client] = {"aiohttp": plain, "aiohttp + fsync": synced, "kie_async": ours}


def measured(size: int, count: int, rounds: int, where: Path | None) -> dict[str, float]:
    """Return the median seconds of each client, taken in turns."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(size, there), daemon=True)
    server.start()
    urls = [f"http://127.0.0.1:{here.recv()}/x"] * count
    times: dict[str, list[float]] = {name: [] for name in CLIENTS}
    try:
        for _ in range(rounds):
            for name, client in CLIENTS.items():
                folder = Path(tempfile.mkdtemp(dir=where))
                started = time.perf_counter()
                asyncio.run(client(urls, folder))
                times[name].append(time.perf_counter() - started)
                saved = [path.stat().st_size for path in folder.iterdir()]
                assert saved == [size] * count, name
                shutil.rmtree(folder)
    finally:
        server.terminate()
        server.join()
    return {name: statistics.median(each) for name, each in times.items()}


def main() -> int:
    """Print a line for each size and client; return the exit code."""
    where: dict[str, Any] = {
        "type": Path,
        "help": "where to write; /dev/shm leaves out the disk",
    }
    asked = options(__doc__, ("--directory", where))
    cases = [(2**20, 3, 1)] if asked.smoke else [(2**26, 4, 5), (2**22, 40, 5), (2**16, 200, 5)]
    report, rows = Report(), []
    for size, count, rounds in cases:
        times = measured(size, count, rounds, asked.directory)
        what = f"{count} files of {size / 2**20:g} MiB"
        for name, seconds in times.items():
            ratio, goal = seconds / times["aiohttp"], ""
            if name == "kie_async" and size >= LINE_SPEED:
                goal = report.judge(what, ratio, GOAL)
            speed = size * count / seconds / 2**20
            rows.append([what, name, f"{ratio:.2f}", f"{speed:.0f}", goal])
    print(table(["files", "client", "time / aiohttp", "MiB/s here", "goal"], rows))
    print(versions("kie_async", "aiohttp"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
