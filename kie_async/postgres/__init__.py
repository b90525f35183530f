"""PostgreSQL for a run on several machines: its journal and its limiter (extra ``[postgres]``)."""

from __future__ import annotations

from kie_async.postgres._connect import AWAY, Place, in_line
from kie_async.postgres._journal import PostgresJournal
from kie_async.postgres._limiter import PostgresLimiter

__all__ = ["AWAY", "Place", "PostgresJournal", "PostgresLimiter", "in_line"]
