"""The checker of the callback rows must fail on bad services: here are some.

Each is what people write: a handler that believes what it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field

from kie_async.callbacks import verify_callback
from kie_async.emulator._callbacks import Callback
from kie_async.emulator._tasks import EmulatedTask
from kie_async.errors import CallbackError
from tests.faults.world_c import Door, Told, door, violations
from tests.faults.world_s import asked

pytestmark = pytest.mark.asyncio


@define
class Service:
    """A service that verifies, remembers, and asks Kie; the others leave something out."""

    d: Door
    told: Told = field(factory=Told)
    ended: set[str] = field(factory=set)

    def hear(self, made: Callback, now: float) -> None:
        """Take a callback."""
        if not self.verified(made, now):
            return
        data = json.loads(made.body)["data"]
        task_id = data["taskId"]
        if task_id in self.ended:
            return
        state, urls, url = self.truth(task_id, data)
        self.told.seen.note(task_id, state)
        if state == "success":
            self.remember(task_id)
            self.told.effects[task_id] += 1
            self.told.results[task_id] = urls
            self.bind(task_id, made.ref, url.rpartition("/")[2])

    def verified(self, made: Callback, now: float) -> bool:
        """True if it is signed, and now."""
        try:
            verify_callback(made.body, made.headers, self.d.core.hmac_key, now=now)
        except CallbackError:
            return False
        return True

    def truth(self, task_id: str, data: Any) -> tuple[str, tuple[str, ...], str]:
        """Return state, results and callback URL, as Kie tells them."""
        answer = asked(_Kie(self.d), task_id).json()["data"]  # type: ignore[arg-type]
        urls = (answer.get("response") or {}).get("resultUrls", ())
        return answer["state"], tuple(urls), json.loads(answer["param"])["callBackUrl"]

    def remember(self, task_id: str) -> None:
        """Know it again."""
        self.ended.add(task_id)

    def bind(self, task_id: str, rung_at: str, proven: str) -> None:
        """Give the task to the source whose reference its record proves."""
        self.told.account.made(self.source_of(proven), task_id)

    def source_of(self, reference: str) -> str:
        """Return which source a reference was made for."""
        return {row.ref or "": row.source_id for row in self.d.w.books.creates}[reference]


@define
class _Kie:
    """The emulator, as `asked` wants it."""

    d: Door

    @property
    def api(self) -> Any:
        """The core."""
        return self.d.core

    def now(self) -> float:
        """Its time."""
        return self.d.w.emulator.now()


class Trusting(Service):
    """The body is the result."""

    def truth(self, task_id: str, data: Any) -> tuple[str, tuple[str, ...], str]:
        urls = tuple(json.loads(data["resultJson"] or "{}").get("resultUrls", ()))
        return data["state"], urls, json.loads(data["param"])["callBackUrl"]


class Open(Trusting):
    """Nobody would forge such a thing."""

    def verified(self, made: Callback, now: float) -> bool:
        return True


class Timeless(Service):
    """The signature is right; its age is not looked at, and nothing is remembered."""

    def verified(self, made: Callback, now: float) -> bool:
        return super().verified(made, float(made.headers["X-Webhook-Timestamp"]))

    def remember(self, task_id: str) -> None:
        pass


class Stepping(Trusting):
    """The last word holds."""

    def remember(self, task_id: str) -> None:
        pass


class Binding(Service):
    """Who rings at the address of a create is its task."""

    def bind(self, task_id: str, rung_at: str, proven: str) -> None:
        self.told.account.made(self.source_of(rung_at), task_id)


Rings = Callable[[Door, list[EmulatedTask]], list[tuple[Callback, float]]]
NOW = 1_800_000_000.0


def true(d: Door, task: EmulatedTask, action: str | None = None) -> Callback:
    return d.callback(task, action, at=NOW)


def all_true(d: Door, tasks: list[EmulatedTask]) -> list[tuple[Callback, float]]:
    return [(true(d, task), NOW) for task in tasks]


def then(*more: Callable[[Door, EmulatedTask, EmulatedTask], tuple[Callback, float]]) -> Rings:
    """Return true callbacks of two tasks, and more before them."""
    return lambda d, tasks: [*(make(d, *tasks) for make in more), *all_true(d, tasks)]


FOREIGN = then(lambda d, one, _: (true(d, one, "foreign"), NOW))
FORGED = then(lambda d, one, _: (true(d, one, "forged"), NOW))
UNSIGNED = then(lambda d, one, _: (evolve(true(d, one, "foreign"), headers={}), NOW))
REPLAY = then(lambda d, one, _: (true(d, one), NOW), lambda d, one, _: (true(d, one), NOW + 900))


def backwards(d: Door, tasks: list[EmulatedTask]) -> list[tuple[Callback, float]]:
    return [*all_true(d, tasks), (true(d, tasks[0], "backwards"), NOW)]


def elsewhere(d: Door, tasks: list[EmulatedTask]) -> list[tuple[Callback, float]]:
    one, other = tasks
    return [
        (evolve(true(d, one), url=str(other.callback_url)), NOW),
        (evolve(true(d, other), url=str(one.callback_url)), NOW),
    ]


def unended(d: Door, tasks: list[EmulatedTask]) -> list[tuple[Callback, float]]:
    tasks[0].ends = float("inf")
    told = true(d, tasks[0])
    lie = told.body.replace(b'"state":"waiting"', b'"state":"success"')
    return [(evolve(told, body=lie), NOW), (true(d, tasks[1]), NOW)]


ALL = [FOREIGN, FORGED, UNSIGNED, REPLAY, backwards, elsewhere]
CASES: list[tuple[type[Service], Rings, set[str]]] = [
    *((Service, rings, set[str]()) for rings in ALL),
    (Trusting, FOREIGN, {"I12"}),
    (Trusting, unended, {"I12", "I17"}),
    (Open, UNSIGNED, {"I12"}),
    (Timeless, REPLAY, {"I17"}),
    (Stepping, backwards, {"I5"}),
    (Binding, elsewhere, {"I2"}),
]


@pytest.mark.parametrize(
    ("kind", "rings", "caught"),
    CASES,
    ids=[f"{k.__name__}-{n}" for n, (k, _, _) in enumerate(CASES)],
)
async def test_control_C_a_bad_service_is_caught(
    kind: type[Service], rings: Rings, caught: set[str], tmp_path: Path
):
    """Who believes a body, a stranger, an old pair or an address; the careful one passes."""
    async with door(tmp_path) as d:
        sources = ["source-0", "source-1"]
        async with d.w.session(callbacks=d.receiver) as kie:
            for source in sources:
                await d.w.create(kie, source)
        tasks = [d.end(task) for task in await d.tasks(sources)]
        service = kind(d)
        for made, now in rings(d, tasks):
            service.hear(made, now)
        found = violations(d.core, service.told)

    assert {entry.partition(":")[0] for entry in found} == caught
