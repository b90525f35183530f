"""The edges of what files are: every beginning, every label, every length, one by one.

Written for the mistakes that `tests.mutation` puts in: each off by one is seen here.
"""

from __future__ import annotations

import io
import random
import stat
from pathlib import Path

import pytest

from kie_async import DownloadError
from kie_async.files import Downloader, check_template
from kie_async.files._kinds import SUFFIXES, UNKNOWN, contradicts, kind_of, looks_like_a_page
from kie_async.files._names import short_hash
from kie_async.files._part import Part, Progress, UnfitError
from kie_async.files._whole import Verdict, judge
from kie_async.transport import ResultTransport
from tests.file_hosts import GIF, MP4, WEBM, boxes, no_renewal

FORMS = {
    b"\x89PNG\r\n\x1a\n": (".png", "png"), b"\xff\xd8\xff": (".jpg", "jpeg"),
    b"GIF87a": (".gif", "gif"), b"GIF89a": (".gif", "gif"),
    b"\x1aE\xdf\xa3": (".webm", "webm"), b"ID3": (".mp3", None), b"\xff\xfb": (".mp3", None),
    b"\xff\xf3": (".mp3", None), b"\xff\xf2": (".mp3", None), b"OggS": (".ogg", None),
    b"fLaC": (".flac", None), b"RIFF....WEBP": (".webp", "riff"),
    b"RIFF....WAVE": (".wav", "riff"), b"RIFF....AVI ": (".avi", "riff"),
    b"....ftypqt  ": (".mov", "movie"), b"....ftypavif": (".avif", "boxes"),
    b"....ftypavis": (".avif", "boxes"), b"....ftypheic": (".heic", "boxes"),
    b"....ftypmif1": (".heic", "boxes"), b"....ftypM4A ": (".m4a", "movie"),
    b"....ftypisom": (".mp4", "movie"), b"....moov": (".mp4", "movie"),
    b"....mdat": (".mp4", "movie"), b"....free": (".mp4", "movie"),
    b"....skip": (".mp4", "movie"), b"....wide": (".mp4", "movie"),
    b"....styp": (".mp4", "movie"),
}  # fmt: skip


@pytest.mark.parametrize("head", FORMS)
def test_every_beginning_has_its_kind(head: bytes):
    """And one byte less is nothing that we know: nor is another last byte."""
    kind = kind_of(head)

    assert (kind.suffix, kind.form) == FORMS[head]
    assert kind_of(head + b"more") == kind
    if not head.startswith(b"....ftyp"):
        assert kind_of(head[:-1]) is UNKNOWN
        assert kind_of(head[:-1] + b"?") is UNKNOWN


def test_the_suffixes_are_those():
    """Each once, with that of what nobody knows."""
    assert sorted(SUFFIXES) == sorted({suffix for suffix, _ in FORMS.values()} | {".bin"})
    assert (UNKNOWN.suffix, UNKNOWN.form) == (".bin", None)


@pytest.mark.parametrize(
    "start", [b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<body", b'{"', b"{\n"]
)
def test_every_beginning_of_a_page_is_one(start: bytes):
    """In capitals and after blanks too, within its first 64 bytes."""
    for head in (start, start.upper(), b" \r\n" + start, b"\xef\xbb\xbf" + start):
        assert looks_like_a_page(head + b">", "application/octet-stream")
    assert not looks_like_a_page(b"x" + start, "application/octet-stream")
    assert not looks_like_a_page(start[:-1], "application/octet-stream")


@pytest.mark.parametrize(
    "label",
    ["text/html", "text/xml", "application/xml", "application/json", "application/xhtml+xml"],
)
def test_every_label_of_a_page_is_one(label: str):
    """Whatever stands after it."""
    assert looks_like_a_page(b"words", f" {label.upper()} ; charset=x")
    assert not looks_like_a_page(b"words", f"{label}x")


@pytest.mark.parametrize(
    "label",
    ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "video/mp4",
     "video/quicktime", "video/webm"],
)  # fmt: skip
def test_every_label_that_promises_a_kind_is_held_to_it(label: str):
    """If the bytes are nothing that we know."""
    assert contradicts(UNKNOWN, label)
    assert not contradicts(kind_of(b"GIF89a"), label)
    assert not contradicts(UNKNOWN, f"{label}x")


def judged(body: bytes, *, strict: bool = True) -> Verdict:
    return judge(io.BytesIO(body), len(body), kind_of(body), strict=strict)


def test_lengths_at_their_limits():
    """A GIF's head is 13 bytes, a WebM's segment is read in 12, a RIFF tells 8 less."""
    assert judged(b"GIF89a" + b"g" * 6 + b";") is Verdict.SHORT
    assert judged(b"GIF89a" + b"g" * 7 + b";") is Verdict.WHOLE
    assert judged(GIF[:-1]) is Verdict.SHORT
    riff = b"RIFF" + (8).to_bytes(4, "little") + b"WEBP" + b"1234"
    assert (judged(riff), judged(riff[:-1])) == (Verdict.WHOLE, Verdict.SHORT)
    for unknown in (bytes(4), b"\xff" * 4):
        assert judged(b"RIFF" + unknown + b"WEBP") is Verdict.UNTOLD
    head = b"\x1aE\xdf\xa3\x80"  # a header of no bytes, and a segment of three
    segment = b"\x18\x53\x80\x67\x88"
    assert judged(head + segment + b"12345678") is Verdict.WHOLE
    assert judged(head + segment + b"1234567") is Verdict.SHORT
    assert judged(head + b"?" * 12) is Verdict.UNTOLD
    assert judged(head + b"?" * 11) is Verdict.SHORT
    assert judged(WEBM[:4]) is Verdict.SHORT
    assert judged(WEBM[:5]) is Verdict.SHORT
    assert [one.value for one in Verdict] == ["whole", "short", "untold"]


def test_boxes_at_their_limits():
    """One shorter than its own head is none; a moving picture has its index elsewhere."""
    assert judged(MP4) is Verdict.WHOLE
    assert judged(MP4 + (4).to_bytes(4, "big")) is Verdict.SHORT
    assert judged(MP4 + (9).to_bytes(4, "big") + b"free") is Verdict.SHORT
    for index in (b"meta", b"moov"):
        picture = boxes((b"ftyp", b"avis" + bytes(8)), (index, b"m" * 9))
        assert judged(picture) is Verdict.WHOLE
    assert judged(boxes((b"ftyp", b"avis" + bytes(8)), (b"mdat", b"m"))) is Verdict.SHORT


def test_a_part_is_complete_only_with_all_its_bytes():
    """An empty file is none, and an unknown length is never reached."""
    assert not Progress().complete
    assert Progress().offset == 0
    assert not Progress(offset=0, total=0).complete
    assert Progress(offset=1, total=1).complete
    assert not Progress(offset=1, total=2).complete
    assert not Progress(offset=2, total=1).complete
    assert not Progress(offset=2).complete
    assert str(UnfitError("why", page=True)) == "why"


def test_a_part_is_its_owners(tmp_path: Path):
    """Others read nothing of what is unfinished; a second opener is told to wait."""
    part, other = Part(tmp_path, "a", "task", 0), Part(tmp_path, "a", "task", 0)
    part.open()

    assert stat.S_IMODE(part.path.stat().st_mode) == 0o600
    assert other.path == part.path
    with pytest.raises(DownloadError, match="by another run"):
        other.open()
    part.start(None, None)
    part.append(b"x")
    part.close()
    assert part.path.exists()
    assert Part(tmp_path, "a", "task", 1).path != part.path


@pytest.mark.asyncio
async def test_pauses_grow_and_spread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Twice as long each time, up to a limit; from half of that to the whole."""
    async with ResultTransport() as pool:
        downloader = Downloader(pool, no_renewal, tmp_path, backoff=0.5)
        for failures, longest in ((1, 0.5), (2, 1.0), (3, 2.0)):
            for dice, share in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
                monkeypatch.setattr(random, "random", lambda dice=dice: dice)
                assert downloader._pause(failures) == pytest.approx(longest * share)
        assert downloader._pause(100) == downloader._pause(101) < 120


def test_names_are_told_apart_by_all_their_parts():
    """Eight hex digits, that no order or border of the parts can confuse."""
    assert len(short_hash("a")) == 8
    assert len({short_hash("a", "b"), short_hash("ab"), short_hash("b", "a")}) == 3
    assert check_template("{task_id}") == "{task_id}"
