"""Rows H20 to H27 and H29: answers that are whole and still not what was asked for.

On a create, what cannot be read is a doubt (an id that can be read wins over all else); on
a poll it is looked at again.  ProtocolError and ResponseTooLarge are `ResponseError`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from kie_async.emulator import Answer, Request, Rule
from kie_async.errors import CreateInDoubtError, TaskFailedError
from tests.conftest import CANARY_KEY
from tests.faults.world_t import UPSCALE, World, world
from tests.faults.world_t_proxy import FaultProxy

pytestmark = pytest.mark.asyncio

MIB = 2**20
JSON = b"Content-Type: application/json\r\n"


def framed(code: Any = 200, **data: Any) -> bytes:
    """Return an envelope."""
    return json.dumps({"code": code, "msg": "success", "data": data or None}).encode()


def raw(body: bytes, headers: bytes = JSON, *, length: bool = True) -> bytes:
    """Return an answer as it goes over the wire."""
    if length:
        headers += b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n" + body


def told(change: Callable[[bytes], bytes]) -> Callable[[Request, Answer | None], Answer]:
    """Return an action that does the work and changes what is told of it."""

    def act(_request: Request, answer: Answer | None) -> Answer:
        assert answer is not None
        return evolve(answer, body=change(answer.body))

    return act


async def struck(w: World, faults: dict[str, tuple[Any, dict[str, Any]]], expected: str) -> None:
    """Let each source's create be done, and its answer be spoilt; all end as *expected*."""
    for source, (action, fields) in faults.items():
        w.strike(source, action, when="after", **fields)

    found = await w.run(faults)

    assert {s: str(o.status) for s, o in found.items()} == dict.fromkeys(faults, expected)
    assert w.books.paid == dict.fromkeys(faults, 1)
    assert w.books.requests["createTask"] == len(faults)
    await w.end_well()


NO_ID: dict[str, bytes] = {
    "null": b'{"code":200,"msg":"success","data":null}',
    "nothing": b'{"code":200,"msg":"success"}',
    "empty": framed(taskId=""),
    "number": framed(taskId=12345678),
    "long": framed(taskId="x" * 10_240),
    "path": framed(taskId="../../etc/passwd"),
    "space": framed(taskId="a b c d e f"),
    "list": framed(taskId=["0" * 32]),
    "hidden": framed(taskId="abc\u202edef0"),
    "text": b'"0123456789abcdef"',
}


async def test_fault_H20_code_200_without_a_usable_id(tmp_path: Path):
    """Doubts; and no such id is ever asked for."""
    asked: list[str] = []
    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="recordInfo", action="headers", match=_noting(asked)))
        await struck(
            w, {name: ("body", {"body": body}) for name, body in NO_ID.items()}, "in_doubt"
        )
        real = {row.task_id for row in w.books.creates}
    assert {target.partition("taskId=")[2] for target in asked} <= real


def _noting(targets: list[str]) -> Callable[[Request], bool]:
    def note(request: Request) -> bool:
        targets.append(request.target)
        return True

    return note


async def test_fault_H20_the_id_stands_in_another_field(tmp_path: Path):
    """A valid one counts wherever it is."""
    async with world(tmp_path) as w:
        await struck(w, {"source-a": ("patch", {"drop": ("taskId",), "data": {}})}, "done")


async def test_fault_H21_http_500_with_a_task_id(tmp_path: Path):
    """A task exists, whatever the status says."""
    statuses = (400, 404, 429, 500, 502, 503)
    async with world(tmp_path) as w:
        faults = {f"s{status}": ("status", {"status": status}) for status in statuses}
        await struck(w, faults, "done")


CODES = ['"200"', "200.0", "true", "null", '"x"', "-1", "[200]"]


async def test_fault_H22_a_code_that_is_no_number(tmp_path: Path):
    """With an id it does not matter; without one it is a doubt."""

    def coded(code: str) -> Callable[[bytes], bytes]:
        return lambda body: body.replace(b'"code":200', f'"code":{code}'.encode())

    async with world(tmp_path) as w:
        faults = {f"c{n}": (told(coded(code)), {}) for n, code in enumerate(CODES)}
        missing = told(lambda body: body.replace(b'"code":200,', b""))
        await struck(w, {**faults, "missing": (missing, {})}, "done")

    (tmp_path / "second").mkdir()
    async with world(tmp_path / "second") as w:
        bodies = [f'{{"code":{code},"data":null}}' for code in CODES] + ['{"data":null}']
        faults = {f"c{n}": ("body", {"body": body}) for n, body in enumerate(bodies)}
        await struck(w, faults, "in_doubt")


async def test_fault_H22_digits_as_text_are_a_code(tmp_path: Path):
    """The text 429 is a refusal like the number: sent again, paid once."""
    async with world(tmp_path) as w:
        w.strike("source-a", "body", body='{"code":"429","msg":"too many"}')
        assert await w.statuses(["source-a"]) == {"source-a": "done"}
        assert w.books.requests["createTask"] == 2
        await w.end_well()


LABELS: dict[str, Any] = {
    "html": ("wrong-type", {}),
    "plain-as-gzip": ("not-gzip", {}),
    "no-type": (lambda _request, answer: raw(answer.body, b""), {}),
    "utf-8-bom": (told(lambda body: b"\xef\xbb\xbf" + body), {}),
    "gzip-twice-named": ("gzip", {"headers": {"Content-Encoding": "x-gzip"}}),
}
UNREADABLE: dict[str, Any] = {
    "utf-16": (told(lambda body: body.decode().encode("utf-16")), {}),
    "utf-32": (told(lambda body: body.decode().encode("utf-32-le")), {}),
    "brotli": ("headers", {"headers": {"Content-Encoding": "br"}}),
    "cut-gzip": ("gzip", {"cut": 20}),
}


@pytest.mark.parametrize(
    ("faults", "expected"), [(LABELS, "done"), (UNREADABLE, "in_doubt")], ids=["read", "not-read"]
)
async def test_fault_H23_wrong_labels(faults: dict[str, Any], expected: str, tmp_path: Path):
    """What can be decoded is, whatever is written on it; the rest is a doubt."""
    async with world(tmp_path, gzip_answers=False) as w:
        await struck(w, faults, expected)


async def test_fault_H23_wrong_labels_on_polls(tmp_path: Path):
    """Read, or looked at again."""
    async with world(tmp_path, gzip_answers=False) as w:
        for action, fields in (*UNREADABLE.values(), *LABELS.values()):
            w.emulator.inject(
                Rule(route="recordInfo", action=action, when="after", times=1, **fields)
            )
        ids = [f"source-{n}" for n in range(5)]
        assert await w.statuses(ids) == dict.fromkeys(ids, "done")
        assert w.books.requests["recordInfo"] >= len(ids) + len(UNREADABLE)
        await w.end_well()


HEADS = {
    "two-lengths": lambda body: raw(body, JSON + b"Content-Length: 3\r\n"),
    "length-and-chunks": lambda body: raw(body, JSON + b"Transfer-Encoding: chunked\r\n"),
    "70-kb": lambda body: raw(body, JSON + b"X: " + b"y" * 70_000 + b"\r\n"),
    "a-thousand": lambda body: raw(body, JSON + b"X: y\r\n" * 1000),
    "bad-length": lambda body: raw(body, JSON + b"Content-Length: -7\r\n", length=False),
    "bad-chunk": lambda _: raw(
        b"zz\r\n{}\r\n", JSON + b"Transfer-Encoding: chunked\r\n", length=False
    ),
    "no-http": lambda body: b"\x16\x03\x01" + body,
}


async def test_fault_H24_headers_that_cannot_be(tmp_path: Path):
    """No such answer is trusted; the task is bound by its reference."""

    def bytes_of(make: Callable[[bytes], bytes]) -> Any:
        return lambda _request, answer: make(answer.body)

    async with world(tmp_path, gzip_answers=False) as w:
        faults = {name: (bytes_of(make), {}) for name, make in HEADS.items()}
        await struck(w, faults, "in_doubt")


CHILD = """
import asyncio, json, sys
import aiohttp
from kie_async import CreateInDoubtError, KieSession

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

async def ours(url, key):
    async with KieSession(key, base_url=url) as kie:
        await kie.create_task("grok-imagine/upscale", {"task_id": "warm"})
        before = peak()
        try:
            await kie.create_task("grok-imagine/upscale", {"task_id": "struck"})
        except CreateInDoubtError as error:
            return peak() - before, str(error)

async def naive(url, key):
    sent = {"model": "grok-imagine/upscale", "input": {"task_id": "struck"}}
    async with aiohttp.ClientSession(url, headers={"Authorization": "Bearer " + key}) as http:
        before = peak()
        async with http.post("/api/v1/jobs/createTask", json=sent) as answer:
            size = len(await answer.read())
        return peak() - before, str(size)

print(json.dumps(asyncio.run({"ours": ours, "naive": naive}[sys.argv[1]](*sys.argv[2:]))))
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


async def memory_of(w: World, client: str, url: str) -> tuple[int, str]:
    """Let *client* create in a process of its own; return by how much its peak rose."""
    run = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, client, url, CANARY_KEY),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    shown, errors = await run.communicate()
    assert run.returncode == 0, errors.decode()
    rose, said = json.loads(shown)
    return rose, said


@linux
async def test_fault_H25_a_gzip_bomb(tmp_path: Path):
    """A gibibyte of zeros in a mebibyte: a doubt, and at most 16 MiB more memory."""
    async with world(tmp_path) as w:
        w.strike("struck", "bomb", when="after", size=1024 * MIB)
        rose, said = await memory_of(w, "ours", w.url)
    assert "longer than" in said
    assert rose <= 16 * MIB


@linux
async def test_fault_H26_an_endless_body(tmp_path: Path):
    """It is cut at two mebibytes; what comes more stands in the kernel's buffers."""
    async with world(tmp_path) as w, FaultProxy(w.url) as proxy:
        w.strike("struck", "endless", when="after")
        rose, said = await memory_of(w, "ours", proxy.url)
        assert proxy.returned <= 32 * MIB
    assert "longer than" in said
    assert rose <= 16 * MIB


@linux
async def test_control_H_a_client_without_a_bound_is_caught(tmp_path: Path):
    """The same measure sees a client that reads whatever comes."""
    async with world(tmp_path) as w:
        w.strike("struck", "bomb", when="after", size=64 * MIB)
        rose, said = await memory_of(w, "naive", w.url)
    assert int(said) == 64 * MIB
    assert rose > 16 * MIB


BOMBS: dict[str, bytes] = {
    "depth": b"[" * 100_000,
    "objects": b'{"data":' * 50_000,
    "digits": b'{"code":200,"data":' + b"9" * 20_000 + b"}",
    "long-code": b'{"code":' + b"9" * 20_000 + b"}",
    "nan": b'{"code":NaN,"data":Infinity}',
    "bom": b"\xef\xbb\xbf{}",
    "surrogate": b'{"code":200,"msg":"\\ud800","data":{"taskId":"\\udfff"}}',
    "doubled": b'{"code":200,"code":404.5,"data":{},"data":null}',
    "nul": b"\x00" * 100,
    "two": b'{"code":200}{"code":200}',
    "scalar": b"200",
}


async def test_fault_H27_json_bombs_on_creates(tmp_path: Path):
    """Decoded or not: doubts, in bounded time, and nothing else comes out."""
    async with world(tmp_path) as w:
        await struck(
            w, {name: ("body", {"body": body}) for name, body in BOMBS.items()}, "in_doubt"
        )


async def test_fault_H27_json_bombs_on_polls(tmp_path: Path):
    """Looked at again, each time."""
    async with world(tmp_path) as w:
        for body in BOMBS.values():
            w.emulator.inject(Rule(route="recordInfo", action="body", body=body, times=1))
        ids = [f"source-{n}" for n in range(5)]
        assert await w.statuses(ids) == dict.fromkeys(ids, "done")
        assert w.books.requests["recordInfo"] >= len(ids) + len(BOMBS)
        await w.end_well()


REASONS = ["\\ud800 half a pair", "a\\u0000b", "x" * 100_000, "\\u202egnp.exe", "1e400"]


async def test_fault_H27_oddities_in_a_record(tmp_path: Path):
    """A failure told in impossible text is a failure all the same, and stands in the journal."""

    def odd(reason: str) -> Callable[[bytes], bytes]:
        return lambda body: body.replace(
            b'"failMsg":"out of luck"', f'"failMsg":"{reason}"'.encode()
        )

    async with world(tmp_path) as w:
        w.emulator.inject(Rule(route="task", action="fail", code=501, msg="out of luck"))
        ids = [f"source-{n}" for n in range(len(REASONS))]
        for number, reason in enumerate(REASONS):
            w.emulator.inject(
                Rule(
                    route="recordInfo",
                    action=told(odd(reason)),
                    when="after",
                    match=_about(w, f"source-{number}"),
                )
            )

        found = await w.run(ids)

        assert {s: str(o.status) for s, o in found.items()} == dict.fromkeys(ids, "failed")
        assert all(isinstance(o.error, TaskFailedError) for o in found.values())
        items = [await w.journal.get(source) for source in ids]
        assert all(item is not None and item.error_message for item in items)
        await w.check()


def _about(w: World, source: str) -> Callable[[Request], bool]:
    """Match requests about the task of a source."""

    def about(request: Request) -> bool:
        return any(
            row.task_id in request.target for row in w.books.creates if row.source_id == source
        )

    return about


async def test_fault_H29_an_answer_about_another_task(tmp_path: Path):
    """B was asked for and A is told, finished: B is asked again, and A is not touched."""
    async with world(tmp_path) as w:
        assert await w.statuses(["source-a"]) == {"source-a": "done"}
        other = w.books.creates[0].task_id
        urls = {"resultUrls": ["https://files.example/of-a.png"]}
        w.emulator.inject(
            Rule(
                route="recordInfo",
                action="patch",
                data={"taskId": other, "state": "success", "resultJson": json.dumps(urls)},
                match=_about(w, "source-b"),
                times=4,
            )
        )

        found = await w.run(["source-b"])

        task = found["source-b"].task
        assert task is not None
        assert task.task_id == w.books.creates[1].task_id
        assert "of-a" not in "".join(task.result_urls)
        first, second = await w.journal.get("source-a"), await w.journal.get("source-b")
        assert first is not None
        assert second is not None
        assert (first.task_id, second.task_id) == (other, task.task_id)
        await w.end_well()


async def test_fault_H20_H27_a_single_create_says_so_too(tmp_path: Path):
    """Without a journal the exception is what there is: a doubt that may have cost money."""
    async with world(tmp_path) as w, w.session() as kie:
        for name, body in {**NO_ID, **BOMBS}.items():
            w.strike(name, "body", body=body, when="after")
            error = await w.create(kie, name)
            assert isinstance(error, CreateInDoubtError)
            assert error.maybe_charged
            assert len(str(error)) < 1000
        await w.check()
        w.emulator.clear_rules()
        w.singles.made("after", await kie.create_task(UPSCALE, {"task_id": "after"}))
