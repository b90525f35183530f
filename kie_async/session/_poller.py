"""One poller for all the tasks that a session waits for.

It spends the account's polls: when a task is due it takes a turn, and only then picks the
task that is worth it most.  One alarm rings when the next one is due; a driver waits for a
turn while there is none.  A waiter holds a future and nothing of any answer.  The turn goes
to one who waits for that task: he looks, in his own asyncio task, for all who wait for it.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Awaitable, Callable
from typing import Any

from kie_async.errors import (
    AuthenticationError,
    KieError,
    NotFoundError,
    RateLimitError,
    ResponseError,
    TaskFailedError,
)
from kie_async.instrumentation import Hooks, RequestRefused, TaskChanged, TurnTaken
from kie_async.limiter import RateLimiter, Turn
from kie_async.models import Task
from kie_async.polling import Durations, EntryQueue, PollSchedule
from kie_async.protocol import lacks_result
from kie_async.retry import RetryPolicy
from kie_async.session._watch import Waiter, Watch, may_flip

__all__ = ["Poller"]

ROUTE = "recordInfo"
SECOND_LOOK = 60.0
"""Seconds until a time-out failure is looked at again: such a task was seen to succeed."""
AFTER_A_RING = 2.0
"""Seconds until the next look at a task whose callback came and which still runs."""
LOOKS = 3
"""Looks in a row at an answer that should end a wait, but may be a slip of the server."""


class Poller:
    """Waits for tasks on behalf of a session, in the loop it was made in."""

    def __init__(
        self,
        fetch: Callable[[str], Awaitable[Task]],
        schedule: PollSchedule,
        durations: Durations,
        limiter: RateLimiter,
        retry: RetryPolicy,
        hooks: Hooks,
        rng: random.Random,
        wall: Callable[[], float],
        rung_early: Callable[[str], bool] | None = None,
    ) -> None:
        """Make an idle poller; it works only while somebody waits.

        *wall* tells Unix seconds: the age of a task that somebody else created.
        *rung_early* tells whether a task's callback came before anybody waited.
        """
        self._rung_early = rung_early
        self._wall = wall
        self._fetch = fetch
        self._queue = EntryQueue[Watch](schedule, durations, rng)
        self._limiter = limiter
        self._retry = retry
        self._hooks = hooks
        self._rng = rng
        # Other limiters than ours may lack it; then the driver asks for each turn.
        self._try_acquire: Callable[[], Turn | None] = getattr(limiter, "try_acquire", _no_turn)
        self._driver: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0  # not every loop's handles tell it
        self._closed = False
        self._refusals = 0
        self._loop = asyncio.get_running_loop()

    def join(
        self,
        waiter: Waiter[Any],
        task_id: str,
        *,
        model: str | None = None,
        created_at: float | None = None,
        callbacks: bool = False,
    ) -> None:
        """Let *waiter* wait until the task has ended; :meth:`leave` when he waits no more.

        He awaits his ``found``, and when it brings None he makes one :meth:`look`, and so
        on.  It brings a task that ended well, or raises TaskFailedError for one that ended
        in ``fail``, or another KieError for a fatal answer; other trouble is outlived.

        Args:
            waiter: The caller.
            task_id: The task.
            model: Its model, if known; durations are learned per model.
            created_at: Loop time of its create, if it was created here.
            callbacks: A callback will ring; until then only rare safety polls are made.
        """
        watch = self._queue.get(task_id)
        if watch is None:
            watch = self._watch(task_id, model, created_at, callbacks)
        waiter.found = self._loop.create_future()
        watch.join(waiter)
        self._stir()

    def leave(self, waiter: Waiter[Any]) -> None:
        """Let a waiter go; if he had a turn to look in his hands, somebody else looks."""
        watch = waiter.watch
        if watch is None:
            return
        watch.leave(waiter)
        unused = waiter.leave()
        if watch.first is None:
            self._forget(watch)
        elif unused:
            self._look_again(watch)
            self._stir()

    async def look(self, waiter: Waiter[Any]) -> None:
        """Poll the waiter's task for all who wait for it, and do what the answer asks for."""
        watch, turn, waiter.turn = waiter.watch, waiter.turn, None
        if watch is None or turn is None:
            return  # he was told meanwhile
        waiter.found = self._loop.create_future()
        try:
            with turn:
                task = await self._fetch(watch.task_id)
            self._answered(watch, task)
        except KieError as error:
            self._failed(watch, error)
        except Exception as bug:  # noqa: BLE001 - a bug must reach the callers, not hang them
            self._fatal(watch, bug)
        except BaseException:
            waiter.found.cancel()  # he is no looker any more
            self._look_again(watch)
            raise
        finally:
            if len(self._queue):
                self._stir()

    def _look_again(self, watch: Watch) -> None:
        """Let somebody look for one who gave up in mid-look."""
        if self._waits(watch):
            self._queue.recheck(watch.task_id, 0.0, self._loop.time())

    def _waits(self, watch: Watch) -> bool:
        """True while it is waited for: its last waiter may leave at any await."""
        return self._queue.get(watch.task_id) is watch

    def ring(self, task_id: str) -> None:
        """Look at a task now: somebody says that it has changed."""
        watch = self._queue.get(task_id)
        if watch is not None:
            watch.told = True
            self._queue.ring(task_id, self._loop.time())
            self._stir()

    async def close(self) -> None:
        """Stop polling.  Whoever still waits has been told before."""
        self._closed = True
        self._quiet()
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait([self._driver])

    def _watch(
        self, task_id: str, model: str | None, created_at: float | None, callbacks: bool
    ) -> Watch:
        """Begin to watch a task."""
        now = self._loop.time()
        watch = Watch(task_id, model, created_at, now, callbacks)
        self._queue.put(watch, now)
        if self._rung_early is not None and self._rung_early(task_id):
            watch.told = True
            self._queue.ring(task_id, now)
        return watch

    def _forget(self, watch: Watch) -> None:
        if self._waits(watch):
            self._queue.remove(watch.task_id)
            if not len(self._queue):
                self._quiet()

    def _stir(self) -> None:
        """Spend polls on what is due, and set the alarm for what is not."""
        if self._driver is not None:
            return  # it picks what is due when it has its turn
        try:
            while (now := self._due_now()) is not None:
                turn = self._try_acquire()
                if turn is None:
                    self._driver = self._loop.create_task(self._drive(now))
                    self._driver.add_done_callback(self._driver_ended)
                    break
                self._spend(turn, now)
        except Exception as bug:  # noqa: BLE001 - a bug must reach the callers, not hang them
            self._fail_all(bug)

    def _due_now(self) -> float | None:
        """Return the time if a poll is due; else set the alarm for the next one."""
        if self._closed or not len(self._queue):
            return None
        now = self._loop.time()
        due = self._queue.next_due(now)
        if due is not None and due <= now:
            return now
        if due is not None and (self._alarm is None or due < self._alarm_at):
            self._quiet()
            self._alarm_at = due
            self._alarm = self._loop.call_at(due, self._alarm_rang)
        return None  # an alarm that rings too early is set anew then

    def _alarm_rang(self) -> None:
        self._alarm = None
        self._stir()

    def _quiet(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    async def _drive(self, since: float) -> None:
        """Wait for turns as long as something is due."""
        now: float | None = since
        while now is not None:
            self._spend(await self._limiter.acquire(), now)
            now = self._due_now()

    def _spend(self, turn: Turn, since: float) -> None:
        """Give the turn to a waiter of the task that is worth it most.

        *since* is when the turn was asked for.
        """
        watch = self._queue.take(self._loop.time())
        looker = None if watch is None else watch.next_looker()
        if watch is None or looker is None:  # those it was meant for have given up
            turn.give_back()
            if watch is not None:  # and have not left yet: another may join before they do
                self._look_again(watch)
            return
        if self._hooks:
            waited = self._loop.time() - since
            self._hooks.emit(TurnTaken(task_id=watch.task_id, lane=ROUTE, waited=waited))
        looker.hand(turn)

    def _driver_ended(self, driver: asyncio.Task[None]) -> None:
        """Go on without it; a bug in it or in a limiter reaches every waiter."""
        self._driver = None
        bug = None if driver.cancelled() else driver.exception()
        if isinstance(bug, Exception):
            self._fail_all(bug)
        else:
            self._stir()

    def _fail_all(self, bug: Exception) -> None:
        """Let every waiter have it, instead of hanging them."""
        for watch in self._queue.entries():
            self._fatal(watch, bug)

    def _answered(self, watch: Watch, task: Task) -> None:
        self._refusals = 0
        watch.polls += 1
        watch.model = task.model or watch.model
        if self._hooks and task.state is not watch.state and not task.done:
            self._hooks.emit(TaskChanged(task_id=task.task_id, state=task.state, polls=watch.polls))
        watch.state = task.state
        if not self._waits(watch):
            return
        if not task.done:
            watch.doubts = 0
            self._reschedule(watch, task)
        elif lacks_result(task):
            slip = ResponseError(
                "the task succeeded and its record has no result - look at it on Kie's site",
                task_id=task.task_id,
                maybe_charged=True,
            )
            self._doubt(watch, slip)
        elif task.failed and may_flip(task) and not watch.looked_again:
            watch.looked_again = True
            self._queue.recheck(watch.task_id, SECOND_LOOK, self._loop.time())
        else:
            self._ended(watch, task)

    def _reschedule(self, watch: Watch, task: Task) -> None:
        if watch.told:  # it was said to have ended: the record is a little late
            self._queue.recheck(watch.task_id, AFTER_A_RING, self._loop.time())
            return
        age = (
            None
            if watch.ours or task.created_at is None
            else max(0.0, self._wall() - task.created_at)
        )
        self._queue.answered(
            watch.task_id, task.state, self._loop.time(), age=age, model=watch.model
        )

    def _ended(self, watch: Watch, task: Task) -> None:
        self._queue.finished(task.task_id, watch.model, watch.learnable(task, self._loop.time()))
        if self._hooks:
            self._hooks.emit(
                TaskChanged(
                    task_id=task.task_id,
                    state=task.state,
                    polls=watch.polls,
                    duration=task.duration,
                    lateness=watch.lateness(task, self._loop.time()),
                )
            )
        if task.succeeded:
            for waiter in watch.waiters():
                waiter.tell(task)
            self._forget(watch)
            return
        said = ": ".join(text for text in (task.fail_code, task.fail_message) if text)
        self._fatal(
            watch,
            TaskFailedError(
                f"the task failed ({said or 'no reason given'}) - failed tasks are documented "
                "as free; correct the input or try it again",
                task=task,
            ),
        )

    def _failed(self, watch: Watch, error: KieError) -> None:
        """Outlive it, unless the API says for certain that waiting is in vain."""
        error.task_id = watch.task_id
        if self._hooks:
            self._hooks.emit(
                RequestRefused(
                    task_id=watch.task_id,
                    route=ROUTE,
                    error=error.message,
                    code=error.code,
                    http_status=error.http_status,
                )
            )
        now = self._loop.time()
        if isinstance(error, RateLimitError):
            self._refusals += 1
            self._limiter.pause(self._retry.pause(error, self._refusals, self._rng))
        if not self._waits(watch):
            return
        if isinstance(error, NotFoundError) and now < watch.unknown_until:
            self._queue.failed(watch.task_id, now)
        elif isinstance(error, AuthenticationError | NotFoundError) and error.code is not None:
            self._fatal(watch, error)
        elif error.retryable:
            self._queue.failed(watch.task_id, now, getattr(error, "retry_after", None))
        else:
            self._doubt(watch, error)

    def _doubt(self, watch: Watch, error: KieError) -> None:
        """Believe it only when it was seen several times in a row."""
        watch.doubts += 1
        if watch.doubts >= LOOKS:
            self._fatal(watch, error)
        else:
            self._queue.failed(watch.task_id, self._loop.time())

    def _fatal(self, watch: Watch, error: Exception) -> None:
        for waiter in watch.waiters():
            waiter.fail(_copied(error))
        self._forget(watch)


def _copied(error: Exception) -> Exception:
    """Return one for each waiter, since a traceback grows on what is raised.

    A class of somebody else may not be made for that, and no future takes StopIteration.
    """
    if isinstance(error, StopIteration):
        return RuntimeError(f"a limiter raised {error!r}")
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - a shared one is better than a waiter who hangs
        return error
    return copied if type(copied) is type(error) else error


def _no_turn() -> Turn | None:
    return None
