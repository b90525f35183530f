"""The emulated API, told the time: what was captured of Kie, fact by fact."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.emulator import EmulatedAPI, Rule

HEADERS = {"Authorization": "Bearer emulator-key", "Content-Type": "application/json"}
CREATE = "/api/v1/jobs/createTask"


def api(**settings) -> EmulatedAPI:
    """Make an API whose tasks take ten seconds."""
    return EmulatedAPI(durations=lambda _rng: 10.0, **settings)


def create(core, now=0.0, model="grok-imagine/upscale", headers=HEADERS, **given):
    """Send a create; return the envelope."""
    given = given or {"task_id": "a-source"}
    body = json.dumps({"model": model, "input": given}).encode()
    return json.loads(core.answer("POST", CREATE, headers, body, now).body)


def record(core, task_id, now):
    """Ask for a record; return the envelope."""
    target = f"/api/v1/jobs/recordInfo?taskId={task_id}"
    return json.loads(core.answer("GET", target, HEADERS, b"", now).body)


def test_a_create_answers_a_32_hex_id_twice():
    """TaskId and recordId are the same (captured 642 times)."""
    answer = create(api())

    assert (answer["code"], answer["msg"]) == (200, "success")
    assert answer["data"]["taskId"] == answer["data"]["recordId"]
    assert len(answer["data"]["taskId"]) == 32
    int(answer["data"]["taskId"], 16)


def test_refusals_are_http_200():
    """With the real code in the body; a bad key has no `data` at all."""
    core = api()
    answer = core.answer("POST", CREATE, {"Authorization": "Bearer wrong"}, b"{}", 0.0)

    assert answer.status == 200
    assert json.loads(answer.body)["code"] == 401
    assert "data" not in json.loads(answer.body)


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        ({"model": "no/such"}, 422, "not supported"),
        ({"prompt": "x"}, 500, "task_id is required"),
        ({"headers": {**HEADERS, "Content-Type": ""}}, 500, "Server exception"),
    ],
)
def test_bad_requests_are_refused_as_captured(sent, code, text):
    """422, or validation in the disguise of 500."""
    answer = create(api(), **sent)

    assert answer["code"] == code
    assert text in answer["msg"]
    assert answer["data"] is None


def test_the_twenty_first_in_ten_seconds_is_refused():
    """Refused, not queued, and free again a window later."""
    core = api()
    codes = [create(core, now=0.1 * n)["code"] for n in range(21)]

    assert codes == [200] * 20 + [429]
    assert create(core, now=10.01)["code"] == 200
    assert core.books.most_in_window(10.0) == 20


def test_an_empty_account_is_refused():
    """402, and nothing is charged."""
    core = api(credits=5.0)

    assert create(core)["code"] == 402
    assert core.books.charged == 0.0


def test_a_waiting_record_has_null_and_empty_fields():
    """As captured: credits are reserved, resultJson is empty text, param is JSON in JSON."""
    core = api()
    task_id = create(core, task_id="a-source")["data"]["taskId"]
    data = record(core, task_id, 5.0)["data"]

    assert (data["state"], data["resultJson"], data["failCode"]) == ("waiting", "", None)
    assert data["creditsConsumed"] == 10.0
    assert data["costTime"] is None
    param = json.loads(data["param"])
    assert json.loads(param["input"]) == {"task_id": "a-source"}


def test_a_task_goes_from_waiting_to_success():
    """Grok models were never seen generating; stamps are milliseconds, costTime seconds."""
    core = api()
    task_id = create(core)["data"]["taskId"]

    data = record(core, task_id, 10.0)["data"]

    assert data["state"] == "success"
    assert data["completeTime"] - data["createTime"] == 10_000
    assert data["costTime"] == 10
    assert json.loads(data["resultJson"]) == data["response"]


def test_an_unknown_task_is_422():
    """HTTP 200, code 422, `recordInfo is null`."""
    assert record(api(), "f" * 32, 0.0) == {"code": 422, "msg": "recordInfo is null", "data": None}


def test_an_unknown_route_is_a_true_404():
    """The only real error status that was seen."""
    assert api().answer("GET", "/api/v1/no", HEADERS, b"", 0.0).status == 404


def test_the_balance_is_a_float_and_goes_down():
    """Failed tasks are refunded."""
    core = api()
    task_id = create(core)["data"]["taskId"]
    core.tasks[task_id].fails = ("500", "Internal Error")
    asked = core.answer("GET", "/api/v1/chat/credit", HEADERS, b"", 0.0)
    record(core, task_id, 11.0)
    record(core, task_id, 12.0)

    assert json.loads(asked.body)["data"] == 990.0
    assert core.credits == 1000.0


def test_rules_strike_where_they_say():
    """By number, by count, by time; before or after the work."""
    core = api()
    core.inject(Rule(route="createTask", action="envelope", code=455, nth=(1,)))
    core.inject(Rule(route="createTask", action="envelope", code=500, when="after", nth=(2,)))
    core.inject(Rule(route="recordInfo", action="html", status=502, times=2, until=50.0))

    codes = [create(core, now=n, task_id=f"s{n}x")["code"] for n in range(4)]
    paid = dict(core.books.paid)
    statuses = [
        core.answer("GET", "/api/v1/jobs/recordInfo?taskId=x", HEADERS, b"", 1.0).status
        for _ in range(3)
    ]

    assert codes == [200, 455, 500, 200]
    assert paid == {"s0x": 1, "s2x": 1, "s3x": 1}
    assert statuses == [502, 502, 200]


@given(
    st.lists(st.tuples(st.sampled_from(["create", "fail", "poll"]), st.floats(0, 5)), max_size=40)
)
def test_the_books_add_up(steps):
    """Credits at the start less credits now is what was charged less what was refunded."""
    core, now, ids = api(credits=200.0), 0.0, []
    for step, wait in steps:
        now += wait
        if step == "create":
            ids += [data["taskId"]] if (data := create(core, now)["data"]) else []
        elif ids and step == "fail":
            core.tasks[ids[-1]].fails = ("500", "x")
        elif ids:
            record(core, ids[-1], now + 20)

    assert 200.0 - core.credits == pytest.approx(core.books.charged - core.books.refunded)
    assert sum(core.books.paid.values()) == len(core.books.creates)


def test_a_seed_repeats():
    """The same seed and requests give the same ids."""
    assert create(EmulatedAPI(seed=3)) == create(EmulatedAPI(seed=3))
