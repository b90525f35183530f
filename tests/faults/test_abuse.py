"""Rows A01 to A05: secrets, hostile text, a hostile environment, files that others can reach."""

from __future__ import annotations

import asyncio
import base64
import gc
import logging
import os
import pickle
import stat
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kie_async import KieSession, UsageError
from kie_async.callbacks import CallbackReceiver
from kie_async.emulator import Rule
from kie_async.errors import JournalError, KieError
from kie_async.instrumentation import Event
from kie_async.journal import Journal
from tests.conftest import CANARY_HMAC, CANARY_KEY
from tests.faults.world_k import World, collected, until, world
from tests.test_secrets import everything_shown

pytestmark = pytest.mark.timeout(120)

UPSCALE = "grok-imagine/upscale"


# -- A01, A04: where a secret could come out -----------------------------------------------


def found_in(shown: Iterable[str | bytes]) -> list[str]:
    """Return the secrets that can be read in any of it, as they are or in base64."""
    text = b"\n".join(one.encode() if isinstance(one, str) else one for one in shown)
    secrets = (CANARY_KEY, CANARY_HMAC)
    return [
        one
        for one in secrets
        if one.encode() in text or base64.b64encode(one.encode()).rstrip(b"=") in text
    ]


def files_of(folder: Path) -> list[bytes]:
    """Return the bytes of every file in a folder."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def public(things: Iterable[Any]) -> list[str]:
    """Return what is shown of objects: repr, str, and the repr of their attributes."""
    shown: list[str] = []
    for thing in things:
        shown += [repr(thing), str(thing), f"{thing}"]
        shown += [repr(getattr(thing, name, None)) for name in dir(thing) if name[0] != "_"]
    return shown


async def eventful(w: World, receiver: CallbackReceiver, heard: list[Event]) -> list[Any]:
    """Let things go well and badly; return all that the caller gets to see."""
    faults = [
        {"route": "createTask", "action": "rst", "when": "after", "match": w.ids[1]},
        {"route": "createTask", "action": "html", "status": 502, "match": w.ids[2]},
        {"route": "createTask", "action": "envelope", "code": 401, "match": w.ids[3]},
        {"route": "recordInfo", "action": "garbage", "nth": (0, 2)},
        {"route": "files", "action": "cut", "cut": 100, "nth": 0},
    ]
    for fault in faults:
        w.emulator.inject(Rule(**fault))
    seen: list[Any] = [receiver]
    session = w.session(callbacks=receiver, hooks=[heard.append])
    async with Journal(w.path) as journal, session:
        run = session.upscale_many(
            w.ids, journal=journal, directory=w.folder / "out", allow_private=True, in_flight=2
        )
        try:
            async with asyncio.timeout(30.0):
                async for outcome in run:
                    seen.append(outcome)
                    if w.books.requests["createTask"] >= 4 and len(seen) > 3:
                        break
        except KieError as error:
            seen.append(error)
        finally:
            await run.aclose()
        seen += [session, journal, run, *[one async for one in journal.export()]]
    return seen


@pytest.mark.asyncio
async def test_fault_A01_the_keys_are_nowhere_to_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Not in logs at DEBUG, the journal, files, objects, events or what was sent as a body."""
    caplog.set_level(logging.DEBUG)
    async with world(tmp_path, 5, api_key=CANARY_KEY, hmac_key=CANARY_HMAC) as w:
        receiver = CallbackReceiver(CANARY_HMAC, public_url="https://hooks.example")
        heard: list[Event] = []
        seen = await eventful(w, receiver, heard)
        sent = [row.payload for row in w.books.creates]
        files = files_of(tmp_path)

    assert len(sent) >= 2
    assert "hooks.example" in sent[0]
    assert any(b"SQLite" in one for one in files)
    assert len(heard) > 10
    errors = [one for one in seen if isinstance(one, BaseException)]
    errors += [one.error for one in seen if getattr(one, "error", None) is not None]
    assert errors
    shown = [everything_shown(one) for one in errors]
    assert found_in([*shown, *public([*seen, *heard]), *sent, *files, caplog.text]) == []


@pytest.mark.asyncio
async def test_fault_A01_the_command_line_shows_no_key(tmp_path: Path):
    """Neither what it prints nor what it writes, when all goes well and when it is refused."""
    async with world(tmp_path, 2, api_key=CANARY_KEY) as w:
        listed = tmp_path / "ids.txt"
        listed.write_text("\n".join(w.ids))
        arguments = ["bulk", str(listed), "--journal", str(w.path), "--json"]
        good = await w.command(*arguments, "--out", str(tmp_path / "out")).ended()
        w.emulator.core.api_key = "another"
        w.path.unlink()
        bad = await w.command(*arguments, key=CANARY_KEY).ended()

        assert (good, bad) == (0, 3)
        assert "summary" in w.said()
        assert found_in([w.said(), *files_of(tmp_path)]) == []


def test_the_search_finds_a_secret_in_each_place(tmp_path: Path):
    """The control: planted in a file, an object, an error's locals, in base64."""

    def leak() -> None:
        headers = f"Bearer {CANARY_KEY}"
        raise ValueError(len(headers))

    with pytest.raises(ValueError, match="2") as caught:
        leak()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"\0" + CANARY_HMAC.encode())

    class Client:
        def __init__(self) -> None:
            self.headers = {"Authorization": f"Bearer {CANARY_KEY}"}

    assert found_in([everything_shown(caught.value)]) == [CANARY_KEY]
    assert found_in(files_of(tmp_path)) == [CANARY_HMAC]
    assert found_in(public([Client()])) == [CANARY_KEY]
    assert found_in([base64.b64encode(CANARY_KEY.encode())]) == [CANARY_KEY]


FAULTS: list[dict[str, Any]] = [
    {"action": "rst"},
    {"action": "fin", "when": "after"},
    {"action": "html", "status": 502},
    {"action": "blocked"},
    {"action": "garbage"},
    {"action": "redirect", "location": "https://elsewhere.example/?key=1"},
    {"action": "envelope", "code": 401},
    {"action": "not-gzip"},
    {"action": "silence"},
]


@pytest.mark.asyncio
async def test_fault_A04_errors_are_pickled_and_shown_with_all_their_locals(tmp_path: Path):
    """Of every kind of failure of every call: nothing of the key, and it survives the pickle."""
    errors: list[BaseException] = []
    async with world(tmp_path, 1, api_key=CANARY_KEY) as w:
        for fault in FAULTS:
            w.emulator.clear_rules()
            w.emulator.inject(Rule(route="*", **fault))
            async with w.session(request_timeout=0.3) as session:
                calls = [
                    session.create_task(UPSCALE, {"task_id": w.ids[0]}, timeout=1.0),
                    session.get_task(w.ids[0], timeout=0.5),
                    session.get_credits(timeout=0.5),
                    session.upload_bytes(b"x", "x.png", timeout=0.5),
                ]
                results = await asyncio.gather(*calls, return_exceptions=True)
                errors += [one for one in results if isinstance(one, BaseException)]

    assert len(errors) >= len(FAULTS) * 3
    for error in errors:
        assert isinstance(error, KieError)
        twin = pickle.loads(pickle.dumps(error))
        assert (type(twin), str(twin)) == (type(error), str(error))
        logged = f"{error!r} {error} {everything_shown(error)}"
        assert found_in([logged, pickle.dumps(error)]) == []
    gc.collect()


# -- A02: text that does not belong there --------------------------------------------------

BAD = ["a\r\nX: y", "a\nb", "a\0b", "a\x7fb", "a\ud800b", "a b"]


@pytest.mark.asyncio
@pytest.mark.parametrize("bad", BAD, ids=ascii)
async def test_fault_A02_hostile_text_is_refused_before_anything_is_sent(tmp_path: Path, bad: str):
    """In the key, the model, ids, callback URLs, templates: `UsageError`, and no connection.

    Other characters beyond ASCII are refused in the key and in ids; a model's name goes into
    JSON, where they do no harm, and the API judges them.
    """
    async with world(tmp_path, 1) as w, w.session() as session:
        callback = f"https://hooks.example/{bad}"
        calls: list[Callable[[], Any]] = [
            lambda: session.create_task(UPSCALE, {"task_id": w.ids[0]}, callback_url=callback),
            lambda: session.upscale(bad),
            lambda: session.upscale(w.ids[0], callback_url=callback),
            lambda: session.get_task(bad),
            lambda: session.wait_for_result(bad),
            lambda: collected(session, [bad]),
            lambda: collected(session, w.ids, callback_url=callback),
        ]
        if bad != "a b":  # a model's name may have a space: the API judges it
            calls.append(lambda: session.create_task(bad, {}))
        before = w.books.connections
        for call in calls:
            with pytest.raises(UsageError):
                await call()
        for wrong in (bad, "schlüssel"):
            with pytest.raises(UsageError):
                KieSession(wrong, base_url=w.emulator.url)
        with pytest.raises(UsageError):
            KieSession("key", base_url=f"{w.emulator.url}/{bad}")

        assert w.books.connections == before == 0
        assert w.paid() == [0]


# -- A03: the environment ------------------------------------------------------------------


@asynccontextmanager
async def trap() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Listen as a proxy would; return its address and what it hears."""
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heard


@pytest.mark.asyncio
async def test_fault_A03_proxies_and_netrc_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Neither is used: no byte goes to the proxy, and the key stays the one that was given.

    The control is aiohttp told to trust the environment: the trap hears it.
    """
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    netrc.chmod(0o600)
    async with world(tmp_path, 1) as w, trap() as (proxy, heard):
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.lower(), proxy)
        monkeypatch.setenv("NETRC", str(netrc))
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        async with w.session() as session:
            task = await session.upscale(w.ids[0])
            await session.upload_bytes(b"\x89PNG", "x.png")
            saved = await session.download(task, tmp_path / "out", allow_private=True)
            await session.get_download_url(task.result_urls[0])
        assert (len(saved), heard) == (1, [])
        assert w.books.refused == {}

        async with aiohttp.ClientSession(trust_env=True) as trusting:
            with pytest.raises(aiohttp.ClientError):
                await trusting.get(f"{w.emulator.url}/api/v1/chat/credit")
        assert heard


# -- A05: files ----------------------------------------------------------------------------


def mode(path: Path) -> int:
    """Return the rights on a file."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.asyncio
async def test_fault_A05_the_journal_is_open_to_everybody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """It is made for its owner alone; what was opened to the world since is closed again."""
    path = tmp_path / "run.db"
    was = os.umask(0)
    try:
        async with Journal(path):
            assert {mode(one) for one in tmp_path.iterdir()} == {0o600}
        for one in tmp_path.iterdir():
            one.chmod(0o666)
        async with Journal(path):
            assert {mode(one) & 0o007 for one in tmp_path.iterdir()} == {0}
        assert [row for row in caplog.records if "everybody" in row.message]
        caplog.clear()
        path.chmod(0o640)  # a group that may look is the owner's wish
        async with Journal(path):
            assert mode(path) == 0o640
        assert not [row for row in caplog.records if "everybody" in row.message]
    finally:
        os.umask(was)


@pytest.mark.asyncio
async def test_fault_A05_the_journal_or_its_lock_is_a_link(tmp_path: Path):
    """Refused: what is at the other end is not touched."""
    real = tmp_path / "real"
    async with Journal(real):
        pass
    before = real.read_bytes()
    (tmp_path / "run.db").symlink_to(real)
    (tmp_path / "other.db.lock").symlink_to(tmp_path / "nowhere")

    for name in ("run.db", "other.db"):
        with pytest.raises(JournalError):
            await Journal.open(tmp_path / name)

    assert real.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()
    assert not (tmp_path / "other.db").exists()


@pytest.mark.asyncio
async def test_fault_A05_results_and_parts_that_are_links(tmp_path: Path):
    """No link is followed and nothing overwritten; the part is its owner's alone."""
    async with world(tmp_path, 1) as w, w.session() as session:
        task = await session.upscale(w.ids[0])
        first = tmp_path / "first"
        (saved,) = await session.download(task, first, allow_private=True)
        out, precious = tmp_path / "out", tmp_path / "precious"
        out.mkdir()
        precious.write_bytes(b"precious")
        (out / saved.name).symlink_to(precious)
        w.emulator.inject(Rule(route="files", action="cut", cut=50_000, then="silence"))
        parting = asyncio.ensure_future(session.download(task, out, allow_private=True))
        await until(lambda: list(out.glob("*.part")))
        (part,) = out.glob("*.part")
        assert mode(part) == 0o600
        parting.cancel()
        await asyncio.gather(parting, return_exceptions=True)
        part.unlink(missing_ok=True)
        part.symlink_to(precious)
        w.emulator.clear_rules()

        with pytest.raises(KieError):
            await session.download(task, out, allow_private=True)

        assert precious.read_bytes() == b"precious"
        assert (out / saved.name).is_symlink()
        assert saved.read_bytes() != b"precious"
