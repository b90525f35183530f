"""When to try again, and after how long."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.errors import (
    AuthenticationError,
    CreateInDoubtError,
    KieConnectionError,
    MaintenanceError,
    RateLimitError,
    ServerError,
    UsageError,
    ValidationError,
)
from kie_async.retry import CreateRetry, RetryPolicy, retrying
from tests.clock import jumping

POLICY = RetryPolicy()
UNSENT = KieConnectionError("refused", sent=False)
REPORTED = CreateInDoubtError("said 500", reported=True, code=500)
FAILED = CreateInDoubtError("said 501", reported=True, code=501)
LOST = CreateInDoubtError("reset")


def rng() -> random.Random:
    return random.Random(7)


ALLOWED = [
    # error, NEVER, REJECTED, REPORTED, ALWAYS
    (UNSENT, False, True, True, True),
    (RateLimitError("429"), False, True, True, True),
    (MaintenanceError("455"), False, True, True, True),
    (REPORTED, False, False, True, True),
    (FAILED, False, False, False, True),
    (LOST, False, False, False, True),
    (ValidationError("422"), False, False, False, False),
    (AuthenticationError("401"), False, False, False, False),
]


@pytest.mark.parametrize(("error", "never", "rejected", "reported", "always"), ALLOWED)
def test_what_may_be_sent_again(error, never, rejected, reported, always):
    """The table of the policy, row by row."""
    found = [
        POLICY.create_delay(error, 1, rng(), allowed) is not None
        for allowed in (
            CreateRetry.NEVER,
            CreateRetry.REJECTED,
            CreateRetry.REPORTED,
            CreateRetry.ALWAYS,
        )
    ]

    assert found == [never, rejected, reported, always]


def test_a_reported_failure_is_sent_again_twice_at_most():
    """And after at least five seconds, growing."""
    delays = [POLICY.create_delay(REPORTED, n, rng(), CreateRetry.REPORTED) for n in (1, 2, 3)]

    assert 5.0 <= delays[0] <= 10.0
    assert 10.0 <= delays[1] <= 20.0
    assert delays[2] is None


def test_a_refused_create_is_tried_until_its_deadline():
    """429 and 455 created nothing, however often they come."""
    for error in (RateLimitError("429"), MaintenanceError("455")):
        assert POLICY.create_delay(error, 1000, rng(), CreateRetry.REJECTED) is not None
    assert POLICY.create_delay(UNSENT, POLICY.attempts, rng(), CreateRetry.REJECTED) is None


@given(st.integers(1, 5000), st.integers())
def test_back_off_is_full_jitter_under_its_cap(failures, seed):
    """Between zero and the doubled base, never above the cap."""
    delay = POLICY.backoff(ServerError("500"), failures, random.Random(seed))

    assert 0.0 <= delay <= min(POLICY.cap, POLICY.base * 2 ** min(failures - 1, 60))


@given(st.integers(1, 5000), st.integers())
def test_pauses_have_a_floor_and_a_cap(failures, seed):
    """A pause near zero would teach nothing; maintenance waits longer."""
    limited = POLICY.pause(RateLimitError("429"), failures, random.Random(seed))
    maintained = POLICY.pause(MaintenanceError("455"), failures, random.Random(seed))

    assert 5.0 <= limited <= 60.0
    assert 15.0 <= maintained <= 300.0


def test_retry_after_is_a_floor():
    """Jitter may add to it, never cut it."""
    asked = ServerError("503", retry_after=77.0)

    assert POLICY.backoff(asked, 1, rng()) == 77.0


def test_reads_are_tried_again_while_the_trouble_is_transient():
    """Up to the number of attempts; what is final is final at once."""
    assert POLICY.read_delay(ServerError("500"), 4, rng()) is not None
    assert POLICY.read_delay(ServerError("500"), 5, rng()) is None
    assert POLICY.read_delay(AuthenticationError("401"), 1, rng()) is None


@pytest.mark.parametrize(
    "bad",
    [
        {"attempts": 0},
        {"base": -1.0},
        {"cap": float("nan")},
        {"reported_resends": -1},
        {"max_duplicates": -1},
    ],
)
def test_impossible_policies_are_refused(bad):
    """Where they are made, not where they bite."""
    with pytest.raises(UsageError):
        RetryPolicy(**bad)


@jumping
async def test_retrying_waits_as_decided():
    """Two failures, two waits, then the value."""
    failures = [ServerError("1"), ServerError("2")]
    asked = []

    async def attempt():
        if failures:
            raise failures.pop(0)
        return "value"

    def decide(error, count):
        asked.append((str(error), count))
        return count * 10.0

    assert await retrying(attempt, decide) == "value"
    assert asked == [("1", 1), ("2", 2)]
    assert asyncio.get_running_loop().time() == pytest.approx(30.0)


@jumping
async def test_giving_up_raises_the_last_error_itself():
    """Not a RetryError of another package."""
    errors = [ServerError("1"), ServerError("2"), ServerError("3")]
    left = list(errors)

    async def attempt():
        raise left.pop(0)

    with pytest.raises(ServerError) as caught:
        await retrying(attempt, lambda _error, count: 1.0 if count < 3 else None)

    assert caught.value is errors[2]


@jumping
async def test_a_foreign_error_is_not_tried_again():
    """A bug of ours or the caller's is nothing to wait for."""
    calls = []

    async def attempt():
        calls.append(1)
        if len(calls) == 1:
            raise ServerError("once")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await retrying(attempt, lambda _error, _count: 0.0)

    assert len(calls) == 2


@jumping
async def test_cancellation_ends_a_back_off():
    """At once, and as cancellation."""

    async def attempt():
        raise ServerError("500")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await retrying(attempt, lambda _error, _count: 1000.0)

    assert asyncio.get_running_loop().time() == pytest.approx(5.0)
