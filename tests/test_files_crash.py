"""Cuts, kills and cancellations at any instant: a file is whole or it is not there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import sys
import threading
from pathlib import Path

import pytest

from kie_async import DownloadError
from kie_async.files import Downloader
from kie_async.files import _part as part_module
from kie_async.files._threads import in_thread
from kie_async.transport import ResultTransport
from tests.fakes import Altered
from tests.file_hosts import (
    PNG,
    Host,
    asked_from,
    chunked,
    cut,
    files,
    finals,
    hosted,
    no_renewal,
    png,
    response,
    served,
    task,
)


class Killed(BaseException):
    """Stands for a `kill -9` at one place."""


def kill(*_args, **_named):
    """End at once, as far as one process can play that."""
    raise Killed


POINTS = {
    "before the sync": (part_module, "os", Altered(os, fsync=kill)),
    "between sync and rename": (part_module, "moved_to", kill),
    "before the folder's sync": (part_module, "sync_folder", kill),
    "before the part is removed": (part_module.Part, "_remove", kill),
    "before the look": (part_module.Part, "examine", kill),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("point", POINTS)
async def test_a_kill_near_the_end_costs_no_second_download(point, tmp_path, monkeypatch):
    """D18: the next run finds the whole part or the file, and asks for nothing."""
    host = Host()
    async with hosted(host, tmp_path) as downloader:
        with monkeypatch.context() as patch:
            patch.setattr(*POINTS[point])
            with pytest.raises(Killed):
                await downloader.save(task(host.url))
        for name in finals(tmp_path):
            assert (tmp_path / "out" / name).read_bytes() == PNG
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 1
    assert files(tmp_path) == {"task-1.png": len(PNG)}


CHILD = """
import asyncio, sys
from pathlib import Path
from kie_async.files import Downloader
from kie_async.models import Task
from kie_async.transport import ResultTransport

async def main(url, folder):
    async with ResultTransport(allow_private=True) as pool:
        await Downloader(pool, None, Path(folder)).save(Task(task_id="t", result_urls=(url,)))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("share", [0.0, 0.4, 0.9])
async def test_a_killed_process_leaves_a_part_that_the_next_resumes(share, tmp_path):
    """A real `kill -9`, when the host has sent so much of the file."""
    body = png(4_000_000)
    host, other = Host(body=body), Host(body=body)
    child: asyncio.subprocess.Process | None = None
    at = int(share * len(body))

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(cut(at, body))
        await writer.drain()
        child.kill()
        await child.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    async with server:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CHILD, url, str(tmp_path / "out"), cwd=Path(__file__).parents[1]
        )
        await child.wait()
    assert finals(tmp_path) == []

    async with hosted(host, tmp_path) as downloader, served(other):
        saved = await downloader.save(task(host.url, task_id="t"))

    assert saved[0].read_bytes() == body
    assert list(files(tmp_path)) == ["t.png"]
    # Two blocks are on their way to the disk, and what the sockets hold never came.
    assert asked_from(host.requests[0]) <= at


class Careless:
    """The control: it writes what comes under the final name."""

    def __init__(self, pool: ResultTransport, directory: Path) -> None:
        self._pool = pool
        self._directory = directory

    async def save(self, one) -> None:
        self._directory.mkdir(exist_ok=True)
        with (self._directory / f"{one.task_id}.png").open("wb") as file:
            async with self._pool.fetch(one.result_urls[0]) as answer:
                async for chunk in answer.chunks:
                    file.write(chunk)


class Cutter:
    """A host of many files that cuts most answers somewhere, in one of five ways."""

    def __init__(self, count: int, seed: int) -> None:
        self._dice = random.Random(seed)
        self.bodies = [png(self._dice.randint(100, 200_000), seed) for seed in range(count)]
        self.cuts = self.sent = 0
        self.url = ""

    async def serve(self, reader, writer) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = self.bodies[int(head.split()[1].rpartition("/")[2])]
            answer = self._answer(body, asked_from(head))
            self.sent += len(answer)
            writer.write(answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()

    def _answer(self, body: bytes, start: int) -> bytes:
        way, at = self._dice.randrange(8), self._dice.randrange(start, len(body))
        told = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
        tag = f'"{hashlib.sha256(body).hexdigest()}"'
        self.cuts += way < 5
        if way == 0:
            return chunked(body[:at], end=False)
        if way == 1:
            return response(200, body[:at], length=-1, tag=tag)
        if way == 2:
            return response(503)
        end = at if way < 5 else len(body)
        if start:
            return response(206, body[start:end], told, length=len(body) - start, tag=tag)
        return response(200, body[:end], length=len(body), tag=tag)


def broken(directory: Path, host: Cutter) -> int:
    """Count the files under a final name that are not whole."""
    return sum(
        path.read_bytes() != host.bodies[int(path.stem.removeprefix("t"))]
        for path in directory.iterdir()
        if path.suffix == ".png"
    )


@pytest.mark.asyncio
async def test_of_five_hundred_files_cut_at_random_only_whole_ones_are_there(tmp_path):
    """G14: none broken at any time, and in the end all of them and nothing else."""
    host = Cutter(500, seed=14)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    todo = [task(f"{host.url}/{n}", task_id=f"t{n}") for n in range(500)]
    rounds = 0

    async with server, ResultTransport(allow_private=True) as pool:
        downloader = Downloader(
            pool, no_renewal, tmp_path / "out", backoff=0.0, concurrency=16, attempts=2
        )
        while todo and rounds < 20:
            results = await asyncio.gather(
                *(downloader.save(one) for one in todo), return_exceptions=True
            )
            assert all(isinstance(r, tuple | DownloadError) for r in results)
            assert broken(tmp_path / "out", host) == 0
            todo = [one for one, r in zip(todo, results, strict=True) if not isinstance(r, tuple)]
            rounds += 1

    assert todo == []
    assert sorted(files(tmp_path)) == sorted(f"t{n}.png" for n in range(500))
    assert host.cuts > 300
    assert host.sent - sum(map(len, host.bodies)) <= host.cuts * 2**20


@pytest.mark.asyncio
async def test_a_careless_client_fails_the_same_check(tmp_path):
    """The control: the check above bites."""
    host = Cutter(60, seed=14)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async with server, ResultTransport(allow_private=True) as pool:
        careless = Careless(pool, tmp_path / "out")
        for number in range(60):
            try:
                await careless.save(task(f"{host.url}/{number}", task_id=f"t{number}"))
            except DownloadError:
                continue

    assert broken(tmp_path / "out", host) > 10


@pytest.mark.asyncio
async def test_cancelling_leaves_a_part_or_a_file_and_nothing_open(tmp_path):
    """At every step of the way; what was cancelled can be done again."""
    host = Host(body=png(2_500_000))
    async with hosted(host, tmp_path, concurrency=100) as downloader:
        await downloader.save(task(host.url, task_id="warm"))
        opened = len(list(Path("/proc/self/fd").iterdir()))
        for steps in range(0, 120, 3):
            saving = asyncio.ensure_future(downloader.save(task(host.url, task_id=f"t{steps}")))
            for _ in range(steps):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
            for name in finals(tmp_path):
                assert (tmp_path / "out" / name).read_bytes() == host.body
        while host.open:  # noqa: ASYNC110 - the host's own loop ends when it has seen us go
            await asyncio.sleep(0)
        left = [path for path in Path("/proc/self/fd").iterdir() if leads_to(path, tmp_path)]
        assert left == []
        assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 2
        for steps in range(0, 120, 3):
            await downloader.save(task(host.url, task_id=f"t{steps}"))

    assert len(finals(tmp_path)) == 41
    assert len(files(tmp_path)) == 41


def leads_to(descriptor: Path, folder: Path) -> bool:
    """True if an open descriptor is of a file in *folder*."""
    try:
        return str(descriptor.readlink()).startswith(str(folder))
    except OSError:
        return False


@pytest.mark.asyncio
async def test_a_cancelled_download_is_resumed_where_its_bytes_end(tmp_path, monkeypatch):
    """What is on its way to the disk gets there; nothing is written twice."""
    body, gate, loop = png(3_000_000), asyncio.Event(), asyncio.get_running_loop()
    real = part_module.Part.append

    def append(self, data):
        loop.call_soon_threadsafe(gate.set)  # cancelled while the thread writes
        real(self, data)

    monkeypatch.setattr(part_module.Part, "append", append)

    async def half(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(cut(2_000_000, body))
        try:
            with contextlib.suppress(ConnectionError):
                await reader.read()  # until the client has gone
        finally:  # or the loop ends first
            writer.close()

    server = await asyncio.start_server(half, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    host = Host(body=body)

    async with hosted(host, tmp_path) as downloader, server:
        saving = asyncio.ensure_future(downloader.save(task(url)))
        await gate.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
        saved = await downloader.save(task(host.url))

    assert 2**20 <= asked_from(host.requests[0]) <= 2_000_000
    assert saved[0].read_bytes() == body


@pytest.mark.asyncio
async def test_two_cancellations_still_wait_for_the_thread():
    """Whoever closes the file must not do it under the writer's hands."""
    go, done = threading.Event(), []

    def work() -> None:
        go.wait(10)
        done.append(True)

    waiting = asyncio.ensure_future(in_thread(work))
    await asyncio.sleep(0)
    for _ in range(3):
        waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert done == [True]
