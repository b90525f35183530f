"""What a file is, by its own first bytes, and whether an error page stands in its place."""

from __future__ import annotations

from attrs import frozen

__all__ = ["HEAD", "SUFFIXES", "UNKNOWN", "Kind", "contradicts", "kind_of", "looks_like_a_page"]

HEAD = 512
"""Bytes from the beginning that tell the kind."""


@frozen
class Kind:
    """A kind of file: its suffix, and the form that its end is known by, if any."""

    suffix: str
    form: str | None = None


UNKNOWN = Kind(".bin")

_STARTS = (
    (b"\x89PNG\r\n\x1a\n", Kind(".png", "png")),
    (b"\xff\xd8\xff", Kind(".jpg", "jpeg")),
    (b"GIF87a", Kind(".gif", "gif")),
    (b"GIF89a", Kind(".gif", "gif")),
    (b"\x1aE\xdf\xa3", Kind(".webm", "webm")),
    (b"ID3", Kind(".mp3")),
    (b"\xff\xfb", Kind(".mp3")),
    (b"\xff\xf3", Kind(".mp3")),
    (b"\xff\xf2", Kind(".mp3")),
    (b"OggS", Kind(".ogg")),
    (b"fLaC", Kind(".flac")),
)
_RIFF = {
    b"WEBP": Kind(".webp", "riff"),
    b"WAVE": Kind(".wav", "riff"),
    b"AVI ": Kind(".avi", "riff"),
}
_BRANDS = {
    b"qt  ": Kind(".mov", "movie"),
    b"avif": Kind(".avif", "boxes"),
    b"avis": Kind(".avif", "boxes"),
    b"heic": Kind(".heic", "boxes"),
    b"mif1": Kind(".heic", "boxes"),
    b"M4A ": Kind(".m4a", "movie"),
}
_MP4 = Kind(".mp4", "movie")
_BOXES = frozenset({b"moov", b"mdat", b"free", b"skip", b"wide", b"styp"})

SUFFIXES = tuple(
    dict.fromkeys(
        kind.suffix
        for kind in (*(k for _, k in _STARTS), *_RIFF.values(), _MP4, *_BRANDS.values(), UNKNOWN)
    )
)
"""Every suffix that a saved file can have."""

# Content types whose files begin in a way that we know.
_KNOWN_TYPES = frozenset(
    {
        "image/png",
        "image/jpeg",
        "image/gif",
        "image/webp",
        "image/avif",
        "video/mp4",
        "video/quicktime",
        "video/webm",
    }
)
_PAGE_TYPES = frozenset(
    {"text/html", "text/xml", "application/xml", "application/json", "application/xhtml+xml"}
)
_PAGE_STARTS = (b"<!doctype", b"<html", b"<?xml", b"<error", b"<head", b"<body", b'{"', b"{\n")


def kind_of(head: bytes) -> Kind:
    """Tell the kind by the first bytes; ``.bin`` if it is unknown."""
    for start, kind in _STARTS:
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], _MP4)
    if head[4:8] in _BOXES and len(head) >= 8:
        return _MP4
    return UNKNOWN


def looks_like_a_page(head: bytes, content_type: str) -> bool:
    """True for an error page in the place of a file; its own bytes outvote its label."""
    if kind_of(head) is not UNKNOWN:
        return False
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    return start.startswith(_PAGE_STARTS) or _plain(content_type) in _PAGE_TYPES


def contradicts(kind: Kind, content_type: str) -> bool:
    """True if the label promises a kind that we know, and the bytes are nothing we know.

    Another known kind than the promised one is taken as what it is: hosts mix up their
    pictures, and the suffix follows from the content.
    """
    return kind is UNKNOWN and _plain(content_type) in _KNOWN_TYPES


def _plain(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
