"""Settle doubts with proof: which task, if any, came of a create of unknown outcome?

``recordInfo`` echoes what a task was created with, callback URL included.  So the ids
that a user copies from the vendor's task log are enough: a task whose callback URL ends
in an attempt's reference *is* that attempt's, and one that ends in another is nobody's here.
Without references a task still counts as proof if it is the only one with this input, created
while the attempt was under way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

from attrs import frozen

from kie_async.errors import NotFoundError
from kie_async.journal import Attempt, Item, ItemState, JournalStore, Verdict
from kie_async.models import Task
from kie_async.protocol import callback_reference

__all__ = ["Finding", "reconcile"]

EARLIER = 120.0
LATER = 145.0
"""Seconds around an intent in which its task may have been created: two minutes for the
clocks to differ, and the time of one create."""

Look = Callable[[str], Awaitable[Task]]


@frozen(kw_only=True)
class Finding:
    """What one task id turned out to be.

    ``verdict`` is "settled" (a doubt of ``source_id`` was this task), "known" (the
    journal has it already), "double" (its item has another task: two were paid),
    "ambiguous" (several doubts fit it, or several tasks its doubt), "unrelated", or
    "unreadable".
    """

    task_id: str
    verdict: str
    source_id: str | None = None
    detail: str = ""


async def reconcile(
    journal: JournalStore, look: Look, task_ids: Iterable[str]
) -> AsyncIterator[Finding]:
    """Look at each task and settle the doubt it proves; yields what each turned out to be."""
    candidates: list[Task] = []
    for task_id in task_ids:
        known = await journal.find_by_task(task_id)
        if known:
            yield Finding(task_id=task_id, verdict="known", source_id=known[0].source_id)
            continue
        try:
            task = await look(task_id)
        except NotFoundError as error:
            yield Finding(task_id=task_id, verdict="unreadable", detail=error.message)
            continue
        finding = await _by_reference(journal, task)
        if finding is not None:
            yield finding
        elif callback_reference(task.callback_url) is not None:
            # Made by somebody else, or by another run, however alike its input is.
            yield Finding(
                task_id=task_id, verdict="unrelated", detail="its callback names another create"
            )
        else:
            candidates.append(task)
    matches = await _by_payload(journal, candidates)
    # A set: an id may stand twice in the user's list.
    pairs = {(_name(attempt), task.task_id) for task, fits in matches for _, attempt in fits}
    claims = Counter(name for name, _ in pairs)
    for task, fits in matches:
        yield await _settled_by_payload(journal, task, fits, claims)


def _name(attempt: Attempt) -> tuple[str, int]:
    return attempt.source_id, attempt.number


async def _by_reference(journal: JournalStore, task: Task) -> Finding | None:
    reference = callback_reference(task.callback_url)
    attempt = await journal.find_by_ref(reference) if reference else None
    if attempt is None:
        return None
    if attempt.task_id is not None:  # one create, sent twice by something on the way
        return _finding(attempt, task, "double", "reference")
    return await _settle(journal, attempt, task, {"proof": "reference", "reference": reference})


async def _by_payload(
    journal: JournalStore, tasks: list[Task]
) -> list[tuple[Task, list[tuple[Item, Attempt]]]]:
    """Match by input and time; bounded by the doubts, which are few."""
    if not tasks:
        return []
    doubts = [(doubt.item, doubt.attempts) async for doubt in journal.doubts()]
    return [
        (
            task,
            [
                (item, attempt)
                for item, attempts in doubts
                for attempt in attempts
                if _fits(task, item, attempt)
            ],
        )
        for task in tasks
    ]


def _fits(task: Task, item: Item, attempt: Attempt) -> bool:
    if task.model != item.model or task.input is None or dict(task.input) != dict(item.input):
        return False
    if task.created_at is None or attempt.verdict not in (Verdict.IN_DOUBT, Verdict.REPORTED):
        return False  # one that was refused, or not sent, has no task, whatever its time
    return attempt.intent_at - EARLIER <= task.created_at <= attempt.intent_at + LATER


async def _settled_by_payload(
    journal: JournalStore,
    task: Task,
    fits: list[tuple[Item, Attempt]],
    claims: Mapping[tuple[str, int], int],
) -> Finding:
    if not fits:
        return Finding(task_id=task.task_id, verdict="unrelated")
    if len(fits) > 1:
        return Finding(
            task_id=task.task_id,
            verdict="ambiguous",
            detail=f"{len(fits)} doubtful attempts fit; settle it with --as",
        )
    attempt = fits[0][1]
    if claims[_name(attempt)] > 1:
        return Finding(
            task_id=task.task_id,
            verdict="ambiguous",
            detail=f"{claims[_name(attempt)]} tasks fit its doubt; settle it with --as",
        )
    evidence = {"proof": "input and time", "created_at": task.created_at}
    return await _settle(journal, attempt, task, evidence)


async def _settle(
    journal: JournalStore, attempt: Attempt, task: Task, evidence: dict[str, Any]
) -> Finding:
    item = await journal.get(attempt.source_id)
    if item is not None and item.state is ItemState.IN_DOUBT:
        await journal.resolve(
            attempt.source_id,
            as_task_id=task.task_id,
            attempt=attempt.number,
            evidence=evidence,
        )
        verdict = "settled"
    else:
        first = await journal.record_created(attempt.source_id, attempt.number, task.task_id)
        verdict = "settled" if first else "double"
    return _finding(attempt, task, verdict, str(evidence["proof"]))


def _finding(attempt: Attempt, task: Task, verdict: str, proof: str) -> Finding:
    return Finding(task_id=task.task_id, verdict=verdict, source_id=attempt.source_id, detail=proof)
