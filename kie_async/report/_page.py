"""The page: what was gathered, as one file of HTML.

Everything that comes from outside (ids, messages, names of files) is data: it stands in a
JSON block that nothing can end early, and the page's script writes it as text, never as
HTML.  A content security policy allows that one script, that one style, and no network.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shlex
import statistics
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kie_async.journal import ItemState
from kie_async.report._gather import Entry, Report
from kie_async.report._plots import histogram, over_time

__all__ = ["MARK", "build_page"]

MARK = "<!-- a report of kie_async -->"
"""The second line of a page: `kie report` writes over its own pages only."""
CHUNK = 200
"""Thumbnails in one block: a block is decoded when one of its tiles comes into view."""
LIMIT, WINDOW = 20, 10.0
"""The account's rate limit, as documented."""


def build_page(
    report: Report, directory: Path, *, limit: int = LIMIT, window: float = WINDOW
) -> str:
    """Return the page as text.

    Args:
        report: What was gathered.
        directory: Where the page will lie: results are linked from there.
        limit: Creates per *window* that the account allows, for the plot.
        window: Seconds.
    """
    style, script = _part("page.css"), _part("stage.js") + _part("page.js")
    figures = report.figures
    values = {
        "mark": MARK,
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "title": html.escape(Path(report.journal).name),
        "window": f"{window:g}",
        "made": _when(report.made_at),
        "tiles": "".join(_tiles(report)),
        "notes": "".join(f"<p>{html.escape(note)}</p>" for note in _notes(report)),
        "over_time": over_time(figures.created, limit=limit, window=window),
        "durations": histogram(figures.durations, what="durations"),
        "delays": histogram(figures.delays, what="delays"),
        "data": _json(_data(report, directory)),
        "thumbnails": "".join(_blocks(report.entries)),
    }
    # In one pass: what was put in is never looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], _part("page.html"))


def _part(name: str) -> str:
    return (resources.files(__package__) / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    def hashed(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; script-src {hashed(script)}; style-src {hashed(style)}; "
        "img-src 'self' file: data:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )


def _json(value: Any) -> str:
    """Return JSON that can stand in a script element: nothing in it is markup."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _when(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).strftime("%Y-%m-%d %H:%M UTC")


# -- the numbers that matter ----------------------------------------------------------


def _tiles(report: Report) -> Iterator[str]:
    counts, figures = report.counts, report.figures
    left = counts.planned + counts.sending + counts.sent
    yield _tile("done", f"{counts.done:,}", f"of {counts.total:,}", "good")
    yield _tile("failed", f"{counts.failed:,}", "", "bad" if counts.failed else "")
    yield _tile("in doubt", f"{counts.in_doubt:,}", "", "doubt" if counts.in_doubt else "")
    if left:
        yield _tile("left", f"{left:,}", f"{counts.sent:,} running at Kie's")
    each = f"{figures.credits / counts.done:.3g} each" if counts.done else ""
    yield _tile("credits", f"{figures.credits:,.10g}", each)
    if figures.durations:
        tenth = sorted(figures.durations)[int((len(figures.durations) - 1) * 0.9)]
        middle = statistics.median(figures.durations)
        yield _tile("seconds a task", f"{middle:.3g}", f"90 % within {tenth:.3g} s")
    if figures.delays:
        polls = figures.polls / len(figures.delays)
        noticed = statistics.median(figures.delays)
        yield _tile("noticed after", f"{noticed:.2g} s", f"{polls:.1f} polls a task")
    if len(figures.created) > 1:
        spent = max(figures.ended, *figures.created) - min(figures.created)
        rate = len(figures.created) / max(spent, 1.0) * WINDOW
        yield _tile("the run took", _span(spent), f"{rate:.3g} tasks in {WINDOW:g} s")


def _tile(name: str, value: str, more: str, kind: str = "") -> str:
    return (
        f'<div class="figure {kind}"><dt>{name}</dt><dd><b>{html.escape(value)}</b>'
        f"<span>{html.escape(more)}</span></dd></div>"
    )


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.3g} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _notes(report: Report) -> Iterator[str]:
    counts, shown = report.counts, len(report.entries)
    if shown < counts.total:
        yield (
            f"{shown:,} of {counts.total:,} items are shown one by one: doubts and failures "
            "first, then the last ones done. The figures and plots are of all; "
            "kie report --limit shows more."
        )
    if report.unexplained is not None and abs(report.unexplained) >= 0.005:
        yield (
            f"{report.unexplained:,.10g} credits left the account that no task on record explains: "
            "doubts, or another use of the account."
        )


# -- the items ------------------------------------------------------------------------


def _data(report: Report, directory: Path) -> dict[str, Any]:
    """Return what the page's script shows; `page.js` names the columns in the same order."""
    out = shlex.quote(_out(report.entries))
    return {
        "journal": shlex.quote(report.journal),
        "again": f"{report.again} --out {out}",
        "out": out,
        "items": [_row(entry, directory) for entry in report.entries],
        "chunk": CHUNK,
    }


def _out(entries: Sequence[Entry]) -> str:
    """Return the directory of the results, as --out had it."""
    for entry in reversed(entries):
        if entry.item.files:
            return f"{Path(entry.item.files[0]).parent}/"
    return "results/"


def _row(entry: Entry, directory: Path) -> list[Any]:
    item = entry.item
    text = "; ".join(filter(None, (item.error_code, item.error_message or item.reason)))
    settled = item.state in (ItemState.DONE, ItemState.PLANNED)
    return [
        item.source_id,
        item.task_id,
        item.state.value,
        item.created_at,
        item.completed_at,
        item.noticed_at,
        item.polls,
        item.credits,
        None if settled else text or None,
        [_link(path, directory) for path in entry.files],
        entry.size,
        entry.kind,
        _link(entry.source, directory) if entry.source is not None else None,
        1 if entry.thumbnail else 0,
        round(entry.ratio, 3),
        len(item.files) - len(entry.files),
        shlex.quote(item.source_id),
        item.model,
        item.attempts,
        shlex.quote(item.task_id or ""),
    ]


def _link(path: Path, directory: Path) -> str:
    """Return a relative address: quoted, so that no name can be another scheme."""
    relative = os.path.relpath(path, directory)
    return "./" + "/".join(quote(part, safe="") for part in Path(relative).parts)


def _blocks(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield the thumbnails in blocks that the browser does not look into before it must."""
    for start in range(0, len(entries), CHUNK):
        part = entries[start : start + CHUNK]
        if any(entry.thumbnail for entry in part):
            coded = (base64.b64encode(entry.thumbnail).decode() for entry in part)
            yield f'<script type="text/plain" id="t{start // CHUNK}">{" ".join(coded)}</script>\n'
