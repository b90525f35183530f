"""The work of ``kie journal`` and ``kie reconcile``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import click

from kie_async.bulk import audit, reconcile
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._settings import connect
from kie_async.cli._table import Column
from kie_async.errors import UsageError
from kie_async.journal import Doubt, Item, ItemState, JournalStore

__all__ = ["by_hand", "by_proof", "show"]

WAITS_FOR = {
    ItemState.PLANNED: "its turn: {1}",
    ItemState.SENDING: "the answer to its create (a run is on, or crashed)",
    ItemState.SENT: "its end at Kie's: {1} collects it",
    ItemState.IN_DOUBT: "your decision: kie journal {0} --doubts",
    ItemState.FAILED: "nothing; kie reconcile {0} --recreate ID tries it again",
    ItemState.DONE: "nothing",
}


async def show(path: Where, doubts: bool, state: str | None, limit: int, output: Output) -> int:
    """Show counts, doubts, or the items of a state."""
    async with path.look() as opened:
        if doubts:
            await _list_doubts(opened, output, path, limit)
        elif state:
            number = await _list_items(opened.iterate(ItemState(state)), output, limit)
            if number and state == ItemState.FAILED and not output.as_json:
                output.note(
                    f"\nTo try one again, which pays again:\n"
                    f"  kie reconcile {path.typed} --recreate SOURCE_ID\n"
                    f"  {path.again} --out results/"
                )
        else:
            await _show_counts(opened, output, path)
    return 0


async def _show_counts(opened: JournalStore, output: Output, path: Where) -> None:
    counts = await opened.counts()
    figures = {state: getattr(counts, state.value) for state in ItemState}
    columns = [Column("State"), Column("Items", right=True), Column("Waits for", below=True)]
    rows = [
        [state.value, f"{number:,}", WAITS_FOR[state].format(path.typed, path.again)]
        for state, number in figures.items()
    ]
    output.table(columns, [*rows, ["total", f"{counts.total:,}", "-"]])
    found = await audit(opened)
    output.event(
        "journal",
        {
            **{state.value: number for state, number in figures.items()},
            "total": counts.total,
            "credits_explained": found.explained,
            "credits_unexplained": found.unexplained,
        },
    )
    if found.unexplained is not None and not output.as_json:
        output.result(
            f"\nCredits: {found.explained:,.10g} on record, {found.unexplained:,.10g} unexplained."
        )


async def _list_items(rows: AsyncIterator[Item], output: Output, limit: int) -> int:
    """List them, and return how many there are."""
    listed: list[list[str]] = []
    number = 0
    async for item in rows:
        number += 1
        if limit and number > limit:
            continue
        output.event("item", _item_fields(item))
        if not output.as_json:
            why = item.error_message or item.reason or "-"
            listed.append([clean(item.source_id), clean(item.task_id or "-"), clean(why, 120)])
    columns = [Column("Source"), Column("Task", below=True), Column("Why", below=True)]
    if listed:
        output.table(columns, listed)
    if limit and number > limit:
        output.note(f"... and {number - limit:,} more: --limit 0 lists all")
    if not number:
        output.note("none")
    return number


async def _list_doubts(opened: JournalStore, output: Output, path: Where, limit: int) -> None:
    number = 0
    async for doubt in opened.doubts():
        number += 1
        if limit and number > limit:
            continue
        output.event("doubt", _doubt_fields(doubt))
        for line in _doubt_lines(doubt) if not output.as_json else ():
            output.prose(line)
    if limit and number > limit:
        output.note(f"... and {number - limit:,} more: --limit 0 lists all")
    if number and not output.as_json:
        name = path.typed
        output.note(
            f"\n{number:,} in doubt: each may have been paid for. Settle them by proof: copy the "
            "task ids of that time from Kie's log page into a file, then\n"
            f"  kie reconcile {name} --ids FILE\nor one by one:\n"
            f"  kie reconcile {name} --as TASK_ID SOURCE_ID\n"
            f"  kie reconcile {name} --not-created SOURCE_ID\n"
            f"  kie reconcile {name} --recreate SOURCE_ID     (may pay twice)"
        )
    elif not number:
        output.note("no doubts")


def _doubt_lines(doubt: Doubt) -> list[str]:
    lines = [clean(doubt.item.source_id)]
    for attempt in doubt.attempts:
        at = datetime.fromtimestamp(attempt.intent_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        lines.append(f"  attempt {attempt.number}, {at}, reference {attempt.ref}")
        lines.append(f"  {_why(attempt.reason)}")
    return lines


def _why(reason: str | None) -> str:
    """Return what is known of a create without an outcome, in a line."""
    if not reason:
        return "no outcome on record: the run ended while it was sent"
    inner = re.search(r"outcome is unknown \((?:\S+ \S+: )?(.*?)\): a task may", reason)
    return clean(inner[1] if inner else reason, 120)


def _doubt_fields(doubt: Doubt) -> dict[str, Any]:
    attempts = [
        {
            "number": attempt.number,
            "reference": attempt.ref,
            "intent_at": attempt.intent_at,
            "verdict": attempt.verdict.value if attempt.verdict is not None else None,
            "reason": attempt.reason,
            "task_id": attempt.task_id,
        }
        for attempt in doubt.attempts
    ]
    return {**_item_fields(doubt.item), "attempts": attempts}


def _item_fields(item: Item) -> dict[str, Any]:
    return {
        "source_id": item.source_id,
        "state": item.state.value,
        "task_id": item.task_id,
        "reason": item.reason,
        "error_code": item.error_code,
        "error_message": item.error_message,
        "maybe_charged": item.maybe_charged,
        "credits": item.credits,
        "polls": item.polls,
        "files": list(item.files),
    }


async def by_proof(path: Where, ids: list[str], output: Output) -> int:
    """Settle doubts by looking the ids up."""
    tally: dict[str, int] = {}
    async with path.change() as opened, connect(lambda _event: None) as kie:
        async for finding in reconcile(opened, kie.get_task, ids):
            tally[finding.verdict] = tally.get(finding.verdict, 0) + 1
            output.event(
                "finding",
                {
                    "task_id": finding.task_id,
                    "verdict": finding.verdict,
                    "source_id": finding.source_id,
                    "detail": finding.detail,
                },
            )
            if not output.as_json and finding.verdict not in ("known", "unrelated"):
                of = f" of {clean(finding.source_id)}" if finding.source_id else ""
                detail = f" ({clean(finding.detail)})" if finding.detail else ""
                output.result(f"{clean(finding.task_id)}: {finding.verdict}{of}{detail}")
        left = (await opened.counts()).in_doubt
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(tally.items()))
    output.note(f"{told or 'nothing to look at'}; {left} still in doubt.")
    if tally.get("settled"):
        output.note("What was settled is to be collected")
        output.note(f"  Next: {path.again} --out results/")
    if tally.get("double"):
        output.note("Two tasks were paid for one source: see `double` above.")
    return int(Exit.IN_DOUBT) if left else 0


async def by_hand(
    path: Where,
    source_ids: tuple[str, ...],
    output: Output,
    as_task_id: str | None,
    not_created: bool,
    recreate: bool,
) -> int:
    """Settle doubts by the user's word."""
    async with path.change() as opened:
        for source_id in source_ids:
            try:
                item = await opened.resolve(
                    source_id,
                    as_task_id=as_task_id,
                    not_created=not_created,
                    recreate=recreate,
                    by="kie reconcile",
                )
            except UsageError as error:
                raise click.UsageError(error.message) from None
            output.event("decision", _item_fields(item))
            if not output.as_json:
                output.result(f"{clean(source_id)}: now {item.state.value}")
    output.note(f"  Next: {path.again} --out results/")
    return 0
