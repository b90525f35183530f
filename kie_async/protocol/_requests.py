"""Build the requests to send."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from kie_async.errors import UsageError
from kie_async.protocol._messages import Request

__all__ = [
    "callback_reference",
    "create_task_request",
    "credits_request",
    "download_url_request",
    "get_task_request",
    "with_reference",
]


def create_task_request(
    model: str, input: Mapping[str, Any], callback_url: str | None = None
) -> Request:
    """Build the request that starts a task and costs money.

    Raises:
        UsageError: The model is no text, the input no serialisable mapping, or the
            callback URL no http(s) URL.
    """
    if not isinstance(model, str) or not model or not model.isprintable():
        raise UsageError(f"model must be a name such as 'grok-imagine/upscale', not {model!r}")
    if not isinstance(input, (dict, Mapping)):  # the first spares the slow check of the second
        raise UsageError(f"input must be a mapping, not {type(input).__name__}")
    payload: dict[str, Any] = {"model": model, "input": dict(input)}
    if callback_url is not None:
        payload["callBackUrl"] = _checked_callback(callback_url)
    return Request(method="POST", path="/api/v1/jobs/createTask", body=_encode(payload), paid=True)


def with_reference(url: str, reference: str) -> str:
    """Return *url* with *reference* as the last part of its path.

    Not behind a query: nobody promises that Kie keeps one.
    """
    parts = urlsplit(url)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{reference}").geturl()


def callback_reference(url: str | None) -> str | None:
    """Return the last part of a callback URL's path, where a create has its reference."""
    try:
        path = urlsplit(url or "").path
    except ValueError:  # a record may hold anything
        return None
    return path.rstrip("/").rpartition("/")[2] or None


def get_task_request(task_id: str) -> Request:
    """Build the request that asks how a task is doing."""
    name = task_id if _UNQUOTED.fullmatch(task_id) else quote(task_id, safe="")
    return Request(method="GET", path=f"/api/v1/jobs/recordInfo?taskId={name}")


_UNQUOTED = re.compile(r"[A-Za-z0-9_-]*")


def credits_request() -> Request:
    """Build the request that asks for the balance."""
    return Request(method="GET", path="/api/v1/chat/credit")


def download_url_request(url: str) -> Request:
    """Build the request that turns a result URL into one that works for 20 minutes."""
    if not isinstance(url, str) or not url:
        raise UsageError("url must be the address of a result")
    return Request(method="POST", path="/api/v1/common/download-url", body=_encode({"url": url}))


_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def _encode(payload: Mapping[str, Any]) -> bytes:
    try:
        return _JSON.encode(payload).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        problem = str(exc)
    raise UsageError(f"the input cannot be written as JSON: {problem}")


def _checked_callback(url: object) -> str:
    """Return *url* if Kie could post to it."""
    if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
        try:
            parts = urlsplit(url)
            if parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0:
                return url
        except ValueError:  # a port that is no number, an unclosed bracket
            pass
    raise UsageError("callback_url must be an absolute http(s) URL in plain ASCII")
