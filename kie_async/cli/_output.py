"""Where words go: results to stdout, everything said to a person to stderr."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import click

from kie_async.cli._advice import Advice, advice_of
from kie_async.cli._board import Row, status_of
from kie_async.cli._escape import clean
from kie_async.cli._table import Column, table

__all__ = ["Output", "row_fields"]

STATES = {"success": "green", "done": "green", "fail": "red", "failed": "red"}


class Output:
    """The two streams of a command, and what they can show.

    Args:
        as_json: One JSON object a line on stdout, and nothing else there.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a path or a message may not be ASCII
                stream.reconfigure(errors="backslashreplace")
        self.as_json = as_json
        self.live = _dresses(sys.stderr) and not as_json and not _in_background()
        self.plain_terminal = (
            sys.stdout.isatty() and sys.stderr.isatty() and not self.live and not as_json
        )
        self.coloured = _dresses(sys.stdout)
        self._broken = False

    def note(self, text: str = "") -> None:
        """Say something to a person, broken at words where a terminal would break them."""
        try:
            print(_fitted(text, sys.stderr), file=sys.stderr, flush=True)  # noqa: T201 - prints
        except OSError:  # nobody listens: the work is worth more than the words
            self._broken = True

    def passing(self, text: str = "") -> None:
        """Show a line in the place of the one before; no text takes it away.

        On a terminal only: elsewhere every one would stay.
        """
        if self.live:
            with suppress(OSError):
                sys.stderr.write(f"\r\033[K{text}")
                sys.stderr.flush()

    def result(self, text: str) -> None:
        """Write a line of the result.

        When whoever read it has left (``| head``), it goes to stderr: a paid id is never
        dropped.
        """
        if not self._broken:
            try:
                print(text, flush=True)  # noqa: T201 - this is what prints
                return
            except BrokenPipeError:
                self._broken = True
                # Else the interpreter fails once more when it flushes at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self.note(text)

    def prose(self, text: str) -> None:
        """Write a sentence of the result, broken at words on a terminal."""
        self.result(_fitted(text, sys.stdout))

    def event(self, event: str, fields: Mapping[str, Any]) -> None:
        """Write one JSON object, if JSON was asked for."""
        if self.as_json:
            told = {"event": event, "time": round(time.time(), 3), **fields}
            self.result(json.dumps(told, default=str))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Write a table, coloured and fitted where stdout is a terminal."""
        if self.as_json:
            return
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else None
        lines = table(columns, rows, width, paint=self._paint if self.coloured else None)
        for line in lines:
            self.result(line)

    def advice(self, advices: Iterable[Advice]) -> None:
        """Say what went wrong, and what to type next."""
        for advice in advices:
            count = f"{len(advice.ids)} tasks" if len(advice.ids) > 1 else advice.ids[0]
            self.note()
            self.note(self.emphasis(f"{advice.title}: {clean(count)}"))
            self.note(f"  {advice.what}")
            self.note(f"  {advice.money}")
            for step in advice.next:
                self.note(f"  Next: {step}")

    def emphasis(self, text: str) -> str:
        """Return *text* in bold red where stderr shows colours."""
        return click.style(text, fg="red", bold=True) if _dresses(sys.stderr) else text

    def _paint(self, text: str, heading: bool) -> str:
        if heading:
            return click.style(text, bold=True)
        return click.style(text, fg=STATES.get(text.strip()))


def _dresses(stream: TextIO) -> bool:
    """True if *stream* is a terminal that may be given colours and moving lines."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") in {"dumb", "unknown"}
    return _is_terminal(stream) and not plain


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _in_background() -> bool:
    """True if a shell has started us with ``&``: others may draw on this terminal, too."""
    try:
        if os.tcgetpgrp(sys.stderr.fileno()) != os.getpgrp():
            return True
        # The shell of a script leaves them in its own group, and takes their stdin away.
        return os.path.samestat(os.fstat(0), Path(os.devnull).stat())
    except (OSError, ValueError):  # no terminal of ours, or a stream that is closed
        return False


def _fitted(text: str, stream: TextIO) -> str:
    """Return *text* with line breaks between words, if *stream* is a narrow terminal.

    What has no spaces (an address, an id) is never cut, and neither is a command to type.
    """
    if not text or not _is_terminal(stream):
        return text
    width = shutil.get_terminal_size().columns - 1
    lines = []
    for line in text.split("\n"):
        if len(click.unstyle(line)) <= width or line.lstrip().startswith(("Next:", "kie ")):
            lines.append(line)
            continue
        margin = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line.strip(),
            max(20, width),
            initial_indent=margin,
            subsequent_indent=margin + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def row_fields(row: Row, out: Path | None) -> dict[str, Any]:
    """Return a finished row as its JSON object; `kie upscale --help` names the fields."""
    task, error = row.task, row.error
    return {
        "source_id": row.source_id,
        "task_id": row.task_id,
        "status": status_of(row),
        "state": task.state if task is not None else None,
        "seconds": None if row.seconds is None else round(row.seconds, 3),
        "polls": row.polls,
        "credits": task.credits_consumed if task is not None else None,
        "result_urls": list(task.result_urls) if task is not None else [],
        "files": [
            {"path": str(file.path), "bytes": file.size, "pixels": file.pixels}
            for file in row.files
        ],
        "error": None
        if error is None
        else {
            "type": type(error).__name__,
            "message": error.message,
            "code": error.code,
            "http_status": error.http_status,
            "retryable": error.retryable,
            "maybe_charged": error.maybe_charged,
        },
        "next": advice_of(row, out),
    }
