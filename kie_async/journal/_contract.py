"""What every journal offers, whatever keeps it: the contract of `Journal`.

A type, without behaviour.  `tests/test_journal_contract.py` is its other half.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol

from kie_async.journal._values import (
    Attempt,
    Counts,
    Decision,
    Doubt,
    Item,
    ItemState,
    PlannedItem,
    Recovery,
)
from kie_async.models import Task

__all__ = ["JournalStore"]


class JournalStore(Protocol):
    """Keeps what was planned, begun and paid.

    A write that has returned survives a crash.  A write that is refused raises a
    `JournalError` and has changed nothing.  Reads see durable rows only.
    """

    async def plan(self, items: Iterable[PlannedItem]) -> list[str]:
        """Add items; return the source ids that are new, in order."""

    async def begin_sending(self, source_id: str, *, ref: str | None = None) -> int:
        """``planned → sending``: make the intent durable; return the attempt's number."""

    async def record_not_sent(self, source_id: str, attempt: int, *, reason: str) -> None:
        """``sending → planned``: it is proven that nothing was sent."""

    async def record_rejected(
        self,
        source_id: str,
        attempt: int,
        *,
        final: bool,
        reason: str | None = None,
        http_status: int | None = None,
        body_code: int | None = None,
        error_message: str | None = None,
    ) -> None:
        """``sending → failed`` if *final*, else ``planned``: the API refused."""

    async def record_reported(
        self,
        source_id: str,
        attempt: int,
        *,
        again: bool,
        reason: str | None = None,
        http_status: int | None = None,
        body_code: int | None = None,
        error_message: str | None = None,
    ) -> None:
        """``sending → planned`` if it is sent *again*, else ``in_doubt``: it said "failed"."""

    async def record_in_doubt(
        self,
        source_id: str,
        attempt: int,
        *,
        reason: str,
        http_status: int | None = None,
        body_code: int | None = None,
        error_message: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        """``sending → in_doubt``: nobody can know whether a task was created."""

    async def record_created(self, source_id: str, attempt: int, task_id: str) -> bool:
        """``sending → sent``: keep the id of a paid task."""

    async def record_done(self, source_id: str, task: Task, *, polls: int | None = None) -> None:
        """``sent → done``."""

    async def record_failed(
        self,
        source_id: str,
        *,
        reason: str,
        task: Task | None = None,
        error_code: str | int | None = None,
        error_message: str | None = None,
        maybe_charged: bool | None = None,
        polls: int | None = None,
    ) -> None:
        """``sent | planned → failed``."""

    async def record_files(self, source_id: str, files: Sequence[str]) -> None:
        """Keep the names of a done item's saved results."""

    def note_polls(self, source_id: str, polls: int) -> None:
        """Keep how often an item was looked at, some time soon and not for certain."""

    async def recover(self) -> Recovery:
        """Put the creates that a dead owner left open in doubt."""

    async def resolve(
        self,
        source_id: str,
        *,
        as_task_id: str | None = None,
        attempt: int | None = None,
        not_created: bool = False,
        recreate: bool = False,
        by: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Item:
        """Settle a doubt, and record who did so and why."""

    async def set_meta(self, name: str, value: object) -> None:
        """Keep a setting or a figure of the run."""

    async def meta(self) -> dict[str, Any]:
        """Return what `set_meta` kept."""

    async def get(self, source_id: str) -> Item | None:
        """Return an item, or None."""

    async def attempts(self, source_id: str) -> list[Attempt]:
        """Return an item's attempts, in order."""

    async def page(
        self,
        state: ItemState,
        *,
        after: int = 0,
        limit: int = 500,
        without_files: bool = False,
    ) -> list[Item]:
        """Return items of a state with ``seq`` above *after*, in the order of planning."""

    def iterate(
        self, state: ItemState, *, batch: int = 500, without_files: bool = False
    ) -> AsyncIterator[Item]:
        """Go through the items of a state in the order of planning, page by page."""

    def doubts(self) -> AsyncIterator[Doubt]:
        """Go through the items in doubt, each with its attempts."""

    def export(self) -> AsyncIterator[dict[str, Any]]:
        """Go through all items as plain values that JSON can hold."""

    async def decisions(self) -> list[Decision]:
        """Return how doubts were settled, in order."""

    async def counts(self) -> Counts:
        """Count the items of each state."""

    async def find_by_ref(self, ref: str) -> Attempt | None:
        """Return the attempt that carried a reference."""

    async def find_by_task(self, task_id: str) -> list[Attempt]:
        """Return the attempts that a task is bound to."""

    async def created_times(self, since: float) -> list[float]:
        """Return when creates since then may have been counted by the server."""

    async def close(self) -> None:
        """Write what is queued and let go; harmless when repeated."""
