"""How long do N creates take at the limit, and how many are refused?

The shipped limiter, beside the usual ways, against several kinds of server.  Virtual
time, seeded, no sockets; ``--real`` adds a run over real sockets.  The ideal is what
somebody would need who knows the server and has no delay: item i starts one window after
item i - limit, and not before one of the places in flight is free.

    python -m benchmarks.makespan [--smoke] [--items 10000] [--all] [--real]

Columns: makespan / ideal, and in brackets the creates that the server refused.
The real run is in ``benchmarks/_makespan_real.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
from collections import deque
from collections.abc import Callable
from typing import Protocol

from attrs import define, field, frozen

from kie_async.limiter import RateLimiter, SlidingWindowLimiter, Turn, Unlimited
from tests.clock import run_jumping

LIMIT, WINDOW = 20, 10.0
IN_FLIGHT = 100
GIVE_UP = 3.0  # times the ideal: a policy that needs more is shown as "never"


# The servers: told the time of an arrival, they say whether they take it.


class Server(Protocol):
    """One kind of server."""

    def takes(self, now: float) -> bool:
        """Judge a request that arrives at *now*."""
        ...


@define
class ExactLog:
    """At most LIMIT in any window, both ends included; may count the refused ones too."""

    counts_refused: bool = False
    seen: deque[float] = field(factory=deque)

    def takes(self, now: float) -> bool:
        """Look at every request of the last window."""
        while self.seen and self.seen[0] < now - WINDOW:
            self.seen.popleft()
        free = len(self.seen) < LIMIT
        if free or self.counts_refused:
            self.seen.append(now)
        return free


@define
class FixedWindow:
    """At most LIMIT in each window of the server's clock."""

    phase: float
    number: int = -1
    count: int = 0

    def takes(self, now: float) -> bool:
        """Count within the window that *now* is in."""
        number = int((now + self.phase) // WINDOW)
        if number != self.number:
            self.number, self.count = number, 0
        free = self.count < LIMIT
        self.count += free
        return free


@define
class SlidingCounter:
    """The count of this fixed window plus the weighted count of the one before."""

    phase: float
    strict: bool = False  # the request itself counts in the comparison
    number: int = -1
    count: int = 0
    before: int = 0

    def takes(self, now: float) -> bool:
        """Estimate the last window from two counts."""
        number, inside = divmod(now + self.phase, WINDOW)
        if number != self.number:
            self.before = self.count if number == self.number + 1 else 0
            self.number, self.count = int(number), 0
        weighed = self.before * (1 - inside / WINDOW) + self.count
        free = weighed + 1 <= LIMIT if self.strict else weighed < LIMIT
        self.count += free
        return free


@define
class TokenBucket:
    """LIMIT tokens, refilled evenly over a window."""

    tokens: float = LIMIT
    at: float = 0.0

    def takes(self, now: float) -> bool:
        """Refill, then take one token if there is one."""
        self.tokens = min(LIMIT, self.tokens + (now - self.at) * LIMIT / WINDOW)
        self.at = now
        free = self.tokens >= 1.0
        self.tokens -= free
        return free


SERVERS: dict[str, Callable[[float], Server]] = {
    "exact log": lambda _: ExactLog(),
    "log, refused count": lambda _: ExactLog(counts_refused=True),
    "fixed window": FixedWindow,
    "token bucket": lambda _: TokenBucket(),
    "sliding counter": SlidingCounter,
    "strict counter": lambda phase: SlidingCounter(phase, strict=True),
}


# The policies: limiters, and what a caller does after a refusal.


class _Paced:
    """What the simple limiters share: a booked time to leave, and a standstill."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def _leave_at(self, now: float) -> float:
        raise NotImplementedError

    async def acquire(self) -> Turn:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(max(0.0, self._leave_at(loop.time()) - loop.time()))
            if loop.time() >= self._not_before:
                return Turn(lambda _sent: None)
            await asyncio.sleep(self._not_before - loop.time())

    def pause(self, seconds: float) -> None:
        self._not_before = asyncio.get_running_loop().time() + seconds


class LeakyBucket(_Paced):
    """One every WINDOW / LIMIT seconds."""

    last = -WINDOW

    def _leave_at(self, now: float) -> float:
        self.last = max(now, self.last + WINDOW / LIMIT)
        return self.last


class ClientTokenBucket(_Paced):
    """A burst of LIMIT, then LIMIT per WINDOW: what aiolimiter's AsyncLimiter(20, 10) is."""

    empty_at = -WINDOW  # when the bucket would have had no token

    def _leave_at(self, now: float) -> float:
        self.empty_at = max(self.empty_at, now - WINDOW) + WINDOW / LIMIT
        return max(now, self.empty_at)


@frozen(kw_only=True)
class Policy:
    """A limiter, and the seconds to wait after the n-th refusal (None: pause everybody 1 s)."""

    limiter: Callable[[], RateLimiter]
    backoff: Callable[[int, random.Random], float] | None = None


OURS = "ours"
POLICIES: dict[str, Policy] = {
    OURS: Policy(limiter=lambda: SlidingWindowLimiter(LIMIT, WINDOW)),
    "ours, spread": Policy(limiter=lambda: SlidingWindowLimiter(LIMIT, WINDOW, spread=True)),
    "token bucket": Policy(limiter=ClientTokenBucket),
    "leaky bucket": Policy(limiter=LeakyBucket),
    "semaphore, backoff 2 s x2": Policy(
        limiter=Unlimited, backoff=lambda n, _: min(60.0, 2.0 * 2.0 ** (n - 1))
    ),
    "semaphore, full jitter": Policy(
        limiter=Unlimited, backoff=lambda n, rng: rng.uniform(0.0, min(20.0, 0.5 * 2.0**n))
    ),
}


# The simulation.


@frozen(kw_only=True)
class Row:
    """One policy at one server; ``ratio`` is infinite if it did not end in time."""

    policy: str
    server: str
    ratio: float
    refused: int
    first_burst: float  # seconds until the first LIMIT creates had left


def one_way(rng: random.Random) -> float:
    """Return a delay between client and server: log-normal around 80 ms, rarely 2 s more."""
    return rng.lognormvariate(-2.5257, 0.5) + (2.0 if rng.random() < 0.002 else 0.0)


def ideal(durations: list[float]) -> float:
    """Return the makespan of the items in order without any delay."""
    starts: list[float] = []
    busy: list[float] = []
    for index, duration in enumerate(durations):
        start = starts[index - LIMIT] + WINDOW if index >= LIMIT else 0.0
        if len(busy) >= IN_FLIGHT:
            start = max(start, heapq.heappop(busy))
        starts.append(start)
        heapq.heappush(busy, start + duration)
    return max(start + duration for start, duration in zip(starts, durations, strict=True))


class _Run:
    """One simulated bulk run."""

    def __init__(self, policy: Policy, server: Server, durations: list[float], seed: int) -> None:
        self.policy, self.server = policy, server
        self.limiter = policy.limiter()
        self.durations = durations
        self.rng = random.Random(seed)
        self.refused = 0
        self.left: list[float] = []

    async def create(self) -> bool:
        """Send one create; True if the server took it."""
        loop = asyncio.get_running_loop()
        with await self.limiter.acquire():
            if len(self.left) < LIMIT:
                self.left.append(loop.time())
            await asyncio.sleep(one_way(self.rng))
            taken = self.server.takes(loop.time())
            await asyncio.sleep(one_way(self.rng))
        self.refused += not taken
        return taken

    async def worker(self, items: deque[float]) -> None:
        while items:
            duration = items.popleft()
            refusals = 0
            while not await self.create():
                refusals += 1
                if self.policy.backoff is None:
                    self.limiter.pause(1.0)
                else:
                    await asyncio.sleep(self.policy.backoff(refusals, self.rng))
            await asyncio.sleep(duration)

    async def makespan(self, longest: float) -> float:
        items = deque(self.durations)
        try:
            async with asyncio.timeout(longest):
                await asyncio.gather(*(self.worker(items) for _ in range(IN_FLIGHT)))
        except TimeoutError:
            return float("inf")
        return asyncio.get_running_loop().time()


def simulate(policy: str, server: str, items: int, seed: int = 1) -> Row:
    """Run *items* creates by one policy at one kind of server, in virtual time."""
    rng = random.Random(seed)
    durations = [rng.lognormvariate(2.70805, 0.5) for _ in range(items)]  # median 15 s
    best = ideal(durations)
    run = _Run(POLICIES[policy], SERVERS[server](rng.uniform(0, WINDOW)), durations, seed)
    taken = run_jumping(run.makespan(best * GIVE_UP))
    return Row(
        policy=policy,
        server=server,
        ratio=taken / best,
        refused=run.refused,
        first_burst=run.left[-1] if len(run.left) == LIMIT else float("inf"),
    )


def rows(items: int, policies: list[str] | None = None, seed: int = 1) -> list[Row]:
    """Return a row for each policy and each kind of server."""
    return [
        simulate(policy, server, items, seed)
        for policy in policies or list(POLICIES)
        for server in SERVERS
    ]


def show(found: list[Row], items: int) -> None:
    """Print the rows as one table."""
    print(f"\nmakespan / ideal (refused): {items} creates, {LIMIT} per {WINDOW:g} s, virtual time")
    print(" " * 27 + "".join(f"{server:>20}" for server in SERVERS))
    for policy in dict.fromkeys(row.policy for row in found):
        cells = [row for row in found if row.policy == policy]
        texts = [
            f"{'never' if row.ratio == float('inf') else f'{row.ratio:.4f}'} ({row.refused})"
            for row in cells
        ]
        print(f"{policy:<27}" + "".join(f"{text:>20}" for text in texts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--smoke", action="store_true", help="a few seconds")
    parser.add_argument("--all", action="store_true", help="the other ways with --items too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", action="store_true", help="over sockets as well: 90 s")
    given = parser.parse_args()
    items = 400 if given.smoke else given.items
    ours = [name for name in POLICIES if name.startswith(OURS)]
    others = [name for name in POLICIES if name not in ours]
    show(rows(items, ours, given.seed), items)
    fewer = items if given.all else min(items, 2000)
    show(rows(fewer, others, given.seed), fewer)
    if given.real:
        from benchmarks import _makespan_real  # aiohttp is not needed for the rest

        _makespan_real.main()


if __name__ == "__main__":
    main()
