"""A psycopg connection with the shape that the journal's records expect.

The records are one text for every database, so the rules that guard the money exist once.
Here their placeholders become psycopg's, hints for SQLite's planner fall away, and two of
its functions get the names that they have in PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import psycopg

from kie_async.journal._records import BY_ID

__all__ = ["Records", "translated"]

_WORDS = (
    ("CROSS JOIN", "JOIN"),  # in SQLite it fixes the order of a join
    ("INDEXED BY items_by_state ", ""),
    ("max(polls, ?)", "greatest(polls, ?)"),
    ("json_each(?) AS j", "json_array_elements_text(?) AS j(value)"),
    ("ids.hash = j.value", "ids.hash = j.value::bigint"),
)


@lru_cache(256)
def translated(sql: str, *, locking: bool) -> str:
    """Return a statement of the records as PostgreSQL understands it.

    *locking* makes the statement that every record begins with take the item's row, so
    that the records of one item follow each other, whichever process makes them.
    """
    lock = " FOR UPDATE OF i" if locking and sql == BY_ID else ""
    for word, other in _WORDS:
        sql = sql.replace(word, other)
    return sql.replace("%", "%%").replace("?", "%s") + lock


class Records:
    """A connection for the records (`locking`) or for questions."""

    def __init__(self, conn: psycopg.Connection[Any], *, locking: bool) -> None:
        """Wrap *conn*; its owner closes it."""
        self.conn = conn
        self._locking = locking

    def execute(
        self, sql: str, parameters: Sequence[Any] = (), /
    ) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run one statement."""
        return self.conn.execute(translated(sql, locking=self._locking).encode(), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> None:
        """Run one statement for each set of values, many to a round trip."""
        with self.conn.cursor() as cursor:
            cursor.executemany(translated(sql, locking=False).encode(), parameters)
