"""Opening, closing, other loops, other processes."""

from __future__ import annotations

import asyncio
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from kie_async.errors import (
    KieConnectionError,
    ResponseError,
    SessionClosedError,
    UsageError,
    WrongLoopError,
)
from kie_async.models import Secret
from kie_async.protocol import Request
from kie_async.transport import Transport
from tests.wire_servers import (
    RawServer,
    always,
    answer,
    create,
    keep_answering,
    opened,
    read,
    silence,
    transport,
)

API = "https://api.kie.ai"


@pytest.mark.asyncio
async def test_before_open_and_after_close_nothing_is_sent():
    """Closing twice is fine; opening twice in one loop is too."""
    async with RawServer(keep_answering) as server:
        wire = transport(server.url)
        with pytest.raises(SessionClosedError):
            await wire.send(create(), timeout=1.0)
        await wire.open()
        await wire.open()
        assert repr(wire).endswith("open>")
        await wire.send(read(), timeout=1.0)
        await wire.close()
        await wire.close()
        with pytest.raises(SessionClosedError):
            await wire.send(create(), timeout=1.0)

        assert server.connections == 1


def test_one_transport_serves_two_loops_one_after_the_other():
    """asyncio.run twice, closed in between."""
    wire: list[Transport] = []

    async def once() -> int:
        async with RawServer(keep_answering) as server:
            made = transport(server.url)
            wire.append(made)
            await made.open()
            await made.send(read(), timeout=5.0)
            await made.close()
            await made.open()
            status = (await made.send(read(), timeout=5.0)).status
            await made.close()
            return status

    assert [asyncio.run(once()), asyncio.run(once())] == [200, 200]

    async def again(server_of: Transport) -> None:
        await server_of.open()
        with pytest.raises(KieConnectionError):
            await server_of.send(read(), timeout=5.0)
        await server_of.close()

    asyncio.run(again(wire[0]))


def test_another_loop_is_told_apart():
    """send, open and close in a second loop while the first is still there."""
    first = asyncio.new_event_loop()
    wire = transport(API)
    first.run_until_complete(wire.open())

    async def elsewhere() -> None:
        for attempt in (wire.send(read(), timeout=1.0), wire.open(), wire.close()):
            with pytest.raises(WrongLoopError):
                await attempt

    asyncio.run(elsewhere())
    first.run_until_complete(wire.close())
    first.close()


FORK = """
import asyncio, os, sys
sys.path.insert(0, {root!r})
from kie_async.errors import WrongLoopError
from tests.wire_servers import RawServer, keep_answering, read, transport

async def in_child(wire):
    try:
        await wire.send(read(), timeout=1.0)
    except WrongLoopError as error:
        assert "fork" in str(error)
    else:
        return 1
    await wire.close()
    await wire.open()
    await wire.close()
    return 0

async def main():
    async with RawServer(keep_answering) as server:
        wire = transport(server.url)
        await wire.open()
        await wire.send(read(), timeout=5.0)
        child = os.fork()
        if child == 0:
            asyncio._set_running_loop(None)
            os._exit(asyncio.run(in_child(wire)))
        assert os.waitpid(child, 0)[1] == 0
        await wire.send(read(), timeout=5.0)
        assert server.connections == 1, server.connections
        await wire.close()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_is_told_apart_and_the_parent_goes_on():
    """The child gets a clear error, closes in peace, and leaves the parent's sockets alone."""
    root = str(Path(__file__).parents[1])
    code = FORK.format(root=root)

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stderr


@pytest.mark.asyncio
async def test_closing_ends_requests_under_way_with_an_error():
    """Not with a cancellation that nobody asked for."""
    async with RawServer(silence) as server:
        wire = transport(server.url)
        await wire.open()
        under_way = [
            asyncio.create_task(wire.send(request, timeout=30.0))
            for request in (create(), read(), create())
        ]
        for _ in under_way:
            await server.heard.acquire()
        await wire.close()
        ended = await asyncio.gather(*under_way, return_exceptions=True)

    assert [type(error) for error in ended] == [KieConnectionError] * 3
    assert all(error.sent for error in ended if isinstance(error, KieConnectionError))


@pytest.mark.asyncio
async def test_an_error_of_the_wire_can_be_pickled():
    """Errors travel between processes; nothing of aiohttp travels along."""
    async with RawServer(always(answer(b"x" * 3_000_000))) as server, opened(server.url) as wire:
        with pytest.raises(ResponseError) as caught:
            await wire.send(create(), timeout=5.0)

    copied = pickle.loads(pickle.dumps(caught.value))
    assert (copied.body, str(copied)) == (caught.value.body, str(caught.value))
    assert b"aiohttp" not in pickle.dumps(caught.value)


def test_a_secret_stays_one():
    """The transport keeps the Secret, not the text."""
    shown = repr(vars(transport(API, key="top-secret-value")))
    assert "top-secret-value" not in shown
    assert "Secret" in shown
    assert Secret("top-secret-value").reveal() == "top-secret-value"


@pytest.mark.filterwarnings("ignore:Unclosed client session:ResourceWarning")  # reason= it is so
def test_a_loop_that_is_gone_is_no_hindrance():
    """Never closed, and its loop has ended: it can be opened and used anew."""
    wire = transport(API)
    asyncio.run(wire.open())

    async def anew() -> str:
        await wire.open()
        shown = repr(wire)
        with pytest.raises(UsageError):
            await wire.send(Request(method="GET", path="x"), timeout=1.0)
        await wire.close()
        return shown

    assert asyncio.run(anew()).endswith("open>")
    asyncio.run(wire.open())
    asyncio.run(wire.close())
    assert repr(wire).endswith("closed>")
    gc.collect()


@pytest.mark.asyncio
@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan")])
async def test_a_timeout_that_is_none_is_refused(timeout: float):
    """Before anything is sent."""
    async with RawServer(keep_answering) as server, opened(server.url) as wire:
        with pytest.raises(UsageError):
            await wire.send(read(), timeout=timeout)

        assert server.connections == 0
