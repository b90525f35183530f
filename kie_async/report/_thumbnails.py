"""Small pictures of the results, so that ten thousand of them open at once."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kie_async.report._gather import Entry

__all__ = ["add_thumbnails", "can_make_thumbnails"]

SIZE = 240
"""Pixels of the longer side: what a tile shows on a usual screen."""
BUDGET = 24 * 2**20
"""Bytes of all thumbnails of a page together."""
LARGEST = 200_000_000
"""Pixels of a picture that is still opened: a small file can claim any size."""


def can_make_thumbnails() -> bool:
    """True if Pillow is installed (extra ``[report]``)."""
    try:
        import PIL.Image  # noqa: F401 - reason: only whether it is there
    except ImportError:
        return False
    return True


def add_thumbnails(
    entries: Sequence[Entry],
    *,
    budget: int = BUDGET,
    tell: Callable[[int], object] = lambda _: None,
) -> int:
    """Add a thumbnail to each entry with a picture, the last ones first; return how many.

    Blocking: some milliseconds a picture, on all cores.  A file that is no picture gets
    none.  When the budget of bytes is used up, the rest show their files themselves.

    Args:
        entries: What to add them to.
        budget: Bytes for all of them together.
        tell: Called with the number done so far.
    """
    todo = [entry for entry in reversed(entries) if entry.kind == "picture"]
    made = used = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(todo), 256):  # by parts: memory, and an end when it is full
            part = todo[start : start + 256]
            for entry, small in zip(part, pool.map(_thumbnail, part), strict=True):
                if small is None or used + len(small[0]) > budget:
                    continue
                entry.thumbnail, entry.ratio = small
                used += len(entry.thumbnail)
                made += 1
            tell(start + len(part))
            if used > budget * 0.98:
                break
    return made


def _thumbnail(entry: Entry) -> tuple[bytes, float] | None:
    return _shrunk(entry.files[0])


def _shrunk(path: Path) -> tuple[bytes, float] | None:
    """Return a WebP of at most `SIZE` pixels, and the picture's width by height."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = image.size
            if not 0 < width * height <= LARGEST:
                return None
            image.draft("RGB", (SIZE * 2, SIZE * 2))  # a JPEG is decoded small at once
            image.thumbnail((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0)
            small = io.BytesIO()
            image.convert("RGB").save(small, "WEBP", quality=55, method=2)
    except Exception:  # noqa: BLE001 - reason: a decoder raises anything on a bad file
        return None
    return small.getvalue(), width / height
