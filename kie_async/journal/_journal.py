"""``Journal``: everything in one SQLite file on the local disk, written by one process."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from kie_async.journal import _records
from kie_async.journal._commits import FileCommits
from kie_async.journal._opening import foreign_error, open_reader, open_writer
from kie_async.journal._recording import Recording
from kie_async.journal._schema import SCHEMA, Schema
from kie_async.journal._sql import Connection
from kie_async.journal._writer import Writer

__all__ = ["Journal"]

T = TypeVar("T")


class Journal(Recording):
    """A journal in one SQLite file: each source id is created at most once.

    ``async with Journal(path) as journal`` opens it; so does ``await Journal.open(path)``.
    Each ``record_…`` returns when it is synced to the disk; many callers share one sync.
    A caller that is cancelled while he waits loses nothing: the record is written.

    Beside the file lie ``-wal`` and ``-shm`` (SQLite's), ``.lock`` (kept: it also tells
    when commits are missing) and, while it is open, ``.ballast`` (room for a full disk).

    Args:
        path: The file.  Its directory must exist and be on a local disk.
        create: Make the journal if there is none.
        read_only: Only look; works beside a running writer and takes no lock.
        full_check: Check every index against its rows too: about 3 s per million rows.
        clock: Returns Unix seconds.

    Raises:
        JournalLockedError: On opening: another process writes it.
        JournalCorruptError: On opening: it is damaged, incomplete or of another program.
            It was left as it is.
        JournalTooNewError: On opening: a later version of this package wrote it.
        StorageFullError: On opening: there is no room.
        JournalError: On opening: anything else; the message says what.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        create: bool = True,
        read_only: bool = False,
        full_check: bool = False,
        clock: Callable[[], float] = time.time,
        _schema: Schema = SCHEMA,
        _fault: Callable[[str], None] | None = None,
    ) -> None:
        """Open nothing yet.  ``_fault`` is told where a test may pull the plug."""
        self.path = Path(path)
        super().__init__(str(self.path), read_only=read_only, clock=clock)
        self._create = create
        self._full_check = full_check
        self._schema = _schema
        self._fault = _fault
        self._reader: sqlite3.Connection | None = None

    def _open_here(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.read_only:
            self._reader = open_reader(self.path, self._schema, check=True)
            return
        opened = open_writer(
            self.path,
            create=self._create,
            full_check=self._full_check,
            schema=self._schema,
            now=self._clock(),
            fault=self._fault,
        )
        try:
            self._reader = open_reader(self.path, self._schema, check=False)
        except BaseException:
            opened.close()
            raise
        self._own(opened.journal_id, opened.lease_id)
        self._writer = Writer(FileCommits(opened, self.path), loop)

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _ask(self, question: Callable[[Connection], T], asked: float) -> T:
        assert self._reader is not None  # noqa: S101 - reason: for the type checker
        try:
            return question(self._reader)
        except sqlite3.Error as exc:
            raise foreign_error(exc, self.path) from exc

    def _orphans(self, conn: Connection) -> Sequence[_records.Row]:
        # Whoever holds the file's lock is the only one alive.
        return _records.left_open(conn, self._lease)
