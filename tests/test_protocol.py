"""Requests, and the answers that are no creates."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import errors
from kie_async.errors import KieError, UsageError
from kie_async.models import Task, TaskState
from kie_async.protocol import (
    Response,
    create_task_request,
    download_url_request,
    get_task_request,
    lacks_result,
    read_credits,
    read_download_url,
    read_task,
    read_upload,
)

ID = "0123456789abcdef0123456789abcdef"


def answer(data, code=200, msg="success", status=200) -> Response:
    """Make an answer in Kie's frame."""
    return Response(status, {}, json.dumps({"code": code, "msg": msg, "data": data}).encode())


def record(**fields):
    """Make a record as captured in 2026-04 while a task waits."""
    return {
        "taskId": ID,
        "model": "grok-imagine/upscale",
        "state": "waiting",
        "param": json.dumps({"input": json.dumps({"task_id": "x"}), "model": "m"}),
        "resultJson": "",
        "failCode": None,
        "failMsg": None,
        "costTime": None,
        "completeTime": None,
        "createTime": 1776323931162,
        **fields,
    }


# -- requests --


def test_a_create_has_the_captured_form():
    """Body, path, and the mark that it costs money."""
    request = create_task_request("grok-imagine/upscale", {"task_id": "x"}, "https://h/cb")

    assert (request.method, request.path) == ("POST", "/api/v1/jobs/createTask")
    assert json.loads(request.body or b"") == {
        "model": "grok-imagine/upscale",
        "input": {"task_id": "x"},
        "callBackUrl": "https://h/cb",
    }
    assert request.paid


def test_no_callback_url_is_no_field():
    """Not null: an empty field was never captured."""
    assert b"callBackUrl" not in (create_task_request("m", {}).body or b"")


def test_an_id_is_quoted_into_the_url():
    """An opaque id cannot become a second parameter."""
    assert get_task_request("a+b").path == "/api/v1/jobs/recordInfo?taskId=a%2Bb"


@pytest.mark.parametrize(
    "bad",
    [
        {"x": object()},
        {"x": float("nan")},
        {"x": b"bytes"},
        {1, 2},
        "text",
        None,
        [1],
        {"x": "\ud800"},
    ],
)
def test_an_input_that_is_no_json_is_refused(bad):
    """Before anything is sent."""
    with pytest.raises(UsageError):
        create_task_request("m", bad)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "ftp://h/x",
        "h/x",
        "http://",
        "https://h:0/",
        "https://h:99999/",
        "http://h/a b",
        "http://h/\n",
        "http://[::1",
        5,
        "javascript:alert(1)",
        "https://hö/",
    ],
)
def test_a_callback_url_must_be_one(bad):
    """Kie has to be able to post to it."""
    with pytest.raises(UsageError, match="callback_url"):
        create_task_request("m", {}, bad)


@pytest.mark.parametrize("bad", ["", None, 5, "a\nb"])
def test_a_model_is_a_name(bad):
    """Any printable name is sent; nothing else is one."""
    with pytest.raises(UsageError, match="model"):
        create_task_request(bad, {})


def test_a_download_url_needs_a_url():
    """An empty one is our error, not Kie's."""
    with pytest.raises(UsageError):
        download_url_request("")


# -- tasks --


def test_a_waiting_task_as_captured():
    """Null and empty fields everywhere, and nothing breaks."""
    task = read_task(answer(record()), ID)

    assert (task.task_id, task.state, task.done) == (ID, TaskState.WAITING, False)
    assert task.created_at == 1776323931.162
    assert (task.result_urls, task.fail_code, task.credits_consumed) == ((), None, None)
    assert task.input == {"task_id": "x"}
    assert task.raw["resultJson"] == ""


@pytest.mark.parametrize(
    "where",
    [
        {"resultJson": json.dumps({"resultUrls": ["https://h/1.png"]})},
        {"resultJson": {"resultUrls": ["https://h/1.png"]}},
        {"resultJson": "", "response": {"resultUrls": ["https://h/1.png"]}},
        {"resultJson": "{", "response": {"resultUrls": ["https://h/1.png", None, 5, ""]}},
        {"resultJson": json.dumps({"resultUrls": ["https://h/1.png"]}), "response": {}},
    ],
)
def test_results_are_found_where_they_are(where):
    """Text, object, or the newer field."""
    task = read_task(answer(record(state="success", **where)), ID)

    assert task.result_urls == ("https://h/1.png",)
    assert not lacks_result(task)


def test_a_structured_result_is_kept():
    """Some models answer no file at all."""
    shown = json.dumps({"resultObject": [{"maskUrl": "u"}]})
    task = read_task(answer(record(state="success", resultJson=shown)), ID)

    assert task.result_object == [{"maskUrl": "u"}]
    assert not lacks_result(task)


@pytest.mark.parametrize(
    "empty", [None, "", "{", '{"resultUrls":null}', '{"resultUrls":[null]}', "[]", "5"]
)
def test_a_success_without_a_result_is_noticed(empty):
    """The record may be late; the caller of the rule decides."""
    assert lacks_result(read_task(answer(record(state="success", resultJson=empty)), ID))


@pytest.mark.parametrize("state", ["queued", "", None, 5, "SUCCESS"])
def test_an_unknown_state_is_running(state):
    """And the word is kept."""
    task = read_task(answer(record(state=state)), ID)

    assert task.state is TaskState.UNKNOWN
    assert not task.done
    assert task.raw["state"] == state


def test_unknown_fields_are_kept():
    """The record grows over time."""
    assert read_task(answer(record(brandNew={"a": 1})), ID).raw["brandNew"] == {"a": 1}


def test_a_failure_tells_why():
    """The code was seen as text, as a number and not at all."""
    task = read_task(answer(record(state="fail", failCode=500, failMsg="Internal Error")), ID)
    silent = read_task(answer(record(state="fail", failCode=None, failMsg=None)), ID)

    assert (task.fail_code, task.fail_message) == ("500", "Internal Error")
    assert silent.failed
    assert silent.fail_code is None


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (1776323931162, 1776323931.162),
        (1776323931, 1776323931.0),
        (None, None),
        (-5, None),
        (0, None),
        (True, None),
        ("1776323931162", None),
        (253402300799000, None),
        (10**40, None),
        (float("nan"), None),
    ],
)
def test_stamps_are_read_or_left_out(stamp, seconds):
    """Milliseconds as documented, seconds as elsewhere, nonsense never."""
    assert read_task(answer(record(createTime=stamp)), ID).created_at == seconds


@pytest.mark.parametrize(
    ("amount", "credits"),
    [
        (4.0, 4.0),
        (0, 0.0),
        ("10", 10.0),
        (None, None),
        (-3, None),
        ("x", None),
        (True, None),
        (float("inf"), None),
    ],
)
def test_credits_are_read_or_left_out(amount, credits):
    """A wrong number would spoil the audit."""
    assert read_task(answer(record(creditsConsumed=amount)), ID).credits_consumed == credits


def test_the_answer_must_speak_of_the_task():
    """Another task's answer never changes this one."""
    with pytest.raises(errors.ResponseError, match="another"):
        read_task(answer(record(taskId="f" * 32)), ID)


@pytest.mark.parametrize(
    ("code", "msg", "error"),
    [
        (422, "recordInfo is null", errors.NotFoundError),
        (422, "Record does not exist", errors.NotFoundError),
        (422, "something else", errors.ValidationError),
        (404, "Task not found", errors.NotFoundError),
        (401, "Unauthorized", errors.AuthenticationError),
        (429, "too high", errors.RateLimitError),
        (455, "", errors.MaintenanceError),
        (500, "internal error", errors.ServerError),
        (505, "", errors.FeatureDisabledError),
    ],
)
def test_a_refusal_is_the_right_error(code, msg, error):
    """With the id on it and in its text."""
    with pytest.raises(error) as caught:
        read_task(answer(None, code, msg), ID)

    assert caught.value.task_id == ID
    assert ID in str(caught.value)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (401, errors.AuthenticationError, False),
        (403, errors.AuthenticationError, True),
        (404, errors.NotFoundError, True),
        (429, errors.RateLimitError, True),
        (500, errors.ServerError, True),
        (502, errors.ServerError, True),
        (524, errors.ServerError, True),
        (302, errors.ResponseError, False),
        (200, errors.ResponseError, True),
    ],
)
def test_without_an_envelope_the_status_speaks(status, error, retryable):
    """The edge or a proxy answered; a later look may reach the API."""
    with pytest.raises(error) as caught:
        read_task(Response(status, {}, b"<html>error code: 1010</html>"), ID)

    assert caught.value.retryable is retryable
    assert caught.value.http_status == status


# -- balance, addresses, uploads --


@pytest.mark.parametrize(
    ("data", "balance"), [(5916.25, 5916.25), (60, 60.0), ("7.5", 7.5), (-1.5, -1.5)]
)
def test_a_balance_is_a_float(data, balance):
    """Whatever the documents say."""
    assert read_credits(answer(data)) == balance


@pytest.mark.parametrize("data", [None, "x", {}, True])
def test_no_balance_is_an_error(data):
    """Not zero."""
    with pytest.raises(errors.ResponseError):
        read_credits(answer(data))


def test_an_address_is_bare_text():
    """As captured; a foreign URL is refused with 422."""
    assert read_download_url(answer("https://h/x")) == "https://h/x"
    with pytest.raises(errors.ValidationError):
        read_download_url(answer(None, 422, "url is wrong"))
    with pytest.raises(errors.ResponseError):
        read_download_url(answer({"url": "x"}))


def test_an_upload_as_captured():
    """One shape for the three ways."""
    data = {
        "success": True,
        "fileName": "a.png",
        "filePath": "kieai/1/a.png",
        "downloadUrl": "https://h/a.png",
        "fileSize": 70,
        "mimeType": "image/png",
    }

    uploaded = read_upload(answer(data))

    assert (uploaded.file_name, uploaded.size) == ("a.png", 70)
    assert uploaded.download_url == "https://h/a.png"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "code",
                    "msg",
                    "data",
                    "taskId",
                    "state",
                    "resultJson",
                    "response",
                    "resultUrls",
                    "createTime",
                    "creditsConsumed",
                    "failCode",
                    "param",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    "read",
    [
        lambda r: read_task(r, ID),
        read_credits,
        read_download_url,
        read_upload,
    ],
)
@given(
    status=st.integers(0, 999),
    body=st.binary(max_size=200)
    | st.builds(lambda v: json.dumps(v).encode(), JSON)
    | st.builds(lambda v: json.dumps({"code": 200, "data": v}).encode(), JSON),
)
def test_any_bytes_become_a_value_or_a_kie_error(read, status, body):
    """No answer, however broken, escapes as another kind of exception."""
    try:
        value = read(Response(status, {}, body))
    except KieError:
        return
    assert isinstance(value, Task | float | str) or hasattr(value, "download_url")
