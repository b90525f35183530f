"""What a run is given: ids or items, from any iterable, read lazily."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable

from attrs import frozen

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


async def _each(source: Source) -> AsyncIterator[str | BulkItem]:
    if isinstance(source, str | bytes):
        raise UsageError("task_ids must be an iterable of ids, not one text")
    if isinstance(source, AsyncIterable):
        async for entry in source:
            yield entry
    elif isinstance(source, Iterable):
        for entry in source:
            yield entry
    else:
        raise UsageError(f"task_ids must be an iterable of ids, not {type(source).__name__}")


async def planned_batches(
    source: Source, resolution: str | None, size: int
) -> AsyncIterator[list[PlannedItem]]:
    """Yield the items in batches of *size*, checked.

    Raises:
        UsageError: An id or a resolution cannot work; its position is in the message.
    """
    batch: list[PlannedItem] = []
    position = 0
    async for entry in _each(source):
        position += 1
        item = entry if isinstance(entry, BulkItem) else BulkItem(source_id=entry)
        try:
            wanted = upscale_input(item.source_id, item.resolution or resolution)
        except UsageError as error:
            problem = error.message
        else:
            batch.append(
                PlannedItem(
                    source_id=item.source_id,
                    model=UPSCALE,
                    input=wanted,
                    output_name=item.output_name,
                )
            )
            if len(batch) >= size:
                yield batch
                batch = []
            continue
        if batch:
            yield batch
        raise UsageError(f"item {position}: {problem}")
    if batch:
        yield batch
