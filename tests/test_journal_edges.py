"""The edges of the journal, for the mistakes that `tests.mutation` puts in."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import re
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kie_async.errors import (
    ItemTakenError,
    JournalCorruptError,
    JournalError,
    JournalLockedError,
    JournalTooNewError,
    KeyConflictError,
    StorageFullError,
    UsageError,
)
from kie_async.journal import (
    Counts,
    ItemState,
    Journal,
    PlannedItem,
    Verdict,
    _connected,
    _lease,
    _storage,
)
from kie_async.journal._lease import Lease, Owner, current_owner, recorded_commits
from kie_async.journal._opening import foreign_error, translated
from kie_async.journal._rows import (
    as_evidence,
    as_json,
    as_text,
    clean,
    id_hash,
    key_of,
    number,
    read_decision,
    seal,
    whole,
)
from kie_async.journal._schema import Schema
from kie_async.journal._storage import Ballast, check_version, shut_out, warn_if_remote
from kie_async.models import Task, TaskState
from tests.clock import NOW, WallClock
from tests.fakes import Altered
from tests.fuzz.readers import DECISION


@pytest.fixture
def clock() -> WallClock:
    return WallClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.db"


def item(name: str = "a", **more: Any) -> PlannedItem:
    return PlannedItem(**{"source_id": name, "model": "m", "input": {"task_id": name}, **more})


def ended(task_id: str = "t", **more: Any) -> Task:
    return Task(**{"task_id": task_id, "state": TaskState.SUCCESS, **more})


async def sending(journal: Journal, name: str = "a") -> int:
    await journal.plan([item(name)])
    return await journal.begin_sending(name)


# Values


def test_the_words_of_states_and_verdicts():
    """They stand in files that outlive this version."""
    assert [str(state) for state in ItemState] == [
        "planned", "sending", "sent", "done", "failed", "in_doubt",
    ]  # fmt: skip
    assert [str(verdict) for verdict in Verdict] == [
        "created", "not_sent", "rejected", "reported", "in_doubt",
    ]  # fmt: skip
    assert Counts() == Counts(planned=0, sending=0, sent=0, done=0, failed=0, in_doubt=0)
    assert Counts(planned=1, sending=2, sent=4, done=8, failed=16, in_doubt=32).total == 63


def test_keys_hashes_and_seals_are_those_of_every_version():
    """A journal of today is read by the package of tomorrow: none of them may change."""
    assert key_of("m", '{"a":1}') == "6d81d89800d4cb56"
    assert id_hash("source") == 1602912115
    assert seal("s", "k", None, "planned", None) == 3162499715
    assert seal("s", "k", "o", "sent", "t") == 427554084
    assert as_json({"b": [1, "é"], "a": None}, "it") == '{"a":null,"b":[1,"é"]}'


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), {1: object()}, "\ud800", {"é\ud800"}]
)
def test_what_json_cannot_hold_is_told_by_its_name(value: object):
    """The user is told which of his values it is."""
    with pytest.raises(UsageError, match="the thing cannot be kept as JSON"):
        as_json(value, "the thing")


@pytest.mark.parametrize(
    ("value", "says"),
    [(b"a", "must be text, not bytes"), ("", "is empty or"), ("a\x00", "has a NUL"),
     ("é\x00", "has a NUL"), ("\ud800", "no valid Unicode"), (None, "must be text")],
)  # fmt: skip
def test_what_a_row_cannot_be_named_by(value: object, says: str):
    """Each with its reason."""
    with pytest.raises(UsageError, match=f"^name .*{says}"):
        as_text(value, "name")


def test_what_a_row_can_be_named_by():
    """Any other text, as it is."""
    for text in ("a", "é", " ", "a b\n", "\x01"):
        assert as_text(text, "name") == text


def test_foreign_texts_are_kept_as_far_as_they_can_be():
    """Two thousand characters, valid, without NUL."""
    assert clean(None) is None
    assert clean("a" * 2000) == "a" * 2000
    assert clean("a" * 2001) == "a" * 2000
    assert clean("a\x00b\ud800") == "a?b?"
    assert clean(17) == "17"


def test_numbers_are_kept_if_a_column_holds_them():
    """64 bits for whole ones; nothing infinite."""
    assert [whole(n) for n in (2**63 - 1, 2**63, -(2**63), -(2**63) - 1)] == [
        2**63 - 1, None, -(2**63), None,
    ]  # fmt: skip
    assert [whole(n) for n in (0, "1", None, 1.0, True)] == [0, None, None, None, 1]
    assert [number(n) for n in (1, 1.5, 0, "1", None, float("inf"), float("nan"), 10**400)] == [
        1.0, 1.5, 0.0, None, None, None, None, None,
    ]  # fmt: skip


def test_evidence_is_kept_whatever_it_is():
    """As JSON, and what is none as text."""
    deep: list[Any] = []
    deep.append(deep)

    assert as_evidence(None) is None
    assert json.loads(as_evidence({"a": 1}) or "") == {"a": 1}
    assert json.loads(as_evidence({"a": {1, 2}}) or "") == {"a": "{1, 2}"}
    assert json.loads(as_evidence({"a": deep}) or "") == {"repr": "{'a': [[...]]}"}
    told = list(DECISION)
    for text, read in (("[1]", {"value": [1]}), ('{"a":1}', {"a": 1}), (None, None)):
        told[5] = text
        assert read_decision(tuple(told)).evidence == read


# Records


@pytest.mark.asyncio
async def test_all_that_an_answer_told_is_on_record(path: Path, clock: WallClock):
    """Of a refusal, a report and a doubt: the attempt's and the item's own."""
    facts: dict[str, Any] = {
        "http_status": 402, "body_code": 17, "error_message": "no", "evidence": {"a": 1},
    }  # fmt: skip
    async with Journal(path, clock=clock) as journal:
        closers: list[Callable[[str, int], Awaitable[None]]] = [
            lambda n, a: journal.record_rejected(n, a, final=True, reason="r", **facts),
            lambda n, a: journal.record_rejected(n, a, final=False, reason="r", **facts),
            lambda n, a: journal.record_reported(n, a, again=True, reason="r", **facts),
            lambda n, a: journal.record_reported(n, a, again=False, reason="r", **facts),
            lambda n, a: journal.record_in_doubt(n, a, reason="r", **facts),
            lambda n, a: journal.record_not_sent(n, a, reason="r"),
        ]
        wanted = [
            ("failed", "rejected", False), ("planned", "rejected", False),
            ("planned", "reported", True), ("in_doubt", "reported", True),
            ("in_doubt", "in_doubt", True), ("planned", "not_sent", False),
        ]  # fmt: skip
        for number_, close in enumerate(closers):
            name = f"i{number_}"
            clock.now = NOW
            attempt = await sending(journal, name)
            clock.now = NOW + 5
            await close(name, attempt)
            found, (made,) = await journal.get(name), await journal.attempts(name)
            assert found is not None
            assert (str(found.state), str(made.verdict), found.maybe_charged) == wanted[number_]
            assert (found.reason, made.reason, made.number) == ("r", "r", 1)
            assert (made.intent_at, made.ended_at) == (NOW, NOW + 5)
            assert (found.planned_at, found.updated_at) == (NOW, NOW + 5)
            if number_ < 5:
                assert (made.http_status, made.body_code, made.evidence) == (402, 17, {"a": 1})
                assert (found.error_code, found.error_message) == ("17", "no")
            else:
                assert (made.http_status, found.error_code, made.evidence) == (None, None, None)
            assert made.pid == os.getpid()
            assert made.host == platform.node()
            assert re.fullmatch(r"[0-9a-f-]{36}|unknown", made.boot_id)


@pytest.mark.asyncio
async def test_all_that_a_task_told_is_on_record(path: Path, clock: WallClock):
    """Figures, polls and files; polls never become fewer, and a second end changes nothing."""
    async with Journal(path, clock=clock) as journal:
        for name in ("a", "b", "c"):
            assert await journal.record_created(name, await sending(journal, name), f"t{name}")
        clock.now += 9
        task = ended("ta", credits_consumed=5, created_at=1.0, completed_at=2.0)
        await journal.record_done("a", task, polls=7)
        await journal.record_done("a", ended("ta"), polls=99)
        await journal.record_failed(
            "b", reason="why", task=task, error_code=17, error_message="m" * 3000, polls=3,
            maybe_charged=True,
        )  # fmt: skip
        await journal.record_failed("c", reason="why")
        clock.now += 1
        await journal.record_files("a", ["x.png", "y.png"])
        a, b, c = [await journal.get(name) for name in ("a", "b", "c")]
        assert a is not None
        assert b is not None
        assert c is not None

    assert (a.state, a.task_id, a.polls, a.files) == ("done", "ta", 7, ("x.png", "y.png"))
    assert (a.credits, a.created_at, a.completed_at) == (5.0, 1.0, 2.0)
    assert (a.noticed_at, a.updated_at, a.maybe_charged) == (NOW + 9, NOW + 10, False)
    assert (a.reason, a.error_code, a.error_message) == (None, None, None)
    assert (b.state, b.task_id, b.polls, b.files) == ("failed", "tb", 3, ())
    assert (b.reason, b.error_code, b.error_message) == ("why", "17", "m" * 2000)
    assert (b.credits, b.created_at, b.completed_at) == (5.0, 1.0, 2.0)
    assert (b.maybe_charged, c.maybe_charged) == (True, False)
    assert (c.polls, c.credits, c.created_at, c.completed_at) == (0, None, None, None)
    assert c.noticed_at == NOW + 9


@pytest.mark.asyncio
async def test_each_refusal_says_what_stands_in_its_way(path: Path):
    """The item and its state."""
    async with Journal(path) as journal:
        with pytest.raises(JournalError, match="x is not in the journal"):
            await journal.begin_sending("x")
        attempt = await sending(journal)
        with pytest.raises(ItemTakenError, match="a is sending: only a planned"):
            await journal.begin_sending("a")
        with pytest.raises(JournalError, match="a is sending: it cannot become done"):
            await journal.record_done("a", ended())
        with pytest.raises(JournalError, match="a is sending: it cannot become failed"):
            await journal.record_failed("a", reason="r")
        with pytest.raises(JournalError, match="a is sending: only a done item has files"):
            await journal.record_files("a", [])
        with pytest.raises(JournalError, match="a has no attempt 2"):
            await journal.record_created("a", attempt + 1, "t")
        with pytest.raises(JournalError, match="a has no attempt 2"):
            await journal.record_not_sent("a", attempt + 1, reason="r")
        with pytest.raises(JournalError, match="a is sending: only a doubt is released"):
            await journal.resolve("a", not_created=True)
        with pytest.raises(JournalError, match="a is sending: only a doubt or a failure"):
            await journal.resolve("a", recreate=True)
        with pytest.raises(JournalError, match="a is sending: only a doubt takes a task"):
            await journal.resolve("a", as_task_id="t")
        with pytest.raises(UsageError, match="say one of"):
            await journal.resolve("a")
        await journal.record_rejected("a", attempt, final=False)
        with pytest.raises(JournalError, match="attempt 1 of a is rejected already"):
            await journal.record_not_sent("a", attempt, reason="r")
        with pytest.raises(KeyConflictError, match="a is in the journal with another"):
            await journal.plan([item(input={"task_id": "b"})])
        with pytest.raises(UsageError, match="the input of z must be a mapping"):
            await journal.plan([item("z", input=[("a", 1)])])
        assert await journal.begin_sending("a") == 2


@pytest.mark.asyncio
async def test_the_creates_of_the_last_minute_are_told_of(
    path: Path, clock: WallClock, monkeypatch: pytest.MonkeyPatch
):
    """Sixty seconds: longer than any window.  Those that were never sent count for nothing."""
    async with Journal(path, clock=clock) as journal:
        for number_, after in enumerate((0, 1, 30, 61)):
            clock.now = NOW + after
            name = f"i{number_}"
            await journal.record_created(name, await sending(journal, name), f"t{number_}")
        await journal.record_not_sent("z", await sending(journal, "z"), reason="r")
        assert (await journal.recover()).recent == ()  # our own: the limiter knows of them
        assert await journal.created_times(NOW + 1) == [NOW + 1, NOW + 30, NOW + 61]
    monkeypatch.setattr(_connected, "_leases_of_this_process", set())  # as another process
    async with Journal(path, clock=clock) as journal:
        found = await journal.recover()
    assert found.recent == (60.0, 31.0, 0.0)
    assert (found.doubts, found.counts) == (0, Counts(planned=1, sent=4))


@pytest.mark.asyncio
async def test_a_doubt_by_crash_is_the_weaker_proof(path: Path, clock: WallClock):
    """The owner was only slow: what it says afterwards counts, for the newest attempt."""
    journal = await Journal.open(path, clock=clock)
    attempt = await sending(journal)
    own, journal._lease = journal._lease, -1
    assert await journal.doubt_the_dead() == 1
    assert await journal.doubt_the_dead() == 0
    journal._lease = own
    (made,) = await journal.attempts("a")
    assert (made.verdict, made.reason) == (Verdict.IN_DOUBT, "crash")
    await journal.record_rejected("a", attempt, final=True, reason="r")
    found = await journal.get("a")
    assert found is not None
    assert (found.state, found.reason, found.maybe_charged) == ("failed", "r", False)
    await journal.close()


@pytest.mark.asyncio
async def test_an_older_doubt_outlives_what_the_slow_owner_says(path: Path):
    """The newest attempt was refused; an older one may have been paid for."""
    async with Journal(path) as journal:
        await journal.record_reported("a", await sending(journal), again=True)
        attempt = await journal.begin_sending("a")
        own, journal._lease = journal._lease, -1
        assert await journal.doubt_the_dead() == 1
        journal._lease = own
        await journal.record_rejected("a", attempt, final=False, reason="r")
        found = await journal.get("a")
    assert found is not None
    assert (found.state, found.maybe_charged) == ("planned", True)


@pytest.mark.asyncio
async def test_a_path_that_cannot_be_is_told(tmp_path: Path):
    """As what the system says about it."""
    with pytest.raises(JournalError, match="too long"):
        await Journal.open(tmp_path / ("x" * 300))


@pytest.mark.asyncio
async def test_polls_are_written_within_a_quarter_of_a_second(path: Path):
    """The last number of each, and an unknown item is passed over."""
    async with Journal(path) as journal:
        await sending(journal)
        loop = asyncio.get_running_loop()
        whens: list[float] = []
        journal_loop_call = loop.call_later

        def told(delay: float, *args: Any) -> asyncio.TimerHandle:
            whens.append(delay)
            return journal_loop_call(delay, *args)

        loop.call_later = told  # type: ignore[method-assign]
        try:
            for polls in (1, 5, 3):
                journal.note_polls("a", polls)
            journal.note_polls("x", 1)
        finally:
            loop.call_later = journal_loop_call  # type: ignore[method-assign]
        assert whens == [0.25]
        journal._write_notes()
        journal._write_notes()
        await journal.set_meta("after", True)  # in a commit after it
        found = await journal.get("a")
        assert found is not None
        assert found.polls == 3
        assert (await journal.meta())["after"] is True


@pytest.mark.asyncio
async def test_pages_hold_five_hundred_and_exports_go_on_after_two_hundred(path: Path):
    """By default; every item once, in its order."""
    names = [f"i{n:04}" for n in range(601)]
    async with Journal(path) as journal:
        await journal.plan([item(name) for name in names])
        page = await journal.page(ItemState.PLANNED)
        assert len(page) == 500
        assert [one.seq for one in page] == list(range(1, 501))
        assert [i.source_id async for i in journal.iterate(ItemState.PLANNED)] == names
        assert [row["source_id"] async for row in journal.export()] == names
        assert (await journal.page(ItemState.PLANNED, after=600))[0].source_id == names[600]
        assert await journal.page(ItemState.PLANNED, after=601) == []


# The file and what lies beside it


@pytest.mark.asyncio
async def test_the_lock_tells_who_holds_it_and_what_is_durable(path: Path, clock: WallClock):
    """One line for machines and one for people."""
    lock = path.with_name("run.db.lock")
    async with Journal(path, clock=clock) as journal:
        first, second = lock.read_text().splitlines()
        journal_id, commits = first.split()
        assert len(first) == 53
        assert (journal_id, int(commits)) == (journal._journal_id, 1)
        await journal.plan([item()])
        assert (await asyncio.to_thread(recorded_commits, path)) == (journal_id, 2)
        with pytest.raises(JournalLockedError) as refused:
            await Journal.open(path)
    assert second == (
        f"host {platform.node()}, process {os.getpid()}, boot {_boot()}, "
        "since 2026-09-21T14:13:20+00:00"
    )
    assert second in str(refused.value)
    assert (await asyncio.to_thread(recorded_commits, path)) == (journal_id, 3)
    assert await asyncio.to_thread(recorded_commits, path.with_name("other")) is None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return "unknown"


def test_a_lock_of_nobody_has_room_for_its_first_line(path: Path):
    """The name of its holder may come before the first commit; a lease ends once."""
    lease = Lease(path)
    with pytest.raises(JournalError, match="not held"):
        lease.record("0" * 32, 1)
    lease.take()
    lease.name_holder(Owner(host="h" * 500, pid=1, boot_id="b"), "now")
    lease.name_holder(Owner(host="h", pid=1, boot_id="b"), "now")
    assert recorded_commits(path) == ("0" * 32, 0)
    assert lease.path.read_text().splitlines()[1] == "host h, process 1, boot b, since now"
    lease.record("a" * 32, 10**19)
    assert recorded_commits(path) == ("a" * 32, 10**19)
    lease.release()
    lease.release()
    other = Lease(path)
    other.take()
    other.release()


def test_a_holder_whose_name_cannot_be_read_holds_it_all_the_same(path: Path):
    """As far as it can be read; and one that has not named itself yet is somebody."""
    lease, other = Lease(path), Lease(path)
    lease.take()
    with pytest.raises(JournalLockedError, match="unknown process"):
        other.take()
    lease.record("0" * 32, 0)
    with lease.path.open("ab") as file:
        file.write(b"host \xff!\n")
    with pytest.raises(JournalLockedError, match="host \ufffd! "):
        other.take()
    lease.release()


@pytest.mark.asyncio
async def test_a_new_journal_was_never_open_to_everybody(path: Path, caplog):
    """Each of its files is private from the first moment on."""
    with caplog.at_level(logging.WARNING):
        async with Journal(path) as journal:
            await journal.plan([item()])
        async with Journal(path) as journal:
            assert await journal.counts() == Counts(planned=1)

    assert caplog.text == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"S", "is cut off"),
        (b"SQLite format 3\x00" + bytes(83), "is cut off"),
        (b"SQLite format 3\x00" + bytes(84), "of another program"),
        (b"SQLite format 4\x00" + bytes(84), "no SQLite file"),
    ],
)
def test_what_the_first_hundred_bytes_say(content: bytes, says: str, path: Path):
    """Each refusal with its own words."""
    path.write_bytes(content)

    with pytest.raises(JournalCorruptError, match=says):
        check_version(path, 1)


@pytest.mark.parametrize(("version", "passes"), [(1, True), (2, True), (3, False)])
def test_the_version_stands_in_the_header(version: int, passes: bool, path: Path):
    """Four bytes at 60, and our mark in four at 68; what is newer is refused."""
    head = bytearray(100)
    head[:16] = b"SQLite format 3\x00"
    head[60:64], head[68:72] = version.to_bytes(4, "big"), b"KIEA"
    head[64:68] = head[72:76] = head[56:60] = b"\xff" * 4
    path.write_bytes(head)
    if passes:
        assert check_version(path, 2) == version
    else:
        with pytest.raises(JournalTooNewError, match="version 3; this package knows up to 2"):
            check_version(path, 2)


def test_the_ballast_is_a_mebibyte_that_is_used_again(tmp_path: Path):
    """Of noise, private; another size is made anew."""
    ballast = Ballast(tmp_path / "run.db")
    ballast.fill()
    first = ballast.path.read_bytes()
    assert (len(first), ballast.path.name) == (2**20, "run.db.ballast")
    assert stat.S_IMODE(ballast.path.stat().st_mode) == 0o600
    assert len(set(first)) == 256
    ballast.fill()
    assert ballast.path.read_bytes() == first
    ballast.path.write_bytes(first[:-1])
    ballast.fill()
    assert ballast.path.stat().st_size == 2**20
    ballast.drop()
    ballast.drop()
    assert not ballast.path.exists()


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_everybodys_rights_are_taken_and_a_groups_are_kept(path: Path, caplog):
    """From the file and each of its companions; what has none is not spoken of."""
    names = ["run.db", "run.db-wal", "run.db-shm", "run.db.lock", "run.db.ballast", "run.dbx"]
    for name in names:
        path.with_name(name).touch()
        path.with_name(name).chmod(0o664)

    shut_out(path)
    shut_out(path)

    modes = {name: stat.S_IMODE(path.with_name(name).stat().st_mode) for name in names}
    assert modes == {**dict.fromkeys(names, 0o660), "run.dbx": 0o664}
    assert caplog.text.count("was open to everybody") == 5


@pytest.mark.parametrize(
    "kind",
    ["nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "lustre"],
)
def test_every_network_file_system_is_warned_of(
    kind: str, path: Path, caplog, monkeypatch: pytest.MonkeyPatch
):
    """Once, and by its kind alone."""
    device = path.parent.stat().st_dev
    where = f"{os.major(device)}:{os.minor(device)}"
    lines = [
        f"1 2 0:99 / / rw - {kind} host rw",
        f"1 2 {where} / / rw shared:1 - ext4x host rw",
        f"1 2 {where} / / rw shared:1 - {kind} host rw",
        f"1 2 {where} / / rw shared:1 - {kind} host rw",
    ]

    class Mounts(type(path)):  # type: ignore[misc]
        def read_text(self, *_args: Any, **_named: Any) -> str:
            assert str(self) == "/proc/self/mountinfo"
            return "\n".join(lines)

    monkeypatch.setattr(_storage, "Path", Mounts)
    with caplog.at_level(logging.WARNING):
        warn_if_remote(path)
        assert caplog.text.count("is on a network file system") == 1
        del lines[2:]
        warn_if_remote(path)
    assert caplog.text.count("is on a network file system") == 1
    assert {record.name for record in caplog.records} == {"kie_async.journal"}


@pytest.mark.asyncio
async def test_how_the_file_is_written(path: Path):
    """Synced in full, into a log; the version and our mark stand in the file."""
    async with Journal(path) as journal:
        assert journal._writer is not None
        conn = journal._writer._commits._opened.conn
        asked = ("journal_mode", "synchronous", "fullfsync", "wal_autocheckpoint", "cache_size")
        told = [
            await journal._writer.submit(
                name, lambda conn, name=name: conn.execute(f"PRAGMA {name}").fetchone()[0]
            )
            for name in asked
        ]
        assert told == ["wal", 2, 1, 8000, -4096]
        assert isinstance(conn, sqlite3.Connection)
    head = path.read_bytes()[:100]
    assert (head[60:64], head[68:72]) == ((1).to_bytes(4, "big"), b"KIEA")


@pytest.mark.asyncio
async def test_commits_are_counted_and_the_last_one_is_the_end_of_the_lease(
    path: Path, clock: WallClock
):
    """One for the entry, one for each record, one for the end; each owner has a row."""
    for run in range(2):
        clock.now = NOW + run
        async with Journal(path, clock=clock) as journal:
            await journal.set_meta("n", run)
            clock.now += 100
    conn = sqlite3.connect(path)
    assert conn.execute("SELECT commits FROM progress").fetchall() == [(6,)]
    leases = conn.execute("SELECT id, host, pid, boot_id, started_at, ended_at FROM lease")
    who = (platform.node(), os.getpid(), _boot())
    assert leases.fetchall() == [(1, *who, NOW, NOW + 100), (2, *who, NOW + 1, NOW + 101)]
    conn.close()


@pytest.mark.asyncio
async def test_a_journal_is_opened_once_and_used_while_it_is_open(path: Path):
    """Each misuse is told by the name of the journal."""
    journal = Journal(path)
    with pytest.raises(JournalError, match=r"run\.db is not open"):
        await journal.counts()
    async with journal:
        with pytest.raises(JournalError, match=r"run\.db is open already"):
            await journal.__aenter__()
        assert await journal.counts() == Counts()
    with pytest.raises(JournalError, match=r"run\.db is not open"):
        await journal.plan([])
        await journal.plan([item()])
    async with Journal(path, read_only=True) as reader:
        with pytest.raises(JournalError, match=r"run\.db was opened read-only"):
            await reader.plan([item()])
        with pytest.raises(JournalError, match="read-only"):
            reader.note_polls("a", 1)


# What an error of the database means


def error_named(name: str | None, words: str = "words") -> sqlite3.Error:
    error = sqlite3.OperationalError(words)
    if name is not None:
        error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    ("name", "kind", "again"),
    [
        ("SQLITE_FULL", StorageFullError, False),
        ("SQLITE_IOERR_WRITE", StorageFullError, False),
        ("SQLITE_BUSY", JournalError, True),
        ("SQLITE_BUSY_SNAPSHOT", JournalError, True),
        ("SQLITE_LOCKED", JournalError, True),
        ("SQLITE_CORRUPT_VTAB", JournalCorruptError, False),
        ("SQLITE_NOTADB", JournalCorruptError, False),
        ("SQLITE_IOERR_READ", JournalError, False),
        ("SQLITE_ERROR", JournalError, False),
        (None, JournalError, False),
    ],
)
def test_what_an_error_of_sqlite_means(name: str | None, kind: type, again: bool, path: Path):
    """Each is one of ours, with the path and what SQLite said."""
    found = foreign_error(error_named(name), path)

    assert type(found) is kind
    assert found.retryable is again
    assert str(path) in str(found)
    assert "words" in str(found)
    if kind is JournalError and not again:
        assert f"({name or 'OperationalError'})" in str(found)


def test_text_that_is_none_is_damage(path: Path):
    """SQLite has no name for it."""
    error = error_named(None, "Could not decode to UTF-8 column")
    assert type(foreign_error(error, path)) is JournalCorruptError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((error_named(f"SQLITE_{name}"), JournalError)
          for name in ("BUSY", "LOCKED", "CANTOPEN", "READONLY_DIRECTORY", "PERM", "AUTH",
                       "IOERR_READ", "NOMEM")),
        (error_named("SQLITE_FULL"), StorageFullError),
        (error_named("SQLITE_ERROR"), JournalCorruptError),
        (error_named(None), JournalCorruptError),
        (OSError(5, "Input/output error"), JournalError),
        (OverflowError("o"), JournalCorruptError),
        (ValueError("v"), JournalCorruptError),
        (TypeError("t"), JournalCorruptError),
        (AttributeError("a"), JournalCorruptError),
    ],
)  # fmt: skip
def test_what_an_error_while_opening_means(error: Exception, kind: type, path: Path):
    """What cannot be read is damage, unless the surroundings are to blame."""
    with pytest.raises(JournalError) as caught, translated(path):
        raise error

    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


def test_where_no_boot_has_a_name_the_lock_alone_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Elsewhere than on Linux; a machine without a name has a word for one too."""
    monkeypatch.setattr(_lease, "Path", lambda _: tmp_path / "none")
    monkeypatch.setattr(_lease, "platform", Altered(platform, node=lambda: ""))

    owner = current_owner()
    assert (owner.host, owner.pid, owner.boot_id) == ("unknown", os.getpid(), "unknown")


# Making, migrating, damage


@pytest.mark.asyncio
async def test_what_a_killed_start_left_is_no_hindrance(path: Path):
    """A journal that was not complete yet, and a backup that was not."""
    for name in ("run.db.new", "run.db.new-wal", "run.db.new-journal"):
        path.with_name(name).write_bytes(b"left over")
    async with Journal(path) as journal:
        await journal.plan([item()])
    assert {file.name for file in path.parent.iterdir()} == {"run.db", "run.db.lock"}

    path.with_name("run.db.v1.backup.new").write_bytes(b"left over")
    later = Schema(version=2, create="", steps={1: lambda _: None})
    async with Journal(path, _schema=later) as journal:
        assert await journal.counts() == Counts(planned=1)
    backup = path.with_name("run.db.v1.backup")
    async with Journal(backup, create=False) as journal:
        assert await journal.counts() == Counts(planned=1)
    assert not path.with_name("run.db.v1.backup.new").exists()


@pytest.mark.asyncio
async def test_a_new_name_is_durable_before_it_is_used(path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of the journal and of its backup: a file without a name would be an empty run."""
    synced: list[str] = []

    def fsync(fd: int) -> None:
        os.fsync(fd)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            synced.append(",".join(sorted(file.name for file in path.parent.iterdir())))

    monkeypatch.setattr(_storage, "os", Altered(os, fsync=fsync))
    async with Journal(path):
        pass
    assert synced == ["run.db,run.db.lock"]
    later = Schema(version=2, create="", steps={1: lambda _: None})
    async with Journal(path, _schema=later):
        pass
    assert len(synced) == 2
    assert "run.db.v1.backup" in synced[1].split(",")


@pytest.mark.asyncio
@pytest.mark.parametrize("read_only", [True, False])
async def test_a_page_of_nothing_is_found_by_readers_too(path: Path, read_only: bool):
    """Before anything is read from it."""
    async with Journal(path) as journal:
        await journal.plan([item(f"i{n:05}") for n in range(2000)])
    content = bytearray(path.read_bytes())
    size = int.from_bytes(content[16:18], "big")
    middle = len(content) // size // 2 * size
    content[middle : middle + size] = bytes(size)
    path.write_bytes(content)

    with pytest.raises(JournalCorruptError, match="is damaged"):
        await Journal.open(path, read_only=read_only)


@pytest.mark.asyncio
async def test_an_intent_that_is_taken_back_says_why(path: Path):
    """It was cancelled after it had become durable: nothing was sent."""
    async with Journal(path) as journal:
        await journal.plan([item()])
        task = asyncio.ensure_future(journal.begin_sending("a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await journal.set_meta("after", 1)  # in a later commit than the intent
        await journal.set_meta("after", 2)
        found, (made,) = await journal.get("a"), await journal.attempts("a")
    assert found is not None
    assert (found.state, found.reason, found.maybe_charged) == ("planned", "cancelled", False)
    assert (made.verdict, made.reason) == (Verdict.NOT_SENT, "cancelled")


@pytest.mark.asyncio
async def test_each_way_to_settle_a_doubt_is_on_record(path: Path, clock: WallClock):
    """Who decided what, when and on which evidence; in their order."""
    async with Journal(path, clock=clock) as journal:
        ways: list[dict[str, Any]] = [
            {"as_task_id": "t"}, {"not_created": True}, {"recreate": True},
        ]  # fmt: skip
        for count, way in enumerate(ways):
            name = f"i{count}"
            await journal.record_in_doubt(name, await sending(journal, name), reason="r")
            clock.now += 1
            await journal.resolve(name, **way, by="me", evidence={"n": count})
        found = await journal.decisions()

    assert [(one.source_id, one.decision, one.task_id) for one in found] == [
        ("i0", "as_task_id", "t"), ("i1", "not_created", None), ("i2", "recreate", None),
    ]  # fmt: skip
    assert [(one.by, one.evidence, one.decided_at) for one in found] == [
        ("me", {"n": count}, NOW + count + 1) for count in range(3)
    ]
