"""The paid part: a create that no cancellation can make unknown.

Each attempt to create runs as a task that the session holds: intent, request, answer,
outcome.  The caller waits for it behind a shield.  A caller that is cancelled leaves at
once; the attempt goes on, and the id it brings goes to the hooks as ``TaskOrphaned``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define

from kie_async.errors import (
    CreateInDoubtError,
    KieError,
    MaintenanceError,
    RateLimitError,
    SessionClosedError,
    UsageError,
)
from kie_async.instrumentation import (
    CreateInDoubt,
    Hooks,
    RequestRefused,
    RequestRetried,
    TaskCreated,
    TurnTaken,
    logger,
    tell_orphan,
)
from kie_async.limiter import Turn
from kie_async.protocol import (
    CreateAnswer,
    Request,
    Response,
    Verdict,
    callback_reference,
    create_task_request,
    judge_create,
    judge_silence,
)
from kie_async.retry import CreateRetry, RetryPolicy, retrying_after
from kie_async.session._lane import Lane
from kie_async.session._slots import Slots

if TYPE_CHECKING:
    from kie_async.callbacks import CallbackReceiver

__all__ = ["CreateRecord", "Creates", "Order"]

Send = Callable[[Request], Awaitable[Response]]
ROUTE = "createTask"
UNKEPT = "its record could not be kept"
_SENT: Mapping[str, Any] = {}
"""Stands for an input that was sent and is needed no more."""


class CreateRecord(Protocol):
    """Who keeps a create's intent and outcome; a bulk run does, in its journal."""

    async def intend(self) -> str | None:
        """Make the intent durable; return the callback URL of this attempt, if any."""

    async def settle(self, answer: CreateAnswer, *, again: bool) -> CreateAnswer | None:
        """Make the outcome durable; *again* says that another attempt will follow.

        Returns a better answer if there is one: the task may have shown itself meanwhile.
        """


@define(kw_only=True)
class Order:
    """One create that somebody wants, and how far it has come."""

    model: str
    input: Mapping[str, Any]
    callback_url: str | None = None
    record: CreateRecord | None = None
    task_id: str | None = None
    created_at: float | None = None
    in_flight: bool = False
    section: asyncio.Task[None] | None = None
    sent_at: float | None = None
    reference: str | None = None
    reports: int = 0
    abandoned: str | None = None
    expects_callback: bool = False
    polls: int = 0
    built: Request | None = None

    def request(self, callback_url: str | None = None) -> Request:
        """Build the request, once; raises UsageError for what cannot work.

        What is sent is what was checked, even if the caller changes his mapping meanwhile.
        """
        if callback_url:  # that of one attempt
            return create_task_request(self.model, self.input, callback_url)
        if self.built is None:
            self.built = create_task_request(self.model, self.input, self.callback_url)
        return self.built


class Creates:
    """Runs orders: turn, intent, request, answer, outcome, and again where that is safe."""

    def __init__(
        self,
        send: Send,
        lane: Lane,
        retry: RetryPolicy,
        allowed: CreateRetry,
        hooks: Hooks,
        rng: random.Random,
        max_concurrency: int,
        callbacks: CallbackReceiver | None = None,
    ) -> None:
        """Belongs to the running loop."""
        self._callbacks = callbacks
        self._send = send
        self._lane = lane
        self._retry = retry
        self._allowed = allowed
        self._hooks = hooks
        self._rng = rng
        self._slots = Slots(max_concurrency)
        self._sections: dict[asyncio.Task[None], asyncio.Future[CreateAnswer]] = {}
        self._duplicates = 0
        self._closing = False
        self._loop = asyncio.get_running_loop()
        self._time = self._loop.time

    async def run(self, order: Order) -> str:
        """Create the task and return its id.

        Raises:
            KieError: As ``KieSession.create_task`` says.
        """
        try:
            return await self._attempt(order)
        except KieError as error:
            first = error

        def decide(error: KieError, failures: int) -> float | None:
            return self._decide(order, error, failures)

        return await retrying_after(first, lambda: self._attempt(order), decide)

    async def drain(self, grace: float) -> None:
        """Start nothing more and wait for what is under way; after *grace* seconds give it up."""
        self._closing = True
        if self._sections:
            _, late = await asyncio.wait(self._sections, timeout=grace)
            for section in late:
                section.cancel()
            if late:
                await asyncio.wait(late)
            for heard in self._sections.values():  # of those that had not even begun
                if not heard.done():
                    heard.set_exception(SessionClosedError("the session is closed"))
            self._sections.clear()

    async def _attempt(self, order: Order) -> str:
        asked_at = self._time() if self._hooks else 0.0
        # First the slot: whoever waits for it can leave and has sent nothing, and no turn
        # grows old in his hands, past the pause of a refusal or the lease of a store.
        if not self._slots.try_take():
            await self._slots.take()
        try:
            turn, probe = await self._lane.enter()
        except BaseException:
            self._slots.give()
            raise
        try:
            if self._closing:  # else a retry could be paid for after the drain
                turn.give_back()
                self._slots.give()
                raise SessionClosedError("the session is closing: nothing new is sent")
            if self._hooks:
                waited = self._time() - asked_at
                self._hooks.emit(TurnTaken(lane=ROUTE, waited=waited))
            # No await between the turn and its section: turn and slot have one owner always.
            heard: asyncio.Future[CreateAnswer] = self._loop.create_future()
            order.in_flight = True  # before it: an eager loop runs the section at once
            section = self._loop.create_task(self._section(order, turn, heard))
            order.section = section
            if not section.done():
                self._sections[section] = heard
            # For a future of his own: he may be cancelled without the section, and
            # `asyncio.shield` would cost one more turn of the loop.
            answer = await heard
            order.section = None  # it has ended, and the order may be waited for for long
        finally:
            if probe:
                self._lane.leave()
        if answer.error is not None:
            raise answer.error
        assert answer.task_id is not None  # noqa: S101 - ACCEPTED has an id by construction
        return answer.task_id

    async def _section(self, order: Order, turn: Turn, heard: asyncio.Future[CreateAnswer]) -> None:
        """Make one attempt, come what may, and tell how it ended."""
        section = asyncio.current_task(self._loop)
        try:
            answer = await self._attempted(order, turn)
        except asyncio.CancelledError:
            if not heard.done():
                heard.set_result(self._cut_off(order))
            raise
        except Exception as bug:
            if heard.done():  # nobody listens any more: the loop reports it
                raise
            heard.set_exception(bug)
        else:
            if not heard.done():  # else the caller has left
                heard.set_result(answer)
            elif answer.task_id and answer.error and not order.abandoned:
                self.orphan(answer.task_id, order.model, UNKEPT)  # he relied on the record
        finally:
            if section is not None:
                self._sections.pop(section, None)

    async def _attempted(self, order: Order, turn: Turn) -> CreateAnswer:
        """Ask, learn, record, tell; failures are values here, not exceptions."""
        try:
            with turn:
                try:
                    answer = await self._paid_request(order, turn)
                finally:
                    self._slots.give()
            self._learn(order, answer)
            if answer.verdict is Verdict.REPORTED:
                order.reports += 1
            if order.record is not None:
                answer = await self._settled(order, answer)
            self._tell(order, answer)
        except asyncio.CancelledError:
            self._tell_doubt(order, "the session closed before the answer came")
            raise
        finally:
            order.in_flight = False
        return answer

    def _cut_off(self, order: Order) -> CreateAnswer:
        """Answer for a request that the end of a close's grace cut off."""
        doubt = CreateInDoubtError(
            "the session was closed before the create was answered: a task may exist and be "
            "paid for - look at Kie's task log before you create it again",
            reference=order.reference,
        )
        return CreateAnswer(verdict=Verdict.IN_DOUBT, error=doubt)

    async def _paid_request(self, order: Order, turn: Turn) -> CreateAnswer:
        try:
            callback_url = await order.record.intend() if order.record is not None else None
        except KieError as error:  # nothing durable, so nothing is sent
            turn.give_back()
            return CreateAnswer(verdict=Verdict.NOT_SENT, error=error)
        receiver = self._callbacks
        if receiver is not None and callback_url is None and order.callback_url is None:
            callback_url = receiver.new_callback_url().url  # one for each attempt
        try:
            request = order.request(callback_url)
        except UsageError as error:  # the record's URL: the intent is withdrawn
            turn.give_back()
            return CreateAnswer(verdict=Verdict.NOT_SENT, error=error)
        order.reference = callback_reference(callback_url or order.callback_url)
        if receiver is not None and order.reference is not None:
            order.expects_callback = receiver.is_ours(order.reference)
        order.sent_at = self._time()
        try:
            response = await self._send(request)
        except KieError as error:
            return judge_silence(error, request)
        return judge_create(response, request, trust_503=self._retry.trust_503)

    async def _settled(self, order: Order, answer: CreateAnswer) -> CreateAnswer:
        error = answer.error
        again = error is not None and self._delay(order, error, 1) is not None
        try:
            if order.record is not None:
                answer = await order.record.settle(answer, again=again) or answer
        except KieError as trouble:
            return _unkept(answer, trouble)
        except asyncio.CancelledError:  # a close's grace is over, and the section ends anyway
            if error is not None:
                return answer
            closed = SessionClosedError("the session was closed before the task was on record")
            return _unkept(answer, closed)
        except BaseException as bug:  # it goes to the caller, or to the loop: without the id
            self._tell(order, answer)
            if answer.task_id is not None:
                bug.add_note(f"kie_async: task {answer.task_id} was created and goes on")
                if not order.abandoned:
                    self.orphan(answer.task_id, order.model, UNKEPT)
            raise
        if order.task_id is None and answer.task_id is not None:
            order.task_id, order.created_at = answer.task_id, order.sent_at
        return answer

    def _learn(self, order: Order, answer: CreateAnswer) -> None:
        """Tell the lane, and fill in the order."""
        if isinstance(answer.error, (RateLimitError, MaintenanceError)):
            self._lane.refused(answer.error, order.sent_at or 0.0, self._time())
        elif answer.verdict in (Verdict.ACCEPTED, Verdict.REJECTED):
            self._lane.let_through()
        if answer.task_id is not None:
            order.task_id = answer.task_id
            order.created_at = self._time()
            order.built, order.input = None, _SENT  # what was sent is needed no more
        if isinstance(answer.error, CreateInDoubtError):
            answer.error.reference = order.reference

    def _tell(self, order: Order, answer: CreateAnswer) -> None:
        if answer.task_id is not None:
            if self._hooks:
                self._hooks.emit(
                    TaskCreated(
                        task_id=answer.task_id, model=order.model, seconds=self._took(order)
                    )
                )
            if order.abandoned:
                self.orphan(answer.task_id, order.model, order.abandoned)
        elif answer.verdict in (Verdict.IN_DOUBT, Verdict.REPORTED) and answer.error is not None:
            self._tell_doubt(order, answer.error.message)
        elif self._hooks and answer.error is not None:
            error = answer.error
            self._hooks.emit(
                RequestRefused(
                    route=ROUTE,
                    error=error.message,
                    code=error.code,
                    http_status=error.http_status,
                )
            )

    def _tell_doubt(self, order: Order, reason: str) -> None:
        if order.abandoned:  # else the caller gets the exception
            logger.warning("a create of %s is in doubt: %s", order.model, reason)
        if self._hooks:
            self._hooks.emit(
                CreateInDoubt(
                    model=order.model,
                    reason=reason,
                    reference=order.reference,
                    seconds=self._took(order),
                )
            )

    def _took(self, order: Order) -> float | None:
        return None if order.sent_at is None else self._time() - order.sent_at

    def abandon(self, order: Order, reason: str) -> None:
        """The caller is gone: give the id to the hooks, now or when it comes."""
        order.abandoned = reason
        if order.task_id is not None and not order.in_flight:
            self.orphan(order.task_id, order.model, reason)

    def orphan(self, task_id: str, model: str, reason: str) -> None:
        """Say that a paid task lost its caller."""
        tell_orphan(self._hooks.emit, task_id, model, reason)

    def _decide(self, order: Order, error: KieError, failures: int) -> float | None:
        delay = self._delay(order, error, failures)
        if delay is None:
            return None
        if isinstance(error, CreateInDoubtError) and not error.reported:
            if self._duplicates >= self._retry.max_duplicates:
                return None
            self._duplicates += 1
        if isinstance(error, RateLimitError | MaintenanceError):
            delay = 0.0  # the lane is paused; waiting here as well would be twice
        if self._hooks:
            self._hooks.emit(
                RequestRetried(route=ROUTE, failures=failures, delay=delay, error=error.message)
            )
        return delay

    def _delay(self, order: Order, error: KieError, failures: int) -> float | None:
        """Ask the policy; reported failures are counted by themselves."""
        if order.task_id is not None:
            return None  # it exists: only its record failed
        if error.maybe_charged and not isinstance(error, CreateInDoubtError):
            return None  # the record of a doubt failed, which is no reason to pay twice
        if isinstance(error, CreateInDoubtError) and error.reported:
            failures = order.reports
        return self._retry.create_delay(error, failures, self._rng, self._allowed)


def _unkept(answer: CreateAnswer, error: KieError) -> CreateAnswer:
    """Return the answer as *error*: an id must reach somebody when the record cannot take it."""
    error.task_id = answer.task_id
    error.maybe_charged = answer.verdict not in (Verdict.REJECTED, Verdict.NOT_SENT)
    return CreateAnswer(verdict=answer.verdict, task_id=answer.task_id, error=error)
