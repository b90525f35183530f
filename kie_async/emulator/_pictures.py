"""Real pictures: drawn for a source task, and really enlarged for its upscale.

Nothing but the standard library.  Rows are worked on as one big number each, with a lane
for every byte, so that the interpreter's own arithmetic does a row at a time.
"""

from __future__ import annotations

import math
import random
import struct
import zlib
from collections.abc import Sequence

__all__ = ["draw", "enlarge", "png"]

Rows = list[bytes]
Colour = tuple[float, float, float]
WIDTH, HEIGHT = 240, 135
HORIZON = 92

# Sky above, sky at the horizon, far hills, near hills, sun.
PALETTES: tuple[tuple[Colour, Colour, Colour, Colour, Colour], ...] = (
    ((38, 34, 92), (250, 150, 110), (120, 80, 130), (28, 22, 54), (255, 236, 190)),
    ((64, 130, 190), (250, 226, 180), (120, 150, 170), (30, 66, 74), (255, 252, 230)),
    ((18, 28, 58), (96, 130, 160), (60, 84, 118), (12, 20, 40), (240, 244, 255)),
    ((120, 60, 110), (255, 186, 120), (168, 92, 110), (56, 24, 52), (255, 240, 200)),
    ((40, 110, 120), (220, 240, 200), (110, 160, 140), (24, 60, 58), (255, 255, 220)),
    ((90, 30, 60), (250, 120, 70), (150, 60, 66), (40, 14, 32), (255, 220, 150)),
)


def draw(seed: str) -> Rows:
    """Draw a lake before hills at dusk, another for each *seed*; rows of RGB bytes."""
    rng = random.Random(seed)  # noqa: S311 - a picture, not a secret
    high, low, far, near, light = rng.choice(PALETTES)
    sun = (rng.uniform(50, 190), rng.uniform(28, 70), rng.uniform(7, 13))
    ridges = [_ridge(rng, HORIZON - 34 + 13 * n, 15 - 3 * n) for n in range(4)]
    shades = [_mix(far, near, n / 3) for n in range(4)]
    stars = {(rng.randrange(WIDTH), rng.randrange(50)) for _ in range(28)}
    rows = []
    for y in range(HORIZON):
        sky = _mix(high, low, (y / HORIZON) ** 1.4)
        rows.append(_land(y, sky, light, sun, ridges, shades, stars))
    return rows + [_water(rows, y, near, rng) for y in range(HORIZON, HEIGHT)]


def _ridge(rng: random.Random, base: float, size: float) -> list[float]:
    """Return the height of a range of hills at every x: waves upon waves."""
    waves = [
        (rng.uniform(0.8, 1.4) * 0.025 * 2.1**n, rng.uniform(0, math.tau), size / 1.9**n)
        for n in range(4)
    ]
    return [base + sum(s * math.sin(x * f + p) for f, p, s in waves) for x in range(WIDTH)]


def _land(
    y: int,
    sky: Colour,
    light: Colour,
    sun: tuple[float, float, float],
    ridges: Sequence[Sequence[float]],
    shades: Sequence[Colour],
    stars: set[tuple[int, int]],
) -> bytes:
    """Draw a row above the water: sky, sun and its glow, and the hills before them."""
    row = bytearray()
    for x in range(WIDTH):
        depths = [y - ridge[x] for ridge in ridges]
        solid = next((n for n in (3, 2, 1, 0) if depths[n] >= 1), -1)
        pixel = shades[solid] if solid >= 0 else _sky(x, y, sky, light, sun, stars)
        for n in range(solid + 1, 4):
            if depths[n] > 0:  # the edge of a hill covers a part of the pixel: no steps
                pixel = _mix(pixel, shades[n], depths[n])
        row += bytes((int(pixel[0]), int(pixel[1]), int(pixel[2])))
    return bytes(row)


def _sky(
    x: int,
    y: int,
    sky: Colour,
    light: Colour,
    sun: tuple[float, float, float],
    stars: set[tuple[int, int]],
) -> Colour:
    """Return the colour of a point of the sky."""
    across, up, radius = sun
    distance, reach = math.hypot(x - across, y - up), radius * 7
    if distance >= reach:
        return _mix(sky, light, 0.45) if (x, y) in stars else sky
    glow = _mix(sky, light, 0.55 * (1 - distance / reach) ** 2)
    disc = radius - distance + 0.5
    return _mix(glow, light, min(1.0, disc)) if disc > 0 else glow


def _water(rows: Rows, y: int, deep: Colour, rng: random.Random) -> bytes:
    """Draw a row of water: what is above it, upside down, darker, and moved by ripples."""
    depth = y - HORIZON
    mirrored = rows[max(0, HORIZON - 1 - int(depth * 1.9))]
    shift = 3 * int(math.sin(depth * 1.7) * (1 + depth * 0.06) + rng.uniform(-0.6, 0.6))
    moved = mirrored[shift:] + mirrored[:shift]
    share = 0.22 + 0.4 * depth / (HEIGHT - HORIZON)
    tables = [_tinted(deep[c], share) for c in range(3)]
    row = bytearray(len(moved))
    for c in range(3):
        row[c::3] = moved[c::3].translate(tables[c])
    return bytes(row)


def _tinted(deep: float, share: float) -> bytes:
    return bytes(int(value * (1 - share) + deep * share) for value in range(256))


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    keep = 1 - share
    return (
        a[0] * keep + b[0] * share,
        a[1] * keep + b[1] * share,
        a[2] * keep + b[2] * share,
    )


# -- enlarging ----------------------------------------------------------------------------


def enlarge(rows: Rows, factor: int) -> Rows:
    """Return the picture *factor* times as large, by cubic interpolation (Catmull-Rom)."""
    kernels = [_kernel((step + 0.5) / factor - 0.5) for step in range(factor)]
    tall = _between(rows, kernels)
    return [_widened(row, kernels) for row in tall]


def _kernel(offset: float) -> tuple[int, tuple[int, int, int, int]]:
    """Return where the four neighbours begin, and their weights in 256ths."""
    begin, t = (-2, offset + 1) if offset < 0 else (-1, offset)
    exact = (
        (-(t**3) + 2 * t**2 - t) / 2,
        (3 * t**3 - 5 * t**2 + 2) / 2,
        (-3 * t**3 + 4 * t**2 + t) / 2,
        (t**3 - t**2) / 2,
    )
    first, second, third, fourth = (round(weight * 256) for weight in exact)
    return begin, (first, second + 256 - first - second - third - fourth, third, fourth)


def _between(rows: Rows, kernels: Sequence[tuple[int, tuple[int, int, int, int]]]) -> Rows:
    """Return rows between the rows."""
    lanes = [_lanes(row) for row in rows]
    last, length = len(rows) - 1, len(rows[0])
    made = []
    for y in range(len(rows)):
        for begin, weights in kernels:
            near = [lanes[min(last, max(0, y + begin + n))] for n in range(4)]
            made.append(_weighted(near, weights, length))
    return made


def _widened(row: bytes, kernels: Sequence[tuple[int, tuple[int, int, int, int]]]) -> bytes:
    """Return a row with pixels between its pixels."""
    length, factor = len(row), len(kernels)
    padded = row[:3] * 2 + row + row[-3:] * 2
    lanes = [_lanes(padded[3 * n : 3 * n + length]) for n in range(5)]
    wide = bytearray(length * factor)
    for step, (begin, weights) in enumerate(kernels):
        between = _weighted([lanes[begin + 2 + n] for n in range(4)], weights, length)
        for c in range(3):
            wide[3 * step + c :: 3 * factor] = between[c::3]
    return bytes(wide)


def _lanes(row: bytes) -> int:
    """Return a row as one number, 32 bits for each byte."""
    spread = bytearray(4 * len(row))
    spread[::4] = row
    return int.from_bytes(spread, "little")


# A byte of 8 bits comes out of a lane as its second byte; the third says if it overflowed:
# 256 are added to every lane so that none is ever below zero.
_INSIDE = bytes(255 if high == 1 else 0 for high in range(256))
_ABOVE = bytes(255 if high > 1 else 0 for high in range(256))


def _weighted(near: Sequence[int], weights: Sequence[int], length: int) -> bytes:
    """Return the weighted sum of four rows, kept between 0 and 255."""
    total = int.from_bytes(b"\x80\x00\x01\x00" * length, "little")  # 256, and half a step
    for lanes, weight in zip(near, weights, strict=True):
        total += lanes * weight
    data = total.to_bytes(4 * length + 1, "little")
    low, high = data[1 : 4 * length : 4], data[2 : 4 * length : 4]
    inside = int.from_bytes(low, "little") & int.from_bytes(high.translate(_INSIDE), "little")
    above = int.from_bytes(high.translate(_ABOVE), "little")
    return (inside | above).to_bytes(length, "little")


# -- PNG ----------------------------------------------------------------------------------


def png(rows: Rows) -> bytes:
    """Pack rows of RGB bytes as a PNG."""
    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    before = bytes(len(rows[0]))
    filtered = bytearray()
    for row in rows:
        filtered += b"\x02" + _less(row, before)  # each as its difference to the one above
        before = row
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(filtered), 6))
        + _chunk(b"IEND", b"")
    )


def _less(row: bytes, above: bytes) -> bytes:
    """Return *row* less *above*, each byte modulo 256."""
    length = len(row)
    wide, other = bytearray(b"\x00\x01" * length), bytearray(2 * length)
    wide[::2], other[::2] = row, above
    left = int.from_bytes(wide, "little") - int.from_bytes(other, "little")
    return left.to_bytes(2 * length, "little")[::2]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
