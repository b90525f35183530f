"""What a bulk run needs of a session, and nothing else of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kie_async.models import Task
from kie_async.session._creates import CreateRecord, Order
from kie_async.session._engine import Engine

__all__ = ["BulkCaller"]


class BulkCaller:
    """Creates and waits without a deadline of its own; a close of the session ends it."""

    def __init__(self, engine: Engine) -> None:
        """Serve the runs of one session."""
        self._engine = engine

    def order(
        self,
        model: str,
        input: Mapping[str, Any],
        record: CreateRecord,
        task_id: str | None = None,
    ) -> Order:
        """Make an order whose intent and outcome *record* keeps."""
        return Order(model=model, input=input, record=record, task_id=task_id)

    async def create(self, order: Order) -> str:
        """Create the task, however long its turn takes; return its id."""
        return await self._engine.within(None, order, lambda opened: opened.creates.run(order))

    async def wait(self, order: Order) -> Task:
        """Wait for the order's task, however long it takes; it counts the polls."""
        task_id = order.task_id or ""
        return await self._engine.within(
            None,
            order,
            lambda opened: opened.poller.wait(
                task_id, model=order.model, created_at=order.created_at, glimpse=order
            ),
        )

    async def look(self, task_id: str) -> Task:
        """Ask for the task once."""
        return await self._engine.get_task(task_id)
