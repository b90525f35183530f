"""Putting work into the journal: a million source ids in bounded memory.

A source id has one row for ever.  Nothing here ever changes a row that exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kie_async.errors import KeyConflictError, UsageError
from kie_async.journal._rows import as_json, as_text, id_hash, key_of, seal
from kie_async.journal._sql import Connection
from kie_async.journal._values import PlannedItem

__all__ = ["CHUNK", "plan"]

CHUNK = 5_000
"""Rows of one commit.  Ids are entered in the order of their hash: the more at once, the
fewer pages are written twice.  5,000 hold the writer for about 50 ms and take 3 MiB."""

_LOOKED_UP = 400  # ids of one look-up: their pages are still in the cache when they are entered

_INSERT_ITEM = (
    "INSERT INTO items (seq, source_id, key, model, input, output_name, state, planned_at, "
    "updated_at, checksum) VALUES (?, ?, ?, ?, ?, ?, 'planned', ?, ?, ?)"
)
_KNOWN = (
    "SELECT i.source_id, i.key FROM json_each(?) AS j CROSS JOIN ids ON ids.hash = j.value "
    "CROSS JOIN items AS i ON i.seq = ids.seq"
)


def plan(conn: Connection, items: Sequence[PlannedItem], now: float) -> list[str]:
    """Add what is new and return its source ids, in the order given.

    Raises:
        KeyConflictError: A source id is known with other parameters.  Nothing was added.
        UsageError: An item cannot be kept.  Nothing was added.
    """
    wanted = _keyed(items)
    known = _known(conn, wanted)
    if known:
        wanted = {source_id: row for source_id, row in wanted.items() if source_id not in known}
    _insert(conn, wanted, now)
    return list(wanted)


_Row = tuple[int, str, str, str, str | None]  # hash, key, model, input, output name


def _keyed(items: Sequence[PlannedItem]) -> dict[str, _Row]:
    wanted: dict[str, _Row] = {}
    for item in items:
        source_id = as_text(item.source_id, "source_id")
        model = as_text(item.model, "model")
        name = item.output_name
        if name is not None:
            name = as_text(name, "output_name")
        given = item.input
        if not isinstance(given, Mapping):
            raise UsageError(f"the input of {source_id} must be a mapping")
        text = as_json(given if type(given) is dict else dict(given), f"input of {source_id}")
        key = key_of(model, text)
        if source_id in wanted:
            _check_key(source_id, wanted[source_id][1], key)
        else:
            wanted[source_id] = (id_hash(source_id), key, model, text, name)
    return wanted


def _known(conn: Connection, wanted: Mapping[str, _Row]) -> set[str]:
    known: set[str] = set()
    hashes = sorted([row[0] for row in wanted.values()])
    for start in range(0, len(hashes), _LOOKED_UP):
        part = hashes[start : start + _LOOKED_UP]
        for source_id, key in conn.execute(_KNOWN, (str(part),)):
            if source_id in wanted:
                _check_key(source_id, key, wanted[source_id][1])
                known.add(source_id)
    return known


def _check_key(source_id: str, known: str, key: str) -> None:
    if known != key:
        raise KeyConflictError(
            f"{source_id} is in the journal with another model or other parameters: "
            "use another source id, or another journal"
        )


def _insert(conn: Connection, new: Mapping[str, _Row], now: float) -> None:
    (last,) = conn.execute("SELECT coalesce(max(seq), 0) FROM items").fetchone()
    rows, ids = [], []
    for seq, (source_id, row) in enumerate(new.items(), last + 1):
        number, key, model, text, name = row
        checksum = seal(source_id, key, name, "planned", None)
        rows.append((seq, source_id, key, model, text, name, now, now, checksum))
        ids.append((number, seq))
    conn.executemany(_INSERT_ITEM, rows)
    ids.sort()
    conn.executemany("INSERT INTO ids (hash, seq) VALUES (?, ?)", ids)
