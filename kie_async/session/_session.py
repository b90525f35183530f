"""``KieSession``: joins the rules and the hands.  It knows no journal."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kie_async.errors import UsageError
from kie_async.grok_imagine import UPSCALE, GrokInput, upscale_input
from kie_async.instrumentation import Hook, Hooks
from kie_async.limiter import RateLimiter, shared_limiter
from kie_async.models import Secret, Task, check_seconds, check_task_id
from kie_async.polling import Durations, PollSchedule
from kie_async.retry import CreateRetry, RetryPolicy
from kie_async.session._account import AccountCalls, on_this_machine, upload_host
from kie_async.session._creates import Order
from kie_async.session._engine import GRACE, SHORT_DEADLINE, Engine, Settings
from kie_async.session._many import ManyCalls
from kie_async.session._steps import Steps
from kie_async.transport import Transport

if TYPE_CHECKING:
    import aiohttp

    from kie_async.callbacks import CallbackReceiver

__all__ = ["KieSession", "upscale"]

BASE_URL = "https://api.kie.ai"
DEADLINE = 900.0
"""Seconds for a whole call, by default; the documents advise 10 to 15 minutes."""


class KieSession(AccountCalls, ManyCalls):
    """A session with Kie's job API; use it with ``async with``.

    One session serves any number of concurrent calls.  It may be entered again after it
    was left, also in another event loop, and learned durations stay.

    Args:
        api_key: The key; by default the environment's ``KIE_API_KEY``.
        base_url: The API's address; by default ``KIE_BASE_URL``, else Kie's.
        upload_url: The upload host's address; by default ``KIE_UPLOAD_URL``, else the
            base URL if that is on loopback, else Kie's.
        max_concurrency: Creates in flight at once, at most.
        create_retry: Which failed creates may be sent again.
        limiter: For creates; by default 20 per 10 s, one per key in this process.
        poll_limiter: For reads; by default 8 per 1 s, one per key in this process.
        retry: How often, and after how long.
        polling: When to look at a task.
        durations: What is learned of how long tasks take; sessions that are given the same
            object learn from each other.
        http: Your own ``aiohttp.ClientSession``; it is used and never closed.
        callbacks: A receiver that Kie's callbacks reach; each create then names it, and
            waiting costs next to no polls.
        hooks: Called with each event; see :mod:`kie_async.instrumentation`.
        request_timeout: Seconds for one request; a create gets 25 at most.

    Raises:
        UsageError: No key, a key with white space in it, or another impossible setting.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        upload_url: str | None = None,
        max_concurrency: int = 20,
        create_retry: CreateRetry = CreateRetry.REPORTED,
        limiter: RateLimiter | None = None,
        poll_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        polling: PollSchedule | None = None,
        durations: Durations | None = None,
        http: aiohttp.ClientSession | None = None,
        callbacks: CallbackReceiver | None = None,
        hooks: Sequence[Hook] = (),
        request_timeout: float = 30.0,
    ) -> None:
        try:
            key = Secret(os.environ.get("KIE_API_KEY", "") if api_key is None else api_key)
        finally:
            del api_key  # crash reporters show our locals, whichever setting is wrong
        base_url = base_url or os.environ.get("KIE_BASE_URL") or BASE_URL
        if isinstance(max_concurrency, bool) or max_concurrency < 1:
            raise UsageError(f"max_concurrency must be 1 or more, not {max_concurrency}")
        self._transport = Transport(
            api_key=key, base_url=base_url, upload_url=upload_host(upload_url, base_url), http=http
        )
        account = hashlib.sha256(f"{base_url}\n{key.reveal()}".encode()).hexdigest()[:16]
        reads = f"{account}-reads"
        settings = Settings(
            transport=self._transport,
            limiter=limiter or shared_limiter(account),
            poll_limiter=poll_limiter or shared_limiter(reads, limit=8, window=1.0),
            max_concurrency=max_concurrency,
            create_retry=create_retry,
            retry=retry or RetryPolicy(),
            schedule=polling or PollSchedule(),
            hooks=Hooks(hooks),
            callbacks=callbacks,
            durations=durations,
            request_timeout=check_seconds(request_timeout, "request_timeout"),
        )
        self._engine = Engine(settings)
        self._create_retry = create_retry
        self._callbacks = callbacks
        self._local = on_this_machine(base_url)

    def __repr__(self) -> str:
        """Say where it talks to, and nothing of the key."""
        engine = getattr(self, "_engine", None)
        if engine is None:  # a traceback of its making shows it
            return "<KieSession unfinished>"
        state = "open" if engine.is_open else "closed"
        return f"<KieSession {self._transport.base_url} {state}>"

    def __del__(self) -> None:
        """Complain about a session that was left open."""
        engine = getattr(self, "_engine", None)
        if engine is not None and engine.is_open:
            warnings.warn(
                f"{self!r} was not closed: use `async with`",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )

    async def __aenter__(self) -> Self:
        """Bind the session to the running loop and to this process."""
        await self._engine.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it; creates under way get their grace."""
        await self.close()

    async def close(self, *, grace: float = GRACE) -> None:
        """End every call: waiters get :class:`SessionClosedError` with their task id.

        Creates under way are given *grace* seconds to bring their ids.  Safe to call
        again, and at the same time.
        """
        await self._engine.close(grace)

    # -- tasks ------------------------------------------------------------------------

    async def create_task(
        self,
        model: str,
        input: Mapping[str, Any],
        *,
        callback_url: str | None = None,
        timeout: float = DEADLINE,
    ) -> str:
        """Start a task, which costs money, and return its id.

        Args:
            model: Such as ``grok-imagine/upscale``; unknown names are sent as they are.
            input: What the model takes.
            callback_url: Where Kie shall post the end of the task.
            timeout: Seconds for turn, request and safe repetitions together.

        Raises:
            UsageError: Bad input; nothing was sent.
            CreateInDoubtError: It may have been paid for; it is not sent again.
            KieAPIError: The API refused; nothing was created.
            KieConnectionError: It could not be sent; nothing was created.
            WaitTimeoutError: The deadline passed; ``maybe_charged`` tells whether a
                request was under way.  Its id then reaches the hooks (``TaskOrphaned``).
        """
        with self._engine.within(timeout, _order(model, input, callback_url)) as steps:
            return await steps.create()
        raise steps.late()

    async def get_task(self, task_id: str, *, timeout: float = SHORT_DEADLINE) -> Task:
        """Ask once how a task is doing; asked again while the trouble is transient.

        Raises:
            NotFoundError: There is no such task, or not yet.
            KieError: The API refused, or could not be reached.
        """
        check_task_id(task_id)
        return await self._engine.get_task(task_id, timeout)

    async def wait_for_result(self, task_id: str, *, timeout: float = DEADLINE) -> Task:
        """Look at a task until it is done, and return it.

        Outages are outlived: only the deadline or a fatal answer ends the wait.

        Args:
            task_id: The task to watch.
            timeout: Seconds to watch.  The task itself goes on, and can be watched again.

        Raises:
            TaskFailedError: The task ended in ``fail``.
            WaitTimeoutError: It was still running after *timeout* seconds.
            NotFoundError: There is no such task.
        """
        check_task_id(task_id)
        with self._engine.within(timeout, None, task_id) as steps:
            while (ended := await steps.news()) is None:
                await steps.look()
            return ended
        raise steps.late()

    async def run(
        self,
        model: str,
        input: Mapping[str, Any],
        *,
        timeout: float = DEADLINE,
        callback_url: str | None = None,
    ) -> Task:
        """Start a task and wait for its result, within one deadline.

        Cancelling it leaves no paid task unknown: the id goes to the hooks as
        ``TaskOrphaned``, and ``wait_for_result`` takes it up again.

        Raises:
            KieError: As :meth:`create_task` and :meth:`wait_for_result`; after the create
                every exception carries ``task_id``.
        """
        with self._engine.within(timeout, _order(model, input, callback_url)) as steps:
            await steps.create()
            while (ended := await steps.news()) is None:
                await steps.look()
            return ended
        raise steps.late()

    async def generate(
        self, wanted: GrokInput, *, timeout: float = DEADLINE, callback_url: str | None = None
    ) -> Task:
        """Start one of the typed inputs of :mod:`kie_async.grok_imagine`, and wait for it.

        Raises:
            KieError: As :meth:`run`.
        """
        return await self.run(
            wanted.model, wanted.to_input(), timeout=timeout, callback_url=callback_url
        )

    async def upscale(
        self,
        task_id: str,
        *,
        resolution: str | None = None,
        timeout: float = DEADLINE,
        callback_url: str | None = None,
    ) -> Task:
        """Upscale the result of an earlier task, and return the finished new task.

        Args:
            task_id: The earlier task; it must be one of the same account.
            resolution: "720p" (what Kie takes if nothing is said) or "1080p".
            timeout: Seconds for everything together.
            callback_url: Where Kie shall post the end of the task.

        Raises:
            KieError: As :meth:`run`.
        """
        with self._upscaling(task_id, resolution, callback_url, timeout) as steps:
            await steps.create()
            while (ended := await steps.news()) is None:
                await steps.look()
            return ended
        raise steps.late()

    def _upscaling(
        self, task_id: str, resolution: str | None, callback_url: str | None, timeout: float
    ) -> Steps:
        """Begin an upscale; apart from its caller, whose frame waits and should be small."""
        order = _order(UPSCALE, upscale_input(task_id, resolution), callback_url)
        return self._engine.within(timeout, order)

    async def download(
        self,
        task: Task,
        directory: Path | str,
        *,
        name: str = "{task_id}",
        timeout: float = DEADLINE,
        allow_private: bool | None = None,
    ) -> list[Path]:
        """Save the results of a finished task, whole and checked, and return their paths.

        Safe to repeat: what is there is not overwritten, what is half there is resumed.
        An expired address is renewed once.  The key is never sent to a result host.

        Args:
            task: A task that succeeded.
            directory: Where to; it is made if it is missing.
            name: How files are named: ``{source_id}``, ``{task_id}``, ``{index}``; the
                suffix follows from the content.
            timeout: Seconds for everything together.
            allow_private: Fetch from private addresses and by http too.  None: only if the
                API itself is on this machine, which is an emulator.

        Raises:
            DownloadError: A file could not be saved; ``saved`` has the others.
            StorageFullError: The disk is full; what came so far is kept and resumed.
            WaitTimeoutError: The time was over.
        """
        with self._engine.within(timeout, None, task.task_id) as steps:
            saver = await steps.opened.saving.downloader(
                Path(directory), name, allow_private=self._private(allow_private)
            )
            return list(await saver.save(task))
        raise steps.late()


def _order(
    model: str,
    input: Mapping[str, Any],
    callback_url: str | None,
) -> Order:
    order = Order(model=model, input=input, callback_url=callback_url)
    order.request()  # what cannot work fails here, before anything is sent
    return order


async def upscale(task_id: str, *, session: KieSession | None = None, **options: Any) -> Task:
    """Upscale the result of an earlier task, with a session or without one.

    Args:
        task_id: The earlier task.
        session: An open session to use; without one, a session is opened for this call.
        options: As :meth:`KieSession.upscale`.
    """
    if session is not None:
        return await session.upscale(task_id, **options)
    async with KieSession() as own:
        return await own.upscale(task_id, **options)
