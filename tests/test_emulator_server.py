"""The emulator on real sockets, without the client: HTTP, other processes, many connections."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest

from kie_async.emulator import Emulator, Rule
from tests.test_emulator_wire import Plug, create_body, exchange, receiver, until


@pytest.mark.asyncio
async def test_errors_are_http_200_and_look_like_the_captures():
    """Status, headers, and the envelope's code."""
    async with Emulator() as emulator:
        status, headers, body = await exchange(emulator, "GET", "/api/v1/jobs/recordInfo?taskId=x")
        lost, _, _ = await exchange(emulator, "GET", "/api/v1/no")

    assert (status, json.loads(body)["code"], lost) == (200, 422, 404)
    assert headers["content-type"] == "application/json;charset=UTF-8"
    assert headers["server"] == "cloudflare"
    assert headers["cf-cache-status"] == "DYNAMIC"
    assert not {"retry-after", "set-cookie"} & set(headers)


@pytest.mark.asyncio
async def test_answers_are_gzip_and_chunked_for_who_accepts_it():
    """As captured; and plain for everybody else, or if told so."""
    path, accept = "/api/v1/chat/credit", {"Accept-Encoding": "gzip"}
    async with Emulator() as emulator, Emulator(gzip_answers=False) as plain:
        _, headers, body = await exchange(emulator, "GET", path, headers=accept)
        _, others, other = await exchange(plain, "GET", path, headers=accept)

    assert (headers["content-encoding"], headers["transfer-encoding"]) == ("gzip", "chunked")
    assert json.loads(gzip.decompress(body)) == json.loads(other)
    assert "content-encoding" not in others


@pytest.mark.asyncio
async def test_a_create_over_the_wire_is_in_the_books():
    """With its connection."""
    async with Emulator() as emulator:
        source = await emulator.add_source_task()
        _, _, body = await exchange(
            emulator, "POST", "/api/v1/jobs/createTask", create_body(source)
        )

    assert emulator.books.creates[0].task_id == json.loads(body)["data"]["taskId"]
    assert emulator.books.paid(source) == 1
    assert emulator.connections == emulator.books.most_open == 1


@pytest.mark.asyncio
async def test_other_processes_make_sources_and_rules_and_read_the_books():
    """Under /__emulator__/; what is wrong is told."""
    async with Emulator() as emulator:

        async def tell(method, what, body=None):
            sent = None if body is None else json.dumps(body).encode()
            status, _, told = await exchange(emulator, method, f"/__emulator__/{what}", sent)
            return status, (json.loads(told) if status != 404 else None)

        _, made = await tell("POST", "sources", {"count": 2})
        _, named = await tell("POST", "sources", {"task_ids": ["a", "b-1"]})
        _, rules = await tell(
            "POST",
            "rules",
            [{"route": "createTask", "action": "maintenance", "nth": [0]}],
        )
        create = "/api/v1/jobs/createTask"
        codes = [
            json.loads((await exchange(emulator, "POST", create, create_body("b-1")))[2])["code"]
            for _ in range(2)
        ]
        _, books = await tell("GET", "books")
        wrong, said = await tell("POST", "rules", {"route": "createTask", "action": "explode"})
        _, none = await tell("DELETE", "rules")
        nothing, _ = await tell("GET", "nothing")

    assert len(made["task_ids"]) == 2
    assert named["task_ids"] == ["a", "b-1"]
    assert (rules, none) == ({"rules": 1}, {"rules": 0})
    assert codes == [455, 200]
    assert books["paid"] == {"b-1": 1}
    assert (wrong, nothing) == (400, 404)
    assert "explode" in said["error"]


@pytest.mark.asyncio
async def test_a_callback_is_posted_for_real():
    """To the address of the create, with both headers; the books know the answer's status."""
    async with receiver() as (url, posted), Emulator(speed=20) as emulator:
        body = create_body("a-source", f"{url}/cb/ref-1")
        await exchange(emulator, "POST", "/api/v1/jobs/createTask", body)
        async with asyncio.timeout(10):
            head, told = await posted.get()
        await until(lambda: emulator.books.callbacks)
    row = emulator.books.callbacks[0]

    assert head.startswith("POST /cb/ref-1 ")
    assert "x-webhook-timestamp: " in head.lower()
    assert "x-webhook-signature: " in head.lower()
    assert json.loads(told)["data"]["state"] == "success"
    assert (row.ref, row.status, row.fault) == ("ref-1", 200, "")
    assert emulator.books.refs["ref-1"]["callbacks"] == 1


@pytest.mark.asyncio
async def test_an_early_callback_comes_before_the_answer_of_its_create():
    """The create is answered after a second; by then the callback is here."""
    async with receiver() as (url, posted), Emulator() as emulator:
        emulator.inject(Rule(route="callback", action="early"))
        emulator.inject(Rule(route="createTask", action="delay", when="after", delay=30.0))
        body = create_body("a-source", f"{url}/cb/ref-1")
        waiting = asyncio.create_task(exchange(emulator, "POST", "/api/v1/jobs/createTask", body))
        async with asyncio.timeout(10):
            await posted.get()
        answered = waiting.done()
        waiting.cancel()

    assert not answered


@pytest.mark.asyncio
async def test_nobody_outside_this_machine_is_called():
    """And who does not answer is no error."""
    async with Emulator(speed=1000) as emulator:
        for url in ("https://callback.example/x", "http://127.0.0.1:9/x", "no url"):
            body = create_body("a-source", url)
            await exchange(emulator, "POST", "/api/v1/jobs/createTask", body)
        await until(lambda: len(emulator.books.callbacks) == 3)

    assert {row.status for row in emulator.books.callbacks} == {None}


@pytest.mark.asyncio
async def test_idle_connections_are_closed():
    """After the seconds that were asked for."""
    async with Emulator(keepalive=0.05) as emulator, Plug(emulator) as plug:
        await plug.ask("GET", "/api/v1/chat/credit")
        rest = await plug.rest()

    assert rest.endswith(b"}")


@pytest.mark.asyncio
async def test_a_thousand_connections_at_once():
    """All open, all answered."""
    async with Emulator() as emulator:
        plugs = [Plug(emulator) for _ in range(1000)]
        for plug in plugs:
            await plug.__aenter__()
        for plug in plugs:
            await plug.ask("GET", "/api/v1/chat/credit")
        heads = [(await plug.reader.readuntil(b"\r\n"))[:12] for plug in plugs]
        for plug in plugs:
            await plug.__aexit__()

    assert heads == [b"HTTP/1.1 200"] * 1000
    assert emulator.books.most_open == 1000


@pytest.mark.asyncio
async def test_it_ends_at_once_whatever_is_open():
    """Silent requests, idle connections, work that is late: the end takes no second."""
    loop = asyncio.get_running_loop()
    async with Emulator() as emulator:
        emulator.inject(Rule(route="credit", action="silence"))
        emulator.inject(Rule(route="createTask", action="delay", delay=60.0))
        async with Plug(emulator) as silent, Plug(emulator) as late, Plug(emulator):
            await silent.ask("GET", "/api/v1/chat/credit")
            await late.ask("POST", "/api/v1/jobs/createTask", create_body("a"))
            await until(lambda: emulator.books.requests.get("createTask"))
            began = loop.time()
            await emulator.__aexit__(None, None, None)
            took = loop.time() - began
            await emulator.__aenter__()  # and it can be started again

    assert took < 1.0


@pytest.mark.asyncio
async def test_a_taken_port_is_told():
    """As the system says it."""
    async with Emulator() as emulator:
        with pytest.raises(OSError, match="in use"):
            await Emulator(port=int(emulator.url.rpartition(":")[2])).__aenter__()
    with pytest.raises(RuntimeError, match="not started"):
        await Emulator().__aexit__(None, None, None)
