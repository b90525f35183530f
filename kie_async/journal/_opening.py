"""Opening a journal: check first, without changing a byte; then lock, migrate and write.

Blocking; runs on a thread of the journal's.  It never starts a new journal in place of a
damaged one: that would pay for everything again.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from attrs import define, field

from kie_async.errors import (
    JournalCorruptError,
    JournalError,
    KieError,
    StorageFullError,
)
from kie_async.journal._lease import Lease, current_owner, recorded_commits
from kie_async.journal._reads import BY_STATE, try_columns
from kie_async.journal._rows import id_hash, seal
from kie_async.journal._schema import APPLICATION_ID, Schema
from kie_async.journal._storage import (
    Ballast,
    beside,
    check_path,
    check_version,
    refuse_newer,
    shut_out,
    sync_directory,
    warn_if_remote,
)

__all__ = ["Opened", "foreign_error", "open_reader", "open_writer"]

BUSY_TIMEOUT = 30.0
"""Seconds to wait for another program that writes to the file: somebody's SQLite shell."""

CACHE = 4096  # KiB per connection: a million rows load in bounded memory
CHECKPOINT = 8000  # pages of WAL: one chunk of `plan` fits

_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}  # a quota or a file limit shows as the second
_ENVIRONMENT = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN", "SQLITE_READONLY",
                "SQLITE_PERM", "SQLITE_AUTH", "SQLITE_IOERR", "SQLITE_NOMEM")  # fmt: skip


@define
class Opened:
    """What the writer works with."""

    conn: sqlite3.Connection
    lease: Lease
    ballast: Ballast
    journal_id: str
    lease_id: int
    commits: int
    fault: Callable[[str], None] | None = field(default=None)

    def close(self) -> None:
        """Let go of all of it; the last connection empties the log into the main file."""
        with contextlib.suppress(sqlite3.Error):
            self.conn.close()
        self.ballast.drop()
        self.lease.release()


def open_writer(
    path: Path,
    *,
    create: bool,
    full_check: bool,
    schema: Schema,
    now: float,
    fault: Callable[[str], None] | None,
) -> Opened:
    """Open the journal at *path* for writing, and make it if there is none.

    Raises:
        JournalError: See its subclasses; the file is as it was.
    """
    if check_path(path):
        check_version(path, schema.version)
    elif not create:
        raise JournalError(f"{path}: there is no such journal")
    lease, ballast = Lease(path), Ballast(path)
    conn = None
    lease.take()
    try:
        with translated(path):
            warn_if_remote(path)
            if not check_path(path):  # again: the holder before us may have made it
                _make(path, schema)
            check_version(path, schema.version)
            version = check_content(path, full=full_check, schema=schema)
            shut_out(path)
            ballast.fill()
            conn = _connect(path, "rw")
            _prepare(conn)
            if version < schema.version:
                _migrate(conn, path, version, schema, fault)
            return _enter(conn, lease, ballast, now, fault)
    except BaseException:
        if conn is not None:
            conn.close()
        lease.release()
        raise


def open_reader(path: Path, schema: Schema, *, check: bool) -> sqlite3.Connection:
    """Open the journal at *path* for looking only; a running writer is not disturbed.

    Raises:
        JournalError: See its subclasses.
    """
    if not check_path(path):
        raise JournalError(f"{path}: there is no such journal")
    check_version(path, schema.version)
    with translated(path):
        conn = _connect_reader(path)
        try:
            version = _version(conn, path, schema)
            if version < schema.version:
                raise JournalError(
                    f"{path} has the older schema version {version}: open it for writing"
                )
            if check:
                _check_structure(conn, path, full=False)
                _check_commits(conn, path)
        except BaseException:
            conn.close()
            raise
        return conn


def check_content(path: Path, *, full: bool, schema: Schema) -> int:
    """Check the whole file through a connection that cannot write; return its version.

    A million rows: 0.4 s for the structure and 2 s for the rows (benchmarks/journal.py).
    """
    with contextlib.closing(_connect_reader(path)) as conn:
        conn.execute("BEGIN")
        _check_structure(conn, path, full=full)
        _check_commits(conn, path)
        version = _version(conn, path, schema)
        if version == schema.version:
            try_columns(conn)
            _check_rows(conn, path)
    return version


def _version(conn: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """Return the schema version; where a kill left a log, the file's header may be older."""
    (version,) = conn.execute("PRAGMA user_version").fetchone()
    refuse_newer(path, version, schema.version)
    return int(version)


def foreign_error(exc: sqlite3.Error, path: Path) -> KieError:
    """Return what an error of SQLite means here."""
    name = getattr(exc, "sqlite_errorname", "") or ""
    if name in _FULL:
        return StorageFullError(f"{path}: no room to write ({exc}); free some, then go on")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalError(f"{path}: another program is writing to it ({exc})", retryable=True)
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "decode to UTF-8" in str(exc):
        return JournalCorruptError(f"{path} is damaged: {exc}")
    return JournalError(f"{path}: {exc} ({name or type(exc).__name__})")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours.  While opening, what cannot be read is damage."""
    try:
        yield
    except sqlite3.Error as exc:
        name = getattr(exc, "sqlite_errorname", "") or ""
        if name in _FULL or name.startswith(_ENVIRONMENT):
            raise foreign_error(exc, path) from exc
        raise JournalCorruptError(f"{path} is damaged: {exc}") from exc
    except OSError as exc:
        raise JournalError(f"{path}: {exc.strerror}") from exc
    except (OverflowError, ValueError, TypeError, AttributeError) as exc:
        raise JournalCorruptError(f"{path} is damaged: a value has no sense ({exc})") from exc


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    conn = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,  # each connection is used by one thread at a time
        timeout=BUSY_TIMEOUT,
    )
    try:
        conn.execute(f"PRAGMA cache_size = -{CACHE}")
        conn.execute("SELECT 1 FROM sqlite_master").fetchone()  # the first look into the file
    except BaseException:
        conn.close()
        raise
    return conn


def _connect_reader(path: Path) -> sqlite3.Connection:
    try:
        return _connect(path, "ro")
    except sqlite3.Error as exc:
        blocked = exc.sqlite_errorname in {"SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY"}
        if not blocked or beside(path, "-wal").exists():
            raise
        # A closed journal in a directory that we may not write to: SQLite wants to put
        # its side files there, and does without them for a file that nobody can change.
        return _connect(path, "ro&immutable=1")


def _prepare(conn: sqlite3.Connection) -> None:
    (mode,) = conn.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalError("SQLite cannot use a write-ahead log here")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone does not reach the disk
    conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")


def _make(path: Path, schema: Schema) -> None:
    """Make an empty journal, complete under another name before it gets its own."""
    new = beside(path, ".new")
    for ending in ("", "-wal", "-shm", "-journal"):
        beside(new, ending).unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(_connect(new, "rw")) as conn:
        conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        conn.execute(f"PRAGMA user_version = {schema.version}")
        conn.executescript(f"BEGIN; {schema.create}; COMMIT;")
        conn.execute("INSERT INTO meta VALUES ('journal_id', ?)", (f'"{uuid.uuid4().hex}"',))
        conn.execute("PRAGMA journal_mode = WAL")
    os.rename(new, path)  # noqa: PTH104 - reason: Path.rename would hide that it is atomic
    sync_directory(path.parent)


def _migrate(
    conn: sqlite3.Connection,
    path: Path,
    version: int,
    schema: Schema,
    fault: Callable[[str], None] | None,
) -> None:
    """Bring older tables up to date in one transaction, after a backup."""
    _back_up(conn, beside(path, f".v{version}.backup"))
    conn.execute("BEGIN IMMEDIATE")
    for number in range(version, schema.version):
        schema.steps[number](conn)
    conn.execute(f"PRAGMA user_version = {schema.version}")
    if fault is not None:
        fault("migrate.before_commit")
    conn.execute("COMMIT")
    if fault is not None:
        fault("migrate.after_commit")
    conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the version stands in the header


def _back_up(conn: sqlite3.Connection, target: Path) -> None:
    new = beside(target, ".new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    with contextlib.closing(_connect(new, "rw")) as copy:
        conn.backup(copy)
    new.replace(target)
    sync_directory(target.parent)


def _enter(
    conn: sqlite3.Connection,
    lease: Lease,
    ballast: Ballast,
    now: float,
    fault: Callable[[str], None] | None,
) -> Opened:
    owner = current_owner()
    conn.execute("BEGIN IMMEDIATE")
    cursor = conn.execute(
        "INSERT INTO lease (host, pid, boot_id, started_at) VALUES (?, ?, ?, ?)",
        (owner.host, owner.pid, owner.boot_id, now),
    )
    conn.execute("UPDATE progress SET commits = commits + 1")
    conn.execute("COMMIT")
    journal_id, commits = _identity(conn)
    lease.name_holder(owner, datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds"))
    lease.record(journal_id, commits)
    assert cursor.lastrowid is not None  # noqa: S101 - reason: for the type checker
    return Opened(conn, lease, ballast, journal_id, cursor.lastrowid, commits, fault)


def _identity(conn: sqlite3.Connection) -> tuple[str, int]:
    (journal_id,) = conn.execute("SELECT value FROM meta WHERE name = 'journal_id'").fetchone()
    (commits,) = conn.execute("SELECT commits FROM progress").fetchone()
    return journal_id.strip('"'), int(commits)


def _check_structure(conn: sqlite3.Connection, path: Path, *, full: bool) -> None:
    check = "integrity_check" if full else "quick_check"
    (found,) = conn.execute(f"PRAGMA {check}(1)").fetchone()
    if found != "ok":
        raise JournalCorruptError(f"{path} is damaged: {found}")


def _check_commits(conn: sqlite3.Connection, path: Path) -> None:
    recorded = recorded_commits(path)  # before the journal: it may be growing
    journal_id, commits = _identity(conn)
    if recorded is not None and recorded[0] == journal_id and commits < recorded[1]:
        raise JournalCorruptError(
            f"{path} has lost its last {recorded[1] - commits} commits: its -wal is missing or "
            f"damaged, or this is an old copy.  What was sent since then would be paid for again. "
            f"If that is meant, delete {path}.lock"
        )


def _check_rows(conn: sqlite3.Connection, path: Path) -> None:
    """Check each row's seal, and that ids, states and attempts agree with the rows."""
    hashes = seqs = attempts = 0
    states: Counter[str] = Counter(planned=0)
    rows = conn.execute(
        "SELECT seq, source_id, key, output_name, state, task_id, attempts, checksum FROM items"
    )
    for seq, source_id, key, output_name, state, task_id, tries, checksum in rows:
        if seal(source_id, key, output_name, state, task_id) != checksum:
            raise JournalCorruptError(f"{path} is damaged: row {seq} does not fit its checksum")
        hashes += id_hash(source_id)
        seqs += seq
        attempts += tries
        states[state] += 1
    total = states.total()
    found = conn.execute(
        "SELECT count(*), coalesce(sum(hash), 0), coalesce(sum(seq), 0) FROM ids"
    ).fetchone()
    (made,) = conn.execute("SELECT count(*) FROM attempts").fetchone()
    by_state = dict(conn.execute(BY_STATE))
    by_state["planned"] = total - sum(by_state.values())
    (last,) = conn.execute("SELECT coalesce(max(seq), 0) FROM items").fetchone()
    if found != (total, hashes, seqs) or made != attempts or by_state != states or last != total:
        raise JournalCorruptError(f"{path} is damaged: its rows and indexes do not agree")
