"""Bulk: a list of ids, each upscaled exactly once."""

from __future__ import annotations

from kie_async.bulk._audit import Audit, audit, note_balance
from kie_async.bulk._budget import UPSCALE_PRICES, Budget, expected_price
from kie_async.bulk._items import BulkItem, Source
from kie_async.bulk._job import Caller, Job, Progress, Save, Tools, give_up
from kie_async.bulk._plan import Plan
from kie_async.bulk._reading import planned_batches
from kie_async.bulk._reconcile import Finding, reconcile
from kie_async.bulk._record import NewCallback
from kie_async.bulk._run import BulkRun

__all__ = [
    "UPSCALE_PRICES",
    "Audit",
    "Budget",
    "BulkItem",
    "BulkRun",
    "Caller",
    "Finding",
    "Job",
    "NewCallback",
    "Plan",
    "Progress",
    "Save",
    "Source",
    "Tools",
    "audit",
    "expected_price",
    "give_up",
    "note_balance",
    "planned_batches",
    "reconcile",
]
