"""The work of ``kie report``: read the journal, make thumbnails, write the page."""

from __future__ import annotations

import asyncio
import os
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from attrs import evolve, frozen

from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, Refused
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.cli._settings import connect
from kie_async.errors import KieError
from kie_async.report import (
    MARK,
    PICTURES,
    VIDEOS,
    Report,
    add_thumbnails,
    build_page,
    can_make_thumbnails,
    gather,
)
from kie_async.session import KieSession

__all__ = ["Wanted", "make"]

AT_ONCE = 8
"""Sources that are fetched at the same time."""
PATIENCE = 120.0
"""Seconds for one of them."""
SUFFIXES = PICTURES | VIDEOS


@frozen(kw_only=True)
class Wanted:
    """What the command line asked for."""

    journal: Where
    target: str
    sources: Path | None
    fetch: bool
    rate: Rate
    limit: int
    thumbnails: bool
    force: bool
    show: bool


async def make(wanted: Wanted, output: Output) -> int:
    """Make the page and say where it is."""
    directory = Path.cwd() if wanted.target == "-" else Path(wanted.target).parent
    target = None if wanted.target == "-" else Path(wanted.target)
    if target is not None:
        await asyncio.to_thread(_check, target, force=wanted.force)
    async with wanted.journal.look() as journal:
        report = await gather(
            journal,
            str(wanted.journal),
            made_at=time.time(),
            again=wanted.journal.again,
            limit=wanted.limit,
            find_source=_finder(wanted.sources),
        )
    if wanted.fetch and wanted.sources is not None:
        await _fetch(report, wanted.sources, output)
    small = await _thumbnails(report, wanted, output)
    rate = wanted.rate
    text = await asyncio.to_thread(
        build_page, report, directory, limit=rate.limit, window=rate.window
    )
    page = text.encode()
    if target is None:
        output.result(page.decode())
        return 0
    await asyncio.to_thread(_write, target, page)
    if output.as_json:
        fields = {"path": str(target), "items": len(report.entries), "thumbnails": small}
        output.event("report", {**fields, "bytes": len(page)})
    else:
        size = f"{len(page) / 1e6:.1f} MB"
        output.result(f"{clean(target)}: {len(report.entries):,} items, {size}")
    if wanted.show:
        webbrowser.open(target.resolve().as_uri())
    return 0


async def _fetch(report: Report, directory: Path, output: Output) -> None:
    """Fetch the sources' pictures that are not there; who is not known stays unknown."""
    lacking = [entry for entry in report.entries if entry.files and entry.source is None]
    if not lacking:
        return
    room = asyncio.Semaphore(AT_ONCE)
    got = looked = 0

    async def one(kie: KieSession, source_id: str) -> None:
        nonlocal got, looked
        async with room:
            with suppress(KieError):  # too old, another account's, or gone: the page says so
                task = await kie.get_task(source_id, timeout=PATIENCE)
                # A picture task has six results; one of them is all that the page shows.
                first = evolve(task, result_urls=task.result_urls[:1])
                files = await kie.download(first, directory, timeout=PATIENCE)
                got += bool(files)
            looked += 1
            output.passing(f"sources {looked:,} of {len(lacking):,}")

    async with connect(lambda _event: None) as kie, asyncio.TaskGroup() as group:
        for entry in lacking:
            group.create_task(one(kie, entry.item.source_id))
    output.passing()
    find = _finder(directory)
    for entry in lacking:
        entry.source = find(entry.item.source_id) if find is not None else None
    output.note(f"{got:,} of {len(lacking):,} sources fetched into {clean(directory)}")


async def _thumbnails(report: Report, wanted: Wanted, output: Output) -> int:
    if not wanted.thumbnails:
        return 0
    if not can_make_thumbnails():
        output.note("Without thumbnails: pip install 'kie_async[report]' brings what makes them.")
        return 0
    many = len(report.entries) > 500

    def tell(done: int) -> None:
        if many:
            output.passing(f"thumbnails {done:,}")

    made = await asyncio.to_thread(add_thumbnails, report.entries, tell=tell)
    output.passing()
    return made


def _finder(directory: Path | None) -> Callable[[str], Path | None] | None:
    """Return what finds a source's picture by its id, in one look at the directory."""
    if directory is None or not directory.is_dir():
        return None
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.stem, path)
            found.setdefault(path.stem.rpartition("-")[0], path)  # the first of several results
    return found.get


def _check(target: Path, *, force: bool) -> None:
    """Refuse to write over something that is not ours, before any work is done."""
    if not target.parent.is_dir():
        raise Refused(f"there is no directory {target.parent}", Exit.USAGE, "make it first")
    if target.is_dir():
        raise Refused(f"{target} is a directory", Exit.USAGE, "kie report RUN.DB -o FILE.html")
    if force or not target.exists():
        return
    with target.open("rb") as file:
        if MARK.encode() not in file.read(200):
            raise Refused(
                f"{target} exists and is no report of kie", Exit.USAGE, "another -o, or --force"
            )


def _write(target: Path, page: bytes) -> None:
    """Write it beside, and put it in place when it is whole."""
    new = target.with_name(target.name + ".part")
    try:
        with new.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    except OSError as error:
        new.unlink(missing_ok=True)
        raise Refused(
            f"{target} cannot be written: {error.strerror or error}", Exit.OTHER, "another -o"
        ) from None
