"""Rows D08 to D13 and D20: what comes is no result, is too much, or lies where nobody may go."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import kie_async.transport
from kie_async.emulator import Answer, Request, Rule
from kie_async.emulator._faults import DENIED
from kie_async.errors import DownloadError
from kie_async.transport import ResultTransport, _links, _results
from tests.faults.world_d import Downloads, downloads
from tests.test_transport_results import Listener, connects, listening

pytestmark = pytest.mark.asyncio
AT = 70_000  # bytes, of about 200,000

NOT_THE_FILE: dict[str, dict[str, Any]] = {
    "html": {"action": "html"},
    "denied": {"action": "body", "body": DENIED},
    "nothing": {"action": "body", "body": b""},
    "text": {"action": "body", "body": b"not found, sorry"},
}


def spoiled_for_good(d: Downloads, **fault: Any) -> None:
    """Let the fault meet the renewed links, too."""
    for route in ("files", "renewed"):
        d.spoil(route=route, times=None, **fault)


@pytest.mark.parametrize("name", NOT_THE_FILE)
async def test_fault_D08_something_else_with_200(name: str, tmp_path: Path):
    """A page is a dead address and renewed; nothing of it gets a name."""
    fault = NOT_THE_FILE[name]
    async with downloads(tmp_path) as d:
        d.spoil(**fault)
        (outcome,) = await d.run(["source-a"])
        assert outcome.error is None
        renewed = d.w.books.requests.get("download-url", 0)
        assert renewed == (name in {"html", "denied"})
        await d.check()

        spoiled_for_good(d, **fault)
        await d.failed("source-b")
        assert list(d.out.iterdir()) == [d.out / "source-a.png"]
        await d.end_well()


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_fault_D09_expired(status: int, tmp_path: Path):
    """Renewed once by download-url; what is gone for good is told, and never paid for again."""
    async with downloads(tmp_path) as d:
        d.spoil("expired", status=status)
        (outcome,) = await d.run(["source-a"])
        assert outcome.error is None
        assert d.w.books.requests["download-url"] == 1
        await d.check()

        spoiled_for_good(d, action="expired", status=status)
        for again in (["source-b"], []):  # the second time it is looked at anew, and no more
            (why,) = await d.failed(*again)
            assert "expired" in why
            assert "stays done" in why
        assert d.w.books.paid == {"source-a": 1, "source-b": 1}
        await d.end_well()


async def test_fault_D09_the_time_of_the_result_is_over(tmp_path: Path):
    """Kie's own two weeks: no address works any more, and no task is created anew."""
    async with downloads(tmp_path, result_life=0.0) as d:
        (why,) = await d.failed("source-a")
        assert "expired (HTTP 404)" in why

        d.w.emulator.core.media.life = 3600.0
        await d.end_well()


async def test_fault_D10_the_link_ends_in_the_middle(tmp_path: Path):
    """A link of twenty minutes was renewed and ends, too: renewed, and gone on with."""
    async with downloads(tmp_path) as d:
        d.spoil("expired")

        def ends(_request: Request) -> bool:
            links = d.w.emulator.core.media.links
            for token, (name, _) in list(links.items()):
                links[token] = (name, 0.0)
            return True

        d.spoil("cut", route="renewed", cut=AT, match=ends)
        (outcome,) = await d.run(["source-a"])

        assert outcome.error is None
        assert d.w.books.requests["download-url"] == 2
        assert d.ranges == ["", "", f"bytes={AT}-", f"bytes={AT}-"]
        await d.end_well()


# -- D11, D12: where nobody may go ------------------------------------------------------------

FORBIDDEN = {
    "private": "https://10.0.0.1/x.png",
    "loopback": "https://127.0.0.1/x.png",
    "metadata": "https://169.254.169.254/latest/meta-data/",
    "mapped": "https://[::ffff:127.0.0.1]/x.png",
    "decimal": "https://2130706433/x.png",
    "octal": "https://0177.0.0.1/x.png",
    "a name of it": "https://localhost/x.png",
    "file": "file:///etc/passwd",
    "ftp": "ftp://files.example/x.png",
    "http": "http://files.example/x.png",
    "user": "https://user:word@files.example/x.png",
    "port": "https://files.example:8443/x.png",
    "port of ours": "https://127.0.0.1:{port}/x.png",
    "not listed": "https://files.example.evil.test/x.png",
}


def leads_to(d: Downloads, url: str) -> None:
    """Let every record name this address."""
    told = json.dumps({"resultUrls": [url]})
    d.w.emulator.inject(Rule(route="recordInfo", action="weird-result", body=told))


@contextmanager
def nothing_else(*allowed: str) -> Iterator[None]:
    """See that no connection is tried but to these (I12)."""
    ports = {int(url.rpartition(":")[2].partition("/")[0]) for url in allowed}
    with connects() as tried:
        yield
    assert [address for address in tried if address[1] not in ports] == []


@pytest.mark.parametrize("name", FORBIDDEN)
async def test_fault_D11_an_address_that_is_not_allowed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not one connection; the task stays done, and its file can be had when the record is right."""
    if name == "not listed":

        def listing(*, allow_private: bool) -> ResultTransport:
            return ResultTransport(allow_private=allow_private, hosts=["files.example"])

        monkeypatch.setattr(kie_async.transport, "ResultTransport", listing)
    async with downloads(tmp_path) as d, listening(Listener()) as listener:
        url = FORBIDDEN[name].format(port=listener.port)
        leads_to(d, url)
        d.w.options["allow_private"] = False  # as it is with the true Kie
        with nothing_else(d.w.url):
            (why,) = await d.failed("source-a")

        assert "not fetched" in why
        assert "word" not in why
        assert listener.count == 0
        assert d.asked == []
        assert d.w.books.requests.get("download-url", 0) == 0
        monkeypatch.undo()
        del d.w.options["allow_private"]
        await d.end_well()


async def test_fault_D12_a_redirect_to_a_private_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first host may be asked, the second may not: each hop is checked like the first.

    One address of this machine stands for a public one; all others are what they are.
    """
    front, victim = Listener(), Listener()
    async with downloads(tmp_path) as d, listening(front), listening(victim):
        read, guarded = _links.Links.read, _results.guarded_sockets

        def reading(self: Any, text: str, *, base: Any = None) -> Any:
            public = text == front.url
            return read(_links.Links(None, allow_private=True) if public else self, text, base=base)

        def guarding(*, allow_private: bool) -> Any:
            make = guarded(allow_private=allow_private)
            return lambda info: socket.socket(*info[:3]) if info[4][1] == front.port else make(info)

        monkeypatch.setattr(_links.Links, "read", reading)
        monkeypatch.setattr(_results, "guarded_sockets", guarding)
        leads_to(d, front.url)
        d.w.options["allow_private"] = False
        for number, url in enumerate(
            [victim.url, f"https://127.0.0.1:{victim.port}/", "https://[::1]/"]
        ):
            front.location = url
            with nothing_else(d.w.url, front.url):
                await d.failed(f"source-{number}")

        assert front.count >= 3
        assert victim.count == 0
        monkeypatch.undo()
        del d.w.options["allow_private"]
        await d.end_well()


async def test_fault_D12_a_name_that_leads_elsewhere_when_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever was looked up before: the address is checked where the socket is made."""
    asked: list[str] = []
    usual = asyncio.get_running_loop().getaddrinfo

    async def resolved(host: str, port: int, **named: Any) -> list[Any]:
        if host == "127.0.0.1":  # some loops ask for numbers too
            return await usual(host, port, **named)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]

    async with downloads(tmp_path) as d:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        leads_to(d, "https://files.example/x.png")
        d.w.options["allow_private"] = False
        with nothing_else(d.w.url):
            (why,) = await d.failed("source-a")

        assert "private or special" in why
        assert asked == ["files.example"]
        monkeypatch.undo()
        del d.w.options["allow_private"]
        await d.end_well()


# -- D13, D20 ---------------------------------------------------------------------------------


async def test_fault_D13_a_body_without_end(tmp_path: Path):
    """Cut at the bound, and not tried again; it is written and not held in memory (I8)."""
    bound = 24 * 2**20
    async with downloads(tmp_path, limits={"max_bytes": bound}) as d:
        d.spoil("endless", times=None, headers={"Content-Type": "image/png"})
        tracemalloc.start()
        try:
            (outcome,) = await d.run(["source-a"])
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

        assert isinstance(outcome.error, DownloadError)
        assert f"larger than {bound} bytes" in outcome.error.message
        assert d.finals() == []
        assert len(d.asked) == 1
        assert most < bound / 2
        assert sum(path.stat().st_size for path in d.out.iterdir()) <= bound + 1000
        await d.end_well()


def as_four(request: Request, answer: Answer | None) -> Answer:
    """Let a task have four results; only their addresses differ."""
    assert answer is not None
    told = answer.json()
    (url,) = told["data"]["response"]["resultUrls"]
    many = '","'.join(f"{url}?n={n}" for n in range(4))
    changed = answer.body.replace(url.encode(), many.encode())
    # Twice: in the text within, where quotes are escaped, and beside it.
    inner, outer = many.replace('"', '\\"').encode(), many.encode()
    return evolve(answer, body=changed.replace(outer, inner, 1))


async def test_fault_D20_one_of_four_is_missing(tmp_path: Path):
    """The other three are saved and named; the same command asks for the one that is missing."""
    async with downloads(tmp_path) as d:

        def four(request: Request, answer: Answer | None) -> Answer:
            assert answer is not None
            ended = b'"state":"success"' in answer.body
            return as_four(request, answer) if ended else answer

        d.w.emulator.inject(Rule(route="recordInfo", action=four, when="after"))
        d.spoil("expired", status=404, times=None, match="n=2")
        d.spoil("envelope", route="download-url", times=None, match="n=2", code=422)
        (outcome,) = await d.run(["source-a"])

        assert str(outcome.status) == "done"
        assert isinstance(outcome.error, DownloadError)
        assert [path.name for path in outcome.error.saved] == [
            f"source-a-{n}.png" for n in (0, 1, 3)
        ]
        assert outcome.files == outcome.error.saved
        await d.w.check()
        before = len(d.asked)

        d.w.emulator.rules[1:] = []  # the file is there again
        await d.run()
        assert len(d.asked) == before + 1
        (item,) = await d.items()
        assert [Path(name).name for name in item.files] == [f"source-a-{n}.png" for n in range(4)]
        (data,) = d.painted.values()
        assert {Path(name).read_bytes() for name in item.files} == {data}
        assert d.w.books.paid == {"source-a": 1}
