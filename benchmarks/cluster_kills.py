"""Four workers on one list in PostgreSQL, killed -9 at random: is anything paid twice or lost?

    python benchmarks/cluster_kills.py [--kills 100] [--tasks 5000]
    python benchmarks/cluster_kills.py --smoke               # a few kills
    python benchmarks/cluster_kills.py --bad-client          # the control: it must fail

The workers are processes; the emulator is one too, and its books are the truth.  One that
was killed is started again at once.  In the middle PostgreSQL itself is crashed and started
again.  In the end all workers must end by themselves.  The control creates its doubts
again, as an engine that delivers at least once does for those who trust it alone.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[1]))  # benchmarks.kills, tests.postgres_servers

from benchmarks.kills import ask  # noqa: E402

WORKERS = 4
LIMIT, WINDOW, LEASE = 60, 0.5, 3.0
RUN = "kills"


async def work(url: str, api: str, *, bad: bool) -> None:
    """Work until the run has ended."""
    from kie_async import KieSession, PollSchedule
    from kie_async.limiter import Unlimited
    from kie_async.postgres import PostgresLimiter
    from kie_async.worker import QueuedJournal

    async with (
        QueuedJournal(url, RUN, lease=LEASE) as journal,
        PostgresLimiter(url, "kills", limit=LIMIT, window=WINDOW, lease=LEASE) as limiter,
        KieSession(
            "emulator-key",
            base_url=api,
            limiter=limiter,
            poll_limiter=Unlimited(),
            polling=PollSchedule(first_gap=0.1, min_gap=0.05, longest_gap=0.5),
        ) as kie,
    ):
        if bad:
            await journal.recover()
            async for doubt in journal.doubts():
                await journal.resolve(doubt.item.source_id, recreate=True)
        async for _ in kie.work(journal, in_flight=50):
            pass


class Workers:
    """The processes; who ends by himself is not started again."""

    def __init__(self, url: str, api: str, *, bad: bool) -> None:
        self._command = [sys.executable, str(HERE), "--work", url, api, *["--bad-client"] * bad]
        self.alive = [self._start() for _ in range(WORKERS)]
        self.kills = 0

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stderr=subprocess.PIPE)

    def reap(self) -> None:
        """Forget those that have ended well; stop if one failed."""
        for process in list(self.alive):
            if process.poll() is not None:
                self.alive.remove(process)
                said = process.communicate()[1].decode()
                if process.returncode:
                    raise SystemExit(f"a worker failed by itself:\n{said}")

    def kill(self, number: int) -> None:
        """Kill one, and start another in its place."""
        process = self.alive[number]
        if process.poll() is None:
            process.kill()
            process.communicate()
            self.alive[number] = self._start()
            self.kills += 1

    def end(self) -> None:
        """Leave nobody behind."""
        for process in self.alive:
            process.kill()
            process.communicate()


def run(kills: int, tasks: int, *, bad: bool, seed: int = 1) -> dict[str, Any]:
    """Bring one list to its end through kills; return what was found."""
    from tests.postgres_servers import postgres_server

    rng = random.Random(seed)
    serving = [sys.executable, str(HERE.with_name("kills.py")), "--serve"]
    emulator = subprocess.Popen(serving, stdout=subprocess.PIPE)
    try:
        assert emulator.stdout is not None
        api = emulator.stdout.readline().decode().strip()
        ids = ask(api, "/__emulator__/sources", {"count": tasks})["task_ids"]
        with postgres_server() as server:
            asyncio.run(submitted(server.url, ids))
            began = time.monotonic()
            workers = Workers(server.url, api, bad=bad)
            try:
                while workers.alive and workers.kills < kills:
                    time.sleep(0.1 + rng.random() * 0.5)
                    workers.reap()
                    if workers.alive:
                        workers.kill(rng.randrange(len(workers.alive)))
                    if workers.kills == kills // 2 and workers.alive:
                        server.stop()
                        server.start()
                while workers.alive:
                    time.sleep(0.1)
                    workers.reap()
            finally:
                workers.end()
            seconds = time.monotonic() - began
            found = asyncio.run(check(server.url, api, ids))
        return {"kills": workers.kills, "seconds": round(seconds), **found}
    finally:
        emulator.kill()
        emulator.communicate()


async def submitted(url: str, ids: list[str]) -> None:
    """Plan and queue the list."""
    from kie_async.worker import QueuedJournal, submit

    async with QueuedJournal(url, RUN) as journal:
        await submit(journal, ids)


async def check(url: str, api: str, ids: list[str]) -> dict[str, Any]:
    """Compare the emulator's books and the journal."""
    from kie_async.journal import ItemState
    from kie_async.postgres import PostgresJournal

    paid = ask(api, "/__emulator__/books")["paid"]
    async with PostgresJournal(url, RUN, read_only=True) as journal:
        done = {item.source_id async for item in journal.iterate(ItemState.DONE)}
        doubts = {item.source_id async for item in journal.iterate(ItemState.IN_DOUBT)}
        counts = await journal.counts()
    return {
        "tasks": len(ids),
        "done": len(done),
        "doubts": len(doubts),
        "paid twice": sum(paid.get(one, 0) > 1 for one in ids),
        "lost": len(set(ids) - done - doubts),
        "done, not paid": sum(not paid.get(one) for one in done),
        "not ended": counts.planned + counts.sending + counts.sent,
    }


def passed(found: dict[str, Any]) -> bool:
    """The promise: nothing twice, nothing lost, an end, few doubts."""
    bad = ("paid twice", "lost", "done, not paid", "not ended")
    return not any(found[name] for name in bad) and found["doubts"] <= found["kills"] * 50


def main() -> int:
    """Run as a command; exit 1 if the promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="a few kills, in seconds")
    parser.add_argument("--bad-client", action="store_true", help="the control: must fail")
    parser.add_argument("--work", nargs=2, metavar=("URL", "API"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        asyncio.run(work(*chosen.work, bad=chosen.bad_client))
        return 0
    from tests.postgres_servers import POSTGRES

    if POSTGRES is None:
        print("no PostgreSQL on this machine: nothing was measured")
        return 0
    kills, tasks = (4, 200) if chosen.smoke else (chosen.kills, chosen.tasks)
    found = run(kills, tasks, bad=chosen.bad_client, seed=chosen.seed)
    for name, number in found.items():
        print(f"{name:<16} {number:>8}")
    return 0 if passed(found) else 1


if __name__ == "__main__":
    sys.exit(main())
