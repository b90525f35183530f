"""The paid section: what is sent again, what is not, and what cancellation leaves."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from kie_async import (
    CreateInDoubtError,
    CreateRetry,
    KieError,
    MaintenanceError,
    RateLimitError,
    RetryPolicy,
    SessionClosedError,
    ValidationError,
)
from kie_async.errors import JournalError, KieConnectionError, StorageFullError
from kie_async.instrumentation import CreateInDoubt, RequestRetried, TaskCreated, TaskOrphaned
from kie_async.protocol import Response, Verdict
from kie_async.session._creates import Order
from tests.clock import jumping, run_jumping
from tests.fakes import FakeAPI, envelope, session_on


def now() -> float:
    return asyncio.get_running_loop().time()


@jumping
async def test_a_refused_create_is_sent_again():
    """429 created nothing; after the pause it goes through."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(429, "too high") if n == 0 else None

    async with session_on(api) as kie:
        await kie.create_task("m", {})

    assert len(api.creates) == 2
    assert 5.0 <= api.creates[1][0] <= 11.0


@jumping
async def test_one_refusal_pauses_all_callers_once():
    """Twenty are refused together: one lesson, one pause, then one probe, then the rest."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(429, "too high") if n < 20 else None

    async with session_on(api) as kie:
        await asyncio.gather(*(kie.create_task("m", {"n": n}) for n in range(20)))

    times = [at for at, _ in api.creates]
    assert len(times) == 40
    assert 5.0 <= times[20] <= 11.0
    assert times[21] >= times[20] + api.latency  # the probe went alone
    assert times[-1] <= times[20] + 21.0


@jumping
async def test_maintenance_is_probed_by_one_at_a_time():
    """455 for five minutes with 200 waiting: few probes, then all succeed."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(455, "maintenance") if now() < 300 else None

    async with session_on(api) as kie:
        ids = await asyncio.gather(
            *(kie.create_task("m", {"n": n}, timeout=5000) for n in range(200))
        )

    refused = [at for at, _ in api.creates if at < 300]
    probes = refused[20:]
    assert len(set(ids)) == 200
    assert len(probes) <= 12
    assert all(b - a >= 10 for a, b in itertools.pairwise(probes))


@jumping
async def test_an_hour_of_refusals_is_no_hammering():
    """At most one probe in each pause."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(429, "too high") if now() < 3600 else None

    async with session_on(api) as kie:
        await asyncio.gather(*(kie.create_task("m", {"n": n}, timeout=9000) for n in range(50)))

    assert len([at for at, _ in api.creates if at < 3600]) <= 20 + 3600 / 30 + 5


@jumping
async def test_what_was_not_sent_is_sent_again():
    """Refused connections spend nothing; the attempts are bounded."""
    api = FakeAPI()
    api.on_create = lambda n, r: KieConnectionError("refused", sent=False) if n < 3 else None

    async with session_on(api) as kie:
        await kie.create_task("m", {})
        assert len(api.creates) == 4

        api.on_create = lambda n, r: KieConnectionError("refused", sent=False)
        with pytest.raises(KieConnectionError) as caught:
            await kie.create_task("m", {})
    assert not isinstance(caught.value, CreateInDoubtError)
    assert caught.value.maybe_charged is False


LOST = [
    ("reset", lambda: KieConnectionError("reset")),
    ("silence", lambda: KieConnectionError("no answer in 25 s")),
    ("html 502", lambda: Response(502, {}, b"<html>")),
    ("html 524", lambda: Response(524, {}, b"<html>")),
    ("200 without id", lambda: envelope(200, "success")),
]


@pytest.mark.parametrize("policy", [CreateRetry.NEVER, CreateRetry.REJECTED, CreateRetry.REPORTED])
@pytest.mark.parametrize(("name", "trouble"), LOST, ids=[name for name, _ in LOST])
def test_a_create_in_doubt_is_never_sent_again(name, trouble, policy):
    """One POST, one doubt, whatever the lost answer looked like."""

    async def story():
        api, seen = FakeAPI(), []
        api.on_create = lambda n, r: trouble()
        async with session_on(api, create_retry=policy, hooks=[seen.append]) as kie:
            with pytest.raises(CreateInDoubtError) as caught:
                await kie.create_task("m", {})
        assert len(api.creates) == 1
        assert caught.value.maybe_charged
        assert not caught.value.reported
        assert len([e for e in seen if isinstance(e, CreateInDoubt)]) == 1

    run_jumping(story())


@pytest.mark.parametrize(
    ("policy", "posts"),
    [
        (CreateRetry.NEVER, 1),
        (CreateRetry.REJECTED, 1),
        (CreateRetry.REPORTED, 3),
    ],
)
def test_a_reported_failure_follows_the_policy(policy, posts):
    """Code 500 is sent again at most twice, and only where it was allowed."""

    async def story():
        api, seen = FakeAPI(), []
        api.on_create = lambda n, r: envelope(500, "internal error")
        async with session_on(api, create_retry=policy, hooks=[seen.append]) as kie:
            with pytest.raises(CreateInDoubtError) as caught:
                await kie.create_task("m", {})
        assert len(api.creates) == posts
        assert caught.value.reported
        assert caught.value.code == 500
        assert len([e for e in seen if isinstance(e, RequestRetried)]) == posts - 1
        times = [at for at, _ in api.creates]
        assert all(b - a >= 5.0 for a, b in itertools.pairwise(times))

    run_jumping(story())


@jumping
async def test_always_has_a_spending_cap():
    """It may pay twice, and no more often than it was told."""
    api = FakeAPI()
    api.on_create = lambda n, r: KieConnectionError("reset")
    retry = RetryPolicy(max_duplicates=3)

    async with session_on(api, create_retry=CreateRetry.ALWAYS, retry=retry) as kie:
        for _ in range(3):
            with pytest.raises(CreateInDoubtError):
                await kie.create_task("m", {})

    assert len(api.creates) == 3 + 3


@jumping
async def test_a_final_refusal_is_raised_at_once():
    """Bad input is not worth a second request."""
    api = FakeAPI()
    api.on_create = lambda n, r: envelope(422, "not supported")

    async with session_on(api) as kie:
        with pytest.raises(ValidationError) as caught:
            await kie.create_task("m", {})

    assert len(api.creates) == 1
    assert caught.value.maybe_charged is False


@pytest.mark.parametrize(("code", "error"), [(429, RateLimitError), (455, MaintenanceError)])
def test_never_means_never(code, error):
    """Even what created nothing is raised."""

    async def story():
        api = FakeAPI()
        api.on_create = lambda n, r: envelope(code)
        async with session_on(api, create_retry=CreateRetry.NEVER) as kie:
            with pytest.raises(error):
                await kie.create_task("m", {})
        assert len(api.creates) == 1

    run_jumping(story())


def test_a_thousand_cancels_leave_no_paid_task_unknown():
    """Cancelled at any instant: each created task is a result or an orphan, once."""

    async def story():
        api, seen = FakeAPI(duration=8.0, latency=1.0), []
        rng = random.Random(11)
        async with session_on(api, hooks=[seen.append]) as kie:

            async def one(n):
                call = asyncio.create_task(kie.upscale(f"s-{n}", timeout=9000))
                await asyncio.sleep(rng.random() * 520)
                call.cancel()
                return (await asyncio.gather(call, return_exceptions=True))[0]

            ended = await asyncio.gather(*(one(n) for n in range(1000)))
        known = [e.task_id for e in seen if isinstance(e, TaskOrphaned)]
        known += [t.task_id for t in ended if not isinstance(t, BaseException)]
        assert len(api.tasks) > 100
        assert sorted(known) == sorted(api.tasks)
        assert len(asyncio.all_tasks()) == 1

    run_jumping(story())


@jumping
async def test_ten_thousand_cancels_leave_nothing_behind():
    """No turn, no task, no waiter: all counts are what they were."""
    api = FakeAPI(duration=1e6)
    kie = session_on(api)

    async with kie:
        rounds = 10
        for _ in range(rounds):
            calls = [asyncio.create_task(kie.upscale("s", timeout=1e6)) for _ in range(1000)]
            await asyncio.sleep(0.5)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(30)
        assert len(asyncio.all_tasks()) <= 2  # this one, and a poller about to end
        assert not kie._engine.opened().calls
        assert len(api.creates) == rounds * 20
    assert len(asyncio.all_tasks()) == 1


class Record:
    """A journal of one create, that may be broken."""

    def __init__(self, log, api, *, intend=None, settle=None):
        self.log, self.api, self.broken_intend, self.broken_settle = log, api, intend, settle

    async def intend(self):
        await asyncio.sleep(0.01)
        self.log.append(("intend", len(self.api.creates)))
        if self.broken_intend:
            raise self.broken_intend
        return "https://h/cb/own-ref"

    async def settle(self, answer, *, again):
        await asyncio.sleep(0.01)
        self.log.append(("settle", answer.verdict, answer.task_id))
        self.again = again
        if self.broken_settle:
            raise self.broken_settle


async def recorded(kie, record) -> str:
    """Create with a record, as a bulk run does."""
    order = Order(model="m", input={}, record=record)
    return await kie._engine.opened().creates.run(order)


@jumping
async def test_the_intent_is_kept_before_the_request_and_the_outcome_after():
    """In this order, with the attempt's own callback URL."""
    api, log = FakeAPI(), []

    async with session_on(api) as kie:
        task_id = await recorded(kie, Record(log, api))

    assert log == [("intend", 0), ("settle", Verdict.ACCEPTED, task_id)]
    assert api.creates[0][1]["callBackUrl"] == "https://h/cb/own-ref"


@jumping
async def test_without_an_intent_nothing_is_sent():
    """A full disk stops the create, not the money after it."""
    api, log = FakeAPI(), []

    async with session_on(api) as kie:
        with pytest.raises(StorageFullError):
            await recorded(kie, Record(log, api, intend=StorageFullError("full")))

    assert api.creates == []


@jumping
async def test_a_task_that_exists_is_not_created_again_whatever_its_record_says():
    """The database may be back in a second; the task is paid for, and its id is told."""
    log, api = [], FakeAPI()
    away = JournalError("the database is away", retryable=True)
    async with session_on(api) as kie:
        with pytest.raises(JournalError) as caught:
            await recorded(kie, Record(log, api, settle=away))

    assert [what for what, *_ in log] == ["intend", "settle"]
    assert caught.value.task_id == log[-1][2] is not None
    assert caught.value.maybe_charged


@pytest.mark.parametrize("answer", [KieConnectionError("reset"), envelope(500, "internal error")])
def test_a_doubt_is_not_sent_again_whatever_its_record_says(answer):
    """A database that is back in a second makes no second payment of it."""

    @jumping
    async def story():
        log, api = [], FakeAPI()
        api.on_create = lambda n, r: answer
        away = JournalError("the database is away", retryable=True)
        async with session_on(api) as kie:
            with pytest.raises(JournalError) as caught:
                await recorded(kie, Record(log, api, settle=away))
        assert len(api.creates) == 1
        assert caught.value.maybe_charged

    story()


@jumping
async def test_an_outcome_that_cannot_be_kept_still_reaches_the_caller():
    """The id is on the exception."""
    api, log, seen = FakeAPI(), [], []

    async with session_on(api, hooks=[seen.append]) as kie:
        with pytest.raises(JournalError) as caught:
            await recorded(kie, Record(log, api, settle=JournalError("gone")))

    assert caught.value.task_id == "0" * 32
    assert caught.value.maybe_charged
    assert [e.task_id for e in seen if isinstance(e, TaskCreated)] == ["0" * 32]


class Stuck(Record):
    """A journal that takes the intent, and hangs at the outcome."""

    async def settle(self, answer, *, again):
        await asyncio.Event().wait()


@pytest.mark.parametrize("leaves", [False, True])
def test_an_id_whose_record_hangs_outlives_a_close(leaves):
    """The grace is over: the id is on the exception, or with the hooks if its caller is gone."""

    @jumping
    async def story():
        api, seen = FakeAPI(), []
        kie = session_on(api, hooks=[seen.append])
        async with kie:
            call = asyncio.create_task(recorded(kie, Stuck([], api)))
            await asyncio.sleep(5.0)
            if leaves:
                call.cancel()
            await kie.close(grace=1.0)
            [end] = await asyncio.gather(call, return_exceptions=True)

        assert [e.task_id for e in seen if isinstance(e, TaskCreated)] == ["0" * 32]
        assert not any(isinstance(e, CreateInDoubt) for e in seen)
        orphans = [e.task_id for e in seen if isinstance(e, TaskOrphaned)]
        if leaves:
            assert orphans == ["0" * 32]
        else:
            assert isinstance(end, SessionClosedError)
            assert (end.task_id, end.maybe_charged, orphans) == ("0" * 32, True, [])

    story()


@pytest.mark.parametrize(
    ("answer", "error"),
    [(KieConnectionError("reset"), CreateInDoubtError), (envelope(422, "bad"), ValidationError)],
)
def test_what_was_answered_stays_so_when_its_record_hangs_at_a_close(answer, error):
    """A refusal is no doubt, and a doubt is told as one."""

    @jumping
    async def story():
        api, seen = FakeAPI(), []
        api.on_create = lambda n, r: answer
        kie = session_on(api, hooks=[seen.append])
        async with kie:
            call = asyncio.create_task(recorded(kie, Stuck([], api)))
            await asyncio.sleep(5.0)
            await kie.close(grace=1.0)
            with pytest.raises(error):
                await call

        doubts = [e for e in seen if isinstance(e, CreateInDoubt)]
        assert len(doubts) == (error is CreateInDoubtError)

    story()


@pytest.mark.parametrize("leaves", [False, True])
def test_an_id_whose_record_has_a_bug_is_told(leaves, caplog):
    """The bug is no error of ours and carries no id: the hooks and the log have it."""

    @jumping
    async def story():
        api, seen = FakeAPI(), []
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(told))
        async with session_on(api, hooks=[seen.append]) as kie:
            record = Record([], api, settle=ZeroDivisionError("a bug"))
            call = asyncio.create_task(recorded(kie, record))
            await asyncio.sleep(0.05)
            if leaves:
                call.cancel()
            [end] = await asyncio.gather(call, return_exceptions=True)
            await asyncio.sleep(1.0)
        del call

        assert [e.task_id for e in seen if isinstance(e, TaskCreated)] == ["0" * 32]
        assert [e.task_id for e in seen if isinstance(e, TaskOrphaned)] == ["0" * 32]
        assert "0" * 32 in caplog.text
        if not leaves:
            assert isinstance(end, ZeroDivisionError)
            assert "0" * 32 in end.__notes__[0]

    story()


@jumping
async def test_an_id_that_its_record_refuses_is_told_when_its_caller_is_gone():
    """He left it to the record, as a bulk run does."""
    api, seen = FakeAPI(), []
    away = JournalError("the database is away")

    async with session_on(api, hooks=[seen.append]) as kie:
        call = asyncio.create_task(recorded(kie, Record([], api, settle=away)))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.wait([call])

    assert [e.task_id for e in seen if isinstance(e, TaskOrphaned)] == ["0" * 32]


@jumping
async def test_every_attempt_has_its_own_intent():
    """So that each can be told apart later."""
    api, log = FakeAPI(), []
    api.on_create = lambda n, r: envelope(500, "internal error") if n == 0 else None

    async with session_on(api) as kie:
        await recorded(kie, Record(log, api))

    assert [entry[0] for entry in log] == ["intend", "settle", "intend", "settle"]
    assert log[1][1] is Verdict.REPORTED


@jumping
async def test_a_salvaged_id_is_an_accepted_create():
    """The answer was cut after the id: the task is known."""
    api = FakeAPI()
    cut = b'{"code":200,"data":{"taskId":"' + b"f" * 32 + b'","rec'
    api.on_create = lambda n, r: KieConnectionError("cut", partial=cut)

    async with session_on(api) as kie:
        assert await kie.create_task("m", {}) == "f" * 32


@jumping
async def test_errors_of_a_create_are_kie_errors():
    """Whatever the API answers, the caller sees one tree."""
    rng = random.Random(3)
    api = FakeAPI()
    api.on_create = lambda n, r: Response(
        rng.choice([200, 404, 500, 503]), {}, bytes(rng.randrange(256) for _ in range(40))
    )

    async with session_on(api) as kie:
        for _ in range(50):
            with pytest.raises(KieError):
                await kie.create_task("m", {}, timeout=100)
