"""Doubts that a callback settles: the create whose answer was lost rings all the same.

The callback is only a doorbell.  What settles the doubt is ``recordInfo``: the task must
be ours, and its own callback URL must end in the attempt's reference.  Of a record that
names no callback URL as much is asked as by `reconcile` without any: the same input, and
created when the attempt was under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self

from kie_async.bulk._reconcile import reconcile
from kie_async.bulk._record import Tell, note_double_spend
from kie_async.errors import KieError
from kie_async.instrumentation import logger
from kie_async.journal import Item, JournalStore, Verdict
from kie_async.models import Task

__all__ = ["Claims", "Receiver"]


class Receiver(Protocol):
    """What is needed of a callback receiver."""

    def connect(self, ring: Callable[[Any], None]) -> Callable[[], None]:
        """Call *ring* in this loop for each callback; returns what ends that."""


class Claims:
    """Listens while a run is on; use it as a context manager."""

    def __init__(
        self,
        receiver: Receiver | None,
        journal: JournalStore,
        look: Callable[[str], Awaitable[Task]],
        group: asyncio.TaskGroup,
        answered: Callable[[str], Awaitable[None]],
        collect: Callable[[Item], None],
        tell: Tell,
    ) -> None:
        """Listen for one run.

        *answered* returns when no create of the source id is under way in this run;
        *collect* is given each item whose doubt was settled: it is `sent` now.
        """
        self._receiver = receiver
        self._journal = journal
        self._look = look
        self._group = group
        self._answered = answered
        self._collect = collect
        self._tell = tell
        self._disconnect: Callable[[], None] | None = None
        self._changed = asyncio.Event()
        self._asking = 0
        self._left = False

    def __enter__(self) -> Self:
        """Begin to listen, if there is a receiver."""
        if self._receiver is not None:
            self._disconnect = self._receiver.connect(self._rung)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        if self._disconnect is not None:
            self._disconnect()

    def _rung(self, event: Any) -> None:
        if event.reference:
            self._asking += 1
            self._group.create_task(self._claim(event.task_id, event.reference))

    async def _claim(self, task_id: str, reference: str) -> None:
        """Settle the doubt that this callback is about, if it is about one."""
        try:
            attempt = await self._journal.find_by_ref(reference)
            if attempt is not None and attempt.verdict is None:
                # The callback overtook the answer, which may yet come and tell the id.
                await self._answered(attempt.source_id)
                attempt = await self._journal.find_by_ref(reference)
            if attempt is None or attempt.task_id == task_id:
                return
            if attempt.verdict not in (Verdict.IN_DOUBT, Verdict.REPORTED):
                return
            async for finding in reconcile(self._journal, self._look, [task_id]):
                item = await self._journal.get(attempt.source_id)
                if finding.verdict == "double":
                    await note_double_spend(self._journal, self._tell, attempt.source_id, task_id)
                elif finding.verdict == "settled" and item is not None:
                    self._collect(item)
        except KieError as error:
            logger.warning("a doubt could not be claimed by task %s: %s", task_id, error)
        finally:
            self._asking -= 1
            self._changed.set()

    async def linger(self, idle: Callable[[], bool], seconds: float) -> None:
        """Wait until no doubt is left, or for *seconds* after everything else has ended.

        What a claim brings is waited for, too, and the seconds begin anew behind it.
        """
        if self._receiver is None:
            return
        time = asyncio.get_running_loop().time
        until = time() + seconds
        while True:
            self._changed.clear()
            if self._asking or not idle():
                until = time() + seconds  # the journal counts all rows: not asked meanwhile
            elif self._left or time() >= until or not (await self._journal.counts()).in_doubt:
                return
            try:
                async with asyncio.timeout(1.0):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def leave(self) -> None:
        """Let nobody linger: the run is given up."""
        self._left = True
        self._changed.set()
