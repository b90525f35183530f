"""A worker in a process of its own, for tests and measurements that kill it.

python -m tests.cluster_worker POSTGRES_URL RUN EMULATOR_URL API_KEY LIMIT WINDOW LEASE [FOLDER]
"""

from __future__ import annotations

import asyncio
import sys

from kie_async import KieSession
from kie_async.limiter import Unlimited
from kie_async.postgres import PostgresLimiter
from kie_async.worker import QueuedJournal

ACCOUNT = "cluster"


async def main(
    url: str, run: str, api: str, key: str, limit: int, window: float, lease: float, folder: str
) -> None:
    """Work until the run has ended; print a line for each outcome."""
    async with (
        QueuedJournal(url, run, lease=lease) as journal,
        PostgresLimiter(url, ACCOUNT, limit=limit, window=window, lease=lease) as limiter,
        KieSession(key, base_url=api, limiter=limiter, poll_limiter=Unlimited()) as kie,
    ):
        work = kie.work(journal, directory=folder or None, in_flight=50, task_timeout=120.0)
        print("ready", flush=True)
        async for outcome in work:
            print(outcome.source_id, outcome.status, flush=True)


if __name__ == "__main__":
    url, run, api, key, limit, window, lease, *rest = sys.argv[1:]
    asyncio.run(
        main(url, run, api, key, int(limit), float(window), float(lease), rest[0] if rest else "")
    )
