"""Callbacks: whoever listens is told, and can hurt nobody."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from kie_async.callbacks import CallbackEvent
from kie_async.callbacks import _listeners as listeners
from tests.callback_tools import post, receiver
from tests.clock import jumping


@pytest.fixture
def small_backlog(monkeypatch):
    """Let only three events wait for a listener."""
    monkeypatch.setattr(listeners, "BACKLOG", 3)


def in_thread(work):
    """Run *work* in another thread to its end."""
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@jumping
async def test_a_bell_rings_in_its_own_loop():
    """Not in the middle of the request; and from another thread as well."""
    to = receiver()
    rung: list[tuple[str, threading.Thread]] = []
    to.connect(lambda event: rung.append((event.task_id, threading.current_thread())))

    post(to, "t1")
    assert rung == []
    in_thread(lambda: post(to, "t2"))
    await asyncio.sleep(0)

    here = threading.current_thread()
    assert rung == [("t1", here), ("t2", here)]


@jumping
async def test_no_ring_is_lost_between_looking_and_waiting():
    """Who looks after he began to listen sees what came before, and hears what comes."""
    to = receiver()
    rung: list[str] = []

    post(to, "early")
    to.connect(lambda event: rung.append(event.task_id))
    post(to, "late")
    await asyncio.sleep(0)

    assert to.seen("early")
    assert rung == ["late"]


@jumping
async def test_who_left_is_not_told():
    """Not even of what was posted before."""
    to = receiver()
    rung: list[str] = []
    leave = to.connect(lambda event: rung.append(event.task_id))
    post(to, "t1")

    leave()
    leave()
    post(to, "t2")
    await asyncio.sleep(0)

    assert rung == []
    assert to.dropped == 0


def test_a_bell_of_a_closed_loop_is_counted(caplog):
    """Its session has gone without a word; the callback is answered all the same."""
    to = receiver()

    async def forget_to_leave() -> None:
        to.connect(lambda _event: None)

    asyncio.run(forget_to_leave())

    assert post(to, "t1").status == 200
    assert to.dropped == 1
    assert "gone or too slow" in caplog.text


def test_a_function_is_called_in_its_own_thread():
    """Each new event once; copies are not told."""
    to = receiver()
    heard: list[tuple[str, str]] = []
    done = threading.Event()

    def listener(event: CallbackEvent) -> None:
        heard.append((event.task_id, threading.current_thread().name))
        if event.task_id == "t2":
            done.set()

    leave = to.subscribe(listener)
    for task_id in ("t1", "t1", "t2"):
        post(to, task_id)
    assert done.wait(5)
    leave()

    assert heard == [("t1", "kie-callbacks"), ("t2", "kie-callbacks")]


@pytest.mark.parametrize("error", [LookupError, SystemExit, asyncio.CancelledError])
def test_a_function_that_raises_hears_of_the_next(error, caplog):
    """What it raised is in the log; even an exit ends nothing but its turn."""
    to = receiver()
    done = threading.Event()

    def listener(event: CallbackEvent) -> None:
        if event.task_id == "t2":
            done.set()
        raise error

    to.subscribe(listener)
    post(to, "t1")
    post(to, "t2")
    assert done.wait(5)
    to.close()

    assert "a listener failed" in caplog.text


@pytest.mark.usefixtures("small_backlog")
def test_a_function_that_hangs_stops_nobody_else(caplog):
    """Callbacks are answered, others are told, and what waits for it is bounded."""
    to = receiver()
    release, begun, ears = threading.Event(), threading.Event(), threading.Semaphore(0)
    heard: list[str] = []

    def hangs(_event: CallbackEvent) -> None:
        begun.set()
        release.wait()

    def listener(event: CallbackEvent) -> None:
        heard.append(event.task_id)
        ears.release()

    to.subscribe(hangs)
    to.subscribe(listener)
    post(to, "t0")
    assert begun.wait(5)
    assert ears.acquire(timeout=5)
    for number in range(1, 10):
        assert post(to, f"t{number}").status == 200
        assert ears.acquire(timeout=5)
    to.close()
    release.set()

    assert heard == [f"t{number}" for number in range(10)]
    assert to.dropped == 6
    assert "too slow" in caplog.text


@pytest.mark.asyncio
async def test_a_thread_that_cannot_start_costs_only_its_own_event(monkeypatch, caplog):
    """The callback is answered, the others are told, and the next event tries again."""
    to = receiver()
    heard: list[str] = []
    rung: list[str] = []
    done = threading.Event()

    def listener(event: CallbackEvent) -> None:
        heard.append(event.task_id)
        done.set()

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    to.subscribe(listener)
    to.connect(lambda event: rung.append(event.task_id))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert post(to, "t1").status == 200
    assert post(to, "t2").status == 200
    assert await asyncio.to_thread(done.wait, 5)
    to.close()

    assert rung == ["t1", "t2"]
    assert heard == ["t2"]
    assert to.dropped == 1
    assert "it misses some" in caplog.text


@jumping
async def test_a_coroutine_is_awaited_in_the_loop():
    """One event after the other, in their order."""
    to = receiver()
    heard: list[str] = []

    async def listener(event: CallbackEvent) -> None:
        await asyncio.sleep(1)
        heard.append(event.task_id)

    to.subscribe(listener)
    for number in range(3):
        post(to, f"t{number}")
    await asyncio.sleep(10)

    assert heard == ["t0", "t1", "t2"]


@jumping
async def test_an_object_with_an_async_call_is_a_coroutine_too():
    """It would be called and never awaited otherwise."""
    heard: list[str] = []

    class Listener:
        async def __call__(self, event: CallbackEvent) -> None:
            heard.append(event.task_id)

    to = receiver()
    to.subscribe(Listener())
    post(to, "t1")
    await asyncio.sleep(1)

    assert heard == ["t1"]


@jumping
async def test_a_coroutine_that_hangs_or_raises_loses_its_turn(caplog):
    """After its thirty seconds; the next event is told."""
    to = receiver()
    heard: list[tuple[str, float]] = []

    async def listener(event: CallbackEvent) -> None:
        heard.append((event.task_id, asyncio.get_running_loop().time()))
        if event.task_id == "hangs":
            await asyncio.Event().wait()
        raise LookupError

    to.subscribe(listener)
    for task_id in ("hangs", "raises", "last"):
        post(to, task_id)
    await asyncio.sleep(100)

    assert heard == [("hangs", 0.0), ("raises", 30.0), ("last", 30.0)]
    assert "took too long" in caplog.text
    assert "a listener failed" in caplog.text


@jumping
async def test_a_coroutine_that_meets_a_cancelled_task_hears_of_the_next(caplog):
    """The cancellation was somebody else's."""
    to = receiver()
    heard: list[str] = []
    other = asyncio.get_running_loop().create_future()
    other.cancel()

    async def listener(event: CallbackEvent) -> None:
        heard.append(event.task_id)
        await other

    to.subscribe(listener)
    post(to, "t1")
    post(to, "t2")
    await asyncio.sleep(1)

    assert heard == ["t1", "t2"]
    assert caplog.text.count("a listener failed") == 2


@jumping
async def test_a_bell_that_raises_harms_nobody(caplog):
    """The next one rings, and the loop goes on."""
    to = receiver()
    rung: list[str] = []

    def broken(_event: CallbackEvent) -> None:
        raise LookupError

    to.connect(broken)
    to.connect(lambda event: rung.append(event.task_id))
    post(to, "t1")
    await asyncio.sleep(0)

    assert rung == ["t1"]
    assert "a listener failed" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_exit_in_the_loop_is_an_exit(error):
    """Who presses Ctrl-C means the process, not the listener."""
    to = receiver()

    async def listener(_event: CallbackEvent) -> None:
        raise error

    async def main() -> None:
        to.subscribe(listener)
        post(to, "t1")
        await asyncio.sleep(5)

    with pytest.raises(error):
        asyncio.run(main())


@pytest.mark.usefixtures("small_backlog")
@jumping
async def test_the_line_of_a_slow_coroutine_is_bounded():
    """What does not fit is dropped and counted."""
    to = receiver()

    async def listener(_event: CallbackEvent) -> None:
        await asyncio.Event().wait()

    leave = to.subscribe(listener)
    for number in range(10):
        post(to, f"t{number}")

    assert to.dropped == 7
    leave()


@jumping
async def test_closing_ends_all_listeners(caplog):
    """A coroutine in the middle of its work is cancelled, and nothing is left over."""
    to = receiver()
    begun, ended = asyncio.Event(), asyncio.Event()

    async def listener(_event: CallbackEvent) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    to.subscribe(listener)
    post(to, "t1")
    await begun.wait()
    to.close()
    to.close()
    await ended.wait()
    await asyncio.sleep(0)

    assert post(to, "t2").status == 200
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_coroutine_of_a_closed_loop_is_counted():
    """Closing the receiver afterwards is fine."""
    to = receiver()

    async def listener(_event: CallbackEvent) -> None:
        pytest.fail("its loop is closed")

    async def forget_to_leave() -> None:
        to.subscribe(listener)

    asyncio.run(forget_to_leave())

    assert post(to, "t1").status == 200
    assert to.dropped == 1
    to.close()


def test_many_threads_have_one_effect():
    """Eight threads post the same 300 callbacks; each rings once."""
    to = receiver()
    rung: list[str] = []

    def work() -> None:
        replies = [post(to, f"t{number}") for number in range(300)]
        rung.extend(reply.event.task_id for reply in replies if reply.event is not None)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(rung) == sorted(f"t{number}" for number in range(300))
