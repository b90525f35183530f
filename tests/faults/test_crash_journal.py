"""Rows K15 to K25: the journal is damaged, foreign, taken, full or old, and what it forbids."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kie_async.bulk import BulkItem
from kie_async.emulator import Rule
from kie_async.errors import KeyConflictError, SpendLimitError, StorageFullError
from kie_async.journal import Journal, JournalStore
from tests.faults.world_k import KILLED, World, collected, until, world
from tests.faults.world_k_check import attempts, items, rows
from tests.faults.world_k_work import CALLBACKS, STOPPED

pytestmark = pytest.mark.timeout(120)


async def filled(w: World) -> None:
    """Leave a journal as a killed run does: some done, the rest planned, a log beside it."""
    assert await w.run(in_flight=1, kill_at="record_done.after_commit", hit=3) == KILLED
    assert len(w.books.creates) == 3


def contents(folder: Path) -> dict[str, bytes]:
    """Return what must not change: the journal and its log; an empty log is none."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name in {"run.db", "run.db-wal"} and (path.stat().st_size or path.suffix == ".db")
    }


# -- K15, K16: what cannot be trusted is refused ------------------------------------------


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def without_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def without_file(path: Path) -> None:
    path.unlink()


def with_flipped_state(path: Path) -> None:
    """Say of a paid item that it is planned: the change that would cost money."""
    with sqlite3.connect(path) as conn:
        conn.execute("UPDATE items SET state = 'planned' WHERE seq = 1")
    conn.close()


def with_flipped_bits(path: Path) -> None:
    """Turn bits over in every page behind the header."""
    data = bytearray(path.read_bytes())
    for at in range(4096, len(data), 512):
        data[at] ^= 0x10
    path.write_bytes(data)


DAMAGES = [cut, emptied, without_log, without_file, with_flipped_state, with_flipped_bits]


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", DAMAGES, ids=[one.__name__ for one in DAMAGES])
async def test_fault_K15_the_journal_is_damaged(tmp_path: Path, damage: Callable[[Path], None]):
    """It is refused and left as it is: no create, and no new journal in its place."""
    async with world(tmp_path, 6) as w:
        await filled(w)
        if damage in (cut, with_flipped_bits):  # else the log mends the main file
            with sqlite3.connect(w.path) as conn:
                conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            conn.close()
        damage(w.path)
        was = contents(tmp_path)

        assert await w.run() == STOPPED

        assert w.stopped_by() == "JournalCorruptError"
        assert contents(tmp_path) == was
        assert len(w.books.creates) == 3


@pytest.mark.asyncio
async def test_fault_K16_a_later_version_wrote_the_journal(tmp_path: Path):
    """Refused loudly, and not changed."""
    async with world(tmp_path, 2) as w:
        assert await w.run() == 0
        assert await w.run(later=True) == 0
        was = contents(tmp_path)

        assert await w.run() == STOPPED

        assert w.stopped_by() == "JournalTooNewError"
        assert contents(tmp_path) == was
        assert w.paid() == [1, 1]


# -- K17, K18: who holds it ---------------------------------------------------------------


@pytest.mark.asyncio
async def test_fault_K17_two_processes_take_the_same_journal(tmp_path: Path):
    """The second one is refused at once; the first one goes on."""
    async with world(tmp_path, 4) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", delay=0.4))
        first = w.start(in_flight=2)
        await until(lambda: w.books.requests.get("createTask"))

        assert await w.run() == STOPPED

        assert w.stopped_by() == "JournalLockedError"
        assert first.running
        assert await first.ended() == 0
        assert w.paid() == [1, 1, 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K18_the_holder_is_dead_and_its_number_is_anothers(tmp_path: Path):
    """The system's lock says who holds a journal; the number in the file is for people."""
    async with world(tmp_path, 2) as w:
        assert await w.run(in_flight=1, kill_at="begin_sending.after_commit") == KILLED
        lock = tmp_path / "run.db.lock"
        (dead,) = {row["pid"] for row in rows(w.path, "SELECT pid FROM lease")}
        assert f"process {dead}," in lock.read_text()
        lock.write_text(lock.read_text().replace(f"process {dead},", f"process {os.getpid()},"))
        with sqlite3.connect(w.path) as conn:
            conn.execute("UPDATE lease SET pid = ?", (os.getpid(),))
        conn.close()

        assert await w.run() == 0
        assert list(w.states().values()) == ["in_doubt", "done"]
        assert w.paid() == [0, 1]
        assert w.violations() == []


# -- K19, K20: no room --------------------------------------------------------------------


@pytest.mark.asyncio
async def test_fault_K19_the_disk_is_full_at_an_intent(tmp_path: Path):
    """No intent, no POST: the run stops with `StorageFullError`, and goes on when there is room.

    The system itself refuses, by a limit on the size of files.
    """
    async with world(tmp_path, 300, rate=None) as w:
        assert await w.run(room=60_000, in_flight=8) == STOPPED

        assert w.stopped_by() == "StorageFullError"
        begun = {row["source_id"] for row in attempts(w.path)}
        assert 0 < len(w.books.creates) <= len(begun) < 300
        assert {row.source_id for row in w.books.creates} <= begun
        assert w.violations() == []

        assert await w.run() == 0
        assert max(w.paid()) == 1
        doubts = [one for one, state in w.states().items() if state == "in_doubt"]
        assert len(doubts) <= 8
        assert w.violations() == []


def full_once(point: str) -> Callable[[str], None]:
    """Return a fault hook that finds no room at a point, the first time."""
    left = [1]

    def fault(name: str) -> None:
        if name == point and left:
            left.clear()
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode, error.sqlite_errorname = 13, "SQLITE_FULL"
            raise error

    return fault


@pytest.mark.asyncio
async def test_fault_K20_the_disk_is_full_when_an_outcome_comes(tmp_path: Path):
    """The reserve is freed for it, the id is kept, and nothing more is created."""
    async with world(tmp_path, 4) as w:
        fault = full_once("record_created.before_commit")
        async with Journal(w.path, _fault=fault) as journal, w.session() as session:
            outcomes = []
            run = session.upscale_many(w.ids, journal=journal, in_flight=1)
            with pytest.raises(StorageFullError):
                async for outcome in run:
                    outcomes.append(outcome)  # noqa: PERF401 - they must survive the error
            assert not Path(f"{w.path}.ballast").exists()

        first, *others = [str(one.status) for one in outcomes]
        assert first == "done"
        assert set(others) <= {"not_sent"}
        assert w.paid() == [1, 0, 0, 0]
        assert w.violations() == []
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K20_not_even_the_reserve_helps(tmp_path: Path):
    """Then the intent stands, which is a doubt; the id is on the error, and the reference binds."""
    async with world(tmp_path, 3) as w:

        def never(name: str) -> None:
            if name == "record_created.before_commit":
                full_once(name)(name)

        async with Journal(w.path, _fault=never) as journal, w.session() as session:
            run = session.upscale_many(w.ids, journal=journal, in_flight=1, callback_url=CALLBACKS)
            with pytest.raises(StorageFullError) as caught:
                async for _ in run:
                    pass

        assert caught.value.task_id == w.books.creates[0].task_id
        assert caught.value.maybe_charged
        assert w.paid() == [1, 0, 0]
        assert w.states()[w.ids[0]] == "sending"
        assert w.violations() == []
        assert [one.verdict for one in await w.settle()] == ["settled"]
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]
        assert w.violations() == []


# -- K21, K22: an old or an unwritable place ----------------------------------------------


@pytest.mark.asyncio
async def test_fault_K21_an_old_backup_is_put_in_its_place(tmp_path: Path):
    """The file beside it knows of later commits: refused, so that nothing is paid for again.

    The matrix asks that existing outputs are found.  We promise another thing: the lock
    file, which stays in its place, counts the commits.  Whoever restores that as well, or
    deletes it as the message says, has decided.
    """
    async with world(tmp_path, 3) as w:
        assert await w.run(in_flight=1, save=True, kill_at="record_created.after_commit") == KILLED
        backup = tmp_path / "backup"
        backup.mkdir()
        for path in tmp_path.glob("run.db*"):
            shutil.copy(path, backup)
        assert await w.run(save=True) == 0
        files = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")}
        for path in backup.iterdir():
            if path.suffix != ".lock":
                shutil.copy(path, tmp_path)

        assert await w.run(save=True) == STOPPED

        assert w.stopped_by() == "JournalCorruptError"
        assert w.paid() == [1, 1, 1]
        assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("out/*")}


@pytest.fixture(name="open_folder")
def _open_folder() -> Iterator[Path]:
    """Return a folder that a process without rights can reach."""
    with tempfile.TemporaryDirectory(prefix="kie-nobody-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


@pytest.mark.asyncio
@pytest.mark.parametrize("there", [False, True], ids=["no journal yet", "a journal"])
async def test_fault_K22_the_folder_is_read_only(open_folder: Path, there: bool):
    """Refused before anything is created."""
    async with world(open_folder, 2) as w:
        if there:
            assert await w.run(in_flight=1, kill_at="record_done.after_commit") == KILLED
            for path in open_folder.iterdir():
                path.chmod(0o444)
        made = len(w.books.creates)
        open_folder.chmod(0o555)

        assert await w.run(nobody=True) == STOPPED

        assert made == len(w.books.creates) == int(there)


@pytest.mark.asyncio
async def test_fault_K22_the_file_system_is_a_network_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """A loud warning: its locks and syncs may not hold."""
    device = tmp_path.stat().st_dev
    line = f"1 2 {os.major(device)}:{os.minor(device)} / / rw - nfs4 server:/x rw\n"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: line if self.name == "mountinfo" else read_text(self, *a, **k),
    )

    async with Journal(tmp_path / "run.db"):
        pass

    (warning,) = [row for row in caplog.records if "network file system" in row.message]
    assert warning.levelname == "WARNING"
    assert "paid for twice" in warning.message


# -- K23 to K25: several workers, and lists that say a thing twice ------------------------


@pytest.mark.asyncio
async def test_fault_K23_a_worker_of_a_pool_is_killed(tmp_path: Path):
    """Each has a journal of its own: the others do not notice, and its share is gone on with."""
    async with world(tmp_path, 12, durations=lambda _rng: 0.2) as w:
        shares = [w.ids[number::3] for number in range(3)]
        folders = [tmp_path / str(number) for number in range(3)]
        for folder in folders:
            folder.mkdir()

        def start(number: int) -> Any:
            return w.start(folder=folders[number], ids=shares[number], callbacks=True)

        pool = [start(number) for number in range(3)]
        await until(lambda: any(w.books.paid(one) for one in shares[1]))
        assert await pool[1].kill() == KILLED

        assert [await pool[0].ended(), await pool[2].ended()] == [0, 0]
        assert await start(1).ended() == 0
        for folder, share in zip(folders, shares, strict=True):
            told = {row["source_id"]: row["state"] for row in items(folder / "run.db")}
            assert set(told) == set(share)
            if folder is not folders[1]:
                assert set(told.values()) == {"done"}
            assert World(w.emulator, folder, tuple(share)).violations() == []
        assert max(w.paid()) == 1


@pytest.mark.asyncio
async def test_fault_K24_an_item_stands_in_the_list_twice_and_the_run_is_repeated(tmp_path: Path):
    """One create for each; the second run sends no create and fetches no file."""
    async with world(tmp_path, 3) as w:
        doubled = [*w.ids, *reversed(w.ids)]
        options = {"directory": tmp_path / "out"}
        async with Journal(w.path) as journal, w.session() as session:
            first = await collected(session, doubled, journal=journal, **options)
            asked = dict(w.books.requests)
            second = await collected(session, doubled, journal=journal, **options)

        assert [str(one.status) for one in first] == ["done"] * 3
        assert second == []
        assert w.books.requests == asked
        assert asked["createTask"] == asked["files"] == 3
        assert w.paid() == [1, 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("ended", [False, True], ids=["planned", "done"])
async def test_fault_K25_an_item_comes_back_with_other_parameters(tmp_path: Path, ended: bool):
    """`KeyConflictError` and no create: it says so instead of paying for something else."""
    async with world(tmp_path, 2) as w:
        kept: JournalStore
        async with Journal(w.path) as kept, w.session() as session:
            with contextlib.suppress(SpendLimitError):
                await collected(session, w.ids, journal=kept, max_credits=None if ended else 0.0)
            made = len(w.books.creates)
            other = [BulkItem(source_id=w.ids[0], resolution="1080p")]

            with pytest.raises(KeyConflictError):
                await collected(session, other, journal=kept)

        assert len(w.books.creates) == made == (2 if ended else 0)
        assert [json.loads(row["input"]) for row in items(w.path)] == [
            {"task_id": one} for one in w.ids
        ]
        assert w.violations() == []
