"""What a run is given: ids or items, from any iterable, read lazily."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable

from attrs import define, field, frozen

from kie_async.errors import UsageError
from kie_async.grok_imagine import UPSCALE, upscale_input
from kie_async.journal import PlannedItem

__all__ = ["Batch", "BulkItem", "Source", "listed"]


@frozen(kw_only=True)
class BulkItem:
    """One id to upscale, with settings of its own."""

    source_id: str
    resolution: str | None = None
    output_name: str | None = None


Source = Iterable["str | BulkItem"] | AsyncIterable["str | BulkItem"]


def listed(source: object) -> Iterable[str | BulkItem]:
    """Return *source* as what can be gone through; raises UsageError for what is none."""
    if isinstance(source, str | bytes):
        raise UsageError("task_ids must be an iterable of ids, not one text")
    if not isinstance(source, Iterable):
        raise UsageError(f"task_ids must be an iterable of ids, not {type(source).__name__}")
    return source


@define
class Batch:
    """Items that are planned together."""

    resolution: str | None
    size: int
    items: list[PlannedItem] = field(factory=list)
    position: int = 0
    problem: str | None = None

    @property
    def whole(self) -> bool:
        """True if it takes no more: it is full, or the last entry cannot work."""
        return self.problem is not None or len(self.items) >= self.size

    def add(self, entry: str | BulkItem) -> bool:
        """Put an entry in; True if the batch is whole now."""
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

    def take(self) -> list[PlannedItem]:
        """Return the items, and begin anew; behind them raise for one that cannot work."""
        items, self.items = self.items, []
        if not items and self.problem is not None:
            raise UsageError(self.problem)
        return items

    def _planned(self, entry: BulkItem) -> PlannedItem:
        return PlannedItem(
            source_id=entry.source_id,
            model=UPSCALE,
            input=upscale_input(entry.source_id, entry.resolution or self.resolution),
            output_name=entry.output_name,
        )
