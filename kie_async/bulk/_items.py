"""What a run is given: ids or items, from any iterable, read lazily."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from attrs import define, field, frozen

from kie_async.errors import UsageError
from kie_async.grok_imagine import UPSCALE, upscale_input
from kie_async.journal import PlannedItem

__all__ = ["BulkItem", "Source", "planned_batches"]


@frozen(kw_only=True)
class BulkItem:
    """One id to upscale, with settings of its own."""

    source_id: str
    resolution: str | None = None
    output_name: str | None = None


Source = Iterable["str | BulkItem"] | AsyncIterable["str | BulkItem"]


async def planned_batches(
    source: Source, resolution: str | None, size: int
) -> AsyncIterator[list[PlannedItem]]:
    """Yield the items in batches of *size*, checked.

    Raises:
        UsageError: An id or a resolution cannot work; its position is in the message.
    """
    batch = _Batch(resolution, size)
    if isinstance(source, AsyncIterable):
        async for entry in source:
            if batch.add(entry):
                for items in batch.taken():
                    yield items
    else:  # apart: what passes through an async generator costs as much as its check
        for entry in _listed(source):
            if batch.add(entry):
                for items in batch.taken():
                    yield items
    for items in batch.taken():
        yield items


def _listed(source: object) -> Iterable[str | BulkItem]:
    if isinstance(source, str | bytes):
        raise UsageError("task_ids must be an iterable of ids, not one text")
    if not isinstance(source, Iterable):
        raise UsageError(f"task_ids must be an iterable of ids, not {type(source).__name__}")
    return source


@define
class _Batch:
    """Items that are planned together."""

    resolution: str | None
    size: int
    items: list[PlannedItem] = field(factory=list)
    position: int = 0
    problem: str | None = None

    def add(self, entry: str | BulkItem) -> bool:
        """Put an entry in; True if the batch is to be taken: it is full, or this cannot work."""
        self.position += 1
        try:
            if isinstance(entry, BulkItem):
                item = self._planned(entry)
            else:
                wanted = upscale_input(entry, self.resolution)
                item = PlannedItem(source_id=entry, model=UPSCALE, input=wanted)
        except UsageError as error:
            self.problem = f"item {self.position}: {error.message}"
            return True
        self.items.append(item)
        return len(self.items) >= self.size

    def taken(self) -> Iterator[list[PlannedItem]]:
        """Yield the items, if there are any, and begin anew; raise for one that cannot work."""
        if self.items:
            items, self.items = self.items, []
            yield items
        if self.problem is not None:
            raise UsageError(self.problem)

    def _planned(self, entry: BulkItem) -> PlannedItem:
        return PlannedItem(
            source_id=entry.source_id,
            model=UPSCALE,
            input=upscale_input(entry.source_id, entry.resolution or self.resolution),
            output_name=entry.output_name,
        )
