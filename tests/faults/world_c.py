"""What the rows of callbacks share: a door that Kie and anybody else can ring, and a checker.

Tasks of this world end when a test says so, and polls without a callback are a minute apart
unless it says otherwise: then each poll is the effect of a callback, and can be counted.

`Told` is what a service made of its callbacks, and `violations` compares it with the
emulator.  It takes any service's, so that the controls can show it a bad one.

Where the matrix and this package use different words: a callback that is *parked* is
remembered by the receiver; *bound* is ``sent`` or ``done`` with the task's id; the skew
alarm is `CallbackClockSkewed`.  A refusal is 401 where somebody's word is doubted, and 400,
413 or 408 where the form is wrong.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from attrs import define, field

import kie_async.bulk
from kie_async import Outcome, PollSchedule
from kie_async.callbacks import CallbackEvent, CallbackReceiver, CallbackRefused
from kie_async.emulator import EmulatedAPI, Rule
from kie_async.emulator._callbacks import Callback, Ring, compose
from kie_async.emulator._tasks import EmulatedTask
from kie_async.instrumentation import Event, TaskChanged
from tests.faults import world_t
from tests.faults.world_s import Seen
from tests.faults.world_t import LONGEST, Account, World, account_of, receiving
from tests.faults.world_t import world as transport_world

NEVER = 1000.0
"""Seconds between polls, where only callbacks shall lead to one."""
SOON = 0.3
"""The same, where polls shall save what callbacks do not bring."""


# -- the checker ------------------------------------------------------------------------------


@define
class Told:
    """What a service made of its callbacks.

    Attributes:
        account: Which tasks it knows of which source.
        seen: The states that it told of each.
        effects: How often it acted on a task's end because of a callback.
        results: Where it says that a task's results are.
    """

    account: Account = field(factory=Account)
    seen: Seen = field(factory=Seen)
    effects: Counter[str] = field(factory=Counter)
    results: dict[str, tuple[str, ...]] = field(factory=dict)


def violations(core: EmulatedAPI, told: Told) -> list[str]:
    """Return what is wrong: I1, I2, I3; I5 steps back; I12 foreign results; I17 effects."""
    wrong = world_t.violations(core.books, told.account) + told.seen.violations()
    wrong += [
        f"I12: a result of {task_id} is not Kie's: {urls}"
        for task_id, urls in told.results.items()
        if task_id not in core.tasks or list(urls) != core.result_urls(core.tasks[task_id])
    ]
    for task_id, times in told.effects.items():
        if times > 1:
            wrong.append(f"I17: {task_id} had {times} effects")
        if task_id not in core.tasks or math.isinf(core.tasks[task_id].ends):
            wrong.append(f"I17: {task_id} had an effect and has not ended")
    return wrong


# -- the world --------------------------------------------------------------------------------


@define
class Door:
    """A world with a receiver.

    Attributes:
        w: Emulator, journal, clients.
        receiver: Where callbacks come to.
        url: Its address.
        http: Of whoever wants to ring there.
        effects: What the receiver rang for.
        heard: Its events.
        seen: The states that clients told.
        outcomes: What runs brought.
    """

    w: World
    receiver: CallbackReceiver
    url: str
    http: aiohttp.ClientSession
    effects: list[CallbackEvent] = field(factory=list)
    heard: list[Event] = field(factory=list)
    seen: Seen = field(factory=Seen)
    outcomes: list[Outcome] = field(factory=list)

    @property
    def core(self) -> EmulatedAPI:
        """The API in memory."""
        return self.w.emulator.core

    @property
    def polls(self) -> int:
        """How often recordInfo was asked."""
        return self.w.books.requests.get("recordInfo", 0)

    @property
    def reasons(self) -> list[str]:
        """Why callbacks were refused."""
        return [event.reason for event in self.heard if isinstance(event, CallbackRefused)]

    async def posted(self, many: int) -> list[int | None]:
        """Wait for so many of the emulator's own callbacks; return what they were answered."""
        async with asyncio.timeout(LONGEST):
            while len(self.w.books.callbacks) < many:  # noqa: ASYNC110 - a server's work
                await asyncio.sleep(0.005)
        return [row.status for row in self.w.books.callbacks]

    # What Kie does

    def spoil(self, route: str, action: Any, **fields: Any) -> None:
        """Let a fault strike."""
        self.w.emulator.inject(Rule(route=route, action=action, **fields))

    async def task(self, source: str) -> EmulatedTask:
        """Wait until *source* has its task, and return it."""
        return (await self.tasks([source]))[0]

    async def tasks(self, sources: Iterable[str]) -> list[EmulatedTask]:
        """Wait until all of these have their task."""
        wanted = list(sources)
        async with asyncio.timeout(LONGEST):
            while not set(wanted) <= self.w.books.paid.keys():  # noqa: ASYNC110 - a server's work
                await asyncio.sleep(0.005)
        made = {row.source_id: self.core.tasks[row.task_id] for row in self.w.books.creates}
        return [made[source] for source in wanted]

    def end(self, task: EmulatedTask) -> EmulatedTask:
        """Let a task end now."""
        task.ends = self.w.emulator.now()
        return task

    def callback(
        self,
        task: EmulatedTask,
        action: str | None = None,
        *,
        at: float | None = None,
        key: str | None = None,
        **fields: Any,
    ) -> Callback:
        """Return the callback that Kie posts for a task, or one with a fault."""
        now = self.w.emulator.now()
        rule = None if action is None else Rule(route="callback", action=action, **fields)
        made = compose(
            Ring(now, 0, task.task_id, rule),
            task.callback_url or f"{self.url}/kie/cb",
            self.core._told(task, max(now, task.ends) if math.isfinite(task.ends) else now),
            hmac_key=key or self.core.hmac_key,
            unix=time.time() if at is None else at,
        )
        return made[-1]

    # What anybody can do

    async def post(self, made: Callback, *, url: str | None = None, **headers: str) -> int:
        """Post a callback; return the status."""
        sending = self.http.post(
            url or made.url, data=made.body, headers={**made.headers, **headers}
        )
        async with sending as answer:
            body = await answer.read()
        assert made.task_id.encode() not in body
        return answer.status

    # What clients do

    def run(self, *sources: str, **settings: Any) -> asyncio.Task[dict[str, str]]:
        """Start a run with callbacks; its result is how each item ended."""

        async def main() -> dict[str, str]:
            given = {"callbacks": self.receiver, "polling": schedule(NEVER), **settings}
            found = await self.w.run(sources, callback_url=None, **given)
            self.outcomes += found.values()
            return {source: str(outcome.status) for source, outcome in found.items()}

        return asyncio.create_task(main())

    async def quiet(self) -> None:
        """Let everything that was posted come to its end in this loop."""
        for _ in range(20):
            await asyncio.sleep(0.002)

    async def check(self) -> None:
        """Compare books, journal, states, effects and results; look for both keys."""
        await self.w.check()
        for event in self.w.events:
            self.seen(event)
        counted = Counter(event.task_id for event in self.effects if event.state != "generating")
        results = {
            outcome.task.task_id: outcome.task.result_urls
            for outcome in self.outcomes
            if outcome.task is not None and outcome.task.succeeded
        }
        told = Told(await account_of(self.w.journal), self.seen, counted, results)
        assert violations(self.core, told) == []
        shown = [repr(entry) for entry in (*self.heard, *self.effects, *self.w.events)]
        assert not [text for text in shown if self.core.hmac_key in text], "I7"

    async def ended(self, run: asyncio.Task[dict[str, str]], *sources: str) -> None:
        """See that a run ends with these done, paid for once; and that all is in order."""
        assert await run == dict.fromkeys(sources, "done")
        assert {source: self.w.books.paid(source) for source in sources} == dict.fromkeys(
            sources, 1
        )
        await self.check()


def schedule(safety: float) -> PollSchedule:
    """Return a schedule with *safety* seconds between polls that nobody rang for."""
    return PollSchedule(first_gap=0.05, min_gap=0.02, error_cap=0.1, safety_gap=safety)


def ends_of(events: Iterable[Event]) -> list[str]:
    """Return the tasks whose end was told, once for each time."""
    return [
        event.task_id or ""
        for event in events
        if isinstance(event, TaskChanged) and event.state in {"success", "fail"}
    ]


@asynccontextmanager
async def door(path: Path, *, linger: float = 0.5, **settings: Any) -> AsyncIterator[Door]:
    """Set up a world below *path*.

    Args:
        path: Where the journal lies.
        linger: Seconds that a run waits for callbacks of its doubts.
        settings: Of the receiver; ``durations`` is the emulator's.
    """
    durations = settings.pop("durations", lambda _rng: math.inf)
    heard: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kie_async.bulk, "Plan", partial(kie_async.bulk.Plan, linger=linger))
        async with (
            transport_world(path, durations=durations) as w,
            receiving(w, **{"hooks": [heard.append], **settings}) as receiver,
            aiohttp.ClientSession() as http,
        ):
            url = receiver.new_callback_url().url.partition("/kie/cb")[0]
            made = Door(w, receiver, url, http, heard=heard)
            disconnect = receiver.connect(made.effects.append)
            try:
                yield made
            finally:
                disconnect()
