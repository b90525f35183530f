"""Reads a callback's body: JSON in, a task id out.  Every byte of it is hostile."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from kie_async.callbacks._refusal import Reason, refused
from kie_async.errors import UsageError
from kie_async.models import TaskState, check_task_id

__all__ = ["MAX_BODY", "read_body"]

MAX_BODY = 256 * 1024
"""Bytes of a callback's body.  Documented samples have about one KiB."""
MAX_DEPTH = 32
"""Levels of nesting; the documented body has two."""

MAX_BRACKETS = 4096
"""Objects and lists, brackets in texts included: what parsing costs is mostly theirs."""

_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def read_body(body: bytes) -> tuple[str, TaskState]:
    """Return the task id of a callback's body, and the state that it claims.

    Raises:
        CallbackError: The body is too large (413), no JSON object with one id (400), or
            its ids differ from each other (401).
    """
    if len(body) > MAX_BODY:
        raise refused(Reason.SIZE)
    content = _parsed(body)
    if not isinstance(content, dict):
        raise refused(Reason.JSON)
    data = content.get("data")
    inner: dict[str, Any] = data if isinstance(data, dict) else {}
    return _task_id(content, inner), _state(inner.get("state"))


def _parsed(body: bytes) -> Any:
    if _too_rich(body):
        raise refused(Reason.JSON)
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError):
        # Without the cause: it holds the body.
        raise refused(Reason.JSON) from None


def _too_rich(body: bytes) -> bool:
    """Count the nesting before the parser recurses: a service may have raised its limit."""
    brackets = body.count(b"[") + body.count(b"{")
    if brackets <= MAX_DEPTH or brackets > MAX_BRACKETS:
        return brackets > MAX_BRACKETS
    depth = 0
    for bracket in _TEXT.sub(b"", body).translate(None, _ALL_BUT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that stands twice: two readers would read two ids."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise refused(Reason.JSON)
    return content


def _no_constant(_name: str) -> NoReturn:
    raise refused(Reason.JSON)


def _task_id(content: dict[str, Any], inner: dict[str, Any]) -> str:
    """Return the one id.  The documents and their samples name four places for it."""
    places = (
        inner.get("taskId"),
        inner.get("task_id"),
        content.get("taskId"),
        content.get("task_id"),
    )
    found = [place for place in places if place is not None and place != ""]
    if not found:
        raise refused(Reason.NO_ID)
    if any(other != found[0] for other in found[1:]):
        raise refused(Reason.SEVERAL_IDS)
    try:
        task_id = check_task_id(found[0])
    except UsageError:
        raise refused(Reason.NO_ID) from None
    if "." in task_id:  # it would make "taskId.timestamp" ambiguous
        raise refused(Reason.NO_ID)
    return task_id


def _state(word: object) -> TaskState:
    try:
        return TaskState(word)
    except ValueError:
        return TaskState.UNKNOWN
