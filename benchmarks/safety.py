"""What each promise costs, switched on alone; and what a bulk run adds to an item.

    python benchmarks/safety.py            # a minute or two
    python benchmarks/safety.py --smoke

The base is this client without its safety: a create on a kept-alive connection, made in
the caller's own asyncio task, with no hook.  Each line switches one thing on.  The fresh
connection is measured over real sockets (plain HTTP: with TLS its handshake costs a
millisecond more on both sides together); the others against an API in this process, which
answers at once, so that microseconds can be seen.  Figures are microseconds of CPU a
task, medians of interleaved rounds (A B B A) with the range of the median.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, cast

if not __package__:  # run by its path: the repository is not on the path then
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._measure import Ratio, Report, cpu_of, options, ratio_of, table, versions
from benchmarks._stub import Stub
from benchmarks.bulk import InstantAPI
from kie_async import KieSession, PollSchedule
from kie_async.integrations import LoggingHook
from kie_async.journal import Counts, Item, ItemState, Journal, JournalStore, PlannedItem, Recovery
from kie_async.limiter import Unlimited
from kie_async.session._creates import Creates, Order
from kie_async.transport import _wire

AT_ONCE = 100
ITEM = 15.0
"""Microseconds that a bulk run may add to an item, its journal apart."""
RECORD = 30.0
"""Microseconds for a durable record; an item has three."""
RECORDS = 3
MODEL = "grok-imagine/upscale"

NOTHING: dict[str, Any] = {
    **dict.fromkeys(("output_name", "task_id", "reason", "error_code", "error_message")),
    **dict.fromkeys(("credits", "created_at", "completed_at")),
    **dict.fromkeys(("attempts", "polls", "maybe_charged"), 0),
    **dict.fromkeys(("planned_at", "updated_at"), 0.0),
    "key": "",
    "files": (),
}
"""The rest of a planned row."""

Block = Callable[[], Awaitable[None]]


class NoJournal:
    """Keeps a run's rows in memory and nothing on disk: what a run costs without one."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: list[Item] = []

    async def plan(self, items: Iterable[PlannedItem]) -> list[str]:
        """Take all as new."""
        first = len(self._rows)
        self._rows += [
            Item(
                seq=first + number,
                source_id=item.source_id,
                model=item.model,
                input=item.input,
                state=ItemState.PLANNED,
                **NOTHING,
            )
            for number, item in enumerate(items, 1)
        ]
        return [item.source_id for item in self._rows[first:]]

    async def page(self, _state: ItemState, *, after: int = 0, limit: int = 500) -> list[Item]:
        """Return what was planned behind *after*."""
        return self._rows[after : after + limit]

    async def iterate(self, _state: ItemState, **_: object) -> AsyncIterator[Item]:
        """Know of no earlier run."""
        for item in ():
            yield item

    async def recover(self) -> Recovery:
        """Know of no earlier run."""
        return Recovery(doubts=0, counts=Counts())

    async def begin_sending(self, _source_id: str, *, ref: str | None = None) -> int:
        """Forget it."""
        return 1

    async def record_created(self, _source_id: str, _attempt: int, _task_id: str) -> bool:
        """Forget it."""
        return True

    async def record_done(
        self, _source_id: str, _task: object, *, polls: int | None = None
    ) -> None:
        """Forget it."""


async def opened(stack: AsyncExitStack, url: str, **more: Any) -> KieSession:
    """Open a session without limits."""
    quick = PollSchedule(first_gap=0.001, min_gap=0.001, jitter=0.0)
    kie = KieSession(
        "benchmark-key",
        base_url=url,
        limiter=Unlimited(),
        poll_limiter=Unlimited(),
        max_concurrency=2 * AT_ONCE,
        polling=quick,
        **more,
    )
    return await stack.enter_async_context(kie)


async def instant(stack: AsyncExitStack, *, shield: bool = False, **more: Any) -> KieSession:
    """Open one whose API is in this process; without its own task for a create, as asked."""
    kie = await opened(stack, "http://127.0.0.1:9", **more)
    kie._transport.send = InstantAPI().send  # type: ignore[method-assign]
    if not shield:
        creates = kie._engine.opened().creates
        creates._attempt = lambda order: unshielded(creates, order)  # type: ignore[method-assign]
    return kie


async def unshielded(creates: Creates, order: Order) -> str:
    """Create in the caller's own task: whoever is cancelled loses a paid id."""
    if not creates._slots.try_take():
        await creates._slots.take()
    turn, _ = await creates._lane.enter()
    order.in_flight = True
    answer = await creates._attempted(order, turn)
    if answer.error is not None:
        raise answer.error
    assert answer.task_id is not None
    return answer.task_id


def tasks(kie: KieSession, count: int, *, run: bool = False) -> Block:
    """Return what creates *count* tasks and waits for each.

    It looks at once, by the id alone; `run`, as a bulk run, knows when it created the task
    and plans the first look by that.
    """

    async def block() -> None:
        left = iter(range(count))

        async def worker() -> None:
            for number in left:
                wanted = {"task_id": f"{number:032x}"}
                if run:
                    await kie.run(MODEL, wanted)
                else:
                    await kie.wait_for_result(await kie.create_task(MODEL, wanted))

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(worker())

    return block


def bulk(kie: KieSession, count: int, folder: Path | None) -> Block:
    """Return what does the same as a run; with a journal if there is a *folder*."""

    async def run(journal: JournalStore) -> None:
        ids = (f"{number:032x}" for number in range(count))
        async for _ in kie.upscale_many(ids, journal=cast("Journal", journal), in_flight=AT_ONCE):
            pass

    async def block() -> None:
        if folder is None:
            await run(cast("JournalStore", NoJournal()))
            return
        with tempfile.TemporaryDirectory(dir=folder) as own:
            async with Journal(Path(own) / "run.db") as journal:
                await run(journal)

    return block


def without_fresh(kie: KieSession, block: Block) -> Block:
    """Return *block* with creates on the connections that polls keep alive."""
    wire = kie._transport._opened.wire  # type: ignore[union-attr]
    own, body = wire._creates, _wire.Body

    async def wrapped() -> None:
        wire._creates = wire._reads
        _wire.Body = lambda value, last=False: body(value)  # type: ignore[assignment,misc]
        try:
            await block()
        finally:
            wire._creates, _wire.Body = own, body  # type: ignore[misc]

    return wrapped


async def added(base: Block, other: Block, count: int, rounds: int) -> Ratio:
    """Return the microseconds that *other* takes more than *base*, for each task."""
    for block in (base, other):
        await block()
    found = []
    for _ in range(rounds):
        outer = await cpu_of(base)
        inner = await cpu_of(other) + await cpu_of(other)
        outer += await cpu_of(base)
        found.append((inner - outer) / (2 * count) * 1e6)
    return ratio_of(found)


def quiet_logger() -> logging.Logger:
    """Return a logger whose records go nowhere, as far as the handler."""
    logger = logging.getLogger("benchmarks.safety")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())
    return logger


def telemetry() -> Any | None:
    """Return the hook for OpenTelemetry if its API is there; without an SDK it is a no-op."""
    try:
        from kie_async.integrations import OpenTelemetryHook

        return OpenTelemetryHook()
    except ImportError:
        return None


async def measured(url: str, count: int, rounds: int, folder: Path) -> dict[str, Ratio]:
    """Measure each thing alone."""
    found: dict[str, Ratio] = {}
    async with AsyncExitStack() as stack:
        kie = await opened(stack, url)
        few = max(AT_ONCE, count // 4)
        kept = without_fresh(kie, tasks(kie, few))
        found["a fresh connection for each create"] = await added(
            kept, tasks(kie, few), few, rounds
        )
        bare = tasks(await instant(stack), count)
        found["the base against itself"] = await added(bare, bare, count, rounds)
        shielded = await instant(stack, shield=True)
        found["the create as a section of its own (shield, drain)"] = await added(
            bare, tasks(shielded, count), count, rounds
        )
        hooks = {
            "a hook that does nothing": lambda _event: None,
            "LoggingHook, to a handler that drops it": LoggingHook(quiet_logger()),
            "OpenTelemetryHook, without an SDK": telemetry(),
        }
        for name, hook in hooks.items():
            if hook is not None:
                hooked = await instant(stack, hooks=[hook])
                found[name] = await added(bare, tasks(hooked, count), count, rounds)
        run = bulk(shielded, count, None)
        found[BULK] = await added(tasks(shielded, count), run, count, rounds)
        found["the same, beside `kie.run`"] = await added(
            tasks(shielded, count, run=True), run, count, rounds
        )
        found[JOURNAL] = await added(run, bulk(shielded, count, folder), count, rounds)
    return found


BULK = "a bulk run, its journal apart"
JOURNAL = "the journal of a bulk run: three durable records"


def main() -> int:
    """Measure, print, and return the exit code."""
    asked = options(__doc__)
    count, rounds = (AT_ONCE, 1) if asked.smoke else (2000, 15)
    report, rows = Report(), []
    with Stub() as stub, tempfile.TemporaryDirectory(prefix="kie-safety-") as folder:
        found = asyncio.run(measured(stub.url, count, rounds, Path(folder)))
    goals = {BULK: ITEM, JOURNAL: RECORDS * RECORD}
    for name, cost in found.items():
        goal = report.judge(name, cost.median, goals[name]) if name in goals else ""
        told = f"{cost.median:.1f} ({cost.low:.1f} to {cost.high:.1f})"
        rows.append([name, told, goal])
    print(table(["switched on alone", "µs of CPU a task", "goal"], rows))
    print(versions("kie_async", "aiohttp"))
    return report.end(smoke=asked.smoke)


if __name__ == "__main__":
    sys.exit(main())
