"""How large a picture is, read from its first bytes.  It decodes nothing."""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["pixels", "pixels_of"]

HEAD = 256 * 1024
"""Bytes to look at: a JPEG may carry a long profile before its size."""
NO_SIZE = {0xC4, 0xC8, 0xCC}
"""JPEG markers among the frame headers that are none."""


def pixels(path: Path) -> tuple[int, int] | None:
    """Return the width and height of a PNG, JPEG, GIF or WebP file; None for others."""
    try:
        with path.open("rb") as file:
            return pixels_of(file.read(HEAD))
    except OSError:
        return None


def pixels_of(head: bytes) -> tuple[int, int] | None:
    """Return the size that the first bytes of a picture tell, or None."""
    try:
        return _size(head)
    except (struct.error, IndexError):
        return None


def _size(head: bytes) -> tuple[int, int] | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        width, height = struct.unpack(">II", head[16:24])
        return width, height
    if head.startswith((b"GIF87a", b"GIF89a")):
        width, height = struct.unpack("<HH", head[6:10])
        return width, height
    if head.startswith(b"\xff\xd8"):
        return _jpeg(head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    return None


def _jpeg(head: bytes) -> tuple[int, int] | None:
    """Walk the segments to the frame header."""
    at = 2
    while at + 9 < len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NO_SIZE:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        at += 2 + struct.unpack(">H", head[at + 2 : at + 4])[0]
    return None


def _webp(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(head[24:27], "little"),
            1 + int.from_bytes(head[27:30], "little"),
        )
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None
