"""The steps of one order, within one deadline.

Whoever leaves early leaves the task id behind.  A caller that waits holds this and its own
frame, and no coroutine between: there may be 100,000 of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kie_async.errors import KieError, SessionClosedError, WaitTimeoutError
from kie_async.models import Task
from kie_async.session._calls import Call
from kie_async.session._creates import Order

if TYPE_CHECKING:
    from kie_async.session._engine import Opened

__all__ = ["Steps"]


class Steps(Call[Order | None]):
    """One call for an order: to create it, to wait for it, or both.

        with engine.within(timeout, order) as steps:
            await steps.create()
            return await steps.wait()
        raise steps.late()

    When the time is over, or the session closes, the block is left without an exception,
    so that nothing of the transport's is chained to the error that is raised behind it.
    """

    __slots__ = ("_known", "_timeout", "opened", "order")

    def __init__(self, opened: Opened, order: Order, timeout: float | None) -> None:
        """Belong to the running task; the time runs from the block's beginning."""
        super().__init__(order, opened.place.loop)
        self.opened = opened
        self.order = order
        self._timeout = timeout
        self._known = order.task_id is not None

    def create(self) -> Coroutine[Any, Any, str]:
        """Create the task; await it for the task's id."""
        return self.opened.creates.run(self.order)

    def wait(self) -> Coroutine[Any, Any, Task]:
        """Wait for the order's task; await it for the task as it ended."""
        order = self.order
        return self.opened.poller.wait(
            order.task_id or "",
            model=order.model or None,
            created_at=order.created_at,
            glimpse=order,
            callbacks=order.expects_callback,
        )

    def late(self) -> KieError:
        """Return the error for a block that was left because its time was over."""
        order, opened = self.order, self.opened
        if order.in_flight:
            opened.creates.abandon(order, "the deadline passed before the answer came")
        error = _late(order, self._timeout or 0.0, closing=opened.closing is not None)
        error.task_id = order.task_id
        error.maybe_charged = order.task_id is not None or order.in_flight
        return error

    def __enter__(self) -> Self:
        """Begin the call."""
        self.opened.calls.enter(self, self._timeout)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End the call; True if its time was over."""
        late = self.timed_out  # before the end, which takes our own cancellation back
        self.opened.calls.end(self)
        if isinstance(exc, asyncio.CancelledError):
            if not late:
                self._cancelled(exc)
            return late
        return isinstance(exc, TimeoutError) and not isinstance(exc, KieError)  # a limiter's, say

    def _cancelled(self, cancelled: asyncio.CancelledError) -> None:
        order = self.order
        if not self._known and order.record is None:  # a record keeps the id itself
            self.opened.creates.abandon(order, "the caller was cancelled")
        if order.task_id is not None:
            cancelled.add_note(f"kie_async: task {order.task_id} goes on; wait for it by its id")


def _late(order: Order, timeout: float, *, closing: bool) -> KieError:
    if closing:
        return SessionClosedError("the session was closed during the call")
    if order.task_id is not None:
        last = order.seen
        state = f", last seen {last.state}" if last is not None else ""
        return WaitTimeoutError(
            f"not done after {timeout:g} s{state}; the task goes on - wait for it again",
            task=last,
        )
    if order.in_flight:
        return WaitTimeoutError(
            f"no answer to the create after {timeout:g} s; if a task comes of it, its id "
            "goes to the session's hooks as TaskOrphaned",
        )
    return WaitTimeoutError(f"no turn to create within {timeout:g} s; nothing was created")
