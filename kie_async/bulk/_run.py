"""A bulk run: many ids, each upscaled exactly once, resumable after any crash.

The journal says what is to do; the session does it.  A driver writes ids into the journal
and hands on what is to do, carriers bring it to its end while there is room in flight, and
outcomes come out as items end.  Nothing is kept per finished item.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from kie_async.bulk._budget import Budget, expected_price
from kie_async.bulk._carriers import Carriers
from kie_async.bulk._claims import Claims
from kie_async.bulk._job import Caller, Job, Progress, Tools, give_up, tell_untaken
from kie_async.bulk._loading import Loader
from kie_async.bulk._own import own_journal
from kie_async.bulk._plan import Plan
from kie_async.errors import KieError, SpendLimitError, UsageError
from kie_async.journal import Item, ItemState, JournalStore
from kie_async.models import Outcome

__all__ = ["BulkRun"]

LEFT = "its bulk run ended before, and had no journal of yours"

GRACE = 28.0
"""Seconds for creates under way when a run is left."""
RESULTS = 1000
"""Outcomes, or items whose files are being saved, that wait for a slow consumer.  With so
many, and all room in flight taken, nothing new is begun until he has taken some."""


class BulkRun:
    """An async iterator of outcomes, made by ``KieSession.upscale_many``.

        async with kie.upscale_many(ids, journal=journal) as run:
            async for outcome in run:
                ...

    However the block is left, the run ends in good order: creates under way bring their
    ids, and nothing more is paid for.  Without the block a bare ``break`` ends nothing:
    the run goes on, and pays, until a thousand outcomes wait to be taken, or
    :meth:`aclose` or the end of the session ends it.

    When something stops the run (no key, no credits, a full disk, its own cap), tasks
    under way are finished, their outcomes come, and then the error is raised.  What was
    not sent stays planned: the same journal resumes it.
    """

    def __init__(self, caller: Caller, journal: JournalStore | None, plan: Plan) -> None:
        """Nothing happens before the first outcome is asked for."""
        self.progress = Progress()
        self._caller = caller
        self._given = journal
        self._plan = plan
        self._budget = Budget(plan.max_credits, expected_price(plan.resolution))
        self._jobs: set[Job] = set()
        self._carriers = Carriers(
            plan.in_flight, RESULTS + plan.in_flight, self._may_begin, self._carry
        )
        self._results: deque[Outcome | None] = deque()  # the carriers bound it
        self._news = asyncio.Event()
        self._cut_off: set[asyncio.Task[None]] = set()
        self._claims: Claims | None = None
        self._stopped = False
        self._given_up = False
        self._loader: Loader | None = None
        self._driver: asyncio.Task[None] | None = None
        self._taking = False
        self._cancelled = False
        self._outcomes = self._iterate()

    def __aiter__(self) -> Self:
        """Iterate once; a run is not repeated, it is resumed."""
        return self

    async def __anext__(self) -> Outcome:
        """Return the next outcome, in the order in which items end.

        Cancelling this ends the run, as :meth:`aclose` does; so ``asyncio.timeout`` around
        it is no way to look in between.  To do that, keep one task for ``anext(run)`` and
        give ``asyncio.wait([task], timeout=…)`` the seconds.

        Raises:
            KieError: What stopped the run, behind the last outcome.
            UsageError: It was ended by a cancellation: this is not the end of its list.
        """
        if self._cancelled:
            raise UsageError(
                "the run has ended before its list: the wait for an outcome was cancelled, as "
                "by asyncio.timeout - pass the same list and journal again to go on"
            )
        self._taking = True
        try:
            return await anext(self._outcomes)
        except asyncio.CancelledError:
            self._cancelled = True
            raise
        finally:
            self._taking = False

    async def __aenter__(self) -> Self:
        """Return the run; nothing happens before the first outcome is asked for."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave, as :meth:`aclose` does."""
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: creates under way bring their ids, waits are given up (resumable).

        If another task iterates, it gets the outcomes that there are, and then the end.
        """
        if not self._taking:
            await self._outcomes.aclose()
            return
        await self.give_up_waiting()
        if self._driver is not None:
            await asyncio.wait([self._driver])

    def stop(self, error: KieError | None = None) -> None:
        """Create nothing more; what is under way is finished.  Safe to call again.

        No more is read of the source, but of one with a length: its rest is planned.
        """
        self._take_no_more(error)
        self._stopped = True
        for job in self._jobs:
            job.stop()

    def _take_no_more(self, error: KieError | None) -> None:
        """Start no further item; those already started go on."""
        if error is not None and self.progress.stopped_by is None:
            self.progress.stopped_by = error
        self.progress.stopping = True
        if self._loader is not None:
            self._stop_loading(self._loader)
        self._carriers.keep(lambda item: not (self._given_up or item.state is ItemState.PLANNED))

    def _stop_loading(self, loader: Loader) -> None:
        """Read no further; the rest of a list is for a journal that stays."""
        loader.stop(given_up=self._given_up or self._given is None)

    async def give_up_waiting(self, grace: float = GRACE) -> None:
        """End the waits and the reading too; the tasks go on, and a later run collects them.

        Creates under way get *grace* seconds to bring their ids.
        """
        self._given_up = True
        self.stop()
        if self._claims is not None:
            self._claims.leave()
        await give_up(self._jobs, grace)

    # -- the flow ---------------------------------------------------------------------

    async def _iterate(self) -> AsyncGenerator[Outcome, None]:
        """Drive the run, and yield what comes of it."""
        async with AsyncExitStack() as stack:
            self._journal = await self._opened(stack)
            self._tools = self._tools_with(self._journal)
            driver = self._driver = asyncio.get_running_loop().create_task(self._drive())
            try:
                while True:
                    outcome = self._results.popleft() if self._results else await self._result()
                    if outcome is None:
                        break
                    self._carriers.take()
                    yield outcome
                await driver
            finally:
                if not driver.done():
                    await self._leave(driver)
                for left in self._results:
                    if left is not None:
                        self._untaken(left)
        if self.progress.stopped_by is not None:
            raise self.progress.stopped_by

    async def _leave(self, driver: asyncio.Task[None]) -> None:
        """End the driver, and with it all that it began; a second cancellation hurries it."""
        try:
            await self.give_up_waiting()
        finally:
            driver.cancel()
            await asyncio.wait([driver])

    def _untaken(self, outcome: Outcome) -> None:
        """Nobody takes this outcome any more: a journal of the run's own goes with it."""
        if self._given is None:
            tell_untaken(outcome, self._caller.tell, LEFT)

    def _tell(self, outcome: Outcome | None) -> None:
        """Let the consumer have an outcome; None is behind the last one."""
        self._results.append(outcome)
        self._news.set()

    async def _result(self) -> Outcome | None:
        """Wait for what was told; only one consumer waits."""
        while not self._results:
            self._news.clear()
            await self._news.wait()
        return self._results.popleft()

    async def _opened(self, stack: AsyncExitStack) -> JournalStore:
        """Return the journal; open one for this run if none was given."""
        if self._given is not None:
            return self._given
        return await stack.enter_async_context(own_journal())

    def _tools_with(self, journal: JournalStore) -> Tools:
        plan = self._plan
        return Tools(
            caller=self._caller,
            journal=journal,
            progress=self.progress,
            stop=self.stop,
            saving=asyncio.Semaphore(plan.saving),
            save=plan.save,
            new_callback=plan.new_callback,
            task_timeout=plan.task_timeout,
            resumable=self._given is not None,
        )

    async def _drive(self) -> None:
        """Load and hand on; end when every item has ended."""
        try:
            recovered = await self._journal.recover()
            self._caller.remember(recovered.recent)
            counts = recovered.counts
            progress = self.progress
            progress.total, progress.done = counts.total, counts.done
            progress.failed, progress.in_doubt = counts.failed, counts.in_doubt
            loader = self._loader = Loader(self._plan, self._journal, self._carriers, progress)
            if progress.stopping:  # before it began
                self._stop_loading(loader)
            async with asyncio.TaskGroup() as group:
                self._carriers.start(group)
                try:
                    with self._claiming(group, loader) as self._claims:
                        await self._load(loader)
                        await self._carriers.fewer_than(1)
                        await self._claims.linger(self._idle, self._plan.linger)
                finally:
                    self._carriers.end()  # a group that comes down takes nobody any more
        except BaseExceptionGroup as failures:
            if self._cut_off:  # creates under way bring their ids: the journal is still open
                await asyncio.wait(self._cut_off, timeout=GRACE)
            raise _single(failures) from None
        finally:
            self._tell(None)

    def _claiming(self, group: asyncio.TaskGroup, loader: Loader) -> Claims:
        """Listen for callbacks of creates in doubt; a claimed task is waited for here."""

        def collect(item: Item) -> None:
            if any(job.claim() for job in self._jobs if job.item.source_id == item.source_id):
                return  # its create is still under way, or its task is waited for already
            self.progress.in_doubt -= 1
            if loader.first_time(item):
                self._collect(group, item)

        return Claims(
            self._plan.receiver,
            self._journal,
            self._caller.look,
            group,
            answered=self._answered,
            collect=collect,
            tell=self._caller.tell,
        )

    async def _answered(self, source_id: str) -> None:
        """Return when no create of *source_id* is under way here, and its job has heard."""
        for job in list(self._jobs):
            order = job.order
            if job.item.source_id == source_id and order is not None and order.section is not None:
                await asyncio.wait([order.section])

    def _idle(self) -> bool:
        """True when nothing runs any more."""
        return not self._jobs

    def _collect(self, group: asyncio.TaskGroup, item: Item) -> None:
        """Start a job for a task that exists: it needs no turn, and may exceed the room."""
        self._carriers.add()
        group.create_task(self._carry(item, holds_room=False))

    async def _load(self, loader: Loader) -> None:
        """Load; what the journal or an item refuses is a stop in good order."""
        try:
            await loader.load()
        except KieError as error:
            self.stop(error)

    def _may_begin(self, item: Item) -> bool:
        """Ask for an item's place in the budget, if it is to be created."""
        if item.state is not ItemState.PLANNED:
            return not self._given_up
        if self.progress.stopping:
            return False
        if self._budget.reserve():
            return True
        doubts = self._budget.doubts
        counted = f" ({doubts} in doubt count as paid)" if doubts else ""
        self._take_no_more(
            SpendLimitError(
                f"the cap of {self._plan.max_credits:g} credits is reached{counted}: nothing "
                "more was created - raise the cap and run the same again"
            )
        )
        return False

    # -- the items --------------------------------------------------------------------

    async def _carry(self, item: Item | None, *, holds_room: bool = True) -> None:
        """Bring one item after the other to its end, as long as there is a next one.

        Room in flight is free again before an item's files are saved.
        """
        carrier = asyncio.current_task()
        saving = self._plan.save is not None
        try:
            while item is not None:
                job = Job(item, self._tools, carrier)
                self._jobs.add(job)
                try:
                    self._check_wanted(job)
                    outcome = await job.run()
                except BaseException as end:
                    self._broken_off(job, end)
                    raise
                finally:
                    self._ended(job)
                if saving or not holds_room:
                    break
                self._tell(outcome)
                # One that was cancelled, even if too late for its item, is of no more use.
                item = None if carrier is None or carrier.cancelling() else self._carriers.next()
        finally:
            if holds_room:
                self._carriers.leave()
        if item is not None:
            try:
                outcome = await job.save(outcome)
            except BaseException:
                self._untaken(outcome)
                raise
            self._tell(outcome)

    def _check_wanted(self, job: Job) -> None:
        """Leave a job that was stopped when it was in a carrier's hands and not begun."""
        if self._stopped and (self._given_up or not job.paid):
            raise asyncio.CancelledError

    def _broken_off(self, job: Job, end: BaseException) -> None:
        """Count an item out that has no outcome; at a bug begin nothing more."""
        if self._given is None:
            job.abandon(LEFT)
        order = job.order
        if order is not None and order.in_flight and order.section is not None:
            self._cut_off.add(order.section)
            order.section.add_done_callback(self._cut_off.discard)
        if isinstance(end, asyncio.CancelledError):
            self._carriers.take()  # not sent, or to be collected later: the journal has it
        else:
            self._carriers.end()

    def _ended(self, job: Job) -> None:
        self._jobs.discard(job)
        job.task = None
        if job.item.state is ItemState.PLANNED:
            self._budget.settle(job.credits, charged=job.paid, in_doubt=job.in_doubt)
            self.progress.credits_spent = self._budget.spent


def _single(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the one error of a group: callers catch KieError, not groups."""
    first = failures.exceptions[0]
    return _single(first) if isinstance(first, BaseExceptionGroup) else first
