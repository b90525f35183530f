"""Rows C01 to C07 and C09: who rings is not who he says, says something else, or rings again."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from kie_async.emulator._callbacks import Callback
from tests.faults.test_download_answers import nothing_else
from tests.faults.world_c import SOON, door, ends_of, schedule

pytestmark = pytest.mark.asyncio

Forge = Callable[[Callback], Callback]


def with_signature(change: Callable[[str], str]) -> Forge:
    """Return what changes a callback's signature."""

    def forge(made: Callback) -> Callback:
        name = "X-Webhook-Signature"
        return evolve(made, headers={**made.headers, name: change(made.headers[name])})

    return forge


def without(*names: str) -> Forge:
    """Return what takes headers away."""
    return lambda made: evolve(
        made, headers={n: value for n, value in made.headers.items() if n not in names}
    )


def one_bit_off(text: str) -> str:
    digest = bytearray(base64.b64decode(text))
    digest[7] ^= 1
    return base64.b64encode(digest).decode()


FORGED: dict[str, Forge] = {
    "one bit off": with_signature(one_bit_off),
    "empty": with_signature(lambda _: ""),
    "long": with_signature(lambda text: text * 100),
    "not ASCII": with_signature(lambda text: "ä" + text[1:]),
    "url-safe": with_signature(lambda text: "-_" + text[2:]),
    "hex": with_signature(lambda text: base64.b64decode(text).hex()),
    "unsigned": without("X-Webhook-Signature"),
    "without a time": without("X-Webhook-Timestamp"),
    "neither": without("X-Webhook-Signature", "X-Webhook-Timestamp"),
}


async def test_fault_C01_forged_signatures(tmp_path: Path):
    """While a run waits for just these tasks: 401, and not one poll for it."""
    sources = ["source-0", "source-1"]
    async with door(tmp_path) as d:
        run = d.run(*sources)
        tasks = await d.tasks(sources)
        for forge in FORGED.values():
            for task in tasks:
                assert await d.post(forge(d.callback(task))) == 401
        for task in tasks:
            assert await d.post(d.callback(task, "forged")) == 401
            assert await d.post(d.callback(task, "unsigned")) == 401
        await d.quiet()
        assert d.polls == 0
        assert d.effects == []
        assert d.receiver.pending == 0

        for task in tasks:
            assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, *sources)
        assert d.polls == 2


async def test_fault_C01_a_signature_of_a_megabyte(tmp_path: Path):
    """The server's own bound on headers is before us; the run goes on."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = await d.task("source-a")
        huge = with_signature(lambda text: text * 25_000)(d.callback(task))
        assert await d.post(huge) in {400, 401, 431}
        assert d.polls == 0

        assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, "source-a")


async def test_fault_C02_a_valid_signature_over_another_body(tmp_path: Path):
    """It rings, and that is all: what is true is asked of Kie."""
    async with door(tmp_path) as d:
        with nothing_else(d.w.url, d.url):
            run = d.run("source-a")
            task = await d.task("source-a")
            lie = d.callback(d.end(task), "foreign")
            assert b"attacker.example" in lie.body
            assert await d.post(lie) == 200
            await d.ended(run, "source-a")
        (outcome,) = d.outcomes
        assert outcome.task is not None
        assert outcome.task.result_urls == tuple(d.core.result_urls(task))


async def test_fault_C03_two_ids(tmp_path: Path):
    """The signature is of one, the other stands beside it: refused, whichever is meant."""
    sources = ["source-0", "source-1"]
    async with door(tmp_path) as d:
        run = d.run(*sources)
        one, other = await d.tasks(sources)
        for first, second in ((one, other), (other, one)):
            mixed = d.callback(first, "mixed")
            body = mixed.body.replace(b"0" * 32, second.task_id.encode())
            assert body != mixed.body
            assert await d.post(evolve(mixed, body=body)) == 401
        await d.quiet()
        assert (d.polls, d.effects) == (0, [])

        for task in (one, other):
            assert await d.post(d.callback(d.end(task))) == 200
        await d.ended(run, *sources)


async def test_fault_C04_a_replay_within_the_window(tmp_path: Path):
    """Thanked for, and nothing happens: not during the run, and not after it."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = d.end(await d.task("source-a"))
        true = d.callback(task)
        assert [await d.post(true) for _ in range(3)] == [200] * 3
        await d.ended(run, "source-a")

        assert await d.post(true) == 200
        assert await d.post(d.callback(task)) == 200  # Kie sends it once more, signed anew
        await d.quiet()
        assert d.polls == 1
        assert len(d.effects) == 1
        await d.check()


async def test_fault_C05_too_old_or_from_the_future(tmp_path: Path):
    """Five minutes either way; a recorded one is worth nothing later."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = d.end(await d.task("source-a"))
        for at in (-86_400, -305, 305, 86_400):
            assert await d.post(d.callback(task, at=time.time() + at)) == 401
        assert d.reasons == ["time"] * 4
        assert (d.polls, d.effects) == (0, [])

        assert await d.post(d.callback(task, at=time.time() - 290)) == 200
        await d.ended(run, "source-a")


async def test_fault_C06_fifty_at_once(tmp_path: Path):
    """All are thanked for; one effect, one poll, one end."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = d.end(await d.task("source-a"))
        true = d.callback(task)

        assert await asyncio.gather(*(d.post(true) for _ in range(50))) == [200] * 50
        await d.ended(run, "source-a")
        assert len(d.effects) == 1
        assert d.polls == 1
        assert ends_of(d.w.events) == [task.task_id]


@pytest.mark.parametrize("first", ["success", "generating"])
async def test_fault_C07_an_older_state_comes_later(first: str, tmp_path: Path):
    """No word of a callback takes the end back, in whatever order they come."""
    async with door(tmp_path) as d:
        run = d.run("source-a")
        task = d.end(await d.task("source-a"))
        true = d.callback(task)
        older = d.callback(task, "backwards", at=time.time() - 2)
        assert b'"generating"' in older.body
        order = [true, older] if first == "success" else [older, true]

        assert [await d.post(each) for each in order] == [200, 200]
        await d.ended(run, "source-a")
        assert await d.post(evolve(older, headers=d.callback(task).headers)) == 200
        await d.quiet()
        assert d.polls <= 2
        assert ends_of(d.w.events) == [task.task_id]
        await d.check()


async def test_fault_C09_days_late(tmp_path: Path):
    """After the end of the run, and while another one is on: thanked for, and nothing moves."""
    async with door(tmp_path) as d:
        run = d.run("source-a", polling=schedule(SOON))
        task = d.end(await d.task("source-a"))
        await d.ended(run, "source-a")
        polls, before = (
            d.polls,
            [await d.w.journal.get("source-a"), await d.w.journal.attempts("source-a")],
        )

        another = d.run("source-b")
        second = await d.task("source-b")
        assert await d.post(d.callback(task, at=time.time() - 3 * 86_400)) == 401
        assert await d.post(d.callback(task)) == 200
        await d.quiet()
        assert d.polls == polls
        assert [await d.w.journal.get("source-a"), await d.w.journal.attempts("source-a")] == before

        assert await d.post(d.callback(d.end(second))) == 200
        await d.ended(another, "source-b")
