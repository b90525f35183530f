"""Judge the answer to a create: what does it say about the money?"""

from __future__ import annotations

import re
from enum import Enum

from attrs import frozen

from kie_async.errors import (
    CreateInDoubtError,
    GenerationError,
    KieConnectionError,
    KieError,
    ResponseError,
    ServerError,
    SessionClosedError,
    UsageError,
    WrongLoopError,
)
from kie_async.protocol._envelope import api_error, class_of, parse, refusal
from kie_async.protocol._messages import Request, Response

__all__ = ["CreateAnswer", "Verdict", "judge_create", "judge_silence"]

_ID_IN_BYTES = re.compile(rb'"(?:taskId|task_id|recordId)"\s*:\s*"([A-Za-z0-9_\-]{4,128})"')


class Verdict(Enum):
    """What an answer to a create says about the money.

    ACCEPTED: a task exists, and its id is known.  REJECTED: surely nothing was created.
    REPORTED: the API itself named a failure and no task; evidence, not proof.
    NOT_SENT: no complete request left this process.  IN_DOUBT: nobody can know.
    """

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    REPORTED = "reported"
    NOT_SENT = "not_sent"
    IN_DOUBT = "in_doubt"


@frozen(kw_only=True)
class CreateAnswer:
    """The verdict on one attempt to create: with the task id, or with the error."""

    verdict: Verdict
    task_id: str | None = None
    error: KieError | None = None


_REFUSED_STATUS = frozenset(
    (400, 401, 402, 403, 404, 405, 406, 411, 413, 414, 415, 417, 421, 422, 425, 426, 428, 429)
) | {430, 431, 433, 451, 455, 505, 521, 523, 525, 526}
_EDGE_COULD_NOT_CONNECT = frozenset((521, 523, 525, 526))


def judge_create(response: Response, request: Request, *, trust_503: bool = False) -> CreateAnswer:
    """Say what an answer to a create means for the money.

    A valid task id anywhere in the answer wins, whatever status or code say.  Then the
    envelope's code decides, then the HTTP status; what is left is in doubt.

    Args:
        response: The whole answer.
        request: What was sent; an id that stands in it is an echo, not a new task.
        trust_503: Take a bare HTTP 503 as "not taken".
    """
    task_id = _salvage_id(response.body, request)
    if task_id is not None:
        return CreateAnswer(verdict=Verdict.ACCEPTED, task_id=task_id)
    envelope = parse(response)
    if envelope is not None and envelope.code is not None:
        return _judge_code(response, envelope.code, envelope.message)
    if response.status in _REFUSED_STATUS or 300 <= response.status < 400:
        error = refusal(response, None, None)
        if response.status in _EDGE_COULD_NOT_CONNECT:
            error.retryable = True
        return CreateAnswer(verdict=Verdict.REJECTED, error=error)
    if response.status == 503 and trust_503:
        return CreateAnswer(verdict=Verdict.REJECTED, error=refusal(response, None, None))
    return _in_doubt(f"HTTP {response.status} without a task id", response.status)


def _judge_code(response: Response, code: int, text: str) -> CreateAnswer:
    if code < 400:  # 200 without an id contradicts itself; others are unknown
        return _in_doubt(f"code {code} without a task id", response.status, code=code)
    error = api_error(code, text, response, None)
    if code == 408 or (
        code >= 500 and code != 505 and class_of(code, text) in (ServerError, GenerationError)
    ):
        doubt = CreateInDoubtError(
            f"{error.message}; a task may have been created all the same",
            code=code,
            http_status=response.status,
            reported=True,
        )
        return CreateAnswer(verdict=Verdict.REPORTED, error=doubt)
    return CreateAnswer(verdict=Verdict.REJECTED, error=error)


def judge_silence(error: KieError, request: Request) -> CreateAnswer:
    """Say what a create without a whole answer means for the money.

    Only proof that no complete request left makes it NOT_SENT.  A task id in the bytes
    that came before the cut is as good as in a whole answer.
    """
    if isinstance(error, UsageError | SessionClosedError | WrongLoopError):
        return CreateAnswer(verdict=Verdict.NOT_SENT, error=error)
    came = b""
    if isinstance(error, KieConnectionError):
        came = error.partial
    elif isinstance(error, ResponseError):
        came = error.body
    task_id = _salvage_id(came, request)
    if task_id is not None:
        return CreateAnswer(verdict=Verdict.ACCEPTED, task_id=task_id)
    if isinstance(error, KieConnectionError) and not error.sent:
        return CreateAnswer(verdict=Verdict.NOT_SENT, error=error)
    return _in_doubt(error.message, error.http_status)


def _in_doubt(reason: str, status: int | None, code: int | None = None) -> CreateAnswer:
    error = CreateInDoubtError(
        f"a create was sent and its outcome is unknown ({reason}): a task may exist and be "
        "paid for - look at Kie's task log before you create it again",
        code=code,
        http_status=status,
    )
    return CreateAnswer(verdict=Verdict.IN_DOUBT, error=error)


def _salvage_id(body: bytes, request: Request) -> str | None:
    """Find a task id in an answer or in what came of it; None if there is none."""
    for match in _ID_IN_BYTES.finditer(body):
        if match[1] not in (request.body or b""):
            return match[1].decode()
    return None
