"""No secret leaves by the other ways: stores, spans, metrics, reports, process arguments, URLs.

The suite's logs are read by `conftest`; errors, objects and the journal's file are in
`test_secrets`, `test_transport_secrets` and rows A01 and A04 of the faults.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
import pytest
from redis.asyncio import Redis

from kie_async import KieSession, RedisDoorbell
from kie_async.callbacks import CallbackReceiver, CallbackServer, verify_callback
from kie_async.emulator import Emulator, Rule
from kie_async.errors import CallbackError, JournalError, UsageError
from kie_async.instrumentation import FileSaved
from kie_async.integrations import LoggingHook
from kie_async.journal import Journal
from kie_async.limiter import Unlimited
from kie_async.polling import Durations, PollSchedule
from kie_async.redis_limiter import RedisLimiter
from kie_async.report import build_page, gather
from kie_async.transport import Transport
from kie_async.worker import QueuedJournal, submit
from tests.callback_tools import NOW, content, signed
from tests.cli_tools import Kie, kie_fixture
from tests.conftest import CANARY_HMAC, CANARY_KEY
from tests.postgres_servers import POSTGRES, Postgres, postgres_server
from tests.redis_servers import SERVER, Server, redis_server
from tests.test_integrations import figures, otel
from tests.test_secrets import everything_shown
from tests.wire_servers import RawServer, always, answer, create, opened, read

pytestmark = pytest.mark.timeout(120)

__all__ = ["kie_fixture"]

SECRETS = (CANARY_KEY, CANARY_HMAC)


def found_in(*shown: str | bytes) -> list[str]:
    """Return the secrets in any of it: plain, in base64 at any offset, quoted, or in hex."""
    text = b"\n".join(one.encode() if isinstance(one, str) else one for one in shown)
    return [secret for secret in SECRETS if any(form in text for form in forms(secret.encode()))]


def forms(secret: bytes) -> Iterator[bytes]:
    """Yield what a secret may look like."""
    yield secret
    yield quote(secret).encode()
    yield secret.hex().encode()
    yield json.dumps(secret.decode()).encode()[1:-1]
    for before in range(3):  # the bytes before it shift its letters
        coded = base64.b64encode(b"x" * before + secret)
        yield coded[4 if before else 0 : -4].strip(b"=")


@pytest.mark.parametrize("secret", SECRETS)
def test_the_search_finds_a_secret_in_every_form(secret: str):
    """The control of all that follows."""
    raw = secret.encode()

    for form in (
        raw,
        base64.b64encode(raw),
        base64.b64encode(b"Bearer " + raw + b"\r\n"),
        base64.b64encode(b"ab" + raw),
        quote(f"key={secret}").encode(),
        raw.hex().encode(),
        b"\0\xff" + raw + b"\0",
    ):
        assert found_in("nothing", form) == [secret]
    assert found_in(secret[:-3], "Bearer") == []


@contextlib.asynccontextmanager
async def kie_with(*hooks: Any, **more: Any) -> AsyncIterator[tuple[Emulator, KieSession]]:
    """Open a session with the canary key at an emulator that takes nothing else."""
    async with (
        Emulator(api_key=CANARY_KEY, durations=lambda _rng: 0.02) as emulator,
        KieSession(
            CANARY_KEY,
            base_url=emulator.url,
            hooks=hooks,
            limiter=Unlimited(),
            polling=PollSchedule(first_gap=0.02, min_gap=0.02),
            request_timeout=1.0,
            **more,
        ) as kie,
    ):
        yield emulator, kie


async def well_and_badly(emulator: Emulator, kie: KieSession, **options: Any) -> list[Any]:
    """Let three items go well, be refused and be in doubt."""
    ids = [await emulator.add_source_task() for _ in range(3)]
    emulator.inject(Rule(route="createTask", action="envelope", code=422, match=ids[1]))
    emulator.inject(Rule(route="createTask", action="rst", match=ids[2]))
    outcomes = [one async for one in kie.upscale_many(ids, **options)]
    assert {str(one.status) for one in outcomes} == {"done", "failed", "in_doubt"}
    return outcomes


# -- spans, metrics, log records, the report --------------------------------------------------


@pytest.mark.asyncio
async def test_spans_metrics_and_records_hold_no_key(caplog: pytest.LogCaptureFixture):
    """Of a run with every kind of outcome, at DEBUG."""
    caplog.set_level(logging.DEBUG)
    hook, spans, reader = otel()
    async with kie_with(hook, LoggingHook()) as (emulator, kie):
        await well_and_badly(emulator, kie)

    told = [span.to_json() for span in spans.get_finished_spans()]
    measured = repr(figures(reader))
    records = [repr(vars(record)) for record in caplog.records]
    assert len(told) >= 3
    assert "kie.request.duration" in measured
    assert len(records) > 10
    assert found_in(*told, measured, *records, pickle.dumps(told)) == []


def test_a_span_that_holds_the_key_is_found():
    """The control: a file that somebody named by it."""
    hook, spans, _ = otel()

    hook(FileSaved(task_id=f"t-{CANARY_KEY}", path=Path("x.png"), size=5))

    assert found_in(*[span.to_json() for span in spans.get_finished_spans()]) == [CANARY_KEY]


@pytest.mark.asyncio
async def test_the_report_holds_no_key(tmp_path: Path):
    """Of a run with every kind of outcome, and with callbacks."""
    async with kie_with() as (emulator, kie), Journal(tmp_path / "run.db") as journal:
        await well_and_badly(emulator, kie, journal=journal, callback_url="https://h.example/cb")
        report = await gather(journal, "run.db", made_at=NOW)
    page = build_page(report, tmp_path)

    assert "in_doubt" in page
    assert found_in(page, repr(report)) == []
    assert found_in(page.replace("in_doubt", CANARY_KEY)) == [CANARY_KEY]


# -- stores ---------------------------------------------------------------------------------


@pytest.fixture(name="store")
def _store(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path, "--slowlog-log-slower-than", "0") as server:
        yield server


def kept(server: Server) -> list[bytes]:
    """Return every key with its value, and every command with its arguments."""
    client = server.client
    client.config_set("slowlog-max-len", 100_000)
    shown = [repr(client.slowlog_get(100_000)).encode()]
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        value = {
            "string": lambda key=key: client.get(key),
            "zset": lambda key=key: client.zrange(key, 0, -1, withscores=True),
            "hash": lambda key=key: client.hgetall(key),
            "list": lambda key=key: client.lrange(key, 0, -1),
            "set": lambda key=key: client.smembers(key),
        }[kind]()
        shown.append(f"{key} {value!r}".encode())
    return shown


@pytest.mark.asyncio
@pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey on this machine")
async def test_redis_holds_no_key(store: Server):
    """Not in its keys, values and messages: of limiter and doorbell, with callbacks rung."""
    store.client.config_set("slowlog-max-len", 100_000)
    receiver = CallbackReceiver(CANARY_HMAC, public_url="https://hooks.example", clock=lambda: NOW)
    redis, durations = Redis.from_url(store.url), Durations()
    bell = RedisDoorbell(redis, "account", receiver=receiver, durations=durations)
    async with (
        bell,
        RedisLimiter.from_url(store.url, "account") as limiter,
        Emulator(api_key=CANARY_KEY, durations=lambda _rng: 0.02) as emulator,
        KieSession(
            CANARY_KEY,
            base_url=emulator.url,
            limiter=limiter,
            durations=durations,
        ) as kie,
    ):
        await bell.ready()
        assert (await kie.upscale(await emulator.add_source_task())).succeeded
        headers = signed("a-task", key=CANARY_HMAC)
        path = urlsplit(str(receiver.new_callback_url().url)).path
        assert receiver.handle("POST", path, headers, content("a-task")).status == 200
        seen: list[bytes] = []
        async with asyncio.timeout(30.0):
            while b"PUBLISH" not in b"".join(seen).upper():
                seen = await asyncio.to_thread(kept, store)
        store.client.set("a-key", f"Bearer {CANARY_KEY}")
        leaky = await asyncio.to_thread(kept, store)
    await redis.aclose()

    assert b"account" in b"".join(seen)
    assert b"EVALSHA" in b"".join(seen).upper()
    assert found_in(*seen) == []
    assert found_in(*leaky) == [CANARY_KEY]


@pytest.fixture(name="database", scope="module")
def _database() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


def rows(server: Postgres) -> list[str]:
    """Return every row of every table of ours, and what the server knows of its clients."""
    with server.connect() as conn:
        tables = conn.execute(
            "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
            "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        tables += [("pg_stat_activity",)]
        return [
            f"{table} {row}"
            for (table,) in tables
            for row in conn.execute(f"SELECT t::text FROM {table} t").fetchall()
        ]


@pytest.mark.asyncio
@pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL on this machine")
async def test_postgres_holds_no_key_and_its_password_stays_with_us(
    database: Postgres, caplog: pytest.LogCaptureFixture
):
    """Not in a row, and the password not in what is logged at DEBUG by anybody on the way."""
    caplog.set_level(logging.DEBUG)
    url = database.url.replace("kie@", f"kie:{CANARY_HMAC}@")
    async with kie_with() as (emulator, kie):
        sources = [await emulator.add_source_task() for _ in range(2)]
        emulator.inject(Rule(route="createTask", action="rst", match=sources[1]))
        async with QueuedJournal(url, "secrets") as journal:
            assert await submit(journal, sources) == 2
            outcomes = [str(one.status) async for one in kie.work(journal)]
            shown = [repr(journal), repr(vars(journal.place).keys())]
        stored = await asyncio.to_thread(rows, database)

    assert sorted(outcomes) == ["done", "in_doubt"]
    assert sources[0] in "".join(stored)
    records = [repr(vars(record)) for record in caplog.records]
    assert found_in(*stored, *shown, *records, caplog.text) == []
    with database.connect() as conn:
        conn.execute("CREATE TABLE leak AS SELECT %s AS header", (f"Bearer {CANARY_KEY}",))
    assert found_in(*await asyncio.to_thread(rows, database)) == [CANARY_KEY]


@pytest.mark.asyncio
async def test_a_database_that_is_away_tells_nothing_of_its_password(
    caplog: pytest.LogCaptureFixture,
):
    """Not in the error, its chain, the locals of our frames, nor a log."""
    caplog.set_level(logging.DEBUG)
    url = f"postgresql://kie:{CANARY_HMAC}@127.0.0.1:1/postgres"
    with pytest.raises(JournalError) as caught:
        async with QueuedJournal(url, "secrets"):
            pass

    shown = [str(caught.value), repr(caught.value), repr(vars(caught.value)), caplog.text]
    assert found_in(*shown, pickle.dumps(caught.value)) == []
    assert found_in(url) == [CANARY_HMAC]


# -- the command line -----------------------------------------------------------------------


def options_of(command: click.Command, path: str = "kie") -> Iterator[str]:
    """Yield the options of a command and of all below it."""
    for parameter in command.params:
        yield from (f"{path} {name}" for name in parameter.opts if name.startswith("-"))
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options_of(below, f"{path} {name}")


def for_secrets(options: list[str]) -> list[str]:
    """Return those that would take a secret: all users of a machine can read arguments."""
    words = {"key", "token", "secret", "password", "hmac"}
    return [one for one in options if words & set(one.split()[-1].strip("-").split("-"))]


def test_no_option_takes_a_secret():
    """It comes from the environment or a file that is nobody else's."""
    told = list(options_of(root()))

    assert len(told) > 40
    assert for_secrets(told) == []
    assert for_secrets(["kie bulk --api-key", "kie serve --hmac-key"]) != []


def root() -> click.Command:
    from kie_async.cli import _app

    return next(one for one in vars(_app).values() if isinstance(one, click.Group))


def arguments_of(pid: int) -> bytes:
    """Return what every user of the machine can read of a process and its children."""
    tasks = Path(f"/proc/{pid}/task")
    below = [
        int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]
    return b"\n".join([Path(f"/proc/{pid}/cmdline").read_bytes(), *map(arguments_of, below)])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads arguments in /proc")
def test_the_arguments_of_a_running_command_hold_no_key(kie: Kie):
    """The key is in its environment only, which is its owner's."""
    source = kie.api.add_source_task()
    kie.api.inject(Rule(route="createTask", action="silence"))
    process = kie.start("upscale", source, KIE_API_KEY=CANARY_KEY)
    try:
        wait = threading.Event()
        while not kie.api.books.connections:
            assert process.poll() is None
            wait.wait(0.02)
        told = arguments_of(process.pid)
        own = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.kill()

    assert b"upscale" in told
    assert found_in(told) == []
    assert found_in(own) == [CANARY_KEY]


# -- callbacks and URLs ---------------------------------------------------------------------


def test_a_callback_that_is_refused_shows_no_key():
    """Neither text, chain, locals of all frames, nor pickle; for one key and for several."""
    forged = signed("a-task", key="another")
    for keys in (CANARY_HMAC, ["an-older-one", CANARY_HMAC]):
        with pytest.raises(CallbackError) as caught:
            verify_callback(content("a-task"), forged, keys, now=NOW)
        error = caught.value.with_traceback(ours(caught.value))

        assert found_in(everything_shown(error), pickle.dumps(error)) == []


def ours(error: BaseException) -> Any:
    """Return its traceback without the frame of the test, which holds the key itself."""
    assert error.__traceback__ is not None
    return error.__traceback__.tb_next


WRONG: dict[str, Callable[[], Any]] = {
    "key with a newline": lambda: KieSession(f"{CANARY_KEY}\n"),
    "key in bytes": lambda: KieSession(CANARY_KEY.encode()),  # type: ignore[arg-type]
    "concurrency": lambda: KieSession(CANARY_KEY, max_concurrency=0),
    "base_url": lambda: KieSession(CANARY_KEY, base_url="ftp://h.example"),
    "upload_url": lambda: KieSession(CANARY_KEY, upload_url="ftp://h.example"),
    "request_timeout": lambda: KieSession(CANARY_KEY, request_timeout=-1),
    "HMAC key with a newline": lambda: CallbackReceiver(f"{CANARY_HMAC}\n"),
    "second HMAC key": lambda: CallbackReceiver(["older", f"{CANARY_HMAC}\n", CANARY_HMAC]),
    "HMAC key beside an empty one": lambda: CallbackReceiver(["", CANARY_HMAC]),
    "reference_key": lambda: CallbackReceiver("older", reference_key=f"{CANARY_HMAC}\n"),
    "public_url": lambda: CallbackReceiver(CANARY_HMAC, public_url="ftp://h.example"),
    "max_age": lambda: CallbackReceiver(CANARY_HMAC, max_age=-1),
    "max_pending": lambda: CallbackReceiver(reference_key=CANARY_HMAC, max_pending=0),
    "server": lambda: CallbackServer([f"{CANARY_HMAC}\n"]),
    "verified": lambda: verify_callback(b"{}", {}, [f"{CANARY_HMAC}\n"], now=NOW),
    "verified with one": lambda: verify_callback(b"{}", {}, f"{CANARY_HMAC}\n", now=NOW),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_shows_no_key(what: str):
    """Neither a wrong key nor a right one beside it, in text, pickle or locals of our frames."""
    with pytest.raises(UsageError) as caught:
        WRONG[what]()
    error = caught.value.with_traceback(ours(caught.value))

    assert found_in(everything_shown(error), pickle.dumps(error)) == []


def test_a_wrong_key_of_the_environment_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    """A newline at its end is the usual mistake: a file was read into it."""
    monkeypatch.setenv("KIE_API_KEY", f"{CANARY_KEY}\n")
    with pytest.raises(UsageError) as caught:
        KieSession()

    assert found_in(everything_shown(caught.value)) == []


def test_a_missing_key_can_be_shown_with_all_locals(monkeypatch: pytest.MonkeyPatch):
    """The session in the frame is half made, and a crash reporter asks for its repr."""
    monkeypatch.delenv("KIE_API_KEY", raising=False)
    with pytest.raises(UsageError) as caught:
        KieSession()

    assert "<KieSession unfinished>" in everything_shown(caught.value)


@pytest.mark.parametrize("made", [KieSession, RedisDoorbell, Transport])
def test_what_is_half_made_has_a_repr(made: type):
    """Else whoever reports the error of its making meets another one."""
    half = made.__new__(made)

    assert repr(half) == f"<{made.__name__} unfinished>"


@pytest.mark.asyncio
async def test_the_key_is_in_one_header_and_nowhere_else_of_a_request():
    """Not in its URL, another header or the body."""
    async with RawServer(always(answer())) as server, opened(server.url, key=CANARY_KEY) as wire:
        for request in (create(), read()):
            await wire.send(request, timeout=5.0)

        assert len(server.heads) == 2
        for head in server.heads:
            lines = [line for line in head.splitlines() if CANARY_KEY in line]
            assert lines == [f"Authorization: Bearer {CANARY_KEY}"]
        assert found_in(*server.bodies) == []
        assert found_in(*server.heads) == [CANARY_KEY]
