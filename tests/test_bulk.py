"""Bulk runs in virtual time, with a real journal: once each, resumed, stopped."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from kie_async import CreateRetry, OutcomeStatus, PollSchedule, UsageError, errors
from kie_async.bulk import Budget, BulkItem, audit, expected_price, note_balance, reconcile
from kie_async.errors import DownloadError, KieConnectionError
from kie_async.grok_imagine import UPSCALE
from kie_async.journal import ItemState, Journal, PlannedItem
from kie_async.protocol import Response
from kie_async.testing import VirtualKie
from tests.clock import Held, jumping
from tests.fakes import FakeAPI, envelope, session_on


def now() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def journal_at(path: Path):
    """Open a journal whose work takes no virtual time."""
    journal = Held(Journal(path / "run.db"))
    loop = asyncio.get_running_loop()
    with loop.held():
        await journal._wrapped.__aenter__()
    try:
        yield journal
    finally:
        with loop.held():
            await journal._wrapped.__aexit__(None, None, None)


def paid(api: FakeAPI) -> dict[str, int]:
    """Count the creates of each source."""
    counts: dict[str, int] = {}
    for _, sent in api.creates:
        source = sent["input"]["task_id"]
        counts[source] = counts.get(source, 0) + 1
    return counts


async def outcomes_of(run) -> dict[str, OutcomeStatus]:
    return {outcome.source_id: outcome.status async for outcome in run}


IDS = [f"source-{n}" for n in range(50)]


@jumping
async def test_every_id_is_upscaled_once(tmp_path):
    """Duplicates are one task, and results come as they finish."""
    api = FakeAPI(duration=10.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        found = await outcomes_of(kie.upscale_many([*IDS, *IDS], journal=journal))
        counts = await journal.counts()

    assert found == dict.fromkeys(IDS, OutcomeStatus.DONE)
    assert paid(api) == dict.fromkeys(IDS, 1)
    assert counts.done == 50
    assert now() < 45


@jumping
async def test_a_second_run_sends_nothing(tmp_path):
    """What is done is done."""
    api = FakeAPI()
    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        await outcomes_of(kie.upscale_many(IDS, journal=journal))

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        again = await outcomes_of(kie.upscale_many(IDS, journal=journal))

    assert again == {}
    assert len(api.creates) == 50


@pytest.mark.asyncio
async def test_without_a_journal_a_temporary_one_serves():
    """Nothing is asked of the caller for a small list.  On the real clock: its thread is real."""
    api = FakeAPI(duration=0.02, latency=0.0)

    async with session_on(api, polling=PollSchedule(first_gap=0.05, min_gap=0.01)) as kie:
        found = await outcomes_of(kie.upscale_many(["a-source", "a-source"]))

    assert found == {"a-source": OutcomeStatus.DONE}
    assert len(api.creates) == 1


@jumping
async def test_items_bring_settings_of_their_own(tmp_path):
    """From an async iterable, with a resolution and a name each."""
    api = FakeAPI()

    async def items():
        yield BulkItem(source_id="source-a", resolution="1080p", output_name="first")
        yield "source-b"

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        await outcomes_of(kie.upscale_many(items(), journal=journal, resolution="720p"))
        item = await journal.get("source-a")

    assert [sent["input"].get("resolution") for _, sent in api.creates] == ["1080p", "720p"]
    assert item.output_name == "first"


@pytest.mark.parametrize("bad", [["fine", ""], ["a b"], "text", 5, [BulkItem(source_id="x" * 101)]])
def test_items_that_cannot_work_are_named(bad, tmp_path):
    """With their position; what came before is planned, nothing else happens."""

    @jumping
    async def story():
        api = FakeAPI()
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            with pytest.raises(UsageError):
                await outcomes_of(kie.upscale_many(bad, journal=journal))

    story()


@jumping
async def test_lost_answers_are_doubts_and_never_paid_again(tmp_path):
    """5 % lost after acceptance: 0 extra creates, all of the lost are listed."""
    api = FakeAPI()
    lost = set(range(0, 50, 10))
    api.lost = lambda n: KieConnectionError("reset") if n in lost else None

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        found = await outcomes_of(kie.upscale_many(IDS, journal=journal))
        doubts = [doubt.item.source_id async for doubt in journal.doubts()]
        again = await outcomes_of(kie.upscale_many(IDS, journal=journal))

    assert sorted(doubts) == sorted(s for s, v in found.items() if v is OutcomeStatus.IN_DOUBT)
    assert len(doubts) == len(lost)
    assert again == {}
    assert set(paid(api).values()) == {1}


@jumping
async def test_a_crash_leaves_doubts_at_most_for_the_creates_in_flight(tmp_path):
    """The process dies in the middle; the next run collects, and pays nothing twice."""
    api = FakeAPI(duration=20.0, latency=2.0)
    async with journal_at(tmp_path) as journal:
        kie = session_on(api)
        await kie.__aenter__()
        run = kie.upscale_many(IDS, journal=journal)
        first = asyncio.ensure_future(anext(run))
        await asyncio.sleep(1.0)
        under_way = len(api.creates)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # a crash: nobody drains anything
        await asyncio.gather(first, return_exceptions=True)
        await asyncio.sleep(0)
        await kie.close(grace=0.0)  # as far as the kernel would do it

    after = FakeAPI(duration=20.0)
    after.tasks = api.tasks
    async with journal_at(tmp_path) as journal, session_on(after) as kie:
        found = await outcomes_of(kie.upscale_many(IDS, journal=journal))
        counts = await journal.counts()

    assert 0 < counts.in_doubt <= under_way <= 20
    assert counts.done + counts.in_doubt == 50
    assert not set(paid(api)) & set(paid(after))
    assert all(v is OutcomeStatus.DONE for v in found.values())


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (433, errors.KeyQuotaError),
        (505, errors.FeatureDisabledError),
    ],
)
def test_some_refusals_stop_the_run_and_lose_nothing(code, error, tmp_path):
    """Tasks under way finish, the rest stays planned, the same journal goes on."""

    @jumping
    async def story():
        api = FakeAPI(duration=30.0)
        api.on_create = lambda n, r: envelope(code, "no") if n >= 30 else None
        found = {}
        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            with pytest.raises(error):
                async for outcome in kie.upscale_many(IDS, journal=journal):
                    found[outcome.source_id] = outcome.status
            counts = await journal.counts()
            assert counts.done == 30
            assert counts.planned == 20
            assert len(api.creates) <= 30 + 20
            assert list(found.values()).count(OutcomeStatus.DONE) == 30

            api.on_create = None
            await outcomes_of(kie.upscale_many(IDS, journal=journal))
            assert (await journal.counts()).done == 50

    story()


@jumping
async def test_one_bad_item_fails_alone(tmp_path):
    """422 for one is nothing to the others."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(422, "bad") if b"source-7" in (r.body or b"") else None

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        found = await outcomes_of(kie.upscale_many(IDS[:10], journal=journal))

    assert found["source-7"] is OutcomeStatus.FAILED
    assert list(found.values()).count(OutcomeStatus.DONE) == 9


@jumping
async def test_a_failed_task_is_on_record(tmp_path):
    """With Kie's code and message."""
    api = FakeAPI(duration=1.0)
    api.on_poll = lambda n, r: api.record(
        r.path.rpartition("=")[2], state="fail", failCode="500", failMsg="bad"
    )

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        found = await outcomes_of(kie.upscale_many(["source-a"], journal=journal))
        item = await journal.get("source-a")

    assert found == {"source-a": OutcomeStatus.FAILED}
    assert (item.state, item.error_code, item.error_message) == (ItemState.FAILED, "500", "bad")


@jumping
async def test_an_outage_is_waited_for(tmp_path):
    """Nothing can be reached for ten minutes: nothing fails, nothing is lost."""
    api = FakeAPI()
    api.on_create = lambda n, r: KieConnectionError("refused", sent=False) if now() < 600 else None

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        found = await outcomes_of(kie.upscale_many(IDS[:30], journal=journal))

    assert set(found.values()) == {OutcomeStatus.DONE}
    assert now() < 800


@jumping
async def test_a_task_that_takes_too_long_is_collected_later(tmp_path):
    """The row stays `sent`; the next run waits for it and creates nothing."""
    api = FakeAPI(duration=500.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        late = [o async for o in kie.upscale_many(["source-a"], journal=journal, task_timeout=60)]
        again = await outcomes_of(kie.upscale_many(["source-a"], journal=journal))

    assert isinstance(late[0].error, errors.WaitTimeoutError)
    assert late[0].error.task_id == "0" * 32
    assert again == {"source-a": OutcomeStatus.DONE}
    assert len(api.creates) == 1


@jumping
async def test_the_cap_on_credits_holds(tmp_path):
    """Ten credits each: with 105 allowed, ten are created."""
    api = FakeAPI()

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        with pytest.raises(errors.SpendLimitError):
            await outcomes_of(kie.upscale_many(IDS, journal=journal, max_credits=105))
        counts = await journal.counts()

    assert counts.done == 10
    assert counts.planned == 40


@jumping
async def test_the_cap_on_credits_holds_when_every_answer_is_lost(tmp_path):
    """Each may have been paid for: with 50 allowed, five are sent."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset")

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal, max_credits=50, in_flight=3)
        with pytest.raises(errors.SpendLimitError, match="in doubt count as paid"):
            await outcomes_of(run)

    assert len(api.creates) == 5
    assert (run.progress.in_doubt, run.progress.credits_spent) == (5, 0.0)


@jumping
async def test_a_doubt_counts_even_if_the_journal_cannot_take_it(tmp_path):
    """It is no doubt of the journal's then; the money may be gone all the same."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset")

    async with journal_at(tmp_path) as journal, session_on(api) as kie:

        async def taken(*_, **__):
            raise errors.ItemTakenError("another process has begun it")

        journal.record_in_doubt = taken
        run = kie.upscale_many(IDS, journal=journal, max_credits=50, in_flight=3)
        with pytest.raises(errors.SpendLimitError):
            await outcomes_of(run)

    assert len(api.creates) == 5


@jumping
async def test_stopping_lets_what_runs_finish(tmp_path):
    """As a first Ctrl-C does."""
    api = FakeAPI(duration=30.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal)
        asyncio.get_running_loop().call_later(5.0, run.stop)
        found = await outcomes_of(run)
        counts = await journal.counts()

    assert len(found) == counts.done == len(api.creates) == 20
    assert counts.planned == 30


@jumping
async def test_giving_up_leaves_everything_resumable(tmp_path):
    """As the end of the grace does: no doubts, the tasks are collected later."""
    api = FakeAPI(duration=300.0, latency=2.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal)
        collecting = asyncio.ensure_future(outcomes_of(run))
        await asyncio.sleep(11.0)
        await run.give_up_waiting()
        assert await collecting == {}
        counts = await journal.counts()
        assert counts.in_doubt == counts.sending == 0
        assert counts.sent == len(api.creates)
        again = await outcomes_of(kie.upscale_many(IDS, journal=journal))

    assert set(again.values()) == {OutcomeStatus.DONE}
    assert set(paid(api).values()) == {1}


@jumping
async def test_leaving_the_loop_early_leaves_nothing_behind(tmp_path):
    """`break` and aclose: no task of ours goes on, and no doubt stays."""
    api = FakeAPI(duration=10.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal)
        async for _ in run:
            break
        await run.aclose()
        counts = await journal.counts()
        assert counts.sending == counts.in_doubt == 0
    assert len(asyncio.all_tasks()) == 1


@jumping
async def test_leaving_a_long_list_early_does_not_hang(tmp_path):
    """With more items than any queue holds; the journal has the rest."""
    api = FakeAPI(duration=0.5)
    many = [f"source-{n}" for n in range(4000)]

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(many, journal=journal)
        async for _ in run:
            break
        async with asyncio.timeout(120):
            await run.aclose()
        counts = await journal.counts()

    assert counts.sending == counts.in_doubt == 0
    assert counts.planned > 900
    assert len(asyncio.all_tasks()) == 1


@jumping
async def test_a_bad_item_late_in_the_list_ends_the_run_in_good_order(tmp_path):
    """What runs is finished and comes out, then the error."""
    api, found = FakeAPI(duration=5.0), []
    items = [*[f"source-{n}" for n in range(1500)], "not an id"]

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        with pytest.raises(UsageError, match="item 1501"):
            async for outcome in kie.upscale_many(items, journal=journal):
                found.append(outcome.status)  # noqa: PERF401 - it is kept when the run raises
        counts = await journal.counts()

    assert found
    assert set(found) == {OutcomeStatus.DONE}
    assert counts.done == len(api.creates) == len(found)
    assert counts.sending == counts.sent == 0


@jumping
async def test_a_slow_consumer_slows_nothing_that_is_paid(tmp_path):
    """Outcomes queue up, bounded; the journal has them all."""
    api = FakeAPI(duration=1.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS, journal=journal)
        first = await anext(run)
        await asyncio.sleep(100)
        assert (await journal.counts()).done == 50
        rest = [outcome async for outcome in run]

    assert first.status is OutcomeStatus.DONE
    assert len(rest) == 49


@jumping
async def test_a_failed_download_neither_fails_nor_repeats_the_task(tmp_path):
    """The outcome is done and carries the error; the next run saves again, for free."""
    api = FakeAPI(duration=1.0)

    async def broken(task, item):
        raise DownloadError("the host is down", task_id=task.task_id)

    async def fine(task, item):
        return (Path("x.png"),)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(["source-a"], journal=journal)
        object.__setattr__(run._plan, "save", broken)
        first = [o async for o in run]
        run = kie.upscale_many(["source-a"], journal=journal)
        object.__setattr__(run._plan, "save", fine)
        second = [o async for o in run]

    assert first[0].status is OutcomeStatus.DONE
    assert isinstance(first[0].error, DownloadError)
    assert second[0].files == (Path("x.png"),)
    assert len(api.creates) == 1


# -- doubts and credits --


@jumping
async def test_doubts_are_settled_by_their_reference(tmp_path):
    """RecordInfo echoes the callback URL: the user's list of ids is enough."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset") if n in (1, 3) else None

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(IDS[:5], journal=journal, callback_url="https://h/cb")
        await outcomes_of(run)

        async def look(task_id):
            return await kie.get_task(task_id)

        api.on_poll = lambda n, r: _echo(api, r)
        found = [f async for f in reconcile(journal, look, [*api.tasks, "f" * 32])]
        api.on_poll = None
        await outcomes_of(kie.upscale_many(IDS[:5], journal=journal))
        counts = await journal.counts()

    assert [f.verdict for f in found].count("settled") == 2
    assert [f.verdict for f in found].count("known") == 3
    assert found[-1].verdict == "unreadable"
    assert (counts.done, counts.in_doubt) == (5, 0)
    assert set(paid(api).values()) == {1}


def _echo(api: FakeAPI, request) -> Response | None:
    """Answer with the parameters of the create, doubly encoded as live records are."""
    task_id = request.path.rpartition("=")[2]
    if task_id not in api.tasks:
        return None
    sent = api.creates[int(task_id, 16)][1]
    param = {**sent, "input": json.dumps(sent["input"])}
    return api.record(task_id, param=json.dumps(param))


@jumping
async def test_without_references_input_and_time_are_the_proof(tmp_path):
    """If they fit exactly one doubt; else nothing is decided."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset") if n == 0 else None

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        await outcomes_of(kie.upscale_many(["source-a"], journal=journal))
        attempt = (await journal.attempts("source-a"))[0]
        stamp = int(attempt.intent_at * 1000) + 400

        def echo(stamp):
            param = json.dumps({"input": json.dumps({"task_id": "source-a"})})
            return lambda n, r: api.record("0" * 32, param=param, createTime=stamp)

        api.on_poll = echo(stamp + 3_600_000)
        late = [f async for f in reconcile(journal, kie.get_task, ["0" * 32])]
        api.on_poll = echo(stamp)
        found = [f async for f in reconcile(journal, kie.get_task, ["0" * 32, "0" * 32])]

    assert [f.verdict for f in late] == ["unrelated"]
    assert [(f.verdict, f.source_id) for f in found] == [("settled", "source-a")] * 2


@jumping
async def test_two_tasks_that_fit_one_doubt_decide_nothing(tmp_path):
    """One of them may be somebody else's: the same input, made at the same time."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset") if n == 0 else None
    api.tasks["1" * 32] = 10.0

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        await outcomes_of(kie.upscale_many(["source-a"], journal=journal))
        attempt = (await journal.attempts("source-a"))[0]
        param = json.dumps({"input": json.dumps({"task_id": "source-a"})})
        stamp = int(attempt.intent_at * 1000) + 400
        api.on_poll = lambda n, r: api.record(
            r.path.rpartition("=")[2], param=param, createTime=stamp
        )
        found = [f async for f in reconcile(journal, kie.get_task, ["0" * 32, "1" * 32])]
        counts = await journal.counts()

    assert [f.verdict for f in found] == ["ambiguous", "ambiguous"]
    assert counts.in_doubt == 1


@jumping
async def test_two_tasks_of_one_reference_are_a_double(tmp_path):
    """A hop on the way sent the create twice: the first is the item's, the second is told."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset") if n == 0 else None
    api.tasks["1" * 32] = 10.0

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        run = kie.upscale_many(["source-a"], journal=journal, callback_url="https://h/cb")
        await outcomes_of(run)
        param = json.dumps({**api.creates[0][1], "input": "{}"})
        api.on_poll = lambda n, r: api.record(r.path.rpartition("=")[2], param=param)
        found = [f async for f in reconcile(journal, kie.get_task, ["0" * 32, "1" * 32])]
        item = await journal.get("source-a")

    assert [f.verdict for f in found] == ["settled", "double"]
    assert item.task_id == "0" * 32


@jumping
async def test_the_audit_finds_what_nobody_explained(tmp_path):
    """Balance before, balance after, and the tasks on record between them."""
    api = FakeAPI()
    api.on_poll = lambda n, r: api.record(r.path.rpartition("=")[2], creditsConsumed=10.0)

    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        await note_balance(journal, 1000.0, first=True)
        await note_balance(journal, 5.0, first=True)  # a resume does not move the start
        await outcomes_of(kie.upscale_many(IDS[:5], journal=journal))
        await note_balance(journal, 950.0, first=False)
        clean = await audit(journal)
        await note_balance(journal, 940.0, first=False)
        odd = await audit(journal)

    assert (clean.explained, clean.unexplained) == (50.0, 0.0)
    assert odd.unexplained == 10.0


@jumping
async def test_a_paid_task_that_is_not_visible_yet_is_waited_for_by_the_next_run(tmp_path):
    """A crash right after the create: `recordInfo is null` is no reason to give the task up."""
    api = VirtualKie(durations=lambda _rng: 30.0)
    api.inject(route="task", action="late", seconds=80.0)
    source = api.add_source_task()
    async with journal_at(tmp_path) as journal, api.session() as kie:
        loop = asyncio.get_running_loop()  # the clock is read on the journal's thread, too
        journal._wrapped._clock = lambda: api.api.unix(loop.time())
        task_id = await kie.create_task("grok-imagine/upscale", {"task_id": source})
        await journal.plan(
            [PlannedItem(source_id=source, model=UPSCALE, input={"task_id": source})]
        )
        attempt = await journal.begin_sending(source)
        await journal.record_created(source, attempt, task_id)
        await asyncio.sleep(5.0)
        found = await outcomes_of(kie.upscale_many([source], journal=journal))

    assert found == {source: OutcomeStatus.DONE}
    assert api.books.paid(source) == 1


def test_a_budget_learns_a_higher_price():
    """A price surprise stops the run before the next create."""
    budget = Budget(100.0, 10.0)

    assert all(budget.reserve() for _ in range(4))
    budget.settle(80.0, charged=True)

    assert budget.price == 80.0
    assert not budget.reserve()


def test_a_doubt_counts_as_one_task_and_is_not_said_to_be_spent():
    """At the price of the day: what is seen to be dearer was dearer."""
    budget = Budget(100.0, 10.0)

    assert budget.reserve()
    budget.settle(None, charged=False, in_doubt=True)
    assert (budget.spent, budget.committed) == (0.0, 10.0)
    assert budget.reserve()
    budget.settle(80.0, charged=True)
    assert (budget.spent, budget.committed) == (80.0, 160.0)
    assert not budget.reserve()


def test_a_failed_task_costs_nothing():
    """What was set aside is free again."""
    budget = Budget(10.0, 10.0)

    assert budget.reserve()
    assert not budget.reserve()
    budget.settle(0.0, charged=True)
    assert budget.reserve()


def test_prices_are_upper_bounds():
    """As published 2026-09."""
    assert expected_price(None) == 10.0
    assert expected_price("1080p") == 30.0


def test_bulk_refuses_to_resend_doubts_by_itself():
    """ALWAYS belongs to single calls; here doubts are rows for the user to decide."""

    @jumping
    async def story():
        async with session_on(FakeAPI(), create_retry=CreateRetry.ALWAYS) as kie:
            with pytest.raises(UsageError, match="recreate"):
                kie.upscale_many(["a"])

    story()


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_collected_and_slow_to_save_has_one_outcome(fails, tmp_path):
    """It is done and without files when the run looks for such; it saves it already."""

    @jumping
    async def story():
        api, saved = FakeAPI(duration=50.0), []
        ids = [f"source-{n}" for n in range(600)]

        async def save(task, item):
            await asyncio.sleep(1.0)
            saved.append(item.source_id)
            if fails:
                raise DownloadError("the host is down")
            return (Path("x"),)

        async with journal_at(tmp_path) as journal, session_on(api) as kie:
            late = kie.upscale_many(ids, journal=journal, task_timeout=5.0, in_flight=700)
            await outcomes_of(late)
            assert (await journal.counts()).sent == 600
            run = kie.upscale_many([], journal=journal)
            object.__setattr__(run._plan, "save", save)
            seen = [outcome.source_id async for outcome in run]

        assert sorted(seen) == sorted(ids)
        assert sorted(saved) == sorted(ids)

    story()


@jumping
async def test_a_doubt_that_is_claimed_while_the_run_begins_has_one_outcome(tmp_path):
    """Its callback comes when the paid ones are read: it is settled, and among them then."""
    api = FakeAPI(duration=30.0)
    api.lost = lambda n: KieConnectionError("reset")

    class Bell:
        def connect(self, ring):
            self.ring = ring
            return lambda: None

    bell = Bell()
    async with journal_at(tmp_path) as journal, session_on(api) as kie:
        first = kie.upscale_many(["source-a"], journal=journal, callback_url="https://h/cb")
        await outcomes_of(first)
        api.on_poll = lambda n, r: _echo(api, r)
        reference = (await journal.attempts("source-a"))[0].ref
        real = journal.iterate

        async def iterate(state, **more):
            if state is ItemState.SENT:
                bell.ring(SimpleNamespace(task_id="0" * 32, reference=reference))
                await asyncio.sleep(5.0)
            async for item in real(state, **more):
                yield item

        journal.iterate = iterate
        run = kie.upscale_many([], journal=journal)
        object.__setattr__(run._plan, "receiver", bell)
        seen = [(outcome.source_id, outcome.status) async for outcome in run]

    assert seen == [("source-a", OutcomeStatus.DONE)]
    assert run.progress.in_doubt == 0
