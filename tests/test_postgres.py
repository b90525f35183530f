"""What the journal in PostgreSQL promises beyond the contract: restarts, leases, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import psycopg
import pytest

from kie_async.errors import (
    ItemTakenError,
    JournalCorruptError,
    JournalError,
    JournalTooNewError,
    KeyConflictError,
    StorageFullError,
    UsageError,
)
from kie_async.journal import ItemState, PlannedItem, Verdict
from kie_async.postgres import PostgresJournal, _connect
from kie_async.postgres._connect import Place
from tests.conftest import CANARY_KEY
from tests.postgres_servers import POSTGRES, Postgres, postgres_server

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL on this machine"),
]


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(name="run")
def _run() -> str:
    """A run that no other test knows."""
    return f"t{secrets.token_hex(6)}"


def item(source_id: str = "a") -> PlannedItem:
    return PlannedItem(source_id=source_id, model="m", input={"task_id": source_id})


async def state_of(journal: PostgresJournal, source_id: str = "a") -> ItemState:
    found = await journal.get(source_id)
    assert found is not None
    return found.state


def end_sessions(server: Postgres) -> None:
    """Break every connection but ours."""
    with server.connect() as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )


def once(point: str, what: Callable[[], None]) -> Callable[[str], None]:
    """Call *what* when a record reaches *point* for the first time."""
    reached = threading.Event()

    def fault(name: str) -> None:
        if name == point and not reached.is_set():
            reached.set()
            what()

    return fault


# -- a server that goes away ---------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_connection_that_breaks_before_the_commit_loses_nothing(server: Postgres, run: str):
    """The transaction is gone with it; the record is written again, once."""
    fault = once("begin_sending.before_commit", lambda: end_sessions(server))
    async with PostgresJournal(server.url, run, _fault=fault) as journal:
        await journal.plan([item()])

        assert await journal.begin_sending("a", ref="r") == 1

        assert await state_of(journal) is ItemState.SENDING
        assert [made.number for made in await journal.attempts("a")] == [1]


class LostAnswer(psycopg.Connection[Any]):
    """Commits, and is cut off before the answer."""

    cut = True

    def execute(self, query: Any, *args: Any, **settings: Any) -> Any:
        cursor = super().execute(query, *args, **settings)
        if query == "COMMIT" and LostAnswer.cut:
            LostAnswer.cut = False
            self.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return cursor


@pytest.mark.asyncio
async def test_a_commit_whose_answer_is_lost_is_not_made_twice(
    server: Postgres, run: str, monkeypatch: pytest.MonkeyPatch
):
    """The server is asked what became of it: the same intent does not count as a second one."""
    async with PostgresJournal(server.url, run) as journal:
        await journal.plan([item()])
        monkeypatch.setattr(psycopg, "connect", LostAnswer.connect)
        end_sessions(server)  # so that the writer connects anew
        LostAnswer.cut = True

        assert await journal.begin_sending("a", ref="r") == 1

        assert not LostAnswer.cut
        assert [made.number for made in await journal.attempts("a")] == [1]
        assert await journal.record_created("a", 1, "t1")


@pytest.mark.asyncio
async def test_a_control_that_guesses_makes_two_of_one(
    server: Postgres, run: str, monkeypatch: pytest.MonkeyPatch
):
    """The checker of the test above: without asking, the repeated intent is refused."""
    async with PostgresJournal(server.url, run) as journal:
        await journal.plan([item()])
        monkeypatch.setattr(psycopg, "connect", LostAnswer.connect)
        assert journal._commits is not None
        monkeypatch.setattr(journal._commits, "_is_committed", lambda *_: False)
        end_sessions(server)
        LostAnswer.cut = True

        with pytest.raises(JournalError, match="is sending: only a planned item is sent"):
            await journal.begin_sending("a", ref="r")


@pytest.mark.asyncio
async def test_records_wait_for_a_server_that_restarts(run: str, caplog: pytest.LogCaptureFixture):
    """A crash of the server in mid-run costs time, and is said once."""
    with postgres_server() as server:
        async with PostgresJournal(server.url, run) as journal:
            await journal.plan([item(str(number)) for number in range(20)])
            server.stop()
            beginning = [
                asyncio.ensure_future(journal.begin_sending(str(number), ref=f"r{number}"))
                for number in range(20)
            ]
            reading = asyncio.ensure_future(journal.counts())
            await asyncio.sleep(0)
            await asyncio.to_thread(server.start)

            assert await asyncio.gather(*beginning) == [1] * 20
            assert (await reading).total == 20
            assert (await journal.counts()).sending == 20
    said = [row.message for row in caplog.records if row.name == "kie_async.postgres"]
    assert sum("records wait" in text for text in said) == 1
    assert sum("is back" in text for text in said) == 1


@pytest.mark.asyncio
async def test_a_journal_is_opened_while_the_server_restarts(run: str):
    """A worker that is started in that moment waits, as those do that run."""
    with postgres_server() as server:
        await (await PostgresJournal.open(server.url, run)).close()
        server.stop()
        opening = asyncio.ensure_future(PostgresJournal.open(server.url, run))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            await (await opening).close()


@pytest.mark.asyncio
async def test_a_server_that_starts_is_waited_for_longer_than_one_that_is_not_there(
    run: str, monkeypatch: pytest.MonkeyPatch
):
    """It says so itself; nobody waits long for an address with a mistake in it."""
    monkeypatch.setattr(_connect, "ABSENT", 0.2)
    message = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"

    async def starting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"E" + (len(message) + 4).to_bytes(4, "big") + message)
        writer.close()

    async def waited(port: int) -> float:
        began = asyncio.get_running_loop().time()
        url = f"postgresql://kie@127.0.0.1:{port}/postgres?sslmode=disable&gssencmode=disable"
        with pytest.raises(JournalError, match="cannot be reached"):
            await PostgresJournal.open(url, run, patience=1.0)
        return asyncio.get_running_loop().time() - began

    async with await asyncio.start_server(starting, "127.0.0.1", 0) as server:
        assert await waited(server.sockets[0].getsockname()[1]) >= 1.0
    assert 0.2 <= await waited(1) < 1.0


@pytest.mark.asyncio
async def test_patience_ends(run: str):
    """A server that stays away: the intent is refused, so nothing is sent."""
    with postgres_server() as server:
        async with PostgresJournal(server.url, run, patience=0.2) as journal:
            await journal.plan([item()])
            server.stop()

            with pytest.raises(JournalError, match="cannot be reached") as caught:
                await journal.begin_sending("a", ref="r")
            assert caught.value.retryable
            with pytest.raises(JournalError, match="cannot be reached"):
                await journal.get("a")


@pytest.mark.asyncio
async def test_patience_is_one_for_all_who_ask(run: str):
    """Questions stand in one line; the last one waits no longer than the first."""
    with postgres_server() as server:
        async with PostgresJournal(server.url, run, patience=0.5) as journal:
            await journal.plan([item()])
            server.stop()
            async with asyncio.timeout(3.0):
                found = await asyncio.gather(
                    *(journal.get("a") for _ in range(20)), return_exceptions=True
                )
            assert all(isinstance(error, JournalError) and error.retryable for error in found)
            assert len({id(error) for error in found}) == 20

            # Patience begins anew with the next question: the server may just be starting.
            asking = asyncio.ensure_future(journal.get("a"))
            await asyncio.sleep(0.2)
            assert not asking.done()
            with pytest.raises(JournalError, match="cannot be reached"):
                await asking
            await asyncio.to_thread(server.start)
            assert await state_of(journal) is ItemState.PLANNED


@pytest.mark.asyncio
async def test_a_journal_is_closed_although_many_ask_a_server_that_is_away(run: str):
    """Who asked is told so at once."""
    with postgres_server() as server:
        async with PostgresJournal(server.url, run, patience=100.0) as journal:
            await journal.plan([item()])
            server.stop()
            asking = [asyncio.ensure_future(journal.get("a")) for _ in range(5)]
            await asyncio.sleep(0.1)
            async with asyncio.timeout(10.0):
                await journal.close()
            for found in await asyncio.gather(*asking, return_exceptions=True):
                assert isinstance(found, JournalError)

            # Opened again it has its patience again.
            await asyncio.to_thread(server.start)
            async with journal:
                server.stop()
                reading = asyncio.ensure_future(state_of(journal))
                await asyncio.sleep(0.1)
                assert not reading.done()
                await asyncio.to_thread(server.start)
                assert await reading is ItemState.PLANNED


@pytest.mark.asyncio
async def test_a_cancelled_caller_loses_nothing_while_the_server_is_away(run: str):
    """The paid task's id is written when the server is back, whoever waits for it."""
    with postgres_server() as server:
        async with PostgresJournal(server.url, run) as journal:
            await journal.plan([item()])
            attempt = await journal.begin_sending("a", ref="r")
            server.stop()
            telling = asyncio.ensure_future(journal.record_created("a", attempt, "t1"))
            await asyncio.sleep(0.05)
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling
            await asyncio.to_thread(server.start)

            await journal.set_meta("behind", "it")  # everything before it is written now

            assert await state_of(journal) is ItemState.SENT


@pytest.mark.asyncio
async def test_one_that_is_stopped_in_the_middle_of_a_record_holds_nobody_up(
    server: Postgres, run: str, monkeypatch: pytest.MonkeyPatch
):
    """The server ends its transaction; when it wakes up, the record is written again."""
    monkeypatch.setattr(_connect, "IDLE", 0.3)
    stopped, wake = threading.Event(), threading.Event()

    def stop() -> None:
        stopped.set()
        wake.wait(30.0)

    fault = once("begin_sending.before_commit", stop)
    async with (
        PostgresJournal(server.url, run, _fault=fault) as slow,
        PostgresJournal(server.url, run) as other,
    ):
        await other.plan([item()])
        beginning = asyncio.ensure_future(slow.begin_sending("a", ref="slow"))
        await asyncio.to_thread(stopped.wait, 30.0)
        async with asyncio.timeout(30.0):
            assert await other.begin_sending("a", ref="other") == 1
        wake.set()

        with pytest.raises(ItemTakenError):
            await beginning
        assert [made.ref for made in await other.attempts("a")] == ["other"]


@pytest.mark.asyncio
async def test_a_row_that_somebody_else_holds_stops_no_other_record(
    server: Postgres, run: str, monkeypatch: pytest.MonkeyPatch
):
    """Somebody's psql: signs of life go on, and its own record says who is in the way."""
    monkeypatch.setattr(_connect, "HELD", 0.2)
    async with (
        PostgresJournal(server.url, run, lease=3.0) as journal,
        PostgresJournal(server.url, run, lease=3.0) as other,
    ):
        names = [str(number) for number in range(5)]
        await journal.plan([item(name) for name in (*names, "free")])
        paid = await journal.begin_sending("free")
        with server.connect() as conn, conn.transaction():
            conn.execute(f"SELECT * FROM kie_{run}.items WHERE source_id <> 'free' FOR UPDATE")
            async with asyncio.timeout(10.0):
                *held, kept = await asyncio.gather(
                    *(journal.begin_sending(name) for name in names),
                    journal.record_created("free", paid, "t1"),
                    return_exceptions=True,
                )
            assert kept is True
            for error in held:
                assert isinstance(error, JournalError)
                assert error.retryable
                assert "another program holds" in error.message
            assert await other.doubt_the_dead() == 0

        assert await journal.begin_sending("0") == 1


@pytest.mark.asyncio
async def test_those_who_plan_wait_for_each_other_for_longer(
    server: Postgres, run: str, monkeypatch: pytest.MonkeyPatch
):
    """Thousands of rows take their time, and a long list is planned by several at once."""
    monkeypatch.setattr(_connect, "HELD", 0.1)
    async with PostgresJournal(server.url, run) as journal:
        with server.connect() as conn:
            with conn.transaction():
                conn.execute(f"LOCK TABLE kie_{run}.ids IN SHARE ROW EXCLUSIVE MODE")
                planning = asyncio.ensure_future(journal.plan([item()]))
                await asyncio.sleep(0.5)
                assert not planning.done()
            assert await planning == ["a"]

            with conn.transaction():  # behind it everything is as before
                conn.execute(f"SELECT * FROM kie_{run}.items FOR UPDATE")
                with pytest.raises(JournalError, match="another program holds"):
                    await journal.begin_sending("a")


# -- several processes ---------------------------------------------------------------------


@pytest.mark.asyncio
async def test_an_item_is_begun_by_one_of_many(server: Postgres, run: str):
    """However many want it at the same time."""
    async with contextlib.AsyncExitStack() as stack:
        journals = [
            await stack.enter_async_context(PostgresJournal(server.url, run)) for _ in range(6)
        ]
        await journals[0].plan([item(str(number)) for number in range(30)])
        results = await asyncio.gather(
            *(
                journal.begin_sending(str(number), ref=f"{place}-{number}")
                for number in range(30)
                for place, journal in enumerate(journals)
            ),
            return_exceptions=True,
        )

        assert results.count(1) == 30
        refused = [result for result in results if result != 1]
        assert all(isinstance(error, JournalError) for error in refused)
        assert all("only a planned item" in str(error) for error in refused)
        assert (await journals[3].counts()).sending == 30


@pytest.mark.asyncio
async def test_several_plan_the_same_list(server: Postgres, run: str):
    """Each id gets one row, and the rows are numbered without a gap."""
    async with contextlib.AsyncExitStack() as stack:
        journals = [
            await stack.enter_async_context(PostgresJournal(server.url, run)) for _ in range(4)
        ]
        items = [item(str(number)) for number in range(500)]
        new = await asyncio.gather(*(journal.plan(items) for journal in journals))

        assert sorted(chain.from_iterable(new)) == sorted(str(number) for number in range(500))
        planned = [found.seq async for found in journals[0].iterate(ItemState.PLANNED)]
        assert planned == list(range(1, 501))
        with pytest.raises(KeyConflictError):
            await journals[1].plan([PlannedItem(source_id="7", model="other", input={})])


@pytest.mark.asyncio
async def test_only_the_dead_are_recovered(server: Postgres, run: str):
    """A living owner's create is left alone; that of one unseen for a lease is a doubt."""
    async with (
        PostgresJournal(server.url, run) as living,
        PostgresJournal(server.url, run, lease=30.0) as other,
    ):
        await living.plan([item("a"), item("b")])
        await living.begin_sending("a", ref="ra")
        dead = PostgresJournal(server.url, run)
        await dead.__aenter__()
        await dead.begin_sending("b", ref="rb")

        assert (await other.recover()).doubts == 0

        with server.connect() as conn:  # its last sign of life was a while ago
            conn.execute(
                f"UPDATE kie_{run}.lease SET seen_at = seen_at - interval '31 s' WHERE id = %s",
                (dead._lease,),
            )
        assert (await other.recover()).doubts == 1
        assert await state_of(other, "a") is ItemState.SENDING
        assert await state_of(other, "b") is ItemState.IN_DOUBT
        (attempt,) = await other.attempts("b")
        assert (attempt.verdict, attempt.reason) == (Verdict.IN_DOUBT, "crash")
        assert (await other.recover()).doubts == 0
        await dead.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", ["created", "not_sent", "rejected", "reported"])
async def test_one_who_was_only_slow_is_believed(server: Postgres, run: str, answer: str):
    """It was taken for dead; what its create brought is on record all the same."""
    async with PostgresJournal(server.url, run) as slow, PostgresJournal(server.url, run) as other:
        await slow.plan([item()])
        attempt = await slow.begin_sending("a", ref="r")
        with server.connect() as conn:
            conn.execute(
                f"UPDATE kie_{run}.lease SET seen_at = seen_at - interval '1 h' WHERE id = %s",
                (slow._lease,),
            )
        assert (await other.recover()).doubts == 1

        if answer == "created":
            assert await slow.record_created("a", attempt, "t1")
            expected, charged = ItemState.SENT, False
        elif answer == "not_sent":
            await slow.record_not_sent("a", attempt, reason="refused connection")
            expected, charged = ItemState.PLANNED, False
        elif answer == "rejected":
            await slow.record_rejected("a", attempt, final=True, body_code=422)
            expected, charged = ItemState.FAILED, False
        else:
            await slow.record_reported("a", attempt, again=False, body_code=500)
            expected, charged = ItemState.IN_DOUBT, True

        found = await other.get("a")
        assert found is not None
        assert (found.state, found.maybe_charged) == (expected, charged)


@pytest.mark.asyncio
async def test_one_taken_for_dead_says_that_it_lives(server: Postgres, run: str):
    """The next sign of life takes the verdict back."""
    async with PostgresJournal(server.url, run, lease=0.3) as journal:
        with server.connect() as conn:
            ended = f"SELECT ended_at FROM kie_{run}.lease"
            conn.execute(f"UPDATE kie_{run}.lease SET ended_at = 1")
            until = time.monotonic() + 20.0
            while conn.execute(ended).fetchone() != (None,):
                assert time.monotonic() < until
                await asyncio.sleep(0.02)  # the loop is the one that shows the sign
        await journal.close()
        with server.connect() as conn:
            assert conn.execute(ended).fetchone() != (None,)


# -- opening -------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_what_cannot_be_opened_says_why(server: Postgres, run: str):
    """No server, no journal, a later version, somebody else's tables."""
    with pytest.raises(JournalError, match="cannot be reached"):
        await PostgresJournal.open("postgresql://kie@127.0.0.1:1/postgres", run)
    with pytest.raises(JournalError, match="no journal"):
        await PostgresJournal.open(server.url, run, create=False)
    with pytest.raises(JournalError, match="no journal"):
        await PostgresJournal.open(server.url, run, read_only=True)
    await (await PostgresJournal.open(server.url, run)).close()
    with server.connect() as conn:
        meta = f"UPDATE kie_{run}.meta SET value = %s WHERE name = 'schema_version'"
        conn.execute(meta.encode(), ("2",))
        with pytest.raises(JournalTooNewError, match="update it"):
            await PostgresJournal.open(server.url, run)
        conn.execute(meta.encode(), ("x",))
        with pytest.raises(JournalCorruptError, match="no journal of this package"):
            await PostgresJournal.open(server.url, run)


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", 'a"; drop', "a" * 41])
def test_a_run_has_a_plain_name(name: str):
    """It becomes the name of a schema."""
    with pytest.raises(UsageError, match="small letter"):
        PostgresJournal("postgresql://127.0.0.1/x", name)


@pytest.mark.parametrize("settings", [{"lease": 0}, {"patience": -1}])
def test_numbers_that_cannot_work_are_refused(settings: dict[str, float]):
    """Before anything is opened."""
    with pytest.raises(UsageError, match="lease"):
        PostgresJournal("postgresql://127.0.0.1/x", **settings)  # type: ignore[arg-type]


@pytest.mark.asyncio
async def test_the_password_is_nowhere(run: str):
    """Not in a repr, not in a message, not in what is raised on the way."""
    url = f"postgresql://kie:{CANARY_KEY}@127.0.0.1:1/postgres"
    journal = PostgresJournal(url, run)
    place = Place(url, "kie_x")
    assert CANARY_KEY in str(place.settings)  # the control: it is there to be leaked
    with pytest.raises(JournalError) as caught:
        await journal.__aenter__()

    for text in (repr(journal), repr(place), place.name, repr(caught.value), str(caught.value)):
        assert CANARY_KEY not in text
    with pytest.raises(UsageError) as refused:
        Place(f"nonsense {CANARY_KEY}", "kie_x")
    assert CANARY_KEY not in str(refused.value)


def shown(error: BaseException) -> str:
    """What a service that reports errors sends away: all frames of ours with their variables.

    The first frame is the test's own, which knows the address.
    """
    assert error.__traceback__ is not None
    told = traceback.TracebackException(
        type(error), error, error.__traceback__.tb_next, capture_locals=True
    )
    chained = error.__cause__ or error.__context__
    return "".join(told.format()) + ("" if chained is None else shown_chained(chained))


def shown_chained(error: BaseException) -> str:
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(told.format())


@pytest.mark.asyncio
async def test_the_password_is_in_no_variable_of_a_traceback(run: str):
    """Neither of ours nor of those that it is chained to, shown or not."""
    with postgres_server() as server:
        url = server.url.replace("kie@", f"kie:{CANARY_KEY}@")
        with pytest.raises(psycopg.Error) as control:
            Place(url.replace("/postgres", "/none"), "kie_x").connect()
        assert CANARY_KEY in shown_chained(control.value)

        with pytest.raises(JournalError) as refused:
            await PostgresJournal.open(url.replace("/postgres", "/none"), run)
        async with PostgresJournal(url, run, patience=0.1) as journal:
            await journal.plan([item()])
            with server.connect() as conn:
                conn.execute(f"ALTER TABLE kie_{run}.meta RENAME TO other")
                with pytest.raises(JournalError) as asked:
                    await journal.meta()
                with pytest.raises(JournalError) as wrote:
                    await journal.set_meta("a", 1)
            server.stop()
            with pytest.raises(JournalError) as read:
                await journal.get("a")
            with pytest.raises(JournalError) as written:
                await journal.begin_sending("a")
        with pytest.raises(JournalError) as opened:
            await PostgresJournal.open(url, run, patience=0.1)

    for caught in (refused, asked, wrote, read, written, opened):
        assert CANARY_KEY not in shown(caught.value)


@pytest.mark.asyncio
async def test_a_reader_writes_nothing(server: Postgres, run: str):
    """It takes no lease, and refuses records."""
    async with PostgresJournal(server.url, run) as journal:
        await journal.plan([item()])
        async with PostgresJournal(server.url, run, read_only=True) as reader:
            assert (await reader.counts()).planned == 1
            with pytest.raises(JournalError, match="read-only"):
                await reader.plan([item("b")])
        with server.connect() as conn:
            found = conn.execute(f"SELECT count(*) FROM kie_{run}.lease").fetchone()
        assert found == (1,)


@pytest.mark.asyncio
async def test_a_commit_is_durable_where_the_server_is_careless(server: Postgres, run: str):
    """``synchronous_commit = off`` would lose the last records in a crash: it is turned on."""
    with server.connect() as conn:
        conn.execute("ALTER ROLE kie SET synchronous_commit = off")
        try:
            place = Place(server.url, f"kie_{run}")
            with place.connect() as own:
                assert own.execute("SHOW synchronous_commit").fetchone() == ("on",)
        finally:
            conn.execute("ALTER ROLE kie RESET synchronous_commit")


def test_a_full_disk_is_named(server: Postgres):
    """So that the run stops, and says what to free."""
    place = Place(server.url, "kie_x")
    assert isinstance(place.error(psycopg.errors.DiskFull("no space")), StorageFullError)
    assert not isinstance(place.error(psycopg.errors.UniqueViolation("x")), StorageFullError)
