"""Real pictures: drawn for a source task, and really enlarged for its upscale."""

from __future__ import annotations

import math
import random
import struct
import zlib

__all__ = ["draw", "enlarge", "png"]

Rows = list[bytes]
WIDTH, HEIGHT = 240, 135


def draw(seed: str) -> Rows:
    """Draw a small evening landscape, another for each seed; rows of RGB bytes."""
    rng = random.Random(seed)  # noqa: S311 - a picture, not a secret
    hue = rng.random() * 6.28
    sun = (rng.uniform(40, 200), rng.uniform(30, 70), rng.uniform(9, 16))
    hills = [
        (rng.uniform(0.01, 0.03), rng.uniform(0, 6.28), rng.uniform(6, 14), 80 + 17 * n)
        for n in range(3)
    ]
    return [bytes(_row(y, hue, sun, hills)) for y in range(HEIGHT)]


def _row(
    y: int,
    hue: float,
    sun: tuple[float, float, float],
    hills: list[tuple[float, float, float, int]],
) -> bytearray:
    row = bytearray()
    height = y / HEIGHT
    sky = [int(120 + 90 * math.sin(hue + c * 1.1 + height * 1.8)) for c in range(3)]
    for x in range(WIDTH):
        pixel = sky
        distance = math.hypot(x - sun[0], y - sun[1])
        if distance < sun[2]:
            pixel = [255, 236, 200]
        elif distance < sun[2] * 3:
            glow = 1 - (distance / sun[2] - 1) / 2
            pixel = [int(s + (255 - s) * glow * 0.5) for s in sky]
        for n, (wave, phase, size, base) in enumerate(hills):
            if y > base + size * math.sin(x * wave * 3 + phase):
                pixel = [max(0, int(s * (0.62 - 0.17 * n))) for s in sky]
        row += bytes(min(255, max(0, value)) for value in pixel)
    return row


def enlarge(rows: Rows, factor: int) -> Rows:
    """Return the picture *factor* times as large, with straight lines between pixels."""
    wide = [_stretch(row, factor) for row in rows]
    tall: Rows = []
    for above, below in zip(wide, [*wide[1:], wide[-1]], strict=True):
        for step in range(factor):
            part = 256 * step // factor
            keep = 256 - part
            tall.append(
                above
                if not part
                else bytes((a * keep + b * part) >> 8 for a, b in zip(above, below, strict=True))
            )
    return tall


def _stretch(row: bytes, factor: int) -> bytes:
    pixels = [row[i : i + 3] for i in range(0, len(row), 3)]
    wide = bytearray()
    for here, there in zip(pixels, [*pixels[1:], pixels[-1]], strict=True):
        for step in range(factor):
            part = 256 * step // factor
            keep = 256 - part
            wide += bytes((a * keep + b * part) >> 8 for a, b in zip(here, there, strict=True))
    return bytes(wide)


def png(rows: Rows) -> bytes:
    """Pack rows of RGB bytes as a PNG."""
    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\x00" + row for row in rows), 6)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", pixels)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
