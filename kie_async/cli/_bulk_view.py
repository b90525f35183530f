"""What a bulk run shows while it works: a few live lines, or a line now and then."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from attrs import evolve

from kie_async.bulk import Progress
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate

__all__ = ["Ticker", "bar", "duration", "eta", "live_lines", "plain_line", "progress_fields"]

LIVE = 0.25
"""Seconds between two drawings on a terminal."""
NOW_AND_THEN = 30.0
"""Seconds between two lines where nothing can be redrawn."""
BAR = 30
LONGEST_BAR = 60


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def eta(progress: Progress, began_left: int, elapsed: float, rate: Rate) -> float | None:
    """Return the seconds that are left, by what was reached and never faster than allowed."""
    left = progress.left
    finished = began_left - left
    if left <= 0 or finished <= 0:
        return left * rate.window / rate.limit if left > 0 else None
    return max(
        left * elapsed / finished, max(0, left - progress.running) * rate.window / rate.limit
    )


def bar(share: float, width: int = BAR) -> str:
    """Return a bar of text."""
    filled = round(width * min(1.0, max(0.0, share)))
    return "━" * filled + "─" * (width - filled)


def live_lines(
    progress: Progress,
    rate: Rate,
    in_window: int | None,
    left: float | None,
    elapsed: float,
    width: int,
) -> list[str]:
    """Return the lines of the live view, none longer than *width*."""
    ended = progress.total - progress.left
    share = ended / progress.total if progress.total else 0.0
    total = f"{progress.total:,}" + ("" if progress.loaded else "+")
    creates = f"creates {in_window}/{rate.limit} in {rate.window:g} s"
    if in_window is None:  # of all workers nobody knows it
        creates = f"created here {progress.created:,}"
    lines = [
        f"{bar(share, max(BAR, min(LONGEST_BAR, width - 40)))}  {share:4.0%}  {ended:,} of {total}",
        (
            f"done {progress.done:,}   running {progress.running:,}   "
            f"waiting {progress.waiting_for_turn:,}   failed {progress.failed:,}   "
            f"in doubt {progress.in_doubt:,}"
        ),
        f"{creates}   credits {progress.credits_spent:,.10g}   files {progress.files:,}",
        f"{duration(elapsed)}, {_outlook(progress, left)}",
    ]
    if progress.failed_downloads:
        lines.append(f"{progress.failed_downloads:,} downloads failed; the next run saves them")
    if progress.stopped_by is not None:
        lines.append(f"stopping: {progress.stopped_by.message}")
    return [line[:width] for line in lines]


def _outlook(progress: Progress, left: float | None) -> str:
    """Return how it goes on."""
    if progress.stopping:
        return "stopping when what runs has ended"
    return "nearly done" if left is None else f"about {duration(left)} left"


def plain_line(progress: Progress, left: float | None, elapsed: float) -> str:
    """Return the same as one line."""
    return (
        f"{duration(elapsed)}: {progress.done:,} done, {progress.running:,} running, "
        f"{progress.failed:,} failed, {progress.in_doubt:,} in doubt, {progress.left:,} to go, "
        f"{progress.credits_spent:,.10g} credits, {_outlook(progress, left)}"
    )


class Ticker:
    """Shows a run's progress until it is stopped."""

    def __init__(
        self,
        output: Output,
        progress: Progress,
        rate: Rate,
        in_window: Callable[[], int | None],
        *,
        listed: int | None = None,
    ) -> None:
        """Belong to the running loop; ``listed`` is how many ids there are, if that is known."""
        self._output = output
        self._read = progress
        self._listed = listed
        self._rate = rate
        self._in_window = in_window
        self._began = time.monotonic()
        self._began_left: int | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to show."""
        show = self._live() if self._output.live else self._plain()
        self._task = asyncio.get_running_loop().create_task(show)

    def last_words(self, again: str) -> str:
        """Return what is to be said when a second signal ends it at once."""
        shown = "\x1b[?25h" if self._output.live else ""  # the live view hides the cursor
        return f"{shown}\nLeft at once; what was paid is on record.\n  Next: {again}\n"

    async def stop(self) -> None:
        """Take the live lines away."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    @property
    def _progress(self) -> Progress:
        """The progress of the whole list, also while the run has read only a part of it."""
        if self._read.loaded or not self._listed:
            return self._read
        return evolve(self._read, total=max(self._read.total, self._listed), loaded=True)

    def _left(self) -> float | None:
        if self._began_left is None or self._progress.left > self._began_left:
            self._began_left = self._progress.left
        return eta(self._progress, self._began_left, self.elapsed, self._rate)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    async def _plain(self) -> None:
        while True:
            await asyncio.sleep(NOW_AND_THEN)
            line = plain_line(self._progress, self._left(), self.elapsed)
            self._output.note(line)
            self._output.event("progress", progress_fields(self._progress))

    async def _live(self) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        # Results that are written to a file or a pipe must not come to the screen instead.
        ours = sys.stdout.isatty()
        with Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=ours
        ) as live:
            while True:
                lines = live_lines(
                    self._progress,
                    self._rate,
                    self._in_window(),
                    self._left(),
                    self.elapsed,
                    console.width - 1,
                )
                styles = ["green", "", "dim", "dim", "yellow", "bold yellow"]
                texts = [Text(x, style=s) for x, s in zip(lines, styles, strict=False)]
                live.update(Group(*texts), refresh=True)
                await asyncio.sleep(LIVE)


def progress_fields(progress: Progress) -> dict[str, object]:
    """Return a run's figures for JSON."""
    return {
        "total": progress.total,
        "done": progress.done,
        "running": progress.running,
        "failed": progress.failed,
        "in_doubt": progress.in_doubt,
        "left": progress.left,
        "created": progress.created,
        "files": progress.files,
        "failed_downloads": progress.failed_downloads,
        "credits_spent": progress.credits_spent,
    }
