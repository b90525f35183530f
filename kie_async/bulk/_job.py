"""One item of a run: create, wait, record, save."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from attrs import define, frozen

from kie_async.bulk._record import JournalRecord, NewCallback, Tell, stops_the_run
from kie_async.errors import (
    CreateInDoubtError,
    DownloadError,
    KieConnectionError,
    KieError,
    TaskFailedError,
    WaitTimeoutError,
)
from kie_async.grok_imagine import UPSCALE
from kie_async.instrumentation import Event, logger, tell_orphan
from kie_async.journal import Item, ItemState, JournalStore
from kie_async.models import Outcome, OutcomeStatus, Task
from kie_async.protocol import lacks_result

__all__ = ["Caller", "Job", "Progress", "Save", "Tools", "give_up", "tell_untaken"]

LONGEST_PAUSE = 60.0
"""Seconds between attempts to reach an API that cannot be reached, at most."""

Save = Callable[[Task, Item], Awaitable[tuple[Path, ...]]]


class Order(Protocol):
    """What a job sees of an order of the session."""

    task_id: str | None
    polls: int
    in_flight: bool
    section: asyncio.Task[None] | None
    abandoned: str | None


class Caller(Protocol):
    """What a run needs of a session; an order of its own making is given back to it."""

    def order(
        self,
        model: str,
        input: Mapping[str, Any],
        record: JournalRecord,
        task_id: str | None = None,
        created_at: float | None = None,
    ) -> Order:
        """Make an order for one create, or for a task created at *created_at* (Unix)."""

    async def create(self, order: Any) -> str:
        """Create the task, however long its turn takes; return its id."""

    async def wait(self, order: Any, timeout: float) -> Task:
        """Wait for the result, *timeout* seconds at most."""

    async def look(self, task_id: str) -> Task:
        """Ask for the task once."""

    def remember(self, ages: Sequence[float]) -> None:
        """Count creates of *ages* seconds ago towards the rate limit."""

    def tell(self, event: Event) -> None:
        """Give an event to the session's hooks."""


@define
class Progress:
    """Where a run stands; a live view reads it.

    ``running`` tasks are created and not ended; ``waiting_for_turn`` are items that want
    to be created.  ``done`` and the others count earlier runs of the journal too.
    ``credits_spent`` is what this run's tasks have cost; creates in doubt are not in it.
    Once it is ``stopping``, nothing more is created, and what is under way is finished.
    """

    total: int = 0
    loaded: bool = False
    waiting_for_turn: int = 0
    running: int = 0
    created: int = 0
    done: int = 0
    failed: int = 0
    in_doubt: int = 0
    files: int = 0
    failed_downloads: int = 0
    credits_spent: float = 0.0
    stopping: bool = False
    stopped_by: KieError | None = None

    @property
    def left(self) -> int:
        """Items that are not done, failed or in doubt."""
        return self.total - self.done - self.failed - self.in_doubt


@frozen(kw_only=True)
class Tools:
    """What every job of a run works with; without a journal that stays it is not resumable."""

    caller: Caller
    journal: JournalStore
    progress: Progress
    stop: Callable[[KieError], None]
    saving: asyncio.Semaphore
    save: Save | None
    new_callback: NewCallback | None
    task_timeout: float
    resumable: bool = True


@define(eq=False)
class Job:
    """One item under way.  It never raises for what happens to its item."""

    item: Item
    tools: Tools
    task: asyncio.Task[Any] | None = None
    order: Order | None = None
    credits: float | None = None
    creating: bool = False
    claimed: bool = False
    in_doubt: bool = False
    recording: bool = False

    def claim(self) -> bool:
        """Say that the journal has this item's task now; True if this job goes on with it."""
        self.claimed = self.creating
        return self.creating or (self.order is not None and self.order.task_id is not None)

    @property
    def paid(self) -> bool:
        """True once a create is under way or was accepted."""
        if self.claimed or self.item.state is not ItemState.PLANNED:
            return True
        return self.order is not None and (self.order.in_flight or self.order.task_id is not None)

    def stop(self) -> None:
        """Cancel it if it has sent nothing.  What is answered is heard first: it may be an end.

        Else a doubt whose answer came in this turn of the loop would be no outcome; and one
        that was refused for the moment would be sent again later.
        """
        section = self.order.section if self.order is not None else None
        if self.task is None:
            return  # it has ended, and its carrier may be on the next one
        if section is not None:
            section.add_done_callback(lambda _: self.stop())
        elif not self.paid:
            self.task.cancel()

    def give_up(self) -> None:
        """Cancel it, unless its end is being recorded: that is its outcome, and comes at once."""
        if self.task is not None and not self.recording:
            self.task.cancel()

    def abandon(self, reason: str) -> None:
        """Let the hooks have its task's id, now or when it comes: nothing else keeps it."""
        order = self.order
        if order is not None and order.in_flight:
            order.abandoned = reason  # its section tells, be it a task or a doubt
            return
        task_id = self.item.task_id if order is None else order.task_id
        if task_id is not None:
            tell_orphan(self.tools.caller.tell, task_id, self.item.model, reason)

    async def run(self) -> Outcome:
        """Bring the item to its end, and say how it ended; files come later."""
        item, tools = self.item, self.tools
        try:
            if item.state is ItemState.DONE:
                task = await tools.caller.look(item.task_id or "")
                return self._outcome(OutcomeStatus.DONE, None, task)
            order = await self._created() if item.state is ItemState.PLANNED else self._known()
            tools.progress.running += 1
            try:
                task = await tools.caller.wait(order, tools.task_timeout)
            except WaitTimeoutError as late:
                raise self._late(order, late) from None
            finally:
                tools.progress.running -= 1
            self.credits = task.credits_consumed
            self.recording = True
            await tools.journal.record_done(item.source_id, task, polls=order.polls)
        except CreateInDoubtError as error:
            tools.progress.in_doubt += 1
            self.in_doubt = True
            return self._outcome(OutcomeStatus.IN_DOUBT, error)
        except TaskFailedError as error:
            await self._record_failed(error)
            tools.progress.failed += 1
            return self._outcome(OutcomeStatus.FAILED, error, error.task)
        except KieError as error:
            return self._not_ended(error)
        tools.progress.done += 1
        return self._outcome(OutcomeStatus.DONE, None, task)

    def _not_ended(self, error: KieError) -> Outcome:
        """The item did not come to an end of its own."""
        if stops_the_run(error):
            self.tools.stop(error)
        if self.paid:  # its task goes on; the same journal collects it later
            return self._outcome(OutcomeStatus.FAILED, error)
        self.in_doubt = error.maybe_charged  # its doubt could not even be kept
        if stops_the_run(error) or error.retryable:
            return self._outcome(OutcomeStatus.NOT_SENT, error)
        self.tools.progress.failed += 1
        return self._outcome(OutcomeStatus.FAILED, error)

    def _record(self) -> JournalRecord:
        tools = self.tools
        return JournalRecord(
            tools.journal, self.item.source_id, tools.new_callback, tools.caller.tell
        )

    def _known(self) -> Order:
        """Make the order of a task that exists."""
        item = self.item
        return self.tools.caller.order(
            item.model, item.input, self._record(), item.task_id, item.updated_at
        )

    def _late(self, order: Order, late: WaitTimeoutError) -> WaitTimeoutError:
        # Without a journal the same again would be created, and paid for, again.
        again = "run the same again to collect it" if self.tools.resumable else "wait for its id"
        return WaitTimeoutError(
            f"not done after {self.tools.task_timeout:g} s; the task goes on - {again}",
            task=late.task,
            task_id=order.task_id,
            maybe_charged=True,
        )

    async def _created(self) -> Order:
        """Create the task; an API that cannot be reached is waited for."""
        item, tools, record = self.item, self.tools, self._record()
        tools.progress.waiting_for_turn += 1
        self.creating = True
        pause = 1.0
        try:
            while True:
                order = self.order = tools.caller.order(item.model, item.input, record)
                try:
                    await tools.caller.create(order)
                except KieConnectionError as error:
                    if self.claimed:  # its callback came while the answer was lost
                        return await self._found(order)
                    if error.sent or stops_the_run(error):
                        raise
                else:
                    tools.progress.created += 1
                    return order
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self.creating = False
            tools.progress.waiting_for_turn -= 1

    async def _found(self, order: Order) -> Order:
        """Take the task from the journal."""
        item = await self.tools.journal.get(self.item.source_id)
        order.task_id = item.task_id if item is not None else None
        return order

    async def _record_failed(self, error: TaskFailedError) -> None:
        self.credits = 0.0  # failed tasks are documented as free
        self.recording = True
        await self.tools.journal.record_failed(
            self.item.source_id,
            reason="task failed",
            task=error.task,
            error_code=error.task.fail_code,
            error_message=error.task.fail_message,
        )

    async def save(self, outcome: Outcome) -> Outcome:
        """Save the files; a failed download never fails or repeats the paid task."""
        tools, task = self.tools, outcome.task
        if tools.save is None or task is None or outcome.status is not OutcomeStatus.DONE:
            return outcome
        try:
            if not task.succeeded or lacks_result(task):
                raise DownloadError(  # a done item stays done; its record was looked at anew
                    "the task is done, and its record shows no result at present - run the "
                    "same again to save it",
                    task_id=task.task_id,
                )
            async with tools.saving:
                files = await tools.save(task, self.item)
            await tools.journal.record_files(outcome.source_id, [str(path) for path in files])
        except KieError as error:
            tools.progress.failed_downloads += 1
            if stops_the_run(error):
                tools.stop(error)
            saved = error.saved if isinstance(error, DownloadError) else ()
            return self._outcome(outcome.status, error, task, saved)
        tools.progress.files += len(files)
        return self._outcome(outcome.status, None, task, files)

    def _outcome(
        self,
        status: OutcomeStatus,
        error: KieError | None,
        task: Task | None = None,
        files: tuple[Path, ...] = (),
    ) -> Outcome:
        return Outcome(
            source_id=self.item.source_id, status=status, error=error, task=task, files=files
        )


async def give_up(jobs: set[Job], grace: float) -> None:
    """End all jobs; creates under way get *grace* seconds to bring their ids."""
    orders = [job.order for job in jobs if job.order is not None]
    sections = [order.section for order in orders if order.section is not None]
    if sections:
        await asyncio.wait(sections, timeout=grace)
    for job in list(jobs):
        job.give_up()


def tell_untaken(outcome: Outcome, tell: Tell, reason: str) -> None:
    """Log, and tell the hooks, what was paid for and nobody took; what was saved is there.

    A doubt is logged only: the hooks have heard of it when it arose.
    """
    error, task = outcome.error, outcome.task
    task_id = task.task_id if task is not None else error.task_id if error is not None else None
    if outcome.status is OutcomeStatus.IN_DOUBT:
        logger.warning("the create for %s is in doubt: %s (%s)", outcome.source_id, error, reason)
    elif task_id is not None and not outcome.files and not isinstance(error, TaskFailedError):
        tell_orphan(tell, task_id, UPSCALE, reason)
