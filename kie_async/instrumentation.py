"""What happened, as frozen events for whoever wants to watch.

A hook is any callable that takes one event.  It runs on the event loop, so it must be
quick; what it raises is logged and goes no further.  Without hooks no event is built.
No event holds a key, a header or the query of a result URL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from kie_async.models import TaskState

__all__ = [
    "CreateInDoubt",
    "DoubleSpend",
    "Event",
    "FileSaved",
    "Hook",
    "Hooks",
    "RequestRefused",
    "RequestRetried",
    "RequestSent",
    "TaskChanged",
    "TaskCreated",
    "TaskOrphaned",
    "TurnTaken",
    "tell_orphan",
]

logger = logging.getLogger("kie_async")
logger.addHandler(logging.NullHandler())


@frozen(kw_only=True)
class Event:
    """Something that happened; ``task_id`` is None where no task is known yet."""

    task_id: str | None = None


@frozen(kw_only=True)
class TurnTaken(Event):
    """A request got its turn from a rate limiter; ``waited`` is in seconds.

    For a create that is the wait for room under ``max_concurrency``, too.
    """

    lane: str
    waited: float


@frozen(kw_only=True)
class RequestSent(Event):
    """A request was answered, or failed; ``seconds`` is how long that took."""

    route: str
    seconds: float
    http_status: int | None = None


@frozen(kw_only=True)
class RequestRefused(Event):
    """The API refused a request, or no usable answer came."""

    route: str
    error: str
    code: int | None = None
    http_status: int | None = None


@frozen(kw_only=True)
class RequestRetried(Event):
    """A request will be sent again after ``delay`` seconds."""

    route: str
    failures: int
    delay: float
    error: str


@frozen(kw_only=True)
class TaskCreated(Event):
    """A create was accepted; the task is paid for and its id is known.

    ``seconds`` is how long its last request took.
    """

    model: str
    seconds: float | None = None


@frozen(kw_only=True)
class TaskChanged(Event):
    """A poll found a task in another state than the poll before.

    ``polls`` is how often it has been looked at.  ``duration`` and ``lateness`` are
    seconds, known at its end: how long it took, and how late that was noticed.
    """

    state: TaskState
    polls: int
    duration: float | None = None
    lateness: float | None = None


@frozen(kw_only=True)
class TaskOrphaned(Event):
    """A paid task whose caller is gone: it was cancelled, or its deadline passed.

    Or nothing has its id because its record could not be kept; ``reason`` says which.
    Keep ``task_id``: ``wait_for_result(task_id)`` goes on where the caller left.
    """

    model: str
    reason: str


@frozen(kw_only=True)
class CreateInDoubt(Event):
    """A create may have been paid for, and its task id is unknown.

    ``seconds`` is how long an answer was waited for.
    """

    model: str
    reason: str
    reference: str | None = None
    seconds: float | None = None


@frozen(kw_only=True)
class DoubleSpend(Event):
    """Two tasks were created for one source: ``task_id`` is the one too many."""

    source_id: str


@frozen(kw_only=True)
class FileSaved(Event):
    """A result is whole, checked and in place; ``size`` is in bytes."""

    path: Path
    size: int
    seconds: float | None = None


Hook = Callable[[Event], None]


class Hooks(tuple[Hook, ...]):
    """The hooks of a session.  False when there are none, so that callers skip the work.

    A tuple, because the question is asked eight times for each task.
    """

    __slots__ = ()

    def emit(self, event: Event) -> None:
        """Give *event* to every hook; an exception of one stops nobody else."""
        for hook in self:
            try:
                hook(event)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                logger.exception("a hook failed on %s", type(event).__name__)


def tell_orphan(tell: Hook, task_id: str, model: str, reason: str) -> None:
    """Log that a paid task lost its caller, and give its id to *tell*."""
    logger.warning("task %s was created and its caller is gone: %s", task_id, reason)
    tell(TaskOrphaned(task_id=task_id, model=model, reason=reason))
