"""What a journal holds, as frozen values.  They do nothing; the journal does."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from attrs import fields, frozen

__all__ = [
    "Attempt",
    "Counts",
    "Decision",
    "Doubt",
    "Item",
    "ItemState",
    "PlannedItem",
    "Recovery",
    "Verdict",
]


class ItemState(str, Enum):
    """Where an item stands: ``planned → sending → sent → done | failed``, or ``in_doubt``.

    ``sending`` is durable before the request leaves, ``sent`` before the id is used.
    """

    PLANNED = "planned"
    SENDING = "sending"
    SENT = "sent"
    DONE = "done"
    FAILED = "failed"
    IN_DOUBT = "in_doubt"

    def __str__(self) -> str:
        """Return the plain word."""
        return self.value


class Verdict(str, Enum):
    """What became of one attempt to create; None stands for "still open"."""

    CREATED = "created"
    NOT_SENT = "not_sent"
    REJECTED = "rejected"
    REPORTED = "reported"
    IN_DOUBT = "in_doubt"

    def __str__(self) -> str:
        """Return the plain word."""
        return self.value


@frozen(kw_only=True)
class PlannedItem:
    """A piece of work to put into the journal.

    Attributes:
        source_id: The caller's name of it; one row per name.
        model: The model that will be asked.
        input: Its parameters: what JSON can hold.
        output_name: How its file shall be called, if the caller cares.
    """

    source_id: str
    model: str
    input: Mapping[str, Any]
    output_name: str | None = None


@frozen(kw_only=True)
class Item:
    """A row of the journal.  All times are Unix seconds.

    Attributes:
        seq: Its place in the order of planning, from 1.
        key: Hash of model and input: the same source id must come with the same key.
        attempts: How often a create was begun, withdrawn ones included.
        reason: Why it is failed, in doubt or planned again; a short word.
        maybe_charged: True while money may have been spent that no task explains.
        created_at: When the server created the task, by the server's clock.
        completed_at: When the task ended, by the server's clock.
        noticed_at: When its end was put on record, by this machine's clock.
        polls: How often it was looked at (a lower bound after a crash).
        files: Names of the saved results.
    """

    seq: int
    source_id: str
    key: str
    model: str
    input: Mapping[str, Any]
    output_name: str | None
    state: ItemState
    attempts: int
    task_id: str | None
    reason: str | None
    error_code: str | None
    error_message: str | None
    maybe_charged: bool
    credits: float | None
    created_at: float | None
    completed_at: float | None
    polls: int
    files: tuple[str, ...]
    planned_at: float
    updated_at: float
    noticed_at: float | None = None


@frozen(kw_only=True)
class Attempt:
    """One create that was begun.  Its intent was durable before anything was sent.

    Attributes:
        number: 1 for the item's first attempt.
        ref: The reference that the create carried in its callback URL.
        intent_at: Unix seconds, before sending.
        ended_at: Unix seconds when its verdict came; None while it is open.
        verdict: What became of it; None while it is open.
        evidence: Whatever was kept for reconciling.
        host: The machine that made it; so too ``pid`` and ``boot_id``.
    """

    source_id: str
    number: int
    ref: str | None
    intent_at: float
    ended_at: float | None
    verdict: Verdict | None
    http_status: int | None
    body_code: int | None
    reason: str | None
    task_id: str | None
    evidence: Mapping[str, Any] | None
    host: str
    pid: int
    boot_id: str


@frozen(kw_only=True)
class Doubt:
    """An item that may have been paid for without a known task, and its attempts."""

    item: Item
    attempts: tuple[Attempt, ...]


@frozen(kw_only=True)
class Decision:
    """How a doubt was settled, by whom and on what evidence."""

    source_id: str
    decided_at: float
    decision: str
    task_id: str | None
    by: str | None
    evidence: Mapping[str, Any] | None


@frozen(kw_only=True)
class Counts:
    """How many items stand in each state."""

    planned: int = 0
    sending: int = 0
    sent: int = 0
    done: int = 0
    failed: int = 0
    in_doubt: int = 0

    @property
    def total(self) -> int:
        """All items."""
        return sum(getattr(self, field.name) for field in fields(Counts))


@frozen(kw_only=True)
class Recovery:
    """What the start of a run found.

    Attributes:
        doubts: How many creates a crash cut off.
        counts: The items in each state.
        recent: Seconds since each of the last creates of other processes was answered, or
            may have been: they still count towards the account's rate limit.
    """

    doubts: int
    counts: Counts
    recent: tuple[float, ...] = ()
