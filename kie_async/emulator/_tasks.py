"""Tasks, and the records that recordInfo tells of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define

from kie_async.emulator._messages import compact

__all__ = ["EmulatedTask", "double_encoded", "record"]


@define
class EmulatedTask:
    """A task, with what recordInfo tells of it.  Times are the emulator's seconds.

    Attributes:
        ends: When it ends; infinite for one that never does.
        fails: Code and text, if it fails.
        recovers: When its failure turns into a success; infinite for never.
        visible: When recordInfo begins to know it.
        busy: The state that it shows until it ends.
        outputs: How many files it makes.
        objects: True if it makes a ``resultObject`` instead.
        settled: True when its money was settled: taken for good, or given back.
    """

    task_id: str
    model: str
    param: str
    created: float
    ends: float
    credits: float
    fails: tuple[str, str] | None = None
    source_id: str | None = None
    callback_url: str | None = None
    settled: bool = False
    recovers: float = math.inf
    visible: float = -math.inf
    busy: str = "waiting"
    outputs: int = 1
    objects: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The input that it was made with."""
        found: dict[str, Any] = json.loads(json.loads(self.param)["input"])
        return found

    def state(self, now: float) -> str:
        """Return its state at *now*: Grok models go straight from waiting to the end."""
        if now < self.ends:
            return self.busy
        return "fail" if self.fails and now < self.recovers else "success"


def double_encoded(model: str, given: Mapping[str, Any], callback: str | None) -> str:
    """Write the parameters as live records hold them: JSON inside JSON."""
    outer: dict[str, Any] = {"input": compact(given), "model": model}
    if callback:
        outer["callBackUrl"] = callback
    return compact(outer)


def record(
    task: EmulatedTask, now: float, urls: Sequence[str], *, epoch: float, speed: float
) -> dict[str, Any]:
    """Return a record with the fields that were captured until 2026-09.

    Args:
        task: The task.
        now: The emulator's time.
        urls: Where its files are.
        epoch: Unix seconds at time 0.
        speed: The emulator's seconds in one of the wall clock, which the stamps follow.
    """
    state = task.state(now)
    over = state in {"success", "fail"}
    ended = task.recovers if state == "success" and task.fails else task.ends
    result = ""
    if state == "success":
        result = compact({"resultObject": _map(urls)} if task.objects else {"resultUrls": urls})
    failed = task.fails if state == "fail" and task.fails else (None, None)
    data: dict[str, Any] = {
        "taskId": task.task_id,
        "model": task.model,
        "state": state,
        "param": task.param,
        "resultJson": result,
        "failCode": failed[0],
        "failMsg": failed[1],
        "costTime": round((ended - task.created) / speed) if over else None,
        "completeTime": int((epoch + ended / speed) * 1000) if over else None,
        "createTime": int((epoch + task.created / speed) * 1000),
        "creditsConsumed": 0.0 if state == "fail" else task.credits,
        "operationType": task.model,
        "successFlag": {"success": 1, "fail": 3}.get(state, 0),
        "paramJson": task.param,
    }
    if result:
        data["response"] = json.loads(result)
    return data


def _map(urls: Sequence[str]) -> list[dict[str, Any]]:
    """Return the masks of segment-map, as captured 2026-08-28."""
    return [{"maskUrl": url, "name": f"part {n}", "index": n} for n, url in enumerate(urls)]
