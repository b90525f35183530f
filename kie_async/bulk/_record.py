"""Keeps one create of a run in the journal: intent before, outcome after."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from kie_async.errors import (
    AuthenticationError,
    FeatureDisabledError,
    InsufficientCreditsError,
    ItemTakenError,
    JournalError,
    KeyQuotaError,
    KieConnectionError,
    KieError,
    NotFoundError,
    ResponseError,
    SessionClosedError,
    SpendLimitError,
    ValidationError,
    WrongLoopError,
)
from kie_async.instrumentation import DoubleSpend, Event, logger
from kie_async.journal import JournalStore
from kie_async.protocol import CreateAnswer, Verdict

__all__ = [
    "DOUBLE_SPENDS",
    "JournalRecord",
    "NewCallback",
    "Tell",
    "note_double_spend",
    "stops_the_run",
]

NewCallback = Callable[[], tuple[str, str]]
Tell = Callable[[Event], None]
DOUBLE_SPENDS = "double_spends"


async def note_double_spend(
    journal: JournalStore, tell: Tell, source_id: str, task_id: str
) -> None:
    """Keep, log and tell that two tasks were created for one source."""
    logger.error("two tasks were created for %s; the one too many is %s", source_id, task_id)
    tell(DoubleSpend(task_id=task_id, source_id=source_id))
    # Each under a name of its own: several may be noticed at once, by several processes.
    entry = {"source_id": source_id, "task_id": task_id}
    await journal.set_meta(f"{DOUBLE_SPENDS}/{task_id}", entry)


def stops_the_run(error: KieError) -> bool:
    """True for a refusal that every further create would meet as well."""
    if isinstance(error, ItemTakenError):
        return False
    if isinstance(error, KieConnectionError):
        return not error.retryable and not error.sent  # a bad certificate, say
    if isinstance(error, ResponseError):
        return 300 <= (error.http_status or 0) < 400  # a portal, or a wrong address
    if isinstance(error, NotFoundError | ValidationError):
        return error.code is None  # the API itself said nothing of this item
    return isinstance(
        error,
        AuthenticationError
        | InsufficientCreditsError
        | KeyQuotaError
        | FeatureDisabledError
        | JournalError
        | SpendLimitError
        | SessionClosedError
        | WrongLoopError,
    )


class JournalRecord:
    """The journal's side of one order; each attempt has its own reference."""

    def __init__(
        self,
        journal: JournalStore,
        source_id: str,
        new_callback: NewCallback | None,
        tell: Tell,
    ) -> None:
        """Nothing is written yet.

        *new_callback* returns a callback URL with the attempt's reference as its last
        path part, and the reference; ``recordInfo`` echoes it, so a doubt can be settled
        with proof.
        """
        self._journal = journal
        self._source_id = source_id
        self._new_callback = new_callback
        self._tell = tell
        self._attempt: int | None = None

    async def intend(self) -> str | None:
        """Write the intent; only then may the request leave."""
        self._attempt = None
        url, reference = (
            self._new_callback()
            if self._new_callback is not None
            else (None, secrets.token_hex(16))
        )
        self._attempt = await self._journal.begin_sending(self._source_id, ref=reference)
        return url

    async def settle(self, answer: CreateAnswer, *, again: bool) -> CreateAnswer | None:
        """Write what came of it; return the task if a callback has brought it before us."""
        if self._attempt is None:  # no intent: a broken journal, or nothing left to create
            return await self._found()
        try:
            await self._write(self._attempt, answer, again=again)
        except JournalError:
            found = await self._found() if answer.task_id is None else None
            if found is None:
                raise
            return found
        return None

    async def _found(self) -> CreateAnswer | None:
        """Return the task that the item has already, as an answer."""
        item = await self._journal.get(self._source_id)
        if item is None or item.task_id is None:
            return None
        return CreateAnswer(verdict=Verdict.ACCEPTED, task_id=item.task_id)

    async def _write(self, attempt: int, answer: CreateAnswer, *, again: bool) -> None:
        error = answer.error
        task_id, source_id = answer.task_id, self._source_id
        if task_id is not None:
            if not await self._journal.record_created(source_id, attempt, task_id):
                await note_double_spend(self._journal, self._tell, source_id, task_id)
        elif error is None or answer.verdict is Verdict.NOT_SENT:
            reason = error.message if error is not None else "not sent"
            await self._journal.record_not_sent(source_id, attempt, reason=reason)
        else:
            await self._refused(attempt, answer.verdict, error, again=again)

    async def _refused(
        self, attempt: int, verdict: Verdict, error: KieError, *, again: bool
    ) -> None:
        source_id, journal = self._source_id, self._journal
        if verdict is Verdict.REPORTED:
            await journal.record_reported(
                source_id,
                attempt,
                again=again,
                http_status=error.http_status,
                body_code=error.code,
                reason=error.message,
            )
        elif verdict is Verdict.REJECTED:
            await journal.record_rejected(
                source_id,
                attempt,
                final=not (again or error.retryable or stops_the_run(error)),
                http_status=error.http_status,
                body_code=error.code,
                reason=type(error).__name__,
                error_message=error.message,
            )
        else:
            await journal.record_in_doubt(
                source_id,
                attempt,
                reason=error.message,
                http_status=error.http_status,
                body_code=error.code,
                error_message=error.message,
            )
