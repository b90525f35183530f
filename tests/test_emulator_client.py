"""The emulator and the real client together: what the one plays, the other survives."""

from __future__ import annotations

import asyncio
import io
import time

import pytest
from PIL import Image

from kie_async import (
    CreateInDoubtError,
    KieError,
    KieSession,
    PollSchedule,
    SlidingWindowLimiter,
    upscale,
)
from kie_async.emulator import Emulator, Rule

QUICK = PollSchedule(first_gap=0.05, min_gap=0.02)


def session(emulator, **settings) -> KieSession:
    """Open the real client on an emulator."""
    return KieSession(emulator.api_key, base_url=emulator.url, polling=QUICK, **settings)


async def fetch(url: str, *headers: str) -> tuple[bytes, bytes]:
    """Fetch a file by hand; return head and body."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    reader, writer = await asyncio.open_connection(name, int(port))
    lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head, body


@pytest.mark.asyncio
async def test_pictures_open_and_were_really_enlarged():
    """Twice as large at 720p, three times at 1080p, and it is the same picture."""
    async with Emulator(speed=20) as emulator:
        source = await emulator.add_source_task()
        async with session(emulator) as kie:
            original = await kie.get_task(source)
            twice = await kie.upscale(source)
            thrice = await kie.upscale(source, resolution="1080p")
        pictures = [
            Image.open(io.BytesIO((await fetch(task.result_urls[0]))[1])).convert("RGB")
            for task in (original, twice, thrice)
        ]

    assert [picture.size for picture in pictures] == [(240, 135), (480, 270), (720, 405)]
    small = pictures[1].resize((240, 135), Image.Resampling.BOX)
    differences = [abs(a - b) for a, b in zip(small.tobytes(), pictures[0].tobytes(), strict=True)]
    assert sum(differences) / len(differences) < 3


FAULTS = ["fin", "rst", "garbage", "half-status", "half-headers"]


@pytest.mark.asyncio
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("action", FAULTS)
async def test_a_fault_of_the_wire_is_a_doubt_paid_at_most_once(action, when):
    """Through the real client: one POST, whether the task was created or not."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="createTask", action=action, when=when))
        async with session(emulator) as kie:
            with pytest.raises(CreateInDoubtError):
                await kie.upscale("a-source")

    assert emulator.books.requests["createTask"] == 1
    assert emulator.books.paid == ({"a-source": 1} if when == "after" else {})


@pytest.mark.asyncio
@pytest.mark.parametrize("cut", [0, 20, 60, 100, 200])
async def test_a_cut_answer_is_salvaged_or_in_doubt(cut):
    """With the id in what came, the task is known."""
    async with Emulator(speed=20) as emulator:
        emulator.inject(Rule(route="createTask", action="cut", cut=cut, when="after"))
        async with session(emulator) as kie:
            try:
                task_id = await kie.create_task("grok-imagine/upscale", {"task_id": "a-source"})
            except CreateInDoubtError:
                task_id = None

    created = emulator.books.creates[0][2]
    assert task_id in {None, created}
    assert (task_id == created) is (cut >= 100)


@pytest.mark.asyncio
async def test_silence_ends_at_the_deadline():
    """Within a tenth of a second."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="recordInfo", action="silence"))
        async with session(emulator) as kie:
            began = time.monotonic()
            with pytest.raises(KieError):
                await kie.get_task("a-task", timeout=0.5)

    assert time.monotonic() - began < 0.7


@pytest.mark.asyncio
async def test_an_endless_answer_is_cut_off():
    """In bounded memory."""
    async with Emulator() as emulator:
        emulator.inject(Rule(route="credit", action="endless"))
        async with session(emulator) as kie:
            with pytest.raises(KieError):
                await kie.get_credits(timeout=1.0)


@pytest.mark.asyncio
async def test_a_thousand_callers_share_a_bounded_pool():
    """Reads of 1,000 callers, over a bounded pool."""
    async with Emulator() as emulator:
        source = await emulator.add_source_task()
        async with session(emulator, poll_limiter=SlidingWindowLimiter(100_000, 0.1)) as kie:
            tasks = await asyncio.gather(*(kie.get_task(source) for _ in range(1000)))

    assert len(tasks) == 1000
    assert emulator.connections <= 100


def test_the_fixture_serves_plain_tests(kie_emulator, monkeypatch):
    """As a user's test would use it, environment and all."""
    monkeypatch.setenv("KIE_API_KEY", kie_emulator.api_key)
    monkeypatch.setenv("KIE_BASE_URL", kie_emulator.url)
    source = kie_emulator.add_source_task()
    kie_emulator.inject(Rule(route="createTask", action="envelope", code=500, nth=()))

    task = asyncio.run(upscale(source))

    assert task.succeeded
    assert kie_emulator.books.paid == {source: 1}
