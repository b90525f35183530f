"""The moves of an item from state to state: the whole of what guards the money.

Each function is one record.  It checks first and writes after, so that one which refuses
has written nothing.  It runs inside the writer's transaction and never commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from kie_async.errors import ItemTakenError, JournalError
from kie_async.journal._rows import Head, can_be_kept, clean, id_hash, read_head, seal
from kie_async.journal._sql import Connection
from kie_async.journal._values import Verdict

__all__ = [
    "BY_ID",
    "HEAD",
    "Facts",
    "Row",
    "begin_sending",
    "close_attempt",
    "doubts_left",
    "end",
    "left_open",
    "load",
    "move",
    "record_created",
    "record_files",
    "record_polls",
    "recover",
]

Row = tuple[Any, ...]

CRASH = "crash"
"""Why a create is in doubt whose owner seems to have died."""

HEAD = (
    "SELECT i.seq, i.source_id, i.key, i.output_name, i.state, i.task_id, i.attempts, "
    "i.maybe_charged, i.checksum "
)
BY_ID = HEAD + (
    "FROM ids CROSS JOIN items AS i ON i.seq = ids.seq WHERE ids.hash = ? AND i.source_id = ?"
)
_SENDING = HEAD + (
    "FROM items AS i INDEXED BY items_by_state CROSS JOIN attempts AS a "
    "ON a.item = i.seq AND a.number = i.attempts "
    "WHERE i.state = 'sending' AND i.state <> 'planned' AND a.lease <> ?"
)
_MOVE = (
    "UPDATE items SET state = ?, task_id = ?, attempts = ?, reason = ?, error_code = ?, "
    "error_message = ?, maybe_charged = ?, updated_at = ?, checksum = ? WHERE seq = ?"
)
_END = (
    "UPDATE items SET state = ?, reason = ?, error_code = ?, error_message = ?, "
    "maybe_charged = ?, polls = max(polls, ?), updated_at = ?, checksum = ?, credits = ?, "
    "created_at = ?, completed_at = ?, noticed_at = ? WHERE seq = ?"
)
_CREATED = (
    "UPDATE attempts SET verdict = 'created', task_id = ?, ended_at = ? "
    "WHERE item = ? AND number = ?"
)
_CLOSE = (
    "UPDATE attempts SET verdict = ?, ended_at = ?, http_status = ?, body_code = ?, reason = ?, "
    "evidence = ? WHERE item = ? AND number = ?"
)


@frozen
class Facts:
    """What is known about how an attempt or an item ended."""

    reason: str | None = None
    http_status: int | None = None
    body_code: int | None = None
    error_code: str | None = None
    error_message: str | None = None
    evidence: str | None = None
    maybe_charged: bool | None = None


_NOTHING = Facts()


def load(conn: Connection, source_id: str) -> Head:
    """Return the head of an item.

    Raises:
        JournalError: There is no such item.
        JournalCorruptError: Its row is damaged.
    """
    row = None
    if can_be_kept(source_id):
        row = conn.execute(BY_ID, (id_hash(source_id), source_id)).fetchone()
    if row is None:
        raise JournalError(f"{clean(source_id)} is not in the journal: plan it first")
    return read_head(row)


def move(
    conn: Connection,
    head: Head,
    state: str,
    now: float,
    *,
    task_id: str | None = None,
    facts: Facts = _NOTHING,
    charged: bool | int = 0,
) -> None:
    """Write an item's new state, and its seal."""
    checksum = seal(head.source_id, head.key, head.output_name, state, task_id)
    conn.execute(
        _MOVE,
        (
            state,
            task_id,
            head.attempts,
            facts.reason,
            facts.error_code,
            facts.error_message,
            int(charged),
            now,
            checksum,
            head.seq,
        ),
    )


def begin_sending(conn: Connection, source_id: str, ref: str | None, lease: int, now: float) -> int:
    """``planned → sending``: the intent.  Return the number of the attempt."""
    head = load(conn, source_id)
    if head.state != "planned":
        raise ItemTakenError(f"{source_id} is {head.state}: only a planned item is sent")
    head = head._replace(attempts=head.attempts + 1)
    conn.execute(
        "INSERT INTO attempts (item, number, ref, intent_at, lease) VALUES (?, ?, ?, ?, ?)",
        (head.seq, head.attempts, ref, now, lease),
    )
    move(conn, head, "sending", now, charged=head.maybe_charged)
    return head.attempts


def record_created(conn: Connection, source_id: str, number: int, task_id: str, now: float) -> bool:
    """Keep the id of a paid task; ``sending`` (or a doubt, or a release) ``→ sent``."""
    head = load(conn, source_id)
    values = (task_id, now, head.seq, number)
    if conn.execute(_CREATED + " AND verdict IS NULL", values).rowcount == 0:  # not the rule
        known = _attempt(conn, head, number)[1]
        if known is not None and known != task_id:
            raise JournalError(f"attempt {number} of {source_id} already has task {known}")
        if known == task_id:
            return head.task_id == task_id
        conn.execute(_CREATED, values)
    if not _may_bind(head, number):
        return False
    charged = (head.maybe_charged or head.attempts > 1) and doubts_left(conn, head)
    move(conn, head, "sent", now, task_id=task_id, charged=charged)
    return True


def _may_bind(head: Head, number: int) -> bool:
    # While a newer create is in flight, the older one's task waits on its attempt.
    if head.state == "sending":
        return number == head.attempts
    return head.state in {"planned", "in_doubt"}


def doubts_left(conn: Connection, head: Head) -> bool:
    """True while an attempt of the item may have been paid for without a known task."""
    found = conn.execute(
        "SELECT 1 FROM attempts WHERE item = ? AND verdict IN ('reported', 'in_doubt')",
        (head.seq,),
    )
    return found.fetchone() is not None


def _attempt(
    conn: Connection, head: Head, number: int
) -> tuple[str | None, str | None, str | None]:
    """Return an attempt's verdict, task and reason."""
    row = conn.execute(
        "SELECT verdict, task_id, reason FROM attempts WHERE item = ? AND number = ?",
        (head.seq, number),
    ).fetchone()
    if row is None:
        raise JournalError(f"{head.source_id} has no attempt {number}")
    return row[0], row[1], row[2]


def close_attempt(
    conn: Connection,
    source_id: str,
    number: int,
    verdict: Verdict,
    state: str,
    facts: Facts,
    now: float,
) -> None:
    """``sending → planned | failed | in_doubt``: the attempt brought no task id."""
    head = load(conn, source_id)
    known, _, reason = _attempt(conn, head, number)
    if known == verdict.value:
        return  # said twice: a caller that was cut off may repeat itself
    if known == Verdict.IN_DOUBT.value and reason == CRASH:
        _correct(conn, head, number, verdict, state, facts, now)
        return
    if known is not None:
        raise JournalError(f"attempt {number} of {source_id} is {known} already")
    if head.state != "sending" or number != head.attempts:
        raise JournalError(f"{source_id} is {head.state}: attempt {number} is not in flight")
    _close(conn, head, number, verdict, facts, now)
    _leave_sending(conn, head, state, facts, now)


def _close(
    conn: Connection, head: Head, number: int, verdict: Verdict, facts: Facts, now: float
) -> None:
    told = (facts.http_status, facts.body_code, facts.reason, facts.evidence)
    conn.execute(_CLOSE, (verdict.value, now, *told, head.seq, number))


def _correct(
    conn: Connection,
    head: Head,
    number: int,
    verdict: Verdict,
    state: str,
    facts: Facts,
    now: float,
) -> None:
    """The owner was taken for dead and was only slow: what it says is the better proof."""
    _close(conn, head, number, verdict, facts, now)
    if head.state == "in_doubt" and number == head.attempts:
        charged = facts.maybe_charged or doubts_left(conn, head)
        move(conn, head, state, now, facts=facts, charged=charged)


def _leave_sending(conn: Connection, head: Head, state: str, facts: Facts, now: float) -> None:
    charged = facts.maybe_charged or head.maybe_charged
    if head.attempts > 1:  # an older attempt may have turned out to be paid meanwhile
        row = conn.execute(
            "SELECT task_id FROM attempts WHERE item = ? AND task_id IS NOT NULL "
            "AND coalesce(reason, '') <> 'failed' ORDER BY number LIMIT 1",
            (head.seq,),
        ).fetchone()
        if row is not None:
            left = doubts_left(conn, head)
            move(conn, head, "sent", now, task_id=row[0], charged=left)
            return
    move(conn, head, state, now, facts=facts, charged=charged or False)


def end(
    conn: Connection,
    source_id: str,
    state: str,
    facts: Facts,
    figures: tuple[float | None, float | None, float | None],
    polls: int | None,
    now: float,
) -> None:
    """``sent → done | failed``; also ``planned → failed``, for what cannot be sent.

    *figures* are credits, created_at and completed_at.
    """
    head = load(conn, source_id)
    if head.state == state:
        return
    if head.state != "sent" and not (head.state == "planned" and state == "failed"):
        raise JournalError(f"{source_id} is {head.state}: it cannot become {state}")
    charged = head.maybe_charged if facts.maybe_charged is None else facts.maybe_charged
    checksum = seal(head.source_id, head.key, head.output_name, state, head.task_id)
    told = (facts.reason, facts.error_code, facts.error_message, int(charged))
    conn.execute(_END, (state, *told, polls or 0, now, checksum, *figures, now, head.seq))


def record_files(conn: Connection, source_id: str, files: str, now: float) -> None:
    """Keep the names of the saved results of a done item."""
    head = load(conn, source_id)
    if head.state != "done":
        raise JournalError(f"{source_id} is {head.state}: only a done item has files")
    conn.execute("UPDATE items SET files = ?, updated_at = ? WHERE seq = ?", (files, now, head.seq))


def record_polls(conn: Connection, polls: dict[str, int]) -> None:
    """Keep how often items were looked at; unknown ones are passed over."""
    for source_id, count in polls.items():
        conn.execute(
            "UPDATE items SET polls = max(polls, ?) WHERE seq IN "
            "(SELECT seq FROM ids WHERE hash = ?) AND source_id = ?",
            (count, id_hash(source_id), source_id),
        )


def left_open(conn: Connection, lease: int) -> list[Row]:
    """Return the heads of items in ``sending`` whose owner is another one than *lease*."""
    return conn.execute(_SENDING, (lease,)).fetchall()


def recover(conn: Connection, rows: Sequence[Row], now: float) -> int:
    """Put every create that a dead owner left open in doubt; return how many."""
    facts = Facts(reason=CRASH, maybe_charged=True)
    for row in rows:
        head = read_head(row)
        close_attempt(conn, head.source_id, head.attempts, Verdict.IN_DOUBT, "in_doubt", facts, now)
    return len(rows)
