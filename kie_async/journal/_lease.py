"""Who holds a journal: the operating system's lock, and a few words for people.

The lock on ``<journal>.lock`` is the truth: it goes with its process, so a dead holder
is never mistaken for a living one, whatever number its process had.  The file also keeps
how many commits were made.  A journal that knows of fewer than that has lost some: its
``-wal`` file was removed or damaged, or an old copy was put in its place.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
import uuid
import weakref
from pathlib import Path

from attrs import frozen

from kie_async.errors import JournalError, JournalLockedError

__all__ = ["Lease", "Owner", "current_owner", "recorded_commits"]

_LINE = re.compile(rb"([0-9a-f]{32}) (\d{20})\n")
_HOLDER_AT = 54  # bytes of the line above: 32 + 1 + 20 + 1
_LOCKED_BYTE = 1 << 20  # Windows locks are mandatory: far from what others read


@frozen(kw_only=True)
class Owner:
    """A process: the same pid on another machine or after a reboot is another one."""

    host: str
    pid: int
    boot_id: str


def current_owner() -> Owner:
    """Return who we are."""
    return Owner(host=platform.node() or "unknown", pid=os.getpid(), boot_id=_boot_id())


def _boot_id() -> str:
    with contextlib.suppress(OSError):  # Linux only; elsewhere the lock alone has to do
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return "unknown"


class Lease:
    """The right to write a journal, for as long as this process lives.

    Args:
        journal: Path of the journal; the lock is a file beside it and stays there.
    """

    def __init__(self, journal: Path) -> None:
        """Take nothing yet."""
        self.path = lock_path(journal)
        self._fd: int | None = None

    def take(self) -> None:
        """Take the lock, at once or not at all.

        Raises:
            JournalLockedError: Another process has it.
            JournalError: The lock file cannot be made.
        """
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            fd = os.open(self.path, flags, 0o600)
        except OSError as exc:
            raise JournalError(f"{self.path}: the lock cannot be made: {exc.strerror}") from exc
        self._fd = fd
        _taken.add(self)
        try:
            _lock(fd)
        except OSError:
            holder = _read(fd, _HOLDER_AT + 400)[_HOLDER_AT:].decode("utf-8", "replace").strip()
            self.release()
            raise JournalLockedError(
                f"another run holds this journal: {holder or 'unknown process'} ({self.path})"
            ) from None

    def name_holder(self, owner: Owner, since: str) -> None:
        """Write for people who holds the lock; never read to decide anything."""
        text = f"host {owner.host}, process {owner.pid}, boot {owner.boot_id}, since {since}\n"
        fd = self._held()
        if not _LINE.match(_read(fd, _HOLDER_AT)):
            self.record(uuid.UUID(int=0).hex, 0)
        os.ftruncate(fd, _HOLDER_AT)
        _write(fd, text.encode(), _HOLDER_AT)

    def record(self, journal_id: str, commits: int) -> None:
        """Note that *commits* are durable.  Not synced: it may only lag behind."""
        _write(self._held(), b"%s %020d\n" % (journal_id.encode(), commits), 0)

    def release(self) -> None:
        """Give the lock back; harmless when there is none."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _held(self) -> int:
        if self._fd is None:
            raise JournalError("the journal's lock is not held")
        return self._fd


_taken: weakref.WeakSet[Lease] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked child: the lock would stay for as long as its copy of the file is open.

    To close it there takes nothing from the parent.
    """
    for lease in list(_taken):
        lease.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)


def lock_path(journal: Path) -> Path:
    """Return where the lock of *journal* is."""
    return journal.with_name(journal.name + ".lock")


def recorded_commits(journal: Path) -> tuple[str, int] | None:
    """Return the journal id and the commits that the lock file knows of, if it does."""
    try:
        with lock_path(journal).open("rb") as file:
            found = _LINE.match(file.read(_HOLDER_AT))
    except OSError:
        return None
    return (found[1].decode(), int(found[2])) if found else None


if sys.platform == "win32":  # pragma: no cover - reason: not run here
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _read(fd: int, size: int) -> bytes:
        os.lseek(fd, 0, os.SEEK_SET)
        return os.read(fd, size)

    def _write(fd: int, data: bytes, offset: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        os.write(fd, data)
else:
    import fcntl

    def _lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _read(fd: int, size: int) -> bytes:
        return os.pread(fd, size, 0)

    def _write(fd: int, data: bytes, offset: int) -> None:
        os.pwrite(fd, data, offset)
