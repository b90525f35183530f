"""PostgreSQL for a run on several machines: its journal and its limiter (extra ``[postgres]``)."""

from __future__ import annotations

from kie_async.postgres._connect import Place
from kie_async.postgres._journal import PostgresJournal
from kie_async.postgres._limiter import PostgresLimiter

__all__ = ["Place", "PostgresJournal", "PostgresLimiter"]
