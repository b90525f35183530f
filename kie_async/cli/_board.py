"""What is known of each task while a command runs: one row each, filled by events.

An event of a create carries no source id.  The row stands in a context variable instead:
a session emits the events of a create in the context of its caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from attrs import define, frozen

from kie_async.cli._exits import Exit, exit_of
from kie_async.cli._pixels import pixels
from kie_async.errors import (
    CreateInDoubtError,
    DownloadError,
    KieAPIError,
    KieError,
    SessionClosedError,
    WaitTimeoutError,
)
from kie_async.instrumentation import (
    Event,
    RequestRefused,
    RequestRetried,
    TaskChanged,
    TaskCreated,
    TurnTaken,
)
from kie_async.models import Task

__all__ = ["Board", "Row", "SavedFile", "Show", "status_of"]

Show = Callable[[str, "Row", str], None]
"""Told of a kind of change, the row, and a word on it."""

_ROW: ContextVar[Row | None] = ContextVar("kie_cli_row", default=None)

STATUS = {
    Exit.IN_DOUBT: "in_doubt",
    Exit.FAILED: "failed",
    Exit.TIMED_OUT: "timed_out",
}


@frozen
class SavedFile:
    """A file in place, with its size in bytes and, for a picture, in pixels."""

    path: Path
    size: int
    pixels: tuple[int, int] | None

    @classmethod
    def at(cls, path: Path) -> SavedFile:
        """Measure the file at *path*."""
        return cls(path, path.stat().st_size, pixels(path))

    def __str__(self) -> str:
        """Return the path, and the pixels where there are any."""
        return str(self.path) + (" {}x{}".format(*self.pixels) if self.pixels else "")


@define(eq=False)
class Row:
    """One task that a command works on; ``source_id`` is None where none is upscaled.

    ``label`` names what is made where there is no source, and ``again`` is the command that
    would make it once more; ``options`` belong to ``kie upscale``.  Without ``resumes``
    there is no task to wait for.
    """

    source_id: str | None = None
    task_id: str | None = None
    label: str | None = None
    again: str | None = None
    options: str = ""
    resumes: bool = True
    phase: str = "queued"
    polls: int = 0
    started: float | None = None
    ended: float | None = None
    task: Task | None = None
    files: tuple[SavedFile, ...] = ()
    error: KieError | None = None
    refused: bool = False
    told: bool = False

    @property
    def name(self) -> str:
        """The id that the user gave, or what stands for it."""
        return self.source_id or self.label or self.task_id or "-"

    @property
    def creates(self) -> bool:
        """True if a task is paid for, and not only looked at."""
        return self.source_id is not None or self.again is not None

    @property
    def running(self) -> bool:
        """True from its begin to its end."""
        return self.started is not None and self.ended is None

    @property
    def seconds(self) -> float | None:
        """Seconds since its begin, until its end."""
        if self.started is None:
            return None
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    @property
    def unsettled(self) -> bool:
        """True if a create is still under way, though its caller has left."""
        return (
            self.task_id is None
            and isinstance(self.error, WaitTimeoutError | SessionClosedError)
            and self.error.maybe_charged
        )

    @property
    def exit(self) -> Exit:
        """What this row adds to the exit code."""
        return exit_of(self.error)


def status_of(row: Row) -> str:
    """Return how the row ended, in one word."""
    if row.error is None:
        return "done" if row.ended is not None else "not_sent"
    if row.exit in STATUS:
        return STATUS[row.exit]
    if isinstance(row.error, SessionClosedError):
        return "interrupted" if row.task_id else "not_sent"
    if isinstance(row.error, DownloadError):
        return "not_saved"
    return "refused" if isinstance(row.error, KieAPIError) else "error"


class Board:
    """All rows of a command; it is a hook of the session."""

    def __init__(self, rows: Iterable[Row], show: Show) -> None:
        """Tell *show* of every change."""
        self.rows = list(rows)
        self._show = show
        self._by_task = {row.task_id: row for row in self.rows if row.task_id}
        self._settling: dict[type[Event], Callable[[Row, Any], None]] = {
            TurnTaken: self._turn,
            TaskCreated: self._created,
            TaskChanged: self._changed,
            RequestRetried: self._retried,
            RequestRefused: self._refused,
        }

    def __call__(self, event: Event) -> None:
        """Take an event of the session."""
        handle = self._settling.get(type(event))
        row = self._by_task.get(event.task_id or "")
        if row is None and (event.task_id is None or isinstance(event, TaskCreated)):
            row = _ROW.get()
        if handle is not None and row is not None:
            handle(row, event)

    def begin(self, row: Row) -> None:
        """Start the row's clock; what the running task does from now on is its."""
        _ROW.set(row)
        row.started = time.monotonic()

    def phase(self, row: Row, phase: str) -> None:
        """Say what happens to the row now."""
        row.phase = phase
        self._show("changed", row, phase)

    def saved(self, row: Row, file: SavedFile) -> None:
        """Say that a file of the row is in place."""
        self._show("saved", row, str(file.path))

    def end(self, row: Row) -> None:
        """Stop the row's clock; tell how it ended, if that is known by now."""
        row.ended = time.monotonic()
        if row.error is not None and row.error.task_id and row.task_id is None and row.resumes:
            row.task_id = row.error.task_id
        row.phase = status_of(row)
        if not row.unsettled:
            self._tell(row)

    def settle(self) -> None:
        """Tell the rest: the session is closed, so no answer comes any more."""
        for row in self.rows:
            if row.unsettled and row.error is not None and row.refused:
                row.error.maybe_charged = False
            elif row.unsettled:  # only a refusal proves that nothing was paid
                row.error = CreateInDoubtError("no answer to the create came in time")
            elif row.error is not None and row.task_id and not row.error.task_id:
                row.error.task_id = row.task_id
            row.phase = status_of(row)
            self._tell(row)

    def _tell(self, row: Row) -> None:
        if not row.told:
            row.told = True
            self._show("result", row, row.phase)

    def _turn(self, row: Row, event: TurnTaken) -> None:
        if event.lane == "createTask":
            row.phase = "creating"

    def _created(self, row: Row, event: TaskCreated) -> None:
        row.task_id = event.task_id
        if event.task_id is not None:
            self._by_task[event.task_id] = row
        row.phase = "created"
        self._show("created", row, "")

    def _changed(self, row: Row, event: TaskChanged) -> None:
        row.polls = event.polls
        self.phase(row, str(event.state))

    def _retried(self, row: Row, event: RequestRetried) -> None:
        row.phase = "retrying"
        self._show("retry", row, event.error)

    def _refused(self, row: Row, event: RequestRefused) -> None:
        # Before its end a refusal may have been followed by another attempt.
        if event.route == "createTask" and row.ended is not None:
            row.refused = True
