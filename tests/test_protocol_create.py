"""The meaning of every answer to a create.  The tables are the specification."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import errors
from kie_async.errors import CreateInDoubtError, KieConnectionError, KieError, ResponseError
from kie_async.protocol import (
    Response,
    Verdict,
    create_task_request,
    judge_create,
    judge_silence,
)

REQUEST = create_task_request("grok-imagine/upscale", {"task_id": "a" * 32})
NEW_ID = "0123456789abcdef0123456789abcdef"


def envelope(code, msg="", data=None, status=200, headers=None) -> Response:
    """Make an answer in Kie's frame."""
    return Response(
        status, headers or {}, json.dumps({"code": code, "msg": msg, "data": data}).encode()
    )


def judged(response: Response):
    """Judge an answer to the usual create."""
    return judge_create(response, REQUEST)


def test_an_accepted_create_has_its_id():
    """As captured 642 times."""
    answer = judged(envelope(200, "success", {"taskId": NEW_ID, "recordId": NEW_ID}))

    assert (answer.verdict, answer.task_id, answer.error) == (Verdict.ACCEPTED, NEW_ID, None)


CODES = [
    (200, "success", Verdict.IN_DOUBT, CreateInDoubtError),
    (0, "", Verdict.IN_DOUBT, CreateInDoubtError),
    (302, "", Verdict.IN_DOUBT, CreateInDoubtError),
    (400, "", Verdict.REJECTED, errors.ValidationError),
    (401, "Unauthorized", Verdict.REJECTED, errors.AuthenticationError),
    (402, "Credits insufficient", Verdict.REJECTED, errors.InsufficientCreditsError),
    (403, "", Verdict.REJECTED, errors.AuthenticationError),
    (404, "", Verdict.REJECTED, errors.NotFoundError),
    (408, "", Verdict.REPORTED, CreateInDoubtError),
    (418, "", Verdict.REJECTED, errors.ValidationError),
    (422, "not supported", Verdict.REJECTED, errors.ValidationError),
    (429, "too high", Verdict.REJECTED, errors.RateLimitError),
    (430, "", Verdict.REJECTED, errors.RateLimitError),
    (433, "", Verdict.REJECTED, errors.KeyQuotaError),
    (451, "", Verdict.REJECTED, errors.ValidationError),
    (455, "", Verdict.REJECTED, errors.MaintenanceError),
    (500, "internal error, please try again later.", Verdict.REPORTED, CreateInDoubtError),
    (500, "Server exception, please try again later", Verdict.REPORTED, CreateInDoubtError),
    (500, "aspect_ratio is required", Verdict.REJECTED, errors.ValidationError),
    (500, "Credits insufficient", Verdict.REJECTED, errors.InsufficientCreditsError),
    (500, "currently being maintained", Verdict.REJECTED, errors.MaintenanceError),
    (500, "This interface is temporarily paused", Verdict.REJECTED, errors.FeatureDisabledError),
    (501, "", Verdict.REPORTED, CreateInDoubtError),
    (505, "", Verdict.REJECTED, errors.FeatureDisabledError),
    (531, "refunded", Verdict.REPORTED, CreateInDoubtError),
    (599, "", Verdict.REPORTED, CreateInDoubtError),
]


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(("code", "msg", "verdict", "error"), CODES)
def test_the_code_decides_whatever_the_status(code, msg, verdict, error, status):
    """An envelope is judged by its code: live refusals come as HTTP 200."""
    answer = judged(envelope(code, msg, status=status))

    assert answer.verdict is verdict
    assert type(answer.error) is error
    assert answer.task_id is None
    assert answer.error.code == code
    assert answer.error.http_status == status
    if verdict is Verdict.REJECTED:
        assert answer.error.maybe_charged is False
    else:
        assert answer.error.maybe_charged is True
        assert answer.error.reported is (verdict is Verdict.REPORTED)


REFUSED = [400, 401, 403, 404, 405, 406, 411, 413, 414, 415, 417, 421, 425, 426, 428, 429, 431, 451]
UNKNOWN = [408, 409, 499, 500, 501, 502, 503, 504, 520, 522, 524, 527, 530, 200, 204, 100, 999]


@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"[]", b'{"detail": 1}'])
@pytest.mark.parametrize(
    ("status", "verdict"),
    [(status, Verdict.REJECTED) for status in [*REFUSED, 505, 521, 523, 525, 526, 301, 307, 308]]
    + [(status, Verdict.IN_DOUBT) for status in UNKNOWN],
)
def test_the_status_decides_where_there_is_no_envelope(status, verdict, body):
    """Then a proxy or the edge spoke, and the origin may have worked."""
    assert judged(Response(status, {}, body)).verdict is verdict


@pytest.mark.parametrize("status", [425, 429, 521, 523, 525, 526])
def test_what_the_edge_surely_stopped_may_be_sent_again(status):
    """The origin never saw it."""
    assert judged(Response(status, {}, b"")).error.retryable is True


def test_a_redirect_is_not_worth_a_second_try():
    """It would be redirected again, and the key goes nowhere else."""
    assert judged(Response(307, {"location": "https://elsewhere"}, b"")).error.retryable is False


def test_503_is_trusted_only_when_told():
    """Usually "not taken", but no guarantee."""
    response = Response(503, {}, b"<html>")

    assert judge_create(response, REQUEST).verdict is Verdict.IN_DOUBT
    assert judge_create(response, REQUEST, trust_503=True).verdict is Verdict.REJECTED


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        ("422", Verdict.REJECTED),
        (422.0, Verdict.IN_DOUBT),
        (True, Verdict.IN_DOUBT),
        (None, Verdict.IN_DOUBT),
        ("x", Verdict.IN_DOUBT),
        (-1, Verdict.IN_DOUBT),
        (10**30, Verdict.IN_DOUBT),
        ("٤٢٢", Verdict.IN_DOUBT),
    ],
)
def test_only_an_int_like_code_is_a_code(code, verdict):
    """Digits in text count, everything else does not."""
    assert judged(envelope(code)).verdict is verdict


@pytest.mark.parametrize("status", [200, 404, 500, 502])
@pytest.mark.parametrize("code", [200, 422, 500, None])
def test_a_task_id_wins_over_status_and_code(code, status):
    """Whatever else the answer says, a task exists."""
    answer = judged(envelope(code, data={"taskId": NEW_ID}, status=status))

    assert (answer.verdict, answer.task_id) == (Verdict.ACCEPTED, NEW_ID)


@pytest.mark.parametrize(
    "bad", ["", "abc", 5, "a" * 10_000, "../../etc", "a b c d", None, ["x" * 32]]
)
def test_an_impossible_task_id_is_a_doubt(bad):
    """It never reaches a URL."""
    assert judged(envelope(200, "success", {"taskId": bad})).verdict is Verdict.IN_DOUBT


def test_an_echo_of_the_source_is_no_new_task():
    """An error that quotes the request does not make a task."""
    answer = judged(envelope(422, "bad", {"task_id": "a" * 32}))

    assert answer.verdict is Verdict.REJECTED


def test_a_cut_answer_never_gives_a_wrong_id():
    """At every byte: the whole id or a doubt."""
    whole = json.dumps({"code": 200, "msg": "success", "data": {"taskId": NEW_ID}}).encode()

    for length in range(len(whole)):
        cut = KieConnectionError("cut", sent=True, partial=whole[:length])
        answer = judge_silence(cut, REQUEST)
        assert (answer.verdict, answer.task_id) in {
            (Verdict.ACCEPTED, NEW_ID),
            (Verdict.IN_DOUBT, None),
        }
    assert judge_silence(KieConnectionError("", partial=whole), REQUEST).task_id == NEW_ID
    assert judge_silence(ResponseError("too long", body=whole), REQUEST).task_id == NEW_ID


def test_silence_is_a_doubt_unless_proven_unsent():
    """The exception's type does not tell; only proof does."""
    unsent = judge_silence(KieConnectionError("refused", sent=False), REQUEST)
    lost = judge_silence(KieConnectionError("reset", sent=True), REQUEST)
    garbled = judge_silence(ResponseError("too large"), REQUEST)

    closed = judge_silence(errors.SessionClosedError("closed"), REQUEST)

    assert closed.verdict is Verdict.NOT_SENT
    assert unsent.verdict is Verdict.NOT_SENT
    assert unsent.error.maybe_charged is False
    assert lost.verdict is Verdict.IN_DOUBT
    assert garbled.verdict is Verdict.IN_DOUBT


@given(
    st.integers(0, 999),
    st.binary(max_size=300)
    | st.builds(
        lambda v: json.dumps(v).encode(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["code", "msg", "data", "taskId", "x"]), inner)
            ),
        ),
    ),
)
def test_any_answer_gets_exactly_one_verdict(status, body):
    """And a verdict other than ACCEPTED has its error."""
    answer = judged(Response(status, {}, body))

    assert (answer.verdict is Verdict.ACCEPTED) == (answer.task_id is not None)
    assert (answer.verdict is Verdict.ACCEPTED) == (answer.error is None)
    assert answer.error is None or isinstance(answer.error, KieError)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"code":' + b"9" * 20_000 + b"}",
        b'{"code":NaN}',
        b"\xef\xbb\xbf{}",
        b'{"msg":"\\ud800"}',
        b'{"code":1,"code":200}',
        '{"code":200}'.encode("utf-16"),
        b"\xff\xfe",
    ],
)
def test_hostile_json_is_a_doubt_and_no_crash(body):
    """Depth, digits, encodings: nothing escapes as another exception."""
    assert judged(Response(200, {}, body)).verdict is Verdict.IN_DOUBT


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("1e9", 300.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_with_care(value, seconds):
    """No capture of Kie has it; nonsense is ignored and a long one cut."""
    answer = judged(envelope(429, headers={"retry-after": value}))

    assert answer.error.retry_after == seconds
