"""What the client costs above aiohttp itself: CPU of a create and of the poll that ends it.

    python benchmarks/client.py            # some minutes
    python benchmarks/client.py --smoke

Raw aiohttp does the same work: two `ClientSession`s, one that keeps connections for
polls and one that opens a fresh one for each create, as ours; the same headers, the same
JSON library, both answers decoded, the result's own JSON too.  It has aiohttp's own
deadlines, as whoever writes `ClientSession()` has; a line shows what they are worth.  It
has no limiter, no retry, no errors of its own, and forgets the task when it is cancelled.
Ours is the public client: `create_task` and `wait_for_result`, which looks at once.
`upscale` is beside a raw client that sleeps as long between create and poll.

Each ratio is the CPU time of this process, ours / raw, from 80 interleaved rounds (A B B
A); the server is another process.  A run counts only if raw against raw stays within its
limits, else the exit code is 3.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from yarl import URL

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import (
    CONTROL,
    Ratio,
    Report,
    abba,
    options,
    spread_over,
    table,
    versions,
)
from benchmarks._stub import Stub
from kie_async import KieSession, PollSchedule, SlidingWindowLimiter

SOURCE = "0" * 32
LIMITS = {1: 1.15, 100: 1.20}
CONTROLS = {1: (0.97, 1.03), 100: (0.95, 1.05)}
CYCLES = {1: 60, 100: 300}
ROUNDS = 80
GAP = 0.001


class Raw:
    """What one would write with aiohttp alone."""

    def __init__(self, url: str, *, deadlines: bool = True) -> None:
        """Open the two pools; *deadlines* are aiohttp's own, as they come."""
        self._create = URL(f"{url}/api/v1/jobs/createTask")
        self._poll = f"{url}/api/v1/jobs/recordInfo?taskId="
        limits = aiohttp.client.DEFAULT_TIMEOUT if deadlines else aiohttp.ClientTimeout()
        self._reads = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=100, keepalive_timeout=75.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=limits,
        )
        self._creates = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=limits,
        )
        self._headers = {
            "User-Agent": "raw",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "Content-Type": "application/json",
            "Authorization": "Bearer benchmark-key",
        }

    async def create(self) -> str:
        """Create a task on a fresh connection, and return its id."""
        payload = {"model": "grok-imagine/upscale", "input": {"task_id": SOURCE}}
        body = json.dumps(payload).encode()
        async with self._creates.post(self._create, data=body, headers=self._headers) as answer:
            envelope = json.loads(await answer.read())
        task_id: str = envelope["data"]["taskId"]
        return task_id

    async def poll(self, task_id: str) -> list[str]:
        """Ask once on a kept connection, and return the result's addresses."""
        url = URL(self._poll + task_id, encoded=True)
        async with self._reads.get(url, headers=self._headers) as answer:
            envelope = json.loads(await answer.read())
        record = envelope["data"]
        assert record["state"] == "success"
        urls: list[str] = json.loads(record["resultJson"])["resultUrls"]
        return urls

    async def cycle(self) -> None:
        """Create, and a poll that finds it done."""
        await self.poll(await self.create())

    async def patient_cycle(self) -> None:
        """The same with a wait between, as long as that of our quickest schedule."""
        task_id = await self.create()
        await asyncio.sleep(GAP)
        await self.poll(task_id)

    async def close(self) -> None:
        """Close the pools."""
        await self._reads.close()
        await self._creates.close()


def session(url: str, concurrency: int = 100) -> KieSession:
    """Return our client with all it has, and limits that never bind."""
    return KieSession(
        "benchmark-key",
        base_url=url,
        max_concurrency=max(20, concurrency),
        limiter=SlidingWindowLimiter(10**6, 1.0),
        poll_limiter=SlidingWindowLimiter(10**6, 1.0),
        polling=PollSchedule(first_gap=GAP, min_gap=GAP, jitter=0.0),
    )


async def at(concurrency: int, url: str, rounds: int, cycles: int) -> dict[str, dict[str, Ratio]]:
    """Compare at one concurrency: whole cycles, creates alone, polls alone."""
    raw, bare = Raw(url), Raw(url, deadlines=False)
    model, wanted = "grok-imagine/upscale", {"task_id": SOURCE}

    def block(one: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[None]]:
        return lambda: spread_over(concurrency, cycles, one)

    async with session(url, concurrency) as kie:
        ids = (f"{number:032x}" for number in itertools.count())  # the server knows any

        async def ours() -> None:
            await kie.wait_for_result(await kie.create_task(model, wanted))

        fewer = max(2, rounds // 2)
        found = {
            WHOLE: await abba(
                block(raw.cycle), {"ours": block(ours), NO_DEADLINES: block(bare.cycle)}, rounds
            ),
            "create, wait, poll (upscale)": await abba(
                block(raw.patient_cycle), {"ours": block(lambda: kie.upscale(SOURCE))}, fewer
            ),
            "create": await abba(
                block(raw.create), {"ours": block(lambda: kie.create_task(model, wanted))}, fewer
            ),
            "poll (wait_for_result)": await abba(
                block(lambda: raw.poll(next(ids))),
                {"ours": block(lambda: kie.wait_for_result(next(ids)))},
                fewer,
            ),
        }
    await raw.close()
    await bare.close()
    return found


WHOLE = "create and poll"
NO_DEADLINES = "raw without any deadline"


def rows(
    report: Report, concurrency: int, found: dict[str, dict[str, Ratio]]
) -> list[tuple[str, ...]]:
    """Judge one concurrency and return its lines."""
    lines = []
    for work, ratios in found.items():
        for name, ratio in ratios.items():
            verdict = ""
            if name == CONTROL and work == WHOLE:
                verdict = report.control(
                    f"raw / raw at {concurrency}", ratio, *CONTROLS[concurrency]
                )
            elif name == "ours" and work == WHOLE:
                what = f"CPU a request over raw at {concurrency}"
                verdict = report.judge(what, ratio.median, LIMITS[concurrency])
            lines.append((str(concurrency), work, name, str(ratio), verdict))
    return lines


def main() -> int:
    """Run as a command."""
    chosen = options(__doc__, ("--rounds", {"type": int, "default": ROUNDS}))
    report, lines = Report(), []
    with Stub() as stub:
        stub.reset()
        for concurrency in LIMITS:
            rounds, cycles = chosen.rounds, CYCLES[concurrency]
            if chosen.smoke:
                rounds, cycles = 2, max(10, concurrency)
            found = asyncio.run(at(concurrency, stub.url, rounds, cycles))
            lines += rows(report, concurrency, found)
            if chosen.smoke:
                for ratios in found.values():
                    assert 0.3 < ratios["ours"].median < 10.0, ratios
        counts = stub.counts()
    print(versions("aiohttp", "kie_async"))
    print(table(("concurrency", "work", "what", "CPU / raw", "limit"), lines))
    busy = counts["cpu"] / counts["wall"]
    each = counts["cpu"] / counts["requests"] * 1e6
    print(f"the server: {counts['requests']:,.0f} requests, {each:.0f} µs each, busy {busy:.0%}")
    return report.end(smoke=chosen.smoke)


if __name__ == "__main__":
    sys.exit(main())
