"""Downloads over real sockets: whole or absent, under safe names, from allowed places."""

from __future__ import annotations

import asyncio
import errno
import os
import zlib
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import DownloadError, KieSession, StorageFullError, Task, TaskState, UsageError
from kie_async.emulator import Emulator
from kie_async.files import Downloader, check_template, file_name, safe_stem
from kie_async.files import _part as part_module
from kie_async.files._kinds import kind_of, looks_like_a_page, unfinished
from kie_async.transport import ResultTransport


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", os.urandom(300_000)) + chunk(b"IEND", b"")
JPEG = b"\xff\xd8\xff\xe0" + b"j" * 1000 + b"\xff\xd9"
MP4 = b"\x00\x00\x00\x18ftypisom" + b"m" * 1000


class Host:
    """A result host that answers as it is told, request by request."""

    def __init__(self, *answers, body: bytes = PNG) -> None:
        self.answers = list(answers)
        self.body = body
        self.requests: list[str] = []
        self.url = ""

    async def serve(self, reader, writer) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head)
            answer = self.answers.pop(0) if self.answers else self.whole
            writer.write(answer(head) if callable(answer) else answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def whole(self, head: str) -> bytes:
        """Answer the file, or the rest of it that is asked for."""
        if "range: bytes=" in head.lower():
            start = int(head.lower().partition("range: bytes=")[2].partition("-")[0])
            rest = self.body[start:]
            fields = [f"Content-Range: bytes {start}-{len(self.body) - 1}/{len(self.body)}"]
            return response(206, rest, *fields)
        return response(200, self.body)


def response(status, body=b"", *fields, kind="image/png", length=None, tag='"v1"') -> bytes:
    """Make a raw answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"ETag: {tag}", "Connection: close"]
    lines += [f"Content-Length: {size}"] if size >= 0 else []
    return "\r\n".join([*lines, *fields, "", ""]).encode() + body


def cut(at: int, status: int = 200):
    """Answer with the first *at* bytes of the file and no more."""
    return response(status, PNG[:at], length=len(PNG))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    """Try again at once: the pauses are jitter, and nothing here depends on them."""
    monkeypatch.setattr("kie_async.files._downloader.random.random", lambda: 0.0)


@asynccontextmanager
async def hosted(host: Host, tmp_path: Path, renew=None, **settings):
    """Run a host and a downloader on it."""
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    host.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/r/file?sig=secret"

    async def no_renewal(url):
        raise DownloadError("url is wrong", retryable=False)

    async with server, ResultTransport(allow_private=True) as fetcher:
        yield Downloader(fetcher, renew or no_renewal, tmp_path / "out", **settings)


def task(*urls: str) -> Task:
    """Make a finished task."""
    return Task(task_id="task-1", state=TaskState.SUCCESS, result_urls=urls)


def files(tmp_path: Path) -> dict[str, int]:
    """List what is in the folder."""
    return {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}


@pytest.mark.asyncio
@pytest.mark.parametrize(("body", "suffix"), [(PNG, ".png"), (JPEG, ".jpg"), (MP4, ".mp4")])
async def test_a_file_is_saved_whole_with_the_suffix_of_its_content(body, suffix, tmp_path):
    """Whatever the URL calls it."""
    host = Host(body=body)
    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved == (tmp_path / "out" / f"task-1{suffix}",)
    assert saved[0].read_bytes() == body
    assert files(tmp_path) == {f"task-1{suffix}": len(body)}


@pytest.mark.asyncio
async def test_the_key_is_never_there():
    """No Authorization, no cookie, no compression."""
    host = Host()
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x"
    async with server, ResultTransport(allow_private=True) as fetcher, fetcher.fetch(url) as answer:
        assert answer.status == 200

    sent = host.requests[0].lower()
    assert "authorization" not in sent
    assert "cookie" not in sent
    assert "accept-encoding: identity" in sent


@pytest.mark.asyncio
@pytest.mark.parametrize("at", [0, 1, 7, 100_000, len(PNG) - 1])
async def test_a_cut_download_is_resumed(at, tmp_path):
    """From the byte where it stopped, if the file is still the same."""
    host = Host(cut(at))
    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert len(host.requests) == 2
    if at > 0:
        assert f"bytes={at}-" in host.requests[1]
        assert 'if-range: "v1"' in host.requests[1].lower()


@pytest.mark.asyncio
async def test_a_later_run_resumes_what_an_earlier_left(tmp_path):
    """The `.part` survives the process."""
    host = Host(*[cut(50_000)] * 4)
    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError):
            await downloader.save(task(host.url))
    assert "task-1.part" in files(tmp_path)

    again = Host()
    async with hosted(again, tmp_path) as downloader:
        saved = await downloader.save(task(again.url))

    assert "bytes=" in again.requests[0]
    assert saved[0].read_bytes() == PNG
    assert list(files(tmp_path)) == ["task-1.png"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "second",
    [
        lambda head: response(200, PNG),
        lambda head: response(206, PNG[5:], f"Content-Range: bytes 5-{len(PNG) - 1}/{len(PNG)}"),
        lambda head: response(416, b"", f"Content-Range: bytes */{len(PNG)}"),
    ],
    ids=["range ignored", "wrong range", "416"],
)
async def test_a_strange_answer_to_a_resume_starts_anew(second, tmp_path):
    """Never two files glued together."""
    host = Host(cut(100_000), second)
    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG


BAD = {
    "empty": response(200, b""),
    "html": response(200, b"<html>Access denied</html>", kind="text/html"),
    "html as png": response(200, b"<!DOCTYPE html><p>no</p>"),
    "xml": response(200, b"<?xml version='1.0'?><Error/>", kind="application/xml"),
    "png without end": response(200, PNG[:-12]),
    "cut without length": response(200, PNG[:-20], length=-1),
    "500": response(500, b"no"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", BAD)
async def test_a_bad_answer_is_never_a_file(name, tmp_path):
    """Nothing gets the final name; the next try may do better."""
    host = Host(*[BAD[name]] * 4)
    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError) as caught:
            await downloader.save(task(host.url))

    assert not [n for n in files(tmp_path) if not n.endswith((".part", ".etag"))]
    assert caught.value.task_id == "task-1"
    assert "secret" not in str(caught.value)


@pytest.mark.asyncio
async def test_a_file_that_is_too_large_is_broken_off(tmp_path):
    """By its announced length, and by what comes without one."""
    for answer in (response(200, PNG), response(200, PNG, length=-1)):
        host = Host(answer)
        async with hosted(host, tmp_path, max_bytes=100_000) as downloader:
            with pytest.raises(DownloadError, match="larger"):
                await downloader.save(task(host.url))
    assert not [n for n in files(tmp_path) if n.endswith(".png")]


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [403, 404, 410])
async def test_an_expired_url_is_renewed_once(status, tmp_path):
    """Through download-url; a second refusal is final."""
    host, asked = Host(response(status)), []

    async def renew(url):
        asked.append(url)
        return host.url

    async with hosted(host, tmp_path, renew) as downloader:
        await downloader.save(task(host.url))
        host.answers = [response(status), response(status)]
        host.body = JPEG
        with pytest.raises(DownloadError, match="expired"):
            await downloader.save(task(host.url), name="other-{task_id}")

    assert len(asked) == 2


@pytest.mark.asyncio
async def test_several_results_are_numbered_and_one_failure_keeps_the_rest(tmp_path):
    """The error tells what was saved."""
    host = Host()
    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url, host.url))
        host.answers = [host.whole, *[response(500)] * 4]
        with pytest.raises(DownloadError) as caught:
            await downloader.save(task(host.url, host.url), name="again-{task_id}")

    assert [path.name for path in saved] == ["task-1-0.png", "task-1-1.png"]
    assert [path.name for path in caught.value.saved] == ["again-task-1-0.png"]


@pytest.mark.asyncio
async def test_nothing_is_overwritten(tmp_path):
    """The same file is the result; another one in its place is an error."""
    host = Host()
    async with hosted(host, tmp_path) as downloader:
        first = await downloader.save(task(host.url))
        assert await downloader.save(task(host.url)) == first
        first[0].write_bytes(b"mine")
        with pytest.raises(DownloadError, match="exists"):
            await downloader.save(task(host.url))

    assert first[0].read_bytes() == b"mine"


@pytest.mark.asyncio
async def test_no_link_is_followed(tmp_path):
    """A link in the place of the file or of its part leads nowhere."""
    (tmp_path / "out").mkdir()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "out" / "task-1.part").symlink_to(victim)
    (tmp_path / "out" / "task-1.png").symlink_to(victim)
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(DownloadError, match="exists"):
            await downloader.save(task(host.url))

    assert victim.read_text() == "mine"


@pytest.mark.asyncio
async def test_a_full_disk_keeps_what_came(tmp_path, monkeypatch):
    """StorageFullError, and the next run resumes."""
    host = Host()
    real = part_module.Part._write

    def full(self, data, flags):
        if data:
            real(self, data[:1000], flags)
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data, flags)

    monkeypatch.setattr(part_module.Part, "_write", full)
    async with hosted(host, tmp_path) as downloader:
        with pytest.raises(StorageFullError):
            await downloader.save(task(host.url))
    monkeypatch.undo()
    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
    assert "bytes=1000-" in host.requests[-1]


@pytest.mark.asyncio
async def test_cancelling_leaves_a_part_or_a_file_and_no_open_descriptor(tmp_path):
    """At any instant."""
    host = Host()
    opened = len(list(Path("/proc/self/fd").iterdir()))
    async with hosted(host, tmp_path) as downloader:
        for steps in range(0, 60, 3):
            saving = asyncio.ensure_future(
                downloader.save(task(host.url), name=f"{{task_id}}-{steps}")
            )
            for _ in range(steps):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.gather(saving, return_exceptions=True)
    await asyncio.sleep(0)

    for path in (tmp_path / "out").iterdir():
        if path.suffix == ".png":
            assert path.read_bytes() == PNG
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 2


# -- names --


@given(st.text(max_size=300))
def test_every_name_is_a_plain_child(text):
    """No path, nothing hidden, nothing reserved, on no platform."""
    stem = safe_stem(text)

    assert 0 < len(stem) <= 121
    assert stem.isascii()
    assert not set(stem) & set('/\\:*?"<>|\0\n')
    assert stem not in {".", ".."}
    assert not stem.startswith((".", " "))
    assert not stem.endswith((".", " "))
    assert stem.split(".")[0].upper() not in {"CON", "NUL", "PRN", "AUX", "COM1", "LPT9"}


@pytest.mark.parametrize(
    "evil", ["../../etc/passwd", "..%2f..", "CON", "nul.png", "a\0b", "x" * 300]
)
def test_well_known_evils_are_tamed(evil):
    """Each becomes some harmless name."""
    assert "/" not in safe_stem(evil)
    assert safe_stem(evil)[:2] != ".."


@pytest.mark.parametrize(
    "bad", ["", "plain", "{nonsense}", "{source_id}/x", "..\\{task_id}", "{", "{0}"]
)
def test_templates_are_checked(bad):
    """Before anything is paid for."""
    with pytest.raises(UsageError):
        check_template(bad)


def test_names_follow_the_template():
    """And several results of one task never share a name."""
    ids = {"source_id": "src", "task_id": "tsk"}

    assert file_name("{source_id}", **ids, index=0, count=1) == "src"
    assert file_name("{source_id}", **ids, index=1, count=2) == "src-1"
    assert file_name("{task_id}_{index:03}", **ids, index=1, count=2) == "tsk_001"


# -- kinds --


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (b"GIF89a", ".gif"),
        (b"RIFF\x00\x00\x00\x00WEBP", ".webp"),
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"\x00\x00\x00\x18ftypqt  ", ".mov"),
        (b"ID3", ".mp3"),
        (b"anything", ".bin"),
        (b"", ".bin"),
    ],
)
def test_kinds_by_their_first_bytes(head, suffix):
    """Never by what the server says."""
    assert kind_of(head).suffix == suffix


@given(st.binary(max_size=600), st.binary(max_size=20), st.integers(0, 10**6))
def test_judging_any_bytes_never_breaks(head, tail, size):
    """The judges take whatever comes."""
    assert unfinished(kind_of(head), head, tail, size) in {True, False}
    assert looks_like_a_page(head, "x") in {True, False}


# -- through the session --


@pytest.mark.asyncio
async def test_a_session_saves_and_a_bulk_run_does(tmp_path):
    """`download` and `upscale_many(directory=…)`, with names of their own."""
    from kie_async import PollSchedule
    from kie_async.bulk import BulkItem

    quick = PollSchedule(first_gap=0.05, min_gap=0.02)
    async with Emulator(speed=20) as emulator:
        source = await emulator.add_source_task()
        async with KieSession(emulator.api_key, base_url=emulator.url, polling=quick) as kie:
            finished = await kie.upscale(source)
            with pytest.raises(DownloadError, match="https"):
                await kie.download(finished, tmp_path / "no")
            one = await kie.download(finished, tmp_path / "one", allow_private=True)
            run = kie.upscale_many(
                ["a-source", BulkItem(source_id="b-source", output_name="my {name}")],
                directory=tmp_path / "many",
                allow_private=True,
            )
            outcomes = [o async for o in run]

    assert one[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(o.files[0].name for o in outcomes) == ["a-source.png", "my _name_.png"]
