"""Rows M01 to M04 and L07: clocks that jump, machines that sleep, a burst before a restart."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from kie_async import OutcomeStatus, PollSchedule, SlidingWindowLimiter
from kie_async.bulk import reconcile
from kie_async.callbacks import CallbackReceiver
from kie_async.emulator import Rule
from kie_async.errors import KieError, WaitTimeoutError
from kie_async.instrumentation import Event, TaskCreated
from kie_async.journal import ItemState, Journal
from tests.faults.world_k import KILLED, until, world
from tests.faults.world_k_work import CALLBACKS

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"


class Wall:
    """A wall clock that somebody sets."""

    def __init__(self, right: Any) -> None:
        self._right = right
        self.ahead = 0.0

    def __call__(self) -> float:
        return float(self._right() + self.ahead)


@pytest.fixture(name="wall")
def _wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    """Put a clock that can be set in the place of this process's wall clock."""
    clock = Wall(time.time)
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture(name="summer")
def _summer() -> Iterator[None]:
    """Put the time zone back that a test has changed."""
    was = os.environ.get("TZ")
    yield
    if was is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = was
    time.tzset()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("seconds", "zone"),
    [(3600.0, None), (-3600.0, None), (0.0, "CET-1CEST,M3.5.0,M10.5.0")],
    ids=["an hour ahead", "an hour back", "summer time"],
)
@pytest.mark.usefixtures("summer")
async def test_fault_M01_the_wall_clock_is_set(
    tmp_path: Path, wall: Wall, seconds: float, zone: str | None
):
    """No wait ends early, and no window holds more creates than it may."""
    rate = (6, 0.3)
    async with world(tmp_path, 16, rate=rate, durations=lambda _rng: 0.3) as w:
        limiter = SlidingWindowLimiter(*rate)
        async with Journal(w.path, clock=wall) as journal, w.session(limiter=limiter) as session:
            waiting = asyncio.ensure_future(session.upscale(w.ids[0], timeout=900.0))
            run = session.upscale_many(w.ids[1:], journal=journal)
            outcomes = []
            async for outcome in run:
                outcomes.append(outcome.status)
                if len(outcomes) == 3:
                    wall.ahead = seconds
                    if zone is not None:
                        os.environ["TZ"] = zone
                        time.tzset()
            assert (await waiting).succeeded

        assert outcomes == [OutcomeStatus.DONE] * 15
        assert w.books.refused == {}
        assert w.books.most_in_window(0.3) <= 6
        assert w.paid() == [1] * 16


@pytest.mark.asyncio
async def test_fault_M02_the_machine_sleeps_for_three_hours(tmp_path: Path, wall: Wall):
    """The wall clock jumps and ours stands: waits go on, polls keep their rate, links are renewed.

    The matrix wishes for an event of its own; we promise that nothing needs one.
    """
    async with world(tmp_path, 20, durations=lambda _rng: 1800.0) as w:
        w.emulator.inject(Rule(route="files", action="expired"))
        polls = SlidingWindowLimiter(8, 0.4)
        async with (
            Journal(w.path, clock=wall) as journal,
            w.session(poll_limiter=polls) as session,
        ):
            run = session.upscale_many(
                w.ids, journal=journal, directory=tmp_path / "out", allow_private=True
            )
            first = asyncio.ensure_future(anext(run))
            await until(lambda: len(set(w.books.polls)) >= 25)
            assert not first.done()

            slept = 3 * 3600.0
            wall.ahead += slept
            w.emulator._began -= slept  # for the server three hours have passed

            outcomes = [await first, *[one async for one in run]]

        assert [one.error for one in outcomes] == [None] * 20
        assert {one.status for one in outcomes} == {OutcomeStatus.DONE}
        assert w.books.requests["download-url"] == 20
        assert w.books.most_in_window(0.4, of="recordInfo") <= 8
        assert w.paid() == [1] * 20
        assert w.violations() == []


class LeapingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can leap, as that of a virtual machine that was moved."""

    leap = 0.0

    def time(self) -> float:
        return super().time() + self.leap


def test_fault_M03_the_monotonic_clock_leaps_by_a_day(tmp_path: Path):
    """Deadlines strike at once; the journal has every task, and the next run collects them."""

    async def before() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LeapingLoop)
        w.emulator.inject(
            Rule(route="createTask", action="delay", when="after", delay=0.5, match=w.ids[5])
        )
        told: list[Event] = []

        def answered() -> bool:
            """True when all creates were made, and all but the delayed one are known here."""
            known = {event.task_id for event in told if isinstance(event, TaskCreated)}
            made = {row.task_id for row in w.books.creates if row.source_id != w.ids[5]}
            return len(w.books.creates) == 7 and made <= known

        async with Journal(w.path) as journal, w.session(hooks=[told.append]) as session:
            waiting = asyncio.ensure_future(session.upscale(w.ids[6]))
            run = session.upscale_many(w.ids[:6], journal=journal, callback_url=CALLBACKS)
            outcomes = asyncio.ensure_future(_all(run))
            await until(answered)

            loop.leap = 86_400.0
            # A create whose answer came with the leap is waited for from then on only.
            while not (await asyncio.wait([outcomes], timeout=5.0))[0]:
                loop.leap += 86_400.0

            found = await outcomes
            with pytest.raises(WaitTimeoutError) as caught:
                await waiting
        known = {row.source_id: row.task_id for row in w.books.creates}
        assert caught.value.task_id == known[w.ids[6]]
        for one in found:
            assert isinstance(one.error, KieError), one
            if one.status is OutcomeStatus.FAILED:
                assert one.error.task_id == known[one.source_id]
        assert len(found) == 6
        ours = w.states()
        assert set(list(ours.values())[:5]) == {"sent"}
        assert ours[w.ids[5]] in {"sent", "in_doubt"}
        w.ids = w.ids[:6]
        assert w.violations() == []

    async def story() -> None:
        nonlocal w
        async with world(tmp_path, 7, durations=lambda _rng: 3600.0) as w:
            await before()
            for task in w.emulator.core.tasks.values():
                task.ends = min(task.ends, w.emulator.now())
            await w.settle()
            assert await w.run() == 0
            assert set(w.states().values()) == {"done"}
            assert w.paid() == [1] * 6
            assert w.violations() == []

    w: Any = None
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        runner.run(story())


async def _all(run: Any) -> list[Any]:
    return [outcome async for outcome in run]


@asynccontextmanager
async def receiving(receiver: CallbackReceiver) -> AsyncIterator[str]:
    """Serve a receiver; return its address."""
    app = web.Application()
    receiver.add_routes(app)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
@pytest.mark.parametrize("seconds", [600.0, -600.0])
async def test_fault_M04_the_vendors_clock_is_ten_minutes_off(tmp_path: Path, seconds: float):
    """Waits end, references prove; what rests on time alone stays a doubt and binds nothing wrong.

    The matrix asks that the windows hold.  Ours do not stretch: without a reference such a
    doubt is for a person to settle, who is told that the task is of no known create.
    """
    lost = Rule(route="createTask", action="fin", when="after")
    async with world(tmp_path, 3, epoch=time.time() + seconds) as w:
        async with Journal(w.path) as journal, w.session() as session:
            assert (await session.upscale(w.ids[0], timeout=30.0)).succeeded
            w.emulator.inject(lost)
            await _all(session.upscale_many([w.ids[1]], journal=journal, callback_url=CALLBACKS))
            await _all(session.upscale_many([w.ids[2]], journal=journal))
            w.emulator.clear_rules()
            made = [row.task_id for row in w.books.creates[1:]]

            found = [one async for one in reconcile(journal, session.get_task, made)]

            assert [one.verdict for one in found] == ["settled", "unrelated"]
            settled = await journal.resolve(w.ids[2], as_task_id=made[1], by="a person")
            assert settled.state is ItemState.SENT
        assert await w.run(ids=w.ids[1:]) == 0
        assert w.paid() == [1, 1, 1]
        w.ids = w.ids[1:]
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_M04_callbacks_of_another_time_cost_only_latency(tmp_path: Path):
    """They are refused for their age, that is told to the hooks, and polls find the end."""
    heard: list[str] = []
    receiver = CallbackReceiver(
        "emulator-hmac-key",
        clock=lambda: time.time() + 600.0,
        hooks=[lambda event: heard.append(type(event).__name__)],
    )
    async with world(tmp_path, 4) as w, receiving(receiver) as url:
        receiver._public_url = url  # its address is known only now
        polling = PollSchedule(first_gap=0.1, min_gap=0.02, safety_gap=0.2)
        async with w.session(callbacks=receiver, polling=polling) as session:
            tasks = await asyncio.gather(*(session.upscale(one, timeout=30.0) for one in w.ids))
            await until(lambda: len(w.books.callbacks) == 4)

        assert all(task.succeeded for task in tasks)
        assert {row.status for row in w.books.callbacks} == {401}
        assert heard.count("CallbackRefused") == 4
        assert "CallbackClockSkewed" in heard
        assert w.paid() == [1] * 4


# -- L07 -----------------------------------------------------------------------------------


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["", "record_created.before_commit"], ids=["ended", "killed"])
async def test_fault_L07_restarted_right_after_a_full_burst(tmp_path: Path, point: str):
    """The journal's attempts fill the new window: nothing is refused, and no window overflows."""
    rate = (20, 1.0)
    async with world(tmp_path, 40, rate=rate) as w:
        code = await w.run(ids=w.ids[:20], rate=rate, kill_at=point, hit=20)
        assert code == (KILLED if point else 0)
        assert len(w.books.creates) == 20

        assert await w.run(rate=rate) == 0

        assert w.books.refused == {}
        assert w.books.most_in_window(1.0) <= 20
        assert max(w.paid()) == 1
        assert w.violations() == []


@pytest.mark.asyncio
async def test_the_checker_of_the_restart_catches_a_client_that_forgets_its_burst(tmp_path: Path):
    """The control: with an empty window the second burst is refused."""
    rate = (20, 30.0)
    async with world(tmp_path, 40, rate=rate) as w:
        assert await w.run(ids=w.ids[:20], rate=rate) == 0

        worker = w.start(rate=rate, bad="bursts")
        await until(lambda: w.books.refused or len(w.books.creates) > 20)
        await worker.kill()

        assert w.books.refused.get(429, 0) > 0
