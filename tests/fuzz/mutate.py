"""Mutations: of bytes, and of JSON as what it says.  All follow from a `random.Random`."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

__all__ = ["mutated"]

TOKENS: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"\r\n",
    b"{",
    b"}",
    b"[" * 5000,
    b'{"a":' * 2000,
    b"null",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b"9" * 5000,
    b"\\ud800",
    b"\xed\xa0\x80",
    b"%00",
    b"../",
    b"=",
    b",",
    b"#",
    b"'''",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    200,
    429,
    500,
    10**400,
    -(2**63),
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "200",
    "\ud800",
    "\x00\n\x1b[31m",
    "../../etc/passwd",
    "9" * 5000,
    "A" * 3000,
    [],
    {},
    [[]],
    [None],
    {"": None},
    {"resultUrls": [1, None, {}]},
    '{"resultUrls":["https://h/a.png"]}',
    "[" * 3000,
)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of *seeds* with some changes."""
    data = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 2, 4))):
        change = rng.choice((_value, _value, _bits, _cut, _insert, _repeat, _cross))
        data = change(rng, data, seeds)
    return data


def _value(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Change what the JSON in it says; a first byte that is no part of it stays."""
    start = data.find(b"{")
    try:
        whole = json.loads(data[start:])
    except (ValueError, RecursionError):
        return _bits(rng, data, seeds)
    nodes = list(_nodes(whole))
    if not nodes:
        return _insert(rng, data, seeds)
    holder, key = rng.choice(nodes)
    match rng.randrange(4):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(("taskId", "code", "data", "x"))] = holder[key]
        case _:
            holder[key] = rng.choice(VALUES)
    text = json.dumps(whole, ensure_ascii=rng.random() < 0.5)
    return data[:start] + text.encode("utf-8", "surrogatepass")


def _nodes(value: Any) -> list[tuple[Any, Any]]:
    """Return each place of a JSON value: its holder and its key."""
    keys: Any = ()
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = range(len(value))
    found = []
    for key in keys:
        found.append((value, key))
        found += _nodes(value[key])
    return found


def _bits(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    return data[:start] + (data[rng.randint(start, len(data)) :] if rng.random() < 0.5 else b"")


def _insert(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    at = rng.randint(0, len(data))
    piece = rng.choice(TOKENS) if rng.random() < 0.8 else rng.randbytes(rng.randint(1, 20))
    return data[:at] + piece + data[at + rng.choice((0, 0, len(piece))) :]


def _repeat(rng: random.Random, data: bytes, _seeds: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    part = data[start : start + rng.randint(1, 40)]
    return data[:start] + part * rng.choice((2, 3, 200)) + data[start:]


def _cross(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    other = rng.choice(seeds)
    return data[: rng.randint(0, len(data))] + other[rng.randint(0, len(other)) :]
