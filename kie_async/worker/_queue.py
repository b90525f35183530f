"""Who works on what: Procrastinate's jobs, one for each item that has not ended.

The engine delivers at least once: a job whose worker died is delivered again, and so is
one whose end was not written.  That an item is created at most once is not its business
but the journal's.  Its tables lie in the schema of the run, beside the journal's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import procrastinate
import psycopg
import psycopg_pool
from attrs import frozen
from procrastinate import jobs, schema
from procrastinate.exceptions import ConnectorException
from procrastinate.retry import BaseRetryStrategy, RetryDecision

from kie_async.postgres import Place, in_line
from kie_async.worker._connector import PatientConnector

__all__ = ["Later", "Queue"]

logger = logging.getLogger("kie_async.worker")

QUEUE = "items"
TASK = "kie_async.item"
CHUNK = 1000

_OPEN = """
SELECT i.source_id FROM items AS i
WHERE (i.state IN ('planned', 'sending')
    OR (i.state = 'sent' AND i.updated_at >= %s)
    OR (%s AND i.state = 'done' AND i.files IS NULL))
AND NOT EXISTS (SELECT 1 FROM procrastinate_jobs AS j
    WHERE j.queueing_lock = i.source_id AND j.status IN ('todo', 'doing'))
ORDER BY i.seq
"""
# Rows that another worker delivers again at this moment are passed over.  A pruned worker's
# jobs have none.
_STALLED = """
UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, scheduled_at = NULL
WHERE id IN (
    SELECT j.id FROM procrastinate_jobs AS j
    WHERE j.status = 'doing' AND NOT EXISTS (
        SELECT 1 FROM procrastinate_workers AS w
        WHERE w.id = j.worker_id
        AND w.last_heartbeat >= now() - make_interval(secs => %(seconds)s))
    ORDER BY j.id FOR UPDATE OF j SKIP LOCKED)
"""
_MINE = "SELECT id FROM procrastinate_jobs WHERE status = 'doing' AND worker_id = %(worker)s"
_FORGOTTEN = """
UPDATE procrastinate_jobs SET status = 'todo', attempts = attempts + 1, scheduled_at = NULL
WHERE status = 'doing' AND worker_id = %(worker)s AND id = ANY(%(ids)s)
"""
_ANY = """
SELECT EXISTS (SELECT 1 FROM procrastinate_jobs WHERE status IN ('todo', 'doing')) AS there
"""
_AWAY = (ConnectorException, psycopg.Error, psycopg_pool.PoolTimeout, OSError)


@frozen
class Later(Exception):  # noqa: N818 - reason: nothing is wrong
    """The item has not ended: deliver it again in some seconds."""

    seconds: float


class _Again(BaseRetryStrategy):
    """Whatever happens to a job, its item is looked at again: the journal says if it ended."""

    def get_retry_decision(self, *, exception: BaseException, job: jobs.Job) -> RetryDecision:
        seconds = exception.seconds if isinstance(exception, Later) else 5.0
        return RetryDecision(retry_in={"milliseconds": round(seconds * 1000)})


class Queue:
    """The jobs of one run.

    Args:
        place: Where the server is; the schema is the run's.
    """

    def __init__(self, place: Place) -> None:
        """Connect to nothing yet."""
        settings = place.settings
        search = f"-c search_path={place.schema}"
        settings["options"] = f"{settings.get('options') or ''} {search}".strip()
        self._connector = PatientConnector(kwargs=settings, min_size=1, max_size=4, timeout=10.0)
        self._app = procrastinate.App(connector=self._connector)
        # Never opened: it writes on connections that it is given.
        self._writing = procrastinate.App(connector=procrastinate.SyncPsycopgConnector())
        self._work: Callable[[str], Awaitable[None]] | None = None
        self._app.task(name=TASK, queue=QUEUE, retry=_Again(), pass_context=True)(self._deliver)
        self._place = place
        self._worker: int | None = None  # the number of the one that delivers here
        self._in_hand: set[int | None] = set()
        self._missed: set[int] = set()

    async def _deliver(self, context: procrastinate.JobContext, source_id: str) -> None:
        if self._work is None:
            raise Later(1.0)
        number, self._worker = context.job.id, context.job.worker_id
        self._in_hand.add(number)
        try:
            await self._work(source_id)
        finally:
            self._in_hand.discard(number)

    # -- on a connection of the journal's, inside its transaction ----------------------------

    @staticmethod
    def prepare(conn: psycopg.Connection[Any]) -> None:
        """Make the engine's tables if there are none."""
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (0x4B494543,))
            found = conn.execute("SELECT to_regclass('procrastinate_jobs')").fetchone()
            if found == (None,):
                conn.execute(schema.SchemaManager.get_schema().encode())

    def defer(self, conn: psycopg.Connection[Any], source_ids: Sequence[str]) -> None:
        """Make a job for each item, in the transaction of *conn*."""
        for start in range(0, len(source_ids), CHUNK):
            self._writing.job_manager.batch_defer_jobs(
                jobs=[
                    jobs.Job(
                        id=None,
                        queue=QUEUE,
                        lock=None,
                        queueing_lock=source_id,
                        task_name=TASK,
                        task_kwargs={"source_id": source_id},
                    )
                    for source_id in source_ids[start : start + CHUNK]
                ],
                connection=conn,
            )

    def defer_lost(
        self, conn: psycopg.Connection[Any], *, without_files: bool, since: float
    ) -> int:
        """Make a job for each item that has not ended and has none; return how many.

        For doubts that were settled, and for whatever an engine may lose.
        """
        with in_line(conn):  # each of us goes over all items in there
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (0x4B494544,))
        lost = [row[0] for row in conn.execute(_OPEN, (since, without_files))]
        self.defer(conn, lost)
        return len(lost)

    # -- the worker ----------------------------------------------------------------------------

    async def serve(
        self,
        work: Callable[[str], Awaitable[None]],
        *,
        concurrency: int,
        dead_after: float,
        tend: Callable[[Queue], Awaitable[bool]],
        ending: asyncio.Event,
    ) -> None:
        """Call *work* with each item that is delivered, until there is nothing left to do.

        Args:
            work: Returns when the item has ended; raises `Later` if it has not.
            concurrency: So many at once.
            dead_after: Seconds without a sign of life after which a worker's jobs are
                delivered to others.
            tend: Called every now and then; True if the run has ended.
            ending: Take nothing more; what is under way comes to its end.
        """
        self._work = work
        self._connector.giving_up = ending.is_set
        while not ending.is_set():
            try:
                async with self._app.open_async():
                    await self._serve(concurrency, dead_after, tend, ending)
            except _AWAY as error:
                logger.warning("the worker lost %s: %s", self._place.name, type(error).__name__)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ending.wait(), timeout=1.0)

    async def _serve(
        self,
        concurrency: int,
        dead_after: float,
        tend: Callable[[Queue], Awaitable[bool]],
        ending: asyncio.Event,
    ) -> None:
        working = asyncio.ensure_future(
            self._app.run_worker_async(
                queues=[QUEUE],
                concurrency=concurrency,
                install_signal_handlers=False,
                listen_notify=False,  # an item may wait for a second, and nobody is woken for it
                delete_jobs="always",
                fetch_job_polling_interval=min(1.0, dead_after / 3),
                update_heartbeat_interval=dead_after / 3,
                stalled_worker_timeout=dead_after,
            )
        )
        tending = asyncio.ensure_future(self._tend(dead_after, tend, ending))
        try:
            await asyncio.wait([working, tending], return_when=asyncio.FIRST_COMPLETED)
            for task in (working, tending):
                if task.done() and not task.cancelled():
                    task.result()
        finally:
            for task in (tending, working):
                task.cancel()
            await asyncio.wait([tending, working])

    async def _tend(
        self, dead_after: float, tend: Callable[[Queue], Awaitable[bool]], ending: asyncio.Event
    ) -> None:
        waiting = asyncio.ensure_future(ending.wait())
        try:
            while not ending.is_set():
                await self._redeliver(dead_after)
                if await tend(self):
                    ending.set()
                await asyncio.wait([waiting], timeout=min(2.0, dead_after / 3))
        finally:
            waiting.cancel()

    async def _redeliver(self, dead_after: float) -> None:
        """Deliver again what a dead worker was working on, or nobody has in hand."""
        await self._connector.execute_query_async(_STALLED, seconds=dead_after)
        if self._worker is None:
            return
        # One whose end could not be written: missed twice, so that it is none on its way.
        mine = await self._connector.execute_query_all_async(_MINE, worker=self._worker)
        missed = {row["id"] for row in mine} - self._in_hand
        again = missed & self._missed
        self._missed = missed - again
        if again:
            await self._connector.execute_query_async(
                _FORGOTTEN, worker=self._worker, ids=sorted(again)
            )

    async def is_empty(self) -> bool:
        """True if no job is waiting or under way, with any worker."""
        row = await self._connector.execute_query_one_async(_ANY)
        return not row["there"]
