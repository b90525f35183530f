"""One process of a run, and the bad clients that the checker must catch."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from attrs import frozen

from kie_async import CallbackReceiver, CreateRetry, KieSession
from kie_async.bulk import reconcile
from kie_async.journal import Journal
from kie_async.journal._rows import seal
from kie_async.testing import JumpingLoop
from tests.world.far import FarKie
from tests.world.mortal import FILES, Crash, make_mortal

__all__ = ["BAD", "Life", "live", "ruin"]

HMAC_KEY = "emulator-hmac-key"
ROUND = 1.0
"""Seconds between two rounds of the postman."""


@frozen(kw_only=True)
class Life:
    """One process: where it begins, and how it ends.

    Attributes:
        path: The journal.
        ids: What is to be upscaled.
        base: The API's time at its start, in seconds.
        seed: For its jitter; `random` itself is seeded anew by a fork.
        how: What its creates carry: "nothing", a "reference" in a URL that nobody serves,
            or the URL of a "receiver" that hears callbacks.
        retry: Which failed creates it sends again.
        end: "none", "kill", "torn", "cancel" or "leave" (its consumer takes no more).
        at: The step of that end; of outcomes for "leave".
        then: The step at which one that is ending is killed; None lets it end.
        log: Task ids of Kie's log, from which its doubts are settled first.
        bad: A name from `BAD`, or nothing.
    """

    path: Path
    ids: list[str]
    base: float
    seed: int
    how: str = "nothing"
    retry: CreateRetry = CreateRetry.REPORTED
    end: str = "none"
    at: int = 0
    then: int | None = None
    log: tuple[str, ...] = ()
    bad: str = ""


def live(pipe: Connection, life: Life) -> None:
    """Run to the end, or to the crash."""
    step = Crash(
        life.at if life.end in {"kill", "torn"} else life.then,
        life.path,
        random.Random(life.seed),
        torn=life.end == "torn",
        cancel_at=life.at if life.end == "cancel" else None,
        copy_to=life.path.parent if life.bad == "does not sync" else None,
    )
    make_mortal(step)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        step.cancel = task.cancel
        await work(life, FarKie(pipe, step, life.base, life.seed), step)
        if life.end != "leave":
            pipe.send(("end",))

    with (
        contextlib.suppress(asyncio.CancelledError),
        asyncio.Runner(loop_factory=JumpingLoop) as runner,
    ):
        runner.run(main())


async def work(life: Life, kie: FarKie, step: Crash) -> None:
    """Do what the process is for."""
    journal = Journal(life.path, clock=kie.unix, _fault=step)
    receiver = None
    if life.how == "receiver":
        receiver = CallbackReceiver([HMAC_KEY], public_url="https://me.example", clock=kie.unix)
    settings: dict[str, Any] = {"create_retry": life.retry, "callbacks": receiver}
    async with journal, kie.session(**settings) as session, post(kie, receiver):
        if life.log:
            async for _ in reconcile(journal, session.get_task, life.log):
                pass
        await upscale(life, session, journal)


async def upscale(life: Life, session: KieSession, journal: Journal) -> None:
    """Take the outcomes of a run: all of them, or as many as this life takes."""
    url = "https://me.example/kie" if life.how == "reference" else None
    run = session.upscale_many(life.ids, journal=journal, callback_url=url)
    async with contextlib.aclosing(run):
        taken = 0
        async for _ in run:
            taken += 1
            if life.end == "leave" and taken == life.at:
                return


@contextlib.asynccontextmanager
async def post(kie: FarKie, receiver: CallbackReceiver | None) -> AsyncIterator[None]:
    """Bring the callbacks while the process lives."""
    if receiver is None:
        yield
        return

    async def rounds() -> None:
        while True:
            await asyncio.sleep(ROUND)
            for path, headers, body in kie.api.posts(kie.now()):
                receiver.handle("POST", path, headers, body)

    task = asyncio.create_task(rounds())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        receiver.close()


# -- bad clients: what must never be done, done to the journal between two lives ------------


def resends_doubts(path: Path) -> None:
    """Send again what may have been paid for."""
    put(path, "in_doubt", "planned")


def forgets_intents(path: Path) -> None:
    """Keep no record of a create before it is sent."""
    put(path, "sending", "planned")


def forgets_ids(path: Path) -> None:
    """Take a lost answer for a refusal."""
    put(path, "in_doubt", "failed")


def does_not_sync(path: Path) -> None:
    """Lose the last commits with the power; `Crash` has made the copy."""
    if (path.parent / "copy").exists():
        for name in FILES:
            shutil.copy(path.parent / f"copy{name}", f"{path}{name}")


BAD: dict[str, Callable[[Path], None]] = {
    "resends doubts": resends_doubts,
    "forgets intents": forgets_intents,
    "forgets ids": forgets_ids,
    "does not sync": does_not_sync,
}


def ruin(path: Path, bad: str) -> None:
    """Do what the client called *bad* does at its start."""
    if bad and path.exists():
        BAD[bad](path)


def put(path: Path, old: str, new: str) -> None:
    """Move rows from one state to another, so that the journal does not notice."""
    with sqlite3.connect(path) as db:
        rows = db.execute(
            "SELECT seq, source_id, key, output_name FROM items WHERE state = ?", (old,)
        ).fetchall()
        for seq, source, key, name in rows:
            sealed = seal(source, key, name, new, None)
            db.execute("UPDATE items SET state = ?, checksum = ? WHERE seq = ?", (new, sealed, seq))
            db.execute(
                "UPDATE attempts SET verdict = 'not_sent', ended_at = intent_at "
                "WHERE item = ? AND verdict IS NULL",
                (seq,),
            )
    db.close()
