"""The edges of the protocol's tables: every number, every limit, every word, one by one.

Written for the mistakes that `tests.mutation` puts in: each off by one is seen here.
"""

from __future__ import annotations

import json

import pytest

from kie_async import errors
from kie_async.errors import KieConnectionError, ResponseError, UsageError
from kie_async.protocol import (
    MAX_UPLOAD,
    Response,
    Verdict,
    create_task_request,
    credits_request,
    download_url_request,
    get_task_request,
    judge_create,
    judge_silence,
    read_credits,
    read_download_url,
    read_task,
    read_upload,
    upload_bytes_request,
    upload_url_request,
)
from kie_async.protocol._envelope import api_error, class_of

REQUEST = create_task_request("m", {})

REFUSED = {
    *range(300, 400), 400, 401, 402, 403, 404, 405, 406, 411, 413, 414, 415, 417, 421, 422, 425,
    426, 428, 429, 430, 431, 433, 451, 455, 505, 521, 523, 525, 526,
}  # fmt: skip
"""Statuses after which surely nothing was created: reliability notes, 2.3, read again."""

CLASSES = {
    400: errors.ValidationError, 401: errors.AuthenticationError,
    402: errors.InsufficientCreditsError, 403: errors.AuthenticationError,
    404: errors.NotFoundError, 408: errors.GenerationError, 422: errors.ValidationError,
    425: errors.RateLimitError, 429: errors.RateLimitError, 430: errors.RateLimitError,
    433: errors.KeyQuotaError, 455: errors.MaintenanceError, 501: errors.GenerationError,
    505: errors.FeatureDisabledError, 531: errors.GenerationError,
}  # fmt: skip


def frame(code: object, data: object = None, status: int = 200, **more: object) -> Response:
    return Response(status, {}, json.dumps({"code": code, "data": data, **more}).encode())


def bare(status: int, body: bytes = b"<html>", **headers: str) -> Response:
    return Response(status, headers, body)


# -- numbers -------------------------------------------------------------------------------


def test_every_status_of_a_bare_answer_has_its_verdict():
    """From 100 to 999: refused for sure, or in doubt, and nothing else."""
    refused = {
        status
        for status in range(100, 1000)
        if judge_create(bare(status), REQUEST).verdict is Verdict.REJECTED
    }

    assert refused == REFUSED


def test_every_code_has_its_class():
    """From 0 to 999; what is in no table is the request's fault below 500, else the server's."""
    for code in range(1000):
        usual = errors.ServerError if code >= 500 else errors.ValidationError
        assert class_of(code, "") is CLASSES.get(code, usual)


def test_every_code_of_a_create_has_its_verdict():
    """Below 400 nobody knows; a failure of the server or the task may have been paid for."""
    for code in range(1000):
        verdict = judge_create(frame(code), REQUEST).verdict
        if code < 400:
            assert verdict is Verdict.IN_DOUBT
        elif code == 408 or (code >= 500 and code != 505):
            assert verdict is Verdict.REPORTED
        else:
            assert verdict is Verdict.REJECTED


@pytest.mark.parametrize("status", range(400, 600))
def test_every_bare_status_of_a_read_has_its_error(status):
    """Of the hop, not of the API: 403 and 404 may pass too."""
    with pytest.raises(errors.KieAPIError) as caught:
        read_credits(bare(status))

    usual = errors.ServerError if status >= 500 else errors.ValidationError
    expected = CLASSES.get(status, usual)
    if status in {408, 409, 499, 501, 505}:
        expected = errors.ServerError
    assert type(caught.value) is expected
    assert caught.value.retryable == (expected.default_retryable or status in {403, 404})
    assert ("says nothing about the key" in str(caught.value)) == (status == 403)


@pytest.mark.parametrize("status", [200, 299, 300, 301, 399])
def test_a_bare_answer_without_an_error_is_none_that_can_be_read(status):
    """A redirect is named, and not worth another try; the rest is."""
    with pytest.raises(ResponseError) as caught:
        read_credits(bare(status))

    assert ("redirects" in str(caught.value)) == (status >= 300)
    assert caught.value.retryable == (status < 300)


@pytest.mark.parametrize("status", [299, 300, 399, 400, 500])
def test_json_without_a_code_is_nothing_that_can_be_read(status):
    """Whatever the status; only a redirect is not worth another try."""
    with pytest.raises(ResponseError) as caught:
        read_credits(bare(status, b"{}"))

    assert caught.value.retryable == (not 300 <= status < 400)
    assert ("redirects" in str(caught.value)) == (300 <= status < 400)


@pytest.mark.parametrize("status", [500, 521, 522, 523, 524, 525, 526, 527, 400, 300])
def test_only_what_the_edge_could_not_hand_on_is_sent_again(status):
    """Cloudflare's 521, 523, 525 and 526."""
    answer = judge_create(bare(status), REQUEST)

    assert answer.error is not None
    edge = status in {521, 523, 525, 526}
    assert (answer.verdict is Verdict.REJECTED and answer.error.retryable) == edge


@pytest.mark.parametrize(
    ("code", "known"),
    [(0, True), (99_999, True), (100_000, False), (-1, False), ("99999", True), ("100000", False)],
)
def test_a_code_has_five_digits_at_most(code, known):
    """A larger number is no code, and the status decides: as text too."""
    answer = judge_create(frame(code, status=400), REQUEST)

    assert (answer.error is not None and answer.error.code is not None) == known


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        (1, 1.0),
        (99_999_999_999, None),
        (100_000_000_000, 100_000_000.0),
        (4_102_444_799, 4_102_444_799.0),
        (4_102_444_800, None),
        (4_102_444_800_000, None),
        (4_102_444_799_999, 4_102_444_799.999),
        (10**17, None),
    ],
)
def test_stamps_at_their_limits(stamp, seconds):
    """Milliseconds from 10^11 on, nothing from the year 2100 on."""
    task = read_task(frame(200, {"taskId": "t", "completeTime": stamp}), "t")

    assert task.completed_at == seconds
    assert task.created_at is None


# -- texts ---------------------------------------------------------------------------------


def told(**more: object) -> str:
    with pytest.raises(errors.KieAPIError) as caught:
        read_credits(frame(400, **more))
    return str(caught.value).partition(" - ")[0]


def test_what_the_api_said_is_in_the_message():
    """From `msg`, or else `message`; only text, in one printable line of 300 characters."""
    assert told(msg="no such ratio.") == "Kie answered 400: no such ratio"
    assert told(message="no such ratio") == "Kie answered 400: no such ratio"
    assert told(msg="", message="") == told() == told(msg=["x"]) == "Kie answered 400"
    assert told(msg="a\nb\tc") == "Kie answered 400: a b c"
    assert told(msg="  a  ") == "Kie answered 400: a"
    assert told(msg="\n") == "Kie answered 400"
    assert told(msg="x" * 400) == "Kie answered 400: " + "x" * 300


@pytest.mark.parametrize("body", [b"[1]", b"7", b'"x"', b"null"])
def test_json_that_is_no_object_is_no_envelope(body):
    """For a read nothing that can be read, for a create a doubt."""
    with pytest.raises(ResponseError):
        read_credits(bare(200, body))

    assert judge_create(bare(200, body), REQUEST).verdict is Verdict.IN_DOUBT


def test_a_byte_order_mark_is_no_harm():
    """Some proxies put one before the text."""
    assert read_credits(bare(200, "\ufeff".encode() + b'{"code": 200, "data": 3}')) == 3.0


def test_verdicts_are_words_for_a_journal():
    """What is stored is not to change."""
    assert {str(one.value) for one in Verdict} == {
        "accepted", "rejected", "reported", "not_sent", "in_doubt",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("told", "date", "seconds"),
    [
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:27:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "", None),
        ("301", "", 300.0),
        ("0", "", 0.0),
    ],
)
def test_when_to_come_again(told, date, seconds):
    """A date counts from the answer's own."""
    answer = bare(429, b"", **{"retry-after": told, "date": date})

    assert api_error(429, "", answer, None).retry_after == seconds


def test_silence_without_a_byte_is_a_doubt():
    """Nothing came, so no id came."""
    cut = KieConnectionError("cut", sent=True)

    assert judge_silence(cut, REQUEST).verdict is Verdict.IN_DOUBT
    assert judge_silence(cut, create_task_request("m", {"x": ""})).task_id is None


# -- reads ---------------------------------------------------------------------------------


def test_the_fields_of_a_task():
    """Each from its own place."""
    data = {"taskId": "t", "model": "grok", "state": "fail", "failCode": 7, "failMsg": "no",
            "createTime": 1e12, "completeTime": 2e12, "creditsConsumed": "3.5"}  # fmt: skip
    task = read_task(frame(200, data), "t")

    assert (task.model, task.state, task.fail_code, task.fail_message) == (
        "grok",
        "fail",
        "7",
        "no",
    )
    assert (task.created_at, task.completed_at, task.credits_consumed) == (1e9, 2e9, 3.5)


@pytest.mark.parametrize("found", [{"resultUrls": []}, {"resultUrls": None}, {"resultUrls": "x"}])
def test_an_empty_list_of_results_is_no_result(found):
    """Nor an object; something else beside it is."""
    task = read_task(frame(200, {"taskId": "t", "response": found}), "t")
    beside = read_task(frame(200, {"taskId": "t", "response": {**found, "more": 1}}), "t")

    assert (task.result_urls, task.result_object) == ((), None)
    assert beside.result_object == {**found, "more": 1}


def test_urls_and_an_object_stay_apart():
    """What stands beside URLs is no object."""
    data = {"taskId": "t", "response": {"resultUrls": ["u", "", 7], "more": 1}}
    task = read_task(frame(200, data), "t")

    assert (task.result_urls, task.result_object) == (("u",), None)


@pytest.mark.parametrize(
    ("url", "good"),
    [("https://x", True), ("http://x", True), ("httpx://x", False), ("", False), (7, False)],
)
def test_an_address_is_http(url, good):
    """Anything else is none."""
    if good:
        assert read_download_url(frame(200, url)) == url
    else:
        with pytest.raises(ResponseError):
            read_download_url(frame(200, url))


def test_an_upload_tells_its_file():
    """Each field from its own place, with words where it is missing."""
    whole = {"fileName": "n", "filePath": "p", "downloadUrl": "d", "fileSize": 5, "mimeType": "m"}
    file = read_upload(frame(200, whole))
    other = read_upload(frame(200, {"fileUrl": "u"}))

    assert (file.file_name, file.file_path, file.download_url) == ("n", "p", "d")
    assert (file.size, file.mime_type) == (5, "m")
    assert (other.file_name, other.file_path, other.download_url) == ("", "", "u")
    assert (other.size, other.mime_type) == (None, None)


@pytest.mark.parametrize(
    "more", [{"data": {}}, {"data": None}, {"data": {"fileUrl": "u"}, "success": False}]
)
def test_an_upload_without_a_file_is_an_error(more):
    """Whatever the code says."""
    with pytest.raises(ResponseError):
        read_upload(frame(200, **more))
    assert read_upload(frame(200, {"fileUrl": "u"}, success=True)).download_url == "u"


# -- requests ------------------------------------------------------------------------------


def test_the_requests_are_those_of_the_documents():
    """Method, path, host and kind, word for word."""
    url = download_url_request("https://x/y")
    create = create_task_request("m", {})
    plain, quoted = get_task_request("aZ09_-"), get_task_request("a/b?c")

    credit = credits_request()
    assert (credit.method, credit.path, credit.body) == ("GET", "/api/v1/chat/credit", None)
    assert (url.method, url.path) == ("POST", "/api/v1/common/download-url")
    assert json.loads(url.body or b"") == {"url": "https://x/y"}
    assert (url.paid, credit.paid, create.paid) == (False, False, True)
    assert {create.content_type, credit.content_type} == {"application/json"}
    assert (plain.method, plain.path) == ("GET", "/api/v1/jobs/recordInfo?taskId=aZ09_-")
    assert quoted.path.endswith("=a%2Fb%3Fc")
    assert b"secret" not in repr(create_task_request("m", {"x": "secret"})).encode()


@pytest.mark.parametrize("bad", ["", None, 7, b"https://x"])
def test_a_url_is_text(bad):
    """And not empty."""
    with pytest.raises(UsageError):
        download_url_request(bad)


@pytest.mark.parametrize("url", ["http://h/c", "https://h/c"])
def test_kie_may_call_both_schemes(url):
    """Nothing else: see `test_protocol`."""
    assert json.loads(create_task_request("m", {}, url).body or b"")["callBackUrl"] == url


def test_an_upload_of_bytes_has_its_form():
    """Method, path, host, kind; the file's kind is bytes unless it is told."""
    request = upload_bytes_request(b"data", "a.png", folder="f")

    assert (request.method, request.path, request.host) == (
        "POST", "/api/file-stream-upload", "upload",
    )  # fmt: skip
    assert b"Content-Type: application/octet-stream\r\n\r\ndata\r\n" in (request.body or b"")
    named = upload_bytes_request(b"data", "a.png", folder="f", mime_type="image/png")
    assert b"Content-Type: image/png\r\n" in (named.body or b"")


def test_an_upload_of_a_url_has_its_form():
    """With a name only if one was given."""
    named = upload_url_request("http://h/x", folder="/f//g/", file_name="n")
    request = upload_url_request("https://h/x", folder="f")

    assert (named.method, named.path, named.host) == ("POST", "/api/file-url-upload", "upload")
    assert json.loads(named.body or b"") == {
        "fileUrl": "http://h/x", "uploadPath": "f/g", "fileName": "n",
    }  # fmt: skip
    assert json.loads(request.body or b"") == {"fileUrl": "https://h/x", "uploadPath": "f"}


def test_an_upload_has_a_hundred_mebibytes_at_most():
    """Not one byte more; a view of nothing is enough to ask."""

    class Sized(bytearray):
        def __len__(self) -> int:
            return self.size

        size = 0

    data = Sized(b"x")
    data.size = 100 * 2**20
    assert MAX_UPLOAD == 104_857_600
    upload_bytes_request(data, "n", folder="f")
    data.size += 1
    with pytest.raises(UsageError):
        upload_bytes_request(data, "n", folder="f")


@pytest.mark.parametrize("bad", ["x" * 201, 'a"b', "a/b", "a\\b", ".", "..", "", "a\nb", 7, None])
def test_a_name_is_plain(bad):
    """Two hundred characters, no path, no quotes."""
    with pytest.raises(UsageError):
        upload_bytes_request(b"x", bad, folder="f")
    assert upload_bytes_request(b"x", "x" * 200, folder="f")


@pytest.mark.parametrize("bad", ['a"b', "a\\b", ".", "..", "a/../b", "a/.", "", "/", "a\nb", 7])
def test_a_folder_is_plain(bad):
    """No way up, no quotes."""
    with pytest.raises(UsageError):
        upload_bytes_request(b"x", "n", folder=bad)


@pytest.mark.parametrize("bad", ["a;b", "é", "a\nb", 7])
def test_a_kind_is_plain(bad):
    """No parameter, no line of its own."""
    with pytest.raises(UsageError):
        upload_bytes_request(b"x", "n", folder="f", mime_type=bad)
