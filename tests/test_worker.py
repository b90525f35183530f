"""Many workers, one list: real processes, a real PostgreSQL, the emulator's books."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import signal
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import define, field
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException

from kie_async import KieSession, UsageError
from kie_async.emulator import Emulator, Rule
from kie_async.errors import AuthenticationError, InsufficientCreditsError, ItemTakenError
from kie_async.journal import ItemState
from kie_async.limiter import SlidingWindowLimiter, Unlimited
from kie_async.models import Outcome, OutcomeStatus
from kie_async.postgres import Place
from kie_async.retry import CreateRetry
from kie_async.worker import Later, Plan, Queue, QueuedJournal, Worker, _worker, submit
from tests.faults.world_t_proxy import FaultProxy
from tests.postgres_servers import POSTGRES, Postgres, postgres_server

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL on this machine"),
]

LIMIT, WINDOW = 20, 0.5
LEASE = 1.5


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@define
class Cluster:
    """An emulator, a run in PostgreSQL, and processes that work on it."""

    emulator: Emulator
    server: Postgres
    ids: list[str]
    run: str = field(factory=lambda: f"t{secrets.token_hex(6)}")
    workers: list[Process] = field(factory=list)

    def journal(self, **settings: Any) -> QueuedJournal:
        return QueuedJournal(self.server.url, self.run, **{"lease": LEASE, **settings})

    def session(self, **settings: Any) -> KieSession:
        settings = {"limiter": Unlimited(), "poll_limiter": Unlimited(), **settings}
        return KieSession(self.emulator.api_key, base_url=self.emulator.url, **settings)

    async def submit(self) -> int:
        async with self.journal() as journal:
            return await submit(journal, self.ids)

    async def start(self, folder: Path | str = "", *, url: str = "") -> Process:
        """Start a worker in a process of its own, and wait until it takes items."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "tests.cluster_worker"),
            *(url or self.server.url, self.run, self.emulator.url, self.emulator.api_key),
            *(str(LIMIT), str(WINDOW), str(LEASE), str(folder)),
            stdout=asyncio.subprocess.PIPE,
        )
        self.workers.append(process)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        return process

    async def ended(self, process: Process) -> Counter[str]:
        """Wait for a worker's end; return its outcomes by status."""
        async with asyncio.timeout(90.0):
            said, _ = await process.communicate()
        assert process.returncode == 0
        return Counter(line.split()[1] for line in said.decode().splitlines())

    async def made(self, count: int) -> None:
        """Wait until so many tasks were created."""
        until = asyncio.get_running_loop().time() + 60.0
        while len(self.emulator.books.creates) < count:
            assert asyncio.get_running_loop().time() < until
            await asyncio.sleep(0.01)  # the emulator runs in this very loop

    async def check(self, doubts: int = 0) -> None:
        """Compare the books with the journal: nothing lost, nothing twice, all ended."""
        books = self.emulator.books
        paid = [books.paid(one) for one in self.ids]
        assert max(paid) == 1
        async with self.journal(read_only=True) as journal:
            counts = await journal.counts()
            assert (counts.planned, counts.sending, counts.sent) == (0, 0, 0)
            assert counts.in_doubt <= doubts
            known = {item.task_id async for item in journal.iterate(ItemState.DONE)}
            doubtful = {doubt.item.source_id async for doubt in journal.doubts()}
        for create in books.creates:
            assert create.task_id in known or create.source_id in doubtful
        assert len(known) + len(doubtful) == len(self.ids)
        assert books.most_in_window(WINDOW) <= LIMIT


@contextlib.asynccontextmanager
async def cluster(server: Postgres, items: int, **settings: Any) -> AsyncIterator[Cluster]:
    settings = {"rate": (LIMIT, WINDOW), "durations": lambda _rng: 0.4, **settings}
    async with Emulator(credits=1e6, **settings) as emulator:
        ids = [await emulator.add_source_task(f"src{number:05d}") for number in range(items)]
        made = Cluster(emulator, server, ids)
        try:
            yield made
        finally:
            for process in made.workers:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.communicate()


async def collected(work: Worker) -> list[Outcome]:
    return [outcome async for outcome in work]


@pytest.mark.asyncio
async def test_three_processes_share_a_list(server: Postgres, tmp_path: Path):
    """Each id once, each outcome told by one worker, the limit kept, all files there."""
    async with cluster(server, 60) as c:
        assert await c.submit() == 60
        workers = [await c.start(tmp_path) for _ in range(3)]
        told = [await c.ended(worker) for worker in workers]

        assert sum(told, Counter()) == {"done": 60}
        await c.check()
        assert c.emulator.books.refused == {}
        async with c.journal(read_only=True) as journal:
            saved = [name async for i in journal.iterate(ItemState.DONE) for name in i.files]
        assert len(saved) == len(set(saved)) == 60
        assert all(Path(name).stat().st_size for name in saved)

        assert await c.submit() == 0  # the same list again: nothing to do
        assert await c.ended(await c.start()) == {}
        await c.check()


@pytest.mark.asyncio
async def test_the_work_of_the_dead_goes_to_the_others(server: Postgres):
    """Killed with -9 in the middle: at most a doubt for each create that was under way."""
    async with cluster(server, 80) as c:
        await c.submit()
        first, other = await c.start(), await c.start()
        await c.made(25)
        first.send_signal(signal.SIGKILL)
        await c.ended(other)

        await c.check(doubts=50)


@pytest.mark.asyncio
async def test_a_create_cut_off_by_a_kill_is_a_doubt_and_never_sent_again(server: Postgres):
    """The answer is on its way when the worker dies: another one puts it in doubt."""
    async with cluster(server, 4) as c:
        await c.submit()
        c.emulator.inject(Rule(route="createTask", action="delay", when="after", delay=30.0))
        first = await c.start()
        await c.made(4)
        first.send_signal(signal.SIGKILL)
        c.emulator.clear_rules()
        await c.ended(await c.start())

        assert [c.emulator.books.paid(one) for one in c.ids] == [1] * 4
        async with c.journal() as journal:
            assert (await journal.counts()).in_doubt == 4
            async for doubt in journal.doubts():
                assert doubt.item.reason == "crash"
            # settled by a person, it comes back to the workers
            for create in c.emulator.books.creates:
                await journal.resolve(create.source_id, as_task_id=create.task_id, by="test")
        assert await c.ended(await c.start()) == {"done": 4}
        await c.check()


@pytest.mark.asyncio
async def test_the_server_restarts_in_the_middle(tmp_path: Path):
    """Workers wait for it; what was in the air is asked, not guessed."""
    with postgres_server() as server:
        async with cluster(server, 60) as c:
            await c.submit()
            workers = [await c.start() for _ in range(2)]
            await c.made(20)
            server.stop()
            await asyncio.sleep(0.2)
            await asyncio.to_thread(server.start)
            told = [await c.ended(worker) for worker in workers]

            # An outage longer than the lease: each takes the other for dead, waits for its
            # tasks too, and tells of them too.  What counts is what was made and kept.
            assert set(sum(told, Counter())) == {"done"}
            await c.check(doubts=0)


@pytest.mark.asyncio
@pytest.mark.parametrize("words", ["procrastinate_fetch_job", "procrastinate_update_heartbeat"])
async def test_a_connection_that_breaks_holds_up_no_item_for_a_slow_one(
    server: Postgres, monkeypatch: pytest.MonkeyPatch, words: str
):
    """The worker takes the next ones although a task of before still runs."""
    slow = itertools.chain([90.0], itertools.repeat(0.2))
    broken = False
    ask = PsycopgConnector._get_cursor

    class Breaking:
        def __init__(self, cursor: Any) -> None:
            self.fetchone, self.fetchall = cursor.fetchone, cursor.fetchall
            self._execute = cursor.execute

        async def execute(self, query: str, values: Any) -> None:
            nonlocal broken
            if words in query and not broken and len(c.emulator.books.creates) >= 8:
                broken = True
                raise psycopg.OperationalError("the connection broke")
            await self._execute(query, values)

    @contextlib.asynccontextmanager
    async def breaking(self: PsycopgConnector, connection: Any = None) -> AsyncIterator[Breaking]:
        async with ask(self, connection) as cursor:
            yield Breaking(cursor)

    monkeypatch.setattr(PsycopgConnector, "_get_cursor", breaking)
    async with cluster(server, 24, durations=lambda _rng: next(slow)) as c:
        await c.submit()
        limiter = SlidingWindowLimiter(2, 0.5)
        async with c.journal() as journal, c.session(limiter=limiter) as kie:
            work = kie.work(journal, in_flight=10)
            taking = asyncio.ensure_future(collected(work))
            async with asyncio.timeout(45.0):
                await c.made(24)
            assert broken
            await work.give_up_waiting()
            await taking


@pytest.mark.asyncio
async def test_one_taken_for_dead_takes_new_items_beside_a_slow_one(server: Postgres):
    """A machine that was suspended: another worker's start strikes it off the list."""
    slow = itertools.chain([90.0], itertools.repeat(0.2))
    async with cluster(server, 16, durations=lambda _rng: next(slow)) as c:
        await c.submit()
        limiter = SlidingWindowLimiter(2, 0.25)
        async with c.journal() as journal, c.session(limiter=limiter) as kie:
            work = kie.work(journal, in_flight=10)
            taking = asyncio.ensure_future(collected(work))
            await c.made(4)
            with server.connect() as conn:
                conn.execute(f"DELETE FROM kie_{c.run}.procrastinate_workers")
            async with asyncio.timeout(30.0):
                await c.made(16)
            await work.give_up_waiting()
            await taking
            with server.connect() as conn:
                left = conn.execute(f"SELECT * FROM kie_{c.run}.procrastinate_workers").fetchall()
            assert left == []
        assert max(c.emulator.books.paid(one) for one in c.ids) == 1


@pytest.mark.asyncio
async def test_the_run_ends_although_an_end_was_not_written(server: Postgres):
    """A job that nobody has in hand is delivered again, also to the worker that had it."""
    async with cluster(server, 6, rate=None) as c:
        await c.submit()
        async with c.journal() as journal, c.session() as kie:
            manager = journal.queue._app.job_manager
            finish, failures = manager.finish_job, iter([True, False, True])

            async def broken(**told: Any) -> None:
                if next(failures, False):
                    raise ConnectorException("the connection broke")
                await finish(**told)

            manager.finish_job = broken  # type: ignore[method-assign]
            async with asyncio.timeout(60.0):
                assert len(await collected(kie.work(journal))) == 6
        await c.check()


@pytest.mark.asyncio
async def test_several_deliver_the_work_of_the_dead_again(server: Postgres):
    """At the same time: each job once, and none of them stumbles over another."""
    async with cluster(server, 200) as c:
        await c.submit()
        with server.connect() as conn:
            conn.execute(f"SET search_path TO kie_{c.run}".encode())
            conn.execute("UPDATE procrastinate_jobs SET status = 'doing'")
            queues = [Queue(Place(server.url, f"kie_{c.run}")) for _ in range(4)]
            async with contextlib.AsyncExitStack() as stack:
                for queue in queues:
                    await stack.enter_async_context(queue._app.open_async())
                await asyncio.gather(*(queue._redeliver(LEASE) for queue in queues))
            found = conn.execute(
                "SELECT status, attempts, count(*) FROM procrastinate_jobs GROUP BY 1, 2"
            ).fetchall()
        assert found == [("todo", 1, 200)]


@pytest.mark.asyncio
async def test_a_worker_that_was_only_stopped_for_a_while_does_no_harm(server: Postgres):
    """It is taken for dead, the others go on; then it wakes up and finds that out."""
    async with cluster(server, 60) as c:
        await c.submit()
        slow, other = await c.start(), await c.start()
        await c.made(15)
        slow.send_signal(signal.SIGSTOP)
        await c.ended(other)
        slow.send_signal(signal.SIGCONT)
        await c.ended(slow)

        await c.check(doubts=20)


@pytest.mark.asyncio
async def test_a_worker_is_cut_off_from_the_database(server: Postgres):
    """It hangs, then its connections break, then nobody answers: others do its work meanwhile."""
    async with cluster(server, 60, rate=(LIMIT, WINDOW)) as c:
        await c.submit()
        wire = f"http://127.0.0.1:{server.port}"
        async with FaultProxy(wire) as proxy:
            far = server.url.replace(f":{server.port}/", f":{proxy.port}/")
            cut_off, other = await c.start(url=far), await c.start()
            await c.made(15)
            proxy.latency = lambda: 3600.0  # what is sent is never answered
            await asyncio.sleep(LEASE)
            await proxy.down()
            await c.ended(other)
            proxy.latency = None
            await proxy.up()
            await c.ended(cut_off)

        await c.check(doubts=20)


@pytest.mark.asyncio
async def test_one_that_stops_gives_back_what_it_has_not_sent(server: Postgres):
    """What it has begun comes to its end; the rest is for the others."""
    async with cluster(server, 40, rate=(5, 5.0)) as c:
        await c.submit()
        async with c.journal() as journal, c.session(limiter=None) as kie:
            work = kie.work(journal, in_flight=20)
            outcomes = []
            async for outcome in work:
                outcomes.append(outcome)
                work.stop()
            counts = await journal.counts()

            assert {outcome.status for outcome in outcomes} == {OutcomeStatus.DONE}
            assert counts.done == len(outcomes) == len(c.emulator.books.creates)
            assert counts.planned == 40 - counts.done
            assert (counts.sending, counts.sent, counts.in_doubt) == (0, 0, 0)
            with server.connect() as conn:
                (left,) = conn.execute(
                    f"SELECT count(*) FROM kie_{c.run}.procrastinate_jobs WHERE status = 'todo'"
                ).fetchone() or (0,)
            assert left == counts.planned


@pytest.mark.asyncio
async def test_waits_that_are_given_up_are_collected_by_another(server: Postgres):
    """The paid tasks go on; nothing is created for them again."""
    async with cluster(server, 10, durations=lambda _rng: 3.0, rate=None) as c:
        await c.submit()
        async with c.journal() as journal, c.session() as kie:
            work = kie.work(journal)
            taking = asyncio.ensure_future(collected(work))
            await c.made(10)
            await work.give_up_waiting()
            assert await taking == []
            assert (await journal.counts()).sent == 10
        async with c.journal() as journal, c.session() as kie:
            assert len(await collected(kie.work(journal))) == 10
        await c.check()


@pytest.mark.asyncio
async def test_one_who_leaves_the_loop_leaves_nothing_behind(server: Postgres):
    """``break`` within ``async with`` ends the work in good order."""
    async with cluster(server, 20, rate=None) as c:
        await c.submit()
        before = asyncio.all_tasks()
        async with (
            c.journal() as journal,
            c.session() as kie,
            kie.work(journal) as work,
        ):
            async for _ in work:
                break
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before
        async with c.journal() as journal, c.session() as kie:
            await collected(kie.work(journal))
        await c.check()


@pytest.mark.asyncio
async def test_one_who_reads_slowly_and_leaves_is_not_held_up(
    server: Postgres, monkeypatch: pytest.MonkeyPatch
):
    """Outcomes that found no room are dropped: they are on record, and nobody reads any more."""
    monkeypatch.setattr(_worker, "RESULTS", 2)
    monkeypatch.setattr(_worker, "LEAVING", 100.0)
    async with cluster(server, 12, rate=None, durations=lambda _rng: 0.05) as c:
        await c.submit()
        async with c.journal() as journal, c.session() as kie:
            work = kie.work(journal)
            async for _ in work:
                break
            loop = asyncio.get_running_loop()
            until = loop.time() + 30.0
            while (await journal.counts()).done < 12:
                assert loop.time() < until
                await asyncio.sleep(0.01)
            assert work._results.full()
            async with asyncio.timeout(20.0):
                await work.aclose()
        await c.check()


@pytest.mark.asyncio
async def test_one_who_is_cancelled_twice_leaves_nothing_running(server: Postgres):
    """The second time while creates under way have their grace."""
    async with cluster(server, 5, rate=None) as c:
        await c.submit()
        c.emulator.inject(Rule(route="createTask", action="delay", delay=3.0, when="after"))
        before = asyncio.all_tasks()
        async with c.journal() as journal, c.session() as kie:
            taking = asyncio.ensure_future(collected(kie.work(journal)))
            await c.made(5)
            taking.cancel()
            await asyncio.sleep(0.1)
            taking.cancel()
            await asyncio.wait([taking])
            left = {task.get_coro().__qualname__ for task in asyncio.all_tasks() - before}
            assert not {name for name in left if name.startswith(("Worker", "Queue"))}
        async with c.journal() as journal, c.session() as kie:
            c.emulator.clear_rules()
            await collected(kie.work(journal))
        await c.check(doubts=5)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("action", "error"), [(401, AuthenticationError), (402, InsufficientCreditsError)]
)
async def test_what_every_create_would_meet_stops_the_worker(
    server: Postgres, action: int, error: type[Exception]
):
    """No key, no credits: nothing is lost, and the error says what to do."""
    async with cluster(server, 6, rate=None) as c:
        await c.submit()
        c.emulator.inject(Rule(route="createTask", action="envelope", code=action))
        async with c.journal() as journal, c.session() as kie:
            with pytest.raises(error):
                await collected(kie.work(journal))
            assert (await journal.counts()).planned == 6
        c.emulator.clear_rules()
        async with c.journal() as journal, c.session() as kie:
            assert len(await collected(kie.work(journal))) == 6
        await c.check()


@pytest.mark.asyncio
async def test_an_item_that_is_delivered_twice_is_created_once(server: Postgres):
    """Delivery is at least once, the effect at most once."""
    async with cluster(server, 3, rate=None) as c:
        await c.submit()
        async with c.journal() as one, c.journal() as other, c.session() as kie:
            plan = Plan(in_flight=5)
            workers = [Worker(kie.work(j)._tools.caller, j, plan) for j in (one, other)]

            async def deliver(worker: Worker, source_id: str) -> None:
                while True:
                    try:
                        return await worker._work(source_id)
                    except Later:
                        await asyncio.sleep(0.05)

            async with asyncio.TaskGroup() as group:
                for source_id in c.ids:
                    for worker in workers * 3:
                        group.create_task(deliver(worker, source_id))

        assert [c.emulator.books.paid(one) for one in c.ids] == [1, 1, 1]


@pytest.mark.asyncio
async def test_a_bulk_run_beside_workers_begins_nothing_that_they_have(server: Postgres):
    """``upscale_many`` on the same journal is told that an item is taken."""
    async with cluster(server, 1, rate=None) as c:
        await c.submit()
        async with c.journal() as journal, c.journal() as other, c.session() as kie:
            run = kie.upscale_many(c.ids, journal=journal)
            begin = journal.begin_sending

            async def beaten(source_id: str, *, ref: str | None = None) -> int:
                await other.begin_sending(source_id, ref="theirs")
                return await begin(source_id, ref=ref)

            journal.begin_sending = beaten  # type: ignore[method-assign]
            (outcome,) = [outcome async for outcome in run]

        assert outcome.status is OutcomeStatus.NOT_SENT
        assert isinstance(outcome.error, ItemTakenError)
        assert c.emulator.books.creates == []


@pytest.mark.asyncio
async def test_lost_jobs_are_queued_again(server: Postgres):
    """Whatever an engine may lose, the journal knows what is still to do."""
    async with cluster(server, 5, rate=None) as c:
        await c.submit()
        with server.connect() as conn:
            conn.execute(f"SET search_path TO kie_{c.run}".encode())
            conn.execute("DELETE FROM procrastinate_jobs")
        async with c.journal() as journal, c.session() as kie:
            assert len(await collected(kie.work(journal))) == 5
            assert await journal.queue_again() == 0
        await c.check()


@pytest.mark.asyncio
async def test_what_cannot_be_planned_is_not_queued(server: Postgres):
    """An item and its job come into being together, or not at all."""
    async with cluster(server, 1) as c, c.journal() as journal:
        with pytest.raises(UsageError, match="item 2"):
            await submit(journal, [c.ids[0], ""])
        with server.connect() as conn:
            found = conn.execute(
                f"SELECT args->>'source_id' FROM kie_{c.run}.procrastinate_jobs"
            ).fetchall()
        assert found == [(c.ids[0],)]


def test_settings_that_cannot_work_are_refused():
    """Before anything is opened."""
    with pytest.raises(UsageError, match="in_flight"):
        Plan(in_flight=0)
    journal = QueuedJournal("postgresql://127.0.0.1/x")
    kie = KieSession("key", create_retry=CreateRetry.ALWAYS)
    with pytest.raises(UsageError, match="doubts"):
        kie.work(journal)
