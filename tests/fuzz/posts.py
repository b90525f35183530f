"""Mutated callbacks to the receiver, by its two ways in; and a bad receiver."""

from __future__ import annotations

import json
import random
import time
from typing import Any

from kie_async import CallbackReceiver
from tests.callback_tools import KEY, NOW, content, receiver, signature, signed
from tests.fuzz.mutate import mutated
from tests.fuzz.report import Report

__all__ = ["post_many"]

Post = tuple[str, str, dict[str, str], bytes]
WARM = 2000


def made(rng: random.Random, to: CallbackReceiver) -> Post:
    """Return one callback: true in most of its parts."""
    task_id = f"t{rng.randrange(1000)}"
    path = "/kie/cb"
    if rng.random() < 0.3:
        path += "/" + to.new_callback_url().reference
    headers = signed(task_id, at=NOW + rng.choice((0, 0, 0, -299, 299, -301, 301)))
    body = content(task_id, rng.choice(("success", "fail", "waiting")))
    method = "POST"
    for _ in range(rng.choice((0, 1, 1, 2))):
        match rng.randrange(6):
            case 0 | 1:
                body = mutated(rng, (body,))
            case 2:
                name = rng.choice(list(headers))
                headers[name] = mutated(rng, (headers[name].encode(),)).decode("latin-1")
            case 3:
                for name in [*headers] if rng.random() < 0.5 else [rng.choice([*headers])]:
                    del headers[name]
                headers["Content-Type"] = "application/json"
            case 4:
                headers[rng.choice(ODD)] = rng.choice(("", "gzip", "-1", "9" * 30, "x" * 9000))
            case _:
                path = mutated(rng, (path.encode(),)).decode("latin-1")
                method = rng.choice(("POST", "POST", "GET", "\x00"))
    return method, path, headers, body


ODD = ("Content-Length", "Content-Encoding", "Content-Type", "X-WEBHOOK-SIGNATURE", "\x00")


def unproven(event: Any, post: Post) -> bool:
    """True for an event that was not signed for its task, now, with our key."""
    named = {name.lower(): value for name, value in post[2].items()}
    stamp = named.get("x-webhook-timestamp", "")
    good = named.get("x-webhook-signature") == signature(event.task_id, stamp, KEY)
    return not (good and event.signed and abs(int(stamp) - NOW) <= 300)


async def by_asgi(to: CallbackReceiver, post: Post) -> int:
    """Post as an ASGI server does, in pieces; return the status."""
    method, path, headers, body = post
    half = len(body) // 2
    pieces = [body[half:], body[:half]]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()],
    }
    await to.asgi(scope, receive, send)
    json.loads(sent[1]["body"])
    return int(sent[0]["status"])


async def post_many(
    posts: int, *, seed: int = 0, to: CallbackReceiver | None = None, warm: int = WARM
) -> Report:
    """Post *posts* callbacks, and report what came of them."""
    report, to = Report(patience=1.0), to or receiver(max_pending=2000)
    for number in range(posts):
        post = made(random.Random(f"{seed} {number}"), to)
        began = time.monotonic()
        try:
            if number % 4 == 0:
                status = await by_asgi(to, post)
            else:
                reply = to.handle(*post)
                status = reply.status
                if reply.event is not None and unproven(reply.event, post):
                    report.wrong.append(f"post {number} of seed {seed} was let through")
        except Exception as error:  # noqa: BLE001 - reason: this is what is looked for
            report.escape(error, time.monotonic() - began)
        else:
            report.count(str(status), time.monotonic() - began)
        if number >= warm and number % warm == 0:
            report.weigh()
    report.weigh()
    return report
