"""How the benchmarks measure: interleaved, in ratios, with the spread.

The machine is noisy and shared: the same code in two processes differs by a quarter.  So
candidates run in one process in short blocks, each between two blocks of the base (A B B
A), by CPU time and not by the clock on the wall.  Of the ratios of many such rounds the
median is told, with the range that holds the true median 19 times of 20.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import math
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from platform import python_version

from attrs import define, field, frozen

__all__ = [
    "CONTROL",
    "VOID",
    "Ratio",
    "Report",
    "abba",
    "cpu_of",
    "drained",
    "options",
    "ratio_of",
    "spread_over",
    "table",
    "versions",
]

Block = Callable[[], Awaitable[None]]
CONTROL = "the base against itself"
VOID = 3
"""Exit code of a run that the machine was too noisy for: it proves nothing either way."""


@frozen
class Ratio:
    """A median of ratios; the true one lies within *low* and *high* 19 times of 20."""

    median: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Show it with its range."""
        return f"{self.median:.3f} ({self.low:.3f}-{self.high:.3f})"

    def within(self, low: float, high: float) -> bool:
        """True if the median lies there."""
        return low <= self.median <= high


def ratio_of(values: Sequence[float]) -> Ratio:
    """Return the median of *values*, and its 95 % range by ranks: no shape is assumed."""
    ordered = sorted(values)
    count = len(ordered)
    # Of n draws the number below the median is binomial(n, 1/2): go outwards from the
    # middle until the ranks hold 95 % of that.
    rank, below = 0, 0.5**count
    while rank < count // 2 and below + math.comb(count, rank + 1) * 0.5**count <= 0.025:
        rank += 1
        below += math.comb(count, rank) * 0.5**count
    return Ratio(statistics.median(ordered), ordered[rank], ordered[count - 1 - rank], count)


async def drained() -> None:
    """Let what a block has left behind be done in that block: connections that close."""
    for _ in range(5):
        await asyncio.sleep(0)


async def cpu_of(block: Block) -> float:
    """Return the CPU seconds of this process, threads included, that *block* takes."""
    began = time.process_time()
    await block()
    await drained()
    return time.process_time() - began


async def abba(base: Block, others: Mapping[str, Block], rounds: int) -> dict[str, Ratio]:
    """Compare each of *others* with *base*, and *base* with itself (``CONTROL``).

    One round is A B B A for each of them, in an order that changes from round to round.
    """
    candidates = {**others, CONTROL: base}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    order, rng = list(candidates), random.Random(1)
    for block in candidates.values():  # connections, caches, learned durations
        await block()
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        rng.shuffle(order)
        for name in order:
            other = candidates[name]
            outer = await cpu_of(base)
            inner = await cpu_of(other) + await cpu_of(other)
            outer += await cpu_of(base)
            found[name].append(inner / outer)
    gc.unfreeze()
    return {name: ratio_of(values) for name, values in found.items()}


async def spread_over(concurrency: int, cycles: int, one: Callable[[], Awaitable[object]]) -> None:
    """Call *one* *cycles* times, *concurrency* at a time."""
    if concurrency == 1:
        for _ in range(cycles):
            await one()
        return
    left = iter(range(cycles))

    async def worker() -> None:
        for _ in left:
            await one()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())


@define
class Report:
    """Collects verdicts and becomes an exit code."""

    missed: list[str] = field(factory=list)
    void: list[str] = field(factory=list)

    def judge(self, what: str, value: float, at_most: float) -> str:
        """Note whether *value* keeps its limit; return the words for a table."""
        if value <= at_most:
            return f"at most {at_most:g}: kept"
        self.missed.append(f"{what}: {value:.3f}, wanted at most {at_most:g}")
        return f"at most {at_most:g}: MISSED"

    def control(self, what: str, ratio: Ratio, low: float, high: float) -> str:
        """Note whether the base agrees with itself; else nothing of it counts."""
        if ratio.within(low, high):
            return f"{low:g} to {high:g}: the run counts"
        self.void.append(f"{what}: {ratio}, wanted {low:g} to {high:g}")
        return f"{low:g} to {high:g}: THE RUN IS VOID"

    def end(self, *, smoke: bool = False) -> int:
        """Print the verdict and return the exit code; a smoke run has none but "it ran"."""
        if smoke:
            print("smoke: it runs; a run this short proves nothing more")
            return 0
        for what in self.void:
            print(f"void: {what}")
        for what in self.missed:
            print(f"missed: {what}")
        if self.void:
            return VOID
        print("NOT AS PROMISED" if self.missed else "as promised")
        return 1 if self.missed else 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose columns line up."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def versions(*packages: str) -> str:
    """Name what was measured: the interpreter, and the packages that are installed."""
    found = [f"Python {python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)


def options(doc: str | None, *more: tuple[str, dict[str, object]]) -> argparse.Namespace:
    """Read the command line; every benchmark knows ``--smoke``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run?")
    for flag, settings in more:
        parser.add_argument(flag, **settings)  # type: ignore[arg-type]
    return parser.parse_args(sys.argv[1:])
