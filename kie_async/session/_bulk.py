"""What a bulk run needs of a session, and nothing else of it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kie_async.grok_imagine import UPSCALE
from kie_async.instrumentation import Event
from kie_async.limiter import SlidingWindowLimiter
from kie_async.models import Task
from kie_async.protocol import create_task_request, with_reference
from kie_async.session._creates import CreateRecord, Order
from kie_async.session._engine import Engine

if TYPE_CHECKING:
    from kie_async.bulk import Save
    from kie_async.callbacks import CallbackReceiver
    from kie_async.journal import Item

__all__ = ["BulkCaller", "callback_maker", "saver"]


class BulkCaller:
    """Creates without a deadline of its own; a close of the session ends it."""

    def __init__(self, engine: Engine) -> None:
        """Serve the runs of one session."""
        self._engine = engine

    def order(
        self,
        model: str,
        input: Mapping[str, Any],
        record: CreateRecord,
        task_id: str | None = None,
        created_at: float | None = None,
    ) -> Order:
        """Make an order whose intent and outcome *record* keeps.

        Args:
            model: The model.
            input: Its parameters.
            record: Keeps intent and outcome.
            task_id: A task that exists, and
            created_at: when it was created, in Unix seconds: a young one may not be
                visible yet.
        """
        order = Order(model=model, input=input, record=record, task_id=task_id)
        if created_at is not None:
            order.created_at = self._engine.loop_time(created_at)
        return order

    async def create(self, order: Order) -> str:
        """Create the task, however long its turn takes; return its id."""
        with self._engine.within(None, order) as steps:
            return await steps.create()
        raise steps.late()

    async def wait(self, order: Order, timeout: float) -> Task:
        """Wait for the order's task, *timeout* seconds at most; it counts the polls."""
        with self._engine.within(timeout, order) as steps:
            while (ended := await steps.news()) is None:
                await steps.look()
            return ended
        raise steps.late()

    async def look(self, task_id: str) -> Task:
        """Ask for the task once."""
        return await self._engine.get_task(task_id)

    def remember(self, ages: Sequence[float]) -> None:
        """Count the creates of a run that crashed a moment ago."""
        limiter = self._engine.limiter
        if isinstance(limiter, SlidingWindowLimiter):  # others keep their books elsewhere
            limiter.remember(ages)

    def tell(self, event: Event) -> None:
        """Give an event to the session's hooks."""
        self._engine.tell(event)


def callback_maker(
    base: str | None, receiver: CallbackReceiver | None
) -> Callable[[], tuple[str, str]] | None:
    """Return what makes each attempt's callback URL and the reference in it.

    Raises:
        UsageError: *base* is no http(s) URL.
    """
    if base is not None:

        def make() -> tuple[str, str]:
            reference = secrets.token_hex(16)
            return with_reference(base, reference), reference

        create_task_request(UPSCALE, {}, base)  # refused here, and not in each create
        return make
    return receiver.new_callback_url if receiver is not None else None


def saver(engine: Engine, directory: Path, name: str, *, allow_private: bool) -> Save:
    """Return what a bulk run saves its results with."""

    async def save(task: Task, item: Item) -> tuple[Path, ...]:
        downloader = await engine.opened().saving.downloader(
            directory, name, allow_private=allow_private
        )
        own = None if item.output_name is None else _as_template(item.output_name)
        return await downloader.save(task, source_id=item.source_id, name=own)

    return save


def _as_template(name: str) -> str:
    """Turn an item's own output name into a template: nothing in it is a field."""
    plain = name.replace("{", "{{").replace("}", "}}").replace("/", "_").replace("\\", "_")
    return "{source_id:.0s}" + plain  # the id is asked for, and none of it shown
