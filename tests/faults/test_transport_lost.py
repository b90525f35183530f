"""Rows T09 to T21 and T28: the request left, and the answer did not come whole.

The exception's class does not tell whether money was spent.  So each is a doubt unless the
id can be read or it is proved that the request did not leave, and a doubt is sent again by
nobody: the reference in its callback URL settles it.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kie_async import CreateRetry
from kie_async.emulator import Rule
from kie_async.errors import CreateInDoubtError
from kie_async.journal import Verdict
from tests.faults.world_t import UPSCALE, World, receiving, world
from tests.faults.world_t_proxy import FaultProxy

pytestmark = pytest.mark.asyncio

HASTY = 0.6  # seconds for a request that will hang
LARGE = "x" * 16_000_000  # more than the kernel takes for a peer that does not read


async def doubted(w: World, *sources: str, created: bool, **settings: float) -> None:
    """Run *sources*, each to be struck: all are doubts, listed, and sent by no second run."""
    found = await w.run(sources, **settings)

    assert {s: str(o.status) for s, o in found.items()} == dict.fromkeys(sources, "in_doubt")
    assert all(isinstance(o.error, CreateInDoubtError) for o in found.values())
    assert not any(o.error.reported for o in found.values())
    assert {d.item.source_id async for d in w.journal.doubts()} == set(sources)
    assert w.books.paid == (dict.fromkeys(sources, 1) if created else {})
    before = w.books.requests["createTask"]
    assert await w.run(sources) == {}
    assert w.books.requests["createTask"] == before
    await w.end_well()


@contextmanager
def deaf(how: str) -> Iterator[str]:
    """Accept connections, let each request come whole, read none of it, and end it."""
    kept: list[socket.socket] = []

    def serve() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:  # the test is over
                return
            kept.append(client)
            came = b""
            while b"\r\n\r\n" not in came or not came.endswith(b"}"):
                came = client.recv(65536, socket.MSG_PEEK)
            if how == "fin":
                client.shutdown(socket.SHUT_WR)
            else:
                client.close()  # with bytes unread, this is a reset

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    for client in kept:
        client.close()


async def test_fault_T09_accepted_then_reset(tmp_path: Path):
    """The kernel took the request and nobody read it: a doubt, for who could tell?"""
    async with world(tmp_path) as w:
        with deaf("rst") as url:
            found = await w.statuses(["source-a"], base_url=url)
        assert found == {"source-a": "in_doubt"}
        await w.end_well()


async def test_fault_T10_accepted_then_closed(tmp_path: Path):
    """The same with FIN."""
    async with world(tmp_path) as w:
        with deaf("fin") as url:
            found = await w.statuses(["source-a"], base_url=url)
        assert found == {"source-a": "in_doubt"}
        await w.end_well()


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_fault_T09_T10_ended_in_the_moment_of_the_connect(how: str, tmp_path: Path):
    """It may strike before the request is written, which is proof, or after it: a doubt."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="connect", action=how, times=1))

        found = await w.statuses(["source-a"])

        assert found["source-a"] in {"done", "in_doubt"}
        await w.end_well()


async def test_fault_T11_reset_after_the_headers(tmp_path: Path):
    """A small body had left with them: a doubt.  Of a large one it is proved that it did not."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", action="rst-early", delay=0.1, times=1))
        await doubted(w, "small", created=False)

        w.emulator.inject(Rule(route="createTask", action="rst-early", times=1))
        async with w.session() as kie:
            sent = {"task_id": "large", "note": LARGE}
            w.singles.made("large", await kie.create_task(UPSCALE, sent))
        assert w.books.paid("large") == 1
        await w.check()


async def test_fault_T12_the_peer_never_reads_a_large_body(tmp_path: Path):
    """The upload is incomplete, so it was not sent, and is sent again."""
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="createTask", action="unread", times=1))
        w.events.clear()

        async with w.session(request_timeout=3.0) as kie:  # the second time it is to succeed
            sent = {"task_id": "large", "note": LARGE}
            w.singles.made("large", await kie.create_task(UPSCALE, sent))

        assert w.books.requests["createTask"] == 2
        assert w.books.paid("large") == 1
        await w.check()


async def test_fault_T13_read_and_not_created_then_closed(tmp_path: Path):
    """It looks exactly as if it had been created."""
    async with world(tmp_path) as w:
        w.strike("source-a", "fin", when="before")
        await doubted(w, "source-a", created=False)


@pytest.mark.parametrize("policy", [CreateRetry.NEVER, CreateRetry.REJECTED, CreateRetry.REPORTED])
async def test_fault_T14_created_then_closed(policy: CreateRetry, tmp_path: Path):
    """A doubt, whatever may be sent again; its reference binds the task later."""
    async with world(tmp_path) as w:
        w.strike("source-a", "fin", when="after")
        await doubted(w, "source-a", created=True, create_retry=policy)


async def test_fault_T15_created_then_reset(tmp_path: Path):
    """The same with RST."""
    async with world(tmp_path) as w:
        w.strike("source-a", "rst", when="after")
        await doubted(w, "source-a", created=True)


async def test_fault_T16_created_then_silence(tmp_path: Path):
    """A doubt when the time of one request is over, and not before."""
    async with world(tmp_path) as w:
        w.strike("source-a", "silence", when="after")
        began = asyncio.get_running_loop().time()
        found = await w.statuses(["source-a"], request_timeout=HASTY)
        assert asyncio.get_running_loop().time() - began >= HASTY

        assert found == {"source-a": "in_doubt"}
        await w.end_well()


@pytest.mark.parametrize("fault", ["fin", "delay"])
async def test_fault_T14_T17_the_callback_binds_the_doubt(fault: str, tmp_path: Path):
    """The answer was lost, and the callback came: done within the same run, paid once."""
    async with world(tmp_path) as w, receiving(w) as heard:
        late = {"delay": 60.0} if fault == "delay" else {}
        w.strike("source-a", fault, when="after", **late)
        w.emulator.core.durations = lambda _rng: 0.3

        found = await w.run(["source-a"], callback_url=None, callbacks=heard, request_timeout=HASTY)

        assert str(found["source-a"].status) == "done"
        item = await w.journal.get("source-a")
        assert item is not None
        assert (str(item.state), item.task_id) == ("done", w.books.creates[0].task_id)
        assert [a.verdict for a in await w.journal.attempts("source-a")] == [Verdict.CREATED]
        await w.end_well()


async def test_fault_T17_the_answer_comes_after_the_time_out(tmp_path: Path):
    """Too late for the client, and bound by its reference when the ids are looked through."""
    async with world(tmp_path) as w:
        w.strike("source-a", "delay", when="after", delay=60.0)
        found = await w.statuses(["source-a"], request_timeout=HASTY)
        assert found == {"source-a": "in_doubt"}

        findings = await w.settle()

        assert [(f.verdict, f.detail) for f in findings] == [("settled", "reference")]
        await w.end_well()


@pytest.mark.parametrize("then", ["fin", "rst"])
async def test_fault_T18_half_of_the_status_line(then: str, tmp_path: Path):
    """An answer had begun: that says nothing of what it was."""
    async with world(tmp_path) as w:
        w.strike("source-a", "half-status", when="after", then=then)
        await doubted(w, "source-a", created=True)


@pytest.mark.parametrize("then", ["fin", "rst"])
async def test_fault_T19_half_of_the_headers(then: str, tmp_path: Path):
    """Not even "200 OK" is an id."""
    async with world(tmp_path) as w:
        w.strike("source-a", "half-headers", when="after", then=then)
        await doubted(w, "source-a", created=True)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_fault_T20_half_of_the_json_with_the_task_id(framing: str, tmp_path: Path):
    """The id came before the cut: it is as good as in a whole answer."""
    whole = len(f'{{"code":200,"msg":"success","data":{{"taskId":"{"0" * 32}"')
    async with world(tmp_path, gzip_answers=False) as w:
        w.strike("source-a", "cut", cut=whole, framing=framing)

        found = await w.statuses(["source-a"])

        assert found == {"source-a": "done"}
        assert w.books.paid == {"source-a": 1}
        await w.end_well()


@pytest.mark.parametrize(
    ("how", "packed"), [("fin", False), ("rst", True)], ids=["fin-plain", "rst-gzip"]
)
async def test_fault_T21_the_answer_is_cut_at_any_byte(how: str, packed: bool, tmp_path: Path):
    """At each offset: the task's own id or a doubt, never another id."""
    async with (
        world(tmp_path, gzip_answers=packed) as w,
        FaultProxy(w.url, cut=how) as proxy,
        w.session(base_url=proxy.url) as kie,
    ):
        whole = await w.create(kie, "whole")
        size, known = proxy.returned, 0
        for offset in range(1, size):
            proxy.limit = lambda offset=offset: offset
            known += isinstance(await w.create(kie, f"cut-{offset}"), str)

        assert isinstance(whole, str)
        assert w.books.paid == {"whole": 1} | {f"cut-{n}": 1 for n in range(1, size)}
        assert all(isinstance(error, CreateInDoubtError) for error in w.errors)
        assert known >= (1 if packed else 30)  # the rest of the body behind the id
        assert len(w.errors) > 100
        await w.check()


async def test_fault_T28_extra_bytes_behind_a_good_answer(tmp_path: Path):
    """The client library withholds the good body and says "400": it is no refusal."""
    async with world(tmp_path) as w:
        w.strike("source-a", "extra")
        await doubted(w, "source-a", created=True)
