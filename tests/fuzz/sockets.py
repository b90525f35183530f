"""Mutated answers over sockets, to each of the client's calls; and three bad clients."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp

from kie_async import CreateRetry, KieError, KieSession, RetryPolicy
from kie_async.limiter import Unlimited
from tests.fuzz.report import Report

__all__ = ["BAD", "ENDPOINTS", "attack", "served"]

Call = Callable[[int], Awaitable[object]]
Client = Callable[[str, str], Any]
DEADLINE = 0.5
AT_ONCE = 20
WARM = 1000
"""Answers after which the memory is looked at for the first time."""

ENDPOINTS: dict[str, Callable[[KieSession, int], Awaitable[object]]] = {
    "task": lambda kie, n: kie.get_task("0123456789abcdef0123456789abcdef"),
    "create": lambda kie, n: kie.create_task("grok-imagine/upscale", {"task_id": f"source-{n}"}),
    "credits": lambda kie, n: kie.get_credits(),
    "address": lambda kie, n: kie.get_download_url("https://h/a.png"),
    "upload": lambda kie, n: kie.upload_url("https://h/a.png", timeout=DEADLINE),
}


def session(url: str, deadline: float = DEADLINE) -> KieSession:
    """Return a session that asks once and waits for nothing."""
    return KieSession(
        "test-key",
        base_url=url,
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        create_retry=CreateRetry.NEVER,
        retry=RetryPolicy(attempts=1),
        request_timeout=deadline,
    )


@asynccontextmanager
async def ours(url: str, endpoint: str) -> AsyncIterator[Call]:
    async with session(url) as kie:
        yield lambda n: ENDPOINTS[endpoint](kie, n)


@asynccontextmanager
async def patient(url: str, endpoint: str) -> AsyncIterator[Call]:
    """Wait as long as it takes."""
    async with session(url, 60.0) as kie:
        yield lambda n: ENDPOINTS[endpoint](kie, n)


@asynccontextmanager
async def naive(url: str, endpoint: str) -> AsyncIterator[Call]:
    """Read answers as most do."""
    limits = aiohttp.ClientTimeout(total=DEADLINE)
    async with aiohttp.ClientSession(url, timeout=limits) as http:

        async def call(_n: int) -> object:
            async with http.get("/") as answer:
                told = await answer.json()
                return float(told["data"]["createTime"]), told["data"]["response"]["resultUrls"][0]

        yield call


@asynccontextmanager
async def hoarding(url: str, endpoint: str) -> AsyncIterator[Call]:
    """Keep something of every answer."""
    kept = []
    async with session(url) as kie:

        async def call(n: int) -> object:
            kept.append(bytearray(b"x") * 2**19)
            return await ENDPOINTS[endpoint](kie, n)

        yield call


BAD: dict[str, Client] = {"patient": patient, "naive": naive, "hoarding": hoarding}


async def attack(
    url: str,
    endpoint: str,
    answers: int,
    *,
    client: Client = ours,
    slack: float = 1.0,
    warm: int = WARM,
) -> Report:
    """Let a client ask *answers* times, and report what came of it.

    Args:
        url: Of `served`.
        endpoint: A name from `ENDPOINTS`.
        answers: How many.
        client: The client.
        slack: Seconds beyond its deadline that a call may take.
        warm: Answers after which the memory is looked at first.
    """
    report = Report(patience=DEADLINE + slack)
    async with client(url, endpoint) as call:
        await _ask(call, answers, report, warm)
    return report


@contextmanager
def served(seed: int = 0, *, rare: bool = False) -> Iterator[str]:
    """Run the server, and give its address.

    Args:
        seed: The same seed gives the same answers to the same number of requests.
        rare: Only bombs, drips and endless answers.
    """
    command = [sys.executable, "-m", "tests.fuzz.server", str(seed), *(["rare"] if rare else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()


async def _ask(call: Call, answers: int, report: Report, warm: int) -> None:
    loop, numbers = asyncio.get_running_loop(), iter(range(answers))

    async def ask() -> None:
        for number in numbers:
            began = loop.time()
            try:
                await call(number)
            except KieError as error:
                report.count(type(error).__name__, loop.time() - began)
            except Exception as error:  # noqa: BLE001 - reason: this is what is looked for
                report.escape(error, loop.time() - began)
            else:
                report.count("a value", loop.time() - began)
            if number >= warm and number % warm == 0:
                report.weigh()

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    report.weigh()
