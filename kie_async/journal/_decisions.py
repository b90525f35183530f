"""Settling a doubt: each way is recorded with who decided and on what evidence.

It proves nothing by itself; whoever calls has the proof, or takes the risk.
"""

from __future__ import annotations

from kie_async.errors import JournalError
from kie_async.journal._records import Facts, doubts_left, load, move
from kie_async.journal._rows import Head
from kie_async.journal._sql import Connection

__all__ = ["adopt_task", "recreate", "release"]


def adopt_task(
    conn: Connection,
    source_id: str,
    task_id: str,
    attempt: int | None,
    by: str | None,
    evidence: str | None,
    now: float,
) -> None:
    """The create was accepted and this is its task: ``in_doubt → sent``."""
    head = load(conn, source_id)
    if head.state == "sent" and head.task_id == task_id:
        return
    if head.task_id is not None or head.state not in {"in_doubt", "planned", "failed"}:
        raise JournalError(f"{source_id} is {head.state}: only a doubt takes a task")
    _refuse_foreign(conn, head, task_id)
    number = _last_doubt(conn, head, task_id) if attempt is None else attempt
    found = conn.execute(
        "UPDATE attempts SET verdict = 'created', task_id = ? "
        "WHERE item = ? AND number = ? AND coalesce(task_id, ?) = ?",
        (task_id, head.seq, number, task_id, task_id),
    )
    if found.rowcount == 0:
        raise JournalError(f"{source_id} has no attempt {number} that could have task {task_id}")
    move(conn, head, "sent", now, task_id=task_id, charged=doubts_left(conn, head))
    _record(conn, head, "as_task_id", task_id, by, evidence, now)


def _last_doubt(conn: Connection, head: Head, task_id: str) -> int:
    (number,) = conn.execute(
        "SELECT max(number) FROM attempts WHERE item = ? "
        "AND (task_id = ? OR verdict IN ('in_doubt', 'reported'))",
        (head.seq, task_id),
    ).fetchone()
    if number is None:
        raise JournalError(
            f"{head.source_id} was never in doubt: it has no attempt for task {task_id}"
        )
    return int(number)


def _refuse_foreign(conn: Connection, head: Head, task_id: str) -> None:
    row = conn.execute(
        "SELECT i.source_id FROM attempts AS a JOIN items AS i ON i.seq = a.item "
        "WHERE a.task_id = ? AND a.item <> ?",
        (task_id, head.seq),
    ).fetchone()
    if row is not None:
        raise JournalError(f"task {task_id} belongs to {row[0]}")


def release(
    conn: Connection, source_id: str, by: str | None, evidence: str | None, now: float
) -> None:
    """Nothing was created: ``in_doubt → planned``, and nothing was charged."""
    head = load(conn, source_id)
    if head.state != "in_doubt":
        raise JournalError(f"{source_id} is {head.state}: only a doubt is released")
    conn.execute(
        "UPDATE attempts SET verdict = 'not_sent', reason = 'decided' "
        "WHERE item = ? AND verdict IN ('in_doubt', 'reported')",
        (head.seq,),
    )
    move(conn, head, "planned", now, facts=Facts(reason="not_created"))
    _record(conn, head, "not_created", None, by, evidence, now)


def recreate(
    conn: Connection, source_id: str, by: str | None, evidence: str | None, now: float
) -> None:
    """Pay again, if need be: ``in_doubt | failed → planned``; attempts keep their verdict."""
    head = load(conn, source_id)
    if head.state not in {"in_doubt", "failed"}:
        raise JournalError(f"{source_id} is {head.state}: only a doubt or a failure is recreated")
    conn.execute(  # a task that has failed is never waited for again
        "UPDATE attempts SET reason = 'failed' WHERE item = ? AND task_id = ?",
        (head.seq, head.task_id),
    )
    charged = head.maybe_charged or head.state == "in_doubt"
    move(conn, head, "planned", now, facts=Facts(reason="recreate"), charged=charged)
    _record(conn, head, "recreate", head.task_id, by, evidence, now)


def _record(
    conn: Connection,
    head: Head,
    decision: str,
    task_id: str | None,
    by: str | None,
    evidence: str | None,
    now: float,
) -> None:
    conn.execute(
        "INSERT INTO decisions (item, decided_at, decision, task_id, by, evidence) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (head.seq, now, decision, task_id, by, evidence),
    )
