"""What a file is, by its own bytes, and whether it came to its end."""

from __future__ import annotations

from attrs import frozen

__all__ = ["HEAD", "TAIL", "Kind", "kind_of", "looks_like_a_page", "unfinished"]

HEAD = 512
"""Bytes from the beginning that tell the kind."""
TAIL = 16
"""Bytes from the end that tell whether it is whole."""


@frozen
class Kind:
    """A kind of file: its suffix, and the bytes that end it (None if nothing does)."""

    suffix: str
    ending: bytes | None = None


_PNG = Kind(".png", b"IEND\xaeB`\x82")
_JPEG = Kind(".jpg", b"\xff\xd9")
_GIF = Kind(".gif", b";")
_WEBP = Kind(".webp")
_WAV = Kind(".wav")
_MP4 = Kind(".mp4")
_MOV = Kind(".mov")
_WEBM = Kind(".webm")
_MP3 = Kind(".mp3")
_UNKNOWN = Kind(".bin")


def kind_of(head: bytes) -> Kind:
    """Tell the kind by the first bytes; ``.bin`` if it is unknown."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _PNG
    if head.startswith(b"\xff\xd8\xff"):
        return _JPEG
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _GIF
    if head[:4] == b"RIFF":
        return _WEBP if head[8:12] == b"WEBP" else _WAV
    if head[4:8] == b"ftyp":
        return _MOV if head[8:10] == b"qt" else _MP4
    if head.startswith(b"\x1aE\xdf\xa3"):
        return _WEBM
    if head.startswith((b"ID3", b"\xff\xfb", b"\xff\xf3")):
        return _MP3
    return _UNKNOWN


def looks_like_a_page(head: bytes, content_type: str) -> bool:
    """True for an error page in the place of a file."""
    start = head.lstrip()[:64].lower()
    said = content_type.partition(";")[0].strip().lower()
    if said.startswith(("image/", "video/", "audio/")) and kind_of(head) is not _UNKNOWN:
        return False
    return start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error", b'{"')) or said in {
        "text/html",
        "text/xml",
        "application/xml",
        "application/json",
    }


def unfinished(kind: Kind, head: bytes, tail: bytes, size: int) -> bool:
    """True if the bytes say that more should have come."""
    if kind.ending is not None:
        return not tail.rstrip(b"\x00\r\n").endswith(kind.ending)
    if head[:4] == b"RIFF" and len(head) >= 8:
        return size < int.from_bytes(head[4:8], "little") + 8
    return False
