"""A small world for crashes, lifetimes and abuse: an emulator, a folder, workers, a checker.

Workers are real processes.  They are forked from one that has imported everything, so that
a test can afford many of them.  A worker is killed from outside, or kills itself at a named
point: before or after a commit of the journal, or of a file's last steps.

What they do is in `world_k_work`.  The checker, `world_k_check`, reads the emulator's
books, the journal's tables and the files by itself.

Where the matrix and this package use different words: ``JournalLocked`` and the like are
`JournalLockedError` and the like; ``KeyConflict`` is `KeyConflictError`, ``StorageFull``
`StorageFullError`, ``ClientClosed`` `SessionClosedError`, ``WrongLoop`` and ``ForkedClient``
`WrongLoopError`, ``KieConfigError`` `UsageError`; ``spend_limit`` is ``max_credits``;
``UnexplainedSpend`` is `Audit.unexplained`.  A lane that stops is a run that ends with its
error after the outcomes of what runs; the same command goes on.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from benchmarks.kills import noise
from kie_async import KieSession
from kie_async.bulk import BulkItem, Finding, reconcile
from kie_async.emulator import Books, Emulator
from kie_async.journal import Journal
from kie_async.models import Outcome
from tests.faults.world_k_check import items, violations
from tests.faults.world_k_work import Job, kie, lend, quick, work

PATIENCE = 60.0
"""Seconds that anything here may take on a busy machine; nothing takes it when it works."""
KILLED = -signal.SIGKILL

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["pytest", "tests.faults.world_k"])


async def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is true that another process does."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - another process does it, and tells nobody
            await asyncio.sleep(0.005)


@define
class Worker:
    """A worker's process."""

    process: BaseProcess

    @property
    def pid(self) -> int:
        """Its number."""
        return self.process.pid or 0

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self.process.exitcode is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def kill(self) -> int:
        """Kill it at once; return how it ended."""
        self.process.kill()
        return await self.ended()

    async def ended(self) -> int:
        """Wait for its end; return its code, or minus the signal that killed it."""
        await asyncio.to_thread(self.process.join, PATIENCE)
        code = self.process.exitcode
        assert code is not None, "the worker hangs"
        return code


# -- the world ---------------------------------------------------------------------------


@define
class World:
    """An emulator, source tasks, and a folder with a journal and results."""

    emulator: Emulator
    folder: Path
    ids: tuple[str, ...]
    workers: list[Worker] = field(factory=list)

    @property
    def books(self) -> Books:
        """The truth."""
        return self.emulator.books

    @property
    def path(self) -> Path:
        """The journal."""
        return self.folder / "run.db"

    def job(self, **settings: Any) -> Job:
        """Make a job on all ids in this folder."""
        job = Job(url=self.emulator.url, folder=self.folder, ids=self.ids)
        return evolve(job, **settings)

    def start(self, **settings: Any) -> Worker:
        """Start a worker."""
        return self._started(work, self.job(**settings))

    def command(self, *arguments: str, key: str | None = None) -> Worker:
        """Start the command line; *key* is another one than the emulator's."""
        api = self.emulator
        said = self.folder / "said"
        return self._started(kie, list(arguments), api.url, key or api.api_key, said)

    def lend(self, said: Path) -> Worker:
        """Start a process that opens a session and lends it to its fork."""
        api = self.emulator
        return self._started(lend, api.url, api.api_key, self.ids[0], said)

    def said(self) -> str:
        """Return what the command lines said."""
        return (self.folder / "said").read_text()

    def _started(self, target: Callable[..., None], *args: Any) -> Worker:
        process = _forks.Process(target=target, args=args, daemon=True)
        process.start()
        self.workers.append(Worker(process))
        return self.workers[-1]

    async def run(self, **settings: Any) -> int:
        """Run a worker to its end; return how it ended."""
        return await self.start(**settings).ended()

    def stopped_by(self) -> str:
        """Return the name of the error that stopped the last worker that was stopped."""
        return (self.folder / "stopped").read_text()

    def session(self, **settings: Any) -> KieSession:
        """Make a session of this process."""
        return KieSession(self.emulator.api_key, base_url=self.emulator.url, **quick(**settings))

    def states(self) -> dict[str, str]:
        """Return what the journal says of each source."""
        return {row["source_id"]: row["state"] for row in items(self.path)}

    def paid(self) -> list[int]:
        """Return how often each source was paid for."""
        return [self.books.paid(one) for one in self.ids]

    async def settle(self) -> list[Finding]:
        """Recover, and show every task of the books to the journal, as a user would."""
        async with Journal(self.path) as journal, self.session() as session:
            await journal.recover()
            made = [row.task_id for row in self.books.creates]
            return [one async for one in reconcile(journal, session.get_task, made)]

    def violations(self, *, extra: int = 0) -> list[str]:
        """Compare books, journal and files; *extra* creates too many are announced."""
        return violations(self.books, self.folder, self.ids, extra=extra)


@asynccontextmanager
async def world(folder: Path, sources: int = 3, **settings: Any) -> AsyncIterator[World]:
    """Run an emulator with some source tasks; no worker is left behind."""
    told: dict[str, Any] = {
        "rate": (400, 0.1),
        "durations": lambda _rng: 0.05,
        "credits": 1e6,
        "paint": noise,
        **settings,
    }
    async with Emulator(**told) as emulator:
        ids = [await emulator.add_source_task() for _ in range(sources)]
        made = World(emulator, folder, tuple(ids))
        try:
            yield made
        finally:
            for worker in made.workers:
                if worker.running:
                    worker.process.kill()
                await asyncio.to_thread(worker.process.join, PATIENCE)
                worker.process.close()


async def collected(
    session: KieSession, source: Iterable[str | BulkItem], **options: Any
) -> list[Outcome]:
    """Run a bulk run in this process to its end."""
    run = session.upscale_many(source, allow_private=True, **options)
    return [outcome async for outcome in run]


async def forked(w: World) -> list[str]:
    """Lend a session to a fork; return what came of each call there, and of the last one here."""
    said = w.folder / "said"
    worker = w.lend(said)
    assert await worker.ended() == 0
    return [str(one) for one in json.loads(said.read_text())]


def picked(seed: int) -> random.Random:
    """Return numbers that are the same each time."""
    return random.Random(seed)
