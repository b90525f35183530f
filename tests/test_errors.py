"""The error tree."""

from __future__ import annotations

import copy
import pickle

import pytest

from kie_async import errors
from kie_async.errors import KieError, TaskFailedError, WaitTimeoutError
from kie_async.models import Task, TaskState

CLASSES = [getattr(errors, name) for name in errors.__all__]


def made(cls: type[KieError]) -> KieError:
    """Make an error of any class with every common fact in it."""
    facts = {"code": 7, "http_status": 299, "task_id": "abcd", "maybe_charged": True}
    if cls is TaskFailedError:
        facts["task"] = Task(task_id="abcd", state=TaskState.FAIL)
    return cls("it went wrong", **facts)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
def test_every_error_carries_the_same_facts(cls):
    """Code, message, status, task id, retryable and maybe_charged are on each."""
    error = made(cls)

    assert isinstance(error, KieError)
    assert cls.__name__.endswith("Error")
    assert (error.code, error.http_status, error.task_id) == (7, 299, "abcd")
    assert error.maybe_charged is True
    assert isinstance(error.retryable, bool)
    assert str(error) == "it went wrong (task abcd)"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda c: c.__name__)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_copy_and_pickle(cls, way):
    """Process pools and task queues carry errors around; nothing of them is lost."""
    error = made(cls)

    twin = way(error)

    assert type(twin) is cls
    assert str(twin) == str(error)
    assert twin.__dict__ == error.__dict__


def test_the_id_is_not_said_twice():
    """A message that names its task stays as it is."""
    assert str(KieError("task abcd is gone", task_id="abcd")) == "task abcd is gone"


def test_running_out_of_time_is_a_timeout():
    """`except TimeoutError` catches it, as people expect."""
    assert issubclass(WaitTimeoutError, TimeoutError)


def test_an_unreadable_body_is_clipped():
    """An error never carries megabytes around."""
    assert len(errors.ResponseError("?", body=b"x" * 10_000).body) == 500
