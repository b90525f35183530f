"""The journal of a bulk run: durable before it is sent, durable before it is used.

`Journal` keeps it in one SQLite file; `JournalStore` is what any journal offers.  Nothing
here sends a request.
"""

from __future__ import annotations

from kie_async.journal._contract import JournalStore
from kie_async.journal._journal import Journal
from kie_async.journal._sql import Connection
from kie_async.journal._values import (
    Attempt,
    Counts,
    Decision,
    Doubt,
    Item,
    ItemState,
    PlannedItem,
    Recovery,
    Verdict,
)

__all__ = [
    "Attempt",
    "Connection",
    "Counts",
    "Decision",
    "Doubt",
    "Item",
    "ItemState",
    "Journal",
    "JournalStore",
    "PlannedItem",
    "Recovery",
    "Verdict",
]
