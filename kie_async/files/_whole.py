"""Whether a file goes on to its own end, by its structure.

A host may close a connection early and say nothing; then only the file itself can tell.
Every walk is bounded: it reads headers and jumps over what they measure.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import BinaryIO

from kie_async.files._kinds import Kind

__all__ = ["Verdict", "judge"]

STEPS = 100_000
"""Parts of a file that are looked at; a file with more is taken as it is."""
TAIL = 64 * 1024
"""Bytes from the end in which a JPEG's end is looked for: makers append to it."""


class Verdict(Enum):
    """What the structure says."""

    WHOLE = "whole"
    SHORT = "short"
    UNTOLD = "untold"


def judge(file: BinaryIO, size: int, kind: Kind, *, strict: bool) -> Verdict:
    """Say whether *file*, of *size* bytes, is whole.  Any bytes get a verdict.

    Args:
        file: Open for reading; its position changes.
        size: Its length in bytes.
        kind: What it is by its first bytes.
        strict: Nothing else tells where the file ends: its end must be its last bytes.
    """
    walk = _WALKS.get(kind.form or "")
    return Verdict.UNTOLD if walk is None else walk(file, size, strict)


def _verdict(whole: bool) -> Verdict:
    return Verdict.WHOLE if whole else Verdict.SHORT


def _read(file: BinaryIO, at: int, count: int) -> bytes:
    file.seek(at)
    return file.read(count)


def _png(file: BinaryIO, size: int, strict: bool) -> Verdict:
    """Walk the chunks to IEND."""
    at = 8
    for _ in range(STEPS):
        head = _read(file, at, 8)
        at += 12 + int.from_bytes(head[:4], "big")
        if len(head) < 8 or at > size:
            return Verdict.SHORT
        if head[4:] == b"IEND":
            return Verdict.WHOLE
    return Verdict.UNTOLD


def _jpeg(file: BinaryIO, size: int, strict: bool) -> Verdict:
    tail = _read(file, max(0, size - TAIL), TAIL)
    if strict:
        return _verdict(tail.rstrip(b"\x00\r\n").endswith(b"\xff\xd9"))
    return _verdict(b"\xff\xd9" in tail)


def _gif(file: BinaryIO, size: int, strict: bool) -> Verdict:
    tail = _read(file, max(0, size - 64), 64)
    return _verdict(size > 13 and tail.rstrip(b"\x00\r\n").endswith(b";"))


def _riff(file: BinaryIO, size: int, strict: bool) -> Verdict:
    said = int.from_bytes(_read(file, 4, 4), "little")
    if said in (0, 0xFFFFFFFF):  # written by something that could not go back and tell
        return Verdict.UNTOLD
    return _verdict(size >= said + 8)


def _movie(file: BinaryIO, size: int, strict: bool) -> Verdict:
    """Walk the boxes; there must be an index of the film among them."""
    return _boxes(file, size, {b"moov", b"moof"})


def _picture(file: BinaryIO, size: int, strict: bool) -> Verdict:
    return _boxes(file, size, {b"meta", b"moov"})


def _boxes(file: BinaryIO, size: int, needed: set[bytes]) -> Verdict:
    at, seen = 0, set[bytes]()
    for _ in range(STEPS):
        if at == size:
            return _verdict(bool(needed & seen))
        head = _read(file, at, 16)
        length = int.from_bytes(head[:4], "big")
        least = 8
        if length == 1:
            length, least = int.from_bytes(head[8:16], "big"), 16
        seen.add(head[4:8])
        if length == 0 and len(head) >= 8:  # up to the end, wherever that is
            return Verdict.UNTOLD if needed & seen else Verdict.SHORT
        if length < least or at + length > size:
            return Verdict.SHORT
        at += length
    return Verdict.UNTOLD


def _webm(file: BinaryIO, size: int, strict: bool) -> Verdict:
    """Read the lengths of the header and of the segment after it."""
    head = _read(file, 0, 256)
    length, at = _variable(head, 4)
    if length is None:
        return Verdict.SHORT
    at += length
    if at + 12 > size:
        return Verdict.SHORT
    segment = _read(file, at, 12)
    if segment[:4] != b"\x18\x53\x80\x67":
        return Verdict.UNTOLD
    length, after = _variable(segment, 4)
    return Verdict.UNTOLD if length is None else _verdict(at + after + length <= size)


def _variable(data: bytes, at: int) -> tuple[int | None, int]:
    """Read one of Matroska's numbers; None for "unknown".  Also return where it ends."""
    if at >= len(data) or data[at] == 0:
        return None, at
    width = 9 - data[at].bit_length()
    raw = int.from_bytes(data[at : at + width], "big")
    value = raw & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


_WALKS: dict[str, Callable[[BinaryIO, int, bool], Verdict]] = {
    "png": _png,
    "jpeg": _jpeg,
    "gif": _gif,
    "riff": _riff,
    "movie": _movie,
    "boxes": _picture,
    "webm": _webm,
}
