"""After a run: does what was spent agree with what is on record?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from kie_async.bulk._budget import expected_price
from kie_async.bulk._record import DOUBLE_SPENDS
from kie_async.journal import ItemState, JournalStore

__all__ = ["Audit", "audit", "note_balance"]

BALANCES = "balances"


@frozen(kw_only=True)
class Audit:
    """Credits of one stretch between two looks at the balance.

    ``unexplained`` is what left the account and is on no task of the journal: doubts that
    were paid (``doubts_at_most``), somebody else's use of the account, or refunds that
    have not come yet; ``double_spends`` are tasks of which one source has one too many.
    ``unexplained`` is None if a balance is missing or a task still runs.
    """

    before: float | None
    after: float | None
    explained: float
    running: int
    doubts: int
    doubts_at_most: float
    unexplained: float | None
    double_spends: tuple[dict[str, str], ...] = ()


async def note_balance(journal: JournalStore, balance: float, *, first: bool) -> None:
    """Remember the balance before the first create, and the latest one."""
    noted = (await journal.meta()).get(BALANCES) or {}
    if first and "before" in noted:
        return
    noted["before" if first else "after"] = balance
    await journal.set_meta(BALANCES, noted)


async def audit(journal: JournalStore) -> Audit:
    """Compare the credits spent with the credits explained.

    Exact only if nobody else uses the account meanwhile; it never decides anything.
    """
    meta = await journal.meta()
    noted = meta.get(BALANCES) or {}
    before, after = noted.get("before"), noted.get("after")
    explained = 0.0
    unknown = 0
    async for item in journal.iterate(ItemState.DONE):
        explained += item.credits or 0.0
        unknown += item.credits is None
    counts = await journal.counts()
    doubts = 0.0
    async for doubt in journal.doubts():
        resolution = doubt.item.input.get("resolution")
        doubts += expected_price(resolution if isinstance(resolution, str) else None)
    unexplained = None
    if before is not None and after is not None and not unknown and not counts.sent:
        unexplained = before - after - explained
    return Audit(
        before=before,
        after=after,
        explained=explained,
        running=counts.sent,
        doubts=counts.in_doubt,
        doubts_at_most=doubts,
        unexplained=unexplained,
        double_spends=_double_spends(meta),
    )


def _double_spends(meta: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    kept = list(meta.get(DOUBLE_SPENDS) or ())  # earlier versions had one list
    kept += [told for name, told in meta.items() if name.startswith(f"{DOUBLE_SPENDS}/")]
    return tuple({one["task_id"]: one for one in kept}.values())
