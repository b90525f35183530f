"""For tests of code that waits for Kie: hours in milliseconds, and no socket.

    from kie_async.testing import VirtualKie, in_virtual_time

    @in_virtual_time
    async def test_the_user_is_told_after_ten_minutes():
        kie = VirtualKie(durations=lambda _rng: 3600.0)
        async with kie.session() as session:
            assert await my_service(session, kie.add_source_task()) == "still running"

The clock jumps to the next timer whenever nothing is ready.  So this is for code without
sockets, threads and processes of its own; with them, use the fixture ``kie_emulator``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from kie_async.emulator import EmulatedAPI, Rule
from kie_async.emulator import Request as Arriving
from kie_async.errors import KieConnectionError, UsageError
from kie_async.limiter import SlidingWindowLimiter
from kie_async.protocol import Request, Response
from kie_async.session import KieSession

if TYPE_CHECKING:
    from kie_async.emulator import Answer, Books

__all__ = ["JumpingLoop", "VirtualKie", "in_virtual_time", "run_in_virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

STUCK = 5.0
"""Real seconds without anything ready and without a timer: a deadlock."""


class _JumpingSelector(selectors.DefaultSelector):
    """Looks at the sockets, and skips the time it was asked to wait."""

    skipped = 0.0
    held = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now; count *timeout* as passed when nothing is."""
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or self.held:
            ready = super().select(STUCK)  # a thread may wake us; a real hang fails loudly
            if not ready:
                raise RuntimeError("deadlock: nothing is ready and no timer is set")
        else:
            self.skipped += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, starting at 0.0 seconds."""

    def __init__(self) -> None:
        self._jumps = _JumpingSelector()
        super().__init__(self._jumps)

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._jumps.skipped

    async def shutdown_default_executor(self, *args: Any, **named: Any) -> None:
        """Wait for the threads; since Python 3.12 with a time-out, which is not to be jumped."""
        with self.held():
            await super().shutdown_default_executor(*args, **named)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass inside: somebody waits for a real thread."""
        self._jumps.held += 1
        try:
            yield
        finally:
            self._jumps.held -= 1


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* to its end on a :class:`JumpingLoop`, as ``asyncio.run`` does.

    Raises:
        RuntimeError: A deadlock: nothing is ready, no timer is set, and nothing came from a
            thread for five real seconds.
    """
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a plain function of an async test; it needs no plugin."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_in_virtual_time(test(*args, **kwargs))

    return run


class VirtualKie:
    """Kie in memory, on the running loop's clock: create one in each test.

    Args:
        latency: Seconds that every request takes, half of them before the work.
        seed: The same seed and calls give the same ids, durations and jitter.
        settings: As :class:`kie_async.emulator.EmulatedAPI`: ``durations``, ``credits``,
            ``rate`` and more.

    Attributes:
        api: The emulated API.
    """

    def __init__(self, *, latency: float = 0.05, seed: int = 0, **settings: Any) -> None:
        if latency < 0:
            raise UsageError(f"latency must be 0 or more seconds, not {latency}")
        self.api = EmulatedAPI(seed, **settings)
        self._seed = seed
        self._latency = latency

    @property
    def books(self) -> Books:
        """What was paid, refused and asked."""
        return self.api.books

    def add_source_task(self, task_id: str | None = None, **options: Any) -> str:
        """Put a finished source task on record and return its id."""
        return self.api.add_source_task(self.now(), task_id, **options)

    def now(self) -> float:
        """Return the API's seconds: those of the running loop."""
        return asyncio.get_running_loop().time()

    def inject(self, rule: Rule | None = None, **fields: Any) -> Rule:
        """Add a fault and return it: a `Rule`, or its fields by name.

        A fault of the wire loses or cuts the answer, as it would on a socket.  Faults of
        connections, callbacks and files have no effect: there are none here.
        """
        added = Rule(**fields) if rule is None else rule
        self.api.inject(added)
        return added

    def session(self, **settings: Any) -> KieSession:
        """Return a session that talks to this; use it with ``async with``.

        Args:
            settings: As :class:`kie_async.KieSession`.  It has limits of its own, unless
                you give some.  ``download`` and ``http`` do not work here.
        """
        settings.setdefault("limiter", SlidingWindowLimiter(20, 10.0))
        settings.setdefault("poll_limiter", SlidingWindowLimiter(8, 1.0))
        session = KieSession(self.api.api_key, base_url="http://127.0.0.1:9", **settings)
        # The seams of a session, kept for this: its wire, its wall clock and its dice.
        session._transport.send = self._send  # type: ignore[method-assign]  # noqa: SLF001
        session._engine._clock = self.unix  # noqa: SLF001
        session._engine._rng.seed(self._seed)  # noqa: SLF001
        return session

    def unix(self) -> float:
        """Return the wall clock's seconds, as Kie's records have them."""
        return self.api.unix(self.now())

    async def _send(self, request: Request, *, timeout: float) -> Response:
        """Answer one request, or fail as the transport would."""
        try:
            async with asyncio.timeout(timeout):
                return await self._exchange(request)
        except TimeoutError:
            raise KieConnectionError(
                f"{request.method} {request.path.partition('?')[0]}: no answer came within "
                f"{timeout:g} s",
                sent=True,
            ) from None

    async def _exchange(self, request: Request) -> Response:
        await asyncio.sleep(self._latency / 2)
        headers = {
            "authorization": f"Bearer {self.api.api_key}",
            "content-type": request.content_type,
        }
        arriving = Arriving(request.method, request.path, headers, request.body or b"")
        visit = self.api.begin(self.api.arrive(arriving, self.now()))
        if visit.delay:
            await asyncio.sleep(visit.delay)
        answer = self.api.finish(visit, self.now())
        await asyncio.sleep(self._latency / 2 + answer.delay)
        if answer.wire is not None:
            await _lost(request, answer)
        return Response(
            answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.body
        )


async def _lost(request: Request, answer: Answer) -> None:
    """Fail as the transport does when an answer is cut, or does not come."""
    if answer.wire is None or answer.wire.end == "silence":
        await asyncio.Event().wait()  # until the request's deadline
    else:
        head, _, came = b"".join(answer.wire.chunks).partition(b"\r\n\r\n")
        raise KieConnectionError(
            f"{request.method} {request.path.partition('?')[0]}: the connection was lost",
            sent=True,
            partial=came,
            http_status=answer.status if head else None,
        )
