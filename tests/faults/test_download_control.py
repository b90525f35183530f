"""The checker of the download rows must fail on bad clients: here are some.

Each is what people write: save what came, under the name that came; on a cut, append.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kie_async.emulator import Rule
from tests.faults.test_download_answers import nothing_else
from tests.faults.world_d import Downloads, around, downloads, violations
from tests.test_transport_results import Listener, listening

pytestmark = pytest.mark.asyncio

Get = Callable[..., Awaitable[tuple[dict[str, str], bytes, bool]]]
Client = Callable[[Get, Path], Awaitable[None]]


async def careful(get: Get, out: Path) -> None:
    """A part until it is whole; a name of our own; nothing is overwritten."""
    for _ in range(3):
        _, body, whole = await get()
        if whole and body.startswith(b"\x89PNG") and body[-8:-4] == b"IEND":
            (out / "mine.png.part").write_bytes(body)
            if not os.path.lexists(out / "mine.png"):
                (out / "mine.png.part").rename(out / "mine.png")
            return


async def hasty(get: Get, out: Path) -> None:
    """What came is the file."""
    _, body, _ = await get()
    (out / "mine.png").write_bytes(body)


async def gluing(get: Get, out: Path) -> None:
    """On a cut the rest is asked for, and whatever comes is the rest."""
    _, body, whole = await get()
    while not whole:
        _, more, whole = await get(len(body))
        body += more
    (out / "mine.png").write_bytes(body)


async def obedient(get: Get, out: Path) -> None:
    """The host says what the file is called."""
    headers, body, _ = await get()
    name = headers.get("Content-Disposition", 'x="mine.png"').partition('"')[2].rstrip('"')
    (out / name).write_bytes(body)


CUT = {"action": "cut", "cut": 70_000, "times": 1}
OPEN_CUT = {"action": "cut", "cut": 70_000, "times": 1, "framing": "close"}
PAGE = {"action": "html"}
NAMED = {
    "action": "headers",
    "headers": {"Content-Disposition": 'attachment; filename="../evil.png"'},
}
NOTHING: dict[str, Any] = {"action": "headers"}

CASES: list[tuple[Client, dict[str, Any], set[str]]] = [
    (careful, CUT, set()),
    (careful, OPEN_CUT, set()),
    (careful, PAGE, set()),
    (careful, NAMED, set()),
    (hasty, CUT, {"I6"}),
    (hasty, OPEN_CUT, {"I6"}),
    (hasty, PAGE, {"I6"}),
    (gluing, CUT, {"I6"}),
    (obedient, NAMED, {"I13"}),
]


@pytest.mark.parametrize(
    ("client", "fault", "caught"),
    CASES,
    ids=[f"{client.__name__}-{number}" for number, (client, _, _) in enumerate(CASES)],
)
async def test_control_D_a_bad_client_is_caught(
    client: Client, fault: dict[str, Any], caught: set[str], tmp_path: Path
):
    """Those who save a part, a page, two files in one, or elsewhere; the careful one passes."""
    async with downloads(tmp_path) as d:
        await fetched_by(client, d, fault)
        found = violations(tmp_path, d.before, set(d.painted.values()))

    assert {entry.partition(":")[0] for entry in found} == caught


async def test_control_D_who_writes_through_a_link_is_caught(tmp_path: Path):
    """The victim is not in the folder, and changed."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    async with downloads(tmp_path) as d:
        d.out.mkdir()
        (d.out / "mine.png").symlink_to(victim)
        d.before = around(tmp_path)
        await fetched_by(hasty, d, NOTHING)
        found = violations(tmp_path, d.before, set(d.painted.values()))

    assert found == [f"I13: {victim} was changed"]


async def test_control_D_who_follows_redirects_anywhere_is_caught(tmp_path: Path):
    """The measure of D11 and D12: a connection to where nobody may go."""
    async with downloads(tmp_path) as d, listening(Listener()) as victim:
        d.spoil("redirect", when="before", location=victim.url)
        with pytest.raises(AssertionError), nothing_else(d.w.url):
            await fetched_by(hasty, d, NOTHING)

        assert victim.count == 1


async def test_control_D_who_fetches_again_is_caught(tmp_path: Path):
    """The measure of I20 counts every request for a file, whatever became of it."""
    async with downloads(tmp_path) as d:
        await fetched_by(hasty, d, NOTHING)
        d.spoil("fin", when="before", times=None)
        with pytest.raises(aiohttp.ClientError):
            await fetched_by(hasty, d, NOTHING)

        assert len(d.asked) >= 2


async def fetched_by(client: Client, d: Downloads, fault: dict[str, Any]) -> None:
    """Let *client* save one result while a fault strikes."""
    made = await d.w.emulator.add_source_task()
    d.w.emulator.inject(Rule(route="files", **{"when": "after", **fault}))
    d.spoil("no-range", times=None)
    d.out.mkdir(exist_ok=True)
    async with aiohttp.ClientSession(auto_decompress=False) as http:

        async def get(offset: int = 0) -> tuple[dict[str, str], bytes, bool]:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            async with http.get(f"{d.w.url}/files/{made}-0.png", headers=headers) as answer:
                body = b""
                try:
                    async for chunk in answer.content.iter_any():
                        body += chunk
                except aiohttp.ClientPayloadError:
                    return dict(answer.headers), body, False
                return dict(answer.headers), body, True

        await client(get, d.out)
