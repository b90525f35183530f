"""What a rule makes of an answer.  Bytes in, bytes out: no socket."""

from __future__ import annotations

import gzip
import http
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from attrs import evolve

from kie_async.emulator._messages import (
    MAINTAINED,
    TOO_MANY,
    Answer,
    Request,
    Wire,
    blob,
    envelope,
)
from kie_async.emulator._rules import Rule

__all__ = ["faulty", "head"]

HTML = {"Content-Type": "text/html"}
PAGE = b"<html><head><title>Error</title></head><body><h1>cloudflare</h1></body></html>"
DENIED = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"
)
BOMB = 2**30


def faulty(rule: Rule, request: Request, answer: Answer | None) -> Answer:
    """Return what *rule* makes of *answer*; None stands for work that was not done."""
    if callable(rule.action):
        made = rule.action(request, answer)
        if isinstance(made, bytes):
            made = evolve(answer or Answer(), wire=Wire((made,)))
    else:
        base = answer or Answer()
        maker = _MAKERS.get(rule.action)
        made = maker(rule, base) if maker is not None else base
    made = evolve(made, headers={**made.headers, **rule.headers}, delay=rule.delay)
    if isinstance(rule.action, str) and rule.action in _WIRES:
        made = evolve(made, wire=_WIRES[rule.action](rule, made))
    return made


# -- other answers ------------------------------------------------------------------------


def _page(rule: Rule, answer: Answer) -> Answer:
    return Answer(rule.status, PAGE, {**answer.headers, **HTML})


def _blocked(rule: Rule, answer: Answer) -> Answer:
    return Answer(403, b"error code: 1010", {**answer.headers, "Content-Type": "text/plain"})


def _status(rule: Rule, answer: Answer) -> Answer:
    return evolve(answer, status=rule.status)


def _envelope(rule: Rule, answer: Answer) -> Answer:
    return evolve(envelope(rule.code, rule.msg, rule.data), status=rule.status)


def _too_many(rule: Rule, answer: Answer) -> Answer:
    return evolve(envelope(429, TOO_MANY), status=rule.status)


def _maintenance(rule: Rule, answer: Answer) -> Answer:
    return evolve(envelope(455, MAINTAINED), status=rule.status)


def _maintained(rule: Rule, answer: Answer) -> Answer:
    return evolve(envelope(500, MAINTAINED), status=rule.status)


def _body(rule: Rule, answer: Answer) -> Answer:
    return evolve(answer, status=rule.status, body=_bytes(rule.body))


def _redirect(rule: Rule, answer: Answer) -> Answer:
    status = 307 if rule.status == 200 else rule.status
    return Answer(status, b"", {**answer.headers, "Location": rule.location})


def _expired(rule: Rule, answer: Answer) -> Answer:
    status = 403 if rule.status == 200 else rule.status
    return Answer(status, DENIED, {"Content-Type": "application/xml"})


def _bomb(rule: Rule, answer: Answer) -> Answer:
    swollen = _zeros(rule.size or BOMB)
    return Answer(rule.status, swollen, {**answer.headers, "Content-Encoding": "gzip"})


def _gzip(rule: Rule, answer: Answer) -> Answer:
    packed = gzip.compress(answer.body)
    packed = packed[: rule.cut] if rule.cut else packed
    return evolve(answer, body=packed, headers={**answer.headers, "Content-Encoding": "gzip"})


def _labelled(name: str, value: str) -> Callable[[Rule, Answer], Answer]:
    return lambda rule, answer: evolve(answer, headers={**answer.headers, name: value})


def _patch(rule: Rule, answer: Answer) -> Answer:
    return _over(answer, rule.data, rule.drop)


def _weird(rule: Rule, answer: Answer) -> Answer:
    told = rule.body.decode() if isinstance(rule.body, bytes) else rule.body
    return _over(answer, {"resultJson": told}, ("response",))


def _backwards(rule: Rule, answer: Answer) -> Answer:
    running = {"state": "generating", "resultJson": "", "successFlag": 0}
    return _over(answer, {**running, "costTime": None, "completeTime": None}, ("response",))


def _whole(rule: Rule, answer: Answer) -> Answer:
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    return Answer(200, answer.whole, headers)


def _other_part(rule: Rule, answer: Answer) -> Answer:
    size = len(answer.whole)
    part = answer.whole[1:]
    return evolve(
        answer,
        body=part,
        headers={**answer.headers, "Content-Range": f"bytes 1-{size - 1}/{size}"},
    )


def _over(answer: Answer, fields: Any, drop: tuple[str, ...]) -> Answer:
    told = answer.json()
    data = told.get("data")
    if isinstance(data, dict) and isinstance(fields, Mapping):
        data = {name: value for name, value in {**data, **fields}.items() if name not in drop}
    elif isinstance(data, dict) and fields is None and drop:
        data = {name: value for name, value in data.items() if name not in drop}
    else:
        data = fields
    return evolve(answer, body=blob({**told, "data": data}))


def _bytes(body: bytes | str | None) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body or b""


@lru_cache(maxsize=4)
def _zeros(size: int) -> bytes:
    """Return gzip that swells to about *size* zeros; made of one block, many times."""
    block, many = 2**20, max(1, size >> 20)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b"")
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    check = 0
    for _ in range(many):
        check = zlib.crc32(bytes(block), check)
    start = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"
    end = struct.pack("<II", check, (block * many) & 0xFFFFFFFF)
    return start + once * many + packer.flush() + end


_MAKERS: dict[str, Callable[[Rule, Answer], Answer]] = {
    "html": _page,
    "blocked": _blocked,
    "status": _status,
    "envelope": _envelope,
    "too-many": _too_many,
    "maintenance": _maintenance,
    "maintained": _maintained,
    "body": _body,
    "redirect": _redirect,
    "expired": _expired,
    "bomb": _bomb,
    "gzip": _gzip,
    "not-gzip": _labelled("Content-Encoding", "gzip"),
    "wrong-type": _labelled("Content-Type", "text/html"),
    "set-cookie": _labelled("Set-Cookie", "JSESSIONID=1F3C0A; Path=/; HttpOnly"),
    "new-etag": _labelled("ETag", '"another"'),
    "patch": _patch,
    "weird-result": _weird,
    "backwards": _backwards,
    "no-range": _whole,
    "wrong-range": _other_part,
}

# -- bytes of the wire --------------------------------------------------------------------


def head(answer: Answer, framing: str = "length") -> bytes:
    """Write status line and headers; *framing* as in `Rule`."""
    try:
        reason = http.HTTPStatus(answer.status).phrase
    except ValueError:
        reason = "Status"
    fields = dict(answer.headers)
    if framing == "length":
        fields.setdefault("Content-Length", str(len(answer.body)))
    elif framing == "chunked":
        fields["Transfer-Encoding"] = "chunked"
    else:
        fields["Connection"] = "close"
    lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{n}: {v}" for n, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def _bare(end: str) -> Callable[[Rule, Answer], Wire]:
    return lambda rule, answer: Wire((), end=end)


def _half_status(rule: Rule, answer: Answer) -> Wire:
    return Wire((head(answer)[:8],), end=rule.then)


def _half_headers(rule: Rule, answer: Answer) -> Wire:
    whole = head(answer)
    return Wire((whole[: len(whole) // 2],), end=rule.then)


def _cut(rule: Rule, answer: Answer) -> Wire:
    part = answer.body[: rule.cut]
    if rule.framing == "chunked":
        part = b"%x\r\n%s" % (len(answer.body), part)
    return Wire((head(answer, rule.framing), part), end=rule.then)


def _garbage(rule: Rule, answer: Answer) -> Wire:
    return Wire((_bytes(rule.body) or b"\x00\x01garbage, and no HTTP\r\n\r\n",))


def _extra(rule: Rule, answer: Answer) -> Wire:
    return Wire((head(answer) + answer.body + (_bytes(rule.body) or b"extra bytes"),))


def _drip(rule: Rule, answer: Answer) -> Wire:
    return Wire((head(answer), *_pieces(answer.body, rule.size or 1)), rule.gap)


def _drip_all(rule: Rule, answer: Answer) -> Wire:
    return Wire(_pieces(head(answer) + answer.body, rule.size or 1), rule.gap)


def _pieces(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


_WIRES: dict[str, Callable[[Rule, Answer], Wire]] = {
    "fin": _bare("fin"),
    "rst": _bare("rst"),
    "rst-early": _bare("rst"),
    "silence": _bare("silence"),
    "unread": _bare("silence"),
    "endless": _bare("endless"),
    "half-status": _half_status,
    "half-headers": _half_headers,
    "cut": _cut,
    "garbage": _garbage,
    "extra": _extra,
    "drip": _drip,
    "drip-all": _drip_all,
}
