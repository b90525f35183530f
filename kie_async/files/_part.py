"""A file on its way: written beside its place, checked, synced, then moved into it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from attrs import frozen

from kie_async.errors import DownloadError, StorageFullError
from kie_async.files._kinds import HEAD, SUFFIXES, contradicts, kind_of, looks_like_a_page
from kie_async.files._mark import has_a_mark, is_marked, marked_time
from kie_async.files._names import other_stem, short_hash
from kie_async.files._note import Note, read_note, write_note
from kie_async.files._place import UNVERIFIED, free_bytes, is_same, moved_to, sync_folder
from kie_async.files._whole import Verdict, judge

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # reason: Windows has none; there two runs into one folder are not kept apart
    flock = None  # type: ignore[assignment]  # reason: the absence is asked for below

_ENDINGS = (*SUFFIXES, *(UNVERIFIED + suffix for suffix in SUFFIXES))

__all__ = ["Part", "Progress", "UnfitError"]

_FLAGS = (
    os.O_RDWR
    | os.O_CREAT
    | os.O_APPEND
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe in its place must not stop us
    | getattr(os, "O_BINARY", 0)
)
_EARLY = 2**20  # bytes


class UnfitError(Exception):
    """What came is not the file; it was thrown away.  ``page``: an error page came."""

    def __init__(self, why: str, *, page: bool = False) -> None:
        super().__init__(why)
        self.page = page


@frozen
class Progress:
    """How far an earlier try came: bytes, their ETag, and how many there are in all."""

    offset: int = 0
    etag: str | None = None
    total: int | None = None

    @property
    def complete(self) -> bool:
        """True if nothing is missing but the last steps."""
        return self.total is not None and self.offset == self.total > 0


class Part:
    """The ``.part`` of one result.  Every method may block; call it in a thread.

    Its name follows from the task and the final name, so that a later run finds and
    resumes it.  A note beside it tells what it holds.
    """

    def __init__(self, directory: Path, stem: str, task_id: str, index: int) -> None:
        """Name it; nothing is opened."""
        self._directory = directory
        self._stem = stem
        self._item = (task_id, index)
        self.path = directory / f"{stem}.{short_hash(task_id, index)}.part"
        self._note_path = self.path.with_name(f"{self.path.name}.json")
        self._mode = 0o600
        self._fd = -1
        self._ours = False

    def found(self) -> Path | None:
        """Return the file if it was saved before, without any request."""
        for stem in self._stems():
            base, taken = os.fspath(self._directory / stem), False
            for suffix in _ENDINGS:  # plain calls: this is done for every file of a run
                try:
                    status = os.lstat(base + suffix)
                except FileNotFoundError:
                    continue
                if is_marked(status, *self._item):
                    self._end_the_move()
                    return Path(base + suffix)
                taken = True
            if not taken:  # then it had no reason to take the other name
                break
        return None

    def claim(self) -> Path | None:
        """Make the folder and `open`; or return the file, if it was saved before."""
        self._directory.mkdir(parents=True, exist_ok=True)
        there = self.found()
        if there is None:
            self.open()
            if os.fstat(self._fd).st_size:
                return None  # begun, so nobody has finished it
            there = self.found()  # another run may have ended between the look and the lock
        return there

    def open(self) -> None:
        """Open it, or make it; from now on it is ours alone.

        Raises:
            DownloadError: Another run is at it, or something else has its name.
        """
        for _ in range(5):
            try:
                self._fd = os.open(self.path, _FLAGS, 0o600)
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.EMLINK):
                    raise
                self.path.unlink()  # a link: removed, never followed
                continue
            if self._claimed():
                self._ours = True
                return
            self.close()
        raise DownloadError(f"{self.path.name} is being saved by another run")

    def _claimed(self) -> bool:
        """True if the open file is a plain one, locked, and still the one of that name."""
        mine = os.fstat(self._fd)
        if not stat.S_ISREG(mine.st_mode):
            raise DownloadError(f"{self.path} is no file: move it", retryable=False)
        if flock is not None:
            try:
                flock(self._fd, LOCK_EX | LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    return False
                # some network file systems have no locks: then two runs are not kept apart
        if mine.st_nlink > 1:  # a second name of a finished file: writing would ruin that
            self.path.unlink()
            return False
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(mine, self.path.lstat())
        return False

    def progress(self) -> Progress:
        """Return how far it is, if that can be trusted and gone on with."""
        size, note = os.fstat(self._fd).st_size, read_note(self._note_path)
        if note is None or not size or (note.total is not None and size > note.total):
            return Progress()
        self._mode = note.mode
        done = Progress(size, note.etag, note.total)
        return done if done.complete or note.etag else Progress()

    @property
    def is_open(self) -> bool:
        """True from `open` to `close` or `finish`."""
        return self._fd >= 0

    def start(self, etag: str | None, total: int | None) -> None:
        """Begin anew with what has this *etag* (only a strong one counts) and length.

        Raises:
            StorageFullError: It has no room.
        """
        self.drop()
        strong = etag if etag and etag.startswith('"') and etag.isascii() else None
        self._mode = write_note(self._note_path, Note.now(strong, total))
        if total is not None and free_bytes(self._directory) < total:
            raise StorageFullError(
                f"the disk has no room for {total} bytes more: make room and run the same again"
            )

    def drop(self) -> None:
        """Throw away what is there."""
        self._note_path.unlink(missing_ok=True)
        os.ftruncate(self._fd, 0)

    def append(self, data: bytes | bytearray) -> None:
        """Add bytes at the end, and have the system begin to bring them to the disk."""
        with memoryview(data) as left:
            done = 0
            while done < len(left):
                done += os.write(self._fd, left[done:])
        if len(data) >= _EARLY and hasattr(os, "posix_fadvise"):
            # On Linux this starts the writing and waits for nothing; the sync at the end,
            # which is waited for, then finds little to do.
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def examine(self, content_type: str, *, framed: bool) -> str:
        """Return the suffix of what is here, if it is whole and what it should be.

        Args:
            content_type: The answer's; it is only believed where the bytes say nothing.
            framed: The answer told where it ends, so that all of it came.

        Raises:
            UnfitError: It is something else, or stops early; it was thrown away.
        """
        with os.fdopen(os.dup(self._fd), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            head = file.read(HEAD)
            kind = kind_of(head)
            page = looks_like_a_page(head, content_type)
            problem, verdict = None, Verdict.UNTOLD
            if not size:
                problem = "the file is empty"
            elif page:
                problem = "a page came in the place of the file"
            elif contradicts(kind, content_type):
                problem = f"what came is no {content_type.partition(';')[0].strip()}"
            else:
                verdict = judge(file, size, kind, strict=not framed)
        if problem is None and verdict is Verdict.SHORT:
            problem = "the file stops before its end"
        if problem is not None:
            self.drop()
            raise UnfitError(problem, page=page and size > 0)
        proven = framed or verdict is Verdict.WHOLE
        return kind.suffix if proven else UNVERIFIED + kind.suffix

    def finish(self, suffix: str) -> tuple[Path, int]:
        """Sync it, give it its name, sync the folder; return where it is and its size.

        A file that is there already stays.  If it is the same, it is the result.

        Raises:
            DownloadError: Something else has the name.
            OSError: The disk failed; if it was in the sync, the bytes are thrown away.
        """
        size = self._seal()
        for stem in self._stems():
            final = self._directory / f"{stem}{suffix}"
            if moved_to(self.path, final) or self._is_there(final):
                sync_folder(self._directory)
                self._remove()
                self.close()
                return final, size
            if not self._is_of_another_result(final):
                break
        raise DownloadError(
            f"{final} exists and is something else: move it, or choose other names",
            retryable=False,
        )

    def _stems(self) -> tuple[str, str]:
        return self._stem, other_stem(self._stem, *self._item)

    def _seal(self) -> int:
        """Give it its mark and its mode and bring all to the disk; return its size."""
        now = os.fstat(self._fd)
        second = now.st_mtime_ns // 10**9
        time = marked_time(second, now.st_size, *self._item)
        where = self._fd if os.utime in os.supports_fd else self.path
        os.utime(where, ns=(time, time))
        if hasattr(os, "fchmod"):
            os.fchmod(self._fd, self._mode)
        try:
            os.fsync(self._fd)
        except OSError:
            # What was not written may be gone from memory as well, and a second sync
            # would say nothing of it: the bytes are to be fetched anew.
            with contextlib.suppress(OSError):
                self.drop()
            raise
        return now.st_size

    def _is_there(self, final: Path) -> bool:
        """True if *final* is this very result."""
        found = final.lstat()
        if is_marked(found, *self._item):
            return True
        return not has_a_mark(found) and is_same(self.path, final)

    def _is_of_another_result(self, final: Path) -> bool:
        """True if *final* is a file that we saved, or differs from it in case only."""
        if has_a_mark(final.lstat()):
            return True
        return all(other.name != final.name for other in self._directory.iterdir())

    def _end_the_move(self) -> None:
        """Do what a run left undone that was killed, or failed, just after the move."""
        if os.path.lexists(self.path) or os.path.lexists(self._note_path):
            sync_folder(self._directory)  # they leave after it: perhaps it was not done
            self._remove()

    def _remove(self) -> None:
        """Remove what is left beside the finished file."""
        if os.name == "nt":  # where an open file cannot be removed
            self.close()
        self.path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close it; safe to repeat.  An empty one is removed, a begun one stays."""
        descriptor, self._fd = self._fd, -1
        if descriptor < 0:
            return
        try:
            left = os.fstat(descriptor)
            if self._ours and left.st_nlink and not left.st_size and os.name != "nt":
                self._remove()
        finally:
            self._ours = False
            os.close(descriptor)  # and with it goes the lock
