"""What is on the disk is trusted only as far as somebody vouched for it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from pathlib import Path

import pytest

from kie_async.errors import DownloadError, KieError
from kie_async.files import _part as part_module
from kie_async.files import _place as place_module
from kie_async.files._part import Part
from kie_async.files._threads import BLOCK, Writer
from tests.fakes import Altered
from tests.file_hosts import (
    PNG,
    Host,
    asked_from,
    boxes,
    chunked,
    cut,
    files,
    finals,
    hosted,
    response,
    task,
)

SONG = b"ID3" + bytes(300_000)
"""A file whose own bytes do not tell where it ends."""

pytestmark = pytest.mark.asyncio


async def test_after_a_failed_write_nothing_is_written_even_if_it_was_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A cancellation that comes during the write hides how it ended: a hole would stay."""
    part = Part(tmp_path, "a", "task", 0)
    begun, go = threading.Event(), threading.Event()
    append, blocks = part.append, []

    def first_fails(data: bytearray) -> None:
        blocks.append(bytes(data[:1]))
        if len(blocks) == 1:
            begun.set()
            assert go.wait(10.0)
            raise OSError(errno.EIO, "input/output error")
        append(data)

    async def stream() -> None:
        try:
            await writer.write(b"a" * BLOCK)
            await writer.write(b"b" * BLOCK)  # waits for the first one
        finally:
            await writer.flush()

    await asyncio.to_thread(part.open)
    monkeypatch.setattr(part, "append", first_fails)
    writer = Writer(part)
    streaming = asyncio.create_task(stream())
    await asyncio.to_thread(begun.wait)
    streaming.cancel()
    await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await streaming

    assert blocks == [b"a"]
    assert part.path.read_bytes() == b""
    await asyncio.to_thread(part.close)


async def test_a_run_after_a_cancelled_one_on_a_full_disk_saves_the_right_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not the end of the file glued behind a hole: its length alone would look right."""
    noise = os.urandom(6 * BLOCK)
    body = boxes((b"ftyp", b"isom" + bytes(12)), (b"mdat", noise), (b"moov", b"x" * 50))
    loop, begun, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    append, calls = Part.append, []

    def second_fails(self: Part, data: bytearray) -> None:
        calls.append(len(data))
        if len(calls) == 2:
            loop.call_soon_threadsafe(begun.set)
            assert go.wait(10.0)
            raise OSError(errno.ENOSPC, "no space")
        append(self, data)

    async def most_of_it(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(cut(5 * BLOCK, body))
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client has gone
        writer.close()

    slow = await asyncio.start_server(most_of_it, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{slow.sockets[0].getsockname()[1]}/x"
    host = Host(body=body)
    async with hosted(host, tmp_path) as downloader, slow:
        with monkeypatch.context() as patch:
            patch.setattr(part_module.Part, "append", second_fails)
            saving = asyncio.create_task(downloader.save(task(url)))
            await begun.wait()
            await asyncio.sleep(0.2)  # the third block comes in, and waits for the second
            saving.cancel()
            await asyncio.sleep(0)
            go.set()
            with pytest.raises(asyncio.CancelledError):
                await saving
        assert finals(tmp_path) == []
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == body


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
async def test_what_a_sync_refused_is_fetched_anew(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a failed sync the bytes may be gone, and a second sync says nothing of them."""
    refused: list[int] = []

    def fsync(descriptor: int) -> None:
        refused.append(descriptor)
        raise OSError(number, os.strerror(number))

    host = Host()
    async with hosted(host, tmp_path) as downloader:
        with monkeypatch.context() as patch:
            patch.setattr(part_module, "os", Altered(os, fsync=fsync))
            with pytest.raises(KieError):
                await downloader.save(task(host.url))
        assert len(refused) == 1
        assert files(tmp_path) == {}
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert [asked_from(head) for head in host.requests] == [0, 0]


@pytest.mark.parametrize(
    ("first", "tag"),
    [(cut(1000, SONG), '"v1"'), (cut(1000, SONG), ""), (chunked(SONG[:1000], end=False), '"v2"')],
    ids=["length on record", "length on record, no tag", "another tag"],
)
async def test_a_416_that_is_about_another_file_is_no_end(first: bytes, tag: str, tmp_path: Path):
    """Such as a cache that kept what came before the cut, and calls that all."""
    over = response(416, b"", "Content-Range: bytes */1000", tag=tag)
    host = Host(first, over, body=SONG)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == SONG
    assert [asked_from(head) for head in host.requests] == [0, 1000, 0]


@pytest.mark.parametrize("tag", ['"v1"', ""])
async def test_a_416_where_all_is_here_is_the_end(tag: str, tmp_path: Path):
    """Only the last chunk was missing; a 416 often has no tag, and a page to show."""
    told = f"Content-Range: bytes */{len(SONG)}"
    over = response(416, b"<html>no</html>", told, tag=tag, kind="text/html")
    host = Host(chunked(SONG, end=False), over)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == SONG
    assert len(host.requests) == 2


async def test_a_416_below_the_length_on_record_needs_an_end_in_the_bytes(tmp_path: Path):
    """A picture shows that it is whole, however much more the host told of."""
    host = Host(
        response(200, PNG, length=len(PNG) + 100),
        response(416, b"", f"Content-Range: bytes */{len(PNG)}"),
    )

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].name == "task-1.png"
    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 2


async def test_a_file_that_is_thrown_away_each_time_is_given_up(tmp_path: Path):
    """However much came in between: else it is fetched again and again for 15 minutes."""
    more = response(200, SONG, length=len(SONG) + 100)
    over = response(416, b"", f"Content-Range: bytes */{len(SONG)}")
    host = Host(*[more, over] * 20, body=SONG)

    async with hosted(host, tmp_path, attempts=3) as downloader:
        with pytest.raises(DownloadError, match="two lengths"):
            await downloader.save(task(host.url))

    assert len(host.requests) == 6
    assert finals(tmp_path) == []


@pytest.mark.parametrize("links", [True, False], ids=["link", "rename"])
async def test_a_file_whose_name_was_not_synced_is_found_when_it_is(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run failed or was killed between the move and the sync: the name is not durable yet."""
    synced: list[Path] = []

    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    def fails(_folder: Path) -> None:
        raise OSError(errno.EIO, "input/output error")

    if not links:
        monkeypatch.setattr(place_module, "os", Altered(os, link=no_link))
    host = Host()
    async with hosted(host, tmp_path) as downloader:
        with monkeypatch.context() as patch:
            patch.setattr(part_module, "sync_folder", fails)
            for _ in range(2):  # the second one finds it, and cannot vouch for it either
                with pytest.raises(KieError, match="input/output"):
                    await downloader.save(task(host.url))
        monkeypatch.setattr(part_module, "sync_folder", synced.append)
        (saved,) = await downloader.save(task(host.url))
        assert synced == [tmp_path / "out"]
        await downloader.save(task(host.url))

    assert len(synced) == 1
    assert saved.read_bytes() == PNG
    assert files(tmp_path) == {"task-1.png": len(PNG)}
    assert len(host.requests) == 1
