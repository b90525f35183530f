"""The journal as a file: is it one of ours, and is there room?

Reads a few bytes and judges; a file that is refused is left as it is.  Nothing here
knows what the rows mean.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from kie_async.errors import (
    JournalCorruptError,
    JournalError,
    JournalTooNewError,
    StorageFullError,
)
from kie_async.journal._schema import APPLICATION_ID

__all__ = [
    "Ballast",
    "beside",
    "check_path",
    "check_version",
    "refuse_newer",
    "shut_out",
    "sync_directory",
    "warn_if_remote",
]

logger = logging.getLogger("kie_async.journal")

BALLAST_SIZE = 1 << 20
"""Bytes kept free for the outcomes of running creates: about 80 commits of their own."""

_MAGIC = b"SQLite format 3\x00"
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "lustre"}


def beside(journal: Path, ending: str) -> Path:
    """Return the path of a companion: ``run.db`` and ``-wal`` give ``run.db-wal``."""
    return journal.with_name(journal.name + ending)


def check_path(path: Path) -> bool:
    """Return True if there is a file that may be a journal, False if there is nothing.

    Raises:
        JournalError: It is a link or no regular file, or its directory is missing.
        JournalCorruptError: The file is gone and its ``-wal`` file is left.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise JournalError(f"{path}: there is no directory {path.parent}") from None
        if beside(path, "-wal").exists():
            raise JournalCorruptError(
                f"{path} is missing while its -wal file is there: put the journal back"
            ) from None
        return False
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}") from exc
    if stat.S_ISLNK(mode):
        raise JournalError(f"{path} is a symbolic link: name the journal itself")
    if not stat.S_ISREG(mode):
        raise JournalError(f"{path} is no regular file")
    return True


def check_version(path: Path, newest: int) -> int:
    """Return the schema version in the file's header, by reading 100 bytes.

    Raises:
        JournalCorruptError: The file is empty, cut, or no journal of ours.
        JournalTooNewError: A later version of this package wrote it.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as exc:
        raise JournalError(f"{path} cannot be read: {exc.strerror}") from exc
    if len(header) < 100:
        what = "is empty" if not header else "is cut off"
        raise JournalCorruptError(f"{path} {what}: it is no journal, or was damaged")
    if not header.startswith(_MAGIC):
        raise JournalCorruptError(f"{path} is no SQLite file: it is no journal, or was damaged")
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise JournalCorruptError(f"{path} is an SQLite file of another program, or was damaged")
    version = int.from_bytes(header[60:64], "big")
    refuse_newer(path, version, newest)
    return version


def refuse_newer(path: Path, version: int, newest: int) -> None:
    """Refuse a schema version that this package does not know.

    Raises:
        JournalTooNewError: A later version of this package wrote the file.
    """
    if version > newest:
        raise JournalTooNewError(
            f"{path} has schema version {version}; this package knows up to {newest}: update it"
        )


def shut_out(path: Path) -> None:
    """Take everybody's rights from the journal and what lies beside it; a group keeps its own."""
    if os.name != "posix":
        return
    for ending in ("", "-wal", "-shm", ".lock", ".ballast"):
        file = beside(path, ending)
        with contextlib.suppress(OSError):  # it is not there, or not ours to change
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                mode = stat.S_IMODE(os.fstat(fd).st_mode)
                if mode & stat.S_IRWXO:
                    os.fchmod(fd, mode & ~stat.S_IRWXO)
                    logger.warning("%s was open to everybody; it is not any more", file)
            finally:
                os.close(fd)


def sync_directory(directory: Path) -> None:
    """Make a new name in *directory* durable, where directories can be synced."""
    with contextlib.suppress(OSError):  # not on Windows, and not on every file system
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def warn_if_remote(path: Path) -> None:
    """Log a warning if *path* is on a network file system (Linux; elsewhere nothing)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        device = path.parent.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == wanted and right.split()[0] in _REMOTE:
                logger.warning(
                    "%s is on a network file system: its locks and syncs may not hold, "
                    "and then tasks can be paid for twice; use a local disk",
                    path,
                )
                return


class Ballast:
    """A file of no use that is deleted when the disk is full, so that outcomes fit.

    Args:
        journal: Path of the journal; the ballast lies beside it.
    """

    def __init__(self, journal: Path) -> None:
        """Remember where it goes."""
        self.path = beside(journal, ".ballast")

    def fill(self) -> None:
        """Make the file, or use the one that an earlier run left.

        Raises:
            StorageFullError: There is not even room for it.
        """
        with contextlib.suppress(OSError):
            if self.path.lstat().st_size == BALLAST_SIZE:
                return
        try:
            self.drop()
            fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(os.urandom(BALLAST_SIZE))  # zeros may take no room at all
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            self.drop()
            raise StorageFullError(
                f"{self.path}: no room for {BALLAST_SIZE} bytes of reserve: {exc.strerror}"
            ) from exc

    def drop(self) -> None:
        """Delete the file; harmless when it is gone."""
        with contextlib.suppress(OSError):
            self.path.unlink()
