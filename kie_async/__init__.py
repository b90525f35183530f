"""An asyncio-native client for Kie AI's paid job API.

    async with KieSession() as kie:
        task = await kie.upscale("…")

No task is lost, none is paid for twice, no secret leaks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kie_async.errors import (
    AuthenticationError,
    CallbackError,
    CreateInDoubtError,
    DownloadError,
    FeatureDisabledError,
    GenerationError,
    InsufficientCreditsError,
    ItemTakenError,
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

if TYPE_CHECKING:
    from kie_async.bulk import BulkItem, BulkRun
    from kie_async.callbacks import CallbackEvent, CallbackReceiver, verify_callback
    from kie_async.journal import Journal
    from kie_async.redis_doorbell import RedisDoorbell as RedisDoorbell
    from kie_async.redis_limiter import RedisLimiter as RedisLimiter

__version__ = "0.1.0"

# Loaded when they are asked for: they bring a database, or what a server needs.
_LATER = {
    "BulkItem": "kie_async.bulk",
    "BulkRun": "kie_async.bulk",
    "CallbackEvent": "kie_async.callbacks",
    "CallbackReceiver": "kie_async.callbacks",
    "Journal": "kie_async.journal",
    "RedisDoorbell": "kie_async.redis_doorbell",  # with the extra only, so not in __all__
    "RedisLimiter": "kie_async.redis_limiter",
    "verify_callback": "kie_async.callbacks",
}


def __getattr__(name: str) -> Any:
    """Load a public name at its first use."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LATER[name]), name)
    globals()[name] = found
    return found


__all__ = [
    "AuthenticationError",
    "BulkItem",
    "BulkRun",
    "CallbackError",
    "CallbackEvent",
    "CallbackReceiver",
    "CreateInDoubtError",
    "CreateRetry",
    "DownloadError",
    "FeatureDisabledError",
    "GenerationError",
    "InsufficientCreditsError",
    "ItemTakenError",
    "Journal",
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
    "verify_callback",
]
