"""The emulated API, told the time: what was captured of Kie, fact by fact."""

from __future__ import annotations

import base64
import json
import math
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.emulator import KINDS, EmulatedAPI, Request, Rule

HEADERS = {"authorization": "Bearer emulator-key", "content-type": "application/json"}
CREATE = "/api/v1/jobs/createTask"


def api(**settings) -> EmulatedAPI:
    """Make an API whose tasks take ten seconds."""
    return EmulatedAPI(**{"durations": lambda _rng: 10.0, **settings})


def ask(core, method, target, now=0.0, body=None, headers=HEADERS):
    """Send a request; return the answer."""
    sent = b"" if body is None else json.dumps(body).encode()
    return core.answer(Request(method, target, headers, sent), now)


def create(core, now=0.0, model="grok-imagine/upscale", headers=HEADERS, callback=None, **given):
    """Send a create; return the envelope."""
    sent = {"model": model, "input": given or {"task_id": "a-source"}}
    if callback:
        sent["callBackUrl"] = callback
    return ask(core, "POST", CREATE, now, sent, headers).json()


def record(core, task_id, now):
    """Ask for a record; return the envelope."""
    return ask(core, "GET", f"/api/v1/jobs/recordInfo?taskId={task_id}", now).json()


# -- creates ------------------------------------------------------------------------------


def test_a_create_answers_a_32_hex_id_twice():
    """TaskId and recordId are the same (captured 642 times)."""
    answer = create(api())

    assert (answer["code"], answer["msg"]) == (200, "success")
    assert answer["data"]["taskId"] == answer["data"]["recordId"]
    assert len(answer["data"]["taskId"]) == 32
    int(answer["data"]["taskId"], 16)


def test_a_bad_key_is_http_200_with_401_and_no_data():
    """With the captured words, the dash in them too."""
    core = api()
    answer = ask(core, "POST", CREATE, headers={**HEADERS, "authorization": "Bearer wrong"})
    told = answer.json()

    assert answer.status == 200
    assert told["code"] == 401
    assert told["msg"].startswith("Unauthorized – Authentication failed.")
    assert "data" not in told
    assert ask(core, "GET", "/api/v1/chat/credit", headers={}).json()["code"] == 401
    assert core.books.creates == []


@pytest.mark.parametrize(
    ("sent", "code", "text"),
    [
        ({"model": "no/such"}, 422, "not supported"),
        ({"prompt": "x"}, 500, "task_id is required"),
        ({"task_id": ""}, 500, "task_id is required"),
        ({"task_id": 7}, 500, "Server exception"),
        ({"task_id": "a", "resolution": "8k"}, 422, "resolution"),
        ({"task_id": "a" * 101}, 422, "too long"),
        ({"headers": {**HEADERS, "content-type": ""}}, 500, "Server exception, please try again"),
        ({"model": "grok-imagine/text-to-image", "prompt": "x"}, 500, "This field is required"),
        ({"model": "grok-imagine/text-to-image", "aspect_ratio": "1:1"}, 500, "prompt is required"),
        ({"model": ["x"]}, 500, "Server exception"),
    ],
)
def test_bad_requests_are_refused_as_captured(sent, code, text):
    """422, or validation in the disguise of 500; always with null data."""
    core = api()
    answer = create(core, **sent)

    assert answer["code"] == code
    assert text in answer["msg"]
    assert answer["data"] is None
    assert core.books.refused == {code: 1}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff", b"[" * 100_000, b'{"model":1,"input":[]}']
)
def test_any_body_is_answered(body):
    """What is no create is a server exception, never a crash."""
    told = api().answer(Request("POST", CREATE, HEADERS, body), 0.0).json()

    assert told["code"] == 500


def test_what_nobody_knows_is_ignored_and_an_empty_input_is_paid_for():
    """Unknown fields are no error; image-to-video took an empty input (2026-08-31)."""
    core = api()

    assert create(core, task_id="a", wish="x")["code"] == 200
    told = ask(core, "POST", CREATE, 0.0, {"model": "grok-imagine/image-to-video", "input": {}})
    assert told.json()["code"] == 200
    assert core.books.charged == 10.0 + 9.6


def test_the_twenty_first_in_ten_seconds_is_refused():
    """Refused, not queued, and free again a window later; data is null."""
    core = api()
    told = [create(core, now=0.1 * n) for n in range(21)]

    assert [answer["code"] for answer in told] == [200] * 20 + [429]
    assert told[20]["msg"] == "Your call frequency is too high. Please try again later."
    assert told[20]["data"] is None
    assert create(core, now=10.01)["code"] == 200
    assert core.books.most_in_window(10.0) == 20
    assert core.books.most_in_window(10.0, of="arrivals") == 21
    assert core.books.refusals == [(2.0, 429)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_of_limiter_admits_a_client_that_keeps_to_the_rate(kind):
    """Twenty spread over each window, for a while, are never too many."""
    core = api(limiter=kind, credits=math.inf)
    codes = {create(core, now=0.51 * n)["code"] for n in range(200)}

    assert codes == {200}


def test_the_kinds_differ_after_a_burst():
    """Twenty at 9.0 s, then twenty tries at each of three times: how many are admitted?"""
    admitted = {}
    for kind in KINDS:
        core = api(limiter=kind, credits=math.inf)
        bursts = [[create(core, now)["code"] for _ in range(20)] for now in (9.0, 9.5, 10.1, 19.2)]
        admitted[kind] = [codes.count(200) for codes in bursts]

    assert admitted == {
        "log": [20, 0, 0, 20],
        "strict-log": [20, 0, 0, 0],  # what was refused counts
        "counter": [20, 0, 1, 18],  # the last window fades out
        "fixed": [20, 0, 20, 0],  # forty within two seconds
        "bucket": [20, 1, 1, 18],  # two drops a second
    }


def test_an_unknown_kind_of_limiter_is_refused():
    """With the kinds that there are."""
    with pytest.raises(ValueError, match="strict-log"):
        api(limiter="leaky")


def test_looks_can_have_a_rate_too():
    """Ten a second, as documented; the envelope is the same."""
    core = api(poll_rate=(10, 1.0))
    codes = [record(core, "x", 0.5)["code"] for _ in range(11)]

    assert codes == [422] * 10 + [429]


def test_an_empty_account_is_refused():
    """402, and nothing is charged."""
    core = api(credits=5.0)
    told = create(core)

    assert told["code"] == 402
    assert told["msg"].startswith("Credits insufficient : Your current balance isn’t enough")
    assert core.books.charged == 0.0


@pytest.mark.parametrize(
    ("source", "wanted", "price"),
    [(None, None, 10.0), (None, "720p", 10.0), ("720p", "1080p", 20.0), ("480p", "1080p", 30.0)],
)
def test_an_upscale_costs_what_its_source_makes_it_cost(source, wanted, price):
    """10, 20 or 30 credits (price rows of 2026-09)."""
    core = api()
    task_id = core.add_source_task(resolution=source)
    create(core, task_id=task_id, **({"resolution": wanted} if wanted else {}))

    assert core.books.charged == price
    assert core.books.creates[0].price == price


def test_an_upscale_of_an_upscale_is_one_from_720p():
    """20 credits to 1080p."""
    core = api()
    first = create(core)["data"]["taskId"]
    create(core, 20.0, task_id=first, resolution="1080p")

    assert core.books.creates[1].price == 20.0


# -- records ------------------------------------------------------------------------------


def test_a_waiting_record_has_null_and_empty_fields():
    """As captured: credits are reserved, resultJson is empty text."""
    core = api()
    task_id = create(core)["data"]["taskId"]
    data = record(core, task_id, 5.0)["data"]

    assert (data["state"], data["resultJson"]) == ("waiting", "")
    assert {data[name] for name in ("failCode", "failMsg", "costTime", "completeTime")} == {None}
    assert (data["creditsConsumed"], data["successFlag"]) == (10.0, 0)
    assert data["operationType"] == data["model"] == "grok-imagine/upscale"
    assert "response" not in data
    assert "updateTime" not in data


def test_param_is_json_inside_json_and_echoes_the_callback_url():
    """Double encoded, without spaces; paramJson is its twin."""
    core = api()
    task_id = create(core, callback="https://x.example/cb/ref-1", task_id="é")["data"]["taskId"]
    data = record(core, task_id, 5.0)["data"]
    param = json.loads(data["param"])

    assert json.loads(param["input"]) == {"task_id": "é"}
    assert param["callBackUrl"] == "https://x.example/cb/ref-1"
    assert data["paramJson"] == data["param"]
    assert ": " not in data["param"]


def test_a_task_goes_from_waiting_to_success():
    """Grok models were never seen generating; stamps are milliseconds, costTime seconds."""
    core = api(epoch=1_776_323_931.0)
    task_id = create(core)["data"]["taskId"]
    states = [record(core, task_id, now)["data"]["state"] for now in (0.0, 9.99, 10.0, 99.0)]
    data = record(core, task_id, 10.0)["data"]

    assert states == ["waiting", "waiting", "success", "success"]
    assert data["createTime"] == 1_776_323_931_000
    assert data["completeTime"] - data["createTime"] == 10_000
    assert (data["costTime"], data["successFlag"]) == (10, 1)
    assert json.loads(data["resultJson"]) == data["response"]
    assert len(data["response"]["resultUrls"]) == 1


def test_stamps_follow_the_wall_clock_whatever_the_speed():
    """A task of ten seconds at tenfold speed took one."""
    core = api(speed=10.0)
    task_id = create(core)["data"]["taskId"]
    data = record(core, task_id, 10.0)["data"]

    assert data["completeTime"] - data["createTime"] == 1_000
    assert data["costTime"] == 1


def test_records_before_september_had_fewer_fields():
    """As captured in April 2026."""
    core = api(record_fields="2026-04")
    data = record(core, create(core)["data"]["taskId"], 99.0)["data"]

    assert " ".join(data) == (
        "taskId model state param resultJson failCode failMsg costTime completeTime createTime"
    )


@pytest.mark.parametrize(("pro", "files", "price"), [(False, 6, 4.0), (True, 4, 5.0)])
def test_text_to_image_makes_several(pro, files, price):
    """Six, or four of quality."""
    core = api()
    given = {"prompt": "x", "aspect_ratio": "1:1", "enable_pro": pro}
    task_id = create(core, model="grok-imagine/text-to-image", **given)["data"]["taskId"]
    urls = record(core, task_id, 99.0)["data"]["response"]["resultUrls"]

    assert len(set(urls)) == files
    assert core.books.charged == price


def test_segment_map_returns_an_object():
    """Of masks, for no credits (captured 2026-08-28)."""
    core = api()
    model = "grok-imagine-image-2-0/segment-map"
    task_id = create(core, model=model, task_id="a")["data"]["taskId"]
    found = record(core, task_id, 99.0)["data"]["response"]["resultObject"]

    assert set(found[0]) == {"maskUrl", "name", "index"}
    assert core.books.charged == 0.0


def test_an_unknown_task_is_422():
    """HTTP 200, code 422, `recordInfo is null`; without an id 400."""
    assert record(api(), "f" * 32, 0.0) == {"code": 422, "msg": "recordInfo is null", "data": None}
    assert record(api(), "", 0.0)["code"] == 400


def test_a_failed_task_costs_nothing_in_the_end():
    """Its code is text, its credits are back, asked for or not."""
    core = api()
    core.inject(Rule(route="task", action="fail", code=422, msg="bad picture"))
    task_id = create(core)["data"]["taskId"]
    before = ask(core, "GET", "/api/v1/chat/credit", 9.0).json()["data"]
    after = ask(core, "GET", "/api/v1/chat/credit", 10.0).json()["data"]
    data = record(core, task_id, 11.0)["data"]

    assert (before, after) == (990.0, 1000.0)
    assert (data["state"], data["failCode"], data["failMsg"]) == ("fail", "422", "bad picture")
    assert (data["creditsConsumed"], data["successFlag"], data["resultJson"]) == (0.0, 3, "")
    assert core.books.refunded == 10.0
    assert core.books.returned == {"a-source": 1}


# -- the other routes ---------------------------------------------------------------------


def test_an_unknown_route_is_a_true_404():
    """The only real error status that was seen."""
    assert ask(api(), "GET", "/api/v1/no").status == 404
    assert ask(api(), "GET", CREATE).status == 404


def test_the_balance_is_a_float():
    """The documents say integer."""
    told = ask(api(credits=60), "GET", "/api/v1/chat/credit").json()

    assert isinstance(told["data"], float)
    assert told["data"] == 60.0


def test_a_download_link_works_for_twenty_minutes():
    """And is bare text."""
    core = api()
    task_id = create(core)["data"]["taskId"]
    url = record(core, task_id, 10.0)["data"]["response"]["resultUrls"][0]
    link = ask(core, "POST", "/api/v1/common/download-url", 10.0, {"url": url}).json()["data"]
    path = link.removeprefix(core.origin)
    statuses = [ask(core, "GET", path, now, headers={}).status for now in (10.0, 1209.0, 1211.0)]

    assert statuses == [200, 200, 403]
    assert ask(core, "GET", path.replace("token=", "token=0"), 10.0).status == 403


@pytest.mark.parametrize("url", ["https://foreign.example/x.png", "", None, 7])
def test_a_foreign_url_is_wrong(url):
    """422 in HTTP 200, as captured."""
    told = ask(api(), "POST", "/api/v1/common/download-url", 0.0, {"url": url})

    assert told.json() == {"code": 422, "msg": "url is wrong", "data": None}


def test_results_go_after_fourteen_days_and_come_with_success():
    """404 before and after."""
    core = api()
    task_id = create(core)["data"]["taskId"]
    path = f"/files/{task_id}-0.png"
    days = (5.0, 10.0, 13 * 86400.0, 15 * 86400.0)

    assert [ask(core, "GET", path, now).status for now in days] == [404, 200, 200, 404]


FIELDS = {"success", "fileName", "filePath", "downloadUrl", "fileSize", "mimeType", "uploadedAt"}


def multipart(core, data: bytes, folder: str | None = "images") -> dict:
    """Upload by multipart; return the envelope."""
    boundary = "B-o-u-n-d"
    parts = [b'name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n' + data]
    parts += [] if folder is None else [b'name="uploadPath"\r\n\r\n' + folder.encode()]
    lines = [b"--B-o-u-n-d\r\nContent-Disposition: form-data; " + part for part in parts]
    body = b"\r\n".join([*lines, b"--B-o-u-n-d--\r\n"])
    headers = {**HEADERS, "content-type": f"multipart/form-data; boundary={boundary}"}
    return core.answer(Request("POST", "/api/file-stream-upload", headers, body), 0.0).json()


def test_the_three_uploads_answer_alike():
    """With the captured fields, not with the documented ones."""
    core, data = api(), bytes(range(256)) + b"\r\n--\r\n\n\r"
    text = base64.b64encode(data).decode()
    base = {"uploadPath": "images", "fileName": "b.png"}
    sent = {"base64Data": f"data:image/png;base64,{text}", **base}
    url = {"fileUrl": "https://x.example/c.png", "uploadPath": "images"}
    told = [
        ask(core, "POST", "/api/file-base64-upload", 0.0, sent).json(),
        multipart(core, data),
        ask(core, "POST", "/api/file-url-upload", 0.0, url).json(),
    ]

    for answer in told:
        assert (answer["success"], answer["code"]) == (True, 200)
        assert answer["msg"] == "File uploaded successfully"
        assert set(answer["data"]) == FIELDS
        assert answer["data"]["mimeType"] == "image/png"
    assert [answer["data"]["fileName"] for answer in told] == ["b.png", "a.png", "c.png"]
    for answer in told[:2]:
        path = answer["data"]["downloadUrl"].removeprefix(core.origin)
        assert ask(core, "GET", path).body == data
    assert told[2]["data"]["fileSize"] == 70


def test_a_refused_upload_says_why():
    """`success` false, code and text, in HTTP 200."""
    core = api()

    assert multipart(core, b"x", None)["msg"] == "Missing required parameter: uploadPath"
    told = ask(core, "POST", "/api/file-base64-upload", 0.0, {"uploadPath": "x"}).json()
    assert (told["success"], told["code"]) == (False, 400)
    told = ask(core, "POST", "/api/file-url-upload", 0.0, {}, headers={}).json()
    assert (told["success"], told["code"]) == (False, 401)
    assert ask(core, "GET", "/api/file-url-upload").json()["code"] == 405


# -- books --------------------------------------------------------------------------------


def test_the_books_tell_source_reference_time_and_payload():
    """And all of it as JSON."""
    core = api()
    task_id = create(core, 3.0, callback="http://127.0.0.1:1/cb/ref-1")["data"]["taskId"]
    create(core, 4.0, callback="http://127.0.0.1:1/cb/ref-2")
    core.due_callbacks(99.0)
    row = core.books.creates[0]
    told = json.loads(json.dumps(core.books.snapshot()))

    assert (row.at, row.source_id, row.task_id, row.ref) == (3.0, "a-source", task_id, "ref-1")
    assert json.loads(row.payload)["input"] == {"task_id": "a-source"}
    assert core.books.paid("a-source") == core.books.paid["a-source"] == 2
    assert core.books.paid("another") == 0
    assert told["paid"] == {"a-source": 2}
    assert told["refs"]["ref-1"]["task_ids"] == [task_id]
    assert told["times"]["createTask"] == [3.0, 4.0]
    assert told["charged"] == 20.0


STEPS = st.tuples(
    st.sampled_from(["create", "fail", "flip", "poll", "bad", "dear"]), st.floats(0, 5)
)


@given(st.lists(STEPS, max_size=40))
def test_the_books_add_up(steps):
    """Credits at the start less credits now is what was charged less what was refunded."""
    core, now, ids = api(credits=200.0), 0.0, []
    for step, wait in steps:
        now += wait
        core.clear_rules()
        if step in {"fail", "flip"}:
            core.inject(Rule(route="task", action=step, seconds=7.0))
        if step == "poll" and ids:
            record(core, ids[-1], now)
        elif step == "bad":
            create(core, now, model="no/such")
        elif step != "poll":
            resolution = "1080p" if step == "dear" else "720p"
            told = create(core, now, task_id=f"s{len(ids) % 3}", resolution=resolution)
            ids += [told["data"]["taskId"]] if told["data"] else []

    books = core.books
    assert 200.0 - core.credits == pytest.approx(books.charged - books.refunded)
    assert books.charged == pytest.approx(sum(row.price for row in books.creates))
    assert sum(books.paid.values()) == len(books.creates) == len(ids)
    assert core.credits >= 0
    assert len(books.arrivals) == len(books.creates) + sum(books.refused.values())
    core.settle(now + 99)
    failed = sum(task.credits for task in core.tasks.values() if task.fails)
    assert books.refunded == pytest.approx(failed)


def test_a_seed_repeats():
    """The same seed and requests give the same ids and durations; another gives others."""
    runs = []
    for seed in (3, 3, 4):
        core = EmulatedAPI(seed, durations=(30.0, 0.5))
        ids = [create(core)["data"]["taskId"] for _ in range(5)]
        runs.append([(task_id, core.tasks[task_id].ends) for task_id in ids])

    assert runs[0] == runs[1] != runs[2]


def test_durations_have_the_median_that_was_asked_for():
    """A log-normal distribution."""
    core = EmulatedAPI(durations=(40.0, 0.3), rate=None, credits=math.inf)
    ends = sorted(core.tasks[create(core)["data"]["taskId"]].ends for _ in range(2001))

    assert ends[1000] == pytest.approx(40.0, rel=0.05)
    assert len(set(ends)) == len(ends)


def test_ten_thousand_tasks_in_virtual_time_take_seconds():
    """Created at the rate, each looked at five times, and none lost."""
    core = EmulatedAPI(credits=math.inf)
    began = time.perf_counter()
    ids = [create(core, 0.5001 * n, task_id=f"s{n}")["data"]["taskId"] for n in range(10_000)]
    for _ in range(5):
        states = {record(core, task_id, 9_999.0)["data"]["state"] for task_id in ids}

    assert states == {"success"}
    assert core.books.most_in_window(10.0) <= 20
    assert len(core.books.paid) == 10_000
    assert time.perf_counter() - began < 20.0


def test_nothing_heavy_is_loaded_for_the_core():
    """No HTTP library until a server starts; nothing at all until a name is asked for."""
    code = (
        "import sys, kie_async.emulator as e\n"
        "print([n for n in sys.modules if n.startswith('kie_async.emulator.')])\n"
        "e.EmulatedAPI(), e.Emulator\n"
        "print('aiohttp' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout.split("\n")[:2] == ["[]", "False"]
    with pytest.raises(AttributeError):
        _ = sys.modules["kie_async.emulator"].no_such_name
