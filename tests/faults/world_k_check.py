"""The checker: compares the emulator's books, a journal's tables and the files.

It reads all of them by itself and uses nothing of what it checks.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.kills import whole
from kie_async.emulator import Books


def rows(path: Path, question: str) -> list[dict[str, Any]]:
    """Ask a journal's file, without the package."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        conn.row_factory = sqlite3.Row
        return [dict(row) for row in conn.execute(question)]


def items(path: Path) -> list[dict[str, Any]]:
    """Return the journal's items as they are in its table."""
    return rows(path, "SELECT * FROM items ORDER BY seq")


def attempts(path: Path) -> list[dict[str, Any]]:
    """Return every attempt with the id of its source."""
    asked = "SELECT i.source_id, a.* FROM attempts AS a JOIN items AS i ON i.seq = a.item"
    return rows(path, f"{asked} ORDER BY a.item, a.number")


def violations(books: Books, folder: Path, ids: Collection[str], *, extra: int = 0) -> list[str]:
    """Say what is wrong with these sources between books, journal and files of a folder.

    An item that is still ``sending`` counts as in doubt: the next start makes it so.
    """
    path = folder / "run.db"
    found = [f"{row} is no sound journal" for row in _unsound(path)]
    if found:
        return found
    made = {row["source_id"]: row for row in items(path)}
    tried: dict[str, list[dict[str, Any]]] = {}
    for row in attempts(path):
        tried.setdefault(row["source_id"], []).append(row)
    known = {row["task_id"] for each in tried.values() for row in each if row["task_id"]}
    found += [f"I1 {one} was paid {n} times" for one in ids if (n := books.paid(one)) > 1 + extra]
    for create in [row for row in books.creates if row.source_id in ids]:
        item = made.get(create.source_id)
        state = item["state"] if item else "unknown"
        if create.task_id not in known and state not in {"in_doubt", "sending"}:
            found.append(f"I2 task {create.task_id} of {create.source_id} is lost ({state})")
    for one, item in made.items():
        if item["state"] in {"sent", "done"} and not books.paid(one):
            found.append(f"I2 {one} is {item['state']}, and nothing was created for it")
        if item["state"] == "in_doubt" and not _listed(tried.get(one, [])):
            found.append(f"I3 the doubt of {one} says no time or reason")
    return found + _bad_files(folder / "out", made)


def _unsound(path: Path) -> list[str]:
    try:
        told = rows(path, "PRAGMA integrity_check")
    except sqlite3.Error as error:
        return [f"I19 {path.name} ({error})"]
    return [] if told == [{"integrity_check": "ok"}] else [f"I19 {path.name}"]


def _listed(tries: list[dict[str, Any]]) -> bool:
    doubtful = [row for row in tries if row["verdict"] in {"in_doubt", "reported"}]
    return bool(doubtful) and all(row["intent_at"] and row["reason"] for row in doubtful)


def _bad_files(out: Path, made: dict[str, dict[str, Any]]) -> list[str]:
    if not out.is_dir():
        return []
    named = [path for path in out.iterdir() if ".part" not in path.name]
    found = [f"I6 {path.name} is half written" for path in named if not whole(path)]
    there = {str(path) for path in named}
    for one, item in made.items():
        missing = set(json.loads(item["files"] or "[]")) - there
        found += [f"I6 {one}: {path} is on record and not there" for path in missing]
    return found
