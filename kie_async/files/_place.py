"""Moves in a folder that never cover anything."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path

__all__ = ["UNVERIFIED", "free_bytes", "is_same", "moved_to", "sync_folder"]

UNVERIFIED = ".unverified"
"""Stands before the suffix of a file whose end nothing could prove."""

# What file systems without hard links say (FAT, some network shares).
_NO_LINKS = frozenset(
    {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}
)
_BLOCK = 2**20


def moved_to(path: Path, final: Path) -> bool:
    """Give *path* the name *final* (the old one may stay); False if that is taken."""
    try:
        os.link(path, final)  # atomic, and fails where something is
    except FileExistsError:
        return False
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LINKS:
            raise
        # Between the look and the move is a gap, on such file systems only.
        if os.path.lexists(final):
            return False
        path.rename(final)
    return True


def is_same(one: Path, other: Path) -> bool:
    """True if both are plain files with the same bytes."""
    if other.is_symlink() or not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(_BLOCK):
            if block != right.read(_BLOCK):
                return False
    return True


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* durable, where the system can."""
    with contextlib.suppress(PermissionError, IsADirectoryError):  # Windows opens no folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno not in _NO_LINKS:  # some network shares sync no folder
                raise
        finally:
            os.close(descriptor)


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of *folder* has."""
    return shutil.disk_usage(folder).free
