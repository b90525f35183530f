"""Read the answers that are no creates: tasks, balance, addresses, uploads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from kie_async.errors import KieError, NotFoundError, ValidationError
from kie_async.models import Task, TaskState, UploadedFile
from kie_async.protocol._envelope import Envelope, parse, refusal, unreadable
from kie_async.protocol._messages import Response

__all__ = ["lacks_result", "read_credits", "read_download_url", "read_task", "read_upload"]

_NUMBER_CAP = 4_102_444_800.0  # the year 2100 in Unix seconds: later stamps are nonsense
_SMALLEST_MS = 1e11  # a smaller stamp is in seconds: in milliseconds it would be 1973


def read_task(response: Response, task_id: str) -> Task:
    """Read a task from a ``recordInfo`` answer.

    Raises:
        NotFoundError: The API knows no such task, or not yet.
        KieAPIError: The API refused.
        ResponseError: The answer cannot be read, or speaks of another task.
    """
    envelope = parse(response)
    if envelope is None or envelope.code != 200:
        raise _task_refusal(response, envelope, task_id)
    data = envelope.data
    if not isinstance(data, dict):
        raise unreadable(response, task_id, "code 200 without a task")
    if data.get("taskId", task_id) != task_id:
        raise unreadable(response, task_id, "the answer speaks of another task")
    urls, result = _results(data)
    state = data.get("state")
    return Task(
        task_id=task_id,
        model=_text(data.get("model")),
        state=_STATES.get(state, TaskState.UNKNOWN)
        if isinstance(state, str)
        else TaskState.UNKNOWN,
        result_urls=urls,
        result_object=result,
        fail_code=_text(data.get("failCode")),
        fail_message=_text(data.get("failMsg")),
        created_at=_unix_seconds(data.get("createTime")),
        completed_at=_unix_seconds(data.get("completeTime")),
        credits_consumed=_amount(data.get("creditsConsumed")),
        raw=data,
    )


_STATES = {state.value: state for state in TaskState if state is not TaskState.UNKNOWN}


def _task_refusal(response: Response, envelope: Envelope | None, task_id: str) -> KieError:
    error = refusal(response, envelope, task_id)
    text = envelope.message.lower() if envelope is not None else ""
    if isinstance(error, ValidationError) and ("is null" in text or "not exist" in text):
        return NotFoundError(
            f"Kie knows no such task ({text}) - check the id; records are kept two months",
            code=error.code,
            http_status=error.http_status,
            task_id=task_id,
        )
    return error


def _results(data: Mapping[str, Any]) -> tuple[tuple[str, ...], Any]:
    """Return the result's URLs and its other content.

    ``response`` (seen since 2026-09) is preferred; ``resultJson`` is text, empty text,
    null or an object.
    """
    for name in ("response", "resultJson"):
        found = data.get(name)
        if isinstance(found, str):
            try:
                found = json.loads(found) if found else None
            except (ValueError, RecursionError):
                found = None
        if isinstance(found, dict) and found:
            listed = found.get("resultUrls")
            urls = (
                tuple(url for url in listed if isinstance(url, str) and url)
                if isinstance(listed, list)
                else ()
            )
            other = found.get("resultObject")
            if other is None and not urls and set(found) - {"resultUrls"}:
                other = found
            if urls or other is not None:
                return urls, other
    return (), None


def lacks_result(task: Task) -> bool:
    """True for a success without anything in it: the record may be late (reported)."""
    return task.succeeded and not task.result_urls and task.result_object is None


def read_credits(response: Response) -> float:
    """Read the balance; live it is a float, whatever the documents say."""
    envelope = parse(response)
    if envelope is None or envelope.code != 200:
        raise refusal(response, envelope, None)
    balance = _amount(envelope.data, negative=True)
    if balance is None:
        raise unreadable(response, None, "code 200 without a balance")
    return balance


def read_download_url(response: Response) -> str:
    """Read the address that works for 20 minutes."""
    envelope = parse(response)
    if envelope is None or envelope.code != 200:
        raise refusal(response, envelope, None)
    if not isinstance(envelope.data, str) or not envelope.data.startswith(("https:", "http:")):
        raise unreadable(response, None, "code 200 without an address")
    return envelope.data


def read_upload(response: Response) -> UploadedFile:
    """Read what an upload answered (one shape for its three ways, captured 2026)."""
    envelope = parse(response)
    if envelope is None or envelope.code != 200 or envelope.whole.get("success") is False:
        raise refusal(response, envelope, None)
    data = envelope.data if isinstance(envelope.data, dict) else {}
    url = _text(data.get("downloadUrl")) or _text(data.get("fileUrl"))
    if url is None:
        raise unreadable(response, None, "code 200 without a file")
    size = _amount(data.get("fileSize"))
    return UploadedFile(
        file_name=_text(data.get("fileName")) or "",
        file_path=_text(data.get("filePath")) or "",
        download_url=url,
        size=None if size is None else int(size),
        mime_type=_text(data.get("mimeType")),
        raw=data,
    )


def _text(value: Any) -> str | None:
    """Return a field as text; codes were seen as numbers and as words."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    try:
        return str(value) or None
    except ValueError:  # an integer of thousands of digits
        return None


def _unix_seconds(value: Any) -> float | None:
    """Read a stamp in milliseconds (documented) or seconds (seen elsewhere)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        return None
    seconds = value / 1000 if value >= _SMALLEST_MS and value < 1e17 else value
    return float(seconds) if seconds < _NUMBER_CAP else None


def _amount(value: Any, *, negative: bool = False) -> float | None:
    """Read a number of credits or bytes; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(amount) or (amount < 0 and not negative):
        return None
    return amount
