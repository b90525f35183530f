"""Looking into the journal: pages, counts and searches.

Runs on the reader's own connection, so that a long look never delays a record.  It sees
what is committed and changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

from kie_async.journal._records import load
from kie_async.journal._rows import (
    ATTEMPT_COLUMNS,
    DECISION_COLUMNS,
    ITEM_COLUMNS,
    can_be_kept,
    id_hash,
    read_attempt,
    read_decision,
    read_item,
)
from kie_async.journal._sql import Connection
from kie_async.journal._values import Attempt, Counts, Decision, Item

__all__ = [
    "attempts_of",
    "counts",
    "created_times",
    "decisions",
    "find_by_ref",
    "find_by_task",
    "get",
    "meta",
    "page",
    "page_with_attempts",
    "try_columns",
]

# Rows are never deleted, so the last number is their count, and what is in no index is
# planned.
BY_STATE = "SELECT state, count(*) FROM items WHERE state <> 'planned' GROUP BY state"

PARTIAL = "AND i.state <> 'planned' "

_ATTEMPTS = (
    f"SELECT {ATTEMPT_COLUMNS} FROM attempts AS a "  # noqa: S608 - reason: constants only
    "JOIN items AS i ON i.seq = a.item JOIN lease AS l ON l.id = a.lease "
)
_DECISIONS = (
    f"SELECT {DECISION_COLUMNS} FROM decisions AS d "  # noqa: S608 - reason: constants only
    "JOIN items AS i ON i.seq = d.item "
)
_ITEMS = f"SELECT {ITEM_COLUMNS} FROM "  # noqa: S608 - reason: constants only


def try_columns(conn: Connection) -> None:
    """Let SQLite find every column that is asked for; it raises if one is missing."""
    for question in (f"{_ITEMS} items AS i INDEXED BY items_by_state", _ATTEMPTS, _DECISIONS):
        conn.execute(f"{question} WHERE i.state = 'none' AND i.state <> 'planned' LIMIT 0")


def get(conn: Connection, source_id: str) -> Item | None:
    """Return an item, or None."""
    if not can_be_kept(source_id):
        return None
    row = conn.execute(
        f"{_ITEMS} ids CROSS JOIN items AS i ON i.seq = ids.seq "
        "WHERE ids.hash = ? AND i.source_id = ?",
        (id_hash(source_id), source_id),
    ).fetchone()
    return None if row is None else read_item(row)


def page(
    conn: Connection, state: str, after: int, limit: int, *, without_files: bool
) -> list[Item]:
    """Return up to *limit* items of a state that were planned after number *after*."""
    fileless = "AND i.files IS NULL " if without_files else ""
    # The second term tells SQLite that the partial index has all the rows.
    indexed = "" if state == "planned" else "INDEXED BY items_by_state "
    rows = conn.execute(
        f"{_ITEMS} items AS i {indexed}WHERE i.state = ? "
        f"{'' if state == 'planned' else PARTIAL}AND i.seq > ? {fileless}"
        "ORDER BY i.seq LIMIT ?",
        (state, after, limit),
    )
    return [read_item(row) for row in rows]


def page_with_attempts(
    conn: Connection, state: str | None, after: int, limit: int
) -> list[tuple[Item, list[Attempt]]]:
    """Return a page as `page` does, each item with its attempts; None: of any state."""
    if state is not None:
        items = page(conn, state, after, limit, without_files=False)
    else:
        rows = conn.execute(
            f"{_ITEMS} items AS i WHERE i.seq > ? ORDER BY i.seq LIMIT ?", (after, limit)
        ).fetchall()
        items = [read_item(row) for row in rows]
    return [(item, _attempts(conn, item.seq)) for item in items]


def attempts_of(conn: Connection, source_id: str) -> list[Attempt]:
    """Return the attempts of an item, the first one first."""
    return _attempts(conn, load(conn, source_id).seq)


def _attempts(conn: Connection, seq: int) -> list[Attempt]:
    rows = conn.execute(f"{_ATTEMPTS} WHERE a.item = ? ORDER BY a.number", (seq,))
    return [read_attempt(row) for row in rows]


def find_by_ref(conn: Connection, ref: str) -> Attempt | None:
    """Return the attempt that carried *ref*."""
    if not can_be_kept(ref):
        return None
    row = conn.execute(f"{_ATTEMPTS} WHERE a.ref = ?", (ref,)).fetchone()
    return None if row is None else read_attempt(row)


def find_by_task(conn: Connection, task_id: str) -> list[Attempt]:
    """Return the attempts that a task is bound to; more than one if ids were shared."""
    if not can_be_kept(task_id):
        return []
    rows = conn.execute(f"{_ATTEMPTS} WHERE a.task_id = ? ORDER BY a.item, a.number", (task_id,))
    return [read_attempt(row) for row in rows]


def counts(conn: Connection) -> Counts:
    """Count the items of each state."""
    found = dict(conn.execute(BY_STATE))
    (total,) = conn.execute("SELECT coalesce(max(seq), 0) FROM items").fetchone()
    return Counts(planned=total - sum(found.values()), **found)


def decisions(conn: Connection) -> list[Decision]:
    """Return what was decided about doubts, in its order."""
    rows = conn.execute(f"{_DECISIONS} ORDER BY d.id")
    return [read_decision(row) for row in rows]


def meta(conn: Connection) -> dict[str, Any]:
    """Return the run's settings and figures."""
    return {name: json.loads(value) for name, value in conn.execute("SELECT * FROM meta")}


def created_times(conn: Connection, since: float, without: Container[int] = ()) -> list[float]:
    """Return when creates were answered (or begun, if they never were), from *since* on.

    Those of the leases in *without* are left out.
    """
    # A walk over all attempts, 0.3 s for a million: once a run, and an index for it would
    # cost every create.
    rows = conn.execute(
        "SELECT coalesce(ended_at, intent_at), lease FROM attempts "
        "WHERE coalesce(ended_at, intent_at) >= ? AND coalesce(verdict, '') <> 'not_sent' "
        "ORDER BY 1",
        (since,),
    )
    return [time for time, lease in rows if lease not in without]
