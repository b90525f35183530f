"""When to try again, and after how long.

One policy object decides; tenacity drives.  The first attempt is made plainly and
tenacity takes over only when it failed, so a success costs nothing.  Delays are full
jitter: ``rand(0, 1) × min(cap, base × 2^n)``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from kie_async.errors import (
    AuthenticationError,
    CreateInDoubtError,
    KieAPIError,
    KieError,
    MaintenanceError,
    NotFoundError,
    RateLimitError,
    UsageError,
)
from kie_async.models import check_seconds

if TYPE_CHECKING:
    import tenacity

__all__ = ["CreateRetry", "RetryPolicy", "retrying", "retrying_after"]

T = TypeVar("T")
Decide = Callable[[KieError, int], float | None]


class CreateRetry(Enum):
    """Which failed creates may be sent again.  Each step includes the ones before.

    NEVER: none; one POST per create.  REJECTED: what surely created nothing (not sent,
    429, 455): a hard at-most-once.  REPORTED: also an envelope with code 500 and no task
    id, after a wait and at most twice; the API itself says that it failed.  ALWAYS: also
    what is in doubt; may pay twice, up to ``RetryPolicy.max_duplicates`` times a session.
    """

    NEVER = 0
    REJECTED = 1
    REPORTED = 2
    ALWAYS = 3


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how long; all times in seconds.

    Attributes:
        attempts: How often a read, or a create that surely was not sent, is tried.
        base: The first back-off of those.
        cap: Their longest back-off.
        rate_limit_base: The first pause after a 429, for all callers of the limiter: half
            of it fixed, half of it jitter.  Kie's window is 10 s.
        rate_limit_cap: The longest such pause.
        maintenance_base: The first pause after a 455.
        maintenance_cap: The longest such pause.
        reported_base: The first wait after a create that answered code 500.
        reported_resends: How often such a create is sent again.
        max_duplicates: With ``CreateRetry.ALWAYS``: how many creates of unknown outcome
            one session may send again; each may be paid twice.
        trust_503: Take a bare HTTP 503 to a create as "not taken".
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    rate_limit_base: float = 10.0
    rate_limit_cap: float = 60.0
    maintenance_base: float = 15.0
    maintenance_cap: float = 300.0
    reported_base: float = 5.0
    reported_resends: int = 2
    max_duplicates: int = 10
    trust_503: bool = False

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in (
            "base",
            "cap",
            "rate_limit_base",
            "rate_limit_cap",
            "maintenance_base",
            "maintenance_cap",
            "reported_base",
        ):
            check_seconds(getattr(self, name), name, zero=True)
        if self.attempts < 1 or self.reported_resends < 0 or self.max_duplicates < 0:
            raise UsageError("attempts must be 1 or more, resends and duplicates 0 or more")

    def read_delay(self, error: KieError, failures: int, rng: random.Random) -> float | None:
        """Return the seconds before a read is tried again, or None to give up."""
        if not error.retryable or failures >= self.attempts:
            return None
        return self.backoff(error, failures, rng)

    def create_delay(
        self, error: KieError, failures: int, rng: random.Random, allowed: CreateRetry
    ) -> float | None:
        """Return the seconds before a create is sent again, or None to give up.

        429 and 455 are answered until the caller's deadline: nothing was created.
        """
        if allowed is CreateRetry.NEVER or not self._may_resend(error, failures, allowed):
            return None
        return self.backoff(error, failures, rng)

    def _may_resend(self, error: KieError, failures: int, allowed: CreateRetry) -> bool:
        if isinstance(error, CreateInDoubtError):
            if allowed is CreateRetry.ALWAYS:
                return True  # the session counts the duplicates
            return (
                allowed is CreateRetry.REPORTED
                and error.reported
                and error.code == 500
                and failures <= self.reported_resends
            )
        if isinstance(error, RateLimitError | MaintenanceError):
            return True
        if isinstance(error, AuthenticationError | NotFoundError):
            return False  # the edge blocks us, or the address is wrong: asking on is no help
        return error.retryable and failures < self.attempts

    def backoff(self, error: KieError, failures: int, rng: random.Random) -> float:
        """Return the seconds to wait after the *failures*-th failure in a row.

        A ``Retry-After`` is a floor: jitter may add to it, never cut it.
        """
        if isinstance(error, (RateLimitError, MaintenanceError)):
            delay = self.pause(error, failures, rng)
        elif isinstance(error, CreateInDoubtError):
            longest = _doubled(self.reported_base, failures, self.maintenance_cap)
            delay = longest * (1.0 + rng.random())
        else:
            delay = rng.random() * _doubled(self.base, failures, self.cap)
        floor = error.retry_after if isinstance(error, KieAPIError) else None
        return max(delay, floor or 0.0)

    def pause(self, error: KieError, refusals: int, rng: random.Random) -> float:
        """Return how long a refusal holds back every caller of the limiter.

        Half of it is fixed: a pause near zero would teach nothing.
        """
        if isinstance(error, MaintenanceError):
            longest = _doubled(self.maintenance_base * 2, refusals, self.maintenance_cap)
        else:
            longest = _doubled(self.rate_limit_base, refusals, self.rate_limit_cap)
        return longest * (0.5 + 0.5 * rng.random())


def _doubled(base: float, failures: int, cap: float) -> float:
    return min(cap, base * 2.0 ** min(failures - 1, 60))


async def retrying(attempt: Callable[[], Awaitable[T]], decide: Decide) -> T:
    """Call *attempt* until it succeeds or *decide* gives up.

    Args:
        attempt: One try; it raises a :class:`KieError` when it fails.
        decide: Told the error and how many attempts have failed; returns the seconds to
            wait, or None, and then the error is raised.
    """
    try:
        return await attempt()
    except KieError as error:
        first = error
    return await retrying_after(first, attempt, decide)


async def retrying_after(first: KieError, attempt: Callable[[], Awaitable[T]], decide: Decide) -> T:
    """Go on after a first attempt that failed with *first*; see :func:`retrying`.

    tenacity is handed that failure as the outcome of its first attempt.
    """
    import tenacity  # 15 ms of import that a run without failures never pays

    replayed: list[KieError] = [first]
    delay: float | None = None

    async def next_attempt() -> T:
        if replayed:
            raise replayed.pop()
        return await attempt()

    def again(state: tenacity.RetryCallState) -> bool:
        nonlocal delay
        error = state.outcome.exception() if state.outcome is not None else None
        delay = decide(error, state.attempt_number) if isinstance(error, KieError) else None
        return delay is not None

    loop = tenacity.AsyncRetrying(
        retry=again, wait=lambda _state: delay or 0.0, sleep=asyncio.sleep, reraise=True
    )
    return await loop(next_attempt)
