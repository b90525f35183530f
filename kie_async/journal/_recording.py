"""Writing into a journal: each method is one record, durable when it returns.

It sends nothing, decides no retry, and never blocks the event loop: one thread writes,
another one reads.  Where the rows are kept is for the classes that derive from this one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, TypedDict, Unpack

from kie_async.errors import UsageError
from kie_async.journal import _decisions, _reads, _records
from kie_async.journal._planning import CHUNK, plan
from kie_async.journal._questions import Questions
from kie_async.journal._records import Facts
from kie_async.journal._rows import as_evidence, as_json, as_text, clean, number, whole
from kie_async.journal._sql import Connection
from kie_async.journal._values import Item, PlannedItem, Recovery, Verdict
from kie_async.models import Task, check_task_id

__all__ = ["Recording"]

LAZY = 0.25
"""Seconds that a note may wait before it is written."""
RECENT = 60.0
"""Seconds: longer than any rate limit's window."""

_SET_META = "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class AnswerFacts(TypedDict, total=False):
    """What an answer, or the lack of one, told about an attempt."""

    http_status: int | None
    body_code: int | None
    error_message: str | None
    evidence: Mapping[str, Any] | None


class Recording(Questions):
    """The writing half of every journal.

    Each ``record_…`` returns when it is durable; many callers share one commit.  A caller
    that is cancelled while he waits loses nothing: the record is written.
    """

    async def plan(self, items: Iterable[PlannedItem]) -> list[str]:
        """Add items as ``planned``; return the source ids that are new, in order.

        Duplicates are one.  Takes any number, in commits of 5,000; safe to repeat.

        Raises:
            KeyConflictError: A source id came with another model or other parameters.
                What stands before its 5,000 stays planned.
            UsageError: An item cannot be kept.
            StorageFullError: The disk is full.
        """
        iterator, new = iter(items), list[str]()
        while chunk := list(islice(iterator, CHUNK)):
            run = partial(self._plan_chunk, items=chunk, now=self._clock())
            new += await self._writing().submit("plan", run, intent=True)
        return new

    def _plan_chunk(
        self, conn: Connection, *, items: Sequence[PlannedItem], now: float
    ) -> list[str]:
        return plan(conn, items, now)

    async def begin_sending(self, source_id: str, *, ref: str | None = None) -> int:
        """``planned → sending``: make the intent durable; return the attempt's number.

        Call it after every wait and right before the first byte leaves.  If you do not
        send after all, call `record_not_sent`.  If you are cancelled in here, nothing
        was sent, and the journal takes the intent back by itself.

        Args:
            source_id: A planned item.
            ref: The reference that this one create carries; never used before.

        Raises:
            JournalError: The item is not planned, or *ref* was used.
            StorageFullError: The disk is or was full: send nothing.
        """
        undo = partial(self._take_back, source_id)
        future = self._writing().submit(
            "begin_sending",
            lambda conn: _records.begin_sending(conn, source_id, ref, self._lease, self._clock()),
            intent=True,
            undo=undo,
        )
        try:
            return int(await future)
        except asyncio.CancelledError:
            if not future.cancelled() and future.exception() is None:
                undo(future.result())  # the answer and the cancellation came together
            raise

    def _take_back(self, source_id: str, attempt: int) -> None:
        if self._writer is not None:
            facts = Facts(reason="cancelled")
            self._writer.send(
                "take_back", self._closing(source_id, attempt, Verdict.NOT_SENT, "planned", facts)
            )

    async def record_not_sent(self, source_id: str, attempt: int, *, reason: str) -> None:
        """``sending → planned``: it is proven that no complete request left."""
        run = self._closing(
            source_id, attempt, Verdict.NOT_SENT, "planned", Facts(reason=clean(reason))
        )
        await self._writing().submit("record_not_sent", run)

    async def record_rejected(
        self,
        source_id: str,
        attempt: int,
        *,
        final: bool,
        reason: str | None = None,
        **facts: Unpack[AnswerFacts],
    ) -> None:
        """``sending → failed`` if *final*, else ``planned``: the API refused before work.

        Args:
            source_id: The item.
            attempt: What `begin_sending` returned.
            final: True if the same request would be refused again.
            reason: A short word for it.
            **facts: ``http_status``, ``body_code``, ``error_message``, ``evidence``.
        """
        state = "failed" if final else "planned"
        run = self._closing(
            source_id, attempt, Verdict.REJECTED, state, _facts(reason, False, facts)
        )
        await self._writing().submit("record_rejected", run)

    async def record_reported(
        self,
        source_id: str,
        attempt: int,
        *,
        again: bool,
        reason: str | None = None,
        **facts: Unpack[AnswerFacts],
    ) -> None:
        """``sending → planned`` if it is sent *again*, else ``in_doubt``.

        For a well-formed answer that reports a failure and names no task.  The item
        counts as ``maybe_charged`` until its attempts are explained.
        """
        state = "planned" if again else "in_doubt"
        told = _facts(reason, True, facts)
        run = self._closing(source_id, attempt, Verdict.REPORTED, state, told)
        await self._writing().submit("record_reported", run)

    async def record_in_doubt(
        self, source_id: str, attempt: int, *, reason: str, **facts: Unpack[AnswerFacts]
    ) -> None:
        """``sending → in_doubt``: nobody can know whether a task was created."""
        told = _facts(reason, True, facts)
        run = self._closing(source_id, attempt, Verdict.IN_DOUBT, "in_doubt", told)
        await self._writing().submit("record_in_doubt", run)

    def _closing(
        self, source_id: str, attempt: int, verdict: Verdict, state: str, facts: Facts
    ) -> Callable[[Connection], None]:
        now = self._clock()
        return lambda conn: _records.close_attempt(
            conn, source_id, attempt, verdict, state, facts, now
        )

    async def record_created(self, source_id: str, attempt: int, task_id: str) -> bool:
        """Keep the id of a paid task: ``sending → sent``.  Safe to repeat.

        Also right for an attempt in doubt whose task turned up, with proof.

        Returns:
            True if the item now waits for this task.  False if another attempt has
            brought a task already, or is in flight: this one may be paid in addition.

        Raises:
            JournalError: The attempt is unknown, or has another task.
        """
        now = self._clock()
        return bool(
            await self._writing().submit(
                "record_created",
                lambda conn: _records.record_created(
                    conn, source_id, attempt, as_text(task_id, "task_id"), now
                ),
            )
        )

    async def record_done(self, source_id: str, task: Task, *, polls: int | None = None) -> None:
        """``sent → done``.  Safe to repeat; a done item stays done."""
        figures, now = _figures(task), self._clock()
        await self._writing().submit(
            "record_done",
            lambda conn: _records.end(conn, source_id, "done", Facts(), figures, polls, now),
        )

    async def record_failed(
        self,
        source_id: str,
        *,
        reason: str,
        task: Task | None = None,
        error_code: str | int | None = None,
        error_message: str | None = None,
        maybe_charged: bool | None = None,
        polls: int | None = None,
    ) -> None:
        """``sent → failed``, or ``planned → failed`` for what cannot be sent at all."""
        facts = Facts(
            reason=clean(reason),
            error_code=clean(error_code),
            error_message=clean(error_message),
            maybe_charged=maybe_charged,
        )
        figures, now = _figures(task), self._clock()
        await self._writing().submit(
            "record_failed",
            lambda conn: _records.end(conn, source_id, "failed", facts, figures, polls, now),
        )

    async def record_files(self, source_id: str, files: Sequence[str]) -> None:
        """Keep the names of a done item's saved results, after they are in place."""
        text, now = as_json([str(name) for name in files], "files"), self._clock()
        await self._writing().submit(
            "record_files", lambda conn: _records.record_files(conn, source_id, text, now)
        )

    def note_polls(self, source_id: str, polls: int) -> None:
        """Keep how often an item was looked at: within 0.25 s, and not for certain."""
        self._writing()
        if not self._polls:
            asyncio.get_running_loop().call_later(LAZY, self._write_notes)
        self._polls[source_id] = polls

    async def recover(self) -> Recovery:
        """Put the creates that a dead owner left open in doubt (reason ``crash``).

        Call it once, before the first create of a run.  Safe to repeat: the creates of
        this journal object are not touched.
        """
        doubts, now = await self.doubt_the_dead(), self._clock()
        counts = await self.counts()
        times = await self._read(_reads.created_times, now - RECENT, self._leases_here())
        recent = tuple(now - time for time in times)
        return Recovery(doubts=doubts, counts=counts, recent=recent)

    async def doubt_the_dead(self) -> int:
        """Put the creates that dead owners left open in doubt; return how many.

        The part of `recover` that costs nothing where there are none: for every few seconds.
        """
        now = self._clock()
        return int(
            await self._writing().submit(
                "recover", lambda conn: _records.recover(conn, self._orphans(conn), now)
            )
        )

    async def resolve(
        self,
        source_id: str,
        *,
        as_task_id: str | None = None,
        attempt: int | None = None,
        not_created: bool = False,
        recreate: bool = False,
        by: str | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Item:
        """Settle a doubt in one of three ways, and record who did so and why.

        Args:
            source_id: An item in doubt.
            as_task_id: This is its task: the item becomes ``sent``.
            attempt: Which attempt brought that task, if it is known; else the last in doubt.
            not_created: It is proven that there is none: the item becomes ``planned``.
            recreate: Create it again although it may be paid twice; also for a failed item.
            by: Who decides.
            evidence: What the decision rests on.

        Raises:
            UsageError: Not exactly one way was given.
            JournalError: The item is not in doubt, the task belongs to another one, or the
                attempt has another task.
        """
        if (as_task_id is not None) + bool(not_created) + bool(recreate) != 1:
            raise UsageError("say one of as_task_id, not_created and recreate")
        if attempt is not None and as_task_id is None:
            raise UsageError("attempt goes with as_task_id")
        known = (clean(by), as_evidence(evidence), self._clock())
        told: tuple[Any, ...] = (source_id, *known)
        decide: Callable[..., None] = _decisions.release if not_created else _decisions.recreate
        if as_task_id is not None:
            told = (source_id, check_task_id(as_task_id, "as_task_id"), attempt, *known)
            decide = _decisions.adopt_task
        await self._writing().submit("resolve", lambda conn: decide(conn, *told))
        item = await self.get(source_id)
        assert item is not None  # noqa: S101 - reason: for the type checker
        return item

    async def set_meta(self, name: str, value: object) -> None:
        """Keep a setting or a figure of the run; *value* is what JSON can hold."""
        values = (as_text(name, "name"), as_json(value, name))
        await self._writing().submit(
            "set_meta",
            lambda conn: conn.execute(_SET_META, values) and None,
        )


def _facts(reason: str | None, maybe_charged: bool, told: AnswerFacts) -> Facts:
    body_code = whole(told.get("body_code"))
    return Facts(
        reason=clean(reason),
        http_status=whole(told.get("http_status")),
        body_code=body_code,
        error_code=clean(body_code),
        error_message=clean(told.get("error_message")),
        evidence=as_evidence(told.get("evidence")),
        maybe_charged=maybe_charged,
    )


def _figures(task: Task | None) -> tuple[float | None, float | None, float | None]:
    if task is None:
        return (None, None, None)
    return (number(task.credits_consumed), number(task.created_at), number(task.completed_at))
