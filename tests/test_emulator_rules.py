"""The emulator's faults without a socket: where rules strike, and what they make of answers."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import json
import math

import pytest

from kie_async.emulator import ACTIONS, Answer, Rule
from tests.test_emulator import CREATE, api, ask, create, record

CALLBACK = "http://127.0.0.1:9/cb/ref-1"
CREDIT = "/api/v1/chat/credit"


def finished(core):
    """Create a task and return its id; it ends at 10.0."""
    return create(core)["data"]["taskId"]


# -- where rules strike -------------------------------------------------------------------


def test_before_the_work_nothing_is_paid_and_after_it_it_is():
    """The two halves of a doubt."""
    core = api()
    core.inject(Rule(route="createTask", action="envelope", nth=1))
    core.inject(Rule(route="createTask", action="envelope", when="after", nth=(2,)))
    codes = [create(core, task_id=f"s{n}")["code"] for n in range(4)]

    assert codes == [200, 500, 500, 200]
    assert core.books.paid == {"s0": 1, "s2": 1, "s3": 1}
    assert core.books.requests["createTask"] == 4


def test_rules_strike_by_count_time_text_and_call():
    """Each condition alone."""
    core = api()
    core.inject(Rule(route="credit", action="status", status=501, times=2))
    core.inject(Rule(route="credit", action="status", status=502, since=5.0, until=6.0))
    core.inject(Rule(route="createTask", action="too-many", match="bad-source"))
    wanted = Rule(route="createTask", action="maintenance", match=lambda r: b"odd" in r.body)
    core.inject(wanted)

    assert [ask(core, "GET", CREDIT, n).status for n in range(8)] == [
        *(501, 501, 200, 200, 200, 502, 200, 200)
    ]
    assert create(core, task_id="bad-source")["code"] == 429
    assert create(core, task_id="odd")["code"] == 455
    assert create(core)["code"] == 200
    core.clear_rules()
    assert create(core, task_id="odd")["code"] == 200


def test_a_rule_that_was_taken_out_leaves_its_count_to_nobody():
    """A later rule may lie where it lay in memory."""
    core = api()
    statuses = []
    for n in range(50):
        core.inject(Rule(route="credit", action="status", status=501, times=1))
        statuses.append(ask(core, "GET", CREDIT, n).status)
        core.rules.pop()

    assert statuses == [501] * 50


def test_a_share_of_the_requests_is_the_same_for_the_same_seed():
    """A third or so of three hundred."""
    runs = []
    for _ in range(2):
        core = api(seed=5)
        core.inject(Rule(route="*", action="status", status=500, probability=0.33))
        runs.append([ask(core, "GET", CREDIT).status for _ in range(300)])

    assert runs[0] == runs[1]
    assert 60 < runs[0].count(500) < 140


def test_a_star_strikes_requests_and_not_the_work():
    """Nor callbacks and connections."""
    core = api()
    core.inject(Rule(route="*", action="headers", headers={"x-seen": "1"}))
    answer = ask(core, "POST", CREATE, 0.0, {"model": "grok-imagine/upscale", "input": {}})

    assert answer.headers["x-seen"] == "1"
    assert core.strike("connect", 0.0) is None


@pytest.mark.parametrize(("route", "action"), [("createTask", "lost"), ("task", "fin"), ("x", "y")])
def test_a_misspelt_action_is_told_at_once(route, action):
    """With the names that there are."""
    with pytest.raises(ValueError, match="one of"):
        Rule(route=route, action=action)


def test_every_action_says_what_it_does():
    """In one line each."""
    for kind in ACTIONS.values():
        assert all(text and "\n" not in text for text in kind.values())


# -- other answers ------------------------------------------------------------------------


def struck(action, when="after", **fields) -> Answer:
    """Return a create's answer, struck by a rule."""
    core = api()
    core.inject(Rule(route="createTask", action=action, when=when, **fields))
    body = {"model": "grok-imagine/upscale", "input": {"task_id": "a-source"}}
    answer = ask(core, "POST", CREATE, 0.0, body)
    assert len(core.books.creates) == 1
    return answer


def test_envelopes_are_made_up_or_as_captured():
    """429, 455, the maintenance that people saw, or any."""
    told = struck("envelope", code=433, msg="no", data={"x": 1}, status=400)
    seen = [struck(action).json() for action in ("too-many", "maintenance", "maintained")]

    assert told.status == 400
    assert told.json() == {"code": 433, "msg": "no", "data": {"x": 1}}
    assert [answer["code"] for answer in seen] == [429, 455, 500]
    assert seen[2]["msg"] == "The server is currently being maintained, please try again later~"


def test_pages_statuses_and_redirects():
    """HTML, Cloudflare's refusal, a true status with a good body, another place."""
    page, blocked = struck("html", status=502), struck("blocked")
    status, moved = struck("status", status=500), struck("redirect", location="http://x/")

    assert (page.status, page.headers["Content-Type"]) == (502, "text/html")
    assert (blocked.status, blocked.body) == (403, b"error code: 1010")
    assert (status.status, status.json()["code"]) == (500, 200)
    assert (moved.status, moved.headers["Location"]) == (307, "http://x/")
    assert struck("redirect", status=301).status == 301


def test_bodies_and_labels():
    """What is in it, and what is said of it."""
    assert struck("body", body='{"code": true}').body == b'{"code": true}'
    assert struck("body").body == b""
    assert struck("wrong-type").headers["Content-Type"] == "text/html"
    assert "JSESSIONID" in struck("set-cookie").headers["Set-Cookie"]
    assert struck("headers", headers={"Retry-After": "7"}).headers["Retry-After"] == "7"
    assert struck("not-gzip").json()["code"] == 200
    assert gzip.decompress(struck("gzip").body).startswith(b'{"code":200')
    assert len(struck("gzip", cut=12).body) == 12


def test_a_bomb_is_small_and_swells():
    """A thousandfold, and it is sound gzip."""
    bomb = struck("bomb", size=8 * 2**20)

    assert bomb.headers["Content-Encoding"] == "gzip"
    assert len(bomb.body) < 2**14
    assert len(gzip.decompress(bomb.body)) == 8 * 2**20


def test_fields_can_be_patched_and_dropped():
    """In a create's answer and in a record; data itself can be replaced."""
    assert struck("patch", data={"taskId": 7}).json()["data"]["taskId"] == 7
    assert struck("patch", drop=("taskId",)).json()["data"].keys() == {"recordId"}
    assert struck("patch").json()["data"] is None
    assert struck("patch", data=[1]).json()["data"] == [1]


def test_a_callable_makes_its_own_answer():
    """An answer, or bytes of the wire; it sees what was asked and what was answered."""
    seen = []

    def raw(request, answer):
        seen.append((request.route, answer))
        return b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"

    wire = struck(raw).wire
    other = struck(lambda request, answer: Answer(201, answer.body[:5]))

    assert wire.chunks[0].endswith(b"x")
    assert seen[0][0] == "createTask"
    assert (other.status, other.body) == (201, b'{"cod')


# -- faults of the work -------------------------------------------------------------------


def test_a_failure_with_524_can_flip_to_success():
    """The money goes back and is not taken again: the books still add up."""
    core = api()
    core.inject(Rule(route="task", action="flip", seconds=60))
    task_id = finished(core)
    told = [record(core, task_id, now)["data"] for now in (5.0, 10.0, 69.0, 70.0)]

    assert [data["state"] for data in told] == ["waiting", "fail", "fail", "success"]
    assert (told[1]["failCode"], told[1]["failMsg"]) == ("524", "generate task timeout.")
    assert (told[3]["failCode"], told[3]["costTime"]) == (None, 70)


def test_a_task_can_take_for_ever_or_longer_or_show_late():
    """And its source decides which."""
    core = api()
    for action in ("never", "slow", "late", "generating"):
        core.inject(Rule(route="task", action=action, match=action, seconds=20))
    ids = {
        name: create(core, task_id=name)["data"]["taskId"]
        for name in ("never", "slow", "late", "generating")
    }

    assert record(core, ids["never"], 1e9)["data"]["state"] == "waiting"
    assert record(core, ids["slow"], 29.0)["data"]["state"] == "waiting"
    assert record(core, ids["slow"], 30.0)["data"]["state"] == "success"
    assert record(core, ids["late"], 19.0)["msg"] == "recordInfo is null"
    assert record(core, ids["late"], 20.0)["data"]["state"] == "success"
    assert record(core, ids["generating"], 1.0)["data"]["state"] == "generating"


@pytest.mark.parametrize("body", [None, "", "{", '{"resultUrls":null}', "[null]"])
def test_a_success_can_have_a_weird_result(body):
    """Only a success uses the rule up."""
    core = api()
    core.inject(Rule(route="recordInfo", action="weird-result", body=body, times=1))
    task_id = finished(core)
    told = [record(core, task_id, now)["data"] for now in (1.0, 10.0, 11.0)]

    assert told[0]["resultJson"] == ""
    assert (told[1]["state"], told[1]["resultJson"]) == ("success", body)
    assert "response" not in told[1]
    assert "resultUrls" in told[2]["response"]


def test_a_state_can_go_backwards():
    """From success to generating and back."""
    core = api()
    core.inject(Rule(route="recordInfo", action="backwards", nth=(0, 2)))
    task_id = finished(core)
    states = [record(core, task_id, now)["data"]["state"] for now in (1.0, 10.0, 11.0, 12.0)]

    assert states == ["waiting", "success", "generating", "success"]


def test_a_record_can_be_of_another_task():
    """By a patch."""
    core = api()
    core.inject(Rule(route="recordInfo", action="patch", data={"taskId": "another"}))

    assert record(core, finished(core), 1.0)["data"]["taskId"] == "another"


# -- files --------------------------------------------------------------------------------


def test_an_expired_address_is_renewed_by_its_link():
    """403 for the first, 200 for the second."""
    core = api()
    task_id = finished(core)
    core.inject(Rule(route="files", action="expired", match=task_id))
    url = record(core, task_id, 10.0)["data"]["response"]["resultUrls"][0]
    link = ask(core, "POST", "/api/v1/common/download-url", 10.0, {"url": url}).json()["data"]
    dead, alive = (ask(core, "GET", at.removeprefix(core.origin), 11.0) for at in (url, link))

    assert (dead.status, alive.status) == (403, 200)
    assert b"AccessDenied" in dead.body


def test_ranges_can_lie():
    """Ignored, another part, another ETag."""
    core = api()
    path = f"/files/{core.add_source_task()}-0.png"
    part = {"range": "bytes=10-19"}
    plain = ask(core, "GET", path, headers=part)
    whole = ask(core, "GET", path)
    answers = {}
    for action in ("no-range", "wrong-range", "new-etag"):
        core.clear_rules()
        core.inject(Rule(route="files", action=action))
        answers[action] = ask(core, "GET", path, headers=part)

    assert (plain.status, plain.body) == (206, whole.body[10:20])
    assert (answers["no-range"].status, answers["no-range"].body) == (200, whole.body)
    assert answers["wrong-range"].headers["Content-Range"].startswith("bytes 1-")
    assert answers["new-etag"].headers["ETag"] != plain.headers["ETag"]


@pytest.mark.parametrize(
    ("wanted", "status", "length"),
    [
        ("bytes=0-", 200 + 6, None),
        ("bytes=-5", 206, 5),
        ("bytes=0-0", 206, 1),
        ("bytes=9999999-", 416, 0),
        ("bytes=x-y", 200, None),
        ("lines=1-2", 200, None),
    ],
)
def test_ranges_are_served(wanted, status, length):
    """From, to, last; and what is no range is ignored."""
    core = api()
    path = f"/files/{core.add_source_task()}-0.png"
    answer = ask(core, "GET", path, headers={"range": wanted})

    assert answer.status == status
    assert length is None or len(answer.body) == length


# -- callbacks ----------------------------------------------------------------------------


def called_back(now=10.0, **fields):
    """Return the callbacks of one task that are due at *now*."""
    core = api()
    if fields:
        core.inject(Rule(route="callback", **fields))
    create(core, callback=CALLBACK)
    return core.due_callbacks(now)


def test_a_callback_is_framed_and_signed_as_documented():
    """base64 of HMAC-SHA256 over taskId, dot, timestamp; once, at the end."""
    core = api(epoch=1000.0)
    task_id = create(core, callback=CALLBACK)["data"]["taskId"]

    assert core.next_callback() == 10.0
    assert core.due_callbacks(9.9) == []
    (callback,) = core.due_callbacks(10.0)
    told = json.loads(callback.body)
    signed = hmac.new(b"emulator-hmac-key", f"{task_id}.1010".encode(), hashlib.sha256)
    assert callback.headers["X-Webhook-Timestamp"] == "1010"
    assert callback.headers["X-Webhook-Signature"] == base64.b64encode(signed.digest()).decode()
    assert (told["code"], told["msg"]) == (200, "Playground task completed successfully.")
    assert (told["data"]["state"], told["data"]["taskId"]) == ("success", task_id)
    assert (callback.url, callback.ref) == (CALLBACK, "ref-1")
    assert core.due_callbacks(99.0) == []
    assert core.next_callback() is None


def test_a_failure_calls_back_with_501():
    """`Playground task failed.`, and no credits."""
    core = api()
    core.inject(Rule(route="task", action="fail"))
    create(core, callback=CALLBACK)
    told = json.loads(core.due_callbacks(10.0)[0].body)

    assert (told["code"], told["msg"]) == (501, "Playground task failed.")
    assert (told["data"]["state"], told["data"]["creditsConsumed"]) == ("fail", 0.0)


def test_a_task_without_end_or_address_calls_nobody():
    """Nothing is due, ever."""
    core = api()
    core.inject(Rule(route="task", action="never", times=1))
    create(core, callback=CALLBACK)
    create(core)

    assert core.due_callbacks(math.inf) == []


def test_callbacks_come_late_early_twice_or_not():
    """By the clock of the emulator."""
    assert called_back(19.9, action="delay", delay=10.0) == []
    assert len(called_back(20.0, action="delay", delay=10.0)) == 1
    assert len(called_back(0.0, action="early")) == 1
    assert len(called_back(action="double", copies=3)) == 3
    assert [callback.fault for callback in called_back(action="lost")] == ["lost"]


def test_callbacks_lie():
    """Each in its own way; the rightly signed ones are rightly signed."""
    plain = called_back()[0]
    made = {
        action: called_back(action=action, size=100, seconds=600)
        for action in ("forged", "unsigned", "stale", "foreign", "mixed", "garbage", "huge")
    }
    name = "X-Webhook-Signature"
    right = plain.headers[name]

    assert made["forged"][0].headers[name] != right
    assert name not in made["unsigned"][0].headers
    stamps = [int(c.headers["X-Webhook-Timestamp"]) for c in (plain, made["stale"][0])]
    assert stamps[0] - stamps[1] == 600
    for action in ("foreign", "mixed", "garbage", "huge"):
        assert made[action][0].headers[name] == right
    assert b"attacker.example" in made["foreign"][0].body
    assert json.loads(made["mixed"][0].body)["taskId"] == "0" * 32
    assert len(made["huge"][0].body) >= len(plain.body) + 100
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(made["garbage"][0].body.decode("latin-1"))


def test_an_older_state_can_follow():
    """Success, then generating."""
    states = [json.loads(c.body)["data"]["state"] for c in called_back(action="backwards")]

    assert states == ["success", "generating"]
