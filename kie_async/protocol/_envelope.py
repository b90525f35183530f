"""Read the frame of an answer, and make the error that a refusal stands for."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from kie_async.errors import (
    AuthenticationError,
    FeatureDisabledError,
    GenerationError,
    InsufficientCreditsError,
    KeyQuotaError,
    KieAPIError,
    KieError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    ValidationError,
)
from kie_async.protocol._messages import Response

__all__ = ["Envelope", "api_error", "class_of", "parse", "refusal", "unreadable"]

RETRY_AFTER_CAP = 300.0
"""Seconds: a longer ``Retry-After`` is cut.  No capture of Kie has the header at all."""


@frozen
class Envelope:
    """The frame of every JSON answer; ``code`` is None if it is no envelope."""

    code: int | None
    message: str
    data: Any
    whole: Any


def parse(response: Response) -> Envelope | None:
    """Return the envelope, or None if the body is no JSON at all."""
    try:
        text = response.body.decode()
        whole = json.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(whole, dict):
        return Envelope(None, "", None, whole)
    said = whole.get("msg") or whole.get("message") or ""
    return Envelope(_int_like(whole.get("code")), _clean(said), whole.get("data"), whole)


def _int_like(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 100_000:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        return int(value)
    return None


def _clean(text: Any) -> str:
    """Make a foreign text fit for one line of a message."""
    if not isinstance(text, str):
        return ""
    cut: str = text[:300]
    if cut.isprintable():
        return cut.strip()
    return "".join(char if char.isprintable() else " " for char in cut).strip()


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Read ``Retry-After``, seconds or a date, as seconds; what makes no sense is ignored."""
    told = headers.get("retry-after", "")
    try:
        seconds = float(told)
    except ValueError:
        seconds = _between(headers.get("date", ""), told)
    if not math.isfinite(seconds) or seconds < 0:
        return None
    return min(seconds, RETRY_AFTER_CAP)


def _between(start: str, end: str) -> float:
    """Return the seconds between two HTTP dates; NaN if one is none.

    The answer's own date is the start: no clock but the server's is needed.
    """
    from email.utils import parsedate_to_datetime  # for a header that no capture of Kie has

    try:
        return (parsedate_to_datetime(end) - parsedate_to_datetime(start)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return math.nan


_ADVICE: Mapping[type[KieAPIError], str] = {
    AuthenticationError: "check KIE_API_KEY and the key's IP whitelist on Kie's key page",
    InsufficientCreditsError: "top up, then run the same again",
    NotFoundError: "check the id, and the base URL",
    ValidationError: "correct the input; nothing was created",
    RateLimitError: "wait a window of 10 s; it was refused, not queued",
    KeyQuotaError: "raise the key's cap on Kie's key page, or use another key",
    MaintenanceError: "try again in some minutes",
    ServerError: "try again later",
    GenerationError: "look at the task log on Kie's site before you create it again",
    FeatureDisabledError: "the model is switched off at present; use another, or wait",
}

_BY_CODE: Mapping[int, type[KieAPIError]] = {
    400: ValidationError,
    401: AuthenticationError,
    402: InsufficientCreditsError,
    403: AuthenticationError,
    404: NotFoundError,
    408: GenerationError,
    422: ValidationError,
    425: RateLimitError,
    429: RateLimitError,
    430: RateLimitError,
    433: KeyQuotaError,
    455: MaintenanceError,
    501: GenerationError,
    505: FeatureDisabledError,
    531: GenerationError,
}

# Code 500 carries four other meanings in its text (captured and reported 2026).
_BY_TEXT: tuple[tuple[re.Pattern[str], type[KieAPIError]], ...] = (
    (re.compile(r"credits? insufficient|insufficient credits?", re.I), InsufficientCreditsError),
    (re.compile(r"being maintained|under maintenance", re.I), MaintenanceError),
    (re.compile(r"temporarily paused", re.I), FeatureDisabledError),
    (re.compile(r"\bis required\b|required field|not supported|不能为空", re.I), ValidationError),
)


def class_of(code: int, text: str) -> type[KieAPIError]:
    if code == 500:
        for pattern, cls in _BY_TEXT:
            if pattern.search(text):
                return cls
    if code in _BY_CODE:
        return _BY_CODE[code]
    return ServerError if code >= 500 else ValidationError


def refusal(response: Response, envelope: Envelope | None, task_id: str | None) -> KieError:
    """Make the error that an answer without success stands for."""
    if envelope is not None and envelope.code is not None and envelope.code != 200:
        return api_error(envelope.code, envelope.message, response, task_id)
    if envelope is None and response.status >= 400:
        return _status_error(response, task_id)
    what = f"HTTP {response.status} and no readable answer"
    if 300 <= response.status < 400:
        what = f"HTTP {response.status}: the API redirects, and the key is not sent elsewhere"
    return ResponseError(
        f"{what}; if it stays so, check the base URL",
        body=response.body,
        http_status=response.status,
        task_id=task_id,
        retryable=not 300 <= response.status < 400,
    )


def api_error(code: int, text: str, response: Response, task_id: str | None) -> KieAPIError:
    cls = class_of(code, text)
    said = f"Kie answered {code}" + (f": {text}" if text else "")
    return cls(
        f"{said.rstrip('.')} - {_ADVICE[cls]}",
        code=code,
        http_status=response.status,
        task_id=task_id,
        retry_after=_retry_after(response.headers),
    )


def _status_error(response: Response, task_id: str | None) -> KieAPIError:
    """Judge by the HTTP status alone: a proxy or the edge answered, not the API."""
    status = response.status
    cls = _BY_CODE.get(status, ServerError if status >= 500 else ValidationError)
    if status in {408, 409, 499, 501, 505}:  # as HTTP statuses these speak of the hop
        cls = ServerError
    advice = _ADVICE[cls]
    if status == 403:
        advice = "the edge blocked the request, which says nothing about the key; try later"
    return cls(
        f"HTTP {status} without an answer from the API - {advice}",
        http_status=status,
        task_id=task_id,
        retry_after=_retry_after(response.headers),
        # The API itself did not speak, so a later request may well reach it.
        retryable=cls.default_retryable or status in {403, 404},
    )


def unreadable(response: Response, task_id: str | None, what: str) -> ResponseError:
    return ResponseError(
        f"the API's answer cannot be used ({what}); try again",
        body=response.body,
        http_status=response.status,
        task_id=task_id,
    )
