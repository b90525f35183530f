"""The work of ``kie worker``, and of ``kie bulk`` on a journal that workers share."""

from __future__ import annotations

import asyncio
from pathlib import Path

from attrs import frozen

from kie_async.bulk import audit, expected_price
from kie_async.cli._bulk_end import tell_end
from kie_async.cli._bulk_input import ItemList
from kie_async.cli._bulk_view import Ticker
from kie_async.cli._bulk_work import collect, stop_when_asked
from kie_async.cli._config import current
from kie_async.cli._escape import clean
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.cli._running import Stop
from kie_async.cli._settings import connect
from kie_async.errors import KieError
from kie_async.postgres import PostgresLimiter
from kie_async.session import KieSession
from kie_async.worker import QueuedJournal, Worker, submit

__all__ = ["Wanted", "submit_list", "work"]


@frozen(kw_only=True)
class Wanted:
    """What the command line asked for."""

    journal: Where
    again: str
    out: Path | None
    name: str
    rate: Rate
    account: str
    workers: int
    in_flight: int
    timeout: float
    lease: float
    grace: float
    forever: bool
    callback_url: str | None
    allow_private: bool


async def work(wanted: Wanted, output: Output, stop: Stop) -> int:
    """Work until all have ended, and tell the end."""
    rate, url, share = wanted.rate, wanted.journal.url, 1 / wanted.workers
    polls = current().get("poll_rate").value
    async with (
        wanted.journal.shared_journal(create=False, lease=wanted.lease) as journal,
        PostgresLimiter(
            url, wanted.account, limit=rate.limit, window=rate.window, share=share
        ) as creates,
        PostgresLimiter(
            url, f"{wanted.account}-reads", limit=polls.limit, window=polls.window, share=share
        ) as reads,
        connect(lambda _event: None, limiter=creates, poll_limiter=reads) as kie,
    ):
        counts = await journal.counts()
        output.note(
            f"{wanted.journal}: {counts.total:,} on record, {counts.planned:,} to create; "
            f"balance {await kie.get_credits():,.10g} credits."
        )
        run = _started(wanted, kie, journal)
        await run.count()  # else it begins with 0 of 0
        ticker = Ticker(output, run.progress, rate, lambda: None)
        stop.last_words = lambda: ticker.last_words(wanted.again)
        ticker.start()
        stopping = asyncio.create_task(stop_when_asked(run, stop, wanted.grace, output))
        ended_by: KieError | None = None
        try:
            await collect(run, output, urls=wanted.out is None)
        except KieError as stopped:
            ended_by = stopped
        finally:
            stopping.cancel()
            await ticker.stop()
        await run.count()
        found = await audit(journal)
        return tell_end(
            wanted.journal,
            run.progress,
            ended_by,
            found,
            output,
            seconds=ticker.elapsed,
            again=wanted.again,
            saving=wanted.out is not None,
        )


def _started(wanted: Wanted, kie: KieSession, journal: QueuedJournal) -> Worker:
    return kie.work(
        journal,
        directory=wanted.out,
        name=wanted.name,
        in_flight=wanted.in_flight,
        task_timeout=wanted.timeout,
        callback_url=wanted.callback_url,
        allow_private=wanted.allow_private,
        forever=wanted.forever,
    )


async def submit_list(where: Where, items: ItemList, resolution: str | None, output: Output) -> int:
    """Put a list into the run, and say how to work on it."""
    async with where.shared_journal() as journal:
        new = await submit(journal, items, resolution=resolution)
        await journal.queue_again()
        counts = await journal.counts()
    cost = counts.planned * expected_price(resolution)
    output.event(
        "submitted",
        {"journal": str(where), "new": new, "total": counts.total, "planned": counts.planned},
    )
    if not output.as_json:
        name = clean(where)
        output.prose(
            f"{name}: {new:,} new, {counts.total:,} on record, {counts.planned:,} to create: at "
            f"most {cost:,.0f} credits."
        )
        output.note("On any number of machines")
        output.note(f"  Next: {where.again} --out results/")
    return 0
