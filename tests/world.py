"""A simulated world: bulk runs that crash anywhere, against an API that fails anyhow.

    python -m tests.world --seeds 10000 --tasks 200
    python -m tests.world --seed 4711            # one again, as it was

Each life of a run is a forked process in virtual time; it ends at a step drawn from the
seed, as `kill -9` would end it: at an await, before or after a commit, before or after the
API has worked.  The next life goes on with the same journal.  The API is the parent's, so
its books survive, and at the end they are compared with the journal.  The journal's
threads are taken out: what a seed does, it does again.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import frozen

from kie_async.emulator import KINDS, EmulatedAPI, Request, Rule
from kie_async.journal import Journal, _connected, _journal, _writer
from kie_async.journal._rows import seal
from kie_async.testing import JumpingLoop, VirtualKie

LIVES = 6
KILLED = 137
FAST = "/dev/shm"
"""Memory: nothing here tests the disk."""
EPOCH = 1_790_000_000.0

FAULTS: tuple[dict[str, Any], ...] = (
    {"route": "createTask", "action": "fin", "when": "before"},
    {"route": "createTask", "action": "rst", "when": "after"},
    {"route": "createTask", "action": "silence", "when": "after"},
    {"route": "createTask", "action": "half-headers", "when": "after"},
    {"route": "createTask", "action": "cut", "cut": 60},
    {"route": "createTask", "action": "cut", "cut": 20},
    {"route": "createTask", "action": "html", "status": 502, "when": "after"},
    {"route": "createTask", "action": "html", "status": 504, "when": "before"},
    {"route": "createTask", "action": "too-many"},
    {"route": "createTask", "action": "maintenance"},
    {"route": "createTask", "action": "envelope", "code": 500, "when": "before"},
    {"route": "createTask", "action": "delay", "delay": 12.0, "when": "after"},
    {"route": "recordInfo", "action": "fin"},
    {"route": "recordInfo", "action": "html", "status": 503},
    {"route": "recordInfo", "action": "envelope", "code": 500},
    {"route": "recordInfo", "action": "silence"},
    {"route": "recordInfo", "action": "garbage"},
    {"route": "task", "action": "fail"},
    {"route": "task", "action": "slow", "seconds": 200.0},
    {"route": "task", "action": "late", "seconds": 20.0},
    {"route": "task", "action": "generating"},
)


class Crash:
    """Counts steps, and ends the process at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at, self.steps = at, 0

    def __call__(self, _where: str = "") -> None:
        """One step further; maybe the last."""
        self.steps += 1
        if self.steps == self.at:
            os._exit(KILLED)


class MortalLoop(JumpingLoop):
    """Each round of the loop is a step."""

    step: Crash

    def _run_once(self) -> None:
        self.step()
        super()._run_once()  # type: ignore[misc]  # the loop's own, in every version


class Inline:
    """An executor without a thread."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except BaseException as error:  # noqa: BLE001 - reason: whoever waits is told
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing runs."""


class InlineWriter(_writer.Writer):
    """A journal's writer without its thread: the same commits, at once."""

    def _flush(self) -> None:
        batch, self._gathered = self._gathered, []
        if batch:
            self._tell(list(zip(batch, self._commits.commit(batch), strict=True)))

    async def close(self) -> None:
        """Write what was queued, and let go."""
        self._flush()
        self._commits.close()
        self._tell_closed()


class NoThread:
    """Stands for a thread that is not wanted."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""


class FarAPI:
    """The parent's API, asked through a pipe; each question is two steps."""

    api_key = "emulator-key"

    def __init__(self, pipe: Connection, step: Crash) -> None:
        self._pipe, self._step = pipe, step

    @staticmethod
    def unix(now: float) -> float:
        """Return the Unix seconds of *now*."""
        return EPOCH + now

    def arrive(self, request: Request, now: float) -> Any:
        """Nothing yet: the whole request is there."""
        return request, now

    def begin(self, arrived: Any) -> Any:
        """Return the visit: a number and its delay."""
        return self._ask("begin", *arrived)

    def finish(self, visit: Any, now: float) -> Any:
        """Return the answer."""
        return self._ask("finish", visit, now)

    def _ask(self, *question: Any) -> Any:
        self._step()
        self._pipe.send(question)
        answer = self._pipe.recv()
        self._step()
        return answer


class FarKie(VirtualKie):
    """Kie in the parent process, whose time goes on between the lives."""

    def __init__(self, pipe: Connection, step: Crash, base: float, seed: int) -> None:
        super().__init__(seed=seed)
        self.api = FarAPI(pipe, step)  # type: ignore[assignment]  # what is asked of it
        self._base = base

    def now(self) -> float:
        """Return the API's seconds."""
        return self._base + super().now()


@frozen
class Life:
    """One process: where it begins, and how it ends.

    Attributes:
        path: The journal.
        ids: What is to be upscaled.
        base: The API's time at its start, in seconds.
        crash_at: The step at which it is killed; None lets it live.
        seed: For its jitter; `random` itself is seeded anew by a fork.
        bad: It sends its doubts again.
    """

    path: Path
    ids: list[str]
    base: float
    crash_at: int | None
    seed: int
    bad: bool


def live(pipe: Connection, life: Life) -> None:
    """Run to the end, or to the crash."""
    step = Crash(life.crash_at)
    _connected.ThreadPoolExecutor = Inline  # type: ignore[misc,assignment]  # see the class
    _journal.Writer = InlineWriter  # type: ignore[misc]  # see the class
    _writer.threading.Thread = NoThread  # type: ignore[misc,assignment]  # see the class
    MortalLoop.step = step

    async def main() -> None:
        kie = FarKie(pipe, step, life.base, life.seed)
        journal = Journal(life.path, clock=kie.unix, _fault=step)
        if life.bad:
            async with journal:
                await journal.recover()
            forget_doubts(life.path)
            journal = Journal(life.path, clock=kie.unix, _fault=step)
        async with journal, kie.session() as session:
            async for _ in session.upscale_many(life.ids, journal=journal):
                pass
        pipe.send(("end", kie.now(), step.steps))

    with asyncio.Runner(loop_factory=MortalLoop) as runner:
        runner.run(main())


def forget_doubts(path: Path) -> None:
    """Do what must never be done: send again what may have been paid for."""
    with sqlite3.connect(path) as db:
        for seq, source, key, name in db.execute(
            "SELECT seq, source_id, key, output_name FROM items WHERE state = 'in_doubt'"
        ).fetchall():
            sealed = seal(source, key, name, "planned", None)
            db.execute(
                "UPDATE items SET state = 'planned', checksum = ? WHERE seq = ?", (sealed, seq)
            )
    db.close()


def serve(pipe: Connection, api: EmulatedAPI, tell: dict[str, Any]) -> None:
    """Answer a life's questions until it is over."""
    visits: dict[int, Any] = {}
    while True:
        try:
            what, *args = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        if what == "begin":
            visit = api.begin(api.arrive(*args))
            visits[len(visits)] = visit
            tell["now"] = args[1]
            reply: Any = Numbered(len(visits) - 1, visit.delay)
        elif what == "finish":
            tell["now"] = args[1]
            reply = api.finish(visits.pop(args[0].number), args[1])
            visits[args[0].number] = None
        else:
            tell[what] = args
            tell["now"] = args[0] if what == "end" else tell.get("now", 0.0)
            continue
        try:
            pipe.send(reply)
        except BrokenPipeError:
            return


class Numbered:
    """A visit, as the other process sees it."""

    def __init__(self, number: int, delay: float) -> None:
        self.number, self.delay = number, delay


def one_life(api: EmulatedAPI, life: Life) -> dict[str, Any]:
    """Fork a life, serve it, and return what it told."""
    ours, theirs = Pipe()
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            live(theirs, life)
        except BaseException:  # noqa: BLE001 - reason: told to the parent
            theirs.send(("error", traceback.format_exc()))
            os._exit(1)
        os._exit(0)
    theirs.close()
    tell: dict[str, Any] = {"now": life.base}
    serve(ours, api, tell)
    ours.close()
    tell["code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return tell


def run(seed: int, tasks: int, *, bad: bool = False) -> tuple[list[str], Counter[str]]:
    """Play one world; return what is wrong, and some figures."""
    rng = random.Random(seed)
    kind = rng.choice([*KINDS, "log", "log"])
    api = EmulatedAPI(
        seed, epoch=EPOCH, durations=(rng.uniform(5, 60), 0.5), credits=1e9, limiter=kind
    )
    for fault in rng.sample(FAULTS, rng.randint(0, 5)):
        api.inject(Rule(**fault, probability=rng.choice([0.02, 0.1, 0.3])))
    ids = [f"source-{n:05}" for n in range(tasks)]
    figures: Counter[str] = Counter()
    home = FAST if os.access(FAST, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kie-world-", dir=home) as folder:
        path, base = Path(folder) / "run.db", 0.0
        for number in range(LIVES + 1):
            at = int(10 ** rng.uniform(0.7, 3.9)) if number < LIVES else None
            told = one_life(api, Life(path, ids, base, at, seed * 100 + number, bad and number > 0))
            figures["lives"] += 1
            if "error" in told:
                return [told["error"][0]], figures
            if told["code"] == 0:
                break
            figures["crashes"] += 1
            base = told["now"] + rng.choice([0.0, 1.0, 30.0])
        wrong = list(compare(api, path, ids, told["now"]))
        figures["states"] = 0
        figures.update(states(path))
    figures["refused"] += api.books.refused.get(429, 0)
    if figures["refused"] and kind != "counter" and not bad:  # the counter weighs a past window
        wrong.append(f"{figures['refused']} creates were refused by {kind}")
    return wrong, figures


def states(path: Path) -> dict[str, int]:
    """Count the journal's states."""
    with sqlite3.connect(path) as db:
        found = dict(db.execute("SELECT state, count(*) FROM items GROUP BY state"))
    db.close()
    return found


def compare(api: EmulatedAPI, path: Path, ids: list[str], now: float) -> Iterator[str]:
    """Hold the journal against the books: lost, paid twice, wrongly told."""
    with sqlite3.connect(path) as db:
        rows = {
            source: (state, task_id)
            for source, state, task_id in db.execute("SELECT source_id, state, task_id FROM items")
        }
    db.close()
    made: dict[str, list[str]] = {}
    for create in api.books.creates:
        made.setdefault(create.source_id, []).append(create.task_id)
    if sorted(rows) != ids:
        yield f"{len(rows)} rows for {len(ids)} ids"
    for source, (state, task_id) in rows.items():
        paid = made.get(source, [])
        if len(paid) > 1:
            yield f"{source} was paid for {len(paid)} times"
        elif state not in {"done", "failed", "in_doubt"}:
            yield f"{source} is {state} at the end"
        elif state == "done" and (not paid or api.tasks[paid[0]].state(now) != "success"):
            yield f"{source} is done, and is not"
        elif paid and state != "in_doubt" and task_id != paid[0]:
            yield f"{source}: task {paid[0]} was paid for and is lost ({state}, {task_id})"
        elif state == "failed" and paid and api.tasks[paid[0]].state(now) == "success":
            yield f"{source} is failed, and is a success"
    if api.books.most_in_window(10.0) > 20 and api.books.refused.get(429, 0) == 0:
        yield "more than 20 creates in 10 s"


def main() -> int:
    """Play many worlds; exit 1 if one is wrong."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=100)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--seed", type=int)
    arguments.add_argument("--tasks", type=int, default=200)
    asked = arguments.parse_args()
    seeds: Iterable[int] = range(asked.first, asked.first + asked.seeds)
    if asked.seed is not None:
        seeds = [asked.seed]
    total: Counter[str] = Counter()
    failed, began = 0, time.monotonic()
    for seed in seeds:
        wrong, figures = run(seed, asked.tasks)
        total.update(figures)
        total["worlds"] += 1
        if wrong:
            failed += 1
            print(f"seed {seed}: {len(wrong)} wrong, first: {wrong[0]}", flush=True)
    for name, number in sorted(total.items()):
        print(f"{name:<10} {number:>9,}")
    print(f"wrong      {failed:>9,}   in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the same seed: the same world
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.world", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
