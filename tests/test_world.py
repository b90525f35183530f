"""Some worlds of `tests.world`; ten thousand of them are a command."""

from __future__ import annotations

import random
import sqlite3

import pytest

from tests import world
from tests.world import mortal


@pytest.mark.parametrize("seed", range(6))
def test_a_world_of_crashes_and_faults_keeps_the_books(seed):
    """Nothing lost, nothing paid twice, no credit unexplained, and the journal says what is."""
    wrong, figures = world.run(seed, 60)

    assert wrong == []
    assert figures["done"] + figures["failed"] + figures["in_doubt"] == 60


def test_a_seed_does_again_what_it_did():
    """A world that went wrong can be looked at."""
    assert world.run(3, 40) == world.run(3, 40)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("resends doubts", "was paid for 2 times"),
        ("forgets intents", "was paid for 2 times"),
        ("forgets ids", "was paid for and is lost"),
        ("does not sync", "was paid for"),
    ],
)
def test_the_checker_catches_each_bad_client(bad, told):
    """The same worlds, with a client that breaks one promise."""
    wrong = [text for seed in (0, 4, 7) for text in world.run(seed, 60, bad=bad)[0]]

    assert any(told in text for text in wrong)


def test_a_torn_commit_is_there_or_not_and_nothing_else_is_lost(tmp_path, monkeypatch):
    """Whatever sectors of it are on the disk, SQLite takes the whole commit or none of it."""
    path = tmp_path / "run.db"
    path.with_name("run.db.lock").write_bytes(b"lock")
    left = []
    monkeypatch.setattr(mortal.os, "_exit", left.append)
    found = set()
    for seed in range(12):
        for name in ("", "-wal", "-shm"):
            path.with_name(f"run.db{name}").unlink(missing_ok=True)
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (n INTEGER, text TEXT)")
        db.execute("INSERT INTO t VALUES (1, 'kept')")
        step = mortal.Crash(1, path, random.Random(seed), torn=True)
        step("x.before_commit")
        db.execute("INSERT INTO t VALUES (2, ?)", ("x" * 5000,))
        step("x.after_commit")
        for name in ("", "-wal"):
            copy = tmp_path / f"after-{seed}.db{name}"
            copy.write_bytes(path.with_name(f"run.db{name}").read_bytes())
        db.close()
        with sqlite3.connect(tmp_path / f"after-{seed}.db") as after:
            found.add(tuple(n for (n,) in after.execute("SELECT n FROM t ORDER BY n")))
            assert after.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        after.close()

    assert left == [mortal.KILLED] * 12
    assert (1,) in found
    assert found <= {(1,), (1, 2)}
