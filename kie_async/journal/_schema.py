"""The tables, their version, and how an older version becomes this one.

Plain SQL, so that any SQLite tool can look into a journal.  It decides nothing about
money: that is `_records`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping

from attrs import field, frozen

__all__ = ["APPLICATION_ID", "SCHEMA", "Schema"]

APPLICATION_ID = 0x4B494541
"""Marks the file as a journal of ours ("KIEA"); at byte 68 of the file."""

# `ids` and not an index on items.source_id: 12 bytes an id instead of 45, filled in
# sorted order.  A million random ids load in a third of the time (benchmarks/journal.py).
# `checksum` covers what decides about money, the state too; see `_rows.seal`.  A CHECK on
# the state would take as long as the rest of the insert.  Planned rows are in no index:
# they are found by walking on from the last one.
TABLES = """
CREATE TABLE items (
    seq INTEGER PRIMARY KEY,
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
    credits REAL,
    created_at REAL,
    completed_at REAL,
    noticed_at REAL,
    polls INTEGER NOT NULL DEFAULT 0,
    files TEXT,
    planned_at REAL NOT NULL,
    updated_at REAL NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE INDEX items_by_state ON items (state, seq) WHERE state <> 'planned';
CREATE TABLE ids (
    hash INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (hash, seq)
) WITHOUT ROWID;
CREATE TABLE attempts (
    item INTEGER NOT NULL REFERENCES items (seq),
    number INTEGER NOT NULL,
    ref TEXT,
    intent_at REAL NOT NULL,
    lease INTEGER NOT NULL REFERENCES lease (id),
    verdict TEXT
        CHECK (verdict IN ('created', 'not_sent', 'rejected', 'reported', 'in_doubt')),
    ended_at REAL,
    http_status INTEGER,
    body_code INTEGER,
    reason TEXT,
    task_id TEXT,
    evidence TEXT,
    PRIMARY KEY (item, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX attempts_by_ref ON attempts (ref) WHERE ref IS NOT NULL;
CREATE INDEX attempts_by_task ON attempts (task_id) WHERE task_id IS NOT NULL;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    item INTEGER NOT NULL REFERENCES items (seq),
    decided_at REAL NOT NULL,
    decision TEXT NOT NULL,
    task_id TEXT,
    by TEXT,
    evidence TEXT
);
CREATE TABLE lease (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    boot_id TEXT NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL
);
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE progress (id INTEGER PRIMARY KEY CHECK (id = 1), commits INTEGER NOT NULL);
INSERT INTO progress VALUES (1, 0);
"""


@frozen(kw_only=True)
class Schema:
    """A version of the tables: how to make them, and each step up from an older one.

    Attributes:
        version: Kept in the file as ``user_version``.
        create: Makes the tables of this version in an empty file.
        steps: ``steps[n]`` turns version n into n + 1; it runs inside a transaction.
    """

    version: int
    create: str
    steps: Mapping[int, Callable[[sqlite3.Connection], None]] = field(factory=dict)


SCHEMA = Schema(version=1, create=TABLES)
"""What this version of the package writes."""
