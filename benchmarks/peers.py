"""CPU of a task, beside what people would pick instead: create it, wait for it, read it.

    pip install -r benchmarks/requirements.txt
    python benchmarks/peers.py            # some minutes
    python benchmarks/peers.py --smoke

Each client has its own create-and-wait, with its shortest polling interval: openai (on its
aiohttp transport) ``videos.create_and_poll``, fal-client ``submit`` and ``get``, replicate
``predictions.async_create`` and ``async_wait``, runwayml ``create`` and
``wait_for_task_output``.  The task is done when it is first looked at, so that all of them
make the same requests (fal-client one more: its result is a request of its own).  Ours is
``create_task`` and ``wait_for_result``, without a rate limit, as the others have none.

One line is ours with creates on kept-alive connections, as the peers' are: the difference
is the price of the fresh connection, without which a create near the server's idle limit
may be lost in a way that nobody can judge (see ``safety.py``).

Each figure is the CPU time of this process, the peer's / ours, from interleaved blocks
(A B B A); the server is another process and speaks each one's wire format.  Peers that are
not installed are left out, and said to be.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import CONTROL, Report, abba, options, spread_over, table, versions
from benchmarks._stub import Stub
from benchmarks.safety import without_fresh
from kie_async import KieSession
from kie_async.limiter import Unlimited

One = Callable[[], Awaitable[object]]
LEAST = {1: {"*": 3.5}, 100: {"openai": 5.0, "*": 15.0}}
"""How many times our CPU a peer's must be, by concurrency: the goals."""
SOURCE = "0" * 32


async def opened(url: str, stack: AsyncExitStack) -> KieSession:
    """Open a session of ours."""
    return await stack.enter_async_context(
        KieSession(
            "key",
            base_url=url,
            limiter=Unlimited(),
            poll_limiter=Unlimited(),
            max_concurrency=200,
        )
    )


def ours(kie: KieSession) -> One:
    """Our own create and wait."""

    async def one() -> object:
        made = await kie.create_task("grok-imagine/upscale", {"task_id": SOURCE})
        return (await kie.wait_for_result(made)).result_urls

    return one


async def openai(url: str, stack: AsyncExitStack) -> One:
    """Its video jobs, on aiohttp."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    http = await stack.enter_async_context(DefaultAioHttpClient())
    client = await stack.enter_async_context(
        AsyncOpenAI(api_key="key", base_url=f"{url}/openai", http_client=http)
    )

    async def one() -> object:
        video = await client.videos.create_and_poll(prompt="a lighthouse", poll_interval_ms=1)
        return video.status

    return one


async def fal(url: str, _stack: AsyncExitStack, *, interval: float = 0.001) -> One:
    """Its queue; the host is a setting of the module."""
    import fal_client
    import fal_client.client

    fal_client.client.QUEUE_URL_FORMAT = f"{url}/"  # type: ignore[attr-defined]
    client = fal_client.AsyncClient(key="key")

    async def one() -> object:
        handle = await client.submit("fal/upscaler", {"task_id": SOURCE})
        return await handle.get(interval=interval)

    return one


async def replicate(url: str, _stack: AsyncExitStack) -> One:
    """Its predictions."""
    os.environ["REPLICATE_POLL_INTERVAL"] = "0"
    from replicate.client import Client

    client = Client(api_token="key", base_url=url)
    version = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"

    async def one() -> object:
        made = await client.predictions.async_create(version=version, input={"task_id": SOURCE})
        await made.async_wait()
        return made.output

    return one


async def runway(url: str, stack: AsyncExitStack) -> One:
    """Its upscale; the interval is a constant of its module, here as short as can be."""
    from runwayml import AsyncRunwayML
    from runwayml.lib import polling

    polling.POLL_TIME, polling.POLL_JITTER = 0, 0
    client = await stack.enter_async_context(AsyncRunwayML(api_key="key", base_url=f"{url}/runway"))

    async def one() -> object:
        made = await client.image_upscale.create(
            image_uri="https://files.example/a.png",
            model="magnific_precision_upscaler_v2",
        )
        return (await made.wait_for_task_output()).status

    return one


KEPT = "ours, creates on kept connections"
PEERS = {"openai": openai, "fal-client": fal, "replicate": replicate, "runwayml": runway}


async def measured(url: str, concurrency: int, cycles: int, rounds: int) -> dict[str, Any]:
    """Return each peer's CPU by ours, and ours by itself."""
    async with AsyncExitStack() as stack:

        async def block(one: One) -> Callable[[], Awaitable[None]]:
            await one()  # it works, or this raises
            return lambda: spread_over(concurrency, cycles, one)

        base = await block(ours(await opened(url, stack)))
        kie = await opened(url, stack)
        others = {KEPT: without_fresh(kie, await block(ours(kie)))}
        for name, make in PEERS.items():
            try:
                others[name] = await block(await make(url, stack))
            except ModuleNotFoundError as error:
                print(f"{name} is left out: {error.name} is not installed")
        return dict(await abba(base, others, rounds))


def main() -> int:
    """Measure, print the table, and return the exit code."""
    asked = options(__doc__)
    rounds, cycles = (1, {1: 5, 100: 100}) if asked.smoke else (9, {1: 100, 100: 600})
    report, rows = Report(), []
    with Stub() as stub:
        for concurrency, goals in LEAST.items():
            found = asyncio.run(measured(stub.url, concurrency, cycles[concurrency], rounds))
            for name, ratio in found.items():
                if name == CONTROL:
                    word = report.control(f"{name} at {concurrency}", ratio, 0.9, 1.1)
                elif name == KEPT:
                    word = "the price of the fresh connection"
                else:
                    least = goals.get(name, goals["*"])
                    report.judge(f"{name} at {concurrency}: goal / reached", least, ratio.median)
                    word = f"at least {least:g}: {'kept' if ratio.median >= least else 'MISSED'}"
                rows.append([str(concurrency), name, str(ratio), word])
    print(table(["at once", "peer", "its CPU / ours", "goal"], rows))
    print(versions("kie_async", "aiohttp", "openai", "fal-client", "replicate", "runwayml"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
