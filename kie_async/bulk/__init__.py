"""Bulk: a list of ids, each upscaled exactly once."""

from __future__ import annotations

from kie_async.bulk._audit import Audit, audit, note_balance
from kie_async.bulk._budget import UPSCALE_PRICES, Budget, expected_price
from kie_async.bulk._items import BulkItem, Source
from kie_async.bulk._job import Progress, Save
from kie_async.bulk._reconcile import Finding, reconcile
from kie_async.bulk._run import BulkRun, Plan

__all__ = [
    "UPSCALE_PRICES",
    "Audit",
    "Budget",
    "BulkItem",
    "BulkRun",
    "Finding",
    "Plan",
    "Progress",
    "Save",
    "Source",
    "audit",
    "expected_price",
    "note_balance",
    "reconcile",
]
