"""The session on the clock that jumps: calls, deadlines, bad input, life."""

from __future__ import annotations

import asyncio
import pickle

import pytest

from kie_async import (
    CreateInDoubtError,
    KieSession,
    PollSchedule,
    SessionClosedError,
    TaskFailedError,
    UsageError,
    WaitTimeoutError,
    WrongLoopError,
    errors,
    upscale,
)
from kie_async.errors import KieConnectionError
from kie_async.grok_imagine import TextToVideo
from kie_async.instrumentation import TaskChanged, TaskOrphaned
from tests.clock import JumpingLoop, jumping, run_jumping
from tests.fakes import FakeAPI, envelope, session_on


def now() -> float:
    return asyncio.get_running_loop().time()


@jumping
async def test_an_upscale_end_to_end():
    """One create, some polls, the finished task."""
    api = FakeAPI(duration=10.0)

    async with session_on(api) as kie:
        task = await kie.upscale("source", resolution="1080p")

    assert task.succeeded
    assert task.result_urls == ("https://h/r.png",)
    assert api.creates[0][1] == {
        "model": "grok-imagine/upscale",
        "input": {"task_id": "source", "resolution": "1080p"},
    }
    assert len(api.creates) == 1
    assert 10.0 <= now() <= 13.0


@jumping
async def test_a_thousand_at_once():
    """Gather of 1,000 upscales on one session: each is created once, at the account's rate."""
    api = FakeAPI(duration=10.0)

    async with session_on(api) as kie:
        tasks = await asyncio.gather(
            *(kie.upscale(f"source-{n}", timeout=5000) for n in range(1000))
        )

    assert len({task.task_id for task in tasks}) == 1000
    assert len({sent["input"]["task_id"] for _, sent in api.creates}) == 1000
    times = [at for at, _ in api.creates]
    assert all(b - a >= 10.0 for a, b in zip(times, times[20:], strict=False))
    assert times[-1] <= 1.025 * 490.0


@jumping
async def test_the_steps_one_by_one():
    """create_task, get_task, wait_for_result, get_credits."""
    api = FakeAPI()

    async with session_on(api) as kie:
        task_id = await kie.create_task("some/model", {"prompt": "x"}, callback_url="http://h/cb")
        first = await kie.get_task(task_id)
        last = await kie.wait_for_result(task_id)

        assert not first.done
        assert last.succeeded
        assert await kie.get_credits() == 42.5
    assert api.creates[0][1]["callBackUrl"] == "http://h/cb"


@jumping
async def test_generate_then_upscale():
    """A typed input, then the upscale of what came of it, within one deadline."""
    api = FakeAPI()

    async with session_on(api) as kie, asyncio.timeout(600):
        clip = await kie.generate(TextToVideo(prompt="waves", duration=6))
        task = await kie.upscale(clip.task_id)

    assert task.succeeded
    assert api.creates[0][1] == {
        "model": "grok-imagine/text-to-video",
        "input": {"prompt": "waves", "duration": 6},
    }
    assert api.creates[1][1]["input"] == {"task_id": clip.task_id}


@jumping
async def test_several_waiters_share_the_polls():
    """Ten waits of one task cost no more polls than one."""
    api = FakeAPI()

    async with session_on(api) as kie:
        task_id = await kie.create_task("m", {})
        tasks = await asyncio.gather(*(kie.wait_for_result(task_id) for _ in range(10)))

    alone = FakeAPI()
    async with session_on(alone) as kie:
        await kie.wait_for_result(await kie.create_task("m", {}))
    assert len({id(task) for task in tasks}) == 1
    assert len(api.polls) <= len(alone.polls) + 1


@jumping
async def test_one_waiter_leaves_and_the_others_stay():
    """A cancelled waiter takes nothing from the rest."""
    api = FakeAPI()

    async with session_on(api) as kie:
        task_id = await kie.create_task("m", {})
        waits = [asyncio.create_task(kie.wait_for_result(task_id)) for _ in range(3)]
        await asyncio.sleep(1)
        waits[0].cancel()
        done = await asyncio.gather(*waits, return_exceptions=True)

    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1].succeeded
    assert done[2].succeeded


# -- failure and time --


@jumping
async def test_a_failed_task_raises_with_the_task():
    """Code and message of the failure stand in the text, and so does the id."""
    api = FakeAPI()
    api.on_poll = lambda n, r: api.record(
        r.path.rpartition("=")[2], state="fail", failCode="400", failMsg="bad prompt"
    )

    async with session_on(api) as kie:
        with pytest.raises(TaskFailedError, match="400: bad prompt") as caught:
            await kie.upscale("source")

    assert caught.value.task.fail_code == "400"
    assert caught.value.task_id == "0" * 32
    assert "0" * 32 in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).task == caught.value.task


@jumping
async def test_a_failure_by_time_out_is_looked_at_again():
    """Such a task was reported to succeed a minute later."""
    api = FakeAPI(duration=5.0)

    def flips(n, request):
        task_id = request.path.rpartition("=")[2]
        if now() < 50:
            return api.record(
                task_id, state="fail", failCode="524", failMsg="generate task timeout."
            )
        return None

    api.on_poll = flips
    async with session_on(api) as kie:
        task = await kie.upscale("source")

    assert task.succeeded
    assert len(api.creates) == 1


@jumping
async def test_a_failure_by_time_out_that_stays_is_believed():
    """The second look decides."""
    api = FakeAPI(duration=5.0)
    api.on_poll = lambda n, r: api.record(
        r.path.rpartition("=")[2], state="fail", failCode="524", failMsg="generate task timeout."
    )

    async with session_on(api) as kie:
        with pytest.raises(TaskFailedError):
            await kie.upscale("source")

    assert len(api.polls) == 2


@jumping
async def test_a_wait_that_runs_out_can_be_taken_up_again():
    """The id is on the exception, and nothing is created a second time."""
    api = FakeAPI(duration=100.0)

    async with session_on(api) as kie:
        with pytest.raises(WaitTimeoutError) as caught:
            await kie.upscale("source", timeout=30.0)
        assert now() == pytest.approx(30.0, abs=0.1)
        task = await kie.wait_for_result(caught.value.task_id)

    assert caught.value.maybe_charged
    assert caught.value.task.state == "waiting"
    assert task.succeeded
    assert len(api.creates) == 1


@jumping
async def test_a_deadline_before_the_turn_costs_nothing():
    """Nothing was sent, and the error says so."""
    api = FakeAPI()

    async with session_on(api) as kie:
        for n in range(20):
            await kie.create_task("m", {"n": n})
        with pytest.raises(WaitTimeoutError, match="nothing was created") as caught:
            await kie.upscale("source", timeout=2.0)

    assert caught.value.task_id is None
    assert caught.value.maybe_charged is False
    assert len(api.creates) == 20


@jumping
async def test_a_deadline_during_the_create_leaves_the_id_to_the_hooks():
    """The answer comes later; its id is not lost."""
    api, seen = FakeAPI(latency=8.0), []

    async with session_on(api, hooks=[seen.append]) as kie:
        with pytest.raises(WaitTimeoutError) as caught:
            await kie.upscale("source", timeout=3.0)
        assert now() == pytest.approx(3.0, abs=0.1)
    assert caught.value.maybe_charged is True
    assert caught.value.task_id is None
    assert [e.task_id for e in seen if isinstance(e, TaskOrphaned)] == ["0" * 32]


@jumping
async def test_the_deadline_holds_while_everything_hangs():
    """Silent polls do not stretch it."""
    api = FakeAPI()

    async def silent(request, *, timeout):
        if request.paid:
            return await api.send(request, timeout=timeout)
        await asyncio.sleep(timeout)
        raise KieConnectionError("silence")

    kie = session_on(api)
    kie._transport.send = silent
    async with kie:
        with pytest.raises(WaitTimeoutError) as caught:
            await kie.upscale("source", timeout=77.0)

    assert now() == pytest.approx(77.0, abs=0.1)
    assert caught.value.task_id == "0" * 32


TROUBLES = [
    lambda: KieConnectionError("refused", sent=False),
    lambda: KieConnectionError("reset"),
    lambda: envelope(500, "internal error"),
    lambda: envelope(455, "maintenance"),
    lambda: envelope(429, "too high"),
    lambda: type(envelope(0))(502, {}, b"<html>Bad gateway</html>"),
    lambda: type(envelope(0))(403, {}, b"<html>challenge</html>"),
    lambda: errors.ResponseError("garbage"),
]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_wait_outlives_ten_minutes_of_outage(trouble):
    """Only its deadline or a fatal code ends a wait; the polls grow rarer meanwhile."""

    async def story():
        api = FakeAPI(duration=10.0)
        api.on_poll = lambda n, r: trouble() if now() < 600 else None
        async with session_on(api) as kie:
            task = await kie.upscale("source")
        assert task.succeeded
        assert len(api.creates) == 1
        assert len(api.polls) < 60
        assert now() < 700

    run_jumping(story())


@pytest.mark.parametrize(
    ("code", "msg", "error"),
    [
        (401, "Unauthorized", errors.AuthenticationError),
    ],
)
def test_a_fatal_code_ends_a_wait(code, msg, error):
    """With the id on the exception."""

    async def story():
        api = FakeAPI()
        api.on_poll = lambda n, r: envelope(code, msg)
        async with session_on(api) as kie:
            with pytest.raises(error) as caught:
                await kie.upscale("source")
        assert caught.value.task_id == "0" * 32
        assert "0" * 32 in str(caught.value)

    run_jumping(story())


@jumping
async def test_a_new_task_may_be_invisible_for_a_while():
    """`recordInfo is null` within 90 s of the create means "not yet"."""
    api = FakeAPI(duration=10.0)
    api.on_poll = lambda n, r: envelope(422, "recordInfo is null") if now() < 40 else None

    async with session_on(api) as kie:
        assert (await kie.upscale("source")).succeeded


@jumping
async def test_a_task_that_stays_unknown_is_not_found():
    """After the grace the answer is believed."""
    api = FakeAPI()
    api.on_poll = lambda n, r: envelope(422, "recordInfo is null")

    async with session_on(api) as kie:
        with pytest.raises(errors.NotFoundError):
            await kie.upscale("source")
        assert 90 <= now() <= 160
        began = now()
        with pytest.raises(errors.NotFoundError):
            await kie.wait_for_result("never-there")
        assert now() - began <= 40


@jumping
async def test_a_success_without_a_result_is_looked_at_again():
    """The record may be late: three looks, then an error that keeps the id."""
    api = FakeAPI(duration=1.0)
    api.on_poll = lambda n, r: api.record("0" * 32, resultJson="", state="success")

    async with session_on(api) as kie:
        with pytest.raises(errors.ResponseError) as caught:
            await kie.upscale("source")

    assert caught.value.task_id == "0" * 32
    assert len(api.polls) == 3


# -- bad input --


@pytest.mark.parametrize(
    "call",
    [
        lambda kie: kie.upscale(""),
        lambda kie: kie.upscale("x" * 101),
        lambda kie: kie.upscale(5),
        lambda kie: kie.upscale("source", resolution="8k"),
        lambda kie: kie.upscale("source", timeout=-1),
        lambda kie: kie.upscale("source", timeout=float("nan")),
        lambda kie: kie.upscale("source", timeout="30"),
        lambda kie: kie.upscale("source", callback_url="ftp://h"),
        lambda kie: kie.run("m", {"x": object()}),
        lambda kie: kie.run("", {}),
        lambda kie: kie.create_task("m", "text"),
        lambda kie: kie.create_task("m", {}, timeout=0),
        lambda kie: kie.get_task("a/b"),
        lambda kie: kie.wait_for_result("source", timeout=0),
        lambda kie: kie.get_download_url(""),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(call):
    """A clear error, no request, no money."""

    async def story():
        api = FakeAPI()
        async with session_on(api) as kie:
            with pytest.raises(UsageError):
                await call(kie)
        assert (api.creates, api.polls, api.others) == ([], [], 0)

    run_jumping(story())


@pytest.mark.parametrize(
    "settings",
    [
        {"api_key": ""},
        {"api_key": "a b"},
        {"api_key": "key\n"},
        {"base_url": "ftp://h"},
        {"max_concurrency": 0},
        {"max_concurrency": True},
        {"request_timeout": 0},
        {"request_timeout": -3},
    ],
)
def test_impossible_settings_are_refused(settings):
    """Where the session is made."""
    with pytest.raises(UsageError):
        KieSession(**{"api_key": "k", **settings})


def test_a_missing_key_is_said_plainly():
    """With the name of the variable to set."""
    with pytest.raises(UsageError, match="API key"):
        KieSession()


def test_the_key_and_the_address_come_from_the_environment(monkeypatch):
    """KIE_API_KEY and KIE_BASE_URL."""
    monkeypatch.setenv("KIE_API_KEY", "from-outside")
    monkeypatch.setenv("KIE_BASE_URL", "http://127.0.0.1:1")

    kie = KieSession()

    assert "127.0.0.1:1" in repr(kie)
    assert "from-outside" not in repr(kie)


# -- life --


@jumping
async def test_a_session_must_be_entered():
    """And is closed after it was left."""
    kie = session_on(FakeAPI())
    with pytest.raises(SessionClosedError, match="async with"):
        await kie.upscale("source")
    async with kie:
        with pytest.raises(SessionClosedError):
            await kie.__aenter__()
    with pytest.raises(SessionClosedError):
        await kie.get_credits()
    await kie.close()  # again: nothing happens


def test_the_same_session_works_in_one_loop_after_another():
    """Its connections belong to the loop in which it was entered."""
    api = FakeAPI()
    kie = session_on(api)

    async def once():
        async with kie:
            return await kie.upscale("source")

    assert run_jumping(once()).succeeded
    kie2 = session_on(api)  # limiters keep their book across loops; a new clock needs new ones

    async def twice():
        async with kie2:
            return await kie2.upscale("source")

    assert run_jumping(twice()).succeeded


def test_another_loop_is_told_so():
    """Not by a hang or an error deep in asyncio."""
    kie = session_on(FakeAPI())
    first = JumpingLoop()
    first.run_until_complete(kie.__aenter__())

    async def elsewhere():
        with pytest.raises(WrongLoopError):
            await kie.get_credits()

    run_jumping(elsewhere())
    first.run_until_complete(kie.close())
    first.close()


@jumping
async def test_closing_ends_every_call_and_keeps_every_id():
    """Waiters are told with their id; creates under way bring theirs; nothing hangs."""
    api, seen = FakeAPI(duration=1000.0, latency=4.0), []
    kie = session_on(api, hooks=[seen.append])

    async with kie:
        waiting = asyncio.create_task(kie.upscale("waits"))
        await asyncio.sleep(10)
        creating = asyncio.create_task(kie.create_task("m", {}))
        queued = [asyncio.create_task(kie.create_task("m", {})) for _ in range(40)]
        await asyncio.sleep(1)
        closing = asyncio.create_task(kie.close())
        await asyncio.sleep(0)
        with pytest.raises(SessionClosedError, match="closing"):
            await kie.create_task("m", {})
        await asyncio.gather(closing, kie.close())
        ended = await asyncio.gather(waiting, creating, *queued, return_exceptions=True)

    assert isinstance(ended[0], SessionClosedError)
    assert ended[0].task_id == "0" * 32
    assert isinstance(ended[1], str)
    got = {e for e in ended[2:] if isinstance(e, str)}
    refused = [e for e in ended[2:] if isinstance(e, SessionClosedError)]
    assert len(got) + len(refused) == 40
    assert len(got) + 2 == len(api.creates)
    assert now() < 20


@jumping
async def test_nothing_is_created_after_a_close_began():
    """A retry that falls into the drain is not sent: nobody would learn its id."""
    api = FakeAPI(latency=5.0)
    api.on_create = lambda n, r: KieConnectionError("refused", sent=False) if n == 0 else None
    kie = session_on(api)

    async with kie:
        first = asyncio.create_task(kie.create_task("m", {}))
        await asyncio.sleep(3.0)
        second = asyncio.create_task(kie.create_task("m", {}))
        await asyncio.sleep(1.5)
        closed_at = now()
        await kie.close()
        ended = await asyncio.gather(first, second, return_exceptions=True)

    assert all(at <= closed_at for at, _ in api.creates)
    assert isinstance(ended[0], SessionClosedError)
    assert ended[1] in api.tasks


@jumping
async def test_the_grace_bounds_a_close():
    """A create that never answers is given up after it, as a doubt."""
    api, seen = FakeAPI(latency=1e6), []
    kie = session_on(api, hooks=[seen.append])

    async with kie:
        stuck = asyncio.create_task(kie.create_task("m", {}))
        await asyncio.sleep(1)
        await kie.close(grace=5.0)
        ended = await asyncio.gather(stuck, return_exceptions=True)

    assert isinstance(ended[0], CreateInDoubtError | SessionClosedError)
    assert ended[0].maybe_charged
    assert [type(e).__name__ for e in seen].count("CreateInDoubt") == 1
    assert now() == pytest.approx(6.0, abs=0.1)


@jumping
async def test_a_sibling_failing_in_a_task_group_is_no_trouble():
    """Our part is cancelled cleanly, its paid task is known, one group error comes out."""
    api, seen = FakeAPI(duration=100.0), []

    async def fails():
        await asyncio.sleep(5)
        raise ZeroDivisionError

    async with session_on(api, hooks=[seen.append]) as kie:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(kie.upscale("source"))
                group.create_task(fails())

    assert [type(e) for e in caught.value.exceptions] == [ZeroDivisionError]
    assert [e.task_id for e in seen if isinstance(e, TaskOrphaned)] == ["0" * 32]
    assert len(asyncio.all_tasks()) == 1


@jumping
async def test_polls_learn_how_long_a_model_takes():
    """After some tasks the first look comes late and few are needed."""
    api, changed = FakeAPI(duration=30.0), []

    async with session_on(api, polling=PollSchedule(), hooks=[changed.append]) as kie:
        for _ in range(25):
            await kie.upscale("source")

    polls = [e.polls for e in changed if isinstance(e, TaskChanged) and e.state == "success"]
    assert polls[-1] <= 2 < polls[0]


@jumping
async def test_upscale_alone_takes_a_session():
    """`await upscale(...)` uses the one it is given."""
    async with session_on(FakeAPI()) as kie:
        assert (await upscale("source", session=kie)).succeeded


@jumping
async def test_the_doubt_reaches_the_caller():
    """A lost answer is CreateInDoubtError, and there is no second POST."""
    api = FakeAPI()
    api.lost = lambda n: KieConnectionError("reset")

    async with session_on(api) as kie:
        with pytest.raises(CreateInDoubtError) as caught:
            await kie.upscale("source", callback_url="https://h/cb/ref-1")

    assert len(api.creates) == 1
    assert caught.value.maybe_charged
    assert caught.value.reference == "ref-1"
