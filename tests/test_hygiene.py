"""What the suite and the package leave behind: nothing.  What holds the loop up: nothing."""

from __future__ import annotations

import ast
import asyncio
import gc
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kie_async import KieSession, PollSchedule
from kie_async.emulator import Emulator
from kie_async.instrumentation import Event
from kie_async.limiter import Unlimited
from kie_async.testing import VirtualKie
from tests.clock import jumping
from tests.faults.test_lifetime_load import told
from tests.hygiene import ASIDE, never_blocking

pytestmark = pytest.mark.timeout(120)

HERE = Path(__file__).parent


# -- no blocking call on the loop ----------------------------------------------------------


def test_nothing_of_ours_blocks_the_loop(tmp_path: Path):
    """A bulk run with its journal, its files and all kinds of failures; G21."""
    with never_blocking() as called:
        came = told({}, tmp_path / "run")

    assert called == []
    assert came["violations"] == []


@pytest.mark.asyncio
async def test_a_run_without_a_journal_deletes_its_own_beside_the_loop():
    """The file of a large run takes its time."""
    async with Emulator(durations=lambda _rng: 0.01) as emulator, quick(emulator) as kie:
        source = await emulator.add_source_task()
        with never_blocking() as called:
            outcomes = [str(one.status) async for one in kie.upscale_many([source])]

    assert called == []
    assert outcomes == ["done"]


@pytest.mark.asyncio
async def test_a_cancelled_end_deletes_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whether or not a thread is free to do it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loop, busy = asyncio.get_running_loop(), threading.Event()
    threads = ThreadPoolExecutor(1)
    loop.set_default_executor(threads)
    async with Emulator(durations=lambda _rng: 0.01) as emulator, quick(emulator) as kie:
        run = kie.upscale_many([await emulator.add_source_task()])
        await anext(run)
        assert len(list(tmp_path.iterdir())) == 1
        taken = loop.run_in_executor(None, busy.wait)
        leaving = asyncio.ensure_future(run.aclose())
        while threads._work_queue.empty():  # noqa: ASYNC110 - a queue that tells nobody
            await asyncio.sleep(0.001)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        left = list(tmp_path.iterdir())
        busy.set()
        await taken

    assert leaving.cancelled()
    assert left == []


@jumping
async def test_a_blocking_call_is_found():
    """The control: a hook that sleeps on the loop, whose error the session swallows."""

    def blocks(_event: Event) -> None:
        time.sleep(0.001)

    api = VirtualKie()
    async with api.session(hooks=[blocks]) as session:
        with never_blocking() as called:
            await session.upscale(api.add_source_task())
        found = set(called)
        called.clear()
        await asyncio.to_thread(time.sleep, 0.001)

    assert {one.partition(" by ")[0] for one in found} == {"time.sleep"}
    assert all("instrumentation.py" in one for one in found)
    assert called == []


# -- nothing is left behind ----------------------------------------------------------------

OPEN = Path("/proc/self/fd")


def ours(kind: type) -> bool:
    """True for the package's classes; the emulator keeps books, and those grow."""
    home = str(kind.__module__)
    return home.startswith("kie_async.") and not home.startswith(ASIDE)


class Kept:
    """What this process holds: descriptors, threads, asyncio's tasks, objects of ours."""

    def __init__(self) -> None:
        """Count, after everything that can go has gone."""
        gc.collect()
        self.descriptors = len(list(OPEN.iterdir())) if OPEN.exists() else 0
        self.threads = [
            one.name for one in threading.enumerate() if not one.name.startswith("asyncio_")
        ]
        self.tasks = len(asyncio.all_tasks())
        homes = Counter(type(one) for one in gc.get_objects())
        self.objects = {kind.__qualname__: n for kind, n in homes.items() if ours(kind)}

    def since(self, before: Kept) -> dict[str, Any]:
        """Return what is not as it was: then and now; of objects, only the kinds that differ."""
        left = {
            name: (getattr(before, name), now)
            for name, now in vars(self).items()
            if name != "objects" and getattr(before, name) != now
        }
        kinds = sorted({*before.objects, *self.objects})
        counts = {kind: (before.objects.get(kind, 0), self.objects.get(kind, 0)) for kind in kinds}
        return left | {kind: both for kind, both in counts.items() if both[0] != both[1]}


async def kept_since(before: Kept) -> dict[str, Any]:
    """Return what stays when the other side of closed connections has gone too."""
    for _ in range(200):
        left = Kept().since(before)
        if not left:
            break
        await asyncio.sleep(0.02)
    return left


def quick(emulator: Emulator) -> KieSession:
    return KieSession(
        emulator.api_key,
        base_url=emulator.url,
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        polling=PollSchedule(first_gap=0.02, min_gap=0.02),
    )


async def some(emulator: Emulator, count: int) -> None:
    """Let a list be done, some tasks by themselves, and one of each call be cancelled."""
    ids = [await emulator.add_source_task() for _ in range(count)]
    async with quick(emulator) as kie:
        outcomes = [one async for one in kie.upscale_many(ids, in_flight=50)]
        done = await asyncio.gather(*(kie.upscale(one) for one in ids[:20]))
        gone = [asyncio.ensure_future(kie.upscale(one)) for one in ids[:5]]
        await asyncio.sleep(0)
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
    assert {str(one.status) for one in outcomes} == {"done"}
    assert all(one.succeeded for one in done)


@pytest.mark.asyncio
async def test_a_thousand_tasks_over_sockets_leave_nothing_behind():
    """Descriptors, threads, asyncio tasks and objects are as many as before, session by session.

    The first session is not counted: it starts the threads that asyncio keeps.
    """
    async with Emulator(rate=None, credits=1e9, durations=lambda _rng: 0.01) as emulator:
        await some(emulator, 50)
        before = Kept()
        for _ in range(4):
            await some(emulator, 250)
        left = await kept_since(before)

    assert left == {}


@jumping
async def test_ten_thousand_tasks_leave_nothing_behind():
    """The same in virtual time, from one session that stays open; G21."""
    api = VirtualKie(rate=None, credits=1e9, durations=lambda _rng: 5.0)
    async with api.session(limiter=Unlimited()) as kie:

        async def done(count: int) -> None:
            sources = [api.add_source_task() for _ in range(count)]
            tasks = await asyncio.gather(*(kie.upscale(one, timeout=1e6) for one in sources))
            assert all(task.succeeded for task in tasks)
            await asyncio.sleep(60.0)  # whatever still holds a result ends

        for _ in range(2):  # until nothing new is learned of the durations
            await done(500)
        before = Kept()
        await done(10_000)
        left = Kept().since(before)

    assert left == {}


@pytest.mark.asyncio
async def test_what_is_left_behind_is_found():
    """The control: a session that is not closed, a thread, a task."""
    async with Emulator() as emulator:
        before = Kept()
        kie, stop = await quick(emulator).__aenter__(), threading.Event()
        await kie.get_credits()
        thread = threading.Thread(target=stop.wait)
        thread.start()
        waiting = asyncio.ensure_future(asyncio.Event().wait())
        left = Kept().since(before)
        await kie.close()
        stop.set()
        thread.join()
        waiting.cancel()

    assert left.keys() >= {"descriptors", "threads", "tasks", "KieSession"}


# -- nothing is altered for all ------------------------------------------------------------

FOR_ALL = {"write", "read", "fsync", "link", "unlink", "rename", "replace", "open", "close", "stat"}


def altered_for_all(source: str) -> list[int]:
    """Return the lines that put another function into `os` itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="setattr"),
                args=[ast.Name("os") | ast.Attribute(attr="os"), ast.Constant(name), *_],
            ) if name in FOR_ALL:
                found.append(node.lineno)
    return found


def test_no_test_alters_the_files_of_the_whole_process():
    """A write of pytest or of another thread would meet the fake: `fakes.Altered` is for that."""
    found = {
        path.name: lines
        for path in HERE.rglob("*.py")
        if (lines := altered_for_all(path.read_text("utf-8")))
    }

    assert found == {}
    assert altered_for_all("x = 1\nmonkeypatch.setattr(_part.os, 'write', full)") == [2]
    assert altered_for_all("patch.setattr(os, 'link', link)") == [1]
