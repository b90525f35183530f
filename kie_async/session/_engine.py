"""The engine of a session: its life, its deadlines, and the one way of every call.

session.get_task(id)
  └─ engine.call(request, read)     loop: retry → limiter → send → read
       ├─ limiter.acquire()         when we may send           rule
       ├─ transport.send(request)   bytes out, bytes in        hand
       └─ protocol.read_task()      Task, or the right error   rule
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from attrs import define, field, frozen

from kie_async.errors import (
    KieError,
    RateLimitError,
    SessionClosedError,
    WaitTimeoutError,
    WrongLoopError,
)
from kie_async.instrumentation import Event, Hooks, RequestRetried, RequestSent
from kie_async.limiter import RateLimiter
from kie_async.models import Task, check_seconds
from kie_async.polling import Durations, PollSchedule
from kie_async.protocol import (
    Request,
    Response,
    download_url_request,
    get_task_request,
    read_download_url,
    read_task,
)
from kie_async.retry import CreateRetry, RetryPolicy, retrying
from kie_async.session._calls import Calls
from kie_async.session._creates import Creates, Order
from kie_async.session._lane import Lane
from kie_async.session._poller import Poller
from kie_async.session._saving import Saving
from kie_async.session._steps import Steps
from kie_async.transport import Place, Transport

if TYPE_CHECKING:
    from kie_async.callbacks import CallbackReceiver

__all__ = ["GRACE", "SHORT_DEADLINE", "Engine", "Opened", "Settings"]

T = TypeVar("T")

CREATE_TIMEOUT = 25.0
"""Seconds for one create: less than the grace, so that a clean stop leaves no doubt."""
SHORT_DEADLINE = 120.0
"""Seconds for a call that only asks."""
GRACE = 28.0
"""Seconds for creates under way at a close: less than the 30 s that orchestrators give."""


@frozen(kw_only=True)
class Settings:
    """What a session was told to do; it stays the same from loop to loop."""

    transport: Transport
    limiter: RateLimiter
    poll_limiter: RateLimiter
    max_concurrency: int
    create_retry: CreateRetry
    retry: RetryPolicy
    schedule: PollSchedule
    hooks: Hooks
    request_timeout: float
    callbacks: CallbackReceiver | None = None
    durations: Durations | None = None


@define
class Opened:
    """What belongs to one entering of a session: to its loop and its process."""

    place: Place
    creates: Creates
    poller: Poller
    saving: Saving
    calls: Calls[Order | None]
    closing: asyncio.Task[None] | None = None
    disconnect: Callable[[], None] = field(default=lambda: None)

    @property
    def lost(self) -> bool:
        """True if its loop has ended, or if this is a fork: nothing of it can be closed."""
        return not self.place.same_process or self.place.loop.is_closed()


class Engine:
    """Runs the calls of one session."""

    def __init__(self, settings: Settings) -> None:
        """Start closed; learned durations outlive each opening."""
        self._settings = settings
        self._transport = settings.transport
        self._poll_limiter = settings.poll_limiter
        self._retry = settings.retry
        self._hooks = settings.hooks
        self._timeout = settings.request_timeout
        self._durations = settings.durations or Durations(settings.schedule)
        self._rng = random.Random()  # noqa: S311 - jitter needs no cryptography
        self._clock = time.time
        self._opened: Opened | None = None

    @property
    def limiter(self) -> RateLimiter:
        """Where creates wait for their turn."""
        return self._settings.limiter

    def loop_time(self, unix: float) -> float:
        """Return the loop's time of an instant of the wall clock, which is not in the future."""
        return asyncio.get_running_loop().time() - max(0.0, self._clock() - unix)

    @property
    def is_open(self) -> bool:
        """True between open and close, in the process that opened it."""
        return self._opened is not None and self._opened.place.same_process

    async def open(self) -> None:
        """Bind to the running loop and to this process."""
        self._let_go()
        if self._opened is not None:
            raise SessionClosedError("the session is already entered; make a second one")
        await self._transport.open()
        given = self._settings
        place = Place()
        self._opened = Opened(
            place,
            Creates(
                self._send,
                Lane(given.limiter, given.retry, self._rng),
                given.retry,
                given.create_retry,
                given.hooks,
                self._rng,
                given.max_concurrency,
                given.callbacks,
            ),
            Poller(
                self._look,
                given.schedule,
                self._durations,
                given.poll_limiter,
                given.retry,
                given.hooks,
                self._rng,
                self._clock,
                given.callbacks.seen if given.callbacks is not None else None,
            ),
            Saving(self.get_download_url, given.hooks),
            Calls(place.loop),
        )
        if given.callbacks is not None:
            ring = self._opened.poller.ring
            self._opened.disconnect = given.callbacks.connect(lambda event: ring(event.task_id))

    async def close(self, grace: float) -> None:
        """End every call, and give creates under way *grace* seconds to bring their ids."""
        check_seconds(grace, "grace", zero=True)
        self._let_go()
        opened = self._opened
        if opened is None:
            await self._transport.close()
            return
        if not opened.place.is_here:
            raise WrongLoopError("the session was entered in another event loop: close it there")
        if opened.closing is None:
            opened.closing = opened.place.loop.create_task(self._close(opened, grace))
        await asyncio.shield(opened.closing)

    def _let_go(self) -> None:
        """Forget what cannot be closed any more: its loop is gone, or is another process's."""
        opened = self._opened
        if opened is not None and opened.lost:
            self._opened = None
            if not opened.place.same_process:
                _inherited.append(opened)  # to destroy it would disturb the parent's sockets
            else:
                opened.disconnect()

    async def _close(self, opened: Opened, grace: float) -> None:
        for call in opened.calls.running():
            if call.subject is None or not call.subject.in_flight:
                call.fire()
        await opened.creates.drain(grace)
        for call in opened.calls.running():
            call.fire()
        opened.disconnect()
        await opened.poller.close()
        await opened.saving.close()
        await self._transport.close()
        opened.calls.close()
        self._opened = None

    def opened(self) -> Opened:
        """Return what belongs to this loop, or say clearly why there is none."""
        opened = self._opened
        if opened is None:
            raise SessionClosedError(
                "the session is not open: use it inside `async with KieSession() as kie:`"
            )
        if not opened.place.is_here:
            raise WrongLoopError(
                "the session was entered in another event loop or process: enter one here"
            )
        if opened.closing is not None:
            raise SessionClosedError("the session is closing: nothing new is sent")
        return opened

    def within(
        self, timeout: float | None, order: Order | None, task_id: str | None = None
    ) -> Steps:
        """Return what does the steps of an order within one deadline; see :class:`Steps`.

        Without an order it is for the task *task_id*, which exists.  Without a *timeout*
        only a close of the session ends it early.
        """
        if timeout is not None:
            check_seconds(timeout, "timeout")
        try:
            opened = self.opened()
        except KieError as error:
            error.task_id = task_id if order is None else order.task_id
            raise
        return Steps(opened, order, timeout, task_id)

    async def call(
        self,
        request: Request,
        read: Callable[[Response], T],
        timeout: float,
        *,
        request_timeout: float | None = None,
    ) -> T:
        """Send what costs nothing, again and again while the trouble is transient."""
        check_seconds(timeout, "timeout")
        opened = self.opened()
        route = request.path.partition("?")[0].rpartition("/")[2]

        async def attempt() -> T:
            with await self._poll_limiter.acquire():
                return read(await self._send(request, request_timeout))

        def decide(error: KieError, failures: int) -> float | None:
            delay = self._retry.read_delay(error, failures, self._rng)
            if delay is not None and isinstance(error, RateLimitError):
                self._poll_limiter.pause(delay)
                delay = 0.0
            if delay is not None and self._hooks:
                self._hooks.emit(
                    RequestRetried(route=route, failures=failures, delay=delay, error=error.message)
                )
            return delay

        call = opened.calls.begin(timeout, None)
        try:
            return await retrying(attempt, decide)
        except asyncio.CancelledError:
            if not call.timed_out:
                raise
        except KieError:
            raise
        except TimeoutError:
            pass
        finally:
            opened.calls.end(call)
        if opened.closing is not None:
            raise SessionClosedError("the session was closed during the call")
        raise WaitTimeoutError(f"no answer within {timeout:g} s - try again")

    async def get_task(self, task_id: str, timeout: float = SHORT_DEADLINE) -> Task:
        """Ask once how a task is doing; every error carries its id."""
        try:
            return await self.call(
                get_task_request(task_id), lambda answer: read_task(answer, task_id), timeout
            )
        except KieError as error:
            error.task_id = task_id
            raise

    async def get_download_url(self, url: str, timeout: float = SHORT_DEADLINE) -> str:
        """Ask for an address of a result that works for 20 minutes."""
        return await self.call(download_url_request(url), read_download_url, timeout)

    def tell(self, event: Event) -> None:
        """Give an event to the hooks."""
        if self._hooks:
            self._hooks.emit(event)

    async def _send(self, request: Request, timeout: float | None = None) -> Response:
        """Send once, within the time of one request."""
        if timeout is None:
            timeout = min(self._timeout, CREATE_TIMEOUT) if request.paid else self._timeout
        if not self._hooks:
            return await self._transport.send(request, timeout=timeout)
        loop = asyncio.get_running_loop()
        started, status = loop.time(), None
        try:
            response = await self._transport.send(request, timeout=timeout)
            status = response.status
            return response
        finally:
            route = request.path.partition("?")[0].rpartition("/")[2]
            self._hooks.emit(
                RequestSent(route=route, seconds=loop.time() - started, http_status=status)
            )

    async def _look(self, task_id: str) -> Task:
        request = get_task_request(task_id)
        if self._hooks:
            return read_task(await self._send(request), task_id)
        return read_task(await self._transport.send(request, timeout=self._timeout), task_id)


_inherited: list[Opened] = []
