"""Bulk runs against a simple model: any sequence of runs, refusals, doubts and decisions."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import define
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kie_async import InsufficientCreditsError
from kie_async.bulk import reconcile
from kie_async.journal import Journal
from kie_async.testing import VirtualKie
from tests.clock import Held, JumpingLoop
from tests.examples import play

NAMES = [f"source-{n}" for n in range(6)]
FATES: dict[str, tuple[dict[str, Any], str, int]] = {
    "well": ({}, "done", 1),
    "lost": ({"route": "createTask", "action": "rst", "when": "after"}, "in_doubt", 1),
    "nothing came of it": ({"route": "createTask", "action": "fin"}, "in_doubt", 0),
    "refused": ({"route": "createTask", "action": "envelope", "code": 422}, "failed", 0),
    "too many": ({"route": "createTask", "action": "too-many"}, "done", 1),
    "reported": ({"route": "createTask", "action": "envelope", "code": 500}, "done", 1),
    "fails": ({"route": "task", "action": "fail"}, "failed", 1),
}
"""What befalls an item's next create: the fault, the state it leaves, what is paid."""


@define
class Known:
    """What the model knows of one id: where it stands, and what was paid for it."""

    fate: str
    state: str = "planned"
    paid: int = 0


class BulkMachine(RuleBasedStateMachine):
    """Each item meets its fate once; a stopped run leaves what it has not begun planned."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = JumpingLoop()
        self.folder = Path(tempfile.mkdtemp(prefix="kie-bulk-"))
        self.kie = VirtualKie(durations=lambda _rng: 5.0, credits=1e6)
        self.model: dict[str, Known] = {}

    def within(self, work: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        """Do *work* with the journal opened anew, and a new session: a restart each time."""

        async def run() -> Any:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, JumpingLoop)
            journal = Journal(self.folder / "run.db", clock=lambda: self.kie.api.unix(loop.time()))
            with loop.held():
                await journal.__aenter__()
            try:
                async with self.kie.session() as session:
                    return await work(Held(journal), session)
            finally:
                with loop.held():
                    await journal.__aexit__(None, None, None)

        return self.loop.run_until_complete(run())

    def inject(self, name: str, fate: str) -> None:
        """Let *fate* befall the next create of *name*."""
        fault = FATES[fate][0]
        if fault:
            match = name if fault["route"] == "task" else f'"{name}"'
            self.kie.inject(**fault, match=match, times=1)

    @rule(names=st.sets(st.sampled_from(NAMES), min_size=1), fate=st.sampled_from([*FATES]))
    def hear_of(self, names: set[str], fate: str) -> None:
        for name in sorted(names - set(self.model)):
            self.model[name] = Known(fate)
            self.inject(name, fate)

    def upscaled(self, session: Any, journal: Any) -> Any:
        return session.upscale_many(
            sorted(self.model), journal=journal, callback_url="https://h/cb", in_flight=2
        )

    @precondition(lambda self: self.model)
    @rule()
    def run_all(self) -> None:
        async def work(journal: Any, session: Any) -> None:
            async for _ in self.upscaled(session, journal):
                pass

        self.within(work)
        for known in self.model.values():
            self.met(known)

    def met(self, known: Known) -> None:
        """Write into the model what a run does to an item."""
        if known.state == "planned":
            _, known.state, paid = FATES[known.fate]
            known.paid += paid
        elif known.state == "sent":
            known.state = "failed" if known.fate == "fails" else "done"

    @precondition(lambda self: self.model)
    @rule(stop=st.booleans(), taken=st.integers(0, 3))
    def run_some(self, stop: bool, taken: int) -> None:
        """Stop a run by an empty account, or leave it after some outcomes."""

        async def work(journal: Any, session: Any) -> None:
            run = self.upscaled(session, journal)
            number = 0
            async for _ in run:
                number += 1
                if number > taken:
                    break
            await run.aclose()

        broke = self.kie.inject(route="createTask", action="envelope", code=402) if stop else None
        if broke is not None:  # the first that fits strikes: before the items' own faults
            rules = self.kie.api.rules
            rules.insert(0, rules.pop())
        with contextlib.suppress(*([InsufficientCreditsError] if stop else [])):
            self.within(work)
        if broke is not None:
            self.kie.api.rules.remove(broke)
        self.look_what_began()

    def look_what_began(self) -> None:
        """After half a run: what it has begun has met its fate, or is on its way to it."""
        for name, row in self.rows().items():
            known = self.model[name]
            if row["state"] == "planned":
                assert known.state == "planned"
            elif row["state"] == "sent":
                known.paid += known.state == "planned"
                known.state = "sent"
            else:
                self.met(known)

    def rows(self) -> dict[str, dict[str, Any]]:
        async def work(journal: Any, _session: Any) -> dict[str, dict[str, Any]]:
            return {row["source_id"]: row async for row in journal.export()}

        found: dict[str, dict[str, Any]] = self.within(work)
        return found

    def doubts(self) -> list[str]:
        return sorted(name for name, known in self.model.items() if known.state == "in_doubt")

    @precondition(lambda self: self.doubts())
    @rule()
    def reconcile(self) -> None:
        log = [create.task_id for create in self.kie.books.creates]

        async def work(journal: Any, session: Any) -> None:
            async for _ in reconcile(journal, session.get_task, log):
                pass

        self.within(work)
        for name in self.doubts():
            if self.model[name].paid:
                self.model[name].state = "sent"

    @precondition(lambda self: self.doubts())
    @rule(again=st.sampled_from(["well", "refused", "fails"]))
    def decide(self, again: str) -> None:
        """The user says of a doubt that nothing came of it; true only if nothing did."""
        name = self.doubts()[0]
        if self.model[name].paid:
            return

        async def work(journal: Any, _session: Any) -> None:
            await journal.resolve(name, not_created=True, by="me")

        self.within(work)
        self.model[name].state, self.model[name].fate = "planned", again
        self.inject(name, again)

    @invariant()
    def the_journal_and_the_books_agree_with_the_model(self) -> None:
        if not self.model:
            return
        rows = self.rows()
        for name, known in self.model.items():
            state = rows[name]["state"] if name in rows else "planned"
            assert state == known.state, (name, known)
            assert self.kie.books.paid(name) == known.paid <= 1, (name, known)

    def teardown(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


BulkMachine.TestCase.settings = play(8, 8)
TestAnySequenceOfRuns = BulkMachine.TestCase


def test_the_model_catches_a_client_that_creates_again():
    """One that takes a lost answer for none: its doubts go back to planned."""
    machine = BulkMachine()
    try:
        machine.hear_of({"source-1"}, "lost")
        machine.run_all()

        async def forget(journal: Any, _session: Any) -> None:
            await journal.resolve("source-1", recreate=True)

        machine.within(forget)
        machine.model["source-1"].state = "planned"
        machine.run_all()

        with pytest.raises(AssertionError):
            machine.the_journal_and_the_books_agree_with_the_model()
    finally:
        machine.teardown()
