"""The readers as targets: bytes in, and nothing out but what is documented.

A target raises if the reader broke its word; `KieError` and the like are its word.  The
first byte of an input picks what is no part of the text: a status, an encoding, a column.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import shutil
import stat
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
from attrs import frozen

from kie_async import CallbackReceiver, verify_callback
from kie_async.bulk import BulkItem
from kie_async.cli._bulk_input import parse
from kie_async.cli._config import SETTINGS, Config
from kie_async.cli._exits import Refused
from kie_async.errors import CallbackError, JournalCorruptError, KieConnectionError, KieError
from kie_async.files._kinds import HEAD, contradicts, kind_of, looks_like_a_page
from kie_async.files._note import Note, read_note, write_note
from kie_async.journal import Verdict as AttemptVerdict
from kie_async.journal._rows import key_of, read_attempt, read_decision, read_item, seal
from kie_async.models import Task, UploadedFile
from kie_async.polling import Durations, PollSchedule
from kie_async.protocol import (
    Response,
    Verdict,
    create_task_request,
    judge_create,
    judge_silence,
    lacks_result,
    read_credits,
    read_download_url,
    read_task,
    read_upload,
)
from kie_async.redis_doorbell import RedisDoorbell
from kie_async.transport._answer import MAX_BODY, Answer

__all__ = ["BAD", "READERS", "Reader"]

TASK = "0123456789abcdef0123456789abcdef"
NOW = 1_790_000_000.0
STATUSES = (200, 200, 200, 200, 201, 204, 307, 400, 401, 403, 404, 408, 429, 500, 502, 503, 524)
HOME = Path(tempfile.mkdtemp(prefix="kie-fuzz-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)


@frozen
class Reader:
    """A target, true inputs to begin with, and hostile ones that are too slow to mutate."""

    target: Callable[[bytes], None]
    seeds: Sequence[bytes]
    hostile: Sequence[bytes] = ()


def _first(data: bytes, choices: Sequence[Any]) -> tuple[Any, bytes]:
    return choices[(data[0] if data else 0) % len(choices)], data[1:]


def _answer(data: bytes) -> Response:
    status, body = _first(data, STATUSES)
    headers = {}
    if body.startswith(b"Retry-After:"):
        line, _, body = body.partition(b"\n")
        headers["retry-after"] = line[12:].decode("latin-1").strip()
    return Response(status, headers, body)


# -- answers of the API --------------------------------------------------------------------


def task(data: bytes) -> None:
    with contextlib.suppress(KieError):
        found = read_task(_answer(data), TASK)
        assert isinstance(found, Task)
        assert found.task_id == TASK
        assert all(isinstance(url, str) for url in found.result_urls)
        assert all(0 < at < 4.2e9 for at in (found.created_at, found.completed_at) if at)
        _ = repr(found), lacks_result(found), found.callback_url, found.input


CREATE = create_task_request("grok-imagine/upscale", {"task_id": "source-1"})


def create(data: bytes) -> None:
    answer = _answer(data)
    cut = KieConnectionError("cut", sent=True, partial=answer.body, http_status=answer.status)
    for judged in (judge_create(answer, CREATE), judge_silence(cut, CREATE)):
        assert (judged.verdict is Verdict.ACCEPTED) == (judged.task_id is not None)
        assert (judged.error is None) == (judged.verdict is Verdict.ACCEPTED)
        assert judged.error is None or isinstance(judged.error, KieError)
        if judged.task_id is not None:
            assert judged.task_id.encode() in answer.body


def credits(data: bytes) -> None:
    with contextlib.suppress(KieError):
        assert isinstance(read_credits(_answer(data)), float)


def address(data: bytes) -> None:
    with contextlib.suppress(KieError):
        assert read_download_url(_answer(data)).startswith("http")


def upload(data: bytes) -> None:
    with contextlib.suppress(KieError):
        assert isinstance(read_upload(_answer(data)), UploadedFile)


class Body:
    """Gives out a body in two pieces, as aiohttp does."""

    def __init__(self, data: bytes) -> None:
        half = len(data) // 2
        self._pieces = [piece for piece in (data[:half], data[half:]) if piece]

    async def readany(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def encoded(data: bytes) -> None:
    encoding, body = _first(data, (None, "gzip", "deflate", " GZIP ", "br", "zstd", "x", ""))
    headers = {} if encoding is None else {"Content-Encoding": encoding}
    answer = Answer()
    response: Any = SimpleNamespace(status=200, content=Body(body), headers=headers)
    with contextlib.suppress(KieError):
        whole = _run(answer.read(response))
        assert len(whole) <= MAX_BODY
    assert len(answer.partial()) <= MAX_BODY


def _run(work: Any) -> Any:
    """Run a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


# -- callbacks -----------------------------------------------------------------------------

KEY = "canary-hmac-55b0e8aa17"
RECEIVER = CallbackReceiver(
    [KEY], require_signature=False, clock=lambda: NOW, public_url="https://me.example"
)


def callback(data: bytes) -> None:
    """Headers as lines, an empty line, the body."""
    head, _, body = data.partition(b"\n\n")
    headers = {}
    for line in head.decode("latin-1").split("\n"):
        name, _, value = line.partition(":")
        headers[name] = value.strip()
    with contextlib.suppress(CallbackError):
        event = verify_callback(body, headers, "not-" + KEY, now=NOW)
        raise AssertionError(f"nobody has that key: {event}")
    reply = RECEIVER.receive("POST", "/kie/cb", headers, body, NOW)
    assert reply.status == 200 or (reply.event is None and 400 <= reply.status < 600)


def doorbell(data: bytes) -> None:
    durations = Durations(PollSchedule())
    bell = RedisDoorbell(object(), "me", receiver=RECEIVER, durations=durations)  # type: ignore[arg-type]  # no store is asked
    bell._hear(data)


# -- files of ours -------------------------------------------------------------------------

INPUT = '{"task_id":"source-1"}'
ITEM: tuple[Any, ...] = (
    *(1, "source-1", key_of("m", INPUT), "m", INPUT, None, "done", 1, TASK, None, None, None),
    *(0, 4.0, NOW, NOW, NOW, 3, '["a.png"]', NOW, NOW),
)
ATTEMPT: tuple[Any, ...] = (
    *("source-1", 1, "ref", NOW, NOW, "created", 200, 200, None, TASK, '{"a":1}'),
    *("host", 1, "boot"),
)
DECISION: tuple[Any, ...] = ("source-1", NOW, "as", TASK, "me", '{"proof":"reference"}')


def row(data: bytes) -> None:
    """One column of a row is another: as text, bytes, number or nothing."""
    at, rest = _first(data, range(256))
    kind, rest = _first(rest, ("text", "bytes", "int", "float", "none"))
    value: Any = {
        "text": lambda: rest.decode("utf-8", "replace"),
        "bytes": lambda: rest,
        "int": lambda: int.from_bytes(rest[:7], "big", signed=True),
        "float": lambda: float(int.from_bytes(rest[:4], "big")) / 7,
        "none": lambda: None,
    }[kind]()
    item = list(ITEM)
    item[at % len(item)] = value
    with contextlib.suppress(JournalCorruptError):
        found = read_item((*item, seal(*(ITEM[n] for n in (1, 2, 5, 6, 8)))))
        assert (found.source_id, found.task_id, found.key) == (ITEM[1], ITEM[8], ITEM[2])
        assert (found.state.value, found.model) == (ITEM[6], ITEM[3])
    attempt, decision = list(ATTEMPT), list(DECISION)
    attempt[10] = decision[5] = value  # what no seal covers and no CHECK guards
    assert read_attempt(tuple(attempt)).verdict is AttemptVerdict.CREATED
    read_decision(tuple(decision))


def note(data: bytes) -> None:
    path = HOME / "x.part.note"
    path.write_bytes(data)
    found = read_note(path)
    assert found is None or isinstance(found, Note)


def kinds(data: bytes) -> None:
    label, head = _first(data, ("", "image/png", "text/html; charset=x", "video/mp4", "\xff"))
    kind = kind_of(head[:HEAD])
    assert kind.suffix.startswith(".")
    assert isinstance(looks_like_a_page(head[:HEAD], label), bool)
    assert isinstance(contradicts(kind, label), bool)


def config(data: bytes) -> None:
    """The settings file, and then each setting with the same text as a flag."""
    path = HOME / "config.toml"
    path.write_bytes(data)
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with contextlib.suppress(Refused):
        for each in Config.load({}, {"KIE_CONFIG": str(path)}).all():
            each.shown()
    text = data.decode("utf-8", "replace")
    for name in SETTINGS:
        with contextlib.suppress(Refused):
            Config({name: text}, {}, path).get(name).shown()


# -- lists of the user's -------------------------------------------------------------------


def _list(form: str) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        column, rest = _first(data, (None, None, None, "t", ""))
        lines = rest.decode("utf-8", "replace").splitlines(keepends=True)
        with contextlib.suppress(click.UsageError):
            assert all(isinstance(item, BulkItem) for item in parse(lines, "l", form, column))

    return target


def _json(value: Any) -> bytes:
    return b"\x00" + json.dumps(value).encode()


def _ok(data: Any) -> bytes:
    return _json({"code": 200, "msg": "success", "data": data})


RECORD = {
    "taskId": TASK,
    "model": "grok-imagine/upscale",
    "state": "success",
    "param": json.dumps({"input": INPUT, "model": "m", "callBackUrl": "https://me/kie/cb/r"}),
    "resultJson": '{"resultUrls":["https://h/a.png"]}',
    "response": {"resultUrls": ["https://h/a.png"]},
    "failCode": None,
    "failMsg": None,
    "costTime": 12,
    "completeTime": 1_790_000_012_000,
    "createTime": 1_790_000_000_000,
    "creditsConsumed": 4.0,
}
REFUSALS = (
    _json({"code": 422, "msg": "recordInfo is null", "data": None}),
    _json({"code": "429", "message": "too high"}),
    b"\x0cRetry-After: Wed, 21 Oct 2026 07:28:00 GMT\n" + _json({"code": 429})[1:],
    b"\x0b<html><body>502</body></html>",
)
STAMPED = (
    b"Content-Type: application/json\nX-Webhook-Timestamp: 1790000000\n"
    b"X-Webhook-Signature: " + b"A" * 43 + b"=\n\n"
)
TOML = (
    b'api_key = "k-1"\nbase_url = "http://127.0.0.1:9"\ntimeout = 900.0\nmax_concurrency = 20\n'
    b'create_rate = "20/10"\ncreate_retry = "reported"\nout = "~/x"\nlog_level = "off"\n'
)


def _noted() -> bytes:
    path = HOME / "seed.note"
    path.unlink(missing_ok=True)
    write_note(path, Note.now('"tag"', 1000))
    return path.read_bytes()


PLAIN = json.dumps({"code": 200, "data": RECORD}).encode()

READERS: dict[str, Reader] = {
    "task": Reader(task, (_ok(RECORD), _ok({**RECORD, "state": "fail"}), *REFUSALS)),
    "create": Reader(create, (_ok({"taskId": TASK, "recordId": TASK}), *REFUSALS)),
    "credits": Reader(credits, (_ok(42.5), _ok("42"), *REFUSALS)),
    "address": Reader(address, (_ok("https://h/a.png"), *REFUSALS)),
    "upload": Reader(
        upload,
        (
            _ok({"fileName": "a", "downloadUrl": "https://h/a", "fileSize": 5, "mimeType": "x/y"}),
            *REFUSALS,
        ),
    ),
    "encoded": Reader(
        encoded,
        (
            b"\x00" + PLAIN,
            b"\x01" + zlib.compress(PLAIN, wbits=31),
            b"\x02" + zlib.compress(PLAIN),
            b"\x02" + zlib.compress(PLAIN, wbits=-15),
        ),
        hostile=(b"\x01" + zlib.compress(bytes(2**28), wbits=31),),
    ),
    "callback": Reader(
        callback,
        (STAMPED + _ok(RECORD)[1:], b"\n\n" + _json({"taskId": "t1", "data": {}})[1:]),
    ),
    "doorbell": Reader(
        doorbell,
        (
            json.dumps(
                {"from": "b", "rings": [["t1", None]], "taken": [["m", "waiting", 3.0]]}
            ).encode(),
        ),
    ),
    "row": Reader(
        row,
        tuple(
            bytes([column, kind]) + text
            for column in range(len(ITEM))
            for kind, text in ((0, b"done"), (0, b'{"a":[1]}'), (1, b"\x80"), (2, b"\x7f" * 7))
        ),
    ),
    "note": Reader(note, (_noted(),)),
    "kinds": Reader(
        kinds,
        (b"\x00\x89PNG\r\n\x1a\n", b"\x01RIFF0000WEBP", b"\x02<!doctype", b"\x030000ftypavif"),
    ),
    "config": Reader(
        config,
        (TOML, b"20/10", b"http://h:1", b"60", b"~nobody/x"),
        hostile=tuple(b"%s = 0x" % name.encode() + b"f" * 5000 for name in SETTINGS),
    ),
    "lines": Reader(_list("lines"), (b"\x00abcd\n\n# no\nefgh\n", b"\x00\xef\xbb\xbfabcd\n")),
    "csv": Reader(
        _list("csv"), (b"\x00id,name\nabcd,x\n", b'\x03"a,b",t\nx,abcd\n', b"\x00id\n\n")
    ),
    "jsonl": Reader(
        _list("jsonl"), (b'\x00"abcd"\n', b'\x00{"task_id": "efgh", "resolution": "720p"}\n')
    ),
}


def naive(data: bytes) -> None:
    """Read an answer as most do."""
    told = json.loads(data[1:])
    if told["code"] == 200:
        record = told["data"]
        assert record["createTime"] / 1000 < record["completeTime"]
        _ = record["model"].upper(), json.loads(record["resultJson"])["resultUrls"][0]


BAD: dict[str, Reader] = {"naive": Reader(naive, READERS["task"].seeds)}
"""What every way of fuzzing must catch."""
