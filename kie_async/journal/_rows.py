"""A row and its checks: how an item is named, sealed, written as text and read back.

No statement here changes a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import crc32

from kie_async.errors import JournalCorruptError, UsageError
from kie_async.journal._values import Attempt, Decision, Item, ItemState, Verdict

__all__ = [
    "ATTEMPT_COLUMNS",
    "DECISION_COLUMNS",
    "ITEM_COLUMNS",
    "Head",
    "as_evidence",
    "as_json",
    "as_text",
    "can_be_kept",
    "clean",
    "id_hash",
    "key_of",
    "number",
    "read_attempt",
    "read_decision",
    "read_head",
    "read_item",
    "seal",
    "whole",
]

ITEM_COLUMNS = (
    "i.seq, i.source_id, i.key, i.model, i.input, i.output_name, i.state, i.attempts, i.task_id, "
    "i.reason, i.error_code, i.error_message, i.maybe_charged, i.credits, i.created_at, "
    "i.completed_at, i.noticed_at, i.polls, i.files, i.planned_at, i.updated_at, i.checksum"
)
ATTEMPT_COLUMNS = (
    "i.source_id, a.number, a.ref, a.intent_at, a.ended_at, a.verdict, a.http_status, "
    "a.body_code, a.reason, a.task_id, a.evidence, l.host, l.pid, l.boot_id"
)
DECISION_COLUMNS = "i.source_id, d.decided_at, d.decision, d.task_id, d.by, d.evidence"

LONGEST = 2000
"""Characters of a foreign message that are kept."""

# Sorted and without spaces: the same input has the same text, and so the same key.
_encode = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode


class Head(NamedTuple):
    """The part of an item's row that its next state follows from."""

    seq: int
    source_id: str
    key: str
    output_name: str | None
    state: str
    task_id: str | None
    attempts: int
    maybe_charged: int


def as_json(value: object, what: str) -> str:
    """Return *value* as JSON text.

    Raises:
        UsageError: JSON cannot hold it.
    """
    try:
        text = _encode(value)
        if not text.isascii():
            text.encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise UsageError(f"{what} cannot be kept as JSON: {exc}") from exc
    return text


def as_text(value: object, what: str) -> str:
    """Return *value* as plain text, if a row can be named by it.

    Raises:
        UsageError: It is no text, empty, has a NUL, or is no valid Unicode.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} must be text, not {type(value).__name__}")
    if type(value) is not str:
        value = str.__str__(value)  # the member of an enum: its format is not its value
    if value.isascii() and value and "\x00" not in value:
        return value  # a million ids come this way
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} {value!r} is no valid Unicode") from None
    if not value or "\x00" in value:
        raise UsageError(f"{what} is empty or has a NUL character")
    return value


def can_be_kept(text: str) -> bool:
    """True for text that a row can have; any other is in no row, and no database is asked."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text


def clean(text: object) -> str | None:
    """Return foreign text as it can be kept: clipped, valid, without NUL.  Never raises."""
    if text is None:
        return None
    return str(text)[:LONGEST].encode("utf-8", "replace").decode().replace("\x00", "?")


def as_evidence(evidence: Mapping[str, Any] | None) -> str | None:
    """Return evidence as JSON text; what JSON cannot hold becomes text.  Never raises."""
    if evidence is None:
        return None
    try:
        return json.dumps(dict(evidence), default=repr)
    except (TypeError, ValueError, RecursionError):
        return json.dumps({"repr": clean(repr(evidence))})


def whole(value: object) -> int | None:
    """Return an integer that a column can hold; anything else is None."""
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return None


def number(value: object) -> float | None:
    """Return a number as a float; anything else, and what is not finite, is None."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def key_of(model: str, input_text: str) -> str:
    """Return the hash of what is asked for: 16 hex digits."""
    return blake2b(f"{model}\n{input_text}".encode(), digest_size=8).hexdigest()


def id_hash(source_id: str) -> int:
    """Return the number under which `ids` finds a source id; several may share one."""
    return crc32(source_id.encode())


def seal(source_id: str, key: str, output_name: str | None, state: str, task_id: str | None) -> int:
    """Return the checksum of what decides about money; ``key`` stands for model and input."""
    return crc32("\x1f".join((source_id, key, output_name or "", state, task_id or "")).encode())


def read_head(row: tuple[Any, ...]) -> Head:
    """Check a row of `Head`'s columns and its checksum.

    Raises:
        JournalCorruptError: The row was changed by something else than this package.
    """
    head = Head(*row[:-1])
    if seal(head.source_id, head.key, head.output_name, head.state, head.task_id) != row[-1]:
        raise _damaged(head.seq)
    return head


def read_item(row: tuple[Any, ...]) -> Item:
    """Turn a row of `ITEM_COLUMNS` into an item, after checking it.

    Raises:
        JournalCorruptError: The row was changed by something else than this package.
    """
    seq, source_id, key, model, text, output_name, state, attempts, task_id = row[:9]
    reason, error_code, error_message, charged, credits, created_at, completed_at = row[9:16]
    noticed_at, polls, files, planned_at, updated_at, checksum = row[16:]
    try:
        if seal(source_id, key, output_name, state, task_id) != checksum:
            raise _damaged(seq)
        if key_of(model, text) != key:
            raise _damaged(seq)
        return Item(
            seq=seq,
            source_id=source_id,
            key=key,
            model=model,
            input=json.loads(text),
            output_name=output_name,
            state=ItemState(state),
            attempts=attempts,
            task_id=task_id,
            reason=reason,
            error_code=error_code,
            error_message=error_message,
            maybe_charged=bool(charged),
            credits=credits,
            created_at=created_at,
            completed_at=completed_at,
            noticed_at=noticed_at,
            polls=polls,
            files=tuple(json.loads(files)) if files else (),
            planned_at=planned_at,
            updated_at=updated_at,
        )
    except (TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise _damaged(seq) from exc


def read_attempt(row: tuple[Any, ...]) -> Attempt:
    """Turn a row of `ATTEMPT_COLUMNS` into an attempt."""
    source_id, number, ref, intent_at, ended_at, verdict, http_status, body_code = row[:8]
    reason, task_id, evidence, host, pid, boot_id = row[8:]
    return Attempt(
        source_id=source_id,
        number=number,
        ref=ref,
        intent_at=intent_at,
        ended_at=ended_at,
        verdict=None if verdict is None else Verdict(verdict),  # a CHECK guards the words
        http_status=http_status,
        body_code=body_code,
        reason=reason,
        task_id=task_id,
        evidence=_mapping(evidence),
        host=host,
        pid=pid,
        boot_id=boot_id,
    )


def read_decision(row: tuple[Any, ...]) -> Decision:
    """Turn a row of `DECISION_COLUMNS` into a decision."""
    source_id, decided_at, decision, task_id, by, evidence = row
    return Decision(
        source_id=source_id,
        decided_at=decided_at,
        decision=decision,
        task_id=task_id,
        by=by,
        evidence=_mapping(evidence),
    )


def _mapping(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {"damaged": text}  # evidence decides nothing by itself
    return found if isinstance(found, dict) else {"value": found}


def _damaged(seq: object) -> JournalCorruptError:
    return JournalCorruptError(
        f"row {seq} of the journal does not fit its checksum: the file was damaged or edited"
    )
