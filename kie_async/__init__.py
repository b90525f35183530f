"""An asyncio-native client for Kie AI's paid job API.

    async with KieSession() as kie:
        task = await kie.upscale("…")

No task is lost, none is paid for twice, no secret leaks.
"""

from __future__ import annotations

from kie_async.errors import (
    AuthenticationError,
    CallbackError,
    CreateInDoubtError,
    DownloadError,
    FeatureDisabledError,
    GenerationError,
    InsufficientCreditsError,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    KeyConflictError,
    KeyQuotaError,
    KieAPIError,
    KieConnectionError,
    KieError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    ServerError,
    SessionClosedError,
    SpendLimitError,
    StorageFullError,
    TaskFailedError,
    UsageError,
    ValidationError,
    WaitTimeoutError,
    WrongLoopError,
)
from kie_async.limiter import RateLimiter, SlidingWindowLimiter
from kie_async.models import Outcome, OutcomeStatus, Task, TaskState, UploadedFile
from kie_async.polling import PollSchedule
from kie_async.retry import CreateRetry, RetryPolicy
from kie_async.session import KieSession, upscale

__version__ = "0.1.0"

__all__ = [
    "AuthenticationError",
    "CallbackError",
    "CreateInDoubtError",
    "CreateRetry",
    "DownloadError",
    "FeatureDisabledError",
    "GenerationError",
    "InsufficientCreditsError",
    "JournalCorruptError",
    "JournalError",
    "JournalLockedError",
    "JournalTooNewError",
    "KeyConflictError",
    "KeyQuotaError",
    "KieAPIError",
    "KieConnectionError",
    "KieError",
    "KieSession",
    "MaintenanceError",
    "NotFoundError",
    "Outcome",
    "OutcomeStatus",
    "PollSchedule",
    "RateLimitError",
    "RateLimiter",
    "ResponseError",
    "RetryPolicy",
    "ServerError",
    "SessionClosedError",
    "SlidingWindowLimiter",
    "SpendLimitError",
    "StorageFullError",
    "Task",
    "TaskFailedError",
    "TaskState",
    "UploadedFile",
    "UsageError",
    "ValidationError",
    "WaitTimeoutError",
    "WrongLoopError",
    "__version__",
    "upscale",
]
