"""The checker of the transport rows must fail on bad clients: here are some.

Each is what people write: post, and on trouble post again; or raise and forget; or read
"400" where the library means "I could not parse this".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kie_async.errors import KieConnectionError
from kie_async.journal import Journal, PlannedItem
from tests.conftest import CANARY_KEY
from tests.faults.world_t import UPSCALE, Account, account_of, clean, violations, world

pytestmark = pytest.mark.asyncio

Post = Callable[[], Awaitable[str]]
Client = Callable[[Post, str, Account], Awaitable[None]]


async def honest(post: Post, source: str, told: Account) -> None:
    """Post once; what is not known is said to be unknown."""
    try:
        told.made(source, await post())
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        told.doubted(source)


async def stubborn(post: Post, source: str, told: Account) -> None:
    """Post until it works."""
    for _ in range(3):
        try:
            return told.made(source, await post())
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
            told.doubted(source)
    return None


async def forgetful(post: Post, source: str, told: Account) -> None:
    """Let the caller see the exception, and forget the task."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        told.made(source, await post())


async def trusting(post: Post, source: str, told: Account) -> None:
    """Take a status of 400 for a refusal: the client library says so of bad HTTP, too."""
    try:
        told.made(source, await post())
    except aiohttp.ClientResponseError as error:
        if error.status != 400:
            told.doubted(source)
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError):
        told.doubted(source)


async def greedy(post: Post, source: str, told: Account) -> None:
    """Take what looks like an id out of what came."""
    try:
        told.made(source, await post())
    except aiohttp.ClientPayloadError as error:
        told.made(source, str(error.args[-1]))


CASES: list[tuple[Client, dict[str, Any], str | None]] = [
    (honest, {"action": "fin", "when": "after"}, None),
    (honest, {"action": "extra"}, None),
    (stubborn, {"action": "fin", "when": "after"}, "I1"),
    (stubborn, {"action": "rst", "when": "after"}, "I1"),
    (stubborn, {"action": "half-headers", "when": "after"}, "I1"),
    (stubborn, {"action": "html", "status": 502, "when": "after"}, "I1"),
    (forgetful, {"action": "fin", "when": "after"}, "I2"),
    (forgetful, {"action": "silence", "when": "after"}, "I2"),
    (trusting, {"action": "extra"}, "I2"),
    (greedy, {"action": "cut", "cut": 65}, "I2"),
]


@pytest.mark.parametrize(
    ("client", "fault", "caught"), CASES, ids=[f"{c.__name__}-{f['action']}" for c, f, _ in CASES]
)
async def test_control_T_a_bad_client_is_caught(
    client: Client, fault: dict[str, Any], caught: str | None, tmp_path: Path
):
    """Those who resend, forget, misread or guess; the honest one passes."""
    told = Account()
    async with world(tmp_path, gzip_answers=False) as w:
        w.strike("source-a", **fault)
        headers = {"Authorization": f"Bearer {CANARY_KEY}"}
        patience = aiohttp.ClientTimeout(total=0.5)
        async with aiohttp.ClientSession(w.url, headers=headers, timeout=patience) as http:

            async def post() -> str:
                sent = {"model": UPSCALE, "input": {"task_id": "source-a"}}
                async with http.post("/api/v1/jobs/createTask", json=sent) as answer:
                    came = b""
                    try:
                        async for chunk in answer.content.iter_any():
                            came += chunk
                    except aiohttp.ClientPayloadError as error:
                        part = re.search(rb'taskId":"(\w+)', came)
                        raise aiohttp.ClientPayloadError(part and part[1].decode()) from error
                    return str(json.loads(came)["data"]["taskId"])

            await client(post, "source-a", told)
        wrong = violations(w.books, told)

    assert {entry[:2] for entry in wrong} == ({caught} if caught else set())


async def test_control_T_a_silent_doubt_is_caught(tmp_path: Path):
    """A doubt without a reference cannot be settled with proof."""
    async with world(tmp_path) as w:
        for number, reference in enumerate(("a-reference", None)):
            source = f"source-{number}"
            await w.journal.plan([PlannedItem(source_id=source, model=UPSCALE, input={})])
            attempt = await w.journal.begin_sending(source, ref=reference)
            await w.journal.record_in_doubt(source, attempt, reason="reset")

        told = await account_of(w.journal)

        assert violations(w.books, told) == ["I3: the doubt of source-1 is silent"]


async def test_control_T_a_shown_key_is_caught(tmp_path: Path):
    """In an error's attributes, or in the journal's bytes."""
    async with world(tmp_path) as w:
        await w.check()
        w.errors.append(KieConnectionError("reset", partial=f"Bearer {CANARY_KEY}".encode()))
        with pytest.raises(AssertionError, match="I7"):
            await w.check()

    with pytest.raises(AssertionError, match="I7"):
        async with world(tmp_path) as w:
            item = PlannedItem(source_id="source-a", model=UPSCALE, input={"note": CANARY_KEY})
            await w.journal.plan([item])


async def test_control_T_what_stays_behind_is_caught(tmp_path: Path):
    """A task that runs on; a file that is not closed."""
    journal = Journal(tmp_path / "left.db")
    with pytest.raises(TimeoutError):
        async with clean(patience=0.2):
            await journal.__aenter__()
    await journal.__aexit__(None, None, None)

    with pytest.raises(TimeoutError):
        async with clean(patience=0.2):
            left = asyncio.create_task(asyncio.Event().wait())
    left.cancel()
