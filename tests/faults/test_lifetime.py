"""Rows X01 to X04: cancelled, out of time, interrupted and terminated at any instant."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kie_async.emulator import Rule
from kie_async.errors import KieError
from kie_async.instrumentation import CreateInDoubt, Event, TaskOrphaned
from kie_async.journal import Journal
from kie_async.limiter import Unlimited
from tests.faults.world_k import World, picked, until, world
from tests.faults.world_k_work import CALLBACKS

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"


class Known:
    """What somebody knows of his creates: ids that he was given, or told of, and doubts."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.doubts = 0

    def hear(self, event: Event) -> None:
        """Be a hook."""
        if isinstance(event, TaskOrphaned) and event.task_id is not None:
            self.ids.add(event.task_id)
        self.doubts += isinstance(event, CreateInDoubt)

    def unknown(self, w: World) -> int:
        """Count tasks that were paid for, and of which nobody knows."""
        return len({row.task_id for row in w.books.creates} - self.ids)


async def cancelled_at(turns: int, work: Awaitable[str], known: Known) -> float:
    """Cancel *work* after so many turns of the loop; return how long it took to end."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(work)
    for _ in range(turns):
        if task.done():
            break
        await asyncio.sleep(0)
    began = loop.time()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        known.ids.add(await task)
    return loop.time() - began


async def thousand(w: World, known: Known, create: Callable[[str], Awaitable[str]]) -> list[float]:
    """Cancel a thousand creates, each at an instant of its own."""
    numbers = picked(1)
    seconds: list[float] = []
    for _ in range(20):
        turns = [numbers.randrange(80) for _ in range(50)]
        each = [cancelled_at(turn, create(w.ids[0]), known) for turn in turns]
        seconds += await asyncio.gather(*each)
    return seconds


@pytest.mark.asyncio
async def test_fault_X01_cancelled_at_any_instant_of_a_create(tmp_path: Path):
    """A thousand creates: each that was paid for is given back, or told to the hooks."""
    async with world(tmp_path, 1, rate=None) as w:
        known = Known()
        settings: dict[str, Any] = {"limiter": Unlimited(), "hooks": [known.hear]}
        async with w.session(max_concurrency=50, **settings) as session:

            async def create(source: str) -> str:
                return await session.create_task(UPSCALE, {"task_id": source})

            seconds = await thousand(w, known, create)

        assert 100 < len(w.books.creates) < 1000  # else it was always too early, or too late
        assert known.unknown(w) == 0
        assert known.doubts == 0
        assert sorted(seconds)[-10] < 1.0


@pytest.mark.asyncio
async def test_the_checker_of_the_cancelled_creates_catches_a_plain_client(tmp_path: Path):
    """The control: a POST that is cancelled like any other loses paid tasks."""
    async with world(tmp_path, 1, rate=None) as w, aiohttp.ClientSession() as http:
        known = Known()
        headers = {"Authorization": f"Bearer {w.emulator.api_key}"}

        async def create(source: str) -> str:
            body = {"model": UPSCALE, "input": {"task_id": source}}
            url = f"{w.emulator.url}/api/v1/jobs/createTask"
            async with http.post(url, json=body, headers=headers) as answer:
                told = await answer.json()
                return str(told["data"]["taskId"])

        await thousand(w, known, create)

        assert known.unknown(w) > 0


@pytest.mark.asyncio
async def test_fault_X01_cancelled_at_any_instant_of_a_bulk_run(tmp_path: Path):
    """The journal has the outcome of every create: no doubt, and the run goes on."""
    numbers = picked(2)
    async with world(tmp_path, 60) as w, w.session() as session:
        for _ in range(25):
            async with Journal(w.path) as journal:
                run = session.upscale_many(w.ids, journal=journal, in_flight=3)

                async def consume(run: Any = run) -> str:
                    async with contextlib.aclosing(run):
                        return "".join([outcome.source_id async for outcome in run])

                consumer = asyncio.ensure_future(consume())
                goal = sum(w.books.requests.values()) + numbers.randrange(4)
                await until(lambda goal=goal: sum(w.books.requests.values()) >= goal)
                await cancelled_at(numbers.randrange(60), consumer, Known())
            assert w.violations() == []
            assert not {"in_doubt", "sending"} & set(w.states().values())

        begun = len(w.books.creates)
        assert await w.run() == 0
        assert 5 < begun <= 60
        assert w.paid() == [1] * 60
        assert set(w.states().values()) == {"done"}
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_X02_a_timeout_around_a_create(tmp_path: Path):
    """`TimeoutError` for the caller at once; the id comes later, to the hooks."""
    async with world(tmp_path, 1) as w:
        known = Known()
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=0.5))
        async with w.session(hooks=[known.hear]) as session:
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(None) as scope:
                    expiring = asyncio.ensure_future(_expire(scope, w))
                    await session.create_task(UPSCALE, {"task_id": w.ids[0]})
            await expiring
            assert not isinstance(caught.value, KieError)
            assert known.unknown(w) == 1  # the answer is still held back

        assert w.paid() == [1]
        assert known.unknown(w) == 0


async def _expire(scope: asyncio.Timeout, w: World) -> None:
    """Let a scope run out when a create was paid for and is not answered."""
    await until(lambda: w.books.creates)
    scope.reschedule(asyncio.get_running_loop().time())


@pytest.mark.asyncio
async def test_fault_X02_a_timeout_around_a_bulk_run(tmp_path: Path):
    """The paid section ends first: the journal has the outcome when the caller has his error."""
    async with world(tmp_path, 3) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=0.3))
        async with Journal(w.path) as journal, w.session() as session:
            run = session.upscale_many(w.ids, journal=journal, in_flight=1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as scope, contextlib.aclosing(run):
                    expiring = asyncio.ensure_future(_expire(scope, w))
                    async for _ in run:
                        pass
            await expiring

        assert list(w.states().values()) == ["sent", "planned", "planned"]
        assert w.paid() == [1, 0, 0]
        assert w.violations() == []
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1]


# -- signals ------------------------------------------------------------------------------


def arguments(w: World, **options: str) -> list[str]:
    """Return the command line of a bulk run on all ids."""
    listed = w.folder / "ids.txt"
    listed.write_text("\n".join(w.ids))
    given = {"rate": "400/0.1", "callback-url": CALLBACKS, **options}
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    return ["bulk", str(listed), "--journal", str(w.path), *flags]


@pytest.mark.asyncio
async def test_fault_X03_interrupted_once(tmp_path: Path):
    """What was created is finished, the rest stays planned, and the code says interrupted."""
    async with world(tmp_path, 30, durations=lambda _rng: 0.3) as w:
        worker = w.command(*arguments(w, **{"in-flight": "4"}))
        await until(lambda: len(w.books.creates) >= 6)

        worker.signal(signal.SIGINT)

        assert await worker.ended() == 130
        assert "Stopping" in w.said()
        states = list(w.states().values())
        assert set(states) == {"done", "planned"}
        assert states.count("done") == len(w.books.creates)
        assert w.violations() == []
        assert await w.run() == 0
        assert max(w.paid()) == 1
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_X03_interrupted_twice(tmp_path: Path):
    """It leaves at once; the creates under way are doubts, and each is settled with proof."""
    async with world(tmp_path, 6) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=60.0))
        worker = w.command(*arguments(w, **{"in-flight": "4"}))
        await until(lambda: len(w.books.creates) == 4)

        worker.signal(signal.SIGINT)
        await until(lambda: "Stopping" in w.said())
        assert worker.running
        worker.signal(signal.SIGINT)

        assert await worker.ended() == 130
        assert list(w.states().values()) == ["sending"] * 4 + ["planned"] * 2
        assert w.violations() == []
        w.emulator.clear_rules()
        assert [one.verdict for one in await w.settle()] == ["settled"] * 4
        assert await w.run() == 0
        assert w.paid() == [1] * 6
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_X04_terminated_at_random_instants(tmp_path: Path):
    """Every create under way brings its id within its grace of 28 s: no doubt, and it goes on.

    Fifteen times here.  The option of the same name is for the waits: they are given up.
    """
    numbers = picked(4)
    codes: list[int] = []
    async with world(tmp_path, 100, durations=lambda _rng: 0.1) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=0.02))
        for _ in range(15):
            worker = w.command(*arguments(w, **{"in-flight": "5", "grace": "0"}))
            asked = sum(w.books.requests.values())
            goal = asked + numbers.randrange(1, 20)
            await until(
                lambda worker=worker, goal=goal: (
                    not worker.running or sum(w.books.requests.values()) >= goal
                )
            )
            if worker.running:
                worker.signal(signal.SIGTERM)
            async with asyncio.timeout(29.0):
                codes.append(await worker.ended())
            assert not {"in_doubt", "sending"} & set(w.states().values())
            assert w.violations() == []

        assert codes.count(143) >= 10, codes
        assert set(codes) <= {0, 143}
        assert await w.run() == 0
        assert w.paid() == [1] * 100
        assert w.violations() == []
