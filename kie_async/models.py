"""Frozen values in the API's own words.  They do nothing; rules do."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from attrs import field, frozen

from kie_async.errors import KieError, UsageError

__all__ = [
    "MAX_ID_LENGTH",
    "Outcome",
    "OutcomeStatus",
    "Secret",
    "Task",
    "TaskState",
    "UploadedFile",
    "check_seconds",
    "check_task_id",
]

MAX_ID_LENGTH = 100
"""Characters of a task id that an upscale takes (documented)."""

_USUAL_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")  # needs no closer look, which takes 6 µs


class TaskState(str, Enum):
    """The state of a task, as ``recordInfo`` names it.

    Grok models were seen to stay ``waiting`` until they are done (captured 2026-04).
    """

    WAITING = "waiting"
    QUEUING = "queuing"
    GENERATING = "generating"
    SUCCESS = "success"
    FAIL = "fail"
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        """Return the API's word."""
        return self.value


class OutcomeStatus(str, Enum):
    """How one item of a bulk run ended."""

    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"
    NOT_SENT = "not_sent"

    def __str__(self) -> str:
        """Return the plain word."""
        return self.value


@frozen(kw_only=True)
class Task:
    """A task as the API last described it.

    ``state`` is :attr:`TaskState.UNKNOWN` for a word that this version does not know;
    the word itself stays in ``raw["state"]``, and the task counts as running.  Times are
    Unix seconds.  ``credits_consumed`` is filled while the task still waits: it is the
    price reserved, not a proof of charge (captured 2026-08).  ``raw`` is the whole
    record, with every field that is not named here.
    """

    task_id: str
    model: str | None = None
    state: TaskState = TaskState.UNKNOWN
    result_urls: tuple[str, ...] = ()
    result_object: Any = None
    fail_code: str | None = None
    fail_message: str | None = None
    created_at: float | None = None
    completed_at: float | None = None
    credits_consumed: float | None = None
    raw: Mapping[str, Any] = field(factory=dict, repr=False, eq=False)

    @property
    def succeeded(self) -> bool:
        """True when the task ended well."""
        return self.state is TaskState.SUCCESS

    @property
    def failed(self) -> bool:
        """True when the task ended in ``fail``."""
        return self.state is TaskState.FAIL

    @property
    def done(self) -> bool:
        """True when the task has ended, well or not."""
        return self.succeeded or self.failed

    @property
    def input(self) -> Mapping[str, Any] | None:
        """The input that the task was created with, or None if the record lacks it."""
        inner = _parsed(self._param.get("input"))
        return inner if isinstance(inner, dict) else None

    @property
    def callback_url(self) -> str | None:
        """The callback URL that the task was created with, or None."""
        url = self._param.get("callBackUrl")
        return url if isinstance(url, str) and url else None

    @property
    def _param(self) -> dict[str, Any]:
        # Live records hold JSON text with JSON text inside it (captured 2026-03), the
        # documents show plain objects.  Decoded when asked for: few callers ask.
        param = _parsed(self.raw.get("param"))
        return param if isinstance(param, dict) else {}

    @property
    def duration(self) -> float | None:
        """Seconds from creation to the end, by the server's clock; None if unknown.

        Not ``costTime``: the documents disagree about its unit.
        """
        if self.created_at is None or self.completed_at is None:
            return None
        return max(0.0, self.completed_at - self.created_at)


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


@frozen(kw_only=True)
class Outcome:
    """How one item of a bulk run ended: what was wanted, and what came of it."""

    source_id: str
    status: OutcomeStatus
    task: Task | None = None
    error: KieError | None = None
    files: tuple[Path, ...] = ()


@frozen(kw_only=True)
class UploadedFile:
    """A file on Kie's upload host; it is deleted after a day or a few."""

    file_name: str
    file_path: str
    download_url: str
    size: int | None = None
    mime_type: str | None = None
    raw: Mapping[str, Any] = field(factory=dict, repr=False, eq=False)


class Secret:
    """A key that shows itself only when asked: not in repr, str, logs or pickles.

    Args:
        value: The key.  White space, control and non-ASCII characters are refused here,
            by name, because in a header they would break the request.
        name: What it is, for messages: "API key".
    """

    __slots__ = ("_reveal",)

    def __init__(self, value: str, *, name: str = "API key") -> None:
        """Check the key and hide it."""
        problem = ""
        if not isinstance(value, str) or not value:
            problem = "is empty: set it, or pass it"
        elif any(not 33 <= ord(char) <= 126 for char in value):
            problem = (
                "holds white space, a newline or a character outside ASCII: "
                "copy it again without what surrounds it"
            )
        if problem:
            del value  # crash reporters show the locals of a traceback
            raise UsageError(f"the {name} {problem}")
        # A closure and not an attribute: tools that print locals and attributes
        # (crash reporters, rich tracebacks) walk attributes, not closures.
        self._reveal: Callable[[], str] = lambda: value

    def reveal(self) -> str:
        """Return the key.  For the header that carries it, and nothing else."""
        return self._reveal()

    def __repr__(self) -> str:
        """Say that there is a key, and no more."""
        return "Secret('***')"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied to another process."""
        raise UsageError("a secret is not pickled: open the session where it is used")


def check_task_id(task_id: object, name: str = "task_id") -> str:
    """Return *task_id* if it can be one.

    Ids are opaque: Kie's are 32 hex digits today, its documents show other forms.

    Raises:
        UsageError: It is no text, empty, longer than 100 characters, or holds white
            space, control characters or a slash.
    """
    if not isinstance(task_id, str):
        raise UsageError(f"{name} must be text, not {type(task_id).__name__}")
    if _USUAL_ID.fullmatch(task_id):
        return task_id
    if not task_id:
        raise UsageError(f"{name} is empty")
    if len(task_id) > MAX_ID_LENGTH:
        raise UsageError(f"{name} has {len(task_id)} characters; at most {MAX_ID_LENGTH} can work")
    if (
        not task_id.isascii()
        or any(ord(char) <= 32 or char in '/\\?#%&"<>' for char in task_id)
        or "\x7f" in task_id
        or task_id in {".", ".."}
    ):
        raise UsageError(f"{name} {task_id!r} has a character that no task id has")
    return task_id


def check_seconds(value: object, name: str, *, zero: bool = False) -> float:
    """Return *value* as finite seconds above zero (or from zero, if *zero*).

    Raises:
        UsageError: It is no such number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{name} must be a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:  # an integer beyond every float
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        least = "zero or more" if zero else "above zero"
        raise UsageError(f"{name} must be {least}, not {seconds:g}")
    return seconds
