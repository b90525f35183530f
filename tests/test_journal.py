"""The journal's file: who may open it, what is refused, and what a full disk does."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kie_async.errors import (
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    StorageFullError,
    WrongLoopError,
)
from kie_async.journal import Counts, ItemState, Journal, PlannedItem, _planning, _storage
from kie_async.journal._schema import SCHEMA, Schema
from tests.fakes import Altered


def items(*names: str) -> list[PlannedItem]:
    return [PlannedItem(source_id=name, model="m", input={"task_id": name}) for name in names]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listed(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def filled(path: Path, count: int = 3) -> None:
    """Make a closed journal of items in different states."""
    async with Journal(path) as journal:
        await journal.plan(items(*(f"i{number}" for number in range(count))))
        await journal.begin_sending("i0", ref="r0")
        await journal.record_created("i1", await journal.begin_sending("i1"), "t1")


# Opening


@pytest.mark.asyncio
async def test_a_new_journal_is_private_and_marked_as_ours(tmp_path: Path):
    """Mode 0600 on each file; plain SQL can look into it; nothing but the lock is left over."""
    path = tmp_path / "run.db"

    async with Journal(path) as journal:
        await journal.plan(items("a"))
        during = listed(tmp_path)
        modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in during}

    assert modes == {0o600}
    assert during == {"run.db", "run.db-wal", "run.db-shm", "run.db.lock", "run.db.ballast"}
    assert listed(tmp_path) == {"run.db", "run.db.lock"}
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT source_id, state FROM items").fetchall() == [("a", "planned")]
    assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert conn.execute("SELECT ended_at >= started_at FROM lease").fetchall() == [(1,)]
    conn.close()


@pytest.mark.asyncio
async def test_a_missing_journal_is_made_only_if_asked(tmp_path: Path):
    """A wrong path must not look like an empty run."""
    with pytest.raises(JournalError, match="no such journal"):
        await Journal.open(tmp_path / "run.db", create=False)
    with pytest.raises(JournalError, match="no such journal"):
        await Journal.open(tmp_path / "run.db", read_only=True)
    with pytest.raises(JournalError, match="there is no directory"):
        await Journal.open(tmp_path / "no" / "run.db")

    assert listed(tmp_path) == set()


@pytest.mark.asyncio
async def test_a_link_or_a_directory_is_refused(tmp_path: Path):
    """A link could point anywhere by the next start."""
    await filled(tmp_path / "real.db")
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    (tmp_path / "dir.db").mkdir()
    (tmp_path / "dangling.db").symlink_to(tmp_path / "nothing")

    for name, reason in (("link", "symbolic"), ("dangling", "symbolic"), ("dir", "regular")):
        with pytest.raises(JournalError, match=reason):
            await Journal.open(tmp_path / f"{name}.db")


@pytest.mark.asyncio
async def test_a_link_in_place_of_the_lock_is_refused(tmp_path: Path):
    """Nothing else is locked or written to in its place."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run.db.lock").symlink_to(tmp_path / "victim")

    with pytest.raises(JournalError, match="lock cannot be made"):
        await Journal.open(tmp_path / "run.db")

    assert (tmp_path / "victim").read_text() == "precious"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"SQLite format 3\x00" + b"\x00" * 20, "is cut off"),
        (b"hello, world\n" * 100, "no SQLite file"),
        (b"\x00" * 8192, "no SQLite file"),
    ],
)
@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("read_only", [False, True])
async def test_what_is_no_journal_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, reason: str, wal: bool, read_only: bool
):
    """Its bytes stay, and nothing is put beside it."""
    path = tmp_path / "run.db"
    path.write_bytes(content)
    if wal:
        (tmp_path / "run.db-wal").write_bytes(b"something")

    with pytest.raises(JournalCorruptError, match=reason):
        await Journal.open(path, read_only=read_only)

    assert path.read_bytes() == content
    assert len(listed(tmp_path)) == 1 + wal


@pytest.mark.asyncio
async def test_the_file_of_another_program_is_refused(tmp_path: Path):
    """It is SQLite, and still not ours."""
    path = tmp_path / "run.db"
    conn = sqlite3.connect(path)
    conn.executescript(
        "CREATE TABLE items (seq, source_id, state); CREATE TABLE meta (name, value)"
    )
    conn.close()
    before = digest(path)

    with pytest.raises(JournalCorruptError, match="another program"):
        await Journal.open(path)

    assert digest(path) == before


@pytest.mark.asyncio
async def test_a_log_without_its_journal_is_refused(tmp_path: Path):
    """Somebody moved half of it: an empty journal in its place would pay again."""
    (tmp_path / "run.db-wal").write_bytes(b"x" * 100)

    with pytest.raises(JournalCorruptError, match="put the journal back"):
        await Journal.open(tmp_path / "run.db")


@pytest.mark.asyncio
async def test_a_newer_journal_is_refused(tmp_path: Path):
    """By its header alone; it is left as it is."""
    path = tmp_path / "run.db"
    await filled(path)
    conn = sqlite3.connect(path)
    conn.execute(f"PRAGMA user_version = {SCHEMA.version + 1}")
    conn.close()
    before = digest(path)

    for read_only in (False, True):
        with pytest.raises(JournalTooNewError, match=f"version {SCHEMA.version + 1}"):
            await Journal.open(path, read_only=read_only)

    assert digest(path) == before


@pytest.mark.asyncio
async def test_a_directory_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Root may write everywhere, so the system call is made to fail."""

    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("kie_async.journal._lease.os.open", refuse)

    with pytest.raises(JournalError, match="Permission denied"):
        await Journal.open(tmp_path / "run.db")


def mount_line(folder: Path, kind: str) -> str:
    """Return what /proc would say if *folder* were on another kind of file system."""
    device = folder.stat().st_dev
    return f"1 2 {os.major(device)}:{os.minor(device)} / / rw - {kind} server:/x rw\n"


@pytest.mark.asyncio
async def test_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Its locks and syncs may not hold."""
    line = mount_line(tmp_path, "nfs4")
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: line if self.name == "mountinfo" else read_text(self, *a, **k),
    )

    async with Journal(tmp_path / "run.db"):
        pass

    assert [r.message for r in caplog.records if "network file system" in r.message]


# Damage


@pytest.mark.asyncio
@pytest.mark.parametrize("keep", [0.3, 0.7, 0.99])
async def test_a_cut_journal_is_refused_and_left_alone(tmp_path: Path, keep: float):
    """At whatever place it was cut."""
    path = tmp_path / "run.db"
    await filled(path, 500)
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * keep))
    before = digest(path)

    with pytest.raises(JournalCorruptError):
        await Journal.open(path)

    assert digest(path) == before


async def contents(path: Path) -> list[Any]:
    """Open a journal as a run does and read all that decides about money."""
    async with Journal(path, create=False) as journal:
        rows = [row async for row in journal.export()]
        states = {state: [i.source_id async for i in journal.iterate(state)] for state in ItemState}
        known = [await journal.get(f"i{number}") for number in range(120)]
        assert await journal.plan(items(*(f"i{number}" for number in range(120)))) == []
    keep = ("seq", "source_id", "model", "input", "output_name", "state", "task_id", "attempts")
    return [
        [
            [
                [row[name] for name in keep[:7]],
                [(a["number"], a["verdict"]) for a in row["attempts"]],
            ]
            for row in rows
        ],
        states,
        [found and (found.seq, found.state, found.task_id) for found in known],
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(4))
async def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path, seed: int):
    """A journal opens with the same items, or not at all; never silently with fewer."""
    path = tmp_path / "run.db"
    await filled(path, 120)
    whole, expected = path.read_bytes(), await contents(path)
    whole = path.read_bytes()
    found = 0
    for offset in range(seed * 97 % len(whole), len(whole), len(whole) // 30):
        for name in listed(tmp_path):
            (tmp_path / name).unlink()
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << (offset + seed) % 8
        path.write_bytes(damaged)
        try:
            assert await contents(path) == expected, f"byte {offset}"
        except (JournalCorruptError, JournalTooNewError):
            found += 1

    assert found >= 3


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE items SET source_id = 'i9' WHERE seq = 1",
        "UPDATE items SET task_id = 't9' WHERE seq = 2",
        "UPDATE items SET state = 'planned' WHERE seq = 2",
        "UPDATE ids SET hash = hash + 1 WHERE seq = 1",
        "DELETE FROM items WHERE seq = 3",
        "DELETE FROM ids WHERE seq = 3",
        "DELETE FROM attempts",
        "DELETE FROM meta",
        "DROP TABLE progress",
    ],
)
async def test_an_edited_journal_is_refused(tmp_path: Path, damage: str):
    """SQLite's own check would let each of these pass."""
    path = tmp_path / "run.db"
    await filled(path)
    conn = sqlite3.connect(path)
    with conn:
        conn.execute(damage)
    conn.close()

    with pytest.raises(JournalCorruptError):
        await Journal.open(path)


@pytest.mark.asyncio
async def test_a_changed_input_is_found_when_the_row_is_read(tmp_path: Path):
    """The key is its checksum: what is sent is what was planned."""
    path = tmp_path / "run.db"
    await filled(path)
    for changed in ("""'{"task_id":"other"}'""", "X'22ff22'", "CAST(X'22ff22' AS TEXT)"):
        conn = sqlite3.connect(path)
        with conn:
            conn.execute(f"UPDATE items SET input = {changed} WHERE seq = 3")
        conn.close()

        async with Journal(path) as journal:
            with pytest.raises(JournalCorruptError, match="damaged"):
                await journal.page(ItemState.PLANNED)


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["missing", "empty", "cut", "flipped", "old copy"])
async def test_lost_commits_are_noticed(tmp_path: Path, way: str):
    """Without its log the journal is whole and old: SQLite sees nothing wrong with it."""
    live, path = tmp_path / "live.db", tmp_path / "run.db"
    async with Journal(live) as journal:
        await journal.plan(items("a", "b"))
        await journal.begin_sending("a")
        for ending in ("", "-wal", ".lock"):
            shutil.copy(f"{live}{ending}", f"{path}{ending}")  # as a crash leaves it
    log = tmp_path / "run.db-wal"
    if way == "missing":
        log.unlink()
    elif way == "empty":
        log.write_bytes(b"")
    elif way == "cut":
        os.truncate(log, log.stat().st_size - 4000)
    elif way == "flipped":
        data = bytearray(log.read_bytes())
        data[-3000] ^= 4
        log.write_bytes(data)
    else:
        async with Journal(path) as journal:
            await journal.begin_sending("b")
        old = tmp_path / "old"
        shutil.copy(live, old)  # closed by now: the copy knows of fewer commits
        shutil.move(old, path)

    for read_only in (False, True):
        with pytest.raises(JournalCorruptError, match="lost its last"):
            await Journal.open(path, read_only=read_only)

    (tmp_path / "run.db.lock").unlink()
    async with Journal(path) as journal:  # whoever means it can have it
        assert (await journal.counts()).sending < 2


@pytest.mark.asyncio
async def test_a_crash_leaves_a_log_that_is_read(tmp_path: Path):
    """The control to the test above: with its log the copy opens, and nothing is missing."""
    live, path = tmp_path / "live.db", tmp_path / "run.db"
    async with Journal(live) as journal:
        await journal.plan(items("a", "b"))
        await journal.begin_sending("a")
        for ending in ("", "-wal", ".lock"):
            shutil.copy(f"{live}{ending}", f"{path}{ending}")

    async with Journal(path, full_check=True) as journal:
        assert (await journal.recover()).counts == Counts(planned=1, in_doubt=1)


# Who holds it


@pytest.mark.asyncio
async def test_a_second_owner_is_refused_by_name(tmp_path: Path):
    """In the same process as in another one."""
    path = tmp_path / "run.db"
    async with Journal(path):
        with pytest.raises(JournalLockedError, match=rf"process {os.getpid()}\b"):
            await Journal.open(path)
        code = f"""
import asyncio
from kie_async.errors import JournalLockedError
from kie_async.journal import Journal
try:
    asyncio.run(Journal.open({str(path)!r}))
except JournalLockedError as exc:
    print(exc)
"""
        shown = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )

    assert f"process {os.getpid()}" in shown.stdout


@pytest.mark.asyncio
async def test_a_dead_owner_is_no_owner(tmp_path: Path):
    """Killed: the system gave the lock back, whoever has its number now."""
    path = tmp_path / "run.db"
    code = f"""
import asyncio, os, signal
from kie_async.journal import Journal, PlannedItem
async def main():
    journal = await Journal.open({str(path)!r})
    await journal.plan([PlannedItem(source_id="a", model="m", input={{}})])
    await journal.begin_sending("a", ref="r")
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code])

    async with Journal(path) as journal:
        recovery = await journal.recover()
        found = await journal.find_by_ref("r")

    assert ended.returncode == -signal.SIGKILL
    assert recovery.counts == Counts(in_doubt=1)
    assert found is not None
    assert found.pid != os.getpid()


@pytest.mark.asyncio
async def test_one_may_look_while_it_is_being_written(tmp_path: Path):
    """A reader takes no lock, sees what is durable, and can write nothing."""
    path = tmp_path / "run.db"
    async with Journal(path) as journal:
        await journal.plan(items("a"))
        async with Journal(path, read_only=True) as reader:
            before = await reader.counts()
            await journal.begin_sending("a")
            after = await reader.counts()
            with pytest.raises(JournalError, match="read-only"):
                await reader.begin_sending("a")

    assert (before, after) == (Counts(planned=1), Counts(sending=1))


@pytest.mark.asyncio
async def test_looking_changes_no_byte(tmp_path: Path):
    """Neither of a closed journal nor of one that crashed."""
    live, path = tmp_path / "live.db", tmp_path / "run.db"
    async with Journal(live) as journal:
        await journal.plan(items("a"))
        for ending in ("", "-wal"):
            shutil.copy(f"{live}{ending}", f"{path}{ending}")

    for file in (live, path, tmp_path / "run.db-wal"):
        before = digest(file)
        async with Journal(live if file == live else path, read_only=True) as journal:
            assert await journal.counts() == Counts(planned=1)
        assert digest(file) == before


@pytest.mark.asyncio
async def test_a_journal_belongs_to_its_loop(tmp_path: Path):
    """Another loop is told so, and not left waiting."""
    async with Journal(tmp_path / "run.db") as journal:
        with pytest.raises(JournalError, match="open already"):
            await journal.__aenter__()

        def elsewhere() -> None:
            with pytest.raises(WrongLoopError):
                asyncio.run(journal.plan(items("a")))

        await asyncio.to_thread(elsewhere)


@pytest.mark.asyncio
async def test_a_journal_that_was_never_closed_warns_and_does_not_hang(tmp_path: Path):
    """One ResourceWarning; the process ends."""
    code = f"""
import asyncio
from kie_async.journal import Journal
async def main():
    await Journal.open({str(tmp_path / "run.db")!r})
asyncio.run(main())
"""
    shown = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "always", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )

    assert "was not closed" in shown.stderr


def open_files() -> set[str]:
    """Return what this process has open (Linux)."""
    links = Path("/proc/self/fd").iterdir()
    return {str(link.readlink()) for link in links if link.is_symlink()}


@pytest.mark.asyncio
async def test_nothing_is_left_running(tmp_path: Path):
    """No thread and no file after closing, also when opening was cancelled."""
    for _ in range(5):
        opening = asyncio.ensure_future(Journal.open(tmp_path / "run.db"))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        async with Journal(tmp_path / "run.db"):
            pass
    for thread in threading.enumerate():
        if thread.name.startswith("kie-journal"):
            await asyncio.to_thread(thread.join, 5)

    assert not [name for name in open_files() if str(tmp_path) in name]
    assert not [t for t in threading.enumerate() if t.name.startswith("kie-journal")]
    gc.collect()


@pytest.mark.asyncio
async def test_opening_that_fails_half_way_lets_go_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The next attempt finds no lock."""
    path = tmp_path / "run.db"
    await filled(path)

    def fail(*_: Any, **__: Any) -> None:
        raise JournalError("made to fail")

    with monkeypatch.context() as patch:
        patch.setattr("kie_async.journal._journal.open_reader", fail)
        with pytest.raises(JournalError, match="made to fail"):
            await Journal.open(path)

    async with Journal(path) as journal:
        assert (await journal.counts()).total == 3


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder that another user can enter, which `tmp_path` is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def seal_folder(folder: Path) -> None:
    """Let everybody read and nobody write."""
    for name in listed(folder):
        (folder / name).chmod(0o444)
    folder.chmod(0o555)


@pytest.mark.asyncio
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_closed_journal_is_readable_where_nothing_can_be_written(theirs: Path):
    """In a directory of somebody else; writing to it is refused with the reason."""
    folder = theirs
    await filled(folder / "run.db")
    seal_folder(folder)
    code = f"""
import asyncio, os
from kie_async.errors import JournalError
from kie_async.journal import Journal
path = {str(folder / "run.db")!r}
os.chdir({str(folder)!r})
os.setuid(65534)
async def main():
    async with Journal(os.path.basename(path), read_only=True) as journal:
        print((await journal.counts()).total)
    try:
        await Journal.open(os.path.basename(path))
    except JournalError as exc:
        print(exc)
asyncio.run(main())
"""
    shown = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )

    assert shown.stdout.splitlines()[:1] == ["3"], shown.stderr
    assert "lock cannot be made" in shown.stdout


# A full disk


def hook(**points: Callable[[], None]) -> Callable[[str], None]:
    """Return a fault hook that calls what is set for a point (dots as underscores)."""

    def fault(name: str) -> None:
        points.get(name.replace(".", "_"), lambda: None)()

    return fault


def failing(code: int, name: str) -> Callable[[], None]:
    """Return a call that fails as SQLite does; at most once."""
    left = [1]

    def fail() -> None:
        if left:
            left.clear()
            error = sqlite3.OperationalError("made to fail")
            error.sqlite_errorcode, error.sqlite_errorname = code, name
            raise error

    return fail


@pytest.mark.asyncio
async def test_an_intent_that_finds_no_room_is_refused(tmp_path: Path):
    """And so is every later one; outcomes are still written, into the ballast's place."""
    fault = hook(begin_sending_before_commit=failing(13, "SQLITE_FULL"))
    async with Journal(tmp_path / "run.db", _fault=fault) as journal:
        await journal.plan(items("a", "b", "c"))
        first = journal.begin_sending("a"), journal.record_failed("b", reason="invalid")

        results = await asyncio.gather(*first, return_exceptions=True)

        assert isinstance(results[0], StorageFullError)
        assert results[1] is None
        assert not (tmp_path / "run.db.ballast").exists()
        for refused in (journal.begin_sending("c"), journal.plan(items("d"))):
            with pytest.raises(StorageFullError):
                await refused
        assert await journal.counts() == Counts(planned=2, failed=1)

    async with Journal(tmp_path / "run.db") as journal:
        assert await journal.begin_sending("a") == 1


@pytest.mark.asyncio
async def test_when_sqlite_itself_is_full_nothing_half_written_stays(tmp_path: Path):
    """`max_page_count` makes SQLite refuse for real."""
    async with Journal(tmp_path / "run.db") as journal:
        await journal.plan(items("a"))
        await journal.record_created("a", await journal.begin_sending("a"), "t")
        conn = journal._writer._commits._opened.conn
        pages = conn.execute("PRAGMA page_count").fetchone()[0]
        conn.execute(f"PRAGMA max_page_count = {pages}")

        with pytest.raises(StorageFullError):
            await journal.plan(items(*(f"i{number}" for number in range(2000))))
        await journal.record_failed("a", reason="x")

        assert await journal.counts() == Counts(failed=1)


@pytest.mark.asyncio
async def test_a_file_that_may_not_grow_stops_the_run_and_loses_nothing(tmp_path: Path):
    """A limit of the system: intents are refused, and the file opens again."""
    path = tmp_path / "run.db"
    code = f"""
import asyncio, os, resource
from kie_async.errors import StorageFullError
from kie_async.journal import Journal, PlannedItem
async def main():
    async with Journal({str(path)!r}) as journal:
        names = [f"i{{n}}" for n in range(3000)]
        await journal.plan(PlannedItem(source_id=n, model="m", input={{"x": n}}) for n in names)
        size = os.path.getsize({str(path) + "-wal"!r})
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40_000, resource.RLIM_INFINITY))
        begun = 0
        try:
            for name in names:
                await journal.begin_sending(name, ref="r" * 500 + name)
                begun += 1
        except StorageFullError:
            print(begun)
asyncio.run(main())
"""
    shown = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )

    assert shown.returncode == 0, shown.stderr
    begun = int(shown.stdout)
    async with Journal(path) as journal:
        assert (await journal.recover()).counts == Counts(planned=3000 - begun, in_doubt=begun)
    assert 0 < begun < 3000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.asyncio
async def test_no_room_for_the_ballast_stops_before_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run without reserve could pay and not record it."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_storage, "os", Altered(os, fsync=full))

    with pytest.raises(StorageFullError, match="No space left"):
        await Journal.open(tmp_path / "run.db")

    assert not (tmp_path / "run.db.ballast").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "name",
    ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_READONLY"],
)
async def test_a_failed_sync_ends_all_writing(tmp_path: Path, name: str):
    """A second sync may lie: only the file, opened again, tells what is there."""
    fault = hook(record_created_before_commit=failing(1034, name))
    async with Journal(tmp_path / "run.db", _fault=fault) as journal:
        await journal.plan(items("a", "b"))
        attempt = await journal.begin_sending("a")

        with pytest.raises(JournalError, match="open the journal again"):
            await journal.record_created("a", attempt, "t")
        for refused in (journal.begin_sending("b"), journal.record_created("a", attempt, "t")):
            with pytest.raises(JournalError, match="open the journal again"):
                await refused

    async with Journal(tmp_path / "run.db") as journal:
        assert (await journal.recover()).counts == Counts(planned=1, in_doubt=1)


@pytest.mark.asyncio
async def test_a_writer_elsewhere_is_an_error_that_passes(tmp_path: Path):
    """Somebody's SQLite shell holds the file: the record may be repeated."""
    fault = hook(begin_sending_before_commit=failing(5, "SQLITE_BUSY"))
    async with Journal(tmp_path / "run.db", _fault=fault) as journal:
        await journal.plan(items("a"))

        with pytest.raises(JournalError, match="another program") as caught:
            await journal.begin_sending("a")

        assert caught.value.retryable
        assert await journal.begin_sending("a") == 1


@pytest.mark.asyncio
async def test_a_note_that_fails_is_only_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Nobody waits for it."""

    def fail() -> None:
        raise sqlite3.OperationalError("made to fail, each time")

    fault = hook(note_polls_before_commit=fail)
    async with Journal(tmp_path / "run.db", _fault=fault) as journal:
        await journal.plan(items("a"))
        journal.note_polls("a", 4)

    assert any("could not keep note_polls" in record.message for record in caplog.records)


# Many rows, and many writers


@pytest.mark.asyncio
async def test_many_writers_share_a_commit(tmp_path: Path):
    """One hundred records of one loop turn are one sync, not a hundred."""
    names = [f"i{number}" for number in range(100)]
    commits: list[str] = []
    async with Journal(tmp_path / "run.db") as journal:
        await journal.plan(items(*names))
        conn = journal._writer._commits._opened.conn
        conn.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)

        await asyncio.gather(*(journal.begin_sending(name) for name in names))

        conn.set_trace_callback(None)
    assert 1 <= len(commits) <= 2


@pytest.mark.asyncio
async def test_ids_with_the_same_hash_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The hash finds, the text decides."""
    for module in ("_planning", "_records", "_reads", "_opening"):
        monkeypatch.setattr(f"kie_async.journal.{module}.id_hash", lambda _: 7)
    async with Journal(tmp_path / "run.db") as journal:
        assert await journal.plan(items("a", "b")) == ["a", "b"]
        assert await journal.plan(items("b", "c")) == ["c"]
        await journal.begin_sending("b")

        states = [(await journal.get(name)).state.value for name in "abc"]

    assert states == ["planned", "sending", "planned"]


@pytest.mark.asyncio
async def test_planning_goes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What stands before a refused chunk stays planned, and the order is the caller's."""
    monkeypatch.setattr("kie_async.journal._recording.CHUNK", 10)
    names = [f"i{number * 7919 % 95}" for number in range(95)]
    async with Journal(tmp_path / "run.db") as journal:
        assert await journal.plan(iter(items(*names))) == names
        assert [i.source_id async for i in journal.iterate(ItemState.PLANNED, batch=7)] == names
    assert _planning.CHUNK == 5_000


# Versions


def widened(conn: sqlite3.Connection) -> None:
    """The step of an invented later version."""
    conn.execute("ALTER TABLE items ADD COLUMN colour TEXT")


def renamed(conn: sqlite3.Connection) -> None:
    """The next step."""
    conn.execute("UPDATE items SET colour = 'blue'")


LATER = Schema(version=SCHEMA.version + 2, create="", steps={1: widened, 2: renamed})


@pytest.mark.asyncio
async def test_an_older_journal_is_brought_up_to_date_after_a_backup(tmp_path: Path):
    """Two steps in one transaction; the backup is the journal as it was."""
    path = tmp_path / "run.db"
    await filled(path)
    with pytest.raises(JournalError, match="open it for writing"):
        await Journal.open(path, read_only=True, _schema=LATER)

    async with Journal(path, _schema=LATER) as journal:
        assert (await journal.counts()).total == 3

    conn = sqlite3.connect(path)
    assert conn.execute("SELECT DISTINCT colour FROM items").fetchall() == [("blue",)]
    assert conn.execute("PRAGMA user_version").fetchall() == [(3,)]
    conn.close()
    backup = tmp_path / "run.db.v1.backup"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    async with Journal(backup, create=False) as journal:
        assert (await journal.counts()).total == 3
    with pytest.raises(JournalTooNewError):
        await Journal.open(path)


@pytest.mark.asyncio
async def test_a_migration_that_is_cut_off_leaves_the_old_version(tmp_path: Path):
    """It is one transaction: the next start does all of it."""
    path = tmp_path / "run.db"
    await filled(path)
    cut = hook(migrate_before_commit=failing(778, "SQLITE_IOERR_WRITE"))

    with pytest.raises(StorageFullError):
        await Journal.open(path, _schema=LATER, _fault=cut)

    async with Journal(path) as journal:
        assert (await journal.counts()).total == 3
    async with Journal(path, _schema=LATER) as journal:
        assert (await journal.counts()).total == 3
