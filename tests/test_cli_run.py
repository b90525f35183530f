"""`kie run` as a program, against an emulator: any model, each paid for once."""

from __future__ import annotations

import json
import shlex
import signal

import pytest

from kie_async.emulator import Rule
from tests.cli_tools import kie_fixture, until  # noqa: F401 - a fixture

PICTURES = "grok-imagine/text-to-image"


def slowly(api) -> None:
    """Let tasks take long."""
    api._emulator.core.durations = lambda _rng: 10_000.0


def sent(api) -> list[dict]:
    """Return the inputs of all tasks that were created."""
    core = api._emulator.core
    return [
        json.loads(json.loads(core.tasks[each[2]].param)["input"]) for each in api.books.creates
    ]


def test_it_creates_waits_and_saves(kie):
    """Six pictures of one task, paid for once."""
    ended = kie.process("run", PICTURES, "-i", "prompt=a lighthouse", "--out", "r")

    assert ended.code == 0, ended
    assert ended.out.split("\n")[0].split() == [
        *("Task", "State", "Seconds", "Polls", "Credits", "File")
    ]
    assert len(list((kie.folder / "r").iterdir())) == 6
    assert len(kie.api.books.creates) == 1
    assert sent(kie.api) == [{"prompt": "a lighthouse", "aspect_ratio": "1:1"}]
    assert "created task" in ended.err


def test_in_json_it_tells_what_upscale_tells(kie):
    """Created, changed, result, summary; the input comes from stdin, -i goes before it."""
    given = json.dumps({"prompt": "a", "duration": 6, "aspect_ratio": "3:2"})
    ended = kie("run", "text-to-video", "--input", "-", "-i", "duration=7", "--json", given=given)

    assert ended.code == 0, ended
    assert ended.objects[0]["event"] == "created"
    (result,) = ended.events("result")
    assert (result["status"], result["source_id"]) == ("done", None)
    assert result["task_id"] == ended.objects[0]["task_id"]
    assert ended.objects[-1] == {**ended.objects[-1], "event": "summary", "exit_code": 0}
    assert sent(kie.api) == [{"prompt": "a", "duration": 7, "aspect_ratio": "3:2"}]


def test_a_dash_is_the_input_from_stdin(kie):
    """`kie run MODEL -i name=value --json -`: JSON in, JSON out."""
    line = ("run", PICTURES, "-i", "prompt=b", "--json", "-")
    ended = kie(*line, given=json.dumps({"prompt": "a", "aspect_ratio": "3:2"}))
    both = kie(*line, "--input", "x.json", given="{}")

    assert ended.code == 0, ended
    assert ended.events("result")[0]["status"] == "done"
    assert sent(kie.api) == [{"prompt": "b", "aspect_ratio": "3:2"}]
    assert both.code == 2
    assert both.objects[-1]["next"] == "kie run --help"


def test_without_waiting_it_prints_the_id(kie):
    """Alone on stdout, so that a script can keep it; the next command collects it."""
    slowly(kie.api)
    ended = kie("run", PICTURES, "-i", "prompt=a", "--no-wait", KIE_OUT="from-the-setting")

    task_id = kie.api.books.creates[0][2]
    assert (ended.code, ended.out) == (0, f"{task_id}\n")
    assert f"Next: kie wait {task_id}" in ended.err
    as_json = kie("run", PICTURES, "-i", "prompt=a", "--no-wait", "--json")
    (created,) = as_json.objects
    assert (created["event"], created["model"]) == ("created", PICTURES)
    assert created["task_id"] == kie.api.books.creates[1][2]


def test_a_dry_run_sends_nothing_and_tells_the_price(kie):
    """It needs no key."""
    ended = kie(
        "run", "upscale", "-i", "task_id=abc", "-i", "resolution=1080p", "--dry-run", KIE_API_KEY=""
    )

    assert ended.code == 0, ended
    assert json.loads(ended.out) == {
        "model": "grok-imagine/upscale",
        "input": {"task_id": "abc", "resolution": "1080p"},
    }
    assert "about 20 to 30 credits" in ended.err
    (request,) = kie("run", "x/y", "-i", "a:=1", "--dry-run", "--json").objects
    assert (request["event"], request["input"], request["credits"]) == ("request", {"a": 1}, None)
    assert dict(kie.api.books.requests) == {}


def test_an_unknown_model_is_sent_as_it_is(kie):
    """With a note where it looks like a slip; a refusal is free."""
    ended = kie("run", "grok-imagine/text-to-imag", "-i", "prompt=a", "-i", "n=1")

    assert ended.code == 1
    assert f"did you mean {PICTURES}? It is sent as it is." in ended.err
    assert "Nothing was paid." in ended.err
    assert "Next: check the model and its input" in ended.err
    assert kie.api.books.refused == {422: 1}


def test_an_unknown_field_is_sent_and_told(kie):
    """A new one must not need a new release."""
    ended = kie("run", PICTURES, "-i", "prompt=a", "-i", "zoom:=2")

    assert ended.code == 0
    assert f"zoom is no listed input of {PICTURES}; sent as it is" in ended.err
    assert sent(kie.api)[0]["zoom"] == 2


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [PICTURES],
        [PICTURES, "-i", "prompt"],
        [PICTURES, "-i", "prompt=a", "-i", "aspect_ration=3:2"],
        [PICTURES, "-i", "prompt=a", "-i", "aspect_ratio=9:1"],
        [PICTURES, "-i", "prompt=a", "-i", "enable_pro=maybe"],
        [PICTURES, "--input", "no-such-file"],
        [PICTURES, "-i", "prompt=a", "--no-wait", "--out", "r"],
        [PICTURES, "-i", "prompt=a", "--timeout", "0"],
        [PICTURES, "-i", "prompt=a", "--callback-url", "here"],
        ["mo\x1bdel", "-i", "prompt=a"],
        ["x/y", "-i", "a:=1e999"],
    ],
    ids=shlex.join,
)
def test_what_cannot_work_sends_nothing(kie, arguments):
    """Code 2, stdout empty, and the emulator heard nothing at all."""
    ended = kie("run", *arguments)

    assert (ended.code, ended.out) == (2, ""), ended
    assert "Error: " in ended.err
    assert "\x1b" not in ended.err
    assert dict(kie.api.books.requests) == {}


def test_no_check_sends_what_would_be_refused_here(kie):
    """The list may be older than the API."""
    ended = kie("run", PICTURES, "-i", "prompt=a", "-i", "aspect_ratio=9:1", "--no-check")

    assert ended.code == 1
    assert kie.api.books.refused == {422: 1}


def test_a_lost_answer_is_code_7_and_the_command_is_told_for_later(kie):
    """It is not sent again; the same command stands there for when it is surely missing."""
    kie.api.inject(Rule(route="createTask", action="fin", when="after"))
    ended = kie("run", PICTURES, "-i", "prompt=it's late", "--out", "r")

    (again,) = [line for line in ended.err.splitlines() if "only if it is not" in line]
    words = shlex.split(again.partition("only if it is not: ")[2])
    assert ended.code == 7
    assert "may have been paid for" in ended.err
    assert words == ["kie", "run", PICTURES, "-i", "prompt=it's late", "--out", "r"]
    assert len(kie.api.books.creates) == 1


@pytest.mark.parametrize("no_wait", [True, False])
def test_a_lost_answer_is_told_in_json_too(kie, no_wait):
    """With the doubt and what to do."""
    kie.api.inject(Rule(route="createTask", action="fin", when="after"))
    ended = kie("run", PICTURES, "-i", "prompt=a", "--json", *["--no-wait"] * no_wait)

    (result,) = ended.events("result")
    assert ended.code == 7
    assert result["status"] == "in_doubt"
    assert result["error"]["maybe_charged"] is True
    assert "kie run" in result["next"]


def test_a_failed_task_is_code_5(kie):
    """Free, and may be run again."""
    kie.api.inject(Rule(route="task", action="fail"))
    ended = kie("run", PICTURES, "-i", "prompt=a")

    assert ended.code == 5, ended
    assert "documented as free" in ended.err
    assert f"Next: kie run {PICTURES} -i prompt=a" in ended.err


def test_a_time_out_and_an_interrupt_name_the_task(kie):
    """It is paid for, and goes on."""
    slowly(kie.api)
    late = kie("run", PICTURES, "-i", "prompt=a", "--timeout", "1", "--out", "r")
    process = kie.start("run", PICTURES, "-i", "prompt=a", "--json")
    until(lambda: len(kie.api.books.creates) == 2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)

    first = kie.api.books.creates[0][2]
    assert late.code == 6
    assert f"Next: kie wait {first} --out r" in late.err
    assert "is paid for" in late.err
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-2])["next"] == f"kie wait {kie.api.books.creates[1][2]}"


def test_no_key_sends_nothing(kie):
    """Code 3."""
    ended = kie("run", PICTURES, "-i", "prompt=a", KIE_API_KEY="")

    assert ended.code == 3
    assert dict(kie.api.books.requests) == {}


def test_a_log_at_debug_tells_much_and_no_key(kie):
    """The fixture looks for the key; the log is on stderr, and stdout stays clean."""
    ended = kie.process("run", PICTURES, "-i", "prompt=a", "--json", KIE_LOG_LEVEL="debug")

    assert ended.code == 0
    assert "task_created task_id=" in ended.err
    assert "request_sent" in ended.err
    assert ended.objects[-1]["exit_code"] == 0
