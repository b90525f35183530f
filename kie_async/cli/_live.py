"""The moving view of a terminal: a line for each running task, and one sum."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from kie_async.cli._board import Row, status_of
from kie_async.cli._escape import clean, short

__all__ = ["LiveView", "picture"]

FEW = 3
"""Tasks whose ids stay on the screen, whatever becomes of the program."""
TICK = 0.125
BAR = 24
WIDE = 110
"""Columns from which whole ids are shown while it works; the end shows them anyway."""
COLOURS = {
    "queued": "dim",
    "created": "cyan",
    "creating": "cyan",
    "saving": "cyan",
    "retrying": "yellow",
    "done": "green",
}
"""Any other end is red; the API's own words for a running task stay plain."""


class LiveView:
    """Redraws eight times a second on the session's own loop: no thread."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._rows: Sequence[Row] = ()
        self._began = 0.0
        self._ticking: asyncio.Task[None] | None = None

    def start(self, rows: Sequence[Row]) -> None:
        """Draw, and go on drawing."""
        self._rows, self._began = rows, time.monotonic()
        self._live.start()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def show(self, kind: str, row: Row, word: str) -> None:
        """Leave a paid id on the screen, if they are few; the next drawing has the rest."""
        if kind == "created" and len(self._rows) <= FEW:
            self.note(f"  {clean(row.name)}  created task {clean(row.task_id)}")

    def note(self, text: str) -> None:
        """Write above the moving lines."""
        self._console.print(Text(text))

    def stop(self) -> None:
        """Take the lines away and give the cursor back."""
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        self._live.stop()

    async def _tick(self) -> None:
        while True:
            seconds = time.monotonic() - self._began
            height, width = self._console.height, self._console.width
            self._live.update(picture(self._rows, seconds, height, width), refresh=True)
            await asyncio.sleep(TICK)


def picture(rows: Sequence[Row], seconds: float, height: int, width: int) -> Group:
    """Return the lines: running tasks first, as many as fit, and the sum."""
    room = max(1, height - 4)
    order = sorted(rows, key=lambda row: (not row.running, row.ended is None, -(row.ended or 0)))
    shown = order[:room] if len(order) > room else list(rows)
    names = [clean(row.name) if width >= WIDE else short(row.name) for row in shown]
    longest = max(map(len, names), default=0)
    lines = [_line(row, name.ljust(longest), width) for row, name in zip(shown, names, strict=True)]
    if len(shown) < len(rows):
        lines.append(Text(f"  ... and {len(rows) - len(shown)} more", style="dim"))
    return Group(*lines, _sum(rows, seconds, width))


def _line(row: Row, name: str, width: int) -> Text:
    ended = row.ended is not None
    colour = COLOURS.get(row.phase, "red" if ended and status_of(row) != "done" else "")
    passed = "" if row.seconds is None else f"{row.seconds:.1f} s"
    polls = {0: "", 1: "1 poll"}.get(row.polls, f"{row.polls} polls")
    line = Text(f"  {name}  ", overflow="ellipsis", no_wrap=True)
    line.append(f"{clean(row.phase, 12).replace('_', ' '):<11}", style=colour)
    line.append(f"{passed:>9}  {polls:<9}")
    if row.creates and row.task_id is not None:
        task = clean(row.task_id) if width >= WIDE else short(row.task_id)
        line.append(f"  -> {task}", style="dim")
    return line


def _sum(rows: Sequence[Row], seconds: float, width: int) -> Text:
    ended = [row for row in rows if row.ended is not None]
    count = Counter(status_of(row) for row in ended)
    running = sum(row.running for row in rows)
    credits = sum(row.task.credits_consumed or 0 for row in ended if row.task is not None)
    filled = BAR * len(ended) // max(1, len(rows))
    line = Text("  ", overflow="ellipsis", no_wrap=True)
    if width >= 60:
        line.append("━" * filled, style="green")
        line.append("─" * (BAR - filled), style="dim")
        line.append("  ")
    told = [f"{len(ended)}/{len(rows)} ended", f"{running} running"]
    told += [f"{n} {s.replace('_', ' ')}" for s, n in sorted(count.items()) if s != "done"]
    told += [f"{credits:,.10g} credits"] if credits else []
    return line.append(", ".join([*told, f"{seconds:.1f} s"]))
