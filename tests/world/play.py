"""Play one world, and hold the journal against the books."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import random
import sqlite3
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

import kie_async.files
import kie_async.transport._wire  # noqa: F401 - reason: loaded once, and not in each life
from kie_async import CreateRetry
from kie_async.emulator import KINDS, EmulatedAPI, Rule
from tests.world.far import EPOCH, FALSE_ALARM, FAULTS, posted, serve
from tests.world.life import Life, live, ruin

__all__ = ["run"]

LIVES = 6
FAST = "/dev/shm"
"""Memory: nothing here tests the disk."""
CREDITS = 1e9
ENDS = ("kill", "kill", "kill", "torn", "torn", "cancel", "leave")
HOWS = ("nothing", "reference", "receiver")
RETRIES = (CreateRetry.REPORTED, CreateRetry.REPORTED, CreateRetry.REJECTED)


class World(NamedTuple):
    """What a seed makes of its world."""

    api: EmulatedAPI
    rng: random.Random
    kind: str
    how: str
    retry: CreateRetry
    seed: int


def made(seed: int) -> World:
    """Make the world of *seed*."""
    rng = random.Random(seed)
    kind = rng.choice([*KINDS, "log", "log"])
    durations = (rng.uniform(5, 60), 0.5)
    api = EmulatedAPI(seed, epoch=EPOCH, durations=durations, credits=CREDITS, limiter=kind)
    retry = rng.choice(RETRIES)
    faults = FAULTS if retry is CreateRetry.REPORTED else (*FAULTS, FALSE_ALARM)
    for fault in rng.sample(faults, rng.randint(0, 6)):
        api.inject(Rule(**fault, probability=rng.choice([0.02, 0.1, 0.3])))
    return World(api, rng, kind, rng.choice(HOWS), retry, seed)


def run(seed: int, tasks: int, *, bad: str = "") -> tuple[list[str], Counter[str]]:
    """Play one world; return what is wrong, and some figures.

    Args:
        seed: Everything follows from it.
        tasks: How many ids the run has.
        bad: A client that breaks a promise; see `life.BAD`.
    """
    world = made(seed)
    ids = [f"source-{n:05}" for n in range(tasks)]
    figures: Counter[str] = Counter()
    home = FAST if os.access(FAST, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="kie-world-", dir=home) as folder:
        path = Path(folder) / "run.db"
        try:
            now = play(world, path, ids, figures, bad)
            wrong = list(settle(world, path, ids, now, figures))
        except LifeError as error:
            return [str(error)], figures
        figures.update(states(path))
    figures["refused"] += world.api.books.refused.get(429, 0)
    # The counter weighs a past window, and a lost create is in no client's book.
    if figures["refused"] and world.kind != "counter" and not bad:
        wrong.append(f"{figures['refused']} creates were refused by {world.kind}")
    return wrong, figures


class LifeError(Exception):
    """A life ended as none may: with an exception."""


def play(world: World, path: Path, ids: list[str], figures: Counter[str], bad: str) -> float:
    """Let lives follow each other until one comes to its end; return the time then."""
    base, rng = 0.0, world.rng
    for number in range(LIVES + 1):
        end = rng.choice(ENDS) if number < LIVES else "none"
        at = rng.randint(1, len(ids)) if end == "leave" else int(10 ** rng.uniform(0.7, 4.0))
        then = None
        if end == "leave":
            then = rng.choice([None, int(10 ** rng.uniform(2.0, 4.0))])
        elif end == "cancel":
            then = rng.choice([None, at + int(10 ** rng.uniform(0.0, 3.0))])
        life = Life(
            path=path,
            ids=ids,
            base=base,
            seed=world.seed * 100 + number,
            how=world.how,
            retry=world.retry,
            end=end,
            at=at,
            then=then,
            bad=bad,
        )
        if number:
            ruin(path, bad)
        told = one_life(world.api, life)
        figures["lives"] += 1
        if "end" in told and told["code"] == 0:
            return float(told["now"])
        figures["crashes" if told["code"] else "left"] += 1
        base = told["now"] + rng.choice([0.0, 1.0, 30.0])
        posted(world.api, base)  # nobody heard them
    raise LifeError("the last life did not come to its end")


def settle(
    world: World, path: Path, ids: list[str], now: float, figures: Counter[str]
) -> Iterator[str]:
    """Settle the doubts from Kie's log, run once more, and compare."""
    api = world.api
    figures["doubts"] += states(path).get("in_doubt", 0)
    yield from compare(world, path, ids, now)
    api.clear_rules()
    asked = api.books.requests.get("createTask", 0)
    log = tuple(create.task_id for create in api.books.creates)
    told = one_life(
        api,
        Life(path=path, ids=ids, base=now + 30.0, seed=world.seed, how=world.how, log=log),
    )
    if api.books.requests.get("createTask", 0) != asked:
        yield "a run that had ended was run again, and created"
    yield from compare(world, path, ids, told["now"], settled=world.how != "nothing")


def one_life(api: EmulatedAPI, life: Life) -> dict[str, Any]:
    """Fork a life, serve it, and return what it told.

    Raises:
        LifeError: It raised what no life may raise.
    """
    ours, theirs = Pipe()
    gc.freeze()  # what the child does not touch is not copied
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 3.12 warns of other threads: the life needs none
        child = os.fork()
    if child == 0:
        ours.close()
        try:
            live(theirs, life)
        except BaseException:  # noqa: BLE001 - reason: told to the parent
            with contextlib.suppress(OSError):
                theirs.send(("error", traceback.format_exc()))
            os._exit(1)
        os._exit(0)
    theirs.close()
    tell: dict[str, Any] = {"now": life.base}
    serve(ours, api, tell)
    ours.close()
    tell["code"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "error" in tell:
        raise LifeError(tell["error"][0])
    return tell


def states(path: Path) -> dict[str, int]:
    """Count the journal's states."""
    with sqlite3.connect(path) as db:
        found = dict(db.execute("SELECT state, count(*) FROM items GROUP BY state"))
    db.close()
    return found


def compare(
    world: World, path: Path, ids: list[str], now: float, *, settled: bool = False
) -> Iterator[str]:
    """Hold the journal against the books: lost, paid twice, wrongly told.

    Args:
        world: Has the books.
        path: The journal.
        ids: What was asked for.
        now: The API's time.
        settled: Every doubt had a reference, and was looked up: none that was paid is left.
    """
    api = world.api
    api.settle(now)
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT source_id, state, task_id, credits FROM items").fetchall()
    db.close()
    paid: dict[str, list[str]] = {}
    for create in api.books.creates:
        paid.setdefault(create.source_id, []).append(create.task_id)
    if sorted(row[0] for row in rows) != ids:
        yield f"{len(rows)} rows for {len(ids)} ids"
    for row in rows:
        yield from compare_row(api, row, paid.get(row[0], []), now, settled=settled)
    if api.books.most_in_window(10.0) > 20 and api.books.refused.get(429, 0) == 0:
        yield "more than 20 creates in 10 s"
    spent = api.books.charged - api.books.refunded
    on_record = sum(row[3] or 0.0 for row in rows if row[1] == "done")
    if settled and not math.isclose(spent, on_record, abs_tol=1e-6):
        yield f"{spent:g} credits were spent, and {on_record:g} are on record"


def compare_row(
    api: EmulatedAPI,
    row: tuple[str, str, str | None, float | None],
    paid: list[str],
    now: float,
    *,
    settled: bool,
) -> Iterator[str]:
    """Tell what is wrong with one item."""
    source, state, task_id, credits = row
    task = api.tasks[paid[0]] if paid else None
    if len(paid) > 1:
        yield f"{source} was paid for {len(paid)} times"
    elif state not in {"done", "failed", "in_doubt"}:
        yield f"{source} is {state} at the end"
    elif task is None:
        if state == "done":
            yield f"{source} is done, and was never created"
    elif state == "in_doubt":
        if settled:
            yield f"{source}: task {paid[0]} has its reference, and is in doubt still"
    elif task_id != paid[0]:
        yield f"{source}: task {paid[0]} was paid for and is lost ({state}, {task_id})"
    elif (state == "done") != (task.state(now) == "success"):
        yield f"{source} is {state}, and its task is {task.state(now)}"
    elif state == "done" and credits != task.credits:
        yield f"{source} cost {task.credits}, and {credits} is on record"
