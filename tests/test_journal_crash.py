"""Crashes: after each of them the journal knows of every create that may have left.

The program that is killed keeps a ledger of its own: a line for each create before it is
"sent", synced by nothing, which a kill of a process leaves whole.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kie_async.errors import JournalError
from kie_async.journal import Counts, ItemState, Journal, PlannedItem
from kie_async.models import Task, TaskState
from tests.examples import play

PROGRAM = """
import asyncio, os, signal, sys
from itertools import pairwise
from pathlib import Path
from kie_async.journal import Journal, PlannedItem, ItemState
from kie_async.models import Task, TaskState

path, ledger, point, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
hits = [int(sys.argv[5])]

def fault(name):
    if name == point:
        hits[0] -= 1
        if hits[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

async def main():
    sent = os.open(ledger, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    journal = await Journal.open(path, _fault=fault)
    await journal.recover()
    names = [f"i{n}" for n in range(count)]
    await journal.plan(PlannedItem(source_id=n, model="m", input={"n": n}) for n in names)
    todo = [item.source_id async for item in journal.iterate(ItemState.PLANNED)]
    waiting = [(i.source_id, i.task_id) async for i in journal.iterate(ItemState.SENT)]
    queue = iter(todo)

    async def work():
        for name in queue:
            attempt = await journal.begin_sending(name, ref=f"{os.getpid()}-{name}")
            os.write(sent, f"{name}\\n".encode())
            await asyncio.sleep(0)
            await journal.record_created(name, attempt, f"t-{name}")
            await journal.record_done(name, Task(task_id=f"t-{name}", state=TaskState.SUCCESS))

    for name, task in waiting:
        await journal.record_done(name, Task(task_id=task, state=TaskState.SUCCESS))
    print("running", flush=True)
    await asyncio.gather(*(work() for _ in range(8)))
    await journal.close()
    print("finished", flush=True)

asyncio.run(main())
"""


def start(folder: Path, point: str = "-", count: int = 200, hit: int = 1) -> subprocess.Popen[str]:
    """Start the program on the journal in *folder*; it kills itself at *point*."""
    arguments = [str(folder / "run.db"), str(folder / "ledger"), point, str(count), str(hit)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True
    )


async def finish(program: subprocess.Popen[str]) -> int:
    """Wait for the program; return how it ended."""
    await asyncio.to_thread(program.communicate)
    return program.returncode


def sent(folder: Path) -> list[str]:
    ledger = folder / "ledger"
    return ledger.read_text().split() if ledger.exists() else []


async def check(folder: Path, count: int) -> Counts:
    """Open what a crash left; nothing that was sent may be planned still."""
    async with Journal(folder / "run.db", full_check=True) as journal:
        counts = (await journal.recover()).counts
        planned = {item.source_id async for item in journal.iterate(ItemState.PLANNED)}
        bound = [i.task_id async for i in journal.iterate(ItemState.SENT)]
    made = sent(folder)
    assert len(made) == len(set(made)), "paid twice"
    assert not planned & set(made), "would be paid twice"
    assert counts.total in {0, count}
    assert all(bound)
    assert counts.total - counts.planned >= len(made), "lost"
    return counts


POINTS = [
    "plan.before_commit",
    "plan.after_commit",
    "begin_sending.before_commit",
    "begin_sending.after_commit",
    "record_created.before_commit",
    "record_created.after_commit",
    "record_done.before_commit",
    "record_done.after_commit",
    "recover.before_commit",
    "recover.after_commit",
    "close.before_commit",
    "close.after_commit",
    "close.checkpoint",
]


@pytest.mark.asyncio
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_named_point_nothing_is_lost_or_sent_twice(tmp_path: Path, point: str):
    """Before and after each kind of commit; the next run finishes the rest."""
    hit = 1 if point.split(".")[0] in {"plan", "recover", "close"} else 5
    killed = await finish(start(tmp_path, point, 40, hit))

    counts = await check(tmp_path, 40)
    finished = await finish(start(tmp_path, "-", 40))
    after = await check(tmp_path, 40)

    assert (killed, finished) == (-signal.SIGKILL, 0)
    assert counts.in_doubt <= 8
    assert (after.done, after.in_doubt) == (40 - counts.in_doubt, counts.in_doubt)


@pytest.mark.asyncio
async def test_ten_kills_in_the_middle_of_recovery_change_nothing(tmp_path: Path):
    """The same doubts, whenever it comes through."""
    await finish(start(tmp_path, "begin_sending.after_commit", 40, 5))
    for _ in range(5):
        for point in ("recover.before_commit", "recover.after_commit"):
            await finish(start(tmp_path, point, 40))

    counts = await check(tmp_path, 40)

    assert 1 <= counts.in_doubt <= 8


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", range(4))
async def test_killed_at_random_instants_nothing_is_lost_or_sent_twice(tmp_path: Path, seed: int):
    """The same journal again and again, until a run comes to its end."""
    random_delay = random.Random(seed)
    doubts = kills = 0
    for _ in range(40):
        program = start(tmp_path, count=1500)
        line = await asyncio.to_thread(program.stdout.readline)
        if line == "running\n":
            time.sleep(random_delay.uniform(0, 0.1))  # noqa: ASYNC251 - reason: an instant of real time
        program.kill()
        kills += await finish(program) == -signal.SIGKILL
        counts = await check(tmp_path, 1500)
        assert counts.in_doubt - doubts <= 8
        doubts = counts.in_doubt
        if counts.planned == 0:
            break

    assert kills >= 2


# Against a loss of power

TRACED = """
import asyncio, os, sys
from kie_async.journal import Journal, PlannedItem

async def main():
    async with Journal(sys.argv[1]) as journal:
        names = [f"i{n}" for n in range(10)]
        await journal.plan(PlannedItem(source_id=n, model="m", input={}) for n in names)
        for name in names:
            os.write(1, b"MARK start")
            attempt = await journal.begin_sending(name)
            os.write(1, b"MARK sent")
            await journal.record_created(name, attempt, "t")
            os.write(1, b"MARK used")

asyncio.run(main())
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace shows the order of the calls")
def test_every_record_is_synced_before_its_caller_goes_on(tmp_path: Path):
    """In the trace a sync stands between asking for a record and what follows it."""
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-e", "trace=write,fsync,fdatasync", "-o", str(trace)]
    program = [sys.executable, "-c", TRACED, str(tmp_path / "run.db")]
    subprocess.run([*command, *program], check=True, stdout=subprocess.DEVNULL)

    lines = trace.read_text().splitlines()
    order = [
        "sync" if "sync(" in line else line for line in lines if "sync" in line or "MARK" in line
    ]

    marks = [number for number, line in enumerate(order) if "MARK" in line]
    assert len(marks) == 30
    for start, end in pairwise(marks):
        if "start" not in order[end]:
            assert "sync" in order[start + 1 : end]


@pytest.mark.asyncio
async def test_commits_are_synced_in_full(tmp_path: Path):
    """`NORMAL` could forget a committed intent when the power fails."""
    async with Journal(tmp_path / "run.db") as journal:
        conn = journal._writer._commits._opened.conn

        assert conn.execute("PRAGMA synchronous").fetchone() == (2,)
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# Against a model


class JournalMachine(RuleBasedStateMachine):
    """Compares a journal with a dictionary, through crashes.

    A crash is a copy of the files as they are while the journal is open, which is what a
    kill leaves; the copy becomes the journal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp())
        self.number = 0
        self.states: dict[str, str] = {}
        self.tasks: dict[str, str | None] = {}
        self.attempts: dict[str, int] = {}
        self.journal = self.run(Journal.open(self.path()))

    def path(self) -> Path:
        return self.folder / f"run{self.number}.db"

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def expect(self, allowed: bool, work: Any) -> Any:
        """Do it; it must be refused exactly if the model says so."""
        try:
            result = self.run(work)
        except JournalError:
            assert not allowed
            return None
        assert allowed
        return result

    names = st.sampled_from([f"i{number}" for number in range(4)])

    @rule(names=st.lists(names, max_size=4))
    def plan(self, names: list[str]) -> None:
        new = [n for n in dict.fromkeys(names) if n not in self.states]
        work = [PlannedItem(source_id=n, model="m", input={"n": n}) for n in names]
        assert self.run(self.journal.plan(work)) == new
        for name in new:
            self.states[name], self.tasks[name], self.attempts[name] = "planned", None, 0

    @rule(name=names)
    def begin(self, name: str) -> None:
        allowed = self.states.get(name) == "planned"
        number = self.expect(allowed, self.journal.begin_sending(name))
        if allowed:
            self.states[name] = "sending"
            self.attempts[name] += 1
            assert number == self.attempts[name]

    @rule(name=names)
    def cancelled_begin(self, name: str) -> None:
        async def cancel() -> None:
            task = asyncio.ensure_future(self.journal.begin_sending(name))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.journal.set_meta("after", 1)  # what was taken back is durable
            await self.journal.set_meta("after", 2)

        self.run(cancel())
        if self.states.get(name) == "planned":
            self.attempts[name] += 1

    @rule(name=names)
    def create(self, name: str) -> None:
        state = self.states.get(name)
        number = self.attempts.get(name, 0)
        task = f"t-{name}-{number}"
        if state == "sending" or (state == "in_doubt" and number):
            assert self.run(self.journal.record_created(name, number, task))
            self.states[name], self.tasks[name] = "sent", task

    @rule(name=names, ending=st.sampled_from(["not_sent", "refused", "final", "doubt"]))
    def close_attempt(self, name: str, ending: str) -> None:
        number = self.attempts.get(name, 0)
        if self.states.get(name) != "sending":
            return
        journal = self.journal
        work, state = {
            "not_sent": (lambda: journal.record_not_sent(name, number, reason="x"), "planned"),
            "refused": (lambda: journal.record_rejected(name, number, final=False), "planned"),
            "final": (lambda: journal.record_rejected(name, number, final=True), "failed"),
            "doubt": (lambda: journal.record_in_doubt(name, number, reason="x"), "in_doubt"),
        }[ending]
        self.run(work())
        self.states[name] = state

    @rule(name=names, well=st.booleans())
    def end(self, name: str, well: bool) -> None:
        task = Task(task_id=self.tasks.get(name) or "t", state=TaskState.SUCCESS)
        state = self.states.get(name)
        if well:
            self.expect(state in {"sent", "done"}, self.journal.record_done(name, task))
        else:
            allowed = state in {"sent", "planned", "failed"}
            self.expect(allowed, self.journal.record_failed(name, reason="x"))
        if state == "sent" or (state == "planned" and not well):
            self.states[name] = "done" if well else "failed"

    @rule(name=names, recreate=st.booleans())
    def resolve(self, name: str, recreate: bool) -> None:
        state = self.states.get(name)
        allowed = state == "in_doubt" or (recreate and state == "failed")
        way = {"recreate": True} if recreate else {"not_created": True}
        self.expect(allowed, self.journal.resolve(name, **way))
        if allowed:
            self.states[name], self.tasks[name] = "planned", None

    @rule(crash=st.booleans())
    def restart(self, crash: bool) -> None:
        old = self.path()
        if crash:
            self.number += 1
            for ending in ("", "-wal", ".lock"):
                shutil.copy(f"{old}{ending}", f"{self.path()}{ending}")
        self.run(self.journal.close())
        self.journal = self.run(Journal.open(self.path()))
        doubts = [name for name, state in self.states.items() if state == "sending"]
        assert self.run(self.journal.recover()).doubts == len(doubts)
        for name in doubts:
            self.states[name] = "in_doubt"

    @invariant()
    def agrees(self) -> None:
        async def seen() -> dict[str, tuple[str, str | None, int]]:
            rows = [row async for row in self.journal.export()]
            return {r["source_id"]: (r["state"], r["task_id"], r["attempts"]) for r in rows}

        rows = {
            name: (state, task, len(attempts))
            for name, (state, task, attempts) in self.run(seen()).items()
        }
        assert rows == {n: (s, self.tasks[n], self.attempts[n]) for n, s in self.states.items()}

    def teardown(self) -> None:
        self.run(self.journal.close())
        self.run(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder)


JournalMachine.TestCase.settings = play(25, 30)


class TestModel(JournalMachine.TestCase):
    """The journal and a dictionary agree after any sequence of steps."""
