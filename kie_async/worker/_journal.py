"""``QueuedJournal``: a journal in PostgreSQL whose items are delivered to workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psycopg

from kie_async.bulk import Source, planned_batches
from kie_async.journal import Connection, PlannedItem
from kie_async.postgres import PostgresJournal
from kie_async.worker._queue import Queue

__all__ = ["QueuedJournal", "submit"]

BATCH = 5000


class QueuedJournal(PostgresJournal):
    """A journal for ``KieSession.work``: an item is planned and queued in one transaction.

    Takes what `PostgresJournal` takes.
    """

    queue: Queue

    def _open_here(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue = Queue(self.place)
        super()._open_here(loop)

    def _prepare(self, conn: psycopg.Connection[Any]) -> str:
        journal_id = super()._prepare(conn)
        if not self.read_only:
            self.queue.prepare(conn)
        return journal_id

    def _plan_chunk(
        self, conn: Connection, *, items: Sequence[PlannedItem], now: float
    ) -> list[str]:
        new = super()._plan_chunk(conn, items=items, now=now)
        self.queue.defer(self._own_connection(conn), new)
        return new

    @property
    def dead_after(self) -> float:
        """Seconds without a sign of life after which a worker counts as dead."""
        return self._dead_after

    async def analyze(self) -> None:
        """Let the server look at the tables, after they have grown at once.

        Until it has, it plans for empty ones: taking one of 100,000 jobs costs 80 ms and
        not 0.3 (PostgreSQL 15).
        """
        await self._writing().submit(
            "analyze",
            lambda conn: conn.execute("ANALYZE items, ids, procrastinate_jobs") and None,
        )

    async def queue_again(
        self, *, without_files: bool = False, not_older: float | None = None
    ) -> int:
        """Queue what has not ended and is not queued; return how many that were.

        Doubts that were settled come back to the workers by this; safe to repeat.

        Args:
            without_files: Also the tasks that are done and whose results are not saved.
            not_older: Leave out tasks that were created longer ago, in seconds: somebody
                has waited for them as long as he wanted.
        """
        since = 0.0 if not_older is None else self._clock() - not_older
        return int(
            await self._writing().submit(
                "queue_again",
                lambda conn: self.queue.defer_lost(
                    self._own_connection(conn), without_files=without_files, since=since
                ),
            )
        )


async def submit(journal: QueuedJournal, task_ids: Source, *, resolution: str | None = None) -> int:
    """Plan and queue ids for the workers; return how many were new.

    Safe to repeat, and to call from several processes: an id is one item.

    Args:
        journal: An open journal.
        task_ids: As ``KieSession.upscale_many``.
        resolution: As ``KieSession.upscale``, for items without one of their own.

    Raises:
        UsageError: An item that cannot work; what stands before it stays queued.
        JournalError: The journal cannot be written.
    """
    new = 0
    async for batch in planned_batches(task_ids, resolution, BATCH):
        new += len(await journal.plan(batch))
    if new:
        await journal.analyze()
    return new
