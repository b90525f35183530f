"""From a journal's rows to what the page shows: figures of all items, entries of some."""

from __future__ import annotations

import shlex
from array import array
from collections import deque
from collections.abc import Callable
from pathlib import Path

from attrs import define, field, frozen

from kie_async.bulk import audit
from kie_async.journal import Counts, Item, ItemState, JournalStore

__all__ = ["PICTURES", "VIDEOS", "Entry", "Figures", "Report", "gather"]

# What needs a person comes first; the rest of the room is for what is done, newest last.
FIRST = (ItemState.IN_DOUBT, ItemState.FAILED, ItemState.SENDING, ItemState.SENT)
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif"})
VIDEOS = frozenset({".mp4", ".webm", ".mov", ".m4v"})


@define
class Entry:
    """One item as the page shows it.

    Attributes:
        item: Its row.
        files: The results that are on disk, as the journal has them.
        size: Their bytes together.
        source: The source's own picture on disk, if it is known.
        thumbnail: A small picture of the first result, as WebP or JPEG.
        ratio: Width by height of that result; 0 if unknown.
    """

    item: Item
    files: tuple[Path, ...] = ()
    size: int = 0
    source: Path | None = None
    thumbnail: bytes = b""
    ratio: float = 0.0

    @property
    def kind(self) -> str:
        """Return "picture", "video", or "" without a result that can be shown."""
        suffix = self.files[0].suffix.lower() if self.files else ""
        return "picture" if suffix in PICTURES else "video" if suffix in VIDEOS else ""


@define
class Figures:
    """What is true of all items; eight bytes a figure, so a million items take 24 MB.

    Attributes:
        created: When tasks were created, by Kie's clock (Unix seconds).
        durations: Seconds of the tasks that are done, by Kie's clock.
        delays: Seconds from the end of a task until it was on record here.
        polls: Polls of the tasks that are done, together.
        credits: Credits of the tasks, together.
        ended: When the last end was noticed (Unix seconds).
    """

    created: array[float] = field(factory=lambda: array("d"))
    durations: array[float] = field(factory=lambda: array("d"))
    delays: array[float] = field(factory=lambda: array("d"))
    polls: int = 0
    credits: float = 0.0
    ended: float = 0.0

    def add(self, item: Item) -> None:
        """Count an item."""
        if item.created_at is not None:
            self.created.append(item.created_at)
        self.credits += item.credits or 0.0
        self.ended = max(self.ended, item.noticed_at or 0.0)
        if item.state is not ItemState.DONE or item.completed_at is None:
            return
        self.polls += item.polls
        if item.created_at is not None:
            self.durations.append(max(0.0, item.completed_at - item.created_at))
        if item.noticed_at is not None:
            self.delays.append(max(0.0, item.noticed_at - item.completed_at))


@frozen(kw_only=True)
class Report:
    """What a page is made of.

    Attributes:
        journal: The journal's path, as it was given: for the commands.
        again: The command that goes on with the run.
        made_at: Unix seconds.
        counts: The items in each state.
        figures: Of all items.
        entries: The items that are shown one by one.
        unexplained: Credits that left the account without a task on record; None if unknown.
    """

    journal: str
    again: str
    made_at: float
    counts: Counts
    figures: Figures
    entries: list[Entry]
    unexplained: float | None = None


Finds = Callable[[str], Path | None]
"""Finds a source's own picture by the source id, if it is there."""


async def gather(
    journal: JournalStore,
    name: str,
    *,
    made_at: float,
    again: str | None = None,
    limit: int = 10_000,
    root: Path | None = None,
    find_source: Finds | None = None,
) -> Report:
    """Walk through a journal.  Safe while a run writes it.

    Args:
        journal: The open journal.
        name: What to call it in commands.
        made_at: Now, in Unix seconds.
        again: The command that goes on with the run; None takes `kie bulk`.
        limit: Items that are shown one by one, at most; doubts and failures first, then
            the last ones done.  Figures are of all.
        root: What relative file names in the journal begin from.
        find_source: Finds pictures of the sources.
    """
    figures = Figures()
    shown: list[Item] = []
    for state in FIRST:
        async for item in journal.iterate(state):
            figures.add(item)
            if len(shown) < limit:
                shown.append(item)
    latest: deque[Item] = deque(maxlen=limit - len(shown))
    async for item in journal.iterate(ItemState.DONE):
        figures.add(item)
        latest.append(item)
    room = limit - len(shown) - len(latest)
    if room:
        shown += await journal.page(ItemState.PLANNED, limit=min(room, 500))
    return Report(
        journal=name,
        again=again or f"kie bulk --journal {shlex.quote(name)}",
        made_at=made_at,
        counts=await journal.counts(),
        figures=figures,
        entries=[_entry(item, root, find_source) for item in (*shown, *latest)],
        unexplained=(await audit(journal)).unexplained,
    )


def _entry(item: Item, root: Path | None, find_source: Finds | None) -> Entry:
    entry = Entry(item)
    there = []
    for name in item.files:
        path = (root or Path()) / name
        try:
            entry.size += path.stat().st_size
        except OSError:  # moved away since: the page says so
            continue
        there.append(path)
    entry.files = tuple(there)
    entry.source = find_source(item.source_id) if find_source is not None else None
    return entry
