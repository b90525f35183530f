"""Rows X05 to X08: a session that is closed, lent, forgotten, or next to one that fails."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kie_async import KieSession
from kie_async.emulator import Rule
from kie_async.errors import KieError, SessionClosedError, WrongLoopError
from kie_async.journal import Journal
from tests.faults.world_k import World, forked, until, world

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"


class Leaks:
    """What this process holds: tasks of the loop, threads, descriptors."""

    def __init__(self) -> None:
        self.before = self.now()

    @staticmethod
    def now() -> tuple[int, int, int]:
        """Count them."""
        gc.collect()
        # A loop keeps the threads of its executor, and names them after itself.
        kept = ("asyncio", "uvloop")
        threads = [one for one in threading.enumerate() if not one.name.startswith(kept)]
        return (
            len(asyncio.all_tasks()),
            len(threads),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
        )

    async def gone(self) -> None:
        """Wait until nothing is held that was not held before."""
        await until(
            lambda: all(now <= was for now, was in zip(self.now(), self.before, strict=True)), 10.0
        )


async def outcome(work: Any) -> Any:
    """Return what came of it, an error too."""
    (result,) = await asyncio.gather(work, return_exceptions=True)
    return result


@pytest.mark.asyncio
@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors in /proc")
async def test_fault_X05_closed_while_everything_runs(tmp_path: Path):
    """Closed twice at once, and again: every caller is told, every paid id is known."""
    async with world(tmp_path, 3) as w:
        w.emulator.inject(
            Rule(route="createTask", action="delay", when="after", delay=0.4, match=w.ids[1])
        )
        w.emulator.inject(Rule(route="task", action="never", match=w.ids[2]))
        w.emulator.inject(Rule(route="files", action="silence"))
        leaks = Leaks()
        session = w.session()
        async with session:
            done = await session.upscale(w.ids[0])
            slow = await session.create_task(UPSCALE, {"task_id": w.ids[2]})
            calls = {
                "create": session.create_task(UPSCALE, {"task_id": w.ids[1]}),
                "wait": session.wait_for_result(slow),
                "download": session.download(done, tmp_path / "out", allow_private=True),
            }
            tasks = {name: asyncio.ensure_future(outcome(call)) for name, call in calls.items()}
            await until(
                lambda: (
                    len(w.books.creates) == 3
                    and w.books.requests.get("files")
                    and w.books.requests["recordInfo"] > 2
                )
            )
            await asyncio.gather(session.close(), session.close())
            results = {name: await task for name, task in tasks.items()}
            await session.close()

        assert results["create"] == w.books.creates[-1].task_id
        for name, known in (("wait", slow), ("download", done.task_id)):
            assert isinstance(results[name], SessionClosedError), results
            assert results[name].task_id == known
        with pytest.raises(SessionClosedError):
            await session.get_credits()
        assert [path for path in tmp_path.glob("out/*") if ".part" not in path.name] == []
        await until(lambda: w.books.open_now == 0)
        await leaks.gone()


@pytest.mark.asyncio
async def test_fault_X05_closed_while_a_bulk_run_goes_on(tmp_path: Path):
    """The run ends with `SessionClosedError`; its items are paid, or as they were."""
    async with world(tmp_path, 30) as w:
        session = w.session()
        async with Journal(w.path) as journal:
            await session.__aenter__()
            run = session.upscale_many(w.ids, journal=journal, in_flight=3)
            ended = []
            with pytest.raises(SessionClosedError):
                async for one in run:
                    ended.append(one)
                    if len(ended) == 3:
                        closing = asyncio.ensure_future(session.close())
            await closing

        assert {str(one.status) for one in ended} <= {"done", "failed", "not_sent"}
        assert all(one.error.task_id for one in ended if str(one.status) == "failed")
        assert len(w.books.creates) < 30
        assert not {"in_doubt", "sending", "failed"} & set(w.states().values())
        assert w.violations() == []
        assert await w.run() == 0
        assert w.paid() == [1] * 30


# -- X06, X13: another loop, another process, no loop ------------------------------------


def in_thread(work: Callable[[], Any]) -> Any:
    """Do something in a thread of its own; return its result or its error."""
    told: list[Any] = []

    def run() -> None:
        try:
            told.append(work())
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            told.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30.0)
    return told[0]


def calls(session: KieSession, w: World) -> list[Callable[[], Any]]:
    """Return each kind of call, not yet made."""

    async def bulk() -> None:
        async for _ in session.upscale_many(w.ids):
            pass

    return [
        lambda: session.create_task(UPSCALE, {"task_id": w.ids[0]}),
        lambda: session.upscale(w.ids[0]),
        lambda: session.wait_for_result(w.ids[0]),
        lambda: session.get_task(w.ids[0]),
        session.get_credits,
        session.close,
        bulk,
    ]


@pytest.mark.asyncio
async def test_fault_X06_a_session_is_used_in_a_second_loop(tmp_path: Path):
    """`WrongLoopError` from every call, and the first loop's session goes on."""
    async with world(tmp_path, 1) as w, w.session() as session:
        for call in calls(session, w):
            told = await asyncio.to_thread(in_thread, lambda call=call: asyncio.run(call()))
            assert isinstance(told, WrongLoopError), (call, told)

        assert w.paid() == [0]
        assert (await session.upscale(w.ids[0])).succeeded


def test_fault_X06_a_session_is_used_after_its_loop_has_ended(tmp_path: Path):
    """`WrongLoopError`; closing lets go of it, and it can be entered in a new loop."""

    async def enter() -> KieSession:
        session = KieSession("some-key", base_url="http://127.0.0.1:9")
        await session.__aenter__()
        return session

    async def again(session: KieSession, *, close: bool) -> None:
        with pytest.raises(WrongLoopError):
            await session.get_credits()
        if close:
            await session.close()
            with pytest.raises(SessionClosedError):
                await session.get_credits()
        async with world(tmp_path, 1) as w:
            w.emulator.inject(Rule(route="credit", action="envelope", code=401))
            session._transport._addresses = w.session()._transport._addresses
            async with session:
                with pytest.raises(KieError, match="key"):
                    await session.get_credits()

    for close in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # the pools of the dead loop
            asyncio.run(again(asyncio.run(enter()), close=close))
            gc.collect()


@pytest.mark.asyncio
async def test_fault_X06_a_session_is_used_after_a_fork(tmp_path: Path):
    """`WrongLoopError` in the child, and the parent's connections are left alone."""
    async with world(tmp_path, 1) as w:
        told = await forked(w)

        assert told == ["WrongLoopError"] * 5 + ["None", "1000000.0", "1000000.0"]
        assert w.paid() == [0]


@pytest.mark.asyncio
async def test_fault_X13_a_thread_calls_without_a_loop(tmp_path: Path):
    """It is told so by an error of ours; the right way from a thread works."""
    async with world(tmp_path, 1) as w, w.session() as session:
        for call in calls(session, w):

            def step(call: Callable[[], Any] = call) -> Any:
                with contextlib.closing(call()) as coroutine:
                    coroutine.send(None)

            told = await asyncio.to_thread(in_thread, step)
            if call.__name__ != "bulk":  # an asynchronous generator of its own: it needs a loop
                assert isinstance(told, WrongLoopError), (call, told)

        loop = asyncio.get_running_loop()
        told = await asyncio.to_thread(
            lambda: asyncio.run_coroutine_threadsafe(session.get_credits(), loop).result(30.0)
        )
        assert told == 1e6
        assert w.paid() == [0]


# -- X07, X08 ------------------------------------------------------------------------------

FORGETFUL = """
import asyncio, sys
from kie_async import KieSession

async def main():
    kie = KieSession("some-key", base_url=sys.argv[1])
    await kie.__aenter__()
    await kie.get_credits()
    waiting = asyncio.ensure_future(kie.wait_for_result(sys.argv[2]))
    await asyncio.sleep(0)
    return kie

kept = asyncio.run(main())
print("end")
"""


@pytest.mark.asyncio
@pytest.mark.parametrize("keep", [True, False], ids=["kept to the end", "forgotten"])
async def test_fault_X07_a_session_is_never_closed(tmp_path: Path, keep: bool):
    """One `ResourceWarning` that names the session, and the process ends by itself.

    aiohttp warns of the pools inside it as well.
    """
    async with world(tmp_path, 1) as w:
        w.emulator.core.api_key = "some-key"
        program = FORGETFUL if keep else FORGETFUL.replace("return kie", "return None")
        ran = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "always", "-c", program, w.emulator.url, w.ids[0]],
            capture_output=True,
            text=True,
            timeout=60.0,
            check=False,
            cwd=Path(__file__).parents[2],
        )

    assert (ran.returncode, ran.stdout) == (0, "end\n"), ran.stderr
    named = [line for line in ran.stderr.splitlines() if "ResourceWarning" in line]
    assert len([line for line in named if "KieSession" in line]) == 1, ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.asyncio
async def test_fault_X08_a_sibling_in_a_task_group_fails(tmp_path: Path):
    """Our part is cancelled and adds no error and no group of its own; the id is kept."""
    async with world(tmp_path, 3) as w:
        w.emulator.inject(Rule(route="task", action="never"))

        async def fail() -> None:
            await until(lambda: len(w.books.creates) == 3)
            raise ValueError("the sibling")

        async def bulk(session: KieSession, journal: Journal) -> None:
            run = session.upscale_many(w.ids[1:], journal=journal)
            async with contextlib.aclosing(run):
                async for _ in run:
                    pass

        async with Journal(w.path) as journal, w.session() as session:
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    upscaling = group.create_task(session.upscale(w.ids[0]))
                    group.create_task(bulk(session, journal))
                    group.create_task(fail())

        assert [str(one) for one in caught.value.exceptions] == ["the sibling"]
        assert upscaling.cancelled()
        assert w.paid() == [1, 1, 1]
        assert w.states() == dict.fromkeys(w.ids[1:], "sent")
        assert World(w.emulator, w.folder, w.ids[1:]).violations() == []
