"""A long list through `upscale_many`: memory, time to the first create, time to resume.

    python benchmarks/bulk.py --ids 1000000
    python benchmarks/bulk.py --smoke

The API is in this process and answers at once, and nothing limits the rate; the journal
is real.  Every task is found done by its first poll.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kie_async import KieSession, PollSchedule
from kie_async.journal import Journal
from kie_async.limiter import Unlimited
from kie_async.protocol import Request, Response

IN_FLIGHT = 100
WARM = 1000
"""Items after which the memory is compared: everything is loaded by then."""
GROWTH = 10.0
FIRST = 10.0
RESUME = 5.0


def resident() -> float:
    """Return this process's memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


class InstantAPI:
    """Creates and finishes tasks at once."""

    def __init__(self) -> None:
        """Start with nothing created."""
        self.created = 0
        self.first_create = 0.0
        self.first_request = 0.0

    async def send(self, request: Request, *, timeout: float) -> Response:
        """Answer as the transport would."""
        self.first_request = self.first_request or time.monotonic()
        await asyncio.sleep(0)
        if request.paid:
            self.first_create = self.first_create or time.monotonic()
            self.created += 1
            data: Any = {"taskId": f"{self.created:032x}"}
        else:
            data = {
                "taskId": request.path.rpartition("=")[2],
                "model": "grok-imagine/upscale",
                "state": "success",
                "resultJson": '{"resultUrls":["https://h.example/r.png"]}',
                "createTime": 1_800_000_000_000,
                "completeTime": 1_800_000_000_001,
                "creditsConsumed": 10.0,
            }
        body = json.dumps({"code": 200, "msg": "success", "data": data}).encode()
        return Response(200, {}, body)


def session(api: InstantAPI) -> KieSession:
    """Open a session whose transport is *api*."""
    quick = PollSchedule(first_gap=0.001, min_gap=0.001)
    kie = KieSession(
        "benchmark-key",
        base_url="http://127.0.0.1:9",
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        polling=quick,
    )
    kie._transport.send = api.send  # type: ignore[method-assign]  # no sockets here
    return kie


def ids(count: int) -> Iterator[str]:
    """Generate the list; it is never held."""
    return (f"source-{number:08}" for number in range(count))


async def drive(path: Path, count: int, stop_after: int | None = None) -> dict[str, float]:
    """Run the list, or the beginning of it; return what was measured."""
    api, seen, warm = InstantAPI(), 0, 0.0
    began, cpu = time.monotonic(), time.process_time()
    async with Journal(path) as journal, session(api) as kie:
        run = kie.upscale_many(ids(count), journal=journal, in_flight=IN_FLIGHT)
        async for _ in run:
            seen += 1
            if seen == WARM:
                warm = resident()
            if stop_after is not None and seen >= stop_after:
                break
        await run.aclose()
    return {
        "items": seen,
        "first create s": api.first_create - began if api.first_create else 0.0,
        "first request s": api.first_request - began if api.first_request else 0.0,
        "growth MiB": resident() - warm if warm else 0.0,
        "CPU us an item": (time.process_time() - cpu) / max(1, seen) * 1e6,
        "seconds": time.monotonic() - began,
    }


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", type=int, default=100_000)
    parser.add_argument("--smoke", action="store_true", help="a short list, in seconds")
    chosen = parser.parse_args()
    count = 3000 if chosen.smoke else chosen.ids
    with tempfile.TemporaryDirectory(prefix="kie-bulk-") as folder:
        path = Path(folder) / "run.db"
        half = asyncio.run(drive(path, count, stop_after=max(WARM, count // 2)))
        rest = asyncio.run(drive(path, count))
        rows = [("from the start to the middle", half), ("resumed to the end", rest)]
        for name, figures in rows:
            print(name)
            for figure, value in figures.items():
                print(f"  {figure:16} {value:12,.2f}")
    good = (
        half["growth MiB"] <= GROWTH
        and rest["growth MiB"] <= GROWTH
        and half["first create s"] <= FIRST
        and rest["first request s"] <= RESUME
    )
    print("as promised" if good else "NOT AS PROMISED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
