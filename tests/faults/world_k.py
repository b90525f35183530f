"""A small world for crashes, lifetimes and abuse: an emulator, a folder, workers, a checker.

Workers are real processes.  They are forked from one that has imported everything, so that
a test can afford many of them.  A worker is killed from outside, or kills itself at a named
point: before or after a commit of the journal, or of a file's last steps.

The checker reads the emulator's books, the journal's tables and the files by itself; it
uses nothing of what it checks.

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
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, closing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

import kie_async.cli._bulk_work
import kie_async.transport._results
import kie_async.transport._wire  # noqa: F401 - loaded here, so that no fork has to
from benchmarks.kills import noise, whole
from kie_async import KieSession, PollSchedule, RetryPolicy, SlidingWindowLimiter
from kie_async.bulk import BulkItem, Finding, reconcile
from kie_async.emulator import Books, Emulator
from kie_async.errors import KieError
from kie_async.files import _part
from kie_async.journal import ItemState, Journal
from kie_async.journal._schema import SCHEMA, Schema
from kie_async.models import Outcome
from kie_async.session._bulk import BulkCaller

PATIENCE = 60.0
"""Seconds that anything here may take on a busy machine; nothing takes it when it works."""
CALLBACKS = "http://127.0.0.1:9/cb"
"""Nobody is there; the references in it are what counts."""
KILLED = -signal.SIGKILL
STOPPED = 3
"""How a worker ends that a `KieError` stopped; the file ``stopped`` has its name."""
QUICK = RetryPolicy(
    base=0.01, cap=0.02, rate_limit_base=0.05, rate_limit_cap=0.1, reported_base=0.02
)

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["pytest", "tests.faults.world_k"])


async def until(true: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until something is true that another process does."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - another process does it, and tells nobody
            await asyncio.sleep(0.005)


def quick(**settings: Any) -> dict[str, Any]:
    """Return the settings of a session that loses no time."""
    return {
        "limiter": SlidingWindowLimiter(400, 0.1),
        "poll_limiter": SlidingWindowLimiter(400, 0.1),
        "polling": PollSchedule(first_gap=0.05, min_gap=0.02, error_cap=0.1),
        "retry": QUICK,
        **settings,
    }


# -- workers -----------------------------------------------------------------------------


def _widened(conn: sqlite3.Connection) -> None:
    conn.execute("ALTER TABLE items ADD COLUMN colour TEXT")


LATER = Schema(version=SCHEMA.version + 1, create="", steps={SCHEMA.version: _widened})
"""An invented later version of the journal."""


@frozen(kw_only=True)
class Job:
    """What a worker does: a bulk run, until its end or until it is killed.

    Attributes:
        kill_at: The point at which it kills itself, at the *hit*-th time.
        save: Save the results, too.
        rate: Its creates per seconds.
        bad: "resends": sends its doubts again.  "forgets": starts without a journal.
            "late": keeps an intent after the create was sent.  "bursts": forgets the
            creates before its start.
        room: Bytes that any file may still grow by once the list is planned.
        everywhere: Put the log into the main file with each commit.
        later: Bring the journal to the schema `LATER`.
        nobody: Give up the rights of root first.
    """

    url: str
    folder: Path
    ids: tuple[str, ...]
    kill_at: str = ""
    hit: int = 1
    save: bool = False
    callbacks: bool = False
    resolution: str | None = None
    in_flight: int = 100
    rate: tuple[int, float] = (400, 0.1)
    bad: str = ""
    room: int | None = None
    everywhere: bool = False
    later: bool = False
    nobody: bool = False

    @property
    def path(self) -> Path:
        """The journal."""
        return self.folder / "run.db"


def work(job: Job) -> None:
    """Do a job; the target of a worker's process."""
    if job.nobody and os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        asyncio.run(_work(job))
    except KieError as error:
        if not job.nobody:
            (job.folder / "stopped").write_text(type(error).__name__)
        os._exit(STOPPED)


def kie(arguments: list[str], url: str, api_key: str, said: Path) -> None:
    """Run the command line, and write what it says into a file; another target."""
    from kie_async.cli import main
    from kie_async.session import _session

    _session.PollSchedule = lambda: PollSchedule(first_gap=0.05, min_gap=0.02)  # type: ignore

    os.environ |= {"KIE_BASE_URL": url, "KIE_API_KEY": api_key}
    told = os.open(said, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(told, 1)
    os.dup2(told, 2)
    sys.argv = ["kie", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()


async def _work(job: Job) -> None:
    if job.bad == "forgets":
        for path in job.folder.glob("run.db*"):
            path.unlink()
    if job.bad == "late":
        _intend_late()
    if job.bad == "bursts":
        BulkCaller.remember = lambda *_: None  # type: ignore[method-assign]
    schema = LATER if job.later else SCHEMA
    async with Journal(job.path, _fault=_killer(job), _schema=schema) as journal:
        if job.everywhere:
            journal._writer._opened.conn.execute("PRAGMA wal_autocheckpoint = 1")
        async with KieSession(
            "emulator-key", base_url=job.url, **quick(limiter=SlidingWindowLimiter(*job.rate))
        ) as session:
            if job.bad == "resends":
                await journal.recover()
                async for doubt in journal.doubts():
                    await journal.resolve(doubt.item.source_id, recreate=True)
            run = session.upscale_many(
                job.ids,
                journal=journal,
                resolution=job.resolution,
                directory=job.folder / "out" if job.save else None,
                allow_private=True,
                callback_url=CALLBACKS if job.callbacks else None,
                in_flight=job.in_flight,
            )
            async for _ in run:
                pass


def _killer(job: Job) -> Callable[[str], None]:
    """Return what the journal tells its points to; it kills this process at one of them."""
    left = job.hit

    def reach(point: str) -> None:
        nonlocal left
        if point == "plan.after_commit" and job.room is not None:
            _limit(job.folder, job.room)
        if point == job.kill_at:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    moved_to, sync_folder = _part.moved_to, _part.sync_folder

    def moving(path: Path, final: Path) -> bool:
        reach("file.synced")
        return moved_to(path, final)

    def syncing(folder: Path) -> None:
        reach("file.named")
        sync_folder(folder)

    _part.moved_to, _part.sync_folder = moving, syncing  # this process has no other use
    return reach


def _limit(folder: Path, room: int) -> None:
    """Let no file of this process grow by more than *room* bytes beyond the log's size."""
    import resource

    size = (folder / "run.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, resource.RLIM_INFINITY))


def _intend_late() -> None:
    """Make this process a bad client: its intents are written when the answer is there."""
    from kie_async.bulk._record import JournalRecord

    intend, settle = JournalRecord.intend, JournalRecord.settle

    async def nothing(_self: JournalRecord) -> None:
        return None

    async def late(self: JournalRecord, *args: Any, **named: Any) -> None:
        await intend(self)
        await settle(self, *args, **named)

    JournalRecord.intend, JournalRecord.settle = nothing, late


def lend(url: str, api_key: str, source: str, said: Path) -> None:
    """Open a session, and use it in a fork of this process; a target."""
    told: list[str] = []

    async def attempt(call: Callable[[], Any]) -> None:
        try:
            told.append(str(await call()))
        except KieError as error:
            told.append(type(error).__name__)

    async def main() -> None:
        session = KieSession(api_key, base_url=url, **quick())
        async with session:
            await session.get_credits()  # an open connection, which the fork inherits
            child = os.fork()
            if not child:
                try:
                    _in_fork(session, attempt, source, told, said)
                finally:
                    os._exit(1)
            await asyncio.to_thread(os.waitpid, child, 0)
            told.extend(json.loads(said.read_text()))
            await attempt(session.get_credits)
            said.write_text(json.dumps(told))

    asyncio.run(main())


def _in_fork(
    session: KieSession, attempt: Callable[..., Any], source: str, told: list[str], said: Path
) -> None:
    """Make each call in the child, close the session, and enter it anew."""
    asyncio.set_event_loop(None)

    async def use() -> None:
        await attempt(lambda: session.create_task("grok-imagine/upscale", {"task_id": source}))
        await attempt(lambda: session.upscale(source))
        await attempt(lambda: session.wait_for_result(source))
        await attempt(lambda: session.get_task(source))
        await attempt(session.get_credits)
        await attempt(session.close)
        async with session:
            await attempt(session.get_credits)

    asyncio.run(use())
    said.write_text(json.dumps(told))


async def forked(w: World) -> list[str]:
    """Lend a session to a fork; return what came of each call there, and of the last one here."""
    said = w.folder / "said"
    worker = w.lend(said)
    assert await worker.ended() == 0
    return [str(one) for one in json.loads(said.read_text())]


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


async def states_in(journal: Journal) -> dict[str, ItemState]:
    """Return the state of every item of an open journal."""
    return {row["source_id"]: row["state"] async for row in journal.export()}


# -- the checker -------------------------------------------------------------------------


def rows(path: Path, question: str) -> list[dict[str, Any]]:
    """Ask a journal's file, without the package."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as conn:
        conn.row_factory = sqlite3.Row
        return [dict(row) for row in conn.execute(question)]


def items(path: Path) -> list[dict[str, Any]]:
    """Return the journal's items as they are in its table."""
    return rows(path, "SELECT * FROM items ORDER BY seq")


def attempts(path: Path) -> list[dict[str, Any]]:
    """Return every attempt with the id of its source."""
    asked = "SELECT i.source_id, a.* FROM attempts AS a JOIN items AS i ON i.seq = a.item"
    return rows(path, f"{asked} ORDER BY a.item, a.number")


def violations(books: Books, folder: Path, ids: Collection[str], *, extra: int = 0) -> list[str]:
    """Say what is wrong with these sources between books, journal and files of a folder.

    An item that is still ``sending`` counts as in doubt: the next start makes it so.
    """
    path = folder / "run.db"
    found = [f"{row} is no sound journal" for row in _unsound(path)]
    if found:
        return found
    made = {row["source_id"]: row for row in items(path)}
    tried: dict[str, list[dict[str, Any]]] = {}
    for row in attempts(path):
        tried.setdefault(row["source_id"], []).append(row)
    known = {row["task_id"] for each in tried.values() for row in each if row["task_id"]}
    found += [f"I1 {one} was paid {n} times" for one in ids if (n := books.paid(one)) > 1 + extra]
    for create in [row for row in books.creates if row.source_id in ids]:
        item = made.get(create.source_id)
        state = item["state"] if item else "unknown"
        if create.task_id not in known and state not in {"in_doubt", "sending"}:
            found.append(f"I2 task {create.task_id} of {create.source_id} is lost ({state})")
    for one, item in made.items():
        if item["state"] in {"sent", "done"} and not books.paid(one):
            found.append(f"I2 {one} is {item['state']}, and nothing was created for it")
        if item["state"] == "in_doubt" and not _listed(tried.get(one, [])):
            found.append(f"I3 the doubt of {one} says no time or reason")
    return found + _bad_files(folder / "out", made)


def _unsound(path: Path) -> list[str]:
    try:
        told = rows(path, "PRAGMA integrity_check")
    except sqlite3.Error as error:
        return [f"I19 {path.name} ({error})"]
    return [] if told == [{"integrity_check": "ok"}] else [f"I19 {path.name}"]


def _listed(tries: list[dict[str, Any]]) -> bool:
    doubtful = [row for row in tries if row["verdict"] in {"in_doubt", "reported"}]
    return bool(doubtful) and all(row["intent_at"] and row["reason"] for row in doubtful)


def _bad_files(out: Path, made: dict[str, dict[str, Any]]) -> list[str]:
    if not out.is_dir():
        return []
    named = [path for path in out.iterdir() if ".part" not in path.name]
    found = [f"I6 {path.name} is half written" for path in named if not whole(path)]
    there = {str(path) for path in named}
    for one, item in made.items():
        missing = set(json.loads(item["files"] or "[]")) - there
        found += [f"I6 {one}: {path} is on record and not there" for path in missing]
    return found


def picked(seed: int) -> random.Random:
    """Return numbers that are the same each time."""
    return random.Random(seed)
