"""What one may ask a journal.  Nothing here changes a row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from attrs import asdict

from kie_async.journal import _reads
from kie_async.journal._connected import Connected
from kie_async.journal._values import Attempt, Counts, Decision, Doubt, Item, ItemState

__all__ = ["Questions"]


class Questions(Connected):
    """The reading half of `Journal`.  It sees what is durable, in bounded memory."""

    async def get(self, source_id: str) -> Item | None:
        """Return an item, or None if it was never planned."""
        return await self._read(_reads.get, source_id)

    async def attempts(self, source_id: str) -> list[Attempt]:
        """Return an item's attempts, the first one first.

        Raises:
            JournalError: There is no such item.
        """
        return await self._read(_reads.attempts_of, source_id)

    async def page(
        self,
        state: ItemState,
        *,
        after: int = 0,
        limit: int = 500,
        without_files: bool = False,
    ) -> list[Item]:
        """Return items of a state in the order of planning.

        Args:
            state: Their state.
            after: Leave out what was planned up to this ``seq``: that of the last row.
            limit: At most so many.
            without_files: Only those for which `record_files` was not called.

        Raises:
            JournalCorruptError: A row was damaged since the journal was opened.
        """
        return await self._read(
            _reads.page, ItemState(state).value, after, limit, without_files=without_files
        )

    async def iterate(
        self, state: ItemState, *, batch: int = 500, without_files: bool = False
    ) -> AsyncIterator[Item]:
        """Go through the items of a state in the order of planning, page by page.

        The journal may change meanwhile.  An item that comes into the state behind the
        cursor is for the next iteration; a page may be some records old.
        """
        after = 0
        while items := await self.page(
            state, after=after, limit=batch, without_files=without_files
        ):
            for item in items:
                yield item
            after = items[-1].seq

    async def doubts(self) -> AsyncIterator[Doubt]:
        """Go through the items in doubt, each with its attempts."""
        async for item, attempts in self._with_attempts(ItemState.IN_DOUBT):
            yield Doubt(item=item, attempts=tuple(attempts))

    async def export(self) -> AsyncIterator[dict[str, Any]]:
        """Go through all items as plain values that JSON can hold, with their attempts."""
        async for item, attempts in self._with_attempts(None):
            yield {**asdict(item), "attempts": [asdict(attempt) for attempt in attempts]}

    async def _with_attempts(
        self, state: ItemState | None
    ) -> AsyncIterator[tuple[Item, list[Attempt]]]:
        after, word = 0, None if state is None else state.value
        while pairs := await self._read(_reads.page_with_attempts, word, after, 200):
            for pair in pairs:
                yield pair
            after = pairs[-1][0].seq

    async def decisions(self) -> list[Decision]:
        """Return how doubts were settled, in order."""
        return await self._read(_reads.decisions)

    async def counts(self) -> Counts:
        """Count the items of each state: 50 ms per million, on the reader's thread."""
        return await self._read(_reads.counts)

    async def find_by_ref(self, ref: str) -> Attempt | None:
        """Return the attempt whose create carried *ref*, or None."""
        return await self._read(_reads.find_by_ref, ref)

    async def find_by_task(self, task_id: str) -> list[Attempt]:
        """Return the attempts that a task is bound to; normally one or none."""
        return await self._read(_reads.find_by_task, task_id)

    async def created_times(self, since: float) -> list[float]:
        """Return when the creates since *since* ended (Unix seconds), the oldest first.

        For a limiter after a restart.  A create that a crash cut off counts from the
        recovery: nobody knows when the server took it.
        """
        return await self._read(_reads.created_times, since)

    async def meta(self) -> dict[str, Any]:
        """Return the settings and figures of the run, and the journal's own id."""
        return await self._read(_reads.meta)
