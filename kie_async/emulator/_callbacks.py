"""Callbacks: when which bytes are posted where.  Composed here, posted by the server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from kie_async.emulator._messages import blob, compact
from kie_async.emulator._rules import Rule

__all__ = ["Callback", "Ring", "compose", "signature"]

HUGE = 64 * 2**20


@frozen
class Callback:
    """One POST to a callback address.

    Attributes:
        task_id: Its task.
        url: Where it goes.
        headers: With the signature.
        body: The bytes.
        fault: The fault that struck it, or ""; "lost" is not to be posted.
    """

    task_id: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    fault: str = ""

    @property
    def ref(self) -> str:
        """The last part of the path."""
        return urlsplit(self.url).path.rpartition("/")[2]


@frozen(order=True)
class Ring:
    """A callback that is due at a time, and its fault."""

    due: float
    number: int
    task_id: str
    rule: Rule | None = None


def signature(key: str, task_id: str, stamp: str) -> str:
    """Sign as documented: base64 of HMAC-SHA256 over ``taskId + "." + timestamp``."""
    digest = hmac.new(key.encode(), f"{task_id}.{stamp}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def compose(
    ring: Ring, url: str, told: dict[str, Any], *, hmac_key: str, unix: float
) -> list[Callback]:
    """Return what is posted when *ring* is due: none, one, or several.

    Args:
        ring: The callback and its fault.
        url: Where it goes.
        told: The task's record.
        hmac_key: Signs.
        unix: The wall clock, in Unix seconds.
    """
    rule = ring.rule
    fault = str(rule.action) if rule is not None else ""
    stamp = str(int(unix - (rule.seconds if rule is not None and fault == "stale" else 0)))
    key = "another key" if fault == "forged" else hmac_key
    headers = {"Content-Type": "application/json"}
    if fault != "unsigned":
        headers["X-Webhook-Timestamp"] = stamp
        headers["X-Webhook-Signature"] = signature(key, ring.task_id, stamp)
    made = Callback(ring.task_id, url, headers, _body(told, rule, fault), fault)
    if fault == "double" and rule is not None:
        return [made] * rule.copies
    if fault == "backwards":
        older = {**told, "state": "generating", "resultJson": None, "response": None}
        return [made, Callback(ring.task_id, url, headers, _framed(older), fault)]
    return [made]


def _body(told: dict[str, Any], rule: Rule | None, fault: str) -> bytes:
    if fault == "garbage":
        return b"\x00{not json"
    if fault == "foreign":
        urls = {"resultUrls": ["https://attacker.example/x.png"]}
        told = {**told, "resultJson": compact(urls), "response": urls}
    if fault == "mixed":
        return blob({**json.loads(_framed(told)), "taskId": "0" * 32})
    if fault == "huge" and rule is not None:
        return _framed(told)[:-1] + b',"x":"' + b"x" * (rule.size or HUGE) + b'"}'
    return _framed(told)


def _framed(told: Mapping[str, Any]) -> bytes:
    """Wrap a record in the frame of market models, in its newest wording (2026-08)."""
    if told["state"] == "fail":
        return blob({"code": 501, "msg": "Playground task failed.", "data": told})
    msg = "Playground task completed successfully."
    return blob({"code": 200, "msg": msg, "data": told})
