"""What a command shows while it works: moving lines, plain lines, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kie_async.cli._board import Row
from kie_async.cli._config import current
from kie_async.cli._escape import clean
from kie_async.cli._output import Output, row_fields

__all__ = ["JsonView", "PlainView", "QuietView", "View", "view_for"]

SOON_TOLD = {"success", "fail", "saving"}
"""Words that the next line makes superfluous."""


class View(Protocol):
    """Shows rows from start to stop."""

    def start(self, rows: Sequence[Row]) -> None:
        """Begin; called once, on the loop."""

    def show(self, kind: str, row: Row, word: str) -> None:
        """Tell of a change: created, changed, retry, saved or result."""

    def note(self, text: str) -> None:
        """Say something without breaking the view."""

    def stop(self) -> None:
        """End; safe to call again."""


class PlainView:
    """A line for each thing that happens, on stderr: for pipes, logs and dumb terminals."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def start(self, rows: Sequence[Row]) -> None:
        """Nothing to prepare."""

    def show(self, kind: str, row: Row, word: str) -> None:
        """Write the line."""
        if kind == "changed" and word in SOON_TOLD:
            return
        seconds = f"{row.seconds or 0.0:6.1f} s"
        name = clean(row.name)
        if kind == "created":
            told = f"created task {clean(row.task_id)}"
        elif kind == "retry":
            told = f"will try again: {clean(word)}"
        elif kind == "saved":
            told = f"saved {clean(word)}"
        else:
            told = clean(word).replace("_", " ")
        self._output.note(f"{seconds}  {name}  {told}")

    def note(self, text: str) -> None:
        """Write the line."""
        self._output.note(text)

    def stop(self) -> None:
        """Nothing to end."""


class QuietView:
    """Shows nothing: for commands that are over at once."""

    def start(self, rows: Sequence[Row]) -> None:
        """Nothing to prepare."""

    def show(self, kind: str, row: Row, word: str) -> None:
        """Nothing to show."""

    def note(self, text: str) -> None:
        """Not worth a word."""

    def stop(self) -> None:
        """Nothing to end."""


class JsonView:
    """One JSON object for each thing that happens, on stdout."""

    def __init__(self, output: Output, out: Path | None) -> None:
        self._output = output
        self._out = out

    def start(self, rows: Sequence[Row]) -> None:
        """Nothing to prepare."""

    def show(self, kind: str, row: Row, word: str) -> None:
        """Write the object."""
        fields: dict[str, object] = {"source_id": row.source_id, "task_id": row.task_id}
        if kind == "result":
            fields = row_fields(row, self._out)
        elif kind == "changed":
            fields |= {"state": word, "polls": row.polls}
        elif kind == "retry":
            fields |= {"reason": word}
        elif kind == "saved":
            fields |= {"path": word}
        self._output.event(kind, fields)

    def note(self, text: str) -> None:
        """Say it on stderr."""
        self._output.note(text)

    def stop(self) -> None:
        """Nothing to end."""


def view_for(output: Output, out: Path | None) -> View:
    """Choose what suits the streams."""
    if output.as_json:
        return JsonView(output, out)
    if output.live and current().get("log_level").value == "off":  # lines would tear it
        from kie_async.cli._live import LiveView  # rich takes a tenth of a second to load

        return LiveView()
    return PlainView(output)
