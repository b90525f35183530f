"""The checker of the envelope rows must fail on bad clients: here are some.

They believe the HTTP status, follow redirects, keep cookies, or resend what the API itself
called failed without saying so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kie_async.emulator import Emulator, Rule
from tests.conftest import CANARY_KEY
from tests.faults.world_t import UPSCALE, Account, violations, world

pytestmark = pytest.mark.asyncio

Post = Callable[[], Awaitable[tuple[int, Any]]]
Client = Callable[[Post, str, Account], Awaitable[None]]


async def careful(post: Post, source: str, told: Account) -> None:
    """An id counts; without one, it is not known what happened."""
    _, body = await post()
    task_id = ((body or {}).get("data") or {}).get("taskId")
    if task_id:
        told.made(source, task_id)
    else:
        told.doubted(source)


async def by_status(post: Post, source: str, told: Account) -> None:
    """A status of 500 and more is worth another POST, and 4xx means that nothing happened."""
    for _ in range(3):
        status, body = await post()
        if status < 400:
            return told.made(source, body["data"]["taskId"])
        if status < 500:
            return None
        told.doubted(source)
    return None


async def by_code(post: Post, source: str, told: Account) -> None:
    """What the API calls failed has failed: post again, and say nothing of it."""
    for _ in range(3):
        _, body = await post()
        if body and body["code"] == 200:
            return told.made(source, body["data"]["taskId"])
    return None


async def careless(post: Post, source: str, told: Account) -> None:
    """No id, no task: an answer of 200 without one is passed over."""
    _, body = await post()
    data = (body or {}).get("data") or {}
    if data.get("taskId"):
        told.made(source, data["taskId"])


async def numbering(post: Post, source: str, told: Account) -> None:
    """Make an id of whatever stands there."""
    _, body = await post()
    told.made(source, str(body["data"]["taskId"]))


HTML_502 = {"action": "html", "status": 502, "when": "after"}
WITH_ID_500 = {"action": "status", "status": 500, "when": "after"}
WITH_ID_404 = {"action": "status", "status": 404, "when": "after"}
SAID_500 = {"action": "envelope", "when": "after"}
WITHOUT_ID = {"action": "patch", "data": {}, "drop": ("taskId", "recordId")}
WRONG_ID = {"action": "patch", "data": {"taskId": 12345678, "recordId": 12345678}}

CASES: list[tuple[Client, dict[str, Any], set[str]]] = [
    (careful, HTML_502, set()),
    (careful, WITH_ID_500, set()),
    (careful, SAID_500, set()),
    (by_status, HTML_502, {"I1"}),
    (by_status, WITH_ID_500, {"I1"}),
    (by_status, WITH_ID_404, {"I2"}),
    (by_code, SAID_500, {"I1", "I2"}),
    (careless, WITHOUT_ID, {"I2"}),
    (careless, HTML_502, {"I2"}),
    (numbering, WRONG_ID, {"I2"}),
]


@pytest.mark.parametrize(
    ("client", "fault", "caught"),
    CASES,
    ids=[f"{client.__name__}-{number}" for number, (client, _, _) in enumerate(CASES)],
)
async def test_control_H_a_bad_client_is_caught(
    client: Client, fault: dict[str, Any], caught: set[str], tmp_path: Path
):
    """Those who judge by the wrong thing; the careful one passes."""
    told = Account()
    async with world(tmp_path) as w:
        w.strike("source-a", **fault)
        headers = {"Authorization": f"Bearer {CANARY_KEY}"}
        async with aiohttp.ClientSession(w.url, headers=headers) as http:

            async def post() -> tuple[int, Any]:
                sent = {"model": UPSCALE, "input": {"task_id": "source-a"}}
                async with http.post("/api/v1/jobs/createTask", json=sent) as answer:
                    is_json = answer.content_type == "application/json"
                    return answer.status, await answer.json() if is_json else None

            await client(post, "source-a", told)
        wrong = violations(w.books, told)

    assert {entry[:2] for entry in wrong} == caught


async def test_control_H_who_follows_redirects_is_caught(tmp_path: Path):
    """The measure of H19, connections at the other host, is not zero for a usual client."""
    async with world(tmp_path) as w, Emulator(api_key="another") as elsewhere:
        there = f"{elsewhere.url}/api/v1/jobs/createTask"
        w.emulator.inject(Rule(route="createTask", action="redirect", location=there))
        async with aiohttp.ClientSession(w.url) as http:
            async with http.post("/api/v1/jobs/createTask", json={}) as answer:
                await answer.read()
            assert elsewhere.connections == 1
            assert elsewhere.books.requests["createTask"] == 1


async def test_control_H_who_keeps_cookies_is_caught(tmp_path: Path):
    """The measure of H28 sees the cookie of a client with a jar."""
    cookies: list[str] = []

    def noted(request: Any) -> bool:
        cookies.extend(value for name, value in request.headers.items() if name == "cookie")
        return True

    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="*", action="set-cookie", match=noted))
        jar = aiohttp.CookieJar(unsafe=True)  # this host has a number for a name
        async with aiohttp.ClientSession(w.url, cookie_jar=jar) as http:
            for _ in range(2):
                async with http.get("/api/v1/chat/credit") as answer:
                    await answer.read()

    assert cookies


async def test_control_H_who_hammers_is_caught(tmp_path: Path):
    """The measure of H01, creates in a window, sees one who has no limiter."""
    async with world(tmp_path, rate=(5, 10.0)) as w:
        headers = {"Authorization": f"Bearer {CANARY_KEY}"}
        async with aiohttp.ClientSession(w.url, headers=headers) as http:

            async def post(source: str) -> None:
                sent = {"model": UPSCALE, "input": {"task_id": source}}
                async with http.post("/api/v1/jobs/createTask", json=sent) as answer:
                    await answer.read()

            await asyncio.gather(*(post(f"source-{n}") for n in range(12)))

        assert w.books.refused == {429: 7}
        assert w.books.most_in_window(10.0, of="arrivals") == 12
