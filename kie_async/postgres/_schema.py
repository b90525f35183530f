"""The tables of a journal in PostgreSQL: those of the SQLite one, in a schema of their own.

One schema is one run.  Beside what the file's tables have, a lease has a heartbeat: here
many processes write, and none of them can see from a lock that another one died.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import psycopg
from psycopg import sql

from kie_async.errors import JournalCorruptError, JournalError, JournalTooNewError, UsageError
from kie_async.journal._lease import current_owner

__all__ = ["VERSION", "check_run", "enter", "prepare"]

VERSION = 1
"""What this version of the package writes."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_LOCK = 0x4B494541  # of making the tables: two first workers may come at once

_TABLES = """
CREATE TABLE items (
    seq BIGINT PRIMARY KEY,
    source_id TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    input TEXT NOT NULL,
    output_name TEXT,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    task_id TEXT,
    reason TEXT,
    error_code TEXT,
    error_message TEXT,
    maybe_charged INTEGER NOT NULL DEFAULT 0,
    credits DOUBLE PRECISION,
    created_at DOUBLE PRECISION,
    completed_at DOUBLE PRECISION,
    noticed_at DOUBLE PRECISION,
    polls INTEGER NOT NULL DEFAULT 0,
    files TEXT,
    planned_at DOUBLE PRECISION NOT NULL,
    updated_at DOUBLE PRECISION NOT NULL,
    checksum BIGINT NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX items_by_state ON items (state, seq) WHERE state <> 'planned';
CREATE TABLE ids (
    hash BIGINT NOT NULL,
    seq BIGINT NOT NULL REFERENCES items (seq),
    PRIMARY KEY (hash, seq)
);
CREATE TABLE lease (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    started_at DOUBLE PRECISION NOT NULL,
    ended_at DOUBLE PRECISION,
    seen_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE attempts (
    item BIGINT NOT NULL REFERENCES items (seq),
    number INTEGER NOT NULL,
    ref TEXT,
    intent_at DOUBLE PRECISION NOT NULL,
    lease BIGINT NOT NULL REFERENCES lease (id),
    verdict TEXT
        CHECK (verdict IN ('created', 'not_sent', 'rejected', 'reported', 'in_doubt')),
    ended_at DOUBLE PRECISION,
    http_status BIGINT,
    body_code BIGINT,
    reason TEXT,
    task_id TEXT,
    evidence TEXT,
    PRIMARY KEY (item, number)
);
CREATE UNIQUE INDEX attempts_by_ref ON attempts (ref) WHERE ref IS NOT NULL;
CREATE INDEX attempts_by_task ON attempts (task_id) WHERE task_id IS NOT NULL;
CREATE TABLE decisions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item BIGINT NOT NULL REFERENCES items (seq),
    decided_at DOUBLE PRECISION NOT NULL,
    decision TEXT NOT NULL,
    task_id TEXT,
    by TEXT,
    evidence TEXT
);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def check_run(run: str) -> str:
    """Return the schema of a run.

    Raises:
        UsageError: *run* cannot name one.
    """
    if not isinstance(run, str) or not _NAME.fullmatch(run):
        raise UsageError(
            f"run {run!r} must be a small letter, then small letters, digits or _ (40 at most)"
        )
    return f"kie_{run}"


def prepare(conn: psycopg.Connection[Any], schema: str, *, create: bool) -> str:
    """See that the tables are there; return the journal's id.

    Raises:
        JournalError: There are none, and *create* is False.
        JournalTooNewError: A later version of this package made them.
        JournalCorruptError: They are somebody else's.
    """
    with conn.transaction():
        conn.execute("SELECT pg_advisory_xact_lock(%s, hashtext(%s))", (_LOCK, schema))
        if not _exists(conn, schema):
            if not create:
                raise JournalError(f"there is no journal {schema.removeprefix('kie_')!r} here")
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            conn.execute(_TABLES.encode())
            values = [("journal_id", f'"{uuid.uuid4().hex}"'), ("schema_version", str(VERSION))]
            for value in values:
                conn.execute("INSERT INTO meta VALUES (%s, %s)", value)
        known = dict(conn.execute("SELECT name, value FROM meta").fetchall())
    version = known.get("schema_version", "")
    if not version.isdigit() or "journal_id" not in known:
        raise JournalCorruptError(f"the tables in schema {schema} are no journal of this package")
    if int(version) > VERSION:
        raise JournalTooNewError(
            f"{schema} has schema version {version}; this package knows up to {VERSION}: update it"
        )
    return str(known["journal_id"]).strip('"')


def _exists(conn: psycopg.Connection[Any], schema: str) -> bool:
    found = conn.execute(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = %s AND table_name = 'items'",
        (schema,),
    )
    return found.fetchone() is not None


def enter(conn: psycopg.Connection[Any], now: float) -> int:
    """Enter a lease for this process; return its number."""
    owner = current_owner()
    row = conn.execute(
        "INSERT INTO lease (host, pid, boot_id, started_at) VALUES (%s, %s, %s, %s) RETURNING id",
        (owner.host, owner.pid, owner.boot_id, now),
    ).fetchone()
    assert row is not None  # noqa: S101 - reason: for the type checker
    return int(row[0])
