"""What the rows of downloads share: runs that save, and a checker of what they leave.

The truth is what the emulator painted and what lay around before the run.  `violations`
compares a folder with both; it takes any client's, so that the controls can show it a bad
one and see it caught.

Where the matrix and this package use different words: DownloadIncomplete, DownloadInvalid,
ResultExpired, HostNotAllowed, UnsafePath and StorageError are `DownloadError`, whose text
says which; StorageFull is `StorageFullError`.  An item that is PARTIAL is ``done``, with an
error that has the files that were ``saved``; the same command saves the others.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

import kie_async.files
from benchmarks.kills import noise
from kie_async import Outcome
from kie_async.bulk import BulkItem
from kie_async.emulator import Answer, Request, Rule
from kie_async.emulator._faults import head
from kie_async.emulator._pictures import png
from kie_async.errors import DownloadError
from kie_async.journal import Item, ItemState
from tests.faults.world_t import World
from tests.faults.world_t import world as transport_world

UNFINISHED = (".part", ".part.json")


def large(name: str, _task: Any) -> bytes:
    """Make a PNG of six megabytes that nothing can shorten, and quickly."""
    numbers = random.Random(name)
    return png([numbers.randbytes(3 * 1024) for _ in range(2048)])


def raw(answer: Answer, body: bytes, framing: str = "length", **fields: Any) -> bytes:
    """Write an answer by hand: *fields* of its head, then *body*, whatever that says."""
    headers = {name.replace("_", "-"): str(value) for name, value in fields.items()}
    return head(evolve(answer, headers={**answer.headers, **headers}), framing) + body


# -- the checker ------------------------------------------------------------------------------


def around(path: Path) -> dict[str, Any]:
    """Return everything below *path* but the journal: of a file its bytes, of a link its end."""
    found: dict[str, Any] = {}
    for entry in sorted(path.rglob("*")):
        if entry.name.startswith("run.db"):
            continue
        if entry.is_symlink():
            found[str(entry)] = entry.readlink()
        else:
            found[str(entry)] = entry.read_bytes() if entry.is_file() else "no file"
    return found


def violations(path: Path, before: Mapping[str, Any], painted: Collection[bytes]) -> list[str]:
    """Return what is wrong below *path*: I6 half or wrong files, I13 what is nobody's business.

    Args:
        path: Results lie in its folder ``out``.
        before: What `around` told of it before the run.
        painted: Every result that there is.
    """
    wrong = []
    now = around(path)
    for name, was in before.items():
        if now.get(name) != was:
            wrong.append(f"I13: {name} was changed")
    out = path / "out"
    for name in now.keys() - before.keys() - {str(out)}:
        entry = Path(name)
        if entry.parent != out:
            wrong.append(f"I13: {name} was made")
        elif not name.endswith(UNFINISHED) and now[name] not in painted:
            wrong.append(f"I6: {name} is no whole result")
    return wrong


# -- the world --------------------------------------------------------------------------------


@define
class Downloads:
    """A world whose runs save their results.

    Attributes:
        w: Emulator, journal, clients.
        path: Where the journal and the folder ``out`` lie.
        asked: Each request for a file: its name, and the range, "" for all of it.
        before: What lay around.
    """

    w: World
    path: Path
    asked: list[tuple[str, str]] = field(factory=list)
    before: dict[str, Any] = field(factory=dict)

    @property
    def out(self) -> Path:
        """Where the results go."""
        return self.path / "out"

    @property
    def ranges(self) -> list[str]:
        """The ranges that were asked for."""
        return [wanted for _, wanted in self.asked]

    @property
    def painted(self) -> Mapping[str, bytes]:
        """Every result that was ever asked for, by its name at Kie's."""
        return self.w.emulator.core.media.painted

    def spoil(
        self, action: Any, route: str = "files", times: int | None = 1, **fields: Any
    ) -> None:
        """Let requests for files meet a fault."""
        self.w.emulator.inject(
            Rule(route=route, action=action, times=times, **{"when": "after", **fields})
        )

    async def run(self, sources: Iterable[str | BulkItem] = (), **settings: Any) -> list[Outcome]:
        """Run a list to its end; return the outcomes in the order of their ids."""
        found = await self.w.run(sources, **settings)
        return [found[source] for source in sorted(found)]

    async def failed(self, *sources: str | BulkItem, **settings: Any) -> list[str]:
        """As `run`, where no file can be saved though all tasks are done; return the reasons."""
        before = self.finals()
        outcomes = await self.run(sources, **settings)
        assert [str(outcome.status) for outcome in outcomes] == ["done"] * len(outcomes)
        assert all(isinstance(outcome.error, DownloadError) for outcome in outcomes)
        assert self.finals() == before
        await self.check()
        return [outcome.error.message for outcome in outcomes if outcome.error is not None]

    def finals(self) -> list[str]:
        """Return what has its final name, apart from what was there before."""
        there = self.out.iterdir() if self.out.is_dir() else ()
        names = [p.name for p in there if str(p) not in self.before]
        return sorted(name for name in names if not name.endswith(UNFINISHED))

    async def items(self) -> list[Item]:
        """Return the journal's items that are done."""
        return [item async for item in self.w.journal.iterate(ItemState.DONE)]

    async def check(self) -> None:
        """Compare books, journal and files: I1, I2, I3, I6, I7, I13."""
        await self.w.check()
        assert violations(self.path, self.before, set(self.painted.values())) == []
        for item in await self.items():
            for number, name in enumerate(item.files):
                assert Path(name).read_bytes() == self.painted[f"{item.task_id}-{number}.png"]

    async def end_well(self) -> None:
        """Go on without faults: every result is there; and once more: nothing is asked (I20)."""
        await self.check()
        self.w.emulator.clear_rules()
        await self.run()
        assert self.w.stopped_by is None
        items = await self.items()
        assert len(items) == (await self.w.journal.counts()).total
        assert all(item.files for item in items)
        assert not [path for path in self.out.iterdir() if path.name.endswith(UNFINISHED)]
        await self.check()
        asked, creates = len(self.asked), len(self.w.books.creates)
        assert await self.run() == []
        assert (len(self.asked), len(self.w.books.creates)) == (asked, creates)
        assert set(self.w.books.paid.values()) == {1}


@asynccontextmanager
async def downloads(
    path: Path, limits: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Downloads]:
    """Set up a world below *path*; *limits* are of the downloader, *settings* the emulator's."""
    with pytest.MonkeyPatch.context() as patch:
        quick = partial(kie_async.files.Downloader, **{"backoff": 0.0, **(limits or {})})
        patch.setattr(kie_async.files, "Downloader", quick)
        async with transport_world(path, **{"paint": noise, **settings}) as w:
            d = Downloads(w, path)
            w.options["directory"] = d.out
            d.before = around(path)
            arrive = w.emulator.core.arrive

            def heard(request: Request, now: float) -> Any:
                if request.path.startswith("/files/"):
                    name = request.path.removeprefix("/files/")
                    d.asked.append((name, request.headers.get("range", "")))
                return arrive(request, now)

            w.emulator.core.arrive = heard  # type: ignore[method-assign]  # before any rule
            yield d
