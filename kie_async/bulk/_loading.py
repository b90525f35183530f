"""Fills the journal from the source, and hands on what there is to do: paid ones first."""

from __future__ import annotations

import asyncio

from kie_async.bulk._carriers import Carriers
from kie_async.bulk._job import Progress
from kie_async.bulk._plan import Plan
from kie_async.bulk._reading import Reading, reading
from kie_async.instrumentation import logger
from kie_async.journal import Item, ItemState, JournalStore, PlannedItem

__all__ = ["BATCH", "Loader"]

BATCH = 1000
"""Items that are planned or read at once: a commit is dear, memory is not."""


class Loader:
    """The loading of one run."""

    def __init__(
        self, plan: Plan, journal: JournalStore, carriers: Carriers, progress: Progress
    ) -> None:
        """Read nothing yet."""
        self._plan = plan
        self._journal = journal
        self._carriers = carriers
        self._progress = progress
        self._reading: Reading | None = None
        self._given_up = False
        self._cursor = 0
        self._collected: set[int] = set()  # of earlier runs' tasks; by `seq`, and never many

    async def load(self) -> None:
        """Write what is new into the journal, and hand on what is to do.

        Raises:
            UsageError: An item that cannot work.
            JournalError: The journal cannot take more, or hand out what it has.
        """
        await self._hand_on_paid()
        plan, progress = self._plan, self._progress
        self._reading = reading(plan.source, plan.resolution, BATCH)
        self._end_reading()  # it may have been stopped before it began
        try:
            while batch := await self._reading.next():
                progress.total += len(await self._planned(batch))
                await self._hand_on_planned()
            progress.loaded = self._reading.ended
            await self._hand_on_planned()
        finally:
            await self._let_go(self._reading)

    def stop(self, *, given_up: bool) -> None:
        """Read no further; a list whose end is in sight is planned yet, unless *given_up*."""
        self._given_up = self._given_up or given_up
        self._end_reading()

    def _end_reading(self) -> None:
        if self._reading is not None and (self._progress.stopping or self._given_up):
            self._reading.stop(at_once=self._given_up)

    async def _planned(self, batch: list[PlannedItem]) -> list[str]:
        """Plan the batch, come what may: the source may have counted the ids as taken."""
        try:
            return await self._journal.plan(batch)
        except asyncio.CancelledError:
            await self._journal.plan(batch)  # what is planned already is not planned again
            raise

    async def _let_go(self, source: Reading) -> None:
        """End the reading, however this ends, and keep what was taken from the source."""
        source.stop(at_once=True)
        try:
            while rest := await source.next():
                self._progress.total += len(await self._journal.plan(rest))
        except Exception as error:  # noqa: BLE001 - another error ends the run, or none
            logger.debug("what was left of a source was not planned: %s", error)
        finally:
            await source.close()

    # -- what there is to do --------------------------------------------------------------

    async def _hand_on_paid(self) -> None:
        """First collect what earlier runs have paid for, each once.

        What still runs comes first: it is waited for, and of the others each costs a poll.
        So some of it is done, and has no files yet, when those are read.
        """
        async for item in self._journal.iterate(ItemState.SENT):
            if self.first_time(item):
                await self._carriers.hand_on((item,))
        if self._plan.save is not None:
            async for item in self._journal.iterate(ItemState.DONE, without_files=True):
                if item.seq not in self._collected:
                    await self._carriers.hand_on((item,))

    def first_time(self, item: Item) -> bool:
        """True if nobody in this run has been given this item's task to collect."""
        if item.seq in self._collected:
            return False
        self._collected.add(item.seq)
        return True

    async def _hand_on_planned(self) -> None:
        """Pass planned rows on in their order, each once in a run."""
        while not self._progress.stopping:
            page = await self._journal.page(ItemState.PLANNED, after=self._cursor, limit=BATCH)
            if not page:
                return
            self._cursor = page[-1].seq
            await self._carriers.hand_on(page)
