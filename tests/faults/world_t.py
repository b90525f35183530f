"""A small world for the rows of transport and envelope: a Kie, a client, a journal, a checker.

The emulator keeps the truth in its books.  What the client says of it stands in an
`Account`, and `violations` compares the two.  It takes any client's account, so that each
control can show it a bad client and see it caught.

Where the matrix and this package use different words: CreateInDoubt is `CreateInDoubtError`
and the outcome ``in_doubt``; CreateNotSent is a `KieConnectionError` with ``sent`` False;
KieConfigError is any error with ``retryable`` False that stops a run; a paused lane that
only a person can open again (401, 402, 433) is a run that stops and is resumed by the same
command; KieBlocked is an `AuthenticationError` without a code; ProtocolError and
ResponseTooLarge are `ResponseError`, on a create `CreateInDoubtError`; UnexpectedRedirect
is a `ResponseError`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from attrs import define, field

from kie_async import KieSession, Outcome, PollSchedule, RetryPolicy, SlidingWindowLimiter
from kie_async.bulk import BulkItem, Finding, reconcile
from kie_async.callbacks import CallbackReceiver
from kie_async.emulator import Books, EmulatedAPI, Emulator, Rule
from kie_async.emulator import Request as Asked
from kie_async.errors import KieConnectionError, KieError
from kie_async.instrumentation import Event
from kie_async.journal import ItemState, Journal, Verdict
from kie_async.protocol import Request, Response
from tests.clock import Held, JumpingLoop
from tests.conftest import CANARY_KEY

UPSCALE = "grok-imagine/upscale"
CALLBACKS = "https://hooks.example/kie/cb"  # nobody is there: the references are what counts
LONGEST = 30.0
"""Seconds that anything here may take on a busy machine; nothing takes it when it works."""

PATIENT = 10.0  # seconds for a request that is to succeed
QUICK = RetryPolicy(
    base=0.01,
    cap=0.02,
    rate_limit_base=0.05,
    rate_limit_cap=0.1,
    maintenance_base=0.02,
    maintenance_cap=0.1,
    reported_base=0.02,
)


def quick(**settings: Any) -> dict[str, Any]:
    """Return the settings of a session that loses no time."""
    return {
        "limiter": SlidingWindowLimiter(400, 0.1),
        "poll_limiter": SlidingWindowLimiter(400, 0.1),
        "polling": PollSchedule(first_gap=0.05, min_gap=0.02, error_cap=0.1),
        "retry": QUICK,
        "request_timeout": PATIENT,
        **settings,
    }


@define
class Account:
    """What a client says of its creates.

    Attributes:
        tasks: The task ids that it knows of each source.
        doubts: How many creates of each source it lists as of unknown outcome.
        silent: Sources in doubt of which the list says no reference, time or reason.
    """

    tasks: dict[str, set[str]] = field(factory=dict)
    doubts: dict[str, int] = field(factory=dict)
    silent: list[str] = field(factory=list)

    def made(self, source: str, task_id: str) -> None:
        """Note a task."""
        self.tasks.setdefault(source, set()).add(task_id)

    def doubted(self, source: str) -> None:
        """Note a create of unknown outcome."""
        self.doubts[source] = self.doubts.get(source, 0) + 1


def violations(books: Books, told: Account, *, extra: Mapping[str, int] | None = None) -> list[str]:
    """Return what is wrong: I1 paid twice, I2 lost or wrong ids, I3 silent doubts.

    *extra* is how many creates too many the client announced, by source.
    """
    allowed = extra or {}
    wrong = [
        f"I1: {source} was paid {paid} times"
        for source, paid in books.paid.items()
        if paid > 1 + allowed.get(source, 0)
    ]
    real: dict[str, set[str]] = {}
    for row in books.creates:
        real.setdefault(row.source_id, set()).add(row.task_id)
    for source, ids in real.items():
        unknown = ids - told.tasks.get(source, set())
        if len(unknown) > told.doubts.get(source, 0):
            wrong.append(f"I2: {source} has tasks that nobody knows: {sorted(unknown)}")
    for source, ids in told.tasks.items():
        if ids - real.get(source, set()):
            wrong.append(f"I2: {source} was given a task that is not its own")
    return wrong + [f"I3: the doubt of {source} is silent" for source in told.silent]


async def account_of(journal: Journal) -> Account:
    """Read from a journal what its client says."""
    told = Account()
    for state in ItemState:
        async for item in journal.iterate(state):
            for attempt in await journal.attempts(item.source_id):
                if attempt.task_id is not None:
                    told.made(item.source_id, attempt.task_id)
                elif attempt.verdict in (Verdict.IN_DOUBT, Verdict.REPORTED, None):
                    told.doubted(item.source_id)
            if item.task_id is not None:
                told.made(item.source_id, item.task_id)
    async for doubt in journal.doubts():
        last = doubt.attempts[-1]
        if not (last.ref and last.intent_at and last.reason):
            told.silent.append(doubt.item.source_id)
    return told


@define
class World:
    """An emulator, a journal, and what clients of theirs did; *options* are of bulk runs."""

    emulator: Emulator
    journal: Journal
    url: str
    options: dict[str, Any] = field(factory=dict)
    events: list[Event] = field(factory=list)
    errors: list[KieError] = field(factory=list)
    stopped_by: KieError | None = None
    singles: Account = field(factory=Account)

    @property
    def books(self) -> Books:
        """The truth."""
        return self.emulator.books

    def strike(self, source: str, action: Any, **fields: Any) -> None:
        """Let the first create of *source* meet a fault."""
        fields = {"route": "createTask", "match": source, "times": 1, **fields}
        self.emulator.inject(Rule(action=action, **fields))

    def session(self, **settings: Any) -> KieSession:
        """Make a session with this Kie."""
        given = {"base_url": self.url, "hooks": [self.events.append], **quick(), **settings}
        return KieSession(CANARY_KEY, **given)

    async def create(self, kie: KieSession, source: str) -> str | KieError:
        """Create one task without a journal; return its id or the error."""
        try:
            async with asyncio.timeout(LONGEST):
                task_id = await kie.create_task(UPSCALE, {"task_id": source})
        except KieError as error:
            self.errors.append(error)
            if error.maybe_charged:
                self.singles.doubted(source)
            return error
        self.singles.made(source, task_id)
        return task_id

    async def run(
        self,
        sources: Iterable[str | BulkItem],
        *,
        callback_url: str | None = CALLBACKS,
        **settings: Any,
    ) -> dict[str, Outcome]:
        """Run a list to its end; what stopped it, if anything did, is in ``stopped_by``."""
        found: dict[str, Outcome] = {}
        self.stopped_by = None
        async with asyncio.timeout(LONGEST), self.session(**settings) as kie:
            try:
                async for outcome in kie.upscale_many(
                    sources, journal=self.journal, callback_url=callback_url, **self.options
                ):
                    found[outcome.source_id] = outcome
            except KieError as error:
                self.stopped_by = error
        self.errors += [o.error for o in found.values() if o.error is not None]
        self.errors += [self.stopped_by] if self.stopped_by is not None else []
        return found

    async def statuses(self, sources: Iterable[str | BulkItem], **settings: Any) -> dict[str, str]:
        """As `run`; return how each item ended."""
        found = await self.run(sources, **settings)
        return {source: str(outcome.status) for source, outcome in found.items()}

    async def check(self, **allowed: int) -> None:
        """Compare the books, the journal and what single creates brought; look for the key."""
        told = await account_of(self.journal)
        for source, ids in self.singles.tasks.items():
            told.tasks.setdefault(source, set()).update(ids)
        for source, number in self.singles.doubts.items():
            told.doubts[source] = told.doubts.get(source, 0) + number
        assert violations(self.books, told, extra=allowed) == []
        shown = [repr(entry) + str(entry) for entry in (*self.events, *self.errors)]
        shown += [repr(vars(error)) for error in self.errors]
        assert not [text for text in shown if CANARY_KEY in text], "I7"

    async def settle(self) -> list[Finding]:
        """Do what a person does with doubts: copy the ids of Kie's task log."""
        ids = [row.task_id for row in self.books.creates]
        async with asyncio.timeout(LONGEST), self.session() as kie:
            return [found async for found in reconcile(self.journal, kie.get_task, ids)]

    async def end_well(self, **allowed: int) -> None:
        """Settle every doubt, resume without faults: each source is done, and paid once."""
        await self.check(**allowed)
        self.emulator.clear_rules()
        await self.settle()
        async for doubt in self.journal.doubts():  # no task bears its reference
            await self.journal.resolve(doubt.item.source_id, not_created=True, by="a test")
        await self.run([])
        counts = await self.journal.counts()
        assert counts.done == counts.total, counts
        paid = {
            source: number - allowed.get(source, 0) for source, number in self.books.paid.items()
        }
        assert set(paid.values()) <= {1}, paid
        await self.check(**allowed)


def _open_files() -> int:
    """Count the descriptors; uvloop keeps one of /dev/null in reserve from its first server on."""
    fds = Path("/proc/self/fd")
    return sum(one.resolve() != Path(os.devnull) for one in fds.iterdir()) if fds.exists() else 0


@asynccontextmanager
async def clean(patience: float = LONGEST) -> AsyncIterator[None]:
    """See that no task and no socket stays behind (I16)."""
    tasks, files = asyncio.all_tasks(), _open_files()
    yield
    async with asyncio.timeout(patience):
        while asyncio.all_tasks() - tasks or _open_files() > files:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def world(path: Path, **settings: Any) -> AsyncIterator[World]:
    """Set up a world below *path*; *settings* are the emulator's."""
    given = {"rate": None, "credits": 1e6, "durations": lambda _rng: 0.02, **settings}
    async with (
        clean(),
        Emulator(api_key=CANARY_KEY, **given) as emulator,
        Journal(path / "run.db") as journal,
    ):
        yield World(emulator, journal, emulator.url)
    for file in path.glob("run.db*"):
        assert CANARY_KEY.encode() not in file.read_bytes(), "I7"


@define
class VirtualKie:
    """The emulator's core in virtual time: what `KieSession` sees in place of a transport.

    Attributes:
        core: The API; its books are the truth.
        sent: When each request left, and its route.
        trouble: Called as a request leaves and as its answer comes, with the time and
            whether it has left; returns what to raise instead.
        latency: Seconds of each request, half of it before the work; or called for it.
    """

    core: EmulatedAPI
    sent: list[tuple[float, str]] = field(factory=list)
    trouble: Any = None
    latency: Any = 0.1

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Answer as the real transport does: bounded by *timeout*."""
        loop = asyncio.get_running_loop()
        route = request.path.partition("?")[0].rpartition("/")[2]
        self.sent.append((loop.time(), route))
        half = (self.latency() if callable(self.latency) else self.latency) / 2
        try:
            async with asyncio.timeout(timeout):
                self._meet(loop.time(), left=False)
                await asyncio.sleep(half)
                headers = {
                    "content-type": request.content_type,
                    "authorization": f"Bearer {CANARY_KEY}",
                }
                asked = Asked(request.method, request.path, headers, request.body or b"")
                answer = self.core.answer(asked, loop.time())
                await asyncio.sleep(half)
                self._meet(loop.time(), left=True)
        except TimeoutError:
            raise KieConnectionError(f"no answer within {timeout:g} s") from None
        named = {name.lower(): value for name, value in answer.headers.items()}
        return Response(answer.status, named, answer.body)

    def _meet(self, now: float, *, left: bool) -> None:
        error = self.trouble(now, left) if self.trouble is not None else None
        if error is not None:
            raise error

    def at(self, route: str) -> list[float]:
        """Return when *route* was asked."""
        return [at for at, name in self.sent if name == route]


def virtual(
    *,
    trouble: Any = None,
    latency: Any = 0.1,
    session: Mapping[str, Any] | None = None,
    **core: Any,
) -> tuple[KieSession, VirtualKie]:
    """Make a session in virtual time, with Kie's own limits and our own pauses."""
    kie = VirtualKie(
        EmulatedAPI(api_key=CANARY_KEY, **{"durations": lambda _rng: 10.0, "credits": 1e6, **core}),
        trouble=trouble,
        latency=latency,
    )
    own = {"limiter": SlidingWindowLimiter(20, 10.0), "poll_limiter": SlidingWindowLimiter(8, 1.0)}
    made = KieSession(CANARY_KEY, base_url="http://127.0.0.1:9", **own, **(session or {}))
    made._transport.send = kie.send  # type: ignore[method-assign]  # the seam of these tests
    return made, kie


@asynccontextmanager
async def virtual_journal(path: Path) -> AsyncIterator[Any]:
    """Open a real journal whose work takes no virtual time."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    journal = Journal(path / "run.db")
    with loop.held():
        await journal.__aenter__()
    try:
        yield Held(journal)
    finally:
        with loop.held():
            await journal.__aexit__(None, None, None)


@asynccontextmanager
async def receiving(w: World, **settings: Any) -> AsyncIterator[CallbackReceiver]:
    """Serve a callback receiver where the emulator reaches it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        heard = CallbackReceiver(
            **{"hmac_keys": [w.emulator.hmac_key], "public_url": url, **settings}
        )
        app = web.Application()
        heard.add_routes(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        try:
            yield heard
        finally:
            await runner.cleanup()
            heard.close()
