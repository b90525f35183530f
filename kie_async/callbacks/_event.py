"""What a callback comes to: an event for us, a reply for its sender.

Values only.  A callback's body is not in them: its signature does not cover it.
"""

from __future__ import annotations

from attrs import frozen

from kie_async.instrumentation import Event
from kie_async.models import TaskState

__all__ = [
    "CallbackClockSkewed",
    "CallbackEvent",
    "CallbackReceived",
    "CallbackRefused",
    "Reply",
]


@frozen(kw_only=True)
class CallbackEvent:
    """Somebody says that a task has changed: look at it with ``recordInfo``.

    Attributes:
        task_id: The task.
        signed: True if a signature covers the id and the time.  False is a hint: anybody
            may have sent it.
        sent_at: Unix seconds that the sender signed, or None for a hint.
        received_at: Unix seconds when it came.
        state: What the body says about the task.  Never signed, so never the truth.
        reference: The create that it is about, if its URL carried one of ours.
    """

    task_id: str
    signed: bool
    sent_at: float | None
    received_at: float
    state: TaskState = TaskState.UNKNOWN
    reference: str | None = None


@frozen(kw_only=True)
class Reply:
    """What to answer, and what came of the callback.

    Attributes:
        status: The HTTP status.
        body: JSON; the same for every refusal, and nothing of the request is in it.
        headers: More headers to send.
        event: What happened, or None: it was refused, or known already.
        refusal: One word for why it was refused, or None.  For logs, not for the sender.
    """

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    event: CallbackEvent | None = None
    refusal: str | None = None


@frozen(kw_only=True)
class CallbackReceived(Event):
    """A callback was accepted for the first time."""

    signed: bool
    reference: str | None = None


@frozen(kw_only=True)
class CallbackRefused(Event):
    """A callback was refused; ``reason`` is one word: "time", "signature", "size"."""

    reason: str
    http_status: int


@frozen(kw_only=True)
class CallbackClockSkewed(Event):
    """Many callbacks are refused for their time: a clock is wrong, here or there.

    Waiting goes on by polls.  The counts are those of the last minutes.
    """

    refused: int
    total: int
