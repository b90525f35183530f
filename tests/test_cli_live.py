"""The moving view: what it draws at which size."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from kie_async import CreateInDoubtError, Task, TaskState
from kie_async.cli._board import Row
from kie_async.cli._live import picture

SOURCE = "281e5b0c74d14a5d8f39b9aa00c1e2d3"


def rows(count: int) -> list[Row]:
    """Make rows: one done, one in doubt, one running, the rest queued."""
    now = time.monotonic()
    task = Task(task_id="9" * 32, state=TaskState.SUCCESS, credits_consumed=10.0)
    made = [
        Row(
            source_id=SOURCE, task_id="9" * 32, phase="done", started=now - 9, ended=now, task=task
        ),
        Row(source_id="a", phase="in_doubt", started=now - 2, ended=now, polls=0),
        Row(source_id="b", task_id="8" * 32, phase="waiting", started=now - 1, polls=2),
    ]
    made[0].ended = now
    made[1].error = CreateInDoubtError("lost")
    return [*made, *(Row(source_id=f"id-{n}") for n in range(count - 3))]


def drawn(count: int, width: int, height: int = 24) -> list[str]:
    """Draw them on a console of that size."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(picture(rows(count), 9.0, height, width))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("count", [3, 10, 1000])
def test_it_fits_every_terminal(count, width):
    """No line is longer than the terminal, and there are never more than it has."""
    lines = drawn(count, width)

    assert max(map(len, lines)) <= width
    assert len(lines) <= 23


def test_a_narrow_terminal_sees_short_ids_and_the_sum():
    """All that matters stands on 80 columns."""
    lines = drawn(3, 80)

    assert lines[0].startswith("  281e5b0c..  done")
    assert "2 polls" in lines[2]
    assert "2/3 ended, 1 running, 1 in doubt, 10 credits, 9.0 s" in lines[-1]


def test_a_wide_terminal_sees_whole_ids():
    """There is room for them."""
    assert SOURCE in drawn(3, 200)[0]
    assert "9" * 32 in drawn(3, 200)[0]


def test_running_tasks_come_first_when_not_all_fit():
    """Those are what one waits for; the rest is counted."""
    lines = drawn(100, 80, height=10)

    assert "waiting" in lines[0]
    assert "... and 94 more" in lines[-2]


def test_text_from_outside_is_no_markup():
    """Neither rich's nor the terminal's."""
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)

    console.print(picture([Row(source_id="[red]\x1b]0;x\x07")], 0.0, 24, 80))

    assert "[red]" in file.getvalue()
    assert "\x1b" not in file.getvalue()
