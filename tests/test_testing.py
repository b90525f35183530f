"""`kie_async.testing`: Kie in memory, on a clock that jumps."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from kie_async import CreateInDoubtError, TaskFailedError, UsageError, WaitTimeoutError
from kie_async.emulator import Rule
from kie_async.testing import VirtualKie, in_virtual_time, run_in_virtual_time


@in_virtual_time
async def test_an_hour_takes_no_time():
    """A task of an hour, found soon after its end, with few polls."""
    began = time.monotonic()
    kie = VirtualKie(durations=lambda _rng: 3600.0)
    source = kie.add_source_task()
    async with kie.session() as session:
        with pytest.raises(WaitTimeoutError) as caught:
            await session.upscale(source, timeout=600)
        task = await session.wait_for_result(caught.value.task_id, timeout=4000)

    assert task.state == "success"
    assert 3600 < asyncio.get_running_loop().time() < 4000
    assert kie.books.paid(source) == 1
    assert len(kie.books.polls) < 100
    assert time.monotonic() - began < 60


@in_virtual_time
async def test_hundreds_keep_to_the_rate_and_arrive():
    """The same limits as on the wire: none is refused."""
    kie = VirtualKie(durations=(30.0, 0.5), credits=1e6)
    sources = [kie.add_source_task() for _ in range(200)]
    async with kie.session() as session:
        tasks = await asyncio.gather(*(session.upscale(source) for source in sources))

    assert {task.state for task in tasks} == {"success"}
    assert kie.books.refused == {}
    assert kie.books.most_in_window(10.0) == 20
    assert asyncio.get_running_loop().time() > 90


@pytest.mark.parametrize("action", ["fin", "rst", "silence", "half-headers", "html"])
@in_virtual_time
async def test_a_lost_answer_is_in_doubt(action):
    """Paid for, and not sent again."""
    kie = VirtualKie()
    source = kie.add_source_task()
    kie.inject(Rule(route="createTask", action=action, when="after", status=502))
    async with kie.session() as session:
        with pytest.raises(CreateInDoubtError):
            await session.upscale(source)

    assert kie.books.paid(source) == 1
    assert kie.books.requests["createTask"] == 1


@in_virtual_time
async def test_a_cut_answer_with_its_id_is_salvaged():
    """As on the wire."""
    kie = VirtualKie()
    source = kie.add_source_task()
    kie.inject(route="createTask", action="cut", cut=80)
    async with kie.session() as session:
        task = await session.upscale(source)

    assert task.task_id == kie.books.creates[0].task_id


@in_virtual_time
async def test_late_and_failing_tasks():
    """A delay within the deadline is waited for; a failure is told."""
    kie = VirtualKie()
    sources = [kie.add_source_task() for _ in range(2)]
    kie.inject(route="createTask", action="delay", delay=10.0, nth=0)
    kie.inject(route="task", action="fail", code=501, msg="no face", match=sources[1])
    async with kie.session() as session:
        assert (await session.upscale(sources[0])).state == "success"
        with pytest.raises(TaskFailedError, match="no face"):
            await session.upscale(sources[1])


def test_a_thread_that_is_not_at_its_end_is_waited_for():
    """Since Python 3.12 with a time-out, which must not be jumped over."""
    go_on, ended = threading.Event(), []

    def work() -> None:
        go_on.wait()
        ended.append(True)

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor(None, work)
        threading.Timer(0.2, go_on.set).start()

    run_in_virtual_time(main())

    assert ended == [True]


def test_a_deadlock_is_told(monkeypatch):
    """Nothing ready, no timer: not a test that hangs."""
    monkeypatch.setattr("kie_async.testing.STUCK", 0.05)

    async def stuck() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="deadlock"):
        run_in_virtual_time(stuck())


def test_a_negative_latency_is_refused():
    """Time does not go back."""
    with pytest.raises(UsageError, match="latency"):
        VirtualKie(latency=-1)
