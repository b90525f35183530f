"""What to tell about a row that did not end well: what happened, the money, the next command."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from attrs import frozen

from kie_async.cli._board import Row, status_of
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit
from kie_async.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    KeyQuotaError,
    KieConnectionError,
    KieError,
    NotFoundError,
    SessionClosedError,
    StorageFullError,
    ValidationError,
)

__all__ = ["Advice", "advice_of", "advise", "first_money", "first_step", "money_of"]

AT_ONCE = 50
"""Ids in one suggested command: more make a line that nobody wants to copy."""
LOGS = "https://kie.ai/logs"

TITLES = {
    "failed": "Failed",
    "timed_out": "Timed out",
    "in_doubt": "In doubt",
    "interrupted": "Interrupted",
    "not_sent": "Not sent",
    "not_saved": "Not saved",
    "refused": "Refused",
    "error": "Error",
}

PAID = "The task exists and is paid for."
PERHAPS = "It may have been paid for."
FREE = "The task ended; failed tasks are documented as free."
MANY = {
    PAID: "The tasks exist and are paid for.",
    PERHAPS: "Each of them may have been paid for.",
    FREE: "The tasks ended; failed tasks are documented as free.",
}


LATER = "try the same again later; what is wrong meanwhile: kie doctor"
STEPS: tuple[tuple[type[KieError], str], ...] = (
    (AuthenticationError, "put a valid key into KIE_API_KEY, then: kie doctor"),
    (InsufficientCreditsError, "add credits at https://kie.ai, then: kie credits"),
    (KeyQuotaError, "raise the key's cap at https://kie.ai/api-key, then: kie credits"),
    (KieConnectionError, "check the network and KIE_BASE_URL: kie doctor"),
    (JournalLockedError, "let that run end; to look into it meanwhile: kie journal RUN.DB"),
    (StorageFullError, "free some room, then the same again"),
    (JournalTooNewError, "install the later version of kie_async, then the same again"),
    (JournalError, "name the journal of a run, or of a new one: kie bulk --help"),
)
"""What to do after an error that concerns no single task; the first that fits."""


@frozen
class Advice:
    """A few lines on rows that ended in the same way."""

    title: str
    what: str
    money: str
    next: tuple[str, ...]
    ids: tuple[str, ...]


def advise(rows: Iterable[Row], out: Path | None) -> Iterator[Advice]:
    """Yield one advice for each way in which rows ended, except well."""
    groups: dict[tuple[str, str, str, bool], list[Row]] = {}
    for row in rows:
        if status_of(row) != "done":
            key = (status_of(row), _what(row), money_of(row), row.task_id is None)
            groups.setdefault(key, []).append(row)
    for (status, what, money, _), alike in groups.items():
        if len(alike) > 1:
            money = MANY.get(money, money)
        yield Advice(
            TITLES[status],
            what,
            money,
            tuple(_next(alike, out)),
            tuple(row.name for row in alike),
        )


def advice_of(row: Row, out: Path | None) -> str | None:
    """Return the next command for one row alone, or None if nothing is left to do."""
    return None if status_of(row) == "done" else "; ".join(_next([row], out))


def money_of(row: Row) -> str:
    """Say whether money may have been spent on the row."""
    if not row.creates:
        return "Looking costs nothing."
    if status_of(row) == "failed":
        return FREE
    if row.task_id is not None:
        return PAID
    if row.error is not None and row.error.maybe_charged:
        return PERHAPS
    return "Nothing was paid."


def first_step(error: KieError) -> str:
    """Return the next step after an error that concerns no single task."""
    if isinstance(error, JournalError) and error.retryable:
        return "see that the database runs and its address is right, then the same again"
    return next((step for kind, step in STEPS if isinstance(error, kind)), LATER)


def first_money(error: KieError) -> str:
    """Say whether money may have been spent by what ended a whole command."""
    if error.maybe_charged:
        return PERHAPS
    if isinstance(error, JournalError):
        return "Nothing is sent without the journal; what was paid before is on record in it."
    return "Nothing was paid for this."


def _what(row: Row) -> str:
    if row.error is None:
        return "stopped before its turn came"
    if isinstance(row.error, SessionClosedError):
        return "stopped while it was waited for" if row.task_id else "stopped before it was created"
    text = row.error.message
    for known in filter(None, (row.task_id, row.source_id)):
        text = text.replace(f" (task {known})", "")
    return clean(text)


def _next(rows: Sequence[Row], out: Path | None) -> Iterator[str]:
    """Yield the commands to type, or what to do before."""
    row = rows[0]
    to_out = "" if out is None else f" --out {shlex.quote(clean(out))}"
    if row.exit is Exit.IN_DOUBT:
        yield f"look for it at {LOGS}; if it is there: kie wait ITS_ID{to_out}"
        yield f"only if it is not: {row.again or _command('kie upscale', rows, to_out)}"
        return
    if row.exit is Exit.AUTHENTICATION:
        yield "put a valid key into the environment variable KIE_API_KEY, then: kie credits"
        return
    if row.exit is Exit.CREDITS:
        yield "add credits at https://kie.ai, then: kie credits"
    elif isinstance(row.error, NotFoundError | ValidationError) and not (
        row.creates and row.task_id
    ):
        yield _correction(row)
        return
    elif isinstance(row.error, KieConnectionError) and row.task_id is None:
        yield "check the network and KIE_BASE_URL: kie doctor"
    failed = status_of(row) == "failed"
    resume = row.task_id is not None and not failed
    if row.again is not None and not resume:
        yield from dict.fromkeys(each.again for each in rows if each.again is not None)
        return
    verb = "kie wait" if resume or not row.creates else "kie upscale"
    if failed and not row.creates:
        verb, to_out = "kie status", ""
    for start in range(0, len(rows), AT_ONCE):
        yield _command(verb, rows[start : start + AT_ONCE], to_out)


def _correction(row: Row) -> str:
    """Say what to look at when the API finds no sense in the request."""
    if row.again is not None:
        return "check the model and its input: kie models, and Kie's page of the model"
    return f"check the id; those of your account are listed at {LOGS}"


def _command(verb: str, rows: Sequence[Row], rest: str) -> str:
    ids = (row.name if verb == "kie upscale" else row.task_id or row.name for row in rows)
    told = " ".join([verb, *(shlex.quote(clean(task_id)) for task_id in ids)])
    return told + (rows[0].options if verb == "kie upscale" else "") + rest
