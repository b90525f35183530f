"""The frozen values and the checks of plain input."""

from __future__ import annotations

import copy
import json
import math
import pickle

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.errors import UsageError
from kie_async.models import Secret, Task, TaskState, check_seconds, check_task_id


def test_a_task_is_frozen():
    """What the API said stays said."""
    task = Task(task_id="t1")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        task.state = TaskState.SUCCESS  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_tasks_copy_and_pickle(way):
    """Results travel between processes whole."""
    task = Task(task_id="t1", state=TaskState.SUCCESS, raw={"later": [1]}, created_at=1.0)

    twin = way(task)

    assert twin == task
    assert twin.raw == {"later": [1]}


def test_the_doubly_encoded_input_is_read_when_asked_for():
    """Live records hold JSON inside JSON (captured 2026-03)."""
    inner = json.dumps({"task_id": "abc"})
    param = json.dumps({"input": inner, "model": "m", "callBackUrl": "http://h/cb/ref"})

    task = Task(task_id="t1", raw={"param": param})

    assert task.input == {"task_id": "abc"}
    assert task.callback_url == "http://h/cb/ref"


@given(st.one_of(st.none(), st.integers(), st.text(), st.dictionaries(st.text(), st.text())))
def test_any_param_reads_as_input_or_none(param):
    """A broken record never breaks a caller."""
    task = Task(task_id="t1", raw={"param": param})

    assert task.input is None or isinstance(task.input, dict)
    assert task.callback_url is None or isinstance(task.callback_url, str)


def test_a_duration_comes_from_the_stamps():
    """Not from costTime, whose unit the documents disagree about."""
    assert Task(task_id="t", created_at=10.0, completed_at=22.5).duration == 12.5
    assert Task(task_id="t", created_at=10.0).duration is None
    assert Task(task_id="t", created_at=10.0, completed_at=9.0).duration == 0.0


@pytest.mark.parametrize(
    "bad", ["", "x" * 101, 5, None, b"abcd", "a b", "a/b", "a\nb", "ä", "..", "a?b"]
)
def test_impossible_ids_are_refused(bad):
    """Before they reach a URL or cost anything."""
    with pytest.raises(UsageError):
        check_task_id(bad)


@pytest.mark.parametrize(
    "good", ["a" * 32, "task_grok-imagine_1767694553297", "x" * 100, "281e5b0.f39b9"]
)
def test_ids_are_opaque(good):
    """Every documented form passes."""
    assert check_task_id(good) == good


@pytest.mark.parametrize(
    "bad", [-1, math.nan, math.inf, pytest.param(10**5000, id="huge"), True, "3", None, 0]
)
def test_impossible_times_are_refused(bad):
    """A time-out is a finite number of seconds above zero."""
    with pytest.raises(UsageError):
        check_seconds(bad, "timeout")


def test_zero_passes_where_it_has_a_meaning():
    """A grace of zero seconds is no grace."""
    assert check_seconds(0, "grace", zero=True) == 0.0


@pytest.mark.parametrize("bad", ["", "a b", "abc\n", " abc", "\x00", "kéy", "a\rb"])
def test_a_key_that_would_break_a_header_is_refused_by_name(bad):
    """Our words, not the HTTP library's; and the key is not in them."""
    with pytest.raises(UsageError, match="API key") as caught:
        Secret(bad)
    if bad:
        assert bad not in str(caught.value)


def test_a_secret_shows_itself_only_when_asked():
    """Not in repr, str, format, attributes or pickles."""
    secret = Secret("sesame-sesame")

    shown = f"{secret!r} {secret!s} {secret} {[secret]} {secret.__slots__} {dir(secret)}"

    assert secret.reveal() == "sesame-sesame"
    assert "sesame" not in shown
    assert "sesame" not in repr(secret._reveal)
    for way in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(UsageError):
            way(secret)
