"""Opening and letting go of a journal: forks, cancellations and kills in the middle."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from kie_async.errors import JournalTooNewError
from kie_async.journal import Journal, PlannedItem, _journal
from kie_async.journal._schema import TABLES, Schema
from kie_async.journal._storage import check_version

FORKS = """
import asyncio, os, sys
from kie_async.errors import JournalLockedError
from kie_async.journal import Journal

async def main(path):
    here, there = os.pipe()
    async with Journal(path):
        child = os.fork()
        if child == 0:
            os.close(there)
            os.read(here, 1)  # lives until its parent is done
            os._exit(0)
        locked = await asyncio.create_subprocess_exec(sys.executable, "-c", OPENS, path)
        print("while it was open:", await locked.wait())
    async with Journal(path):
        print("opened again")
    os.close(there)
    os.waitpid(child, 0)

OPENS = '''
import asyncio, sys
from kie_async.errors import JournalLockedError
from kie_async.journal import Journal
try:
    asyncio.run(Journal.open(sys.argv[1]))
except JournalLockedError:
    sys.exit(7)
'''
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_does_not_keep_the_journal_locked(tmp_path: Path):
    """The lock is its parent's, who gives it back, and has it until then."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "run.db")],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )

    assert done.stdout == "while it was open: 7\nopened again\n", done.stderr


@pytest.mark.asyncio
@pytest.mark.parametrize("cancels", [1, 2, 3])
async def test_an_opening_that_is_cancelled_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancels: int
):
    """However often: the lock is given back, and no thread stays."""
    going, go_on = threading.Event(), threading.Event()
    open_writer = _journal.open_writer

    def slow(*where: Any, **how: Any) -> Any:
        going.set()
        go_on.wait(30.0)
        return open_writer(*where, **how)

    monkeypatch.setattr(_journal, "open_writer", slow)
    before, threads = asyncio.all_tasks(), set(threading.enumerate())
    opening = asyncio.ensure_future(Journal.open(tmp_path / "run.db"))
    await asyncio.to_thread(going.wait, 30.0)
    for _ in range(cancels):
        opening.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
    assert opening.done() == (cancels > 1)  # the first one waits for the thread
    go_on.set()
    async with asyncio.timeout(30.0):
        while rest := asyncio.all_tasks() - before:
            await asyncio.wait(rest)

    assert opening.cancelled()
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith("kie-journal"):
            await asyncio.to_thread(thread.join, 30.0)  # it was told to end, and does
            assert not thread.is_alive()
    async with Journal(tmp_path / "run.db") as journal:
        assert (await journal.counts()).total == 0


@pytest.mark.asyncio
async def test_a_migration_that_was_committed_is_not_run_again(tmp_path: Path):
    """Killed right behind its commit: the version stands in the log, the header is older."""
    path, killed = tmp_path / "run.db", tmp_path / "killed.db"
    async with Journal(path) as journal:
        await journal.plan([PlannedItem(source_id="a", model="m", input={})])
    steps = []

    def step(conn: sqlite3.Connection) -> None:
        steps.append(1)
        conn.execute("ALTER TABLE items ADD COLUMN extra TEXT")

    def copy(point: str) -> None:
        if point == "migrate.after_commit":
            for ending in ("", "-wal"):
                shutil.copy(f"{path}{ending}", f"{killed}{ending}")

    newer = Schema(version=2, create=TABLES, steps={1: step})
    async with Journal(path, _schema=newer, _fault=copy):
        pass
    in_header = await asyncio.to_thread(check_version, killed, 2)
    assert in_header == 1  # the control

    with pytest.raises(JournalTooNewError):
        await Journal.open(killed)
    with pytest.raises(JournalTooNewError):
        await Journal.open(killed, read_only=True)
    async with Journal(killed, read_only=True, _schema=newer) as journal:
        assert (await journal.counts()).planned == 1
    async with Journal(killed, _schema=newer) as journal:
        assert (await journal.counts()).planned == 1
    assert steps == [1]
