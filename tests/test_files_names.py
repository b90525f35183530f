"""Names: from ids and templates, safe on every platform, never a path."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kie_async import UsageError
from kie_async.files import _part as part_module
from kie_async.files import check_template, file_name, safe_stem
from kie_async.files._kinds import SUFFIXES
from kie_async.files._mark import has_a_mark, is_marked, marked_time

RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$"} | {
    f"{port}{digit}" for port in ("COM", "LPT") for digit in range(10)
}
PIECES = [
    "..", ".", "/", "\\", "\0", "%2f", "CON", "nul", "com1", "LPT9.x", " ", "~", "a", "A", "é",
    "猫", ":", "*", "\n", "\x7f", "\u202e", "\ud800", "-", "_", "x" * 130, "{", "}", "$", "C:",
    "aux .txt",
]  # fmt: skip


def assert_safe(stem: str) -> None:
    """Hold a stem against the rules of all platforms."""
    assert 0 < len(stem) <= 120
    assert stem.isascii()
    assert stem.isprintable()
    assert not set(stem) & set('/\\:*?"<>|%{}$')
    assert not stem.startswith((".", " "))
    assert not stem.endswith((".", " "))
    assert stem.partition(".")[0].rstrip().upper() not in RESERVED


@given(st.text(max_size=300))
def test_every_name_is_a_plain_child(text):
    """No path, nothing hidden, nothing reserved, on no platform."""
    assert_safe(safe_stem(text))


def test_twenty_thousand_hostile_names_are_safe_and_never_meet(tmp_path):
    """G10: all are direct children of the folder, and no two texts share a name."""
    dice, stems = random.Random(20_000), {}
    while len(stems) < 20_000:
        text = "".join(dice.choices(PIECES, k=dice.randint(0, 6))) + dice.choice(
            ["", str(len(stems))]
        )
        stem = safe_stem(text)
        assert_safe(stem)
        assert stems.setdefault(stem, text) == text
        assert os.path.normpath(tmp_path / f"{stem}.png") == str(tmp_path / f"{stem}.png")


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("0123456789abcdef0123456789abcdef", "0123456789abcdef0123456789abcdef"),
        ("task_grok_12345678", "task_grok_12345678"),
        ("My picture.v2", "My picture.v2"),
    ],
)
def test_plain_names_stay_as_they_are(text, stem):
    """Ids of every known form do."""
    assert safe_stem(text) == stem


@pytest.mark.parametrize(
    "evil", ["../../etc/passwd", "..%2f..", "CON", "nul.png", "a\0b", "x" * 300, "", "a ", ".a"]
)
def test_what_is_changed_gets_a_hash_of_what_it_was(evil):
    """Else two of them could meet in one name."""
    stem = safe_stem(evil)

    assert_safe(stem)
    assert stem[-9] == "~"
    assert stem == safe_stem(evil)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "plain",
        "{nonsense}",
        "{source_id}/x",
        "..\\{task_id}",
        "{task_id}\0",
        "{",
        "{0}",
        "{}",
        "{task_id.__class__}",
        "{task_id[0]}",
        "{task_id!r}",
        "{task_id:999999999}",
        "{task_id:{index}}",
        "{task_id:x}",
        "{source_id}{index:q}",
        None,
        7,
    ],
)
def test_templates_are_checked(bad):
    """Before anything is paid for."""
    with pytest.raises(UsageError):
        check_template(bad)


@pytest.mark.parametrize(
    "good", ["{source_id}", "{task_id}-{index}", "{task_id}_{index:03d}", "{source_id:.0s}x{{y}}"]
)
def test_good_templates_pass(good):
    """And are returned."""
    assert check_template(good) == good


def test_names_follow_the_template():
    """And several results of one task never share a name."""
    ids = {"source_id": "src", "task_id": "tsk"}

    assert file_name("{source_id}", **ids, index=0, count=1) == "src"
    assert file_name("{source_id}", **ids, index=1, count=2) == "src-1"
    assert file_name("{task_id}_{index:03}", **ids, index=1, count=2) == "tsk_001"


def test_long_names_of_one_task_stay_apart():
    """The number is not cut away."""
    ids = {"source_id": "s" * 300, "task_id": "t"}

    names = {file_name("{source_id}", **ids, index=index, count=9) for index in range(9)}

    assert len(names) == 9


# -- the mark ------------------------------------------------------------------------


class Stat:
    """As much of a file's status as a mark is in."""

    def __init__(self, time: int, size: int, mode: int = 0o100644) -> None:
        self.st_mtime_ns, self.st_size, self.st_mode = time, size, mode


@given(st.integers(0, 4 * 10**9), st.integers(0, 2**40), st.text(min_size=1), st.integers(0, 99))
def test_a_mark_tells_its_own_result(seconds, size, task_id, index):
    """In the same second, and on a file system that keeps 100 ns too."""
    time = marked_time(seconds, size, task_id, index)

    assert time // 10**9 == seconds
    for kept in (time, time // 100 * 100):
        assert is_marked(Stat(kept, size), task_id, index)
        assert has_a_mark(Stat(kept, size))
    assert not is_marked(Stat(time, size, 0o120777), task_id, index)


def test_a_mark_tells_others_apart():
    """Another task, number, size or time: one in many is taken for it by chance."""
    dice = random.Random(5)
    wrong = 0
    for number in range(20_000):
        time = marked_time(1_700_000_000 + number, 1000, "task", 0)
        other = [
            (Stat(time, 1001), "task", 0),
            (Stat(time, 1000), "other", 0),
            (Stat(time, 1000), "task", 1),
            (Stat(time + dice.randrange(100, 10**9), 1000), "task", 0),
        ][number % 4]
        wrong += is_marked(*other)

    assert wrong <= 5
    assert sum(has_a_mark(Stat(dice.randrange(2**60), 1000)) for _ in range(20_000)) < 60


# -- names that differ in case only -----------------------------------------------------


def test_names_that_differ_in_case_only_stay_apart(tmp_path, monkeypatch):
    """On a file system that ignores case: as seen when the name is taken, yet not listed."""
    png = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0IEND\xaeB`\x82"
    other = tmp_path / "ABC.png"
    other.write_bytes(b"mine")
    os.utime(other, ns=(0, 0))
    real = part_module.moved_to
    folded = {"abc.png": other}
    monkeypatch.setattr(
        part_module, "moved_to", lambda path, to: to.name not in folded and real(path, to)
    )
    real_lstat = type(tmp_path).lstat
    monkeypatch.setattr(
        type(tmp_path), "lstat", lambda path: real_lstat(folded.get(path.name, path))
    )
    part = part_module.Part(tmp_path, "abc", "task", 0)
    part.open()
    part.start(None, None)
    part.append(png)

    final, size = part.finish(part.examine("image/png", framed=True))
    part.close()

    assert final.name.startswith("abc~")
    assert size == len(png)
    assert other.read_bytes() == b"mine"


@settings(max_examples=300)
@given(st.text(max_size=200), st.text(max_size=200), st.integers(0, 20))
def test_no_file_of_ours_ever_has_the_name_of_a_part(source, task, index):
    """`.part` and `.part.json` are kept for what is unfinished."""
    stem = file_name("{source_id}{task_id}", source_id=source, task_id=task, index=index, count=2)

    assert not any(f"{stem}{suffix}".endswith((".part", ".json")) for suffix in SUFFIXES)
