"""Rows D15 to D18: the disk, the folder, the names; and a kill after the last step."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from benchmarks.kills import noise
from kie_async import SlidingWindowLimiter
from kie_async.bulk import BulkItem
from kie_async.emulator import Answer, EmulatedAPI, Request
from kie_async.errors import StorageFullError, UsageError
from kie_async.files._part import Part
from tests.faults.test_crash_files import heard
from tests.faults.world_d import around, downloads, large
from tests.faults.world_k import KILLED
from tests.faults.world_k import world as killed_world

pytestmark = pytest.mark.asyncio


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more into one file: what a full disk is to a program."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_fault_D15_the_disk_is_full(tmp_path: Path):
    """The run stops before it pays for more; what came is kept, and gone on with.

    There is one turn an hour here: only the stop can end this run.
    """
    room = 4 * 2**20

    def paint(name: str, task: Any) -> bytes:
        return large(name, task) if task.source_id == "source-0" else noise(name, task)

    async with downloads(tmp_path, paint=paint) as d:
        slow = SlidingWindowLimiter(1, 3600.0)
        with files_of_at_most(room):
            (outcome,) = await d.run([f"source-{n}" for n in range(4)], limiter=slow)

        assert isinstance(d.w.stopped_by, StorageFullError)
        assert (outcome.source_id, str(outcome.status)) == ("source-0", "done")
        assert d.w.books.paid == {"source-0": 1}
        assert [path.stat().st_size for path in d.out.glob("*.part")] == [room]
        await d.check()

        d.asked.clear()
        await d.end_well()
        assert d.ranges.count(f"bytes={room}-") == 1
        assert len(d.asked) == 4


# -- D16 --------------------------------------------------------------------------------------

Obstacle = Callable[[Path, Path], Path]


def file_for_folder(out: Path, _victim: Path) -> Path:
    """A file stands where the folder should be."""
    out.write_text("a file")
    return out


def folder_for_file(out: Path, _victim: Path) -> Path:
    """A folder has the final name."""
    (out / "source-a.png").mkdir(parents=True)
    return out / "source-a.png"


def link(out: Path, victim: Path) -> Path:
    """A link has the final name."""
    out.mkdir()
    (out / "source-a.png").symlink_to(victim)
    return out / "source-a.png"


def dangling(out: Path, victim: Path) -> Path:
    """A link to nothing has the final name."""
    return link(out, victim.with_name("nowhere"))


def folder_for_part(out: Path, _victim: Path) -> Path:
    """A folder has the name of the part; the task's id, which is in it, is always the same."""
    path = Part(out, "source-a", FIRST_TASK, 0).path
    path.mkdir(parents=True)
    return path


FIRST_TASK = EmulatedAPI(seed=0)._new_id()
OBSTACLES: list[Obstacle] = [file_for_folder, folder_for_file, link, dangling, folder_for_part]


@pytest.mark.parametrize("obstacle", OBSTACLES)
async def test_fault_D16_something_is_in_the_way(obstacle: Obstacle, tmp_path: Path):
    """It is left as it is and told; when it is moved away, the result is saved, for free."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    async with downloads(tmp_path) as d:
        there = obstacle(d.out, victim)
        d.before = around(tmp_path)

        for again in (["source-a"], []):
            (why,) = await d.failed(*again)
            assert "another folder" in why or "move it" in why

        d.before = {str(victim): b"mine"}
        there.rmdir() if there.is_dir() else there.unlink()
        await d.end_well()
        assert d.w.books.paid == {"source-a": 1}


async def test_fault_D16_a_link_has_the_name_of_the_part(tmp_path: Path):
    """It is never written through."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    async with downloads(tmp_path) as d:
        d.out.mkdir()
        d.before = around(tmp_path)
        Part(d.out, "source-a", FIRST_TASK, 0).path.symlink_to(victim)

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        await d.end_well()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder for nobody is needed")
async def test_fault_D16_nobody_may_write_there(tmp_path: Path):
    """Not even root may make files in /proc."""
    async with downloads(tmp_path) as d:
        d.w.options["directory"] = Path("/proc/kie-results")
        (why,) = await d.failed("source-a")
        assert "choose another folder" in why

        d.w.options["directory"] = d.out
        await d.end_well()


async def test_fault_D16_the_folder_vanishes_in_the_middle(tmp_path: Path):
    """No file appears elsewhere; the next run makes the folder again."""
    async with downloads(tmp_path) as d:

        def vanish(_asked: Request) -> bool:
            for path in d.out.iterdir():
                path.unlink()
            d.out.rmdir()
            return True

        d.spoil("headers", match=vanish)
        (why,) = await d.failed("source-a")

        assert "cannot be written to" in why
        assert not d.out.exists()
        await d.end_well()


# -- D17 --------------------------------------------------------------------------------------

NAMES = [
    "../../evil",
    "..%2f..%2fevil",
    "/etc/evil",
    "..\\..\\evil",
    "CON",
    "nul.txt",
    ".hidden",
    "n" * 300,
    "n" * 301,
    "same",
    "same",
    "Case",
    "case",
    "{task_id}",
    "ünïcode",
    " ",
    "..",
]


async def test_fault_D17_names_that_lead_elsewhere(tmp_path: Path):
    """From the list, from the address and from the host: one plain file for each, in the folder."""

    def renamed(_request: Request, answer: Answer | None) -> Answer:
        assert answer is not None
        return evolve(answer, body=answer.body.replace(b"-0.png", b"-0.png?/../../..%2f..%2fevil"))

    items = [BulkItem(source_id=f"s-{n}", output_name=name) for n, name in enumerate(NAMES)]
    async with downloads(tmp_path) as d:
        d.spoil(renamed, route="recordInfo", times=None)
        evil = {"Content-Disposition": 'attachment; filename="../../../evil.png"'}
        d.spoil("headers", times=None, headers=evil)

        assert await d.run([BulkItem(source_id="nul", output_name="evil\0.png")]) == []
        assert isinstance(d.w.stopped_by, UsageError)  # a name that no system has: nothing is sent
        assert d.w.books.arrivals == []

        outcomes = await d.run([*items, "a:b", "x..y"])

        assert d.w.stopped_by is None

        assert all(outcome.error is None for outcome in outcomes)
        paths = [path for outcome in outcomes for path in outcome.files]
        assert len(set(paths)) == len(NAMES) + 2
        assert {path.parent for path in paths} == {d.out}
        assert not [path for path in paths if path.name.startswith((".", " ", "CON.", "nul."))]
        assert max(len(path.name.encode()) for path in paths) < 140
        await d.end_well()


# -- D18 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["file.named", "record_files.before_commit"])
async def test_fault_D18_killed_between_the_name_and_the_record(point: str, tmp_path: Path):
    """The next run knows the file again and asks nobody for it; the one after that does nothing."""
    async with killed_world(tmp_path, 3) as w:
        assert await w.run(save=True, kill_at=point) == KILLED
        named = sorted(path.name for path in tmp_path.glob("out/*.png"))
        assert named
        assert w.violations() == []
        ranges = heard(w)

        assert await w.run(save=True) == 0
        assert len(ranges) <= 3 - len(named)
        assert w.violations() == []
        assert sorted(path.name for path in tmp_path.glob("out/*")) == [
            f"{one}.png" for one in sorted(w.ids)
        ]

        requests = dict(w.books.requests)
        assert await w.run(save=True) == 0
        assert w.books.requests == requests
        assert w.paid() == [1, 1, 1]
