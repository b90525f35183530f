"""PostgreSQL for a run on several machines: its journal (extra ``[postgres]``)."""

from __future__ import annotations

from kie_async.postgres._journal import PostgresJournal

__all__ = ["PostgresJournal"]
