"""What the rows of task semantics share: a clock that jumps, and what may not go back.

`Seen` keeps every state that a client told of a task, and `violations` of it says which
went back.  As with `tests.faults.world_t.violations`, it takes any client's account, so
that the controls can show it a bad client and see it caught.

Where the matrix and this package use different words: TaskNotFound is `NotFoundError`,
TaskFailed is `TaskFailedError`, TaskTimeout is `WaitTimeoutError`, KieAuthError is
`AuthenticationError`, ProtocolError is `ResponseError`.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from kie_async import KieSession, Outcome
from kie_async.emulator import Answer, Request
from kie_async.errors import KieError
from kie_async.instrumentation import Event, RequestRefused, TaskChanged
from kie_async.journal import ItemState, Journal
from kie_async.testing import VirtualKie, run_in_virtual_time
from tests.clock import Held, JumpingLoop
from tests.faults.world_t import CALLBACKS, UPSCALE, account_of, violations

TROUBLES: list[dict[str, Any]] = [
    {"action": "too-many"},
    {"action": "maintenance"},
    {"action": "envelope", "code": 500},
    {"action": "html", "status": 500},
    {"action": "html", "status": 502},
    {"action": "html", "status": 503},
    {"action": "garbage"},
    {"action": "fin"},
    {"action": "silence"},
]
"""What can befall a poll and says nothing of its task."""
ENDS = {"success", "fail", "done", "failed"}


@define
class Seen:
    """Every state that a client told of each task or item, in order."""

    states: dict[str, list[str]] = field(factory=dict)

    def note(self, task_id: str, state: str) -> None:
        """Keep a state; the same again is none."""
        told = self.states.setdefault(task_id, [])
        if not told or told[-1] != state:
            told.append(state)

    def __call__(self, event: Event) -> None:
        """Hear a session's events."""
        if isinstance(event, TaskChanged):
            self.note(event.task_id or "", str(event.state))

    def violations(self) -> list[str]:
        """Return what went back: something came after an end (I5)."""
        return [
            f"I5: {task_id} went on after its end: {told}"
            for task_id, told in self.states.items()
            if any(state in ENDS for state in told[:-1])
        ]


@define
class Virtual:
    """Kie, a journal and clients of theirs, in virtual time.

    Attributes:
        kie: The API in memory; its books are the truth.
        journal: A real one, whose work takes no virtual time and whose clock is Kie's.
        seen: The states that clients told.
        events: What their hooks heard.
        errors: What their calls raised.
    """

    kie: VirtualKie
    journal: Any
    seen: Seen = field(factory=Seen)
    events: list[Event] = field(factory=list)
    errors: list[KieError] = field(factory=list)

    def session(self, **settings: Any) -> KieSession:
        """Make a client."""
        settings.setdefault("hooks", [self.seen, self.events.append])
        return self.kie.session(**settings)

    async def run(
        self, sources: Iterable[str] = (), *, session: KieSession | None = None, **settings: Any
    ) -> dict[str, Outcome]:
        """Run a list to its end with a client of its own; return how each item ended."""
        settings.setdefault("callback_url", CALLBACKS)
        found: dict[str, Outcome] = {}
        async with session or self.session() as client:
            async for outcome in client.upscale_many(sources, journal=self.journal, **settings):
                found[outcome.source_id] = outcome
        self.errors += [one.error for one in found.values() if one.error is not None]
        await self.look()
        return found

    async def statuses(self, sources: Iterable[str] = (), **settings: Any) -> dict[str, str]:
        """As `run`; return the words."""
        found = await self.run(sources, **settings)
        return {source: str(outcome.status) for source, outcome in found.items()}

    async def states(self) -> dict[str, str]:
        """Return the journal's state of each item."""
        return {
            item.source_id: str(item.state.value)
            for state in ItemState
            async for item in self.journal.iterate(state)
        }

    def refused(self) -> int:
        """Return how many polls failed."""
        return sum(isinstance(event, RequestRefused) for event in self.events)

    async def look(self) -> None:
        """Note the journal's states, too."""
        for source, state in (await self.states()).items():
            self.seen.note(f"item {source}", state)

    async def check(self) -> None:
        """Compare books, journal and states: I1, I2, I3, I5 and the closed set of I14."""
        await self.look()
        wrong = violations(self.kie.books, await account_of(self.journal))
        assert wrong + self.seen.violations() == []
        assert all(isinstance(error, KieError) for error in self.errors)


@asynccontextmanager
async def virtual(path: Path, **settings: Any) -> AsyncIterator[Virtual]:
    """Set up a world below *path*; *settings* are of `VirtualKie`."""
    given = {"credits": 1e6, "durations": lambda _rng: 10.0, **settings}
    loop = asyncio.get_running_loop()
    assert isinstance(loop, JumpingLoop)
    kie = VirtualKie(**given)
    before = asyncio.all_tasks()
    # Its thread asks, too, and has no running loop.
    journal = Journal(path / "run.db", clock=lambda: kie.api.unix(loop.time()))
    with loop.held():
        await journal.__aenter__()
    try:
        yield Virtual(kie, Held(journal))
    finally:
        with loop.held():
            await journal.__aexit__(None, None, None)
    assert asyncio.all_tasks() <= before, "I16"


def asked(kie: VirtualKie, task_id: str) -> Answer:
    """Look at a task as any client may, in no time."""
    headers = {"authorization": f"Bearer {kie.api.api_key}"}
    target = f"/api/v1/jobs/recordInfo?taskId={task_id}"
    return kie.api.answer(Request("GET", target, headers), kie.now())


def made(kie: VirtualKie, source: str) -> str:
    """Create a task as any client may, in no time; return its id."""
    headers = {
        "authorization": f"Bearer {kie.api.api_key}",
        "content-type": "application/json",
    }
    body = json.dumps({"model": UPSCALE, "input": {"task_id": source}}).encode()
    asking = Request("POST", "/api/v1/jobs/createTask", headers, body)
    return str(kie.api.answer(asking, kie.now()).json()["data"]["taskId"])


Waits = Callable[[VirtualKie, list[str]], Awaitable[dict[str, float]]]
OUTAGE = (60.0, 660.0)
AGE = 240.0


def in_outage(client: Waits, tasks: int, fault: dict[str, Any] | None) -> tuple[float, float]:
    """Let *client* wait for *tasks* through an outage of all polls.

    Return its polls per second in that time, and how many seconds after the outage it found
    the last of those that ended in it.  Without a *fault* all tasks outlive that time: so
    many are polled in both.
    """

    async def main() -> tuple[float, float]:
        kie, rng = VirtualKie(), random.Random(1)
        since, until = OUTAGE
        ids = [kie.add_source_task() for _ in range(tasks)]
        for number, task_id in enumerate(ids):
            task = kie.api.tasks[task_id]
            hidden = fault is not None and number % 2
            task.created = -AGE
            task.ends = rng.uniform(since + 20.0, until) if hidden else until + 30.0
        if fault is not None:
            kie.inject(route="recordInfo", since=since, until=until, **fault)
        found = await client(kie, ids)
        assert set(found) == set(ids)
        polls = sum(since <= at < until for at in kie.books.polls)
        late = [found[i] - until for i in ids if kie.api.tasks[i].ends <= until]
        return polls / (until - since), max(late, default=0.0)

    return run_in_virtual_time(main())
