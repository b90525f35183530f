"""The work of ``kie bulk``: open everything, run, stop as asked, tell the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from kie_async.bulk import Audit, BulkRun, audit, expected_price, note_balance
from kie_async.cli._bulk_end import tell_end
from kie_async.cli._bulk_input import CountedItems, ItemList
from kie_async.cli._bulk_view import Ticker, duration
from kie_async.cli._escape import clean
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.cli._running import Stop
from kie_async.cli._settings import connect
from kie_async.errors import KieError, TaskFailedError
from kie_async.journal import Counts, Journal
from kie_async.limiter import SlidingWindowLimiter
from kie_async.models import Outcome, OutcomeStatus
from kie_async.session import KieSession

__all__ = ["Wanted", "collect", "stop_when_asked", "work"]

LISTED = 10
"""Failures that are told one by one while it runs; the journal has them all."""


class Stoppable(Protocol):
    """A run that can be stopped in good order."""

    def stop(self) -> None:
        """Create nothing more."""

    async def give_up_waiting(self) -> None:
        """End the waits too."""


@frozen(kw_only=True)
class Wanted:
    """What the command line asked for."""

    items: ItemList
    count: int | None
    journal: Where
    again: str
    resolution: str | None
    out: Path | None
    name: str
    rate: Rate
    in_flight: int
    timeout: float
    grace: float
    max_credits: float | None
    dry_run: bool
    callback_url: str | None
    allow_private: bool


async def work(wanted: Wanted, output: Output, stop: Stop) -> int:
    """Open everything, run, and tell the end."""
    limiter = SlidingWindowLimiter(wanted.rate.limit, wanted.rate.window)
    kie = connect(lambda _event: None, limiter=limiter)
    if wanted.dry_run and not _file(wanted.journal).exists():
        async with kie:
            _tell_start(wanted, output, Counts(), await kie.get_credits())
        return 0
    async with Journal(_file(wanted.journal), read_only=wanted.dry_run) as journal, kie:
        balance = await kie.get_credits()
        _tell_start(wanted, output, await journal.counts(), balance)
        if wanted.dry_run:
            return 0
        await note_balance(journal, balance, first=True)
        bulk_run = _started(wanted, kie, journal)
        ticker = Ticker(
            output,
            bulk_run.progress,
            wanted.rate,
            lambda: limiter.in_window,
            listed=wanted.count,
        )
        stop.last_words = lambda: ticker.last_words(wanted.again)
        ticker.start()
        stopping = asyncio.create_task(stop_when_asked(bulk_run, stop, wanted.grace, output))
        ended_by: KieError | None = None
        try:
            await collect(bulk_run, output, urls=wanted.out is None)
        except KieError as stopped:
            ended_by = stopped
        finally:
            stopping.cancel()
            await ticker.stop()
        found = await _audited(kie, journal)
        spent = ticker.elapsed
        return tell_end(
            wanted.journal,
            bulk_run.progress,
            ended_by,
            found,
            output,
            seconds=spent,
            again=wanted.again,
            saving=wanted.out is not None,
        )


def _file(where: Where) -> Path:
    assert where.path is not None  # noqa: S101 - reason: a shared journal goes another way
    return where.path


def _started(wanted: Wanted, kie: KieSession, journal: Journal) -> BulkRun:
    counted = wanted.count is not None
    return kie.upscale_many(
        CountedItems(wanted.items, wanted.count or 0) if counted else wanted.items,
        journal=journal,
        resolution=wanted.resolution,
        directory=wanted.out,
        name=wanted.name,
        in_flight=wanted.in_flight,
        task_timeout=wanted.timeout,
        callback_url=wanted.callback_url,
        max_credits=wanted.max_credits,
        allow_private=wanted.allow_private,
    )


def _tell_start(wanted: Wanted, output: Output, counts: Counts, balance: float) -> None:
    """Say what is to do, what it will cost and how long it takes at least."""
    listed = wanted.count
    to_do = counts.planned if not listed else max(0, max(listed, counts.total) - counts.total)
    to_do += counts.planned if listed else 0
    cost = to_do * expected_price(wanted.resolution)
    seconds = to_do // wanted.rate.limit * wanted.rate.window
    known = f"{counts.total:,} on record ({counts.done:,} done)" if counts.total else "a new run"
    if listed is None:
        output.note(f"A list from stdin, {known}; balance {balance:,.10g} credits.")
    elif not listed:
        output.note(
            f"Going on: {known}, {to_do:,} to create: at most {cost:,.0f} credits "
            f"(balance {balance:,.0f})."
        )
    else:
        output.note(
            f"{listed:,} listed, {known}; up to {to_do:,} to create: {duration(seconds)} at the "
            f"account's rate, at most {cost:,.0f} credits (balance {balance:,.0f})."
        )
        if cost > balance:
            output.note("The balance may not cover all; the run stops in good order if it ends.")
    output.event(
        "start",
        {
            "total": counts.total,
            "planned": counts.planned,
            "done": counts.done,
            "listed": listed,
            "credits": balance,
            "expected_credits": cost,
        },
    )


async def collect(bulk_run: AsyncIterable[Outcome], output: Output, *, urls: bool) -> None:
    """Take the outcomes as they come; tell the first failures one by one.

    With *urls* the results' addresses are printed: they are not saved.
    """
    told = 0
    async for outcome in bulk_run:
        output.event("result", _result_fields(outcome))
        if urls and outcome.task is not None and not output.as_json:
            for url in outcome.task.result_urls:
                output.result(f"{clean(outcome.source_id)}  {clean(url, 2000)}")
        if outcome.error is not None and told < LISTED:
            told += 1
            output.note(f"{clean(outcome.source_id)}: {clean(_shortly(outcome))}")
            if told == LISTED:
                output.note("More of them are told at the end, and by kie journal.")


def _shortly(outcome: Outcome) -> str:
    """Return what befell an item in some words; the journal has the whole."""
    error = outcome.error
    if outcome.status is OutcomeStatus.IN_DOUBT:
        return "in doubt: the answer to its create was lost"
    if isinstance(error, TaskFailedError):
        return f"failed: {error.task.fail_message or error.task.fail_code or 'no reason given'}"
    return f"{str(outcome.status).replace('_', ' ')}: {error}"


def _result_fields(outcome: Outcome) -> dict[str, Any]:
    task, error = outcome.task, outcome.error
    return {
        "source_id": outcome.source_id,
        "task_id": task.task_id if task is not None else error.task_id if error else None,
        "status": str(outcome.status),
        "seconds": task.duration if task is not None else None,
        "credits": task.credits_consumed if task is not None else None,
        "result_urls": list(task.result_urls) if task is not None else [],
        "files": [str(path) for path in outcome.files],
        "error": None
        if error is None
        else {
            "type": type(error).__name__,
            "message": error.message,
            "maybe_charged": error.maybe_charged or outcome.status is OutcomeStatus.IN_DOUBT,
        },
    }


async def stop_when_asked(run: Stoppable, stop: Stop, grace: float, output: Output) -> None:
    """First signal: create nothing more, and give what runs its grace."""
    await stop.wait()
    output.note(
        f"Stopping: nothing more is created; what runs has {grace:g} s. "
        "Ctrl-C again leaves at once; the journal makes that safe."
    )
    run.stop()
    await asyncio.sleep(grace)
    await run.give_up_waiting()


async def _audited(kie: KieSession, journal: Journal) -> Audit | None:
    """Compare the balance with what is on record; without an answer, without a finding."""
    try:
        await note_balance(journal, await kie.get_credits(timeout=15.0), first=False)
    except KieError:
        return None
    return await audit(journal)
