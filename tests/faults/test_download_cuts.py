"""Rows D01 to D07, D14 and D19: what comes is cut, glued or slow."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kie_async.emulator import Answer, Request
from kie_async.transport import _results
from tests.faults.world_d import Downloads, downloads, raw
from tests.faults.world_t_proxy import FaultProxy

pytestmark = pytest.mark.asyncio
AT = 70_000  # bytes, of about 200,000


def size_of(d: Downloads) -> int:
    """Return the size of the only result."""
    (data,) = d.painted.values()
    return len(data)


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_fault_D01_cut_anywhere(how: str, tmp_path: Path):
    """Each file is cut at a random byte of the network, and goes on just there."""
    numbers = random.Random(1)
    cuts = [numbers.randrange(600, 200_000) for _ in range(8)]
    async with downloads(tmp_path) as d, FaultProxy(d.w.url, cut=how) as proxy:
        d.w.emulator.core.origin = proxy.url
        proxy.limit = lambda: cuts.pop() if cuts else None

        outcomes = await d.run(f"source-{n}" for n in range(8))

        assert [len(outcome.files) for outcome in outcomes] == [1] * 8
        assert not cuts
        resumed = [wanted for wanted in d.ranges if wanted]
        if how == "fin":  # a reset may take away what nobody had read yet
            assert 0 < len(resumed) <= 8  # what is short enough comes through its connection's cut
            whole = sum(len(data) for data in d.painted.values())
            heads = 600 * proxy.connections
            assert proxy.returned <= whole + heads  # no byte came twice
        await d.end_well()


async def test_fault_D02_cut_in_chunks(tmp_path: Path):
    """The last chunk is missing; what came is kept."""
    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=AT, framing="chunked")

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert d.ranges == ["", f"bytes={AT}-"]
        await d.end_well()


async def test_fault_D03_cut_where_only_the_close_ends_it(tmp_path: Path):
    """Nobody says that it was cut, but the picture has no end."""
    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=AT, framing="close")
        (outcome,) = await d.run(["source-a"])
        assert outcome.error is None
        assert d.ranges == ["", ""]

        d.spoil("cut", cut=AT, framing="close", times=None)
        assert await d.failed("source-b") == ["the file stops before its end"]
        await d.end_well()


LENGTHS: dict[str, Any] = {
    "fewer than told": lambda body: (body[:AT], len(body)),
    "more than told": lambda body: (body, AT),
    "whole, and more told": lambda body: (body, len(body) + 100),
    "whole, and more came": lambda body: (body + b"more", len(body)),
}


@pytest.mark.parametrize("name", LENGTHS)
async def test_fault_D04_another_length(name: str, tmp_path: Path):
    """Once: another attempt brings it.  Always: an error, and no file that is not whole."""

    def lie(_request: Request, answer: Answer | None) -> bytes:
        assert answer is not None
        body, told = LENGTHS[name](answer.body)
        return raw(answer, body, Content_Length=told)

    async with downloads(tmp_path) as d:
        d.spoil(lie)
        (outcome,) = await d.run(["source-a"])
        assert outcome.error is None
        await d.check()

        d.spoil(lie, times=None)
        (outcome,) = await d.run(["source-b"])
        # Only where less is told than there is can it never come, piece by piece.
        assert (outcome.error is not None) == (name == "more than told")
        assert len(d.asked) <= 8
        await d.end_well()


@pytest.mark.parametrize("action", ["no-range", "wrong-range", "new-etag"])
async def test_fault_D05_D06_another_part_or_another_file(action: str, tmp_path: Path):
    """The range is ignored, is another one, or is one of another file: nothing is glued."""
    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=AT)
        d.spoil(action, match=lambda asked: "range" in asked.headers)

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        fetched_anew = [] if action == "no-range" else [""]
        assert d.ranges == ["", f"bytes={AT}-", *fetched_anew]
        await d.end_well()


async def test_fault_D06_the_file_has_changed_meanwhile(tmp_path: Path):
    """If-Range is believed by the host: all of the new one comes."""
    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=AT)

        def change(asked: Request) -> bool:
            if "range" in asked.headers:
                (name,) = d.painted
                d.w.emulator.core.media.painted[name] = d.w.emulator._paint("another", None)
            return False

        d.spoil("fin", match=change, when="before")
        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert d.ranges == ["", f"bytes={AT}-"]
        await d.end_well()


async def test_fault_D07_416_for_all_there_is(tmp_path: Path):
    """All had come and only the last chunk had not: the size is equal, so that is the end."""
    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=10**9, framing="chunked")

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert d.ranges == ["", f"bytes={size_of(d)}-"]
        await d.end_well()


@pytest.mark.parametrize("told", ["", "bytes */7"])
async def test_fault_D07_416_for_another_size(told: str, tmp_path: Path):
    """The file is another one now: from the beginning."""

    def refuse(_request: Request, answer: Answer | None) -> Answer:
        assert answer is not None
        return evolve(answer, status=416, body=b"", headers={"Content-Range": told})

    async with downloads(tmp_path) as d:
        d.spoil("cut", cut=AT)
        d.spoil(refuse, match=lambda asked: "range" in asked.headers)

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert d.ranges == ["", f"bytes={AT}-", ""]
        await d.end_well()


async def test_fault_D14_a_drip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bytes come all the time, but too few: broken off, and gone on with where it was."""
    monkeypatch.setattr(_results, "PATIENCE", 1.0)
    monkeypatch.setattr(_results, "SLOWEST", 100_000.0)  # bytes a second
    async with downloads(tmp_path) as d:
        d.spoil("drip", size=200, gap=0.01)  # half a minute for all of it

        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert len(d.asked) == 2
        assert 0 < int(d.ranges[1].removeprefix("bytes=").removesuffix("-")) < size_of(d)
        await d.end_well()


@pytest.mark.parametrize("cut", [0, 1000], ids=["whole", "cut"])
async def test_fault_D19_compressed(cut: int, tmp_path: Path):
    """It was not asked for and would hide a cut: never inflated, never short."""
    async with downloads(tmp_path) as d:
        d.spoil("gzip", cut=cut)
        (outcome,) = await d.run(["source-a"])
        assert outcome.error is None
        await d.check()

        d.spoil("gzip", cut=cut, times=None)
        assert all("compressed" in why for why in await d.failed("source-b"))
        await d.end_well()
