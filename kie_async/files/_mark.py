"""How a saved file is known again without a list of files.

The nanoseconds of its modification time, which nobody looks at, are a hash of the task,
the number of the result and the size.  They become durable with the file itself, survive
moving and copying with times, and vanish when somebody edits the file: just what they
should.  On a file system with coarse times (FAT) the mark is lost, and the file is
fetched and compared once more.
"""

from __future__ import annotations

import os
import stat
from hashlib import blake2s

__all__ = ["has_a_mark", "is_marked", "marked_time"]

SECOND = 10**9
TICK = 100  # nanoseconds: NTFS keeps no finer times
ITEMS, FAMILY = 10_000, 1_000  # together one second of ticks


def _hash(count: int, *parts: object) -> int:
    text = "\0".join(str(part) for part in parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2s(text, digest_size=8).digest(), "big") % count


def marked_time(seconds: int, size: int, task_id: str, index: int) -> int:
    """Return a modification time in nanoseconds within that second, with the mark."""
    item = _hash(ITEMS, "item", seconds, size, task_id, index)
    return seconds * SECOND + (item * FAMILY + _hash(FAMILY, "kie", seconds, size)) * TICK


def is_marked(found: os.stat_result, task_id: str, index: int) -> bool:
    """True if this is the file that was saved for that result, unchanged in size and time."""
    seconds = found.st_mtime_ns // SECOND
    return (
        stat.S_ISREG(found.st_mode)
        and found.st_mtime_ns // TICK == marked_time(seconds, found.st_size, task_id, index) // TICK
    )


def has_a_mark(found: os.stat_result) -> bool:
    """True if the file was saved for some result; of a thousand other files, for one too."""
    seconds, rest = divmod(found.st_mtime_ns, SECOND)
    family = _hash(FAMILY, "kie", seconds, found.st_size)
    return stat.S_ISREG(found.st_mode) and rest // TICK % FAMILY == family
