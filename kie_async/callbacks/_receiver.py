"""The receiver of callbacks: it decides, remembers and rings.  It opens no socket.

A callback is a doorbell, not a letter.  It says "look at this task"; what is true of the
task is read with ``recordInfo``, and nothing of the callback's body is passed on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from attrs import evolve

from kie_async.callbacks._asgi import ASGIApp
from kie_async.callbacks._event import (
    CallbackClockSkewed,
    CallbackEvent,
    CallbackReceived,
    CallbackRefused,
    Reply,
)
from kie_async.callbacks._guards import RateCap, SkewAlarm
from kie_async.callbacks._listeners import Listener, Listeners
from kie_async.callbacks._memory import Memory
from kie_async.callbacks._reading import Reading
from kie_async.callbacks._references import (
    PATH,
    References,
    checked_base,
    derived_key,
    split_path,
)
from kie_async.callbacks._refusal import Reason, RefusedCallbackError, refused
from kie_async.callbacks._verify import (
    MAX_AGE,
    SIGNATURE,
    TIMESTAMP,
    check_form,
    hint,
    lower,
    secrets_of,
    stamp_of,
    verify_callback,
)
from kie_async.errors import UsageError
from kie_async.instrumentation import Hook, Hooks, logger
from kie_async.models import Secret, check_seconds, check_task_id

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["CallbackReceiver", "CallbackURL"]

THANKS = b'{"code":200,"msg":"success"}'
"""The documented sample of an answer."""
REFUSED = b'{"msg":"refused"}'
REMEMBER = 3600.0
HINTS_PER_SECOND = 20.0
"""Hints that pass in a second: more polls than that no account should spend."""
FOREIGN_PER_SECOND = 2000.0
"""Rings of other processes that pass in a second; those nobody waits for cost nothing."""


class CallbackURL(NamedTuple):
    """Where Kie shall post the end of one create, and how that create is recognised."""

    url: str
    reference: str


class CallbackReceiver:
    """Receives Kie's callbacks and rings for the tasks that they name.

    Mount it in a service: ``add_routes(app)`` for aiohttp, ``app.mount("/kie/cb",
    receiver.asgi)`` for Starlette and FastAPI, or call ``handle`` from anything else.
    Any thread may call it.  It keeps what it knows in this process only: sessions in
    other processes are rung by a ``RedisDoorbell``, or find their results by polling.
    Bodies are bounded in size and time here; how long a request's head may take is the
    server's to bound.

    Args:
        hmac_keys: The HMAC key of Kie's settings page; several while it is rotated.
        public_url: Where the world reaches this service, without ``/kie/cb``; needed for
            ``new_callback_url`` only.
        require_signature: False: let unsigned callbacks pass as hints, a few in a second.
            True and without a key, all are refused.
        reference_key: The secret that marks references as ours.  Default: made from the
            HMAC keys, so that all processes with them agree; a random one without them.
        max_age: Seconds that a signed time may differ from ours, either way.
        clock: Unix seconds.
        max_pending: Tasks that are remembered, and as many references.
        remember: Seconds that they are remembered: a callback may come before the answer
            to its create, or before anybody waits.
        hints_per_second: Unsigned callbacks that pass; the same again for those whose
            path has a reference of ours.
        read_timeout: Seconds for a body to arrive.
        listener_timeout: Seconds that a coroutine listener may take over one event.
        hooks: Told of `CallbackReceived`, `CallbackRefused` and `CallbackClockSkewed`.

    Raises:
        UsageError: An argument cannot work.
    """

    def __init__(
        self,
        hmac_keys: Sequence[str | Secret] | str | Secret = (),
        *,
        public_url: str | None = None,
        require_signature: bool = True,
        reference_key: str | Secret | None = None,
        max_age: float = MAX_AGE,
        clock: Callable[[], float] = time.time,
        max_pending: int = 100_000,
        remember: float = REMEMBER,
        hints_per_second: float = HINTS_PER_SECOND,
        read_timeout: float = 10.0,
        listener_timeout: float = 30.0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        try:
            self._keys = secrets_of(hmac_keys)
            self._references = _references(self._keys, reference_key)
        finally:
            del hmac_keys, reference_key  # crash reporters show our locals
        self._public_url = None if public_url is None else checked_base(public_url)
        self._require_signature = require_signature
        self._max_age = check_seconds(max_age, "max_age")
        self._clock = clock
        if not isinstance(max_pending, int) or max_pending < 1:
            raise UsageError(f"max_pending must be a whole number from 1, not {max_pending!r}")
        # A replay that is still young enough to pass must still be known.
        keep = max(check_seconds(remember, "remember"), 2 * self._max_age)
        self._memory = Memory(max_pending, keep)
        per_second = check_seconds(hints_per_second, "hints_per_second")
        self._caps = tuple(RateCap(per_second, max(1.0, 5 * per_second)) for _ in range(2))
        self._foreign = RateCap(FOREIGN_PER_SECOND, FOREIGN_PER_SECOND)
        self._skew = SkewAlarm()
        self._listeners = Listeners(check_seconds(listener_timeout, "listener_timeout"))
        self._hooks = Hooks(hooks)
        self._lock = threading.Lock()  # short: no I/O and no callback inside
        self._reading = Reading(check_seconds(read_timeout, "read_timeout"))
        if require_signature and not self._keys:
            logger.warning("no HMAC key is set: all callbacks will be refused")

    # References

    def new_callback_url(self) -> CallbackURL:
        """Return a URL for one create, and the reference that is its last part.

        Raises:
            UsageError: No ``public_url`` was given.
        """
        if self._public_url is None:
            raise UsageError("public_url is needed: where does the world reach this service?")
        reference = self._references.new()
        return CallbackURL(f"{self._public_url}{PATH}/{reference}", reference)

    def is_ours(self, reference: str) -> bool:
        """True if we made *reference*, or a process with the same key did."""
        return self._references.is_ours(reference)

    # Waiting

    def connect(self, ring: Callable[[CallbackEvent], None]) -> Callable[[], None]:
        """Let *ring* be called in the running loop for each new event.

        For what is quick, such as waking a poller.  Call `seen` after the waiter is in
        place, and no event is missed.

        Returns:
            A function that ends it; call it before the loop closes.
        """
        return self._listeners.add_bell(ring)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell *listener* of each new event, at most once each.

        A plain function runs in a thread of its own; a coroutine function as a task of
        the running loop.  What it raises is logged; if it hangs, only its own line waits.

        Returns:
            A function that ends it.
        """
        return self._listeners.add(listener)

    def seen(self, task_id: str) -> bool:
        """True if a callback for *task_id* came within the last hour (``remember``)."""
        with self._lock:
            return self._memory.knows(task_id, self._clock())

    def take_early(self, task_id: str) -> bool:
        """Like `seen`, and forget it: a later copy rings again."""
        with self._lock:
            known = self._memory.knows(task_id, self._clock())
            self._memory.forget(task_id)
            return known

    def tasks_of(self, reference: str) -> tuple[str, ...]:
        """Return the ids that came with *reference*: normally one, or none yet.

        No proof: the task's own record must name the reference too.
        """
        with self._lock:
            return self._memory.tasks_of(reference, self._clock())

    def ring(self, task_id: str, reference: str | None = None) -> bool:
        """Let those who wait here look at a task, because another process heard of it.

        A hint: it proves nothing, and only so many pass in a second.  Listeners of
        `subscribe` are not told.

        Returns:
            True if it was news.
        """
        now = self._clock()
        try:
            check_task_id(task_id)
        except UsageError:
            return False
        known = reference if reference is not None and self.is_ours(reference) else None
        event = CallbackEvent(
            task_id=task_id, signed=False, sent_at=None, received_at=now, reference=known
        )
        with self._lock:
            news = self._foreign.admits(now) and self._memory.is_new(event, now)
        if news:
            self._listeners.ring(event)
        return news

    @property
    def pending(self) -> int:
        """Tasks that are remembered now."""
        return len(self._memory)

    @property
    def dropped(self) -> int:
        """Events that a listener missed: it was too slow, or its loop was closed."""
        return self._listeners.dropped

    def close(self) -> None:
        """End all listeners; callbacks are still answered.  Harmless when repeated."""
        self._listeners.close()

    # Receiving

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Take one callback and return what to answer; whoever listens is told later."""
        return self.settle(self.receive(method, path, headers, body, self._clock()))

    def receive(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> Reply:
        """Decide on one callback, and remember it; nobody is told.  See `settle`."""
        named = lower(headers)
        try:
            reference = self._checked_head(method, path, named, now)
            event = evolve(self._read(named, body, now), reference=reference)
            with self._lock:
                if not event.signed and not self._caps[reference is None].admits(now):
                    raise refused(Reason.FLOOD)
                is_new = self._memory.is_new(event, now)
        except RefusedCallbackError as error:
            return reply_to(error)
        return Reply(status=200, body=THANKS, event=event if is_new else None)

    def check_head(self, method: str, path: str, headers: Mapping[str, str]) -> Reply | None:
        """Refuse what needs no body to be refused; None if the body is to be read."""
        try:
            self._checked_head(method, path, lower(headers), self._clock())
        except RefusedCallbackError as error:
            return reply_to(error)
        return None

    def settle(self, reply: Reply) -> Reply:
        """Tell listeners, hooks and the log what came of a callback; return *reply*.

        Once for each reply.  It only posts, so that the answer can go out at once.
        """
        now = self._clock()
        if reply.refusal in (None, Reason.TIME.word):
            self._watch_clock(now, late=reply.refusal is not None)
        event = reply.event
        if event is not None:
            self._listeners.deliver(event)
            if self._hooks:
                self._hooks.emit(
                    CallbackReceived(
                        task_id=event.task_id, signed=event.signed, reference=event.reference
                    )
                )
        elif reply.refusal is not None:
            logger.debug("a callback was refused: %s", reply.refusal)
            if self._hooks:
                self._hooks.emit(CallbackRefused(reason=reply.refusal, http_status=reply.status))
        return reply

    def _checked_head(
        self, method: str, path: str, headers: Mapping[str, str], now: float
    ) -> str | None:
        """Return the reference in the path, or None if it has none."""
        rest = split_path(path)
        if rest is None:
            raise refused(Reason.PATH)
        if method != "POST":
            raise refused(Reason.METHOD)
        if rest and not self._references.is_ours(rest):
            raise refused(Reason.REFERENCE)
        if self._is_to_be_signed(headers):
            if not self._keys:
                raise refused(Reason.UNSIGNED)
            stamp_of(headers, now=now, max_age=self._max_age)
        check_form(headers)
        return rest or None

    def _is_to_be_signed(self, headers: Mapping[str, str]) -> bool:
        """Whoever sends a signature is held to it, if there is a key to check it with."""
        claimed = TIMESTAMP in headers or SIGNATURE in headers
        return self._require_signature or (bool(self._keys) and claimed)

    def _read(self, headers: Mapping[str, str], body: bytes, now: float) -> CallbackEvent:
        if self._is_to_be_signed(headers):
            return verify_callback(body, headers, self._keys, now=now, max_age=self._max_age)
        return hint(body, headers, now=now)

    def _watch_clock(self, now: float, *, late: bool) -> None:
        with self._lock:
            rings = self._skew.count(now, refused=late)
            refusals, total = self._skew.refused, self._skew.total
        if rings:
            logger.warning(
                "%d of %d callbacks were refused for their time: check this machine's clock",
                refusals,
                total,
            )
            self._hooks.emit(CallbackClockSkewed(refused=refusals, total=total))

    async def serve(
        self, method: str, path: str, headers: Mapping[str, str], chunks: AsyncIterator[bytes]
    ) -> Reply:
        """Like `handle`, for a body that is still coming; what any asyncio face calls.

        A request whose head is refused is answered without its body being read.
        """
        early = self.check_head(method, path, headers)
        if early is not None:
            return self.settle(early)
        try:
            body = await self._reading.whole(chunks)
        except RefusedCallbackError as error:
            return self.settle(reply_to(error))
        return self.handle(method, path, headers, body)

    # Faces

    def aiohttp_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Return a handler for `aiohttp.web`, for any method and path."""
        from kie_async.callbacks._aiohttp import handler

        return handler(self)

    def add_routes(self, app: web.Application) -> None:
        """Add ``/kie/cb`` and what is below it to an `aiohttp.web` application."""
        handler = self.aiohttp_handler()
        app.router.add_route("*", PATH, handler)
        app.router.add_route("*", PATH + "/{reference:.*}", handler)

    @property
    def asgi(self) -> ASGIApp:
        """An ASGI 3 application on asyncio: served alone, or mounted at ``/kie/cb``."""
        return ASGIApp(self)


def reply_to(error: RefusedCallbackError) -> Reply:
    """Return the refusal: the same words for every reason, and nothing of the request."""
    headers: tuple[tuple[str, str], ...] = (("connection", "close"),)
    if error.reason is Reason.METHOD:
        headers += (("allow", "POST"),)
    return Reply(
        status=error.reason.status, body=REFUSED, headers=headers, refusal=error.reason.word
    )


def _references(keys: Sequence[Secret], own: str | Secret | None) -> References:
    try:
        secrets = keys if own is None else secrets_of(own)
    finally:
        del own  # crash reporters show our locals
    return References([derived_key(secret.reveal().encode("ascii")) for secret in secrets])
