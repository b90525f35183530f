"""What every journal promises, whatever keeps it.

`JOURNALS` names the implementations; each test runs against each of them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum

import pytest

from kie_async.errors import JournalError, KeyConflictError, UsageError
from kie_async.journal import (
    Counts,
    ItemState,
    Journal,
    JournalStore,
    PlannedItem,
    Verdict,
)
from kie_async.models import Task, TaskState
from kie_async.postgres import PostgresJournal
from tests.clock import NOW, WallClock
from tests.postgres_servers import POSTGRES, Postgres, postgres_server

Open = Callable[[], Awaitable[JournalStore]]


def sqlite(request: pytest.FixtureRequest, clock: WallClock) -> Open:
    """Open, and open again, the journal in one SQLite file."""
    path = request.getfixturevalue("tmp_path") / "run.db"
    return lambda: Journal.open(path, clock=clock)


def postgres(request: pytest.FixtureRequest, clock: WallClock) -> Open:
    """Open, and open again, a journal in PostgreSQL, where each test has a run of its own."""
    server = request.getfixturevalue("server")
    run = f"t{secrets.token_hex(6)}"
    return lambda: PostgresJournal.open(server.url, run, clock=clock)


JOURNALS = {"sqlite": sqlite, "postgres": postgres}


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Postgres]:
    if POSTGRES is None:
        pytest.skip("no PostgreSQL on this machine")
    with postgres_server() as server:
        yield server


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture(params=JOURNALS)
def open_journal(request: pytest.FixtureRequest, clock: WallClock) -> Open:
    return JOURNALS[request.param](request, clock)


def item(source_id: str = "a", **input: object) -> PlannedItem:
    return PlannedItem(source_id=source_id, model="m", input=input or {"task_id": source_id})


def ended(task_id: str, state: TaskState = TaskState.SUCCESS) -> Task:
    return Task(
        task_id=task_id, state=state, credits_consumed=10, created_at=NOW, completed_at=NOW + 9
    )


async def in_doubt(journal: JournalStore, source_id: str = "a", ref: str | None = None) -> int:
    """Bring an item into doubt; return the number of its attempt."""
    await journal.plan([item(source_id)])
    attempt = await journal.begin_sending(source_id, ref=ref)
    await journal.record_in_doubt(source_id, attempt, reason="reset")
    return attempt


async def state_of(journal: JournalStore, source_id: str = "a") -> ItemState:
    found = await journal.get(source_id)
    assert found is not None
    return found.state


@pytest.mark.asyncio
async def test_an_item_goes_from_planned_to_done(open_journal: Open, clock: WallClock):
    """Each step is kept, with its facts."""
    journal = await open_journal()
    await journal.plan(
        [PlannedItem(source_id="a", model="m", input={"x": [1, "é"]}, output_name="out")]
    )

    attempt = await journal.begin_sending("a", ref="r1")
    assert await state_of(journal) is ItemState.SENDING
    clock.now += 2
    assert await journal.record_created("a", attempt, "t1")
    assert await state_of(journal) is ItemState.SENT
    await journal.record_done("a", ended("t1"), polls=3)
    await journal.record_files("a", ["a.png", "b.png"])

    found = await journal.get("a")
    assert found is not None
    assert (found.seq, found.model, found.input, found.output_name) == (
        1,
        "m",
        {"x": [1, "é"]},
        "out",
    )
    assert (found.state, found.task_id, found.attempts) == (ItemState.DONE, "t1", 1)
    assert (found.credits, found.created_at, found.completed_at) == (10.0, NOW, NOW + 9)
    assert found.noticed_at is not None
    assert (found.polls, found.files, found.maybe_charged) == (3, ("a.png", "b.png"), False)
    (made,) = await journal.attempts("a")
    assert (made.number, made.ref, made.task_id, made.verdict) == (1, "r1", "t1", Verdict.CREATED)
    assert (made.intent_at, made.ended_at) == (NOW, NOW + 2)
    assert made.pid
    assert made.host
    await journal.close()


@pytest.mark.asyncio
async def test_what_was_recorded_is_there_after_opening_again(open_journal: Open):
    """Rows, attempts, decisions and settings survive."""
    journal = await open_journal()
    await in_doubt(journal, "a", ref="r")
    await journal.resolve("a", as_task_id="t", by="me", evidence={"log": 1})
    await journal.set_meta("credits_before", 12.5)
    before = [row async for row in journal.export()]
    await journal.close()

    journal = await open_journal()

    assert [row async for row in journal.export()] == before
    assert json.loads(json.dumps(before)) == [
        {**row, "files": list(row["files"])} for row in before
    ]
    assert (await journal.meta())["credits_before"] == 12.5
    (decision,) = await journal.decisions()
    assert (decision.decision, decision.task_id, decision.by) == ("as_task_id", "t", "me")
    assert decision.evidence == {"log": 1}
    await journal.close()


@pytest.mark.asyncio
async def test_planning_takes_each_source_id_once(open_journal: Open):
    """Duplicates are one, in one call and in two; only the new ones are returned."""
    journal = await open_journal()

    assert await journal.plan([item("b"), item("a"), item("b")]) == ["b", "a"]
    assert await journal.plan([item("a"), item("c")]) == ["c"]
    assert await journal.plan([]) == []

    assert [i.source_id async for i in journal.iterate(ItemState.PLANNED)] == ["b", "a", "c"]
    await journal.close()


class Word(str, Enum):
    """Text as programs name it: its format is not its value, nor is its hash."""

    ID = "a"
    MODEL = "m"
    KEY = "task_id"
    NAME = "out"


@pytest.mark.asyncio
async def test_text_may_be_the_member_of_an_enum(open_journal: Open):
    """It is the same item as that of plain text, and is read back as such."""
    journal = await open_journal()
    planned = PlannedItem(
        source_id=Word.ID, model=Word.MODEL, input={Word.KEY: Word.ID}, output_name=Word.NAME
    )

    assert await journal.plan([planned, item("a")]) == ["a"]
    assert await journal.plan([planned]) == []

    found = await journal.get("a")
    assert found is not None
    assert (found.model, found.input, found.output_name) == ("m", {"task_id": "a"}, "out")
    assert await journal.begin_sending(Word.ID) == 1
    assert await state_of(journal, Word.ID) is ItemState.SENDING
    await journal.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("later", [False, True])
async def test_the_same_source_id_with_other_parameters_is_refused(open_journal: Open, later: bool):
    """The order of the parameters does not count; their values do.  Nothing is added."""
    journal = await open_journal()
    await journal.plan([PlannedItem(source_id="a", model="m", input={"x": 1, "y": 2})])
    same = PlannedItem(source_id="a", model="m", input={"y": 2, "x": 1})
    other = PlannedItem(source_id="a", model="m", input={"x": 1, "y": 3})

    assert await journal.plan([same]) == []
    with pytest.raises(KeyConflictError, match="a is in the journal"):
        await journal.plan([item("n"), other] if later else [other])
    with pytest.raises(KeyConflictError):
        await journal.plan([item("p", x=1), item("p", x=2)])
    with pytest.raises(KeyConflictError):
        await journal.plan([PlannedItem(source_id="a", model="n", input={"x": 1, "y": 2})])

    assert (await journal.counts()).total == 1
    await journal.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "bad",
    [
        {"source_id": ""},
        {"source_id": 7},
        {"source_id": "a\x00b"},
        {"source_id": "\ud800"},
        {"model": ""},
        {"input": {"x": float("nan")}},
        {"input": {"x": object()}},
        {"input": {"x": "\ud800"}},
        {"input": ["x"]},
        {"output_name": ""},
    ],
)
async def test_what_cannot_be_kept_is_a_usage_error(open_journal: Open, bad: dict[str, object]):
    """Nothing of the batch is added."""
    journal = await open_journal()
    whole = {"source_id": "a", "model": "m", "input": {}, **bad}

    with pytest.raises(UsageError):
        await journal.plan([item("good"), PlannedItem(**whole)])

    assert (await journal.counts()).total == 0
    await journal.close()


@pytest.mark.asyncio
async def test_only_a_planned_item_is_sent(open_journal: Open):
    """Whatever else it is, it may have been paid already."""
    journal = await open_journal()
    with pytest.raises(JournalError, match="not in the journal"):
        await journal.begin_sending("a")
    await journal.plan([item()])
    attempt = await journal.begin_sending("a")

    for step in (
        lambda: journal.record_created("a", attempt, "t"),
        lambda: journal.record_done("a", ended("t")),
        lambda: journal.record_files("a", []),
    ):
        with pytest.raises(JournalError, match="only a planned item is sent"):
            await journal.begin_sending("a")
        await step()

    with pytest.raises(JournalError, match="is done"):
        await journal.begin_sending("a")
    await journal.close()


@pytest.mark.asyncio
async def test_neither_a_doubt_nor_a_failure_is_sent_again_by_itself(open_journal: Open):
    """Only a recorded decision makes it planned."""
    journal = await open_journal()
    await in_doubt(journal, "a")
    await journal.plan([item("a"), item("b")])
    await journal.record_failed("b", reason="invalid")

    for name in "ab":
        with pytest.raises(JournalError, match="only a planned item is sent"):
            await journal.begin_sending(name)

    assert await journal.counts() == Counts(in_doubt=1, failed=1)
    await journal.close()


@pytest.mark.asyncio
async def test_a_reference_is_used_once(open_journal: Open):
    """Otherwise it would prove nothing; the other records of the batch are kept."""
    journal = await open_journal()
    await journal.plan([item("a"), item("b"), item("c")])

    results = await asyncio.gather(
        *(
            journal.begin_sending(name, ref=ref)
            for name, ref in [("a", "r"), ("b", "r"), ("c", "s")]
        ),
        return_exceptions=True,
    )

    assert results[0] == results[2] == 1
    assert isinstance(results[1], JournalError)
    assert await state_of(journal, "b") is ItemState.PLANNED
    await journal.close()


@pytest.mark.asyncio
async def test_a_refused_create_is_planned_again_or_failed(open_journal: Open):
    """429 is sent again, with a new number; 422 is final."""
    journal = await open_journal()
    await journal.plan([item()])
    first = await journal.begin_sending("a", ref="r1")

    await journal.record_rejected("a", first, final=False, body_code=429, http_status=200)
    second = await journal.begin_sending("a", ref="r2")
    await journal.record_rejected(
        "a",
        second,
        final=True,
        reason="invalid",
        body_code=422,
        error_message="no\x00 \ud800" * 999,
    )

    found = await journal.get("a")
    assert found is not None
    assert (first, second, found.attempts, found.state) == (1, 2, 2, ItemState.FAILED)
    assert (found.reason, found.error_code, found.maybe_charged) == ("invalid", "422", False)
    assert found.error_message is not None
    assert len(found.error_message) == 2000
    assert [a.body_code for a in await journal.attempts("a")] == [429, 422]
    await journal.close()


@pytest.mark.asyncio
async def test_a_create_that_was_not_sent_is_planned_again(open_journal: Open):
    """And it does not count in the server's window."""
    journal = await open_journal()
    await journal.plan([item()])
    attempt = await journal.begin_sending("a")

    await journal.record_not_sent("a", attempt, reason="connect")
    await journal.record_not_sent("a", attempt, reason="connect")

    assert await state_of(journal) is ItemState.PLANNED
    assert await journal.created_times(0) == []
    with pytest.raises(JournalError, match="is not_sent already"):
        await journal.record_in_doubt("a", attempt, reason="reset")
    await journal.close()


@pytest.mark.asyncio
async def test_a_reported_create_stays_maybe_charged_until_it_is_explained(open_journal: Open):
    """It is sent again, or in doubt; the flag stays while an attempt is unexplained."""
    journal = await open_journal()
    await journal.plan([item()])
    first = await journal.begin_sending("a", ref="r1")
    await journal.record_reported("a", first, again=True, body_code=500)
    second = await journal.begin_sending("a", ref="r2")
    await journal.record_created("a", second, "t2")

    found = await journal.get("a")
    assert found is not None
    assert (found.state, found.maybe_charged) == (ItemState.SENT, True)

    assert not await journal.record_created("a", first, "t1"), "the other task is waited for"

    assert [a.task_id for a in await journal.attempts("a")] == ["t1", "t2"]
    await journal.close()


@pytest.mark.asyncio
async def test_a_reported_create_that_is_not_repeated_is_in_doubt(open_journal: Open):
    """It is listed as every doubt."""
    journal = await open_journal()
    await journal.plan([item()])
    attempt = await journal.begin_sending("a")

    await journal.record_reported("a", attempt, again=False, body_code=501)

    (doubt,) = [found async for found in journal.doubts()]
    assert (doubt.item.source_id, doubt.item.maybe_charged) == ("a", True)
    assert [a.verdict for a in doubt.attempts] == [Verdict.REPORTED]
    await journal.close()


@pytest.mark.asyncio
async def test_a_doubt_is_bound_when_its_task_turns_up(open_journal: Open):
    """By its reference: the late id turns the doubt into a task, without a new create."""
    journal = await open_journal()
    await in_doubt(journal, ref="r")
    found = await journal.find_by_ref("r")
    assert found is not None

    assert await journal.record_created(found.source_id, found.number, "t")

    bound = await journal.get("a")
    assert bound is not None
    assert (bound.state, bound.task_id, bound.maybe_charged) == (ItemState.SENT, "t", False)
    assert await journal.find_by_ref("nobody's") is None
    assert [a.source_id for a in await journal.find_by_task("t")] == ["a"]
    await journal.close()


@pytest.mark.asyncio
async def test_a_released_doubt_takes_its_own_task_if_it_was_not_yet_sent_again(
    open_journal: Open,
):
    """The money is spent: the task is used rather than a second one bought."""
    journal = await open_journal()
    first = await in_doubt(journal)
    await journal.resolve("a", recreate=True)

    assert await journal.record_created("a", first, "t1")

    assert await state_of(journal) is ItemState.SENT
    await journal.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("ending", ["rejected", "not_sent", "in_doubt"])
async def test_an_older_attempts_task_is_used_when_the_newer_attempt_brings_none(
    open_journal: Open, ending: str
):
    """It turned up while the newer create was in flight."""
    journal = await open_journal()
    first = await in_doubt(journal)
    await journal.resolve("a", recreate=True)
    second = await journal.begin_sending("a")

    assert not await journal.record_created("a", first, "t1")
    assert await state_of(journal) is ItemState.SENDING
    if ending == "rejected":
        await journal.record_rejected("a", second, final=True)
    elif ending == "not_sent":
        await journal.record_not_sent("a", second, reason="x")
    else:
        await journal.record_in_doubt("a", second, reason="x")

    found = await journal.get("a")
    assert found is not None
    assert (found.state, found.task_id) == (ItemState.SENT, "t1")
    assert found.maybe_charged is (ending == "in_doubt")
    await journal.close()


@pytest.mark.asyncio
async def test_records_may_be_repeated_but_not_contradicted(open_journal: Open):
    """A caller that was cut off says it again; another id for the same attempt is wrong."""
    journal = await open_journal()
    await journal.plan([item("a"), item("b")])
    attempt = await journal.begin_sending("a")
    for _ in range(2):
        assert await journal.record_created("a", attempt, "t")
    with pytest.raises(JournalError, match="already has task t"):
        await journal.record_created("a", attempt, "u")
    with pytest.raises(JournalError, match="no attempt 7"):
        await journal.record_created("a", 7, "u")
    for _ in range(2):
        await journal.record_done("a", ended("t"))

    for wrong in (
        lambda: journal.record_failed("a", reason="late"),
        lambda: journal.record_rejected("a", attempt, final=True),
        lambda: journal.record_done("b", ended("t")),
        lambda: journal.record_files("b", ["x"]),
        lambda: journal.record_done("nobody", ended("t")),
    ):
        with pytest.raises(JournalError):
            await wrong()

    assert await state_of(journal) is ItemState.DONE
    assert await state_of(journal, "b") is ItemState.PLANNED
    await journal.close()


@pytest.mark.asyncio
async def test_a_task_may_fail_and_an_item_may_fail_before_it_is_sent(open_journal: Open):
    """Both say why."""
    journal = await open_journal()
    await journal.plan([item("a"), item("b")])
    attempt = await journal.begin_sending("a")
    await journal.record_created("a", attempt, "t")

    await journal.record_failed(
        "a", reason="task_failed", task=ended("t", TaskState.FAIL), error_code="500", polls=2
    )
    await journal.record_failed("b", reason="invalid", error_message="too long")

    a, b = await journal.get("a"), await journal.get("b")
    assert a is not None
    assert b is not None
    assert (a.state, a.task_id, a.reason, a.error_code) == (
        ItemState.FAILED,
        "t",
        "task_failed",
        "500",
    )
    assert (b.state, b.task_id, b.error_message) == (ItemState.FAILED, None, "too long")
    await journal.close()


@pytest.mark.asyncio
async def test_a_doubt_that_was_not_created_is_sent_again_and_explained(open_journal: Open):
    """Nothing was charged, and its attempts say so."""
    journal = await open_journal()
    await in_doubt(journal)

    found = await journal.resolve("a", not_created=True, evidence={"log": "empty"})

    assert (found.state, found.maybe_charged) == (ItemState.PLANNED, False)
    assert [a.verdict for a in await journal.attempts("a")] == [Verdict.NOT_SENT]
    assert await journal.begin_sending("a") == 2
    await journal.close()


@pytest.mark.asyncio
async def test_recreating_a_doubt_stays_on_record_as_maybe_charged(open_journal: Open):
    """No doubt disappears because somebody took the risk."""
    journal = await open_journal()
    await in_doubt(journal)

    found = await journal.resolve("a", recreate=True, by="me")
    second = await journal.begin_sending("a")
    await journal.record_created("a", second, "t2")

    assert found.state is ItemState.PLANNED
    bound = await journal.get("a")
    assert bound is not None
    assert (bound.task_id, bound.maybe_charged) == ("t2", True)
    assert [d.decision for d in await journal.decisions()] == ["recreate"]
    await journal.close()


@pytest.mark.asyncio
async def test_recreating_a_failed_item_never_goes_back_to_its_failed_task(open_journal: Open):
    """A rejection of the second create does not revive the first one's task."""
    journal = await open_journal()
    await journal.plan([item()])
    await journal.record_created("a", await journal.begin_sending("a"), "t1")
    await journal.record_failed("a", reason="task_failed")

    await journal.resolve("a", recreate=True)
    await journal.record_rejected("a", await journal.begin_sending("a"), final=False)

    assert await state_of(journal) is ItemState.PLANNED
    await journal.close()


@pytest.mark.asyncio
async def test_a_task_is_bound_to_the_attempt_that_brought_it(open_journal: Open):
    """If that is known; else to the last one in doubt.  One that has a task keeps it."""
    journal = await open_journal()
    for name in "ab":
        await in_doubt(journal, name)
        await journal.resolve(name, recreate=True)
        await in_doubt(journal, name)

    for wrong in (3, 0):
        with pytest.raises(JournalError, match=f"no attempt {wrong} that could have task t"):
            await journal.resolve("a", as_task_id="t", attempt=wrong)
    with pytest.raises(UsageError, match="attempt goes with as_task_id"):
        await journal.resolve("a", not_created=True, attempt=1)
    await journal.resolve("a", as_task_id="t", attempt=1)
    await journal.resolve("b", as_task_id="u")

    assert [made.task_id for made in await journal.attempts("a")] == ["t", None]
    assert [made.task_id for made in await journal.attempts("b")] == [None, "u"]
    await journal.resolve("a", as_task_id="t", attempt=1)
    for name in "ab":
        found = await journal.get(name)
        assert found is not None
        assert found.maybe_charged
    await journal.close()


@pytest.mark.asyncio
async def test_a_decision_needs_a_doubt_and_one_way(open_journal: Open):
    """A task that belongs to another item is refused too."""
    journal = await open_journal()
    await in_doubt(journal, "a")
    await in_doubt(journal, "b")
    await journal.plan([item("c")])
    await journal.resolve("b", as_task_id="t")
    await journal.resolve("b", as_task_id="t")

    for wrong in ({}, {"not_created": True, "recreate": True}, {"as_task_id": "a/b"}):
        with pytest.raises(UsageError):
            await journal.resolve("a", **wrong)
    for name, way in (
        ("a", {"as_task_id": "t"}),
        ("b", {"as_task_id": "u"}),
        ("b", {"not_created": True}),
        ("c", {"recreate": True}),
        ("c", {"as_task_id": "v"}),
        ("nobody", {"recreate": True}),
    ):
        with pytest.raises(JournalError):
            await journal.resolve(name, **way)

    assert await state_of(journal, "a") is ItemState.IN_DOUBT
    assert len(await journal.decisions()) == 1
    await journal.close()


@pytest.mark.asyncio
async def test_recovery_leaves_what_this_owner_is_sending(open_journal: Open):
    """It is alive."""
    journal = await open_journal()
    await journal.plan([item()])
    await journal.begin_sending("a")

    recovery = await journal.recover()

    assert recovery.doubts == 0
    assert recovery.counts == Counts(sending=1)
    await journal.close()


@pytest.mark.asyncio
async def test_recovery_puts_what_the_last_owner_left_open_in_doubt(open_journal: Open):
    """Once; the second recovery finds nothing, and the other items are as they were."""
    journal = await open_journal()
    await journal.plan([item(name) for name in "abc"])
    await journal.begin_sending("a", ref="r")
    await journal.record_created("b", await journal.begin_sending("b"), "t")
    await journal.close()

    journal = await open_journal()
    first, second = await journal.recover(), await journal.recover()

    assert (first.doubts, second.doubts) == (1, 0)
    assert second.counts == Counts(planned=1, sent=1, in_doubt=1)
    (doubt,) = [found async for found in journal.doubts()]
    assert (doubt.item.source_id, doubt.item.reason) == ("a", "crash")
    assert [a.ref for a in doubt.attempts] == ["r"]
    await journal.close()


@pytest.mark.asyncio
async def test_pages_go_on_where_the_last_one_ended(open_journal: Open):
    """In the order of planning, of one state, and with or without files."""
    journal = await open_journal()
    names = [f"i{number}" for number in range(7)]
    await journal.plan([item(name) for name in reversed(names)])
    for name in names[:4]:
        await journal.record_created(name, await journal.begin_sending(name), f"t{name}")
        await journal.record_done(name, ended(f"t{name}"))
    await journal.record_files("i2", ["x"])

    first = await journal.page(ItemState.PLANNED, limit=2)
    rest = await journal.page(ItemState.PLANNED, after=first[-1].seq)
    bare = [i.source_id async for i in journal.iterate(ItemState.DONE, batch=1, without_files=True)]

    assert [i.source_id for i in first] == ["i6", "i5"]
    assert [i.source_id for i in rest] == ["i4"]
    assert bare == ["i3", "i1", "i0"]
    assert await journal.counts() == Counts(planned=3, done=4)
    await journal.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["\ud800", "a\ud800", "a\x00", "a\x00b", "", "é"])
async def test_whatever_is_asked_for_it_is_known_or_not(open_journal: Open, text: str):
    """Ids come from anywhere: text that no row can have is as unknown as any other."""
    journal = await open_journal()
    await journal.plan([item("a")])

    assert await journal.get(text) is None
    assert await journal.find_by_ref(text) is None
    assert await journal.find_by_task(text) == []
    for asked in (
        journal.attempts(text),
        journal.begin_sending(text),
        journal.record_failed(text, reason="r"),
        journal.resolve(text, not_created=True),
    ):
        with pytest.raises(JournalError, match="is not in the journal"):
            await asked
    await journal.close()


@pytest.mark.asyncio
async def test_created_times_are_when_creates_ended(open_journal: Open, clock: WallClock):
    """An open one counts from its intent, one that was not sent not at all."""
    journal = await open_journal()
    await journal.plan([item(name) for name in "abcd"])
    for name in "abc":
        await journal.begin_sending(name)
    clock.now += 5
    await journal.record_created("b", 1, "t")
    await journal.record_not_sent("c", 1, reason="x")
    clock.now += 100
    await journal.begin_sending("d")

    assert await journal.created_times(0) == [NOW, NOW + 5, NOW + 105]
    assert await journal.created_times(NOW + 1) == [NOW + 5, NOW + 105]
    await journal.close()


@pytest.mark.asyncio
async def test_polls_are_noted_without_waiting(open_journal: Open):
    """The last figure counts, it never goes down, and closing writes it."""
    journal = await open_journal()
    await journal.plan([item()])
    journal.note_polls("a", 3)
    journal.note_polls("a", 5)
    journal.note_polls("nobody", 1)
    await journal.close()
    journal = await open_journal()
    journal.note_polls("a", 2)
    await journal.close()

    journal = await open_journal()

    found = await journal.get("a")
    assert found is not None
    assert found.polls == 5
    await journal.close()


@pytest.mark.asyncio
async def test_closing_twice_is_harmless_and_then_nothing_works(open_journal: Open):
    """The error says so."""
    journal = await open_journal()
    await journal.close()
    await journal.close()

    with pytest.raises(JournalError, match="not open"):
        await journal.plan([item()])
    with pytest.raises(JournalError, match="not open"):
        await journal.counts()
    with pytest.raises(JournalError, match="not open"):
        journal.note_polls("a", 1)


@pytest.mark.asyncio
async def test_a_cancelled_intent_is_taken_back(open_journal: Open):
    """At whatever instant: nothing was sent, so no doubt may stay."""
    journal = await open_journal()
    names = [f"i{number}" for number in range(60)]
    await journal.plan([item(name) for name in names])
    kept = []
    for number, name in enumerate(names):
        task = asyncio.ensure_future(journal.begin_sending(name))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        if number % 3 == 0:  # let the thread finish, and cancel before the caller hears
            other = names[(number + 1) % 60]
            await journal.get(other)
        task.cancel()
        if (await asyncio.gather(task, return_exceptions=True))[0] != 1:
            continue
        kept.append(name)
    await journal.close()

    journal = await open_journal()

    assert (await journal.recover()).doubts == len(kept)
    assert (await journal.counts()).planned == 60 - len(kept)
    await journal.close()


@pytest.mark.asyncio
async def test_a_cancelled_record_is_written_all_the_same(open_journal: Open):
    """The id of a paid task is never lost with its caller."""
    journal = await open_journal()
    await journal.plan([item()])
    attempt = await journal.begin_sending("a")
    task = asyncio.ensure_future(journal.record_created("a", attempt, "t"))
    await asyncio.sleep(0)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await journal.close()

    journal = await open_journal()
    assert await state_of(journal) is ItemState.SENT
    await journal.close()
