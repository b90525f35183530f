"""How long a report takes to make, and how soon a browser shows it.

    python benchmarks/report.py [--items 10000] [--rows 1000000] [--smoke]

A journal with that many rows is made first.  Then: the seconds that `kie report` needs for
all of them, and the memory it takes; and for a page of --items items with real pictures, in
headless Chromium if it is installed: first contentful paint, and the time of the frames while
the gallery is scrolled from top to bottom.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.browser

PICTURES = 200
PAINT = 2000.0
"""Milliseconds to the first paint, at most."""


SCROLL = """new Promise((done) => {
  const times = []; let last = performance.now(), at = 0;
  scrollTo(0, 0);
  const frame = (now) => { times.push(now - last); last = now; at += %d; scrollTo(0, at);
    times.length < 200 ? requestAnimationFrame(frame) : done(times); };
  requestAnimationFrame(frame); })"""
"""Scrolls some pixels each frame, for 200 frames."""


async def make_journal(path: Path, rows: int, files: list[str]) -> None:
    """Make a run with *rows* items, nearly all done, with its files."""
    from kie_async.journal import Journal, PlannedItem
    from kie_async.models import Task

    async def one(journal: Journal, number: int) -> None:
        source = f"source-{number:07}"
        attempt = await journal.begin_sending(source)
        task_id = f"{number:032x}"
        if number % 500 == 499:
            await journal.record_in_doubt(source, attempt, reason="the answer was lost")
            return
        await journal.record_created(source, attempt, task_id)
        at = 1.79e9 + number / 2
        task = Task(
            task_id=task_id,
            state="fail" if number % 100 == 99 else "success",
            created_at=at,
            completed_at=at + 12 + number % 37,
            credits_consumed=10.0,
        )
        if number % 100 == 99:
            await journal.record_failed(source, reason="task failed", task=task)
            return
        await journal.record_done(source, task, polls=1 + number % 4)
        if files:
            await journal.record_files(source, [files[number % len(files)]])

    async with Journal(path) as journal:
        items = (
            PlannedItem(source_id=f"source-{n:07}", model="grok-imagine/upscale", input={"n": n})
            for n in range(rows)
        )
        await journal.plan(items)
        for start in range(0, rows, 2000):
            async with asyncio.TaskGroup() as group:
                for number in range(start, min(rows, start + 2000)):
                    group.create_task(one(journal, number))


def pictures(folder: Path, number: int) -> list[str]:
    """Paint some pictures that open."""
    from kie_async.emulator._pictures import draw, enlarge, png

    folder.mkdir()
    paths = []
    for n in range(number):
        path = folder / f"{n}.png"
        path.write_bytes(png(enlarge(draw(f"picture {n}"), 2)))
        paths.append(str(path))
    return paths


def made(journal: Path, page: Path, *options: str) -> tuple[float, float, dict[str, object]]:
    """Run `kie report`; return its seconds, the MiB it took at most, and what it told."""
    began = time.perf_counter()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    ran = subprocess.run(
        [
            sys.executable,
            "-m",
            "kie_async.cli",
            "report",
            str(journal),
            "-o",
            str(page),
            "--json",
            *options,
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "KIE_API_KEY": ""},
    )
    peak = max(before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024
    return time.perf_counter() - began, peak, json.loads(ran.stdout)


async def seen(page: Path) -> dict[str, float]:
    """Open a page in a browser; return its paint and its frames in milliseconds."""
    from tests.browser import browsing

    async with browsing() as tab:
        await tab.open(page.as_uri())
        wheel, flung = await tab.js(SCROLL % 120), await tab.js(SCROLL % 1500)
        paint = await tab.js(
            "performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1"
        )
        loaded = await tab.js(
            "performance.timing.loadEventEnd - performance.timing.navigationStart"
        )
        tiles = await tab.js("document.querySelectorAll('.tile').length")
        assert not tab.problems, tab.problems
    return {
        "first paint ms": paint,
        "loaded ms": loaded,
        "frame p50 ms, wheel": percentile(wheel, 0.5),
        "frame p95 ms, wheel": percentile(wheel, 0.95),
        "frame p95 ms, flung": percentile(flung, 0.95),
        "tiles in the page": tiles,
    }


def percentile(values: list[float], share: float) -> float:
    """Return a percentile of the frames but the first."""
    ordered = sorted(values[1:])
    return ordered[int((len(ordered) - 1) * share)]


def main() -> int:
    """Print the table; exit 1 if the page paints too late."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--items", type=int, default=10_000)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--smoke", action="store_true", help="a short run")
    asked = arguments.parse_args()
    items, rows = (500, 2000) if asked.smoke else (asked.items, asked.rows)
    from tests.browser import CHROMIUM

    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="kie-report-") as name:
        folder = Path(name)
        files = pictures(folder / "results", 20 if asked.smoke else PICTURES)
        asyncio.run(make_journal(folder / "large.db", rows, []))
        seconds, peak, _ = made(folder / "large.db", folder / "large.html", "--limit", "1000")
        figures[f"report of {rows:,} rows, s"] = seconds
        figures["its memory at most, MiB"] = peak
        asyncio.run(make_journal(folder / "run.db", items, files))
        seconds, _, told = made(folder / "run.db", folder / "run.html", "--limit", str(items))
        figures[f"page of {items:,} items, s"] = seconds
        figures["its size, MB"] = float(str(told["bytes"])) / 1e6
        if CHROMIUM:
            figures.update(asyncio.run(seen(folder / "run.html")))
    for what, value in figures.items():
        print(f"{what:<32} {value:>10,.1f}")
    if not CHROMIUM:
        print("no Chromium here: what a browser sees was not measured")
        return 0
    return 0 if figures["first paint ms"] < PAINT * (2 if asked.smoke else 1) else 1


if __name__ == "__main__":
    sys.exit(main())
