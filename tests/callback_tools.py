"""A small Kie for tests of callbacks: it signs and posts, truly or not."""

from __future__ import annotations

import base64
import hmac
import json
from typing import Any

from kie_async.callbacks import CallbackReceiver, Reply

KEY = "canary-hmac-55b0e8aa17"
NOW = 1_790_000_000.0


class Clock:
    """A wall clock that a test moves."""

    def __init__(self, now: float = NOW) -> None:
        """Start at *now*."""
        self.now = now

    def __call__(self) -> float:
        """Return Unix seconds."""
        return self.now


def signature(task_id: str, stamp: str, key: str = KEY) -> str:
    """Sign as Kie documents it."""
    digest = hmac.new(key.encode(), f"{task_id}.{stamp}".encode(), "sha256").digest()
    return base64.b64encode(digest).decode()


def signed(task_id: str, at: float = NOW, key: str = KEY, **more: str) -> dict[str, str]:
    """Return the headers of a true callback."""
    stamp = str(int(at))
    return {
        "Content-Type": "application/json",
        "X-Webhook-Timestamp": stamp,
        "X-Webhook-Signature": signature(task_id, stamp, key),
        **more,
    }


def content(task_id: str, state: str = "success", **more: Any) -> bytes:
    """Return the documented body of a market model's callback."""
    data = {
        "taskId": task_id,
        "model": "grok-imagine/upscale",
        "state": state,
        "resultJson": '{"resultUrls":["https://files.example/a.png"]}',
        "costTime": 89,
    }
    return json.dumps({"code": 200, "msg": "done", "data": data, **more}).encode()


def receiver(**options: Any) -> CallbackReceiver:
    """Return a receiver with the test's key and a clock that stands still."""
    options.setdefault("clock", Clock())
    options.setdefault("public_url", "https://me.example")
    keys = options.pop("keys", (KEY,))
    return CallbackReceiver(keys, **options)


def post(
    to: CallbackReceiver,
    task_id: str,
    *,
    path: str = "/kie/cb",
    at: float = NOW,
    state: str = "success",
) -> Reply:
    """Post a true callback straight to the receiver."""
    return to.handle("POST", path, signed(task_id, at), content(task_id, state))
