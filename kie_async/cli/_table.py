"""Tables as plain lines: the same text on a terminal, in a pipe and in a chat.

Nothing is ever cut: an id that is cut is an id that is lost.  Where the columns do not
fit, some of them move to lines below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest

from attrs import frozen

__all__ = ["Column", "Paint", "table"]

GAP = "  "
INDENT = "  "
NOTHING = "-"

Paint = Callable[[str, bool], str]
"""Colours a cell that has its full width; True for a heading."""


@frozen
class Column:
    """A heading; ``right`` for numbers, ``below`` for what a narrow terminal gets below."""

    heading: str
    right: bool = False
    below: bool = False


def table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    width: int | None = None,
    *,
    paint: Paint | None = None,
) -> list[str]:
    """Return the lines, the heading first.

    Args:
        columns: The headings.
        rows: One text per column; each may hold several lines.
        width: Columns of the terminal; None for a pipe, where lines may be long.
        paint: Colours, where they are wanted.
    """
    paint = paint or (lambda text, _heading: text)
    widths = [
        max([len(column.heading), *(len(line) for row in rows for line in row[i].split("\n"))])
        for i, column in enumerate(columns)
    ]
    beside = list(range(len(columns)))
    if width is not None and sum(widths) + len(GAP) * (len(columns) - 1) > width:
        beside = [i for i in beside if not columns[i].below]
    grid = _Grid([columns[i] for i in beside], [widths[i] for i in beside], paint)
    lines = [grid.line([columns[i].heading for i in beside], heading=True)]
    for row in rows:
        lines += grid.lines([row[i] for i in beside])
        lines += [
            INDENT + text
            for i, column in enumerate(columns)
            if i not in beside
            for text in _below(column, row[i])
        ]
    return lines


def _below(column: Column, cell: str) -> list[str]:
    """Return a cell as lines of their own; the heading tells what they are."""
    return [f"{column.heading.lower()} {text}" for text in cell.split("\n") if text != NOTHING]


@frozen
class _Grid:
    """Cells side by side."""

    columns: Sequence[Column]
    widths: Sequence[int]
    paint: Paint

    def lines(self, row: Sequence[str]) -> list[str]:
        """Return a row as one line, or more where a cell has more."""
        cells = [cell.split("\n") for cell in row]
        return [self.line(list(line)) for line in zip_longest(*cells, fillvalue="")]

    def line(self, row: Sequence[str], *, heading: bool = False) -> str:
        """Return one line, without blanks at its end."""
        cells = [
            text.rjust(width) if column.right else text.ljust(width)
            for column, width, text in zip(self.columns, self.widths, row, strict=True)
        ]
        cells[-1] = cells[-1].rstrip()
        return GAP.join(self.paint(cell, heading) for cell in cells).rstrip()
