"""What a file is, and whether it goes on to its end."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.files._kinds import HEAD, SUFFIXES, UNKNOWN, contradicts, kind_of, looks_like_a_page
from kie_async.files._whole import Verdict, judge
from tests.file_hosts import GIF, JPEG, MP4, WEBM, WEBP, boxes, png

PNG = png(2000)
AVIF = boxes((b"ftyp", b"avif" + bytes(8)), (b"meta", b"m" * 50), (b"mdat", b"d" * 99))
LONG = b"\0\0\0\1mdat" + (116).to_bytes(8, "big") + b"d" * 100
MP4_LARGE = boxes((b"ftyp", b"isom" + bytes(8)), (b"moov", b"m" * 50)) + LONG
FRAGMENTS = boxes((b"ftyp", b"iso6" + bytes(8)), (b"moof", b"m" * 50), (b"mdat", b"d" * 50))
WHOLE = {
    "png": PNG,
    "jpeg": JPEG,
    "gif": GIF,
    "webp": WEBP,
    "mp4": MP4,
    "mp4 large": MP4_LARGE,
    "fragments": FRAGMENTS,
    "avif": AVIF,
    "webm": WEBM,
}


def judged(body: bytes, *, strict: bool = True) -> Verdict:
    return judge(io.BytesIO(body), len(body), kind_of(body), strict=strict)


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_file_is_whole(name):
    """Of each kind whose end we know."""
    assert judged(WHOLE[name]) is Verdict.WHOLE


@pytest.mark.parametrize("name", WHOLE)
def test_every_cut_is_seen(name):
    """At each byte after the first few, without any length to compare with."""
    body = WHOLE[name]

    missed = [at for at in range(16, len(body)) if judged(body[:at]) is Verdict.WHOLE]

    # A film whose index comes before its data, cut between two boxes, looks whole.
    between = {"fragments": {24 + 58 - 4}, "mp4 large": {20 + 58}, "avif": {20 + 58}}
    assert len(missed) <= len(between.get(name, set()))


def test_what_follows_the_end_is_tolerated_when_the_length_was_right():
    """Makers append to pictures; without a length the end must be the end."""
    assert judged(PNG + b"more") is Verdict.WHOLE
    assert judged(JPEG + b"more", strict=False) is Verdict.WHOLE
    assert judged(JPEG + b"more", strict=True) is Verdict.SHORT
    assert judged(JPEG + b"\0\0\n", strict=True) is Verdict.WHOLE
    assert judged(WEBP + b"\0") is Verdict.WHOLE


@pytest.mark.parametrize(
    "body",
    [
        b"RIFF\0\0\0\0WAVE data",
        b"RIFF\xff\xff\xff\xffWAVE data",
        b"ID3 song",
        b"anything at all",
        boxes((b"ftyp", b"isom" + bytes(8)), (b"moov", b"m" * 9)) + b"\0\0\0\0mdat to the end",
        b"\x1aE\xdf\xa3\x84webm" + b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7 + b"v" * 50,
        b"\x1aE\xdf\xa3\x84webm" + b"something else there",
        b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0fake\0\0\0\0" * 100_001,
        boxes((b"ftyp", b"isom"), *[(b"free", b"")] * 100_001),
    ],
    ids=["riff 0", "riff max", "mp3", "unknown", "open box", "open webm", "odd webm", "png", "mp4"],
)
def test_some_files_cannot_tell(body):
    """Their makers did not know the end either, or looking would never end."""
    assert judged(body) is Verdict.UNTOLD


def test_an_open_box_without_an_index_is_short():
    """A film needs one."""
    assert judged(boxes((b"ftyp", b"isom")) + b"\0\0\0\0mdat") is Verdict.SHORT


@given(st.binary(max_size=600), st.sampled_from(list(WHOLE.values())), st.integers(0, 3000))
def test_any_bytes_get_a_verdict(noise, body, at):
    """Broken lengths end no walk badly."""
    mixed = body[:at] + noise

    assert judged(mixed) in Verdict
    assert looks_like_a_page(mixed[:HEAD], "x") in {True, False}


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (PNG, ".png"),
        (b"GIF89a", ".gif"),
        (b"GIF87a", ".gif"),
        (b"RIFF\0\0\0\0WEBP", ".webp"),
        (b"RIFF\0\0\0\0WAVE", ".wav"),
        (b"RIFF\0\0\0\0OTHR", ".bin"),
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"\0\0\0\x18ftypqt  ", ".mov"),
        (b"\0\0\0\x18ftypM4A ", ".m4a"),
        (b"\0\0\0\x18ftypavif", ".avif"),
        (b"\0\0\0\x18ftypheic", ".heic"),
        (b"\0\0\0\x18ftypmp42", ".mp4"),
        (b"\0\0\0\x18moov", ".mp4"),
        (b"ID3", ".mp3"),
        (b"OggS", ".ogg"),
        (b"fLaC", ".flac"),
        (b"anything", ".bin"),
        (b"", ".bin"),
    ],
)
def test_kinds_by_their_first_bytes(head, suffix):
    """Never by what the server says; and each can be found again."""
    assert kind_of(head).suffix == suffix
    assert suffix in SUFFIXES


@pytest.mark.parametrize(
    ("head", "said", "page"),
    [
        (b"<html>", "image/png", True),
        (b"\xef\xbb\xbf <!DOCTYPE html>", "", True),
        (b"<?xml version='1.0'?>", "application/octet-stream", True),
        (b'{"error": 1}', "video/mp4", True),
        (b"plain words", "text/html; charset=utf-8", True),
        (b"plain words", "application/octet-stream", False),
        (JPEG, "text/html", False),
    ],
)
def test_pages_in_the_place_of_files(head, said, page):
    """The bytes outvote the label."""
    assert looks_like_a_page(head, said) is page


def test_a_label_that_promises_what_we_know_is_held_to_it():
    """Unknown bytes are no PNG; another picture than promised is one nevertheless."""
    assert contradicts(UNKNOWN, "image/png; x=y")
    assert not contradicts(kind_of(JPEG), "image/png")
    assert not contradicts(UNKNOWN, "application/octet-stream")
