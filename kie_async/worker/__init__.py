"""Many machines, one list: workers on a journal in PostgreSQL (extra ``[postgres]``).

Procrastinate delivers the items; the journal sees to it that each is created once.
"""

from __future__ import annotations

from kie_async.worker._journal import QueuedJournal, submit
from kie_async.worker._queue import Later, Queue
from kie_async.worker._worker import Plan, Worker

__all__ = ["Later", "Plan", "Queue", "QueuedJournal", "Worker", "submit"]
