"""Rows K09 to K14: killed while saving, recovering, migrating and at random; the order on disk."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator import Request, Rule
from kie_async.emulator._pictures import png
from tests.faults.world_k import KILLED, World, picked, until, world
from tests.faults.world_k_check import attempts, items

pytestmark = pytest.mark.timeout(120)

BLOCK = 2**20
"""Bytes that reach a ``.part`` at once; at most two blocks are on their way to it."""


def large(name: str, _task: Any) -> bytes:
    """Make a PNG of six megabytes that nothing can shorten."""
    numbers = picked(len(name))
    return png([numbers.randbytes(3 * 1024) for _ in range(2048)])


def heard(w: World) -> list[str]:
    """Return the ranges that are asked for from now on; "" is a whole file."""
    ranges: list[str] = []

    def listen(request: Request) -> bool:
        ranges.append(request.headers.get("range", ""))
        return False

    w.emulator.inject(Rule(route="files", action="fin", match=listen))
    return ranges


@pytest.mark.asyncio
async def test_fault_K09_killed_in_the_part_file(tmp_path: Path):
    """What is on the disk is not fetched again; at most two blocks had not reached it."""
    async with world(tmp_path, 1, paint=large) as w:
        sent = 4 * BLOCK
        w.emulator.inject(
            Rule(route="files", action="cut", cut=sent, then="silence", nth=0, when="after")
        )
        worker = w.start(save=True)

        def size() -> int:
            return sum(path.stat().st_size for path in tmp_path.glob("out/*.part"))

        await until(lambda: size() >= sent - 2 * BLOCK)
        assert await worker.kill() == KILLED
        kept = size()
        assert kept <= sent
        assert w.violations() == []
        ranges = heard(w)

        assert await w.run(save=True) == 0
        assert ranges == [f"bytes={kept}-"]
        assert [path.name for path in tmp_path.glob("out/*")] == [f"{w.ids[0]}.png"]
        assert w.paid() == [1]
        assert w.violations() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["file.synced", "file.named"])
async def test_fault_K10_killed_after_the_sync_before_the_name(tmp_path: Path, point: str):
    """The next run checks what is there and names it; the host is not asked again."""
    async with world(tmp_path, 1) as w:
        assert await w.run(save=True, kill_at=point) == KILLED
        assert len(list(tmp_path.glob("out/*.png"))) == (point == "file.named")
        assert w.violations() == []
        ranges = heard(w)

        assert await w.run(save=True) == 0
        assert ranges == []
        assert [path.name for path in tmp_path.glob("out/*")] == [f"{w.ids[0]}.png"]
        assert w.paid() == [1]
        assert w.violations() == []


@pytest.mark.asyncio
async def test_fault_K11_killed_during_recovery_ten_times_in_a_row(tmp_path: Path):
    """Whenever recovery comes through, its end is the same."""
    async with world(tmp_path, 4) as w:
        w.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=60.0))
        worker = w.start(callbacks=True)
        await until(lambda: len(w.books.creates) == 4)
        assert await worker.kill() == KILLED
        w.emulator.clear_rules()
        before = [(row["source_id"], row["number"], row["ref"]) for row in attempts(w.path)]

        for turn in range(10):
            point = "recover.after_commit" if turn % 2 else "recover.before_commit"
            assert await w.run(kill_at=point) == KILLED
            assert w.violations() == []

        assert await w.run() == 0
        assert set(w.states().values()) == {"in_doubt"}
        assert before == [(row["source_id"], row["number"], row["ref"]) for row in attempts(w.path)]
        assert {one.verdict for one in await w.settle()} == {"settled"}
        assert await w.run() == 0
        assert w.paid() == [1, 1, 1, 1]
        assert w.violations() == []


@pytest.mark.asyncio
@pytest.mark.parametrize("everywhere", [False, True], ids=["at the close", "at any instant"])
async def test_fault_K12_killed_during_a_checkpoint(tmp_path: Path, everywhere: bool):
    """The log is put into the main file: when it is closed, or with every commit."""
    numbers = picked(12)
    async with world(tmp_path, 20) as w:
        for _ in range(4):
            if everywhere:
                worker = w.start(everywhere=True, in_flight=2)
                goal = len(w.books.creates) + numbers.randrange(1, 5)
                await until(lambda goal=goal: len(w.books.creates) >= goal)
                assert await worker.kill() == KILLED
            else:
                assert await w.run(kill_at="close.checkpoint") == KILLED
            assert w.violations() == []

        assert await w.run() == 0
        assert w.violations() == []
        assert all(state in {"done", "in_doubt"} for state in w.states().values())
        assert list(w.states().values()).count("in_doubt") <= (8 if everywhere else 0)


@pytest.mark.asyncio
async def test_fault_K12_killed_during_a_migration(tmp_path: Path):
    """It is one transaction after a backup: the old version goes on, and the step is made again."""
    async with world(tmp_path, 2) as w:
        assert await w.run() == 0
        was = items(w.path)

        for _ in range(3):
            assert await w.run(later=True, kill_at="migrate.before_commit") == KILLED
            assert w.violations() == []
        assert await w.run() == 0
        assert items(w.path) == was

        assert await w.run(later=True) == 0
        assert [{**row, "colour": None} for row in was] == items(w.path)
        assert w.paid() == [1, 1]
        assert w.violations() == []


async def killed_at_random(w: World, seed: int) -> int:
    """Bring the list to its end through kills; return how many there were."""
    numbers = picked(seed)
    kills = 0

    def asked() -> int:
        return sum(w.books.requests.values())

    while True:
        worker = w.start(save=True, callbacks=True, in_flight=8)
        goal = asked() + numbers.randrange(40)
        await until(lambda worker=worker, goal=goal: not worker.running or asked() >= goal)
        code = await worker.kill()
        if code == 0:
            return kills
        assert code == KILLED
        kills += 1


@pytest.mark.asyncio
async def test_fault_K13_killed_twenty_times_at_random_instants(tmp_path: Path):
    """The short form of benchmarks/kills.py: nothing twice or lost, and every doubt settled."""
    kills = 0
    for seed in range(30):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with world(folder, 60) as w:
            kills += (now := await killed_at_random(w, seed))
            assert list(w.states().values()).count("in_doubt") <= now * 8
            assert w.violations() == []

            await w.settle()  # binds what the books know of; what is left was never created
            left = [one for one, state in w.states().items() if state == "in_doubt"]
            assert [w.books.paid(one) for one in left] == [0] * len(left)
            assert await w.run(save=True) == 0
            assert set(w.states().values()) <= {"done", "in_doubt"}
            assert max(w.paid()) == 1
            assert len(list(folder.glob("out/*.png"))) == sum(w.paid())
            assert w.violations() == []
        if kills >= 20:
            break
    assert kills >= 20


@pytest.mark.asyncio
@pytest.mark.parametrize(("bad", "sign"), [("resends", "I1"), ("forgets", "I1"), ("late", "I2")])
async def test_the_checker_of_the_crash_rows_catches_a_bad_client(
    tmp_path: Path, bad: str, sign: str
):
    """The control: one that resends doubts, one without a journal, one that notes too late."""
    async with world(tmp_path, 6) as w:
        w.emulator.inject(
            Rule(route="createTask", action="delay", when="after", delay=60.0, times=6)
        )
        worker = w.start(bad=bad)
        await until(lambda: len(w.books.creates) == 6)
        await worker.kill()
        early = w.violations()
        await w.run(bad=bad)

        found = [*early, *w.violations()]
        assert any(line.startswith(sign) for line in found), found


# -- K14: the power fails ----------------------------------------------------------------

TRACED = """
import asyncio, os, sys
from kie_async.emulator import Emulator
from tests.faults.world_k_work import Job, _work
from kie_async.journal import _opening

if sys.argv[2] == "lazy":
    prepare = _opening._prepare
    def lazily(conn):
        prepare(conn)
        conn.execute("PRAGMA synchronous = OFF")
    _opening._prepare = lazily

from kie_async.files import _part
if sys.argv[2] == "lazy":
    class Idle:
        def __getattr__(self, name):
            return (lambda fd: None) if name == "fsync" else getattr(os, name)
    _part.os = Idle()

async def main(folder):
    import pathlib
    async with Emulator(durations=lambda rng: 0.05) as emulator:
        ids = [await emulator.add_source_task() for _ in range(6)]
        job = Job(url=emulator.url, folder=pathlib.Path(folder), ids=tuple(ids), save=True,
                  callbacks=True, bad="late" if sys.argv[2] == "late" else "")
        await _work(job)

asyncio.run(main(sys.argv[1]))
"""


def trace(folder: Path, client: str) -> list[str]:
    """Run a client under strace; return its calls in the order in which they came back."""
    folder.mkdir()
    log = folder / "calls"
    calls = "openat,fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg,linkat,link,rename"
    command = ["strace", "-f", "-s", "100000", "-e", f"trace={calls}", "-o", str(log)]
    subprocess.run(
        [*command, sys.executable, "-c", TRACED, str(folder), client],
        check=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    whole: list[str] = []
    begun: dict[str, str] = {}
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        if rest.rstrip().endswith("<unfinished ...>"):
            begun[thread] = rest.strip().removesuffix("<unfinished ...>")
        elif "resumed>" in rest:
            whole.append(begun.pop(thread, "") + rest.partition("resumed>")[2])
        else:
            whole.append(rest.strip())
    return whole


def too_early(calls: list[str]) -> tuple[int, list[str]]:
    """Count POSTs and names; return those that stand before the sync they rest on."""
    names: dict[str, str] = {}
    written: set[str] = set()
    durable: set[str] = set()
    acts, found = 0, list[str]()
    for call in calls:
        name = call.partition("(")[0]
        if name == "openat" and (made := re.search(r'"([^"]+)".*= (\d+)$', call)):
            names[made[2]] = made[1]
        number = re.search(r"\((\d+)", call)
        path = names.get(number[1], "") if number else ""
        if name == "pwrite64" and path.endswith("-wal"):
            written |= set(re.findall(r"[0-9a-f]{32}", call))
        elif name in {"fsync", "fdatasync"} and call.endswith("= 0"):
            durable |= written if path.endswith("-wal") else {path}
        elif name in {"sendto", "sendmsg", "write", "writev"} and '\\"model\\"' in call:
            for reference in re.findall(r'callBackUrl\\":\s*\\"[^"]+/cb/([0-9a-f]{32})', call):
                acts += 1
                found += [] if reference in durable else [f"POST {reference}"]
        elif name in {"link", "linkat", "rename"} and ".png" in call:
            acts += 1
            part = re.findall(r'"([^"]+)"', call)[0]
            found += [] if part in durable else [f"name of {part}"]
    return acts, found


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
def test_fault_K14_the_power_fails(tmp_path: Path):
    """Every POST follows the sync of its intent, every name the sync of its file.

    What is not synced is what a failing power takes.  The controls are a client whose
    database and files skip their syncs: the checker must see it.
    """
    acts, found = too_early(trace(tmp_path / "good", "good"))
    lazy_acts, lazily = too_early(trace(tmp_path / "lazy", "lazy"))

    assert (acts, found) == (12, [])
    assert lazy_acts == 12
    assert len([one for one in lazily if one.startswith("POST")]) == 6
    assert len([one for one in lazily if one.startswith("name")]) == 6
