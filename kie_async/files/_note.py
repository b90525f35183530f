"""What stands beside a ``.part``: of which file it is the beginning."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

from attrs import asdict, frozen

__all__ = ["Note", "read_note", "write_note"]

_LONGEST = 8192  # bytes; an ETag may be long, a note is no more than that and a few words


@frozen
class Note:
    """The ETag (a strong one, or None), the whole length, and when it was written.

    ``boot`` names the run of the machine: after a power failure the length of a file
    says nothing about its bytes, so that a part of an earlier boot is not gone on with.
    """

    etag: str | None
    total: int | None
    boot: str
    mode: int = 0o600

    @classmethod
    def now(cls, etag: str | None, total: int | None) -> Note:
        """Make a note of this boot."""
        return cls(etag, total, _boot())


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux: an old part is trusted, and checked in the end
        return ""


def write_note(path: Path, note: Note) -> int:
    """Write *note*, a new file; return the mode that new files get here.

    This is how the umask is learned: asking for it would change it for all threads.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        mode = os.fstat(descriptor).st_mode & 0o666
        json.dump({**asdict(note), "mode": mode}, file)
    return mode


def read_note(path: Path) -> Note | None:
    """Return the note, or None if there is none that can be trusted."""
    try:
        if path.is_symlink():
            return None
        with path.open("rb") as file:
            told = json.loads(file.read(_LONGEST))
        note = Note(told["etag"], told["total"], told["boot"], told["mode"] & 0o666)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    good = isinstance(note.etag, str | None) and isinstance(note.total, int | None)
    return note if good and note.boot == _boot() else None
