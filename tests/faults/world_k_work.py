"""What the worker processes of the rows of crashes do: bulk runs, the command line, a fork."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

import kie_async.cli._bulk_work
import kie_async.transport._results
import kie_async.transport._wire  # noqa: F401 - loaded here, so that no fork has to
from kie_async import KieSession, PollSchedule, RetryPolicy, SlidingWindowLimiter
from kie_async.errors import KieError
from kie_async.files import _part
from kie_async.journal import Journal
from kie_async.journal._schema import SCHEMA, Schema
from kie_async.limiter import RateLimiter
from kie_async.redis_limiter import RedisLimiter
from kie_async.session._bulk import BulkCaller

CALLBACKS = "http://127.0.0.1:9/cb"
"""Nobody is there; the references in it are what counts."""
STOPPED = 3
"""How a worker ends that a `KieError` stopped; the file ``stopped`` has its name."""
QUICK = RetryPolicy(
    base=0.01, cap=0.02, rate_limit_base=0.05, rate_limit_cap=0.1, reported_base=0.02
)


def quick(**settings: Any) -> dict[str, Any]:
    """Return the settings of a session that loses no time."""
    return {
        "limiter": SlidingWindowLimiter(400, 0.1),
        "poll_limiter": SlidingWindowLimiter(400, 0.1),
        "polling": PollSchedule(first_gap=0.05, min_gap=0.02, error_cap=0.1),
        "retry": QUICK,
        **settings,
    }


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
        redis: The address of the store that keeps the rate for all; "" for none.  *share*
            and *lease* are the limiter's.
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
    redis: str = ""
    share: float = 0.1
    lease: float = 1.0
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

    _session.PollSchedule = lambda: PollSchedule(first_gap=0.35, min_gap=0.1)  # type: ignore

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
            journal._writer._commits._opened.conn.execute("PRAGMA wal_autocheckpoint = 1")
        async with (
            _limiter(job) as limiter,
            KieSession("emulator-key", base_url=job.url, **quick(limiter=limiter)) as session,
        ):
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


@asynccontextmanager
async def _limiter(job: Job) -> AsyncIterator[RateLimiter]:
    limit, window = job.rate
    if not job.redis:
        yield SlidingWindowLimiter(limit, window)
        return
    settings = {"limit": limit, "window": window, "share": job.share, "lease": job.lease}
    async with RedisLimiter.from_url(job.redis, "account", **settings) as limiter:
        yield limiter


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
