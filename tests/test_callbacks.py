"""Callbacks: what is trusted, what is refused, what is remembered."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kie_async.callbacks import (
    CallbackClockSkewed,
    CallbackEvent,
    CallbackReceived,
    CallbackReceiver,
    CallbackRefused,
    verify_callback,
)
from kie_async.errors import CallbackError, UsageError
from kie_async.models import Secret, TaskState
from tests.callback_tools import KEY, NOW, Clock, content, post, receiver, signature, signed


def refusal(body: bytes, headers: dict[str, str], keys: Any = KEY, now: float = NOW) -> int:
    """Return the status that a callback is refused with."""
    with pytest.raises(CallbackError) as caught:
        verify_callback(body, headers, keys, now=now)
    assert caught.value.http_status is not None
    return caught.value.http_status


# What is verified


def test_a_documented_callback_is_verified():
    """The id, the signed time and the claimed state come out; nothing else does."""
    event = verify_callback(content("t1"), signed("t1"), [KEY], now=NOW + 1)

    assert event == CallbackEvent(
        task_id="t1", signed=True, sent_at=NOW, received_at=NOW + 1, state=TaskState.SUCCESS
    )


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"taskId": "t1"}},
        {"data": {"task_id": "t1"}},
        {"taskId": "t1"},
        {"task_id": "t1"},
        {"taskId": "t1", "data": {"task_id": "t1", "callbackType": "complete"}},
        {"taskId": "", "data": {"taskId": "t1", "task_id": None}},
        {"taskId": "t1", "data": None},
    ],
)
def test_the_id_may_stand_in_four_places(body):
    """The documents name them all; those that are there must agree."""
    event = verify_callback(json.dumps(body).encode(), signed("t1"), KEY, now=NOW)

    assert event.task_id == "t1"


@pytest.mark.parametrize("second", ["task_id", "top", "top_id"])
def test_ids_that_differ_are_refused(second):
    """A true signature for one task brings nothing for another."""
    body: dict[str, Any] = {"data": {"taskId": "t1"}}
    if second == "task_id":
        body["data"]["task_id"] = "t2"
    else:
        body["taskId" if second == "top" else "task_id"] = "t2"

    assert refusal(json.dumps(body).encode(), signed("t1")) == 401
    assert refusal(json.dumps(body).encode(), signed("t2")) == 401


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Webhook-Signature", ""),
        ("X-Webhook-Signature", signature("t1", "1790000000", "another-key")),
        ("X-Webhook-Signature", signature("t2", "1790000000")),
        ("X-Webhook-Signature", signature("t1", "1790000000").lower()),
        ("X-Webhook-Signature", signature("t1", "1790000000") + "\n"),
        ("X-Webhook-Signature", " " + signature("t1", "1790000000")),
        ("X-Webhook-Signature", signature("t1", "1790000000").replace("=", "")),
        ("X-Webhook-Signature", "é" * 44),
        ("X-Webhook-Signature", "ａ" * 43 + "="),
        ("X-Webhook-Signature", "a" * 1_000_000),
        ("X-Webhook-Signature", "-_" * 21 + "a="),
        ("X-Webhook-Signature", "0" * 64),
        ("X-Webhook-Timestamp", ""),
        ("X-Webhook-Timestamp", "1790000000.0"),
        ("X-Webhook-Timestamp", "1790000000 "),
        ("X-Webhook-Timestamp", "+1790000000"),
        ("X-Webhook-Timestamp", "１７９００００００0"),
        ("X-Webhook-Timestamp", "1790000001"),
        ("X-Webhook-Timestamp", "12345678"),
        ("X-Webhook-Timestamp", "1790000000000"),
        ("X-Webhook-Timestamp", "nan"),
    ],
)
def test_a_header_of_another_shape_is_refused(name, value):
    """Wrong, cut, padded, of another alphabet, or a megabyte long: always 401."""
    assert refusal(content("t1"), signed("t1", **{name: value})) == 401


@pytest.mark.parametrize("name", ["X-Webhook-Signature", "X-Webhook-Timestamp"])
def test_a_missing_header_is_refused(name):
    """Unsigned callbacks are nobody's."""
    headers = signed("t1")
    del headers[name]

    assert refusal(content("t1"), headers) == 401


def test_every_spelling_but_one_of_a_signature_is_refused():
    """Base64 leaves two bits unused: three more spellings decode to the same digest."""
    true = signed("t1")["X-Webhook-Signature"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    others = [f"{true[:42]}{char}=" for char in alphabet if char != true[42]]

    assert {refusal(content("t1"), signed("t1", **{"X-Webhook-Signature": s})) for s in others} == {
        401
    }


def test_header_names_have_no_case():
    """HTTP/2 sends them in small letters, the documents show capitals."""
    for change in (str.lower, str.upper):
        headers = {change(name): value for name, value in signed("t1").items()}

        assert verify_callback(content("t1"), headers, KEY, now=NOW).signed


def test_a_header_given_twice_in_two_cases_is_refused():
    """Nobody can say which of two is meant."""
    headers = signed("t1")
    headers["x-webhook-signature"] = headers["X-Webhook-Signature"]

    assert refusal(content("t1"), headers) == 401


@pytest.mark.parametrize(
    ("late", "passes"), [(300, True), (301, False), (-300, True), (-301, False)]
)
def test_the_time_window_has_two_sides(late, passes):
    """A callback of the future is as wrong as an old one."""
    with contextlib.ExitStack() as stack:
        if not passes:
            stack.enter_context(pytest.raises(CallbackError, match="time"))
        verify_callback(content("t1"), signed("t1"), KEY, now=NOW + late)


def test_a_clock_that_is_no_number_refuses_all():
    """A comparison with NaN is false: it must not be the one that lets pass."""
    assert refusal(content("t1"), signed("t1"), now=float("nan")) == 401


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"t1"',
        b"\xff\xfe",
        b'{"taskId":"t1"',
        b'{"taskId":"t1"} x',
        b'{"taskId":"t1","taskId":"t1"}',
        b'{"data":{"taskId":"t1","taskId":"t2"}}',
        b'{"taskId":"t1","x":NaN}',
        b'{"taskId":"t1","x":' + b"9" * 5000 + b"}",
        b'{"taskId":"t1","x":' + b"[" * 33 + b"]" * 33 + b"}",
        b"[" * 200_000,
        b'{"taskId":"t1","x":[' + b"[]," * 4095 + b"[]]}",
        b'{"a":' * 40_000,
        b"{}",
        b'{"data":[]}',
        b'{"taskId":17}',
        b'{"taskId":["t1"]}',
        b'{"taskId":"t1.1790000000"}',
        b'{"taskId":"t\\u0000"}',
        b'{"taskId":"t\\ud800"}',
        b'{"taskId":"../t1"}',
        b'{"taskId":"' + b"t" * 101 + b'"}',
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_a_body_of_another_form_is_refused(body):
    """Not JSON, no object, two meanings, too deep, no usable id: always 400."""
    assert refusal(body, signed("t1")) == 400


def test_depth_is_bounded_however_far_a_service_lets_python_recurse():
    """Brackets in strings do not count; those outside do, before the parser sees them."""
    text = json.dumps({"taskId": "t1", "x": '\\"[{' * 100, "y": [[[]]] * 50})
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)
    try:
        assert verify_callback(text.encode(), signed("t1"), KEY, now=NOW).task_id == "t1"
        assert refusal(b'{"taskId":"t1","x":' + b'[{"a":' * 20_000, signed("t1")) == 400
    finally:
        sys.setrecursionlimit(limit)


def test_a_body_has_256_kib_at_most():
    """The last byte that is taken, and the first that is not."""
    frame = b'{"taskId":"t1","x":"%s"}'
    room = 256 * 1024 - len(frame) + 2

    assert verify_callback(frame % (b"a" * room), signed("t1"), KEY, now=NOW).task_id == "t1"
    assert refusal(frame % (b"a" * (room + 1)), signed("t1")) == 413


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Content-Encoding", "gzip", 415),
        ("Content-Encoding", "identity, gzip", 415),
        ("Content-Type", "text/html", 415),
        ("Content-Type", "application/x-www-form-urlencoded", 415),
        ("Content-Length", "262145", 413),
        ("Content-Length", "9" * 18, 413),
        ("Content-Length", "9" * 5000, 400),
        ("Content-Length", "-1", 400),
    ],
)
def test_what_the_head_declares_is_judged_by_itself(name, value, status):
    """Nothing is ever decompressed, and no number is believed."""
    assert refusal(content("t1"), signed("t1", **{name: value})) == status


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.kie+json", ""]
)
def test_json_has_several_names(kind):
    """Parameters, vendor types and none at all are fine."""
    headers = signed("t1", **{"Content-Type": kind, "Content-Encoding": "identity"})

    assert verify_callback(content("t1"), headers, KEY, now=NOW).signed


def test_keys_are_rotated():
    """With two keys both are accepted; the old one no longer when it is gone."""
    old, new = "the-old-key", "the-new-key"

    for key in (old, new):
        headers = signed("t1", key=key)
        assert verify_callback(content("t1"), headers, [new, Secret(old)], now=NOW).signed
    assert refusal(content("t1"), signed("t1", key=old), [new]) == 401


@pytest.mark.parametrize("keys", [(), [], "", [""], ["ké"], [b"key"]])
def test_without_a_usable_key_nothing_is_verified(keys):
    """An empty key would be everybody's."""
    with pytest.raises(UsageError):
        verify_callback(content("t1"), signed("t1"), keys, now=NOW)


def test_a_refusal_tells_nothing_and_travels_well():
    """No key, no signature and no body in it; it survives pickling."""
    with pytest.raises(CallbackError) as caught:
        verify_callback(content("secret-task"), signed("t1"), KEY, now=NOW)

    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.http_status) == (str(caught.value), 401)
    for shown in (repr(vars(copy)), str(copy)):
        assert KEY not in shown
        assert "secret-task" not in shown


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "taskId", "task_id", "state"]) | st.text(), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(
    body=st.binary(max_size=300) | json_values.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(
        st.sampled_from(["X-Webhook-Timestamp", "x-webhook-signature", "Content-Type"])
        | st.text(max_size=20),
        st.text(max_size=50) | st.just("1790000000") | st.just("A" * 43 + "="),
        max_size=4,
    ),
    unsigned=st.booleans(),
)
@example(body=b'{"taskId":"t1","data":{"state":[]}}', headers={}, unsigned=True)
@example(body=b'{"taskId":"t1","data":{"state":{}}}', headers={}, unsigned=True)
def test_any_bytes_become_an_event_or_a_refusal(body, headers, unsigned):
    """No body and no header escapes as another kind of exception."""
    with contextlib.suppress(CallbackError):
        pytest.fail(str(verify_callback(body, headers, KEY, now=NOW)))  # nobody has the key

    reply = receiver(require_signature=not unsigned).receive("POST", "/kie/cb", headers, body, NOW)

    assert reply.status == 200 or (reply.event is None and 400 <= reply.status < 500)


task_ids = st.sampled_from(["", "a", "b", "a-1"])


@given(
    body=st.dictionaries(
        st.sampled_from(["data", "taskId", "task_id"]),
        task_ids | st.dictionaries(st.sampled_from(["taskId", "task_id"]), task_ids),
    ).map(lambda value: json.dumps(value).encode()),
    task_id=task_ids.filter(bool),
)
def test_a_signed_body_names_the_signed_task_or_is_refused(body, task_id):
    """Whatever else stands in it, and no other exception comes out."""
    with contextlib.suppress(CallbackError):
        event = verify_callback(body, signed(task_id), KEY, now=NOW)

        assert event.task_id == task_id
        assert task_id.encode() in body


# What the receiver does with it


def test_a_callback_is_acknowledged_in_the_documented_words():
    """The event goes to us, the thanks to Kie."""
    reply = post(receiver(), "t1")

    assert (reply.status, reply.body) == (200, b'{"code":200,"msg":"success"}')
    assert reply.event is not None
    assert reply.event.task_id == "t1"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/kie/cb", 405),
        ("HEAD", "/kie/cb", 405),
        ("post", "/kie/cb", 405),
        ("POST", "/", 404),
        ("POST", "/kie/cbx", 404),
        ("POST", "/kie/cb/a/b", 404),
        ("POST", "/kie/cb/é", 401),
        ("POST", "/kie/cb/" + "0" * 42, 401),
        ("POST", "/kie/cb/" + "0" * 32, 401),
        ("POST", "/kie/cb/" + "A" * 1_000_000, 401),
    ],
)
def test_another_method_or_path_is_refused(method, path, status):
    """Junk references are dropped by their tag, before anything is looked up."""
    to = receiver()

    reply = to.handle(method, path, signed("t1"), content("t1"))

    assert (reply.status, reply.event, to.pending) == (status, None, 0)


def test_all_refusals_have_one_body():
    """Who is refused learns the status and no more; nothing is echoed."""
    to = receiver()
    replies = [
        to.handle("PUT", "/kie/cb", {}, b""),
        to.handle("POST", "/evil", {}, b"evil"),
        to.handle("POST", "/kie/cb/evil", {}, b"evil"),
        to.handle("POST", "/kie/cb", {"X-Webhook-Signature": "evil"}, b"evil"),
        to.handle("POST", "/kie/cb", signed("t1"), b"evil"),
        to.handle("POST", "/kie/cb", signed("t1"), b"e" * 300_000),
        to.handle("POST", "/kie/cb", signed("t1", at=NOW - 999), content("t1")),
    ]

    assert [reply.status for reply in replies] == [405, 404, 401, 401, 400, 413, 401]
    assert {reply.body for reply in replies} == {b'{"msg":"refused"}'}
    assert dict(replies[0].headers)["allow"] == "POST"


def test_copies_are_acknowledged_and_have_one_effect():
    """The same bytes again, the same news signed anew, and 50 at once."""
    to = receiver()

    replies = [post(to, "t1", at=NOW + late % 5) for late in range(50)]

    assert {reply.status for reply in replies} == {200}
    assert [reply.event is not None for reply in replies] == [True] + [False] * 49


def test_other_news_of_a_task_ring_again():
    """A failure that turns into a success is worth a second look."""
    to = receiver()

    first = post(to, "t1", state="fail")
    second = post(to, "t1", state="success", at=NOW + 60)

    assert first.event is not None
    assert second.event is not None


def test_a_replay_with_another_body_has_no_effect():
    """The signature does not cover the state, so its time marks the copy."""
    to = receiver()
    post(to, "t1", state="success")

    assert post(to, "t1", state="fail").event is None


def test_effects_of_one_task_are_bounded():
    """Whoever holds the key, or had a slip, cannot ring for ever."""
    to = receiver()
    words = ["waiting", "queuing", "generating", "success", "fail", "new"]

    events = [
        post(to, "t1", state=word, at=NOW + late).event for late in range(100) for word in words
    ]

    assert sum(event is not None for event in events) <= 5


def test_a_callback_days_later_is_refused_and_a_retry_of_it_is_taken():
    """Old signatures are worth nothing; a new one is."""
    clock = Clock()
    to = receiver(clock=clock)
    clock.now += 3 * 86_400

    assert post(to, "t1").status == 401
    assert post(to, "t1", at=clock.now).event is not None


def test_an_early_callback_is_remembered():
    """It may come before the answer to the create, and before anybody waits."""
    to = receiver()
    post(to, "t1")

    assert to.seen("t1")
    assert to.seen("t1")
    assert not to.seen("t2")
    assert to.take_early("t1")
    assert not to.take_early("t1")


def test_memory_is_bounded_in_time():
    """After an hour an early callback is forgotten; polling found the task long ago."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1", path=f"/kie/cb/{to.new_callback_url().reference}")
    clock.now += 3599
    assert to.seen("t1")
    clock.now += 1

    assert not to.seen("t1")
    post(to, "t2", at=clock.now)
    assert to.pending == 1


def test_memory_is_bounded_in_number():
    """The oldest leave first."""
    to = receiver(max_pending=100)
    for number in range(250):
        post(to, f"t{number}", path=f"/kie/cb/{to.new_callback_url().reference}")

    assert to.pending == 100
    assert not to.seen("t149")
    assert to.seen("t150")


def test_a_clock_that_goes_back_forgets_nothing_and_lets_nothing_pass_twice():
    """An hour back and forth: the replay is still known, what is out of time is refused."""
    clock = Clock()
    to = receiver(clock=clock)
    post(to, "t1")
    clock.now -= 3600
    assert post(to, "t1").status == 401
    assert post(to, "t2", at=clock.now).event is not None
    clock.now += 3600

    assert post(to, "t1").event is None
    assert post(to, "t1").status == 200


# References


def test_each_create_gets_a_url_of_its_own():
    """Its last part is the reference: 128 random bits and a tag of 40."""
    to = receiver(public_url="https://me.example/hooks/")

    urls = [to.new_callback_url() for _ in range(1000)]

    assert len({url.reference for url in urls}) == 1000
    for url, reference in urls:
        assert url == f"https://me.example/hooks/kie/cb/{reference}"
        assert len(reference) == 42
        assert to.is_ours(reference)


def test_a_reference_comes_back_with_its_task():
    """Wherever the receiver is mounted."""
    to = receiver()
    url = to.new_callback_url()

    event = post(to, "t1", path=f"/some/where/kie/cb/{url.reference}/").event

    assert event is not None
    assert event.reference == url.reference
    assert to.tasks_of(url.reference) == ("t1",)


def test_two_tasks_of_one_reference_are_both_kept():
    """It must never happen, so nobody may overlook it; and it is bounded."""
    to = receiver()
    reference = to.new_callback_url().reference
    for number in range(9):
        post(to, f"t{number}", path=f"/kie/cb/{reference}")

    assert to.tasks_of(reference) == ("t0", "t1", "t2", "t3")


@given(flip=st.integers(0, 41), to_char=st.sampled_from("0123456789abcdef"))
def test_a_changed_reference_is_nobodys(flip, to_char):
    """One digit is enough."""
    to = receiver()
    reference = to.new_callback_url().reference
    changed = reference[:flip] + to_char + reference[flip + 1 :]

    assert to.is_ours(changed) is (changed == reference)


def test_references_outlive_a_restart_with_the_same_keys():
    """And a rotation that keeps the old key; a random key dies with its process."""
    reference = receiver(keys="old").new_callback_url().reference
    own = receiver(keys="old", reference_key="own").new_callback_url().reference
    random = receiver(keys=(), require_signature=False).new_callback_url().reference

    assert receiver(keys=("new", "old")).is_ours(reference)
    assert not receiver(keys="new").is_ours(reference)
    assert receiver(keys="new", reference_key=Secret("own")).is_ours(own)
    assert not receiver(keys=(), require_signature=False).is_ours(random)


@pytest.mark.parametrize(
    "url", ["", "me.example", "ftp://me.example", "https://", "https://a b", "https://é.example",
            "https://me.example/?a=b", "https://me.example/#a", "https://u:p@me.example",
            "https://[", 7],
)  # fmt: skip
def test_a_public_url_is_checked_at_once(url):
    """Not when the first create is sent."""
    with pytest.raises(UsageError, match="public_url"):
        receiver(public_url=url)


def test_without_a_public_url_there_is_no_callback_url():
    """It is needed for that only."""
    to = receiver(public_url=None)

    assert post(to, "t1").event is not None
    with pytest.raises(UsageError, match="public_url"):
        to.new_callback_url()


@pytest.mark.parametrize(
    "options",
    [
        {"max_age": 0},
        {"max_pending": 0},
        {"max_pending": 1.5},
        {"remember": -1},
        {"hints_per_second": 0},
        {"read_timeout": 0},
        {"listener_timeout": float("nan")},
        {"keys": [""]},
        {"reference_key": ""},
    ],
)
def test_options_are_checked(options):
    """A setting that cannot work is refused where it is made."""
    with pytest.raises(UsageError):
        receiver(**options)


# Without signatures


def test_without_a_key_everything_is_refused(caplog):
    """And the log says why, once, at the start."""
    with caplog.at_level(logging.WARNING):
        to = receiver(keys=())

    assert post(to, "t1").status == 401
    assert to.handle("POST", "/kie/cb", {}, content("t1")).status == 401
    assert "no HMAC key" in caplog.text


def test_an_unsigned_callback_is_a_hint_when_that_is_wanted():
    """It says so itself."""
    to = receiver(keys=(), require_signature=False)

    event = to.handle("POST", "/kie/cb", {}, content("t1")).event

    assert event is not None
    assert (event.signed, event.sent_at, event.task_id) == (False, None, "t1")


def test_who_signs_is_held_to_it():
    """With a key, a wrong signature is refused even where none is needed."""
    to = receiver(require_signature=False)

    wrong = to.handle("POST", "/kie/cb", signed("t1", key="wrong"), content("t1"))
    none = to.handle("POST", "/kie/cb", {}, content("t1"))
    right = to.handle("POST", "/kie/cb", signed("t1"), content("t1"))

    assert (wrong.status, none.status, right.status) == (401, 200, 200)
    assert right.event is not None  # the hint before it did not use it up
    assert right.event.signed


def test_hints_are_capped():
    """Strangers cannot make us poll; hints with a reference of ours have room of their own."""
    clock = Clock()
    to = receiver(keys=(), require_signature=False, hints_per_second=2.0, clock=clock)
    path = f"/kie/cb/{to.new_callback_url().reference}"

    statuses = [to.handle("POST", "/kie/cb", {}, content(f"t{n}")).status for n in range(100)]
    ours = to.handle("POST", path, {}, content("mine"))
    clock.now += 1
    later = [to.handle("POST", "/kie/cb", {}, content(f"u{n}")).status for n in range(100)]

    assert (statuses.count(200), statuses.count(429)) == (10, 90)
    assert ours.event is not None
    assert later.count(200) == 2


# What is told


def test_hooks_hear_what_came_and_what_was_refused():
    """With the reason, which the sender does not get."""
    heard: list[object] = []
    to = receiver(hooks=[heard.append])
    reference = to.new_callback_url().reference

    post(to, "t1", path=f"/kie/cb/{reference}")
    post(to, "t1", path=f"/kie/cb/{reference}")
    to.handle("POST", "/kie/cb", signed("t1", key="wrong"), content("t1"))

    assert heard == [
        CallbackReceived(task_id="t1", signed=True, reference=reference),
        CallbackRefused(reason="signature", http_status=401),
    ]


def test_a_wrong_clock_raises_an_alarm(caplog):
    """Ten minutes off: all are refused, and somebody hears of it, once in ten minutes."""
    heard: list[object] = []
    clock = Clock(NOW + 600)
    to = receiver(hooks=[heard.append], clock=clock)

    for number in range(50):
        post(to, f"t{number}")
    clock.now += 700
    for number in range(50):
        post(to, f"t{number}")

    alarms = [event for event in heard if isinstance(event, CallbackClockSkewed)]
    assert alarms == [CallbackClockSkewed(refused=3, total=3)] * 2
    assert "check this machine's clock" in caplog.text


def test_a_few_late_ones_are_no_alarm():
    """Five in a hundred are normal: retries come late."""
    heard: list[object] = []
    to = receiver(hooks=[heard.append])

    for number in range(95):
        post(to, f"t{number}")
    for number in range(5):
        post(to, f"late{number}", at=NOW - 400)
    assert not any(isinstance(event, CallbackClockSkewed) for event in heard)
    post(to, "late5", at=NOW - 400)

    assert any(isinstance(event, CallbackClockSkewed) for event in heard)


def test_a_hook_that_fails_stops_nothing():
    """The answer is given."""

    def broken(event: object) -> None:
        raise RuntimeError

    assert post(receiver(hooks=[broken]), "t1").status == 200


def test_no_key_is_shown():
    """Not by the receiver, nor by anything that hangs on it."""
    to: Any = receiver(keys=(KEY, Secret(KEY)))
    todo, seen, shown = [to], set(), []
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        shown.append(repr(thing))
        if isinstance(thing, tuple | list):
            todo += thing
        elif type(thing).__module__.startswith("kie_async"):
            slots = {name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())}
            names = slots | set(getattr(thing, "__dict__", {}))
            todo += [getattr(thing, name, None) for name in names]

    assert len(seen) > 20
    assert isinstance(to, CallbackReceiver)
    assert KEY not in "\n".join(shown)
