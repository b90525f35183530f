"""The command line as a program: real processes, real HTTP, an emulator, each exit code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator import Rule
from kie_async.emulator.pytest_plugin import (
    EmulatorHandle,
    kie_emulator,  # noqa: F401 - a fixture; the package need not be installed for it
)

KIE = [sys.executable, "-m", "kie_async.cli"]
PATIENCE = 40.0
SOURCES = "Source tasks to upscale:"


def hear_signals() -> None:
    """Undo what a script's background job inherits: ignored interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture(name="api")
def _api(request: pytest.FixtureRequest) -> EmulatorHandle:
    """Return a running emulator."""
    return request.getfixturevalue("kie_emulator")  # type: ignore[no-any-return]  # by its name


@pytest.fixture(name="start")
def _start(api: EmulatorHandle, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Return what starts `kie` against the emulator; what still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "KIE_BASE_URL": api.url, "KIE_API_KEY": api.api_key}
        environment |= settings.pop("env", {})
        process = subprocess.Popen(
            [*KIE, *arguments],
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "cwd": tmp_path,
                "env": {**environment, "PYTHONPATH": str(Path(__file__).parents[1])},
                "preexec_fn": hear_signals,
                **settings,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture(name="run")
def _run(start: Callable[..., Any]) -> Callable[..., tuple[int, str, str]]:
    """Return what runs `kie` to its end: code, stdout, stderr."""

    def run(*arguments: str, given: str = "", **settings: Any) -> tuple[int, str, str]:
        process = start(*arguments, **settings)
        out, err = process.communicate(given, timeout=PATIENCE)
        assert "Traceback" not in err
        return process.returncode, out, err

    return run


def objects(out: str) -> list[dict[str, Any]]:
    """Read JSON lines."""
    return [json.loads(line) for line in out.splitlines()]


def slowly(api: EmulatorHandle, seconds: float = 10_000.0) -> None:
    """Let tasks take long."""
    api._emulator.core.durations = lambda _rng: seconds


def failing(api: EmulatorHandle) -> None:
    """Let every task end in `fail`."""
    core = api._emulator.core
    accept = core._accept

    def failing_accept(*args: Any) -> str:
        task_id = accept(*args)
        core.tasks[task_id].fails = ("500", "Internal \x1b[31mError")
        return task_id

    core._accept = failing_accept


# -- one test for each exit code ---------------------------------------------------------


def test_upscales_two_and_saves_them(api, run, tmp_path):
    """Code 0: a table, two pictures in place, each paid for once."""
    sources = [api.add_source_task() for _ in range(2)]

    code, out, err = run("upscale", *sources, sources[0], "--out", "results")

    assert code == 0, err
    assert out.split("\n")[0].split() == [
        *("Source", "New", "task", "State", "Seconds", "Polls", "Credits", "File")
    ]
    assert out.count("success") == 2
    assert out.count("480x270") == 2
    assert len(list((tmp_path / "results").glob("*.png"))) == 2
    assert api.books.paid == dict.fromkeys(sources, 1)
    assert err.count("created task") == 2
    assert "\x1b" not in out + err


def test_json_lines_tell_the_same(api, run):
    """Code 0: every line of stdout is an object; ids come from stdin."""
    source = api.add_source_task()

    code, out, err = run("upscale", "--json", "--resolution", "1080p", "-", given=f"{source}\n")

    told = objects(out)
    result = next(line for line in told if line["event"] == "result")
    assert code == 0
    assert err == ""
    assert told[0]["event"] == "created"
    assert told[-1]["event"] == "summary"
    assert (result["source_id"], result["status"], result["credits"]) == (source, "done", 30.0)
    assert result["polls"] >= 1
    assert result["result_urls"]


def test_a_refused_key_is_code_3(api, run):
    """Nothing was paid, and the key is not shown."""
    code, out, err = run("upscale", api.add_source_task(), env={"KIE_API_KEY": "canary-31337"})

    assert code == 3
    assert "Nothing was paid." in err
    assert "kie credits" in err
    assert "canary-31337" not in out + err


def test_too_few_credits_are_code_4(api, run):
    """What to do stands in the message."""
    api._emulator.core.credits = 5.0

    code, _, err = run("upscale", api.add_source_task())

    assert code == 4
    assert "add credits" in err


def test_a_failed_task_is_code_5(api, run):
    """Failed tasks are free; what the server says cannot colour the terminal."""
    failing(api)

    code, out, err = run("upscale", api.add_source_task())

    assert code == 5
    assert "documented as free" in err
    assert "\\x1b[31mError" in err
    assert "\x1b" not in out + err


def test_a_time_out_is_code_6_and_can_be_taken_up_again(api, run, tmp_path):
    """The command that it suggests works."""
    slowly(api, 30.0)

    code, _, err = run("upscale", api.add_source_task(), "--timeout", "1", "--out", "r")
    task = api._emulator.core.tasks[api.books.creates[0][2]]
    _until(lambda: api._emulator.now() > task.ends)
    again = err.partition("Next: kie ")[2].splitlines()[0].split()
    then, out, _ = run(*again)

    assert code == 6
    assert "is paid for" in err
    assert again[0] == "wait"
    assert again[2:] == ["--out", "r"]
    assert then == 0
    assert "480x270" in out
    assert len(api.books.creates) == 1


def test_a_lost_answer_is_code_7(api, run):
    """It may have been paid for, and was not sent again."""
    api.inject(Rule(route="createTask", action="fin", when="after"))

    code, out, err = run("upscale", api.add_source_task())

    assert code == 7
    assert "may have been paid" in err
    assert "https://kie.ai/logs" in err
    assert len(api.books.creates) == 1
    assert "in doubt" in out


def test_what_is_typed_again_has_the_same_resolution(api, run):
    """The suggested command asks for what was asked for."""
    source = api.add_source_task()
    api.inject(Rule(route="createTask", action="fin", when="after"))

    _, _, err = run("upscale", source, "--resolution", "1080p")

    assert f"only if it is not: kie upscale {source} --resolution 1080p" in err


def test_a_result_that_cannot_be_saved_is_code_1(api, run):
    """The task is paid for and done; only the file is fetched again."""
    api._emulator.core.result_urls = lambda _task: ["http://127.0.0.1:9/gone.png"]

    code, out, err = run("upscale", api.add_source_task(), "--out", "r", "--json")

    end = next(line for line in objects(out) if line["event"] == "result")
    assert (code, end["status"], end["state"]) == (1, "not_saved", "success")
    assert end["next"] == f"kie wait {end['task_id']} --out r"
    assert err == ""


def test_a_deadline_covers_saving_too(api, run):
    """The result is there, and hangs."""
    answer = threading.Event()
    api._emulator._paint = lambda *_: (answer.wait(), b"")[1]

    try:
        code, _, err = run("upscale", api.add_source_task(), "--out", "r", "--timeout", "3")
    finally:
        answer.set()

    assert code == 6
    assert "no time left to save" in err
    assert "kie wait" in err


def test_no_connection_is_code_1(run):
    """It says where to look."""
    code, out, err = run(
        "upscale", "abc", "--timeout", "20", env={"KIE_BASE_URL": "http://127.0.0.1:9"}
    )

    assert code == 1
    assert "KIE_BASE_URL" in err
    assert "Nothing was paid." in err
    assert "error" in out


def test_with_several_tasks_all_are_tried_and_the_worst_counts(api, run):
    """One in doubt, one out of credits, one fine: 7."""
    sources = [api.add_source_task() for _ in range(3)]
    api.inject(Rule(route="createTask", action="fin", when="after", match=sources[0]))
    api.inject(Rule(route="createTask", action="envelope", code=402, match=sources[1]))

    code, out, _ = run("upscale", *sources, "--json")

    ends = {line["source_id"]: line["status"] for line in objects(out) if "status" in line}
    assert code == 7
    assert ends == dict(zip(sources, ["in_doubt", "refused", "done"], strict=True))
    assert objects(out)[-1]["exit_code"] == 7


# -- stops ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_names_what_is_paid(api, start, number, code):
    """The ids of unfinished tasks stand in the command that takes them up."""
    slowly(api)
    process = start("upscale", api.add_source_task(), api.add_source_task(), "--json")
    created = [json.loads(process.stdout.readline())["task_id"] for _ in range(2)]

    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)

    ends = [line for line in objects(out) if line["event"] == "result"]
    assert process.returncode == code
    assert {end["next"] for end in ends} == {f"kie wait {task_id}" for task_id in created}
    assert "Stopping" in err


def test_a_stop_waits_for_a_create_under_way(api, start):
    """Its answer comes after the interrupt, and the paid id is told."""
    slowly(api)
    api.inject(Rule(route="createTask", action="delay", when="after", delay=1.5))
    process = start("upscale", api.add_source_task())
    _until(lambda: api.books.creates)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert f"kie wait {api.books.creates[0][2]}" in err


def test_a_second_interrupt_leaves_at_once(api, start):
    """Though a create hangs; it says so."""
    api.inject(Rule(route="createTask", action="silence"))
    process = start("upscale", api.add_source_task())
    _until(lambda: api.books.requests.get("createTask"))

    process.send_signal(signal.SIGINT)
    assert "Stopping" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert "1 create was under way" in err


def test_a_stop_while_saving_ends_at_once(api, start):
    """The result can be fetched later."""
    answer = threading.Event()
    api._emulator._paint = lambda *_: (answer.wait(), b"")[1]
    process = start("upscale", api.add_source_task(), "--out", "r", "--json")
    while json.loads(process.stdout.readline()).get("state") != "saving":
        pass

    process.send_signal(signal.SIGINT)
    try:
        out, _ = process.communicate(timeout=PATIENCE)
    finally:
        answer.set()

    assert process.returncode == 130
    assert objects(out)[0]["status"] == "interrupted"
    assert objects(out)[0]["next"].endswith("--out r")


def _until(true: Callable[[], object]) -> None:
    """Wait for something in another process; there is no clock to jump there."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# -- the other commands --------------------------------------------------------------------


def test_status_looks_once(api, run):
    """A table, and an error for the one that is not there."""
    source = api.add_source_task()

    code, out, err = run("status", source, "nowhere")
    fine, lines, _ = run("status", "--json", source)

    assert code == 1
    assert source in out
    assert "success" in out
    assert "nowhere" in err
    assert fine == 0
    assert objects(lines)[0]["state"] == "success"


def test_credits_are_a_number(api, run):
    """For people and for scripts."""
    assert run("credits")[:2] == (0, "1000\n")
    assert objects(run("credits", "--json")[1])[0]["credits"] == 1000.0


def test_the_emulator_says_how_to_use_it(start):
    """Its address, its key and example ids; Ctrl-C is its normal end."""
    process = start("emulator", "--port", "0")
    told = "".join(iter(process.stdout.readline, f"{SOURCES}\n"))

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)

    assert process.returncode == 0
    assert "export KIE_BASE_URL=http://127.0.0.1:" in told
    assert "export KIE_API_KEY=" in told


def test_the_emulator_can_be_made_fast_and_rich(start, run):
    """So that a long list can be tried; its faults come over HTTP, as its help shows."""
    _, shown, _ = run("emulator", "--help")
    rule = re.search(r"'({.*})'", shown)[1]
    rich = ("--rate", "400/0.5", "--credits", "5000000", "--speed", "50")
    process = start("emulator", "--port", "0", *rich, "--json")
    told = json.loads(process.stdout.readline())
    about = f"{told['url']}/__emulator__"
    urllib.request.urlopen(f"{about}/rules", data=rule.encode()).close()
    settings = {"KIE_BASE_URL": told["url"], "KIE_API_KEY": told["api_key"]}

    _, before, _ = run("credits", env=settings)
    code, out, _ = run(
        *("bulk", "-", "--journal", "run.db", "--json", "--rate", "400/0.5"),
        given="".join(f"source-{number}\n" for number in range(40)),
        env=settings,
    )
    with urllib.request.urlopen(f"{about}/books") as answer:
        books = json.load(answer)

    last = objects(out)[-1]
    assert before == "5000000\n"
    assert (code, last["done"], last["in_doubt"]) == (7, 39, 1)
    assert (books["accepted"], books["refused"]) == (40, {})  # at 20 in 10 s it refuses half


def test_a_taken_port_is_told(api, run):
    """With the way out."""
    code, _, err = run("emulator", "--port", api.url.rpartition(":")[2])

    assert code == 1
    assert "--port 0" in err


def test_the_demo_upscales_and_saves_pictures(run, tmp_path):
    """Without a key: six sources, six enlarged pictures, a table, code 0."""
    code, out, err = run("demo", env={"KIE_API_KEY": "", "KIE_BASE_URL": "http://127.0.0.1:9"})

    saved = sorted(path.name for path in (tmp_path / "kie-demo").iterdir())
    assert code == 0, err
    assert saved == [f"{n}-{word}.png" for n in range(1, 7) for word in ("after", "before")]
    assert out.count("480x270") == 6
    assert "240x135" in err
    assert "Next: export KIE_API_KEY" in err


# -- terminals -----------------------------------------------------------------------------


def on_a_terminal(
    start: Callable[..., Any],
    *arguments: str,
    seen: Callable[[subprocess.Popen[Any], bytes], None] = lambda _process, _shown: None,
    **env: str,
) -> tuple[int, str]:
    """Run `kie` on a terminal of 80 columns; return its code and all that it showed."""
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **env}
    process = start(*arguments, stdin=theirs, stdout=theirs, stderr=theirs, env=size, text=False)
    os.close(theirs)
    shown = b""
    while True:
        try:
            more = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not more:
            break
        shown += more
        seen(process, shown)
    os.close(ours)
    return process.wait(PATIENCE), shown.decode()


def test_a_terminal_is_shown_moving_lines_and_then_the_table(api, start):
    """They are taken away at the end, and the cursor is given back."""
    code, shown = on_a_terminal(start, "upscale", api.add_source_task())

    assert code == 0
    assert "0/1 ended, 1 running" in shown
    assert shown.rindex("\x1b[?25h") < shown.rindex("Source")
    assert "new task " in shown[shown.rindex("Source") :]


def test_what_is_fetched_for_a_report_is_counted_on_one_line(api, start, run, tmp_path):
    """Each count takes the place of the one before, wherever on the screen it stands."""
    (tmp_path / "ids.txt").write_text("\n".join(api.add_source_task() for _ in range(2)))
    run("bulk", "ids.txt", "--journal", "run.db", "--out", "r")

    code, shown = on_a_terminal(start, "report", "run.db", "--sources", "s", "--fetch")

    assert code == 0
    assert "\r\x1b[Ksources 1 of 2\r\x1b[Ksources 2 of 2\r\x1b[K2 of 2 sources fetched" in shown


def test_leaving_at_once_gives_the_cursor_back(api, start, tmp_path):
    """After the second Ctrl-C of a bulk run: and the words how to go on."""
    slowly(api, 1000.0)
    (tmp_path / "ids.txt").write_text(api.add_source_task())
    waiting_for = [b"running 1", b"Stopping"]

    def interrupt(process: subprocess.Popen[Any], shown: bytes) -> None:
        if waiting_for and waiting_for[0] in shown:
            del waiting_for[0]
            process.send_signal(signal.SIGINT)

    code, shown = on_a_terminal(start, *["bulk", "ids.txt", "--journal", "run.db"], seen=interrupt)

    assert code == 130
    assert shown.rindex("\x1b[?25l") < shown.rindex("\x1b[?25h")
    assert "Next: kie bulk ids.txt --journal run.db\r\n" in shown


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_plain_terminal_gets_plain_lines(api, start, plain):
    """No escape at all."""
    code, shown = on_a_terminal(start, "upscale", api.add_source_task(), **plain)

    assert code == 0
    assert "\x1b" not in shown
    assert "created task" in shown
