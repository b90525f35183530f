"""Each attempt of one download at its edges, on answers that are told: there is no host."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kie_async import DownloadError, StorageFullError, UsageError
from kie_async.errors import KieError
from kie_async.files import Downloader
from kie_async.files import _part as part_module
from kie_async.files._downloader import _unwritable
from kie_async.files._fetching import Fetching
from kie_async.files._mark import marked_time
from kie_async.files._names import other_stem, safe_stem, short_hash
from kie_async.files._part import Part, UnfitError
from kie_async.files._place import is_same
from kie_async.files._threads import Writer
from kie_async.transport import Fetched
from tests.fakes import Altered
from tests.file_hosts import JPEG, PNG, TAG, no_renewal, task

KIB = 1024


class Told:
    """A fetcher that answers what it is told, each once; the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, int, str | None]] = []
        self.pauses: list[int] = []
        self.renewed: list[str] = []
        self.chunks = 0

    @asynccontextmanager
    async def fetch(
        self,
        url: str,
        *,
        offset: int = 0,
        etag: str | None = None,
        timeout: float = 900.0,
        max_bytes: int = 2**31,
    ) -> AsyncIterator[Fetched]:
        self.asked.append((url, offset, etag))
        status, headers, chunks = self.answers.pop(0) if self.answers[1:] else self.answers[0]
        yield Fetched(status, headers, "content-length" in headers, self._chunks(chunks))

    async def _chunks(self, chunks: Any) -> AsyncIterator[bytes]:
        for chunk in chunks:
            self.chunks += 1
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    def fetching(self, **settings: Any) -> Fetching:
        async def renew(url: str) -> str:
            self.renewed.append(url)
            return f"{url}+"

        def pause(after: int) -> float:
            self.pauses.append(after)
            return 0.0

        return Fetching(
            **{"fetcher": self, "renew": renew, "max_bytes": 2**31, "timeout": 900.0,
               "attempts": 3, "pause": pause, **settings}
        )  # fmt: skip


def head(status: int = 200, *chunks: Any, **fields: str) -> tuple[int, Mapping[str, str], Any]:
    return status, {name.replace("_", "-"): value for name, value in fields.items()}, chunks


def some(start: int, end: int, *, status: int = 206, tag: str = TAG) -> tuple[int, Any, Any]:
    """Return an answer that breaks off before *end*."""
    lost = DownloadError("the connection was lost")
    if status == 200:
        return head(200, PNG[start:end], lost, etag=tag, content_length=str(len(PNG)))
    told = f"bytes {start}-{len(PNG) - 1}/{len(PNG)}"
    return head(206, PNG[start:end], lost, etag=tag, content_range=told)


WHOLE = head(200, PNG, etag=TAG, content_length=str(len(PNG)))


def begun(part: Part, total: int | None, content: bytes) -> None:
    """Let an earlier run have brought *content*."""
    part.start(TAG, total)
    part.append(content)


@pytest.fixture
def part(tmp_path: Path):
    one = Part(tmp_path, "a", "task", 0)
    one.open()
    yield one
    one.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("status", "again"),
    [(408, True), (425, True), (429, True), (500, True), (503, True), (599, True), (402, False),
     (409, False), (418, False), (499, False), (204, False), (302, False), (207, False)],
)  # fmt: skip
async def test_which_statuses_are_tried_again(status: int, again: bool, part: Part):
    """Each of the three attempts, with a pause between two; the status is told."""
    told = Told(head(status))

    with pytest.raises(DownloadError, match=f"HTTP {status}") as caught:
        await told.fetching().bring(part, "u")

    assert len(told.asked) == (3 if again else 1)
    assert told.pauses == ([1, 2] if again else [])
    assert (caught.value.http_status, caught.value.retryable) == (status, again)
    assert told.renewed == []


@pytest.mark.asyncio
@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
async def test_an_address_is_renewed_once_for_nothing(status: int, part: Part):
    """The second refusal is final; a fresh address costs no pause."""
    told = Told(head(status))

    with pytest.raises(DownloadError, match="the renewed address too") as caught:
        await told.fetching().bring(part, "u")

    assert [url for url, _, _ in told.asked] == ["u", "u+"]
    assert (told.renewed, told.pauses) == (["u"], [])
    assert (caught.value.http_status, caught.value.retryable) == (status, False)


@pytest.mark.asyncio
@pytest.mark.parametrize(("came", "again"), [(64 * KIB - 1, False), (64 * KIB, True)])
async def test_an_address_that_brought_us_on_may_be_renewed_again(
    came: int, again: bool, part: Part
):
    """64 KiB since the last renewal are progress, and one byte less is none."""
    told = Told(head(403), some(0, came, status=200), head(403), WHOLE)
    if again:
        assert await told.fetching().bring(part, "u") == ".png"
        assert [url for url, _, _ in told.asked] == ["u", "u+", "u+", "u++"]
    else:
        with pytest.raises(DownloadError, match="the renewed address too"):
            await told.fetching().bring(part, "u")
        assert told.renewed == ["u"]


@pytest.mark.asyncio
async def test_progress_is_counted_from_the_last_renewal(part: Part):
    """What had come before it was another link's."""
    told = Told(
        some(0, 60 * KIB, status=200), head(403), some(60 * KIB, 100 * KIB), head(403), WHOLE
    )

    with pytest.raises(DownloadError, match="the renewed address too"):
        await told.fetching().bring(part, "u")
    assert [(url, offset) for url, offset, _ in told.asked] == [
        ("u", 0), ("u", 60 * KIB), ("u+", 60 * KIB), ("u+", 100 * KIB),
    ]  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize("retryable", [True, False])
async def test_a_renewal_that_fails_says_whether_to_come_again(retryable: bool, part: Part):
    """With the status of the address, and the reason of the API."""

    async def renew(_url: str) -> str:
        raise KieError("no", retryable=retryable)

    with pytest.raises(DownloadError, match="could not be renewed: no") as caught:
        await Told(head(410)).fetching(renew=renew).bring(part, "u")

    assert (caught.value.http_status, caught.value.retryable) == (410, retryable)


@pytest.mark.asyncio
async def test_a_page_in_the_place_of_the_file_is_no_status(part: Part):
    """After its renewal it is tried as often as anything else."""
    told = Told(head(200, b"<html>no", content_type="text/html"))

    with pytest.raises(DownloadError, match="a page came") as caught:
        await told.fetching().bring(part, "u")

    assert [url for url, _, _ in told.asked] == ["u", "u+", "u+", "u+"]
    assert (caught.value.http_status, caught.value.retryable) == (None, True)


@pytest.mark.asyncio
@pytest.mark.parametrize(("step", "asked"), [(64 * KIB, 5), (64 * KIB - 1, 2)])
async def test_an_attempt_that_brought_64_kib_counts_as_none(step: int, asked: int, part: Part):
    """One byte less, and it is one of those that are counted."""
    answers = [some(0, step, status=200)]
    answers += [some(n * step, (n + 1) * step) for n in range(1, len(PNG) // step)]
    last = len(answers) * step
    rest = f"bytes {last}-{len(PNG) - 1}/{len(PNG)}"
    told = Told(*answers, head(206, PNG[last:], etag=TAG, content_range=rest))
    if asked == 5:
        assert await told.fetching(attempts=1).bring(part, "u") == ".png"
        assert [offset for _, offset, _ in told.asked] == [n * step for n in range(asked)]
        assert [etag for _, _, etag in told.asked] == [None] + [TAG] * 4
        assert set(told.pauses) == {0}
    else:
        with pytest.raises(DownloadError, match="lost"):
            await told.fetching(attempts=2).bring(part, "u")
        assert len(told.asked) == asked


@pytest.mark.asyncio
@pytest.mark.parametrize("encoding", ["identity", "", " Identity "])
async def test_a_file_as_it_is_may_be_called_so(encoding: str, part: Part):
    """Any other encoding was not asked for."""
    told = Told(head(200, PNG, content_encoding=encoding, content_length=str(len(PNG))))

    assert await told.fetching().bring(part, "u") == ".png"
    await asyncio.to_thread(part.drop)
    with pytest.raises(DownloadError, match="compressed"):
        await Told(head(200, PNG, content_encoding="br")).fetching().bring(part, "u")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "told",
    [f"bytes 1000-{len(PNG) - 1}/{len(PNG)}", f"bytes 1000-1000/{len(PNG)}"],
)
async def test_a_range_that_goes_on_is_gone_on_with(told: str, part: Part):
    """Also when its end is not the last byte: that many bytes are the whole all the same."""
    fetcher = Told(some(0, 1000, status=200), head(206, PNG[1000:], etag=TAG, content_range=told))

    assert await fetcher.fetching().bring(part, "u") == ".png"
    assert len(fetcher.asked) == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "told",
    [
        f"bytes 999-{len(PNG) - 1}/{len(PNG)}",
        f"bytes 1001-{len(PNG) - 1}/{len(PNG)}",
        f"bytes 1000-{len(PNG)}/{len(PNG)}",
        f"bytes 1000-999/{len(PNG)}",
        f"bytes 1000-{len(PNG) - 1}/{len(PNG) + 1}",
        "bytes 1000-1001/*",
    ],
)
async def test_a_range_of_anything_else_begins_anew(told: str, part: Part):
    """What was there is thrown away, and the next attempt asks for all."""
    fetcher = Told(
        some(0, 1000, status=200), head(206, PNG[1000:], etag=TAG, content_range=told), WHOLE
    )

    assert await fetcher.fetching().bring(part, "u") == ".png"
    assert [offset for _, offset, _ in fetcher.asked] == [0, 1000, 0]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("offset", "told", "asked"),
    [(len(PNG), f"bytes */{len(PNG)}", 1), (1000, f"bytes */{len(PNG)}", 2), (0, "bytes */0", 2)],
)
async def test_416_is_the_end_only_of_what_is_all_there(
    offset: int, told: str, asked: int, part: Part
):
    """Of nothing it is none."""
    if offset:
        await asyncio.to_thread(begun, part, None, PNG[:offset])
    fetcher = Told(head(416, content_range=told), WHOLE)

    assert await fetcher.fetching().bring(part, "u") == ".png"
    assert len(fetcher.asked) == asked


@pytest.mark.asyncio
async def test_a_range_that_was_not_asked_for_is_taken_from_its_beginning(part: Part):
    """All of the file as a part of it, with a tag that we had not known."""
    told = Told(head(206, PNG, etag=TAG, content_range=f"bytes 0-{len(PNG) - 1}/{len(PNG)}"))

    assert await told.fetching().bring(part, "u") == ".png"
    assert len(told.asked) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(("most", "fits"), [(len(PNG), True), (len(PNG) - 1, False)])
async def test_the_largest_file_that_is_taken(most: int, fits: bool, part: Part):
    """By its length; not a byte of a larger one is written."""
    told = Told(WHOLE)
    if fits:
        assert await told.fetching(max_bytes=most).bring(part, "u") == ".png"
    else:
        with pytest.raises(DownloadError, match=f"larger than {most} bytes") as caught:
            await told.fetching(max_bytes=most).bring(part, "u")
        assert not caught.value.retryable
        assert (told.chunks, len(told.asked)) == (0, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [len(PNG) - 1, len(PNG) + 1, 1])
async def test_another_length_than_told_is_said(length: int, part: Part):
    """A whole file that is said to be shorter or longer is none."""
    told = Told(head(200, PNG, content_length=str(length)))

    with pytest.raises(DownloadError, match=rf"{len(PNG)} bytes came instead of {length}"):
        await told.fetching(attempts=1).bring(part, "u")

    assert (await asyncio.to_thread(part.progress)).offset == 0


@pytest.mark.asyncio
async def test_a_host_that_never_ends_is_left_at_the_end_of_the_file(part: Part):
    """After the first piece too many."""

    def endless() -> Any:
        while True:
            yield PNG

    told = Told((200, {"content-length": str(len(PNG))}, endless()))
    with pytest.raises(DownloadError, match="came instead of"):
        await told.fetching(attempts=1).bring(part, "u")

    assert told.chunks == 2


@pytest.mark.asyncio
async def test_what_is_complete_asks_for_nothing(part: Part):
    """A run was stopped before the last steps; its kind is known by its bytes."""
    await asyncio.to_thread(begun, part, len(PNG), PNG)
    told = Told(head(500))

    assert await told.fetching(renew=no_renewal).bring(part, "u") == ".png"
    assert told.asked == []


# The part and its note


@pytest.mark.parametrize(("free", "fits"), [(1000, True), (999, False)])
def test_a_file_that_just_fits_is_begun(free: int, fits: bool, part: Part, monkeypatch):
    """One byte of room less, and nothing of it is fetched."""
    monkeypatch.setattr(part_module, "free_bytes", lambda _folder: free)
    if fits:
        part.start(TAG, 1000)
    else:
        with pytest.raises(StorageFullError, match="no room for 1000 bytes"):
            part.start(TAG, 1000)


def _noted(part: Part, change: Callable[[dict[str, Any]], None], *, size: int = 10) -> Any:
    part.start(TAG, 100)
    part.append(b"x" * size)
    note = json.loads(part._note_path.read_text())
    change(note)
    part._note_path.write_text(json.dumps(note))
    return part.progress()


def test_a_note_is_gone_on_with_if_it_fits(part: Part):
    """A part that is longer than its file will be is none, nor is one without a tag."""
    assert _noted(part, lambda _: None).offset == 10
    assert _noted(part, lambda _: None, size=100).complete
    assert _noted(part, lambda _: None, size=101).offset == 0
    assert _noted(part, lambda note: note.update(etag=None)).offset == 0
    assert _noted(part, lambda note: note.update(etag=None), size=100).complete
    assert _noted(part, lambda note: note.update(total=None)).offset == 10


@pytest.mark.parametrize("name", ["etag", "total", "boot", "mode"])
@pytest.mark.parametrize("value", [[], {}, 1.5, "later"])
def test_a_note_of_another_form_is_none(name: str, value: object, part: Part):
    """Each field is of its kind, and each must be there."""
    if (name, value) != ("etag", "later"):
        assert _noted(part, lambda note: note.update({name: value})).offset == 0
    assert _noted(part, lambda note: note.pop(name)).offset == 0


def test_a_note_that_is_a_link_is_none(part: Part):
    """Nothing is read through it."""
    _noted(part, lambda _: None)
    part._note_path.rename(part._note_path.with_name("elsewhere"))
    part._note_path.symlink_to("elsewhere")

    assert part.progress().offset == 0


def test_a_note_never_makes_a_program_of_a_file(part: Part):
    """Whatever mode stands in it."""
    part.start(TAG, len(PNG))
    part.append(PNG)
    note = json.loads(part._note_path.read_text())
    part._note_path.write_text(json.dumps({**note, "mode": 0o7777}))

    assert part.progress().complete
    final, size = part.finish(".png")
    assert (stat.S_IMODE(final.stat().st_mode), size) == (0o666, len(PNG))
    assert not part.is_open
    part.close()


def test_a_note_too_long_to_be_one_is_none(part: Part):
    """An endless tag would be kept for nothing."""
    part.start('"' + "t" * 9000 + '"', 100)
    part.append(b"x")

    assert part.progress().offset == 0


# The downloader and what it stands on


class Held(Told):
    """Answers when it is told to; says how many wait, and with what they came."""

    waiting = 0
    settings: tuple[float, int] = (0.0, 0)

    def __init__(self, *answers: Any) -> None:
        super().__init__(*answers)
        self.go = asyncio.Event()

    @asynccontextmanager
    async def fetch(self, url: str, **given: Any) -> AsyncIterator[Fetched]:
        self.settings = (given["timeout"], given["max_bytes"])
        self.waiting += 1
        await self.go.wait()
        async with super().fetch(url, **given) as answer:
            yield answer


@pytest.mark.asyncio
async def test_what_a_downloader_does_by_default(tmp_path: Path):
    """Four files at once, four attempts each, 15 minutes, 2 GiB, half a second to begin with."""
    told = Held(head(500))
    usual = Downloader(told, no_renewal, tmp_path)
    assert 0.25 <= usual._pause(1) <= 0.5
    downloader = Downloader(told, no_renewal, tmp_path, backoff=0.0)

    saving = asyncio.create_task(downloader.save(task(*(f"u{n}" for n in range(4)))))
    async with asyncio.timeout(10.0):
        while told.waiting < 4:  # noqa: ASYNC110 - threads open the parts
            await asyncio.sleep(0)
    assert downloader._turns.locked()
    told.go.set()
    with pytest.raises(DownloadError, match=r"HTTP 500 \(4 of 4 results\)") as caught:
        await saving

    assert told.settings == (900.0, 2 * 2**30)
    assert len(told.asked) == 4 * 4
    assert (caught.value.saved, caught.value.task_id) == ((), "task-1")
    assert (caught.value.http_status, caught.value.retryable) == (500, True)


@pytest.mark.asyncio
async def test_one_failure_of_one_result_is_told_without_a_count(tmp_path: Path):
    """And if one of several may come right, all of them are worth another try."""
    downloader = Downloader(Told(head(418)), no_renewal, tmp_path, backoff=0.0)
    with pytest.raises(DownloadError, match=r"HTTP 418 \(task task-1\)$") as caught:
        await downloader.save(task("u"))
    assert not caught.value.retryable

    told = Told(head(418), head(500))
    downloader = Downloader(told, no_renewal, tmp_path, backoff=0.0, concurrency=1)
    with pytest.raises(DownloadError, match=r"HTTP 418 \(2 of 2 results\) ") as caught:
        await downloader.save(task("u", "v"))
    assert (caught.value.http_status, caught.value.retryable) == (418, True)


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", ["max_bytes", "concurrency", "attempts"])
@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
async def test_whole_numbers_from_one(wrong: str, value: Any, tmp_path: Path):
    """Each is refused by its name."""
    with pytest.raises(UsageError, match=f"^{wrong} must be a whole number above zero"):
        Downloader(Told(WHOLE), no_renewal, tmp_path, **{wrong: value})
    Downloader(Told(WHOLE), no_renewal, tmp_path, **{wrong: 1})


@pytest.mark.asyncio
@pytest.mark.parametrize("what", ["timeout", "backoff"])
async def test_seconds_are_refused_by_their_name(what: str, tmp_path: Path):
    """So that the user finds his mistake."""
    with pytest.raises(UsageError, match=what):
        Downloader(Told(WHOLE), no_renewal, tmp_path, **{what: -1.0})


@pytest.mark.parametrize(
    ("number", "full"),
    [(errno.ENOSPC, True), (errno.EFBIG, True), (errno.EDQUOT, True), (errno.EIO, False),
     (errno.EACCES, False)],
)  # fmt: skip
def test_which_errors_mean_a_full_disk(number: int, full: bool, tmp_path: Path):
    """All others are the folder's, and nothing that passes by itself."""
    error = _unwritable(tmp_path, OSError(number, os.strerror(number)))

    assert isinstance(error, StorageFullError) is full
    if not full:
        assert os.strerror(number) in str(error)
        assert not error.retryable
    assert "OSError" in str(_unwritable(tmp_path, OSError()))


@pytest.mark.asyncio
async def test_bytes_go_to_the_disk_in_blocks(part: Part, monkeypatch: pytest.MonkeyPatch):
    """A mebibyte in one hop to a thread; what is left over at the end."""
    sizes: list[int] = []
    append = part.append

    def counted(data: bytearray) -> None:
        sizes.append(len(data))
        append(data)

    monkeypatch.setattr(part, "append", counted)
    writer = Writer(part)
    for size in (2**20 - 1, 1, 2**20 + 5, 7):
        await writer.write(bytes(size))
    await writer.flush()
    await writer.flush()

    assert sizes == [2**20, 2**20 + 5, 7]
    assert part.path.stat().st_size == sum(sizes)


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])
def test_the_same_bytes_are_the_same_file(size: int, tmp_path: Path):
    """To the last one, and only of plain files."""
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"x" * size)
    other.write_bytes(b"x" * size)
    assert is_same(one, other)
    if size:
        other.write_bytes(b"x" * (size - 1) + b"y")
        assert not is_same(one, other)
        other.write_bytes(b"y" + b"x" * (size - 1))
        assert not is_same(one, other)
    other.write_bytes(b"x" * (size + 1))
    assert not is_same(one, other)
    link = tmp_path / "link"
    link.symlink_to(one)
    assert not is_same(one, link)
    assert not is_same(one, tmp_path)
    assert not is_same(one, tmp_path / "none")


def test_marks_and_names_are_those_of_every_version():
    """What was saved by the package of today is known to that of tomorrow."""
    assert marked_time(1_790_000_000, 12345, "task", 1) == 1_790_000_000_800_916_000
    assert short_hash("task", 1) == "631a68cb"
    assert other_stem("a" * 200, "b") == "a" * 111 + "~68acaf1f"
    assert other_stem("a. ", "b") == "a~68acaf1f"
    assert safe_stem("a" * 120) == "a" * 120
    assert safe_stem("a" * 121) == "a" * 111 + "~cf15b714"


def test_a_file_that_nothing_measured_must_end_as_its_kind_does(part: Part):
    """Some makers append to a JPEG: that is fine if the host said how long it is."""
    for framed in (True, False):
        part.start(TAG, None)
        part.append(JPEG + b"appended")
        if framed:
            assert part.examine("", framed=True) == ".jpg"
        else:
            with pytest.raises(UnfitError, match="stops before its end"):
                part.examine("", framed=False)


def test_a_saved_file_is_as_old_as_its_last_byte(part: Part):
    """To the second: the mark is in the rest."""
    part.start(TAG, None)
    part.append(PNG)
    os.utime(part._fd, ns=(1_600_000_000_123_456_789,) * 2)

    final, _ = part.finish(".png")
    assert final.stat().st_mtime_ns // 10**9 == 1_600_000_000


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
@pytest.mark.parametrize(("size", "early"), [(2**20 - 1, 0), (2**20, 1)])
def test_whole_blocks_are_on_their_way_at_once(size: int, early: int, part: Part, monkeypatch):
    """The sync at the end, which is waited for, then finds little to do."""
    told: list[int] = []
    advise = Altered(os, posix_fadvise=lambda fd, *_: told.append(fd))
    monkeypatch.setattr(part_module, "os", advise)
    part.append(bytes(size))

    assert told == [part._fd] * early


@pytest.mark.asyncio
async def test_one_block_is_written_at_a_time(part: Part, monkeypatch: pytest.MonkeyPatch):
    """Else two threads could bring them in the other order, or fill the memory."""
    go = threading.Event()
    append = part.append

    def slowly(data: bytearray) -> None:
        assert go.wait(10.0)
        append(data)

    monkeypatch.setattr(part, "append", slowly)
    writer = Writer(part)
    await writer.write(b"a" * 2**20)
    second = asyncio.create_task(writer.write(b"b" * 2**20))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not second.done()
    go.set()
    await second
    await writer.flush()

    assert part.path.read_bytes() == b"a" * 2**20 + b"b" * 2**20


@pytest.mark.asyncio
async def test_the_folder_is_made_with_all_above_it(tmp_path: Path):
    """Nobody has to make any of them before."""
    folder = tmp_path / "a" / "b" / "c"
    downloader = Downloader(Told(WHOLE), no_renewal, folder)

    assert await downloader.save(task("u")) == (folder / "task-1.png",)


def test_a_link_in_the_place_of_a_part_costs_no_attempt(tmp_path: Path):
    """It is removed, and what it led to stays as it was."""
    part = Part(tmp_path, "a", "task", 0)
    (tmp_path / "victim").write_bytes(b"precious")
    part.path.symlink_to("victim")

    part.open()
    part.start(TAG, None)
    part.append(b"x")
    part.close()
    assert not part.path.is_symlink()
    assert (tmp_path / "victim").read_bytes() == b"precious"
