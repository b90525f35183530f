"""One of many that work on the same run: it takes what is delivered, item by item.

What becomes of an item is the business of `Job`, as in a run of one process.  Here is
what many add to it: an item may be delivered twice, or be in the hands of one that died.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from attrs import frozen

from kie_async.bulk import Caller, Job, NewCallback, Progress, Save, Tools, give_up
from kie_async.errors import KieError, UsageError
from kie_async.instrumentation import logger
from kie_async.journal import Item, ItemState
from kie_async.models import Outcome, OutcomeStatus, check_seconds
from kie_async.worker._journal import QueuedJournal
from kie_async.worker._queue import Later, Queue

__all__ = ["Plan", "Worker"]

GRACE = 28.0
"""Seconds for creates under way when the work is left."""
LEAVING = 10.0
"""Seconds for the database to be told that items were given back, when the work is left."""
RESULTS = 1000
"""Outcomes that wait for a slow consumer; with so many, nothing further is taken."""
SOON = 1.0
"""Seconds until an item that was begun for nothing is delivered again."""

_ENDED = {ItemState.DONE, ItemState.FAILED, ItemState.IN_DOUBT}


@frozen(kw_only=True)
class Plan:
    """How a worker works; times are in seconds."""

    in_flight: int = 100
    task_timeout: float = 3600.0
    new_callback: NewCallback | None = None
    save: Save | None = None
    saving: int = 8
    forever: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        check_seconds(self.task_timeout, "task_timeout")
        if self.in_flight < 1 or self.saving < 1:
            raise UsageError("in_flight and saving must be 1 or more")


class Worker:
    """An async iterator of the outcomes of this worker's items, by ``KieSession.work``.

    When something stops it (no key, no credits, a full disk), tasks under way are
    finished, their outcomes come, and then the error is raised; the other workers meet it
    themselves.  What was not sent stays queued.
    """

    def __init__(self, caller: Caller, journal: QueuedJournal, plan: Plan) -> None:
        """Nothing happens before the first outcome is asked for."""
        self.progress = Progress(loaded=True)
        self._journal = journal
        self._plan = plan
        self._jobs: set[Job] = set()
        self._results: asyncio.Queue[Outcome | None] = asyncio.Queue(RESULTS)
        self._ending = asyncio.Event()
        self._left = False
        self._next_count = 0.0
        self._tools = Tools(
            caller=caller,
            journal=journal,
            progress=self.progress,
            stop=self.stop,
            saving=asyncio.Semaphore(plan.saving),
            save=plan.save,
            new_callback=plan.new_callback,
            task_timeout=plan.task_timeout,
        )
        self._outcomes = self._iterate()

    def __aiter__(self) -> Self:
        """Iterate once."""
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome, in the order in which items end."""
        return await anext(self._outcomes)

    async def __aenter__(self) -> Self:
        """Return the worker; nothing happens before the first outcome is asked for."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave, as :meth:`aclose` does; a bare ``break`` lets it work on."""
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: creates under way bring their ids, waits go to other workers."""
        await self._outcomes.aclose()

    def stop(self, error: KieError | None = None) -> None:
        """Create nothing more; what is under way is finished.  Safe to call again."""
        if error is not None and self.progress.stopped_by is None:
            self.progress.stopped_by = error
        self.progress.stopping = True
        self._ending.set()
        for job in self._jobs:
            job.stop()

    async def give_up_waiting(self, grace: float = GRACE) -> None:
        """End the waits too: other workers, or a later one, collect the tasks.

        Creates under way get *grace* seconds to bring their ids.
        """
        self.stop()
        await give_up(self._jobs, grace)

    # -- the flow ---------------------------------------------------------------------

    async def _iterate(self) -> AsyncGenerator[Outcome, None]:
        async with aclosing(self._served()) as outcomes:
            async for outcome in outcomes:
                yield outcome
        if self.progress.stopped_by is not None:
            raise self.progress.stopped_by

    async def _served(self) -> AsyncGenerator[Outcome, None]:
        serving = asyncio.get_running_loop().create_task(self._serve())
        try:
            while (outcome := await self._results.get()) is not None:
                yield outcome
            await serving
        finally:
            if not serving.done():
                await self._leave(serving)

    async def _leave(self, serving: asyncio.Task[None]) -> None:
        """End all that runs; a second cancellation hurries it."""
        self._left = True
        clock = asyncio.get_running_loop().time
        try:
            await self.give_up_waiting()
        finally:
            for job in self._jobs:
                if job.task is not None:
                    job.task.cancel()
            # With them the engine ends by itself.  Cancelled at once it would leave them to
            # themselves, and without the connections that they still need.
            until = clock() + LEAVING
            while not serving.done() and clock() < until:
                while not self._results.empty():  # they may wait for room here
                    self._results.get_nowait()
                await asyncio.wait([serving], timeout=0.1)
            serving.cancel()
            await asyncio.wait([serving])

    async def _serve(self) -> None:
        try:
            await self._journal.doubt_the_dead()
            await self._journal.queue_again(without_files=self._plan.save is not None)
            await self._journal.queue.serve(
                self._work,
                concurrency=self._plan.in_flight,
                dead_after=self._journal.dead_after,
                tend=self._tend,
                ending=self._ending,
            )
        finally:
            if not self._left:  # behind every outcome; one who has left reads no more
                await self._results.put(None)

    async def _tend(self, queue: Queue) -> bool:
        """See to the creates of the dead; return True if the run has ended."""
        await self._journal.doubt_the_dead()
        clock = asyncio.get_running_loop().time
        began = clock()
        if began >= self._next_count:
            await self.count()
            # A long list is counted rarely: all the workers do so, and it may take seconds.
            self._next_count = clock() + 100 * (clock() - began)
        if self._plan.forever or self._jobs or not await queue.is_empty():
            return False
        return not await self._journal.queue_again(
            without_files=False, not_older=self._plan.task_timeout
        )

    async def count(self) -> None:
        """Let the progress show where the whole run stands, with all its workers."""
        counts = await self._journal.counts()
        progress = self.progress
        progress.total, progress.done = counts.total, counts.done
        progress.failed, progress.in_doubt = counts.failed, counts.in_doubt

    # -- one item ---------------------------------------------------------------------

    async def _work(self, source_id: str) -> None:
        """Bring one delivered item as far as it goes; raise `Later` if it has not ended."""
        item = await self._journal.get(source_id)
        if item is not None and item.state is ItemState.SENDING:
            await self._journal.doubt_the_dead()  # if its owner died, it is a doubt now
            item = await self._journal.get(source_id)
        if item is None or not self._is_open(item):
            return
        if item.state is ItemState.SENDING:
            raise Later(self._journal.dead_after / 3)  # its owner lives
        if self.progress.stopping:
            raise Later(SOON)
        outcome = await self._run(item)
        if outcome.status is OutcomeStatus.NOT_SENT:
            raise Later(SOON)
        if outcome.task is not None and item.state is not ItemState.DONE:
            self.progress.credits_spent += outcome.task.credits_consumed or 0.0
        await self._results.put(outcome)

    def _is_open(self, item: Item) -> bool:
        if item.state is ItemState.DONE:
            return self._plan.save is not None and not item.files
        return item.state not in _ENDED

    async def _run(self, item: Item) -> Outcome:
        job = Job(item, self._tools)
        self._jobs.add(job)
        running = asyncio.get_running_loop().create_task(self._ended(job))
        job.task = running
        running.add_done_callback(lambda _: self._jobs.discard(job))
        try:
            await asyncio.wait([running])
        finally:
            if not running.done():  # the engine wants its job back
                running.cancel()
                await asyncio.wait([running])
        if running.cancelled():
            raise Later(SOON)
        error = running.exception()
        if error is not None:
            logger.warning("%s is looked at again: %s", item.source_id, error)
            raise Later(5 * SOON) from error
        return running.result()

    async def _ended(self, job: Job) -> Outcome:
        return await job.save(await job.run())
