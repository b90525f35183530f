"""Everything that can go wrong, as one tree.

KieError
├── UsageError                bad input; nothing was sent
├── SessionClosedError        the session is closed, or was never opened
├── WrongLoopError            the session belongs to another event loop or process
├── KieAPIError               the API answered and refused
│   ├── AuthenticationError       ├── InsufficientCreditsError
│   ├── NotFoundError             ├── ValidationError
│   ├── RateLimitError            ├── KeyQuotaError
│   ├── MaintenanceError          ├── ServerError
│   ├── GenerationError           └── FeatureDisabledError
├── KieConnectionError        no answer came
│   └── CreateInDoubtError        a create whose outcome nobody can know
├── ResponseError             an answer that cannot be read
├── TaskFailedError           the task ended in ``fail``
├── WaitTimeoutError          the task was still running; wait again
├── CallbackError             a callback that is not to be trusted
├── DownloadError             a result that could not be saved
└── JournalError              the journal cannot be used
    ├── JournalLockedError        ├── JournalCorruptError
    ├── JournalTooNewError        ├── KeyConflictError
    ├── ItemTakenError            └── StorageFullError
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    from kie_async.models import Task

__all__ = [
    "AuthenticationError",
    "CallbackError",
    "CreateInDoubtError",
    "DownloadError",
    "FeatureDisabledError",
    "GenerationError",
    "InsufficientCreditsError",
    "ItemTakenError",
    "JournalCorruptError",
    "JournalError",
    "JournalLockedError",
    "JournalTooNewError",
    "KeyConflictError",
    "KeyQuotaError",
    "KieAPIError",
    "KieConnectionError",
    "KieError",
    "MaintenanceError",
    "NotFoundError",
    "RateLimitError",
    "ResponseError",
    "ServerError",
    "SessionClosedError",
    "SpendLimitError",
    "StorageFullError",
    "TaskFailedError",
    "UsageError",
    "ValidationError",
    "WaitTimeoutError",
    "WrongLoopError",
]

BODY_KEPT = 500
"""Bytes of an unreadable answer that an error keeps: enough to recognise it."""


class KieError(Exception):
    """Root of every error that this package raises.

    Attributes:
        message: What happened, and what to do next.
        code: The ``code`` of Kie's answer, if there was one.
        http_status: The HTTP status, if there was one.
        task_id: The task that it is about, if its id is known.
        retryable: True if the same request may succeed later.
        maybe_charged: True if money may have been spent.
    """

    default_retryable: ClassVar[bool] = False
    default_maybe_charged: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        http_status: int | None = None,
        task_id: str | None = None,
        retryable: bool | None = None,
        maybe_charged: bool | None = None,
    ) -> None:
        """Keep the facts; what is not given follows from the class."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.http_status = http_status
        self.task_id = task_id
        self.retryable = self.default_retryable if retryable is None else retryable
        self.maybe_charged = self.default_maybe_charged if maybe_charged is None else maybe_charged

    def __str__(self) -> str:
        """Return the message; the task id always stands in it."""
        if self.task_id and self.task_id not in self.message:
            return f"{self.message} (task {self.task_id})"
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy by attributes: the arguments differ from class to class."""
        return (_rebuild, (type(self), self.message), self.__dict__)


def _rebuild(cls: type[KieError], message: str) -> KieError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    return error


class UsageError(KieError, ValueError):
    """The input cannot work; nothing was sent and nothing was paid."""


class SessionClosedError(KieError, RuntimeError):
    """The session is closed, or was not entered with ``async with``."""


class WrongLoopError(KieError, RuntimeError):
    """The session was entered in another event loop or another process."""


class KieAPIError(KieError):
    """The API answered and refused.

    Attributes:
        retry_after: Seconds that the server asked to wait, if it did.  No capture of
            Kie has this header.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        """Keep the facts of the refusal."""
        super().__init__(message, **facts)
        self.retry_after = retry_after


class AuthenticationError(KieAPIError):
    """The key is missing, wrong or not allowed from here (401, or 403 at the edge)."""


class InsufficientCreditsError(KieAPIError):
    """The balance does not cover this task (402, or 500 whose text says so)."""


class NotFoundError(KieAPIError):
    """No such task, model or address (404; ``recordInfo`` says 422 "recordInfo is null")."""


class ValidationError(KieAPIError):
    """The API refused the input (400, 422, or 500 whose text says so)."""


class RateLimitError(KieAPIError):
    """Too many requests in the window; this one was refused, not queued (429, 430)."""

    default_retryable = True


class KeyQuotaError(KieAPIError):
    """The key's own hourly, daily or total cap is reached (433)."""


class MaintenanceError(KieAPIError):
    """The service is being maintained (455, or 500 whose text says so)."""

    default_retryable = True


class ServerError(KieAPIError):
    """The server failed while it worked on the request (500, 5xx)."""

    default_retryable = True


class GenerationError(KieAPIError):
    """The answer says that generating failed (501, or 408: nothing for ten minutes)."""


class FeatureDisabledError(KieAPIError):
    """The model or feature is switched off (505, or "temporarily paused")."""


class KieConnectionError(KieError):
    """No usable answer came.

    Attributes:
        sent: False only on proof that no complete request left this process.
        partial: The part of the answer's body that came before the cut, in bytes.
    """

    default_retryable = True

    def __init__(
        self, message: str, *, sent: bool = True, partial: bytes = b"", **facts: Any
    ) -> None:
        """Keep how far the request got."""
        super().__init__(message, **facts)
        self.sent = sent
        self.partial = partial


class CreateInDoubtError(KieConnectionError):
    """A create may have been paid for, and its task id is unknown.

    It is never sent again by itself.  Look at the vendor's task log, or give each
    create a callback URL with a reference of its own: ``recordInfo`` echoes it.

    Attributes:
        reported: True if the API itself reported a failure (and may have worked
            nevertheless); False if no readable answer came.
        reference: The last path part of the create's callback URL, if it had one.
    """

    default_retryable = False
    default_maybe_charged = True

    def __init__(
        self,
        message: str,
        *,
        reported: bool = False,
        reference: str | None = None,
        **facts: Any,
    ) -> None:
        """Keep what is known about the lost outcome."""
        super().__init__(message, **facts)
        self.reported = reported
        self.reference = reference


class ResponseError(KieError):
    """The API's answer cannot be read.

    Attributes:
        body: Its first 500 bytes.
    """

    default_retryable = True

    def __init__(self, message: str, *, body: bytes = b"", **facts: Any) -> None:
        """Keep the beginning of the answer."""
        super().__init__(message, **facts)
        self.body = body[:BODY_KEPT]


class TaskFailedError(KieError):
    """The task ended in ``fail``.  Kie documents failed tasks as free.

    Attributes:
        task: The task as it ended.
    """

    def __init__(self, message: str, *, task: Task, **facts: Any) -> None:
        """Keep the task."""
        facts.setdefault("task_id", task.task_id)
        super().__init__(message, **facts)
        self.task = task


class WaitTimeoutError(KieError, TimeoutError):
    """The deadline passed.  If a task id is there, the task goes on: wait for it again.

    Attributes:
        task: The task as it was last seen, or None.
    """

    default_retryable = True

    def __init__(self, message: str, *, task: Task | None = None, **facts: Any) -> None:
        """Keep the last look."""
        super().__init__(message, **facts)
        self.task = task


class CallbackError(KieError):
    """A callback whose signature, age or form is not to be trusted."""


class DownloadError(KieError):
    """A result could not be saved.  The paid task is not affected: download it again.

    Attributes:
        saved: The files of the same task that are whole and in place.
    """

    default_retryable = True

    def __init__(self, message: str, *, saved: tuple[Path, ...] = (), **facts: Any) -> None:
        """Keep what was saved nevertheless."""
        super().__init__(message, **facts)
        self.saved = saved


class SpendLimitError(KieError):
    """A bulk run reached its own cap on credits; nothing more was created."""


class JournalError(KieError):
    """The journal cannot be used; nothing is sent without it."""


class JournalLockedError(JournalError):
    """Another running process holds this journal."""


class JournalCorruptError(JournalError):
    """The file is damaged, or is no journal of ours.  It was left as it is."""


class JournalTooNewError(JournalError):
    """A later version of this package wrote the journal."""


class ItemTakenError(JournalError):
    """Another process has begun this item meanwhile; nothing was sent here."""

    default_retryable = True


class KeyConflictError(JournalError):
    """A source id came back with other parameters than those on record."""


class StorageFullError(JournalError):
    """The disk is full; new creates have stopped."""
