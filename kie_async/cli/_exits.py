"""Exit codes: what a script learns without reading a word."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from kie_async.errors import (
    AuthenticationError,
    CreateInDoubtError,
    InsufficientCreditsError,
    KeyQuotaError,
    KieError,
    SpendLimitError,
    TaskFailedError,
    UsageError,
    WaitTimeoutError,
)

__all__ = ["Exit", "Refused", "exit_of", "worst"]


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    OTHER = 1
    USAGE = 2
    AUTHENTICATION = 3
    CREDITS = 4
    FAILED = 5
    TIMED_OUT = 6
    IN_DOUBT = 7
    STOPPED = 8
    INTERRUPTED = 130
    TERMINATED = 143


class Refused(Exception):  # noqa: N818 - it is no fault of the program
    """A command cannot begin; nothing was sent."""

    def __init__(self, message: str, code: Exit, step: str) -> None:
        super().__init__(message)
        self.code = code
        self.step = step


OF_ERROR: tuple[tuple[type[KieError], Exit], ...] = (
    (CreateInDoubtError, Exit.IN_DOUBT),
    (AuthenticationError, Exit.AUTHENTICATION),
    (InsufficientCreditsError, Exit.CREDITS),
    (KeyQuotaError, Exit.CREDITS),
    (SpendLimitError, Exit.CREDITS),
    (TaskFailedError, Exit.FAILED),
    (WaitTimeoutError, Exit.TIMED_OUT),
    (UsageError, Exit.USAGE),
)

SERIOUS = (
    Exit.IN_DOUBT,
    Exit.STOPPED,
    Exit.AUTHENTICATION,
    Exit.CREDITS,
    Exit.FAILED,
    Exit.TIMED_OUT,
    Exit.OTHER,
    Exit.USAGE,
    Exit.OK,
)
"""The most serious first: money that may be lost, then what stops everything."""


def exit_of(error: BaseException | None) -> Exit:
    """Return the exit code for one error, or OK for none."""
    if error is None:
        return Exit.OK
    for kind, code in OF_ERROR:
        if isinstance(error, kind):
            return code
    return Exit.OTHER


def worst(codes: Iterable[Exit]) -> Exit:
    """Return the most serious of *codes*; OK if there are none."""
    return min(codes, key=SERIOUS.index, default=Exit.OK)
