"""Hosts, disks and folders that fail: every fault ends in a whole file or an error."""

from __future__ import annotations

import asyncio
import errno
import gzip
import os
import resource
import signal
import stat

import pytest

from kie_async import DownloadError, StorageFullError
from kie_async.errors import KieError
from kie_async.files import _part as part_module
from kie_async.files import _place as place_module
from kie_async.transport import ResultTransport, _results
from tests.fakes import Altered
from tests.file_hosts import (
    JPEG,
    MP4,
    PNG,
    TAG,
    Host,
    asked_from,
    chunked,
    cut,
    files,
    finals,
    hosted,
    png,
    response,
    served,
    task,
)


@pytest.mark.asyncio
@pytest.mark.parametrize("at", [0, 1, 7, 100_000, len(PNG) - 1])
async def test_a_cut_download_is_resumed(at, tmp_path):
    """D01: from the byte where it stopped, if the file is still the same."""
    host = Host(cut(at))

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert [asked_from(head) for head in host.requests] == [0, at]
    if at:
        assert f"if-range: {TAG}" in host.requests[1].lower()


@pytest.mark.asyncio
async def test_a_download_that_gets_on_is_not_given_up(tmp_path):
    """Ten cuts and two attempts: only those count that brought nothing."""
    steps = [30_000 * n for n in range(1, 11)]

    def up_to(end: int):
        def answer(head: str) -> bytes:
            start = asked_from(head)
            told = f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}"
            rest = response(206, body[start:end], told, length=len(body) - start)
            return rest if start else cut(end, body)

        return answer

    body = png(3_000_000)
    host = Host(*[up_to(10 * end) for end in steps[:-1]], body=body)
    async with hosted(host, tmp_path, attempts=2) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == body
    assert len(host.requests) == 10


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "first",
    [
        chunked(PNG[:100_000], end=False),
        response(200, PNG[:100_000], length=-1),
        response(200, MP4[:-20], length=-1, kind="video/mp4"),
        response(200, PNG[:-12]),
        response(200, PNG[:200_000], length=200_000),
    ],
    ids=["chunked", "close-delimited", "film", "without end", "length too short"],
)
async def test_a_cut_that_nobody_announces_is_seen(first, tmp_path):
    """D02, D03, D04: by the missing last chunk, or by the structure of the file."""
    host = Host(first)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 2


@pytest.mark.asyncio
async def test_bytes_beyond_the_length_are_not_taken(tmp_path):
    """D04: the length is the end."""
    host = Host(response(200, PNG + b"more", length=len(PNG)))

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
async def test_a_whole_file_needs_no_length(tmp_path):
    """Closed or chunked: its own end is the proof."""
    for number, answer in enumerate((response(200, PNG, length=-1), chunked(PNG, end=True))):
        host = Host(answer)
        async with hosted(host, tmp_path) as downloader:
            saved = await downloader.save(task(host.url, task_id=f"t{number}"))

        assert saved[0].name == f"t{number}.png"
        assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (response(200, b"\x01some data", kind="application/x-odd", length=-1), ".unverified.bin"),
        (response(200, b"\x01some data", kind="application/x-odd"), ".bin"),
        (response(200, b"ID3 song", kind="audio/mpeg", length=-1), ".unverified.mp3"),
    ],
)
async def test_what_nothing_can_prove_is_kept_and_says_so(answer, name, tmp_path):
    """No length, and a kind whose end we do not know."""
    host = Host(answer)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))
        again = await downloader.save(task("https://gone.invalid/"))

    assert saved[0].name == f"task-1{name}"
    assert again == saved


def partial_answer(start: int, total: int = len(PNG), tag: str = TAG, body: bytes = PNG) -> bytes:
    told = f"Content-Range: bytes {start}-{len(body) - 1}/{total}"
    return response(206, body[start:], told, tag=tag)


STRANGE = {
    "range ignored": response(200, PNG),  # D05
    "another start": partial_answer(5),  # D06
    "another total": partial_answer(100_000, total=len(PNG) + 5),
    "another tag": partial_answer(100_000, tag='"v2"'),
    "no tag": partial_answer(100_000, tag=""),
    "no range": response(206, PNG[100_000:]),
    "odd range": response(206, PNG[100_000:], "Content-Range: bytes 1e5-x/*"),
    "416 of another size": response(416, b"", f"Content-Range: bytes */{len(PNG)}"),  # D07
    "416": response(416),
    "changed": response(200, PNG, tag='"v2"'),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("second", STRANGE.values(), ids=list(STRANGE))
async def test_a_strange_answer_to_a_resume_starts_anew(second, tmp_path):
    """D05, D06, D07: never two files glued together."""
    host = Host(cut(100_000), second)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) <= 3


@pytest.mark.asyncio
@pytest.mark.parametrize("tag", ['W/"weak"', "", "unquoted"])
async def test_without_a_strong_tag_nothing_is_resumed(tag, tmp_path):
    """Nobody could say whether it is still the same file."""
    host = Host(cut(100_000, tag=tag))

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert "range" not in host.requests[1].lower()


def begun(part):
    """Let a part be as if all had come before."""
    part.open()
    part.start(TAG, None)
    part.append(PNG)
    part.close()


@pytest.mark.asyncio
async def test_416_for_what_is_all_there_is_the_end(tmp_path):
    """D07: everything had come, only nobody had told the length."""
    host = Host(response(416, b"", f"Content-Range: bytes */{len(PNG)}"))

    async with hosted(host, tmp_path) as downloader:
        part = part_module.Part(tmp_path / "out", "task-1", "task-1", 0)
        (tmp_path / "out").mkdir()
        await asyncio.to_thread(begun, part)
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 1


BAD = {
    "empty": response(200, b""),
    "html": response(200, b"<html>Access denied</html>", kind="text/html"),
    "html as png": response(200, b" \n<!DOCTYPE html><p>no</p>"),
    "xml": response(200, b"<?xml version='1.0'?><Error/>", kind="application/xml"),
    "json": response(200, b'{"code": 404}', kind="application/octet-stream"),
    "text as png": response(200, b"Not found, sorry"),
    "png without end": response(200, PNG[:-12]),
    "cut without length": response(200, PNG[:-20], length=-1),
    "gzip": response(200, gzip.compress(PNG)[:1000], "Content-Encoding: gzip"),  # D19
    "500": response(500, b"no"),
    "429": response(429, b"no"),
    "418": response(418, b"no"),
    "204": response(204),
    "no http": b"SSH-2.0-x\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_is_never_a_file(name, tmp_path):
    """D08: nothing gets a final name, nothing empty is left, no query is shown."""
    host = Host(*[BAD[name]] * 9)

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError) as caught:
            await downloader.save(task(host.url))

    assert files(tmp_path) == {} or all(
        n.endswith((".part", ".part.json")) for n in files(tmp_path)
    )
    assert caught.value.task_id == "task-1"
    assert "s3cr3t" not in str(caught.value)
    assert len(host.requests) <= 8  # four of ours; aiohttp repeats what got no answer at all


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_an_expired_url_is_renewed_once(status, tmp_path):
    """D09: a second refusal is final, and says that nothing is to be paid again."""
    host, asked = Host(response(status)), []

    async def renew(url):
        asked.append(url)
        return host.url

    async with hosted(host, tmp_path, renew) as downloader:
        await downloader.save(task(host.url))
        host.answers = [response(status), response(status)]
        with pytest.raises(DownloadError, match="expired") as caught:
            await downloader.save(task(host.url, task_id="t2"))

    assert len(asked) == 2
    assert caught.value.http_status == status
    assert not caught.value.retryable


@pytest.mark.asyncio
async def test_a_url_that_dies_in_the_middle_is_renewed_and_resumed(tmp_path):
    """D10: the renewed address goes on where the first one stopped."""
    host, fresh = Host(cut(100_000), response(403)), Host()

    async def renew(url):
        return fresh.url

    async with hosted(host, tmp_path, renew) as downloader, served(fresh):
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert asked_from(fresh.requests[0]) == 100_000


@pytest.mark.asyncio
async def test_a_page_in_the_place_of_a_file_is_renewed_too(tmp_path):
    """Some hosts say "expired" with 200."""
    host, fresh = Host(BAD["xml"]), Host()

    async def renew(url):
        return fresh.url

    async with hosted(host, tmp_path, renew) as downloader, served(fresh):
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
async def test_a_renewal_that_fails_is_told(tmp_path):
    """With its reason, as a failed download: the bulk run goes on."""
    host = Host(response(403))

    async def renew(url):
        raise KieError("the API is away", retryable=True)

    async with hosted(host, tmp_path, renew) as downloader:
        with pytest.raises(DownloadError, match=r"expired .* the API is away") as caught:
            await downloader.save(task(host.url))

    assert caught.value.retryable


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [None, -1], ids=["announced", "unannounced"])
async def test_a_file_that_is_too_large_is_broken_off(length, tmp_path):
    """D13: by its announced length, and by what comes without one."""
    host = Host(response(200, PNG, length=length))

    async with hosted(host, tmp_path, max_bytes=100_000) as downloader:
        with pytest.raises(DownloadError, match="larger than 100000") as caught:
            await downloader.save(task(host.url))

    assert finals(tmp_path) == []
    assert len(host.requests) == 1
    assert not caught.value.retryable
    assert sum(files(tmp_path).values()) <= 101_000


@pytest.mark.asyncio
async def test_a_drip_is_broken_off_and_resumed(tmp_path, monkeypatch):
    """D14: bytes come all the time, but too few of them."""
    monkeypatch.setattr(_results, "PATIENCE", 0.05)
    monkeypatch.setattr(_results, "SLOWEST", 1e6)
    dripped = 0

    async def drip(reader, writer):
        nonlocal dripped
        await reader.readuntil(b"\r\n\r\n")
        writer.write(cut(0))
        loop = asyncio.get_running_loop()
        try:
            while not writer.is_closing() and dripped < 10_000:
                writer.write(PNG[dripped : dripped + 1])
                dripped += 1
                waiting = loop.create_future()
                loop.call_later(0.002, waiting.set_result, None)
                await waiting
        finally:  # also when the loop ends first
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    fast = Host()

    async with hosted(fast, tmp_path, attempts=1) as downloader, server:
        with pytest.raises(DownloadError, match=r"less than .* a second|broke off|in time"):
            await downloader.save(task(url))
        monkeypatch.undo()
        saved = await downloader.save(task(fast.url))

    assert 0 < asked_from(fast.requests[0]) <= dripped
    assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
async def test_everything_ends_by_the_deadline(tmp_path):
    """A host that says nothing, and no patience."""

    async def silence(reader, writer):
        try:
            await reader.read()  # until the client has gone
        finally:  # or the loop ends first
            writer.close()

    silent = await asyncio.start_server(silence, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/x"

    async with hosted(Host(), tmp_path, timeout=0.1) as downloader, silent:
        with pytest.raises(DownloadError, match=r"longer than 0.1 s|in time"):
            await downloader.save(task(url))
        assert files(tmp_path) == {}


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_keeps_what_came(number, tmp_path, monkeypatch):
    """D15: StorageFullError, and the next run resumes."""
    host = Host()

    def full(descriptor, data):
        if os.lseek(descriptor, 0, os.SEEK_END) >= 1000:
            raise OSError(number, os.strerror(number))
        return os.write(descriptor, data[:1000])

    async with hosted(host, tmp_path) as downloader:
        with monkeypatch.context() as patch:
            patch.setattr(part_module, "os", Altered(os, write=full))
            with pytest.raises(StorageFullError, match="make room"):
                await downloader.save(task(host.url))
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert [asked_from(head) for head in host.requests] == [0, 1000]


@pytest.mark.asyncio
async def test_a_limit_on_file_sizes_is_a_full_disk(tmp_path):
    """D15 with the real system: RLIMIT_FSIZE."""
    host = Host()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async with hosted(host, tmp_path) as downloader:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            with pytest.raises(StorageFullError):
                await downloader.save(task(host.url))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert asked_from(host.requests[1]) == 200_000


@pytest.mark.asyncio
async def test_no_room_is_seen_before_the_download(tmp_path, monkeypatch):
    """By the announced length."""
    monkeypatch.setattr(part_module, "free_bytes", lambda folder: 1000)
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(StorageFullError, match="no room for"):
            await downloader.save(task(host.url))

    assert files(tmp_path) == {}


@pytest.mark.asyncio
async def test_a_folder_that_is_none_is_told(tmp_path):
    """D16: a file where the folder should be."""
    (tmp_path / "out").write_text("a file")
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError, match="cannot be written to") as caught:
            await downloader.save(task(host.url))

    assert not caught.value.retryable
    assert host.requests == []


@pytest.mark.asyncio
async def test_a_folder_that_vanishes_in_the_middle_is_told(tmp_path):
    """D16: no file appears elsewhere."""
    host = Host()

    def vanish(head: str) -> bytes:
        for path in (tmp_path / "out").iterdir():
            path.unlink()
        (tmp_path / "out").rmdir()
        return response(200, PNG)

    host.answers = [vanish]
    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError, match="cannot be written to"):
            await downloader.save(task(host.url))

    assert list(tmp_path.iterdir()) == []


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["folder", "link", "dangling", "pipe"])
async def test_what_has_the_final_name_stays(what, tmp_path):
    """D16: nothing is followed, replaced or removed."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_bytes(PNG)
    final = out / "task-1.png"
    make = {
        "folder": final.mkdir,
        "link": lambda: final.symlink_to(victim),
        "dangling": lambda: final.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(final),
    }
    make[what]()
    before = final.lstat()
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError, match="exists"):
            await downloader.save(task(host.url))

    assert final.lstat() == before
    assert victim.read_bytes() == PNG
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["link", "hard link", "pipe", "folder", "note"])
async def test_what_has_the_name_of_the_part_harms_nobody(what, tmp_path):
    """D16: a link is never written through, by no name that we use."""
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    part = part_module.Part(out, "task-1", "task-1", 0).path
    note = part.with_name(part.name + ".json")
    make = {
        "link": lambda: part.symlink_to(victim),
        "hard link": lambda: os.link(victim, part),
        "pipe": lambda: os.mkfifo(part),
        "folder": part.mkdir,
        "note": lambda: note.symlink_to(victim),
    }
    make[what]()
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        try:
            saved = await downloader.save(task(host.url))
        except DownloadError:
            assert what in {"pipe", "folder"}
        else:
            assert what not in {"pipe", "folder"}
            assert saved[0].read_bytes() == PNG

    assert victim.read_text() == "mine"


@pytest.mark.asyncio
async def test_two_runs_into_one_folder_do_not_mix(tmp_path):
    """The second waits, and then finds the file of the first."""
    host = Host()
    async with (
        hosted(host, tmp_path, backoff=0.05, attempts=8) as one,
        ResultTransport(allow_private=True) as pool,
    ):
        two = type(one)(pool, None, tmp_path / "out", backoff=0.05, attempts=8)
        results = await asyncio.gather(one.save(task(host.url)), two.save(task(host.url)))

    assert results[0] == results[1]
    assert len(host.requests) == 1
    assert files(tmp_path) == {"task-1.png": len(PNG)}


@pytest.mark.asyncio
async def test_a_part_that_another_run_holds_is_told(tmp_path):
    """And is not touched."""
    (tmp_path / "out").mkdir()
    held = part_module.Part(tmp_path / "out", "task-1", "task-1", 0)
    await asyncio.to_thread(held.open)
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError, match="by another run") as caught:
            await downloader.save(task(host.url))
    await asyncio.to_thread(held.close)

    assert caught.value.retryable
    assert host.requests == []


@pytest.mark.asyncio
async def test_a_part_of_an_earlier_boot_is_not_gone_on_with(tmp_path, monkeypatch):
    """After a power failure a length says nothing about the bytes."""
    from kie_async.files import _note

    host = Host(cut(50_000))
    async with hosted(host, tmp_path, attempts=1) as downloader:
        with pytest.raises(DownloadError):
            await downloader.save(task(host.url))
        monkeypatch.setattr(_note, "_boot", lambda: "another boot")
        saved = await downloader.save(task(host.url))

    assert asked_from(host.requests[1]) == 0
    assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "note",
    [b"", b"{", b"[]", b'{"etag": 5, "total": "x", "boot": "", "mode": 0}', b"\xff", b"[" * 9999],
)
async def test_a_damaged_note_means_a_fresh_start(note, tmp_path):
    """Whatever stands in it."""
    host = Host(cut(50_000))

    async with hosted(host, tmp_path, attempts=1) as downloader:
        with pytest.raises(DownloadError):
            await downloader.save(task(host.url))
        part = part_module.Part(tmp_path / "out", "task-1", "task-1", 0).path
        part.with_name(part.name + ".json").write_bytes(note)
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG


@pytest.mark.asyncio
async def test_the_errors_carry_nothing_of_the_http_library(tmp_path):
    """No chained exception with a request in it."""
    host = Host(*[cut(10)] * 9, body=JPEG)

    async with hosted(host, tmp_path, attempts=1) as downloader:
        with pytest.raises(DownloadError) as caught:
            await downloader.save(task(host.url))

    error: BaseException | None = caught.value
    while error is not None:
        assert type(error).__module__.startswith("kie_async")
        assert "s3cr3t" not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
async def test_without_hard_links_nothing_is_overwritten_either(number, tmp_path, monkeypatch):
    """FAT and some network shares have none: then it is a look and a rename."""

    def link(*args, **kwargs):
        raise OSError(number, "no links here")

    monkeypatch.setattr(place_module, "os", Altered(os, link=link))
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))
        (tmp_path / "out" / "other.png").write_bytes(b"mine")
        os.utime(tmp_path / "out" / "other.png", ns=(0, 0))
        with pytest.raises(DownloadError, match="exists"):
            await downloader.save(task(host.url, task_id="other"))

    assert saved[0].read_bytes() == PNG
    assert (tmp_path / "out" / "other.png").read_bytes() == b"mine"


@pytest.mark.asyncio
async def test_a_link_that_fails_otherwise_is_told(tmp_path, monkeypatch):
    """And the part stays."""

    def link(*args, **kwargs):
        raise OSError(errno.EIO, "input/output error")

    host = Host()
    async with hosted(host, tmp_path) as downloader:
        with monkeypatch.context() as patch:
            patch.setattr(place_module, "os", Altered(os, link=link))
            with pytest.raises(DownloadError, match="input/output"):
                await downloader.save(task(host.url))
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
async def test_a_folder_that_cannot_be_synced(number, tmp_path, monkeypatch):
    """A share that has no such thing is taken as it is; a failing disk is told."""

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "no")
        os.fsync(descriptor)

    monkeypatch.setattr(place_module, "os", Altered(os, fsync=fsync))
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        if number == errno.EINVAL:
            assert await downloader.save(task(host.url))
        else:
            with pytest.raises(DownloadError, match="cannot be written to"):
                await downloader.save(task(host.url))


@pytest.mark.asyncio
async def test_a_page_again_after_the_renewal_ends_as_an_error(tmp_path):
    """It is asked for once only."""
    host, asked = Host(*[BAD["xml"]] * 9), []

    async def renew(url):
        asked.append(url)
        return host.url

    async with hosted(host, tmp_path, renew) as downloader:
        with pytest.raises(DownloadError, match="a page came"):
            await downloader.save(task(host.url))

    assert len(asked) == 1
    assert files(tmp_path) == {}


@pytest.mark.asyncio
async def test_a_host_that_sends_more_than_the_whole_is_not_believed(tmp_path):
    """A rest in chunks that goes beyond the length it told: fetched anew."""
    told = f"Content-Range: bytes 100000-{len(PNG) - 1}/{len(PNG)}"
    head = response(206, b"", told, "Transfer-Encoding: chunked", length=-1)
    body = PNG[100_000:] + b"more"
    host = Host(cut(100_000), head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert [asked_from(head) for head in host.requests] == [0, 100_000, 0]
