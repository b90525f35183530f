"""No secret leaks: a canary key is looked for wherever it could come out.

The suite's log records are read for it from the first test to the last: see conftest.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import traceback

import pytest

from kie_async import KieError, KieSession, PollSchedule
from kie_async.journal import Journal
from tests.conftest import CANARY_KEY


async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer nothing readable."""
    writer.write(b"HTTP/1.1 500 no\r\nContent-Length: 4\r\nSet-Cookie: a=b\r\n\r\n<no>")
    writer.close()


def everything_shown(error: BaseException) -> str:
    """Return what tools show of an error: text, repr, chain, and all locals of all frames."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = ["".join(told.format()), repr(error), str(error), repr(vars(error))]
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        shown += [repr(link), repr(link.args), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(shown)


async def errors_of_all_calls(url: str) -> list[BaseException]:
    """Let every call fail, and return what came out."""
    found: list[BaseException] = []
    kie = KieSession(CANARY_KEY, base_url=url, polling=PollSchedule(first_gap=0.01, min_gap=0.01))
    async with kie:
        for call in (
            kie.create_task("m", {}),
            kie.get_task("a-task", timeout=0.3),
            kie.get_credits(timeout=0.3),
            kie.upscale("a-task", timeout=0.3),
            kie.wait_for_result("a-task", timeout=0.3),
        ):
            try:
                await call
            except KieError as error:
                found.append(error)
    return found


@pytest.mark.asyncio
async def test_no_error_shows_the_key(caplog):
    """Not in its text, its chain, its locals, its pickle, nor in a log at DEBUG."""
    caplog.set_level(logging.DEBUG)
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with server:
        found = await errors_of_all_calls(f"http://127.0.0.1:{port}")
    found += await errors_of_all_calls(f"http://127.0.0.1:{port}")  # now it is refused

    assert len(found) == 10
    for error in found:
        assert CANARY_KEY not in everything_shown(error)
        assert CANARY_KEY.encode() not in pickle.dumps(error)
    assert CANARY_KEY not in caplog.text


def test_the_search_finds_a_leak():
    """The control: an error whose locals hold the key is caught."""

    def leaks():
        headers = {"Authorization": f"Bearer {CANARY_KEY}"}
        raise ValueError(len(headers))

    with pytest.raises(ValueError, match="1") as caught:
        leaks()

    assert CANARY_KEY in everything_shown(caught.value)


def test_a_session_shows_no_key():
    """Its repr, and the repr of everything that hangs on it."""
    kie = KieSession(CANARY_KEY, base_url="http://127.0.0.1:1")
    todo, seen, shown = [kie], set(), []
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        shown.append(repr(thing))
        if type(thing).__module__.startswith("kie_async"):
            names = {n for cls in type(thing).__mro__ for n in getattr(cls, "__slots__", ())}
            names |= set(getattr(thing, "__dict__", ()))
            todo += [getattr(thing, name) for name in names if hasattr(thing, name)]

    assert len(seen) > 10
    assert CANARY_KEY not in "\n".join(shown)
    with pytest.raises(Exception, match="pickle"):
        pickle.dumps(kie)


@pytest.mark.asyncio
async def test_the_journal_holds_no_key(tmp_path):
    """Not in its file, not in its write-ahead log."""
    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with server, Journal(tmp_path / "run.db") as journal:
        async with KieSession(CANARY_KEY, base_url=f"http://127.0.0.1:{port}") as kie:
            outcomes = [o async for o in kie.upscale_many(["a-source"], journal=journal)]
        found = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert outcomes[0].error is not None
    assert b"a-source" in found
    assert CANARY_KEY.encode() not in found
