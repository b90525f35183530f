"""A file on its way: written beside its place, synced, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path

from kie_async.errors import DownloadError, StorageFullError
from kie_async.files._kinds import HEAD, TAIL

__all__ = ["Part"]


class Part:
    """The ``.part`` of one file.  Every method may block; call it in a thread.

    Its name follows from the final one, so that a later run finds and resumes it; the tag
    of what it holds stands in a file beside it.
    """

    def __init__(self, directory: Path, stem: str) -> None:
        """Name it; nothing is opened."""
        self.path = directory / f"{stem}.part"
        self._tag_path = directory / f"{stem}.part.etag"

    def size(self) -> int:
        """Return how many bytes are there; a link in its place counts as nothing."""
        if self.path.is_symlink():
            self.path.unlink()
        return self.path.stat().st_size if self.path.is_file() else 0

    def tag(self) -> str | None:
        """Return the ETag of what is there, if it is a strong one."""
        with contextlib.suppress(OSError):
            tag = self._tag_path.read_text()
            return tag if tag.startswith('"') else None
        return None

    def start(self, tag: str | None) -> None:
        """Begin anew."""
        _checked(self._write, b"", os.O_TRUNC)
        if tag and tag.startswith('"') and tag.isascii():
            _checked(self._tag_path.write_text, tag)
        else:
            self._tag_path.unlink(missing_ok=True)

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        _checked(self._write, data, os.O_APPEND)

    def _write(self, data: bytes, flags: int) -> None:
        flags |= os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(self.path, flags, 0o600), "wb") as file:
            file.write(data)

    def ends(self) -> tuple[bytes, bytes]:
        """Return the first and the last bytes."""
        with self.path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, self.path.stat().st_size - TAIL))
            return head, file.read()

    def drop(self) -> None:
        """Remove it."""
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)

    def finish(self, final: Path) -> Path:
        """Sync it, move it to *final*, sync the folder.

        A file that is there already stays: if it is the same, it is the result, else a
        DownloadError says so.
        """
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        try:
            os.link(self.path, final, follow_symlinks=False)  # fails where something is
        except FileExistsError:
            if final.is_symlink() or not _same(self.path, final):
                raise DownloadError(
                    f"{final} exists and is another file: move it, or choose another --name",
                    retryable=False,
                ) from None
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV):
                raise
            if final.exists() or final.is_symlink():
                raise DownloadError(f"{final} exists: move it", retryable=False) from None
            self.path.rename(final)
        _sync_folder(final.parent)
        final.chmod(0o644)
        self.drop()
        return final


def _same(one: Path, other: Path) -> bool:
    if not other.is_file() or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while block := left.read(1 << 20):
            if block != right.read(1 << 20):
                return False
    return True


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some systems cannot open a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked(work: Callable[..., object], *args: object) -> None:
    """Do *work*; a full disk is said plainly, and what was written stays."""
    try:
        work(*args)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text = "the disk is full: make room and run the same again"
            raise StorageFullError(text) from None
        raise DownloadError(
            f"a file cannot be written ({error.strerror}): choose another folder", retryable=False
        ) from None
