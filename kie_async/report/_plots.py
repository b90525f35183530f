"""The two plots, as SVG that needs nothing: no script, no network, any size, both themes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

__all__ = ["histogram", "over_time"]

WIDTH, HEIGHT = 640, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 36
ACROSS, DOWN = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
BINS = 48


def over_time(times: Sequence[float], *, limit: int, window: float) -> str:
    """Plot tasks created in each *window* seconds, against *limit*.

    Over a long run a column stands for several windows: it shows their mean, and the
    thin line above it the fullest of them.
    """
    if not times:
        return _empty("no task has been created yet")
    ordered = sorted(times)
    first, span = ordered[0], max(ordered[-1] - ordered[0], window)
    number = math.floor(span / window) + 1
    full = [0] * number
    for at in ordered:
        full[min(number - 1, int((at - first) / window))] += 1
    together = math.ceil(number / 120)
    columns = [full[i : i + together] for i in range(0, number, together)]
    top = max(limit * 1.15, *(max(column) for column in columns))
    step = ACROSS / len(columns)
    marks = []
    for index, column in enumerate(columns):
        x = LEFT + index * step
        mean, most = sum(column) / len(column), max(column)
        told = f"{_clock(index * together * window)}: {mean:.1f} in {window:g} s, at most {most}"
        marks.append(_bar(x, step, mean / top, told))
        if most > mean:
            y = TOP + DOWN * (1 - most / top)
            marks.append(_line("most", x, x + step, y))
    y = TOP + DOWN * (1 - limit / top)
    marks.append(_line("limit", LEFT, WIDTH - RIGHT, y))
    marks.append(
        f'<text class="limit" x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">'
        f"limit {limit}</text>"
    )
    marks += _scale(top)
    # The columns stand for whole windows, so the axis ends with the last of them.
    end = len(columns) * together * window
    marks += [_tick(x, text) for x, text in _ticks(end, _clock)]
    title = f"Tasks created in each {window:g} seconds, over the run, against the limit of {limit}"
    return _plot(title, marks)


def histogram(values: Sequence[float], *, what: str) -> str:
    """Plot how seconds are spread; what is beyond the 99th percentile is in the last column."""
    if not values:
        return _empty(f"no {what} on record yet")
    ordered = sorted(values)
    end = max(ordered[int((len(ordered) - 1) * 0.99)], 1e-3)
    counts = [0] * BINS
    for value in ordered:
        counts[min(BINS - 1, int(value / end * BINS))] += 1
    top = max(counts)
    step = ACROSS / BINS
    marks = []
    for index, count in enumerate(counts):
        low, high = index * end / BINS, (index + 1) * end / BINS
        beyond = " and more" if index == BINS - 1 and ordered[-1] > end else ""
        told = f"{_seconds(low)} to {_seconds(high)}{beyond}: {count:,}"
        marks.append(_bar(LEFT + index * step, step, count / top, told))
    for share, name in ((0.5, "median"), (0.9, "90 %")):
        value = ordered[int((len(ordered) - 1) * share)]
        x = LEFT + min(1.0, value / end) * ACROSS
        marks.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{TOP + DOWN}"/>')
        side = "end" if x > WIDTH * 0.7 else "start"
        offset = -4 if side == "end" else 4
        y = TOP + (12 if share == 0.5 else 32)
        marks.append(
            f'<text class="mark" x="{x + offset:.1f}" y="{y}" text-anchor="{side}">'
            f"{name} {_seconds(value)}</text>"
        )
    marks += _scale(top)
    marks += [_tick(x, text) for x, text in _ticks(end, _seconds)]
    return _plot(f"Distribution of {what}, in seconds", marks)


def _line(kind: str, x1: float, x2: float, y: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _plot(title: str, marks: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP + DOWN}" y2="{TOP + DOWN}"/>'
        f"{''.join(marks)}</svg>"
    )


def _empty(text: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text}">'
        f'<text class="none" x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">{text}'
        "</text></svg>"
    )


def _bar(x: float, step: float, share: float, told: str) -> str:
    high = DOWN * share
    width = max(0.6, step - (1 if step > 3 else 0))
    return (
        f'<rect class="bar" x="{x:.1f}" y="{TOP + DOWN - high:.1f}" width="{width:.1f}" '
        f'height="{high:.1f}"><title>{told}</title></rect>'
    )


def _tick(x: float, text: str) -> str:
    if x > WIDTH - RIGHT - 24:  # the last one would be cut off at the edge
        return f'<text x="{WIDTH}" y="{HEIGHT - 10}" text-anchor="end">{text}</text>'
    return f'<text x="{x:.1f}" y="{HEIGHT - 10}" text-anchor="middle">{text}</text>'


def _ticks(span: float, say: Callable[[float], str]) -> list[tuple[float, str]]:
    """Return up to six places on the axis, at round seconds."""
    rounds = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    step = next((s for s in rounds if span / s <= 6), math.ceil(span / 6 / 3600) * 3600)
    return [(LEFT + i * step / span * ACROSS, say(i * step)) for i in range(int(span / step) + 1)]


def _scale(top: float) -> list[str]:
    """Return the numbers of the upright axis: whole and round, for they count tasks."""
    rough = max(1.0, top / 3)
    size = 10 ** math.floor(math.log10(rough))
    step = next(size * part for part in (1, 2, 5, 10) if size * part >= rough)
    return [
        f'<text x="{LEFT - 6}" y="{TOP + DOWN * (1 - count / top) + 4:.1f}" text-anchor="end">'
        f"{count:,}</text>"
        for count in range(0, math.floor(top) + 1, step)
    ]


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value < 120 else _clock(value)


def _clock(seconds: float) -> str:
    """Return a time since the start, such as 1:02:30."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
