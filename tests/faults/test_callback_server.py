"""Rows C14 to C18: the receiver under load, with a wrong clock, a bad handler, a new key."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kie_async.callbacks import CallbackClockSkewed, CallbackEvent
from kie_async.emulator._callbacks import Callback
from tests.conftest import CANARY_HMAC
from tests.faults.world_c import SOON, Door, door, schedule
from tests.faults.world_t import LONGEST

pytestmark = pytest.mark.asyncio
MIB = 2**20


# -- C14: large, slow, many -------------------------------------------------------------------


def at(d: Door) -> int:
    """Return the receiver's port."""
    return int(d.url.rpartition(":")[2])


def head(made: Callback, *lines: str) -> bytes:
    """Write the head of a callback by hand."""
    told = [f"POST {made.url.partition('/kie')[1]}{made.url.partition('/kie')[2]} HTTP/1.1"]
    told += ["Host: x", *(f"{name}: {value}" for name, value in made.headers.items()), *lines]
    return "\r\n".join([*told, "", ""]).encode()


async def answer_to(port: int, *pieces: bytes) -> int:
    """Send these pieces as long as somebody reads them; return the status, 0 for none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            return int(line.split()[1]) if line else 0
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return 0


async def test_fault_C14_a_hundred_megabytes(tmp_path: Path):
    """Refused by what its head declares, or when 256 KiB have come; little is held meanwhile."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = await d.task("source-a")
        true = d.callback(task)
        chunk = b"%x\r\n" % MIB + b" " * MIB + b"\r\n"
        tracemalloc.start()
        try:
            declared = head(true, f"Content-Length: {100 * MIB}")
            chunked = head(true, "Transfer-Encoding: chunked")
            assert await answer_to(at(d), declared) == 413
            # The connection may be closed before the answer is read: then there is none.
            assert await answer_to(at(d), chunked, *[chunk] * 100) in {413, 0}
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert "size" in d.reasons
        assert most < 16 * MIB
        assert (d.polls, d.effects) == (0, [])

        assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, "source-a")


@contextlib.asynccontextmanager
async def trickling(d: Door, made: Callback, many: int) -> AsyncIterator[list[asyncio.Task[int]]]:
    """Open *many* connections whose body never comes to its end."""

    async def trickle() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", at(d))
        try:
            writer.write(head(made, "Content-Length: 900") + b"{")
            while not reader.at_eof():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        line = await reader.readline()
                        return int(line.split()[1]) if line else 0
                writer.write(b" ")
        except ConnectionError:
            pass
        finally:
            writer.close()
        return 0

    tasks = [asyncio.create_task(trickle()) for _ in range(many)]
    try:
        yield tasks
    finally:
        await asyncio.wait(tasks, timeout=LONGEST)


async def test_fault_C14_slow_and_many(tmp_path: Path):
    """Two hundred that drip hold up nobody, and are closed in time (a thousand elsewhere)."""
    async with door(tmp_path, read_timeout=1.5) as d:
        run = d.run("source-a")
        task = await d.task("source-a")
        async with trickling(d, d.callback(task), 200) as slow:
            assert await d.post(d.callback(d.end(task))) == 200
            await d.ended(run, "source-a")
            assert not any(one.done() and one.result() == 200 for one in slow)
        assert {one.result() for one in slow} <= {408, 0}
        assert d.reasons.count("slow") == 200
        assert d.receiver._reading.taken == 0


async def test_fault_C14_the_emulators_own_huge_callback(tmp_path: Path):
    """Rightly signed and refused for its size; polls find the end."""
    async with door(tmp_path, durations=lambda _rng: 0.05) as d:
        d.spoil("callback", "huge", size=MIB)
        await d.ended(d.run("source-a", polling=schedule(SOON)), "source-a")
        assert await d.posted(1) in (
            [413],
            [None],
        )  # None: it was closed while it was still sending
        assert d.reasons == ["size"]


# -- C15 --------------------------------------------------------------------------------------

BOMBS: dict[str, bytes] = {
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "deep, with an id": b'{"data":{"taskId":"ID","x":' + b"[" * 5000 + b"]" * 5000 + b"}}",
    "many lists": b"[" + b"[]," * 60_000 + b"[]]",
    "a long number": b'{"data":{"taskId":"ID"},"n":' + b"9" * 200_000 + b"}",
    "two ids of one name": b'{"data":{"taskId":"ID","taskId":"ID"}}',
    "two datas": b'{"data":{"taskId":"ID"},"data":{"taskId":"ID"}}',
    "NaN": b'{"data":{"taskId":"ID"},"n":NaN}',
    "half a pair": b'{"data":{"taskId":"\\ud800"}}',
    "no UTF-8": b'{"data":{"taskId":"ID"},"x":"\xff"}',
    "a list": b'["ID"]',
    "no id": b'{"data":{}}',
    "a number for an id": b'{"data":{"taskId":5}}',
    "nothing": b"",
    "garbage": b"\x00{not json",
}


async def test_fault_C15_bombs(tmp_path: Path):
    """400 within no time, whatever it is; the loop goes on, and so does the run."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = await d.task("source-a")
        true = d.callback(task)
        for name, body in BOMBS.items():
            bomb = evolve(true, body=body.replace(b"ID", task.task_id.encode()))
            began = time.monotonic()
            assert await d.post(bomb) == 400, name
            assert time.monotonic() - began < 5.0, name
        await d.quiet()
        assert (d.polls, d.effects) == (0, [])

        assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, "source-a")


# -- C16 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-600.0, 600.0])
async def test_fault_C16_a_clock_ten_minutes_off(off: float, tmp_path: Path):
    """All are refused, which is told once; polls save the run."""
    sources = [f"source-{n}" for n in range(5)]
    wrong: dict[str, Any] = {"clock": lambda: time.time() + off, "durations": lambda _rng: 0.05}
    async with door(tmp_path, **wrong) as d:
        await d.ended(d.run(*sources, polling=schedule(SOON)), *sources)

        assert await d.posted(5) == [401] * 5
        assert d.effects == []
        assert d.reasons == ["time"] * 5
        alarms = [event for event in d.heard if isinstance(event, CallbackClockSkewed)]
        assert len(alarms) == 1


# -- C17 --------------------------------------------------------------------------------------


async def test_fault_C17_the_users_handler_is_bad(tmp_path: Path):
    """It raises, hangs in a thread, hangs in the loop: each callback is thanked for at once.

    A handler is told of each event once, whatever became of the last one.
    """
    sources = [f"source-{n}" for n in range(4)]
    told: list[str] = []
    begun: list[str] = []
    late, release = asyncio.Event(), threading.Event()

    def raising(event: CallbackEvent) -> None:
        told.append(event.task_id)
        raise RuntimeError("a bug of the user")

    async def hanging(event: CallbackEvent) -> None:
        begun.append(event.task_id)
        await late.wait()

    def stuck(event: CallbackEvent) -> None:
        release.wait(LONGEST)

    def failing(_event: Any) -> None:
        raise ValueError("a bug in a hook")

    async with door(tmp_path, listener_timeout=0.05, hooks=[failing]) as d:
        ends = [d.receiver.subscribe(one) for one in (raising, stuck, hanging)]
        run = d.run(*sources)
        for task in await d.tasks(sources):
            began = time.monotonic()
            assert await d.post(d.callback(d.end(task))) == 200
            assert time.monotonic() - began < 5.0  # Kie waits for fifteen
        await d.ended(run, *sources)
        async with asyncio.timeout(LONGEST):
            while len(told) < 4 or len(begun) < 4:
                await d.quiet()
        release.set()
        for end in ends:
            end()
        ids = [row.task_id for row in d.w.books.creates]
        assert sorted(told) == sorted(begun) == sorted(ids)


# -- C18 --------------------------------------------------------------------------------------

OLD, NEW = f"old-{CANARY_HMAC}", f"new-{CANARY_HMAC}"


async def test_fault_C18_the_key_is_rotated(tmp_path: Path):
    """Both keys are known during the change: none is refused, and no reference is forgotten."""
    sources = [f"source-{n}" for n in range(4)]
    async with door(tmp_path, hmac_keys=[NEW, OLD]) as d:
        d.core.hmac_key = OLD
        run = d.run(*sources)
        tasks = await d.tasks(sources)
        for number, task in enumerate(tasks):
            d.core.hmac_key = OLD if number < 2 else NEW
            assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, *sources)
        assert d.polls == 4
        assert CANARY_HMAC not in repr(d.receiver) + repr(vars(d.receiver))


async def test_fault_C18_the_key_was_changed_and_nobody_told_us(tmp_path: Path):
    """All are refused then, and polls save the run."""
    sources = ["source-0", "source-1"]
    async with door(tmp_path, hmac_keys=[OLD], durations=lambda _rng: 0.05) as d:
        d.core.hmac_key = NEW
        await d.ended(d.run(*sources, polling=schedule(SOON)), *sources)
        assert await d.posted(2) == [401, 401]
        assert d.effects == []


async def test_fault_C18_references_of_before_the_restart(tmp_path: Path):
    """Made with the old key, known by a receiver that has it in second place."""
    for name in ("before", "after", "later"):
        (tmp_path / name).mkdir()
    async with door(tmp_path / "before", hmac_keys=[OLD]) as before:
        reference = before.receiver.new_callback_url().reference
    async with door(tmp_path / "after", hmac_keys=[NEW, OLD]) as d:
        run = d.run("source-a")
        d.core.hmac_key = NEW
        task = d.end(await d.task("source-a"))
        assert await d.post(d.callback(task), url=f"{d.url}/kie/cb/{reference}") == 200
        await d.ended(run, "source-a")

    async with door(tmp_path / "later", hmac_keys=[NEW]) as d:
        run = d.run("source-a", polling=schedule(SOON))
        d.core.hmac_key = NEW
        task = d.end(await d.task("source-a"))
        assert await d.post(d.callback(task), url=f"{d.url}/kie/cb/{reference}") == 401
        await d.ended(run, "source-a")
