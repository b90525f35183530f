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
from kie_async.session._creates import Order
from kie_async.session._watch import Waiter

if TYPE_CHECKING:
    from kie_async.session._engine import Opened

__all__ = ["Steps"]


class Steps(Waiter[Order | None]):
    """One call for an order: to create it, to wait for it, or both.

        with engine.within(timeout, order) as steps:
            await steps.create()
            while (ended := await steps.news()) is None:
                await steps.look()
            return ended
        raise steps.late()

    When the time is over, or the session closes, the block is left without an exception,
    so that nothing of the transport's is chained to the error that is raised behind it.
    """

    __slots__ = ("_known", "_timeout", "opened")

    def __init__(
        self,
        opened: Opened,
        order: Order | None,
        timeout: float | None,
        task_id: str | None = None,
    ) -> None:
        """Belong to the running task; the time runs from the block's beginning."""
        super().__init__(order, opened.place.loop)
        self.opened = opened
        self._timeout = timeout
        self._known = task_id if order is None else order.task_id

    def create(self) -> Coroutine[Any, Any, str]:
        """Create the task; await it for the task's id."""
        assert self.subject is not None  # noqa: S101 - it is dropped by a wait only
        return self.opened.creates.run(self.subject)

    def news(self) -> asyncio.Future[Task | None]:
        """Wait for the order's task; await it for the task as it ended, or for None: look."""
        if self.watch is not None:
            return self.found
        order = self.subject
        if order is None:
            self.opened.poller.join(self, self._known or "")
        else:
            self.opened.poller.join(
                self,
                order.task_id or "",
                model=order.model or None,
                created_at=order.created_at,
                callbacks=order.expects_callback,
            )
            if order.record is None:
                self.subject = None  # the wait may be long, and what it needs the watch has
        return self.found

    def look(self) -> Coroutine[Any, Any, None]:
        """Look at the task, for all who wait for it; it is this caller's turn."""
        return self.opened.poller.look(self)

    @property
    def task_id(self) -> str | None:
        """The task's id, as soon as it is known."""
        if self.watch is not None:
            return self.watch.task_id
        return self._known if self.subject is None else self.subject.task_id

    def late(self) -> KieError:
        """Return the error for a block that was left because its time was over."""
        order, task_id = self.subject, self.task_id
        in_flight = order is not None and order.in_flight
        if order is not None and in_flight:
            self.opened.creates.abandon(order, "the deadline passed before the answer came")
        error = self._too_late(task_id, in_flight=in_flight)
        error.task_id = task_id
        error.maybe_charged = task_id is not None or in_flight
        return error

    def _too_late(self, task_id: str | None, *, in_flight: bool) -> KieError:
        timeout = self._timeout or 0.0
        if self.opened.closing is not None:
            return SessionClosedError("the session was closed during the call")
        if task_id is not None:
            last = None if self.watch is None else self.watch.last_seen()
            state = f", last seen {last.state}" if last is not None else ""
            return WaitTimeoutError(
                f"not done after {timeout:g} s{state}; the task goes on - wait for it again",
                task=last,
            )
        if in_flight:
            return WaitTimeoutError(
                f"no answer to the create after {timeout:g} s; if a task comes of it, its id "
                "goes to the session's hooks as TaskOrphaned",
            )
        return WaitTimeoutError(f"no turn to create within {timeout:g} s; nothing was created")

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
        watch = self.watch
        if watch is not None:
            self.opened.poller.leave(self)
            if self.subject is not None:
                self.subject.polls = watch.polls
        self.opened.calls.end(self)
        if isinstance(exc, asyncio.CancelledError):
            if not late:
                self._cancelled(exc)
            return late
        return isinstance(exc, TimeoutError) and not isinstance(exc, KieError)  # a limiter's, say

    def _cancelled(self, cancelled: asyncio.CancelledError) -> None:
        """The caller leaves: give the id of what he paid for to the hooks, and to himself."""
        order, watch, creates = self.subject, self.watch, self.opened.creates
        reason = "the caller was cancelled"
        if order is None:
            if watch is not None and self._known is None:
                creates.orphan(watch.task_id, watch.model or "", reason)
        elif self._known is None and order.record is None:  # a record keeps the id itself
            creates.abandon(order, reason)
        if self.task_id is not None:
            cancelled.add_note(f"kie_async: task {self.task_id} goes on; wait for it by its id")
