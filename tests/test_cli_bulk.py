"""`kie bulk`, `kie journal`, `kie reconcile`: against the emulator, as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async.bulk import BulkItem, Progress
from kie_async.cli._bulk_end import _code, summary_lines
from kie_async.cli._bulk_input import ItemList, parse
from kie_async.cli._bulk_view import Ticker, bar, duration, eta, live_lines, plain_line
from kie_async.cli._journal import STATES
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.emulator import Rule
from kie_async.journal import ItemState

FAST = ("--rate", "400/0.5")


class Cli:
    """Runs `kie` in a folder, against an emulator."""

    def __init__(self, emulator, folder) -> None:
        self.emulator, self.folder = emulator, folder
        self.environment = {
            **os.environ,
            "KIE_API_KEY": emulator.api_key,
            "KIE_BASE_URL": emulator.url,
            "COLUMNS": "100",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "kie_async.cli", *arguments],
            cwd=self.folder,
            env=self.environment,
            text=True,
            # A background job of a script ignores interrupts; a person's shell does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def lines(self, *arguments: str) -> list[dict]:
        """Run with --json; return the objects."""
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]

    def sources(self, count: int, name: str = "ids.txt") -> list[str]:
        """Make source tasks and write their list."""
        ids = [self.emulator.add_source_task() for _ in range(count)]
        (self.folder / name).write_text("\n".join(ids) + "\n")
        return ids

    def states(self) -> dict[str, int]:
        rows = sqlite3.connect(self.folder / "run.db")
        try:
            return dict(rows.execute("SELECT state, count(*) FROM items GROUP BY state"))
        finally:
            rows.close()


@pytest.fixture
def kie(kie_emulator, tmp_path) -> Cli:
    """Return the command line."""
    return Cli(kie_emulator, tmp_path)


def test_a_list_is_upscaled_once_and_saved(kie):
    """And the same command again does nothing more."""
    ids = kie.sources(12)

    first = kie("bulk", "ids.txt", "--journal", "run.db", "--out", "results", *FAST)
    again = kie("bulk", "ids.txt", "--journal", "run.db", "--out", "results", *FAST)

    assert first.returncode == again.returncode == 0, first.stderr
    assert "12 listed, a new run" in first.stderr
    assert "12 done, 0 failed" in first.stdout
    assert "every credit that left the account is explained" in first.stdout
    assert sorted(p.stem for p in (kie.folder / "results").iterdir()) == sorted(ids)
    assert kie.emulator.books.paid == dict.fromkeys(ids, 1)


def test_csv_jsonl_and_stdin(kie):
    """With columns for the resolution and the name, and each id once over all lists."""
    a, b, c = kie.sources(3)
    (kie.folder / "list.csv").write_text(f"task,resolution,name\n{a},1080p,first\n{b},,\n")
    (kie.folder / "list.jsonl").write_text(json.dumps({"id": c}) + "\n" + json.dumps(c) + "\n")
    common = ("--journal", "run.db", "--out", "out", *FAST)

    csv = kie("bulk", "list.csv", "--column", "task", *common)
    rest = kie("bulk", "list.jsonl", "-", *common, stdin=f"{b}\n\n# a comment\n")

    assert (csv.returncode, rest.returncode) == (0, 0), rest.stderr
    assert "first.png" in {p.name for p in (kie.folder / "out").iterdir()}
    assert kie.emulator.books.paid == {a: 1, b: 1, c: 1}


def test_json_tells_everything(kie):
    """Start, a result for each, and the summary with the exit code."""
    ids = kie.sources(3)

    events = kie.lines("bulk", "ids.txt", "--journal", "run.db", *FAST)

    assert [e["event"] for e in events] == ["start", *["result"] * 3, "summary"]
    assert {e["source_id"] for e in events if e["event"] == "result"} == set(ids)
    assert events[-1]["done"] == 3
    assert events[-1]["exit_code"] == 0
    assert events[-1]["unexplained_credits"] == 0


def test_without_a_directory_the_urls_are_printed(kie):
    """As the help says: a result that is neither saved nor named would be lost when it expires."""
    ids = kie.sources(2)

    told = kie("bulk", "ids.txt", "--journal", "run.db", *FAST)
    saved = kie("bulk", "--journal", "run.db", "--out", "results", *FAST)
    kie.sources(1, "more.txt")
    *_, result, _ = kie.lines("bulk", "more.txt", "--journal", "run.db", *FAST)

    printed = dict(line.split("  ") for line in told.stdout.splitlines() if "  http" in line)
    assert printed.keys() == set(ids)
    assert all(url.startswith(kie.emulator.url) for url in printed.values())
    assert "Nothing was saved" in told.stdout
    assert "  http" not in saved.stdout
    assert len(list((kie.folder / "results").iterdir())) == 2
    assert result["result_urls"][0].startswith(kie.emulator.url)


def steps(*told: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return the commands to type next, as a shell would split them."""
    lines = [line.strip() for each in told for line in f"{each.stdout}{each.stderr}".splitlines()]
    lines = [re.sub(r"^(Next|To look at it): ", "", line) for line in lines]
    return [shlex.split(line)[1:] for line in lines if line.startswith("kie ")]


def test_every_next_command_works_as_it_stands(kie):
    """Typed without a change, whatever the journal is called."""
    kie.sources(9)
    kie.emulator.inject(Rule(route="task", action="fail", nth=1, code=500, msg="no"))
    kie.emulator.inject(Rule(route="createTask", action="fin", when="after", nth=2))
    kie.emulator.inject(Rule(route="createTask", action="envelope", nth=6, code=402))
    journal = "my run's.db"

    command = ("bulk", "ids.txt", "--journal", journal, "--in-flight", "1", *FAST)
    stopped = kie(*command)
    kie.emulator.clear_rules()
    ran = {tuple(step): kie(*step) for step in steps(stopped)}
    looks = steps(*ran.values())

    assert stopped.returncode == 8
    assert set(ran) == {
        command,
        ("journal", journal, "--doubts"),
        ("journal", journal, "--state", "failed"),
    }
    assert [each.returncode for each in ran.values()] == [7, 0, 0]
    assert ["reconcile", journal, "--recreate", "SOURCE_ID"] in looks
    saved = kie(*next(step for step in looks if step[:1] == ["bulk"] and "--out" in step))
    report = next(step for step in steps(saved) if step[0] == "report")
    assert len(list((kie.folder / "results").iterdir())) == 7
    assert kie(*report).returncode == 0
    assert (kie.folder / "report.html").exists()


def test_what_ends_a_command_tells_the_money_and_the_next_step(kie):
    """A refused key, a file that is no journal, a run that is on: each its own step."""
    kie.sources(1)
    (kie.folder / "no.db").write_text("no journal")
    held = kie.start("bulk", "-", "--journal", "run.db", "--json", *FAST)
    assert held.stdout is not None
    assert json.loads(held.stdout.readline())["event"] == "start"
    kie.environment["KIE_API_KEY"], key = "wrong", kie.environment["KIE_API_KEY"]

    refused = kie("bulk", "ids.txt", "--journal", "new.db")
    kie.environment["KIE_API_KEY"] = key
    strange = kie("journal", "no.db")
    on = kie("bulk", "ids.txt", "--journal", "run.db")
    held.communicate("", timeout=60)

    assert (refused.returncode, strange.returncode, on.returncode) == (3, 1, 1)
    assert "Nothing was paid for this." in refused.stderr
    assert "Next: put a valid key into KIE_API_KEY, then: kie doctor" in refused.stderr
    assert "what was paid before is on record" in strange.stderr
    assert "kie bulk --help" in strange.stderr
    assert "Next: let that run end" in on.stderr
    told = json.loads(kie("journal", "no.db", "--json").stdout)
    assert (told["maybe_charged"], told["exit_code"]) == (False, 1)


def test_a_dry_run_costs_nothing_and_writes_nothing(kie):
    """It tells the price and the balance."""
    kie.sources(7)

    told = kie("bulk", "ids.txt", "--journal", "run.db", "--dry-run")

    assert told.returncode == 0
    assert "at most 70 credits (balance 1,000)" in told.stderr
    assert kie.emulator.books.creates == []
    assert not (kie.folder / "run.db").exists()


STOPS = [
    ({"code": 401}, 8, "key"),
    ({"code": 402}, 8, "top up"),
    ({"code": 433}, 8, "cap"),
    ({"code": 505}, 8, "switched off"),
]


@pytest.mark.parametrize(("fault", "code", "advice"), STOPS)
def test_a_stop_tells_how_to_go_on(kie, fault, code, advice):
    """What runs is finished, the rest is planned, and the same command completes it."""
    kie.sources(30)
    kie.emulator.inject(
        Rule(route="createTask", action="envelope", nth=tuple(range(10, 200)), times=30, **fault)
    )
    command = ("bulk", "ids.txt", "--journal", "run.db", *FAST)

    stopped = kie(*command)
    states = kie.states()
    kie.emulator.clear_rules()
    resumed = kie(*command)

    assert stopped.returncode == code, stopped.stderr
    assert advice in stopped.stdout
    assert f"Next: kie {' '.join(command)}\n" in stopped.stdout
    assert states == {"done": 10, "planned": 20}
    assert resumed.returncode == 0
    assert set(kie.emulator.books.paid.values()) == {1}
    assert len(kie.emulator.books.paid) == 30


def test_a_stopped_run_has_the_whole_list_and_goes_on_without_it(kie):
    """As `kie bulk --help` shows it: its journal alone is enough."""
    ids = "".join(f"source-{n}\n" for n in range(2500))
    (kie.folder / "ids.txt").write_text(ids)
    kie.emulator.inject(route="createTask", action="envelope", code=402, msg="no credits")

    stopped = kie("bulk", "ids.txt", "--journal", "run.db", *FAST)
    listed = kie.states()
    (kie.folder / "run.db").unlink()
    kie("bulk", "-", "--journal", "run.db", *FAST, stdin=ids)

    assert stopped.returncode == 8
    assert listed == {"planned": 2500}
    assert kie.states()["planned"] < 2500  # nobody knows the end of a pipe


@pytest.mark.parametrize("loaded", [True, False])
def test_a_list_that_was_not_read_to_its_end_is_not_done(loaded):
    """Whatever was read of it is: the same again goes on, and the exit code says so."""
    progress = Progress(total=10, done=10, loaded=loaded)
    where = Where(Path("run.db"))

    told = summary_lines(where, progress, None, None, 1.0, "kie bulk -", saving=True)

    assert _code(progress, None) == (0 if loaded else 8)
    assert ("  Next: kie bulk -" in told) is not loaded


def test_the_cap_on_credits_stops_the_run(kie):
    """Exactly there."""
    kie.sources(10)

    told = kie("bulk", "ids.txt", "--journal", "run.db", "--max-credits", "45", *FAST)

    assert told.returncode == 8
    assert len(kie.emulator.books.creates) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_in_good_order(kie, number):
    """No doubts, the code of the signal, and the same command goes on."""
    kie.sources(60)
    process = kie.start("bulk", "ids.txt", "--journal", "run.db", "--rate", "20/2")
    deadline = time.monotonic() + 20
    while not kie.emulator.books.creates and time.monotonic() < deadline:
        time.sleep(0.01)  # another process: nothing to wait on but its effect
    process.send_signal(number)
    _, err = process.communicate(timeout=40)

    assert process.returncode == 128 + number, err
    assert "Stopping" in err
    assert set(kie.states()) <= {"done", "planned"}
    assert kie("bulk", "--journal", "run.db", *FAST).returncode == 0
    assert set(kie.emulator.books.paid.values()) == {1}


def test_a_grace_of_zero_leaves_paid_tasks_to_the_next_run(kie):
    """They stay `sent` and are collected."""
    kie.sources(20)
    process = kie.start("bulk", "ids.txt", "--journal", "run.db", "--grace", "0", "--rate", "20/2")
    deadline = time.monotonic() + 20
    while len(kie.emulator.books.creates) < 20 and time.monotonic() < deadline:
        time.sleep(0.01)  # as above
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)

    assert process.returncode == 130
    assert "in_doubt" not in kie.states()
    assert kie("bulk", "--journal", "run.db", *FAST).returncode == 0
    assert set(kie.emulator.books.paid.values()) == {1}


def test_doubts_are_listed_and_settled(kie):
    """By proof from a list of ids, and by hand; each decision is recorded."""
    ids = kie.sources(6)
    kie.emulator.inject(Rule(route="createTask", action="fin", when="after", nth=(1, 3)))
    kie.emulator.inject(Rule(route="createTask", action="rst", when="before", nth=(5,)))
    command = ("bulk", "ids.txt", "--journal", "run.db", "--callback-url", "http://127.0.0.1:9/cb")

    ran = kie(*command, *FAST)
    doubts = kie.lines("journal", "run.db", "--doubts")
    created = [row[2] for row in kie.emulator.books.creates]
    (kie.folder / "exported.txt").write_text("\n".join([*created, "f" * 32]))
    settled = kie("reconcile", "run.db", "--ids", "exported.txt")
    left = kie.lines("journal", "run.db", "--doubts")
    byhand = kie("reconcile", "run.db", "--not-created", left[0]["source_id"])
    done = kie(*command, *FAST)

    assert ran.returncode == 7
    assert "not sent again" in ran.stdout
    assert len(doubts) == 3
    assert all(len(d["attempts"][0]["reference"]) == 32 for d in doubts)
    assert settled.returncode == 7  # one is still open
    assert settled.stdout.count("settled") == 2
    assert len(left) == 1
    assert byhand.returncode == 0, byhand.stderr
    assert done.returncode == 0, done.stdout
    assert kie.emulator.books.paid == dict.fromkeys(ids, 1)


def test_a_failed_task_is_shown_and_can_be_recreated(kie):
    """The journal tells why."""
    kie.sources(2)
    kie.emulator.inject(Rule(route="task", action="fail", code=422, msg="bad picture", times=1))

    ran = kie("bulk", "ids.txt", "--journal", "run.db", *FAST)
    failed = kie.lines("journal", "run.db", "--state", "failed")
    again = kie("reconcile", "run.db", "--recreate", failed[0]["source_id"])
    done = kie("bulk", "--journal", "run.db", *FAST)

    assert ran.returncode == 5
    assert failed[0]["error_message"] == "bad picture"
    assert "now planned" in again.stdout
    assert done.returncode == 0


def test_the_journal_is_shown_as_a_table_and_as_json(kie):
    """Also without a key."""
    kie.sources(2)
    kie("bulk", "ids.txt", "--journal", "run.db", *FAST)
    del kie.environment["KIE_API_KEY"]

    table = kie("journal", "run.db")
    counts = kie.lines("journal", "run.db")

    assert table.returncode == 0
    assert "Waits for" in table.stdout
    assert counts[0]["done"] == 2


WRONG = [
    (("bulk",), 2),
    (("bulk", "--journal", "none.db"), 2),
    (("bulk", "missing.txt", "--journal", "run.db"), 2),
    (("bulk", "ids.txt", "--journal", "run.db", "--rate", "fast"), 2),
    (("bulk", "ids.txt", "--journal", "run.db", "--name", "{x}"), 2),
    (("bulk", "bad.txt", "--journal", "run.db"), 2),
    (("bulk", "ids.txt", "--journal", "foreign.db"), 1),
    (("journal", "none.db"), 2),
    (("reconcile", "foreign.db"), 2),
    (("reconcile", "foreign.db", "--as", "x"), 2),
]


@pytest.mark.parametrize(("arguments", "code"), WRONG)
def test_wrong_usage_is_told_before_anything_is_paid(kie, arguments, code):
    """With a reason, and nothing is created or changed."""
    kie.sources(2)
    (kie.folder / "bad.txt").write_text("fine-id\nnot an id\n")
    (kie.folder / "foreign.db").write_text("this is no journal")

    told = kie(*arguments)

    assert told.returncode == code, told.stderr
    assert "Error" in told.stderr
    assert "Traceback" not in told.stderr
    assert (kie.folder / "foreign.db").read_text() == "this is no journal"
    assert kie.emulator.books.creates == []
    if "bad.txt" in arguments:
        assert "bad.txt:2" in told.stderr


def test_the_states_of_the_command_line_are_the_journal_s():
    """They are written out, so that help loads no database."""
    assert list(STATES) == [state.value for state in ItemState]


def test_callbacks_are_printed_as_they_arrive(kie):
    """Signed ones; a forged one is not there."""
    source = kie.sources(1)[0]
    kie.environment["KIE_HMAC_KEY"] = kie.emulator.hmac_key
    serving = kie.start("callbacks", "serve", "--port", "0", "--json")
    url = json.loads(serving.stdout.readline())["url"]

    kie("upscale", source, "--callback-url", url)
    kie.emulator.inject(Rule(route="callback", action="forged"))
    kie("upscale", kie.sources(1)[0], "--callback-url", url)
    heard = json.loads(serving.stdout.readline())
    serving.send_signal(signal.SIGINT)
    rest, err = serving.communicate(timeout=20)

    assert heard["event"] == "callback"
    assert heard["task_id"] == kie.emulator.books.creates[0][2]
    assert rest == ""
    assert serving.returncode == 130, err
    del kie.environment["KIE_HMAC_KEY"]
    assert kie("callbacks", "serve").returncode == 3


# -- the list --


def read(text: str, form: str, column: str | None = None) -> list[BulkItem]:
    return list(parse(text.splitlines(keepends=True), "list", form, column))


def test_lines_csv_and_jsonl_are_read():
    """Blank lines and comments are nothing; a byte order mark neither."""
    assert [i.source_id for i in read("\ufeffabcd\n\n# no\nefgh\n", "lines")] == ["abcd", "efgh"]
    assert read("id,name\nabcd,x\n", "csv") == [BulkItem(source_id="abcd", output_name="x")]
    assert [i.source_id for i in read('"abcd"\n{"task_id": "efgh"}\n', "jsonl")] == ["abcd", "efgh"]
    assert read('"a,b",t\nx,abcd\n', "csv", "t")[0].source_id == "abcd"


@pytest.mark.parametrize(
    ("text", "form", "place"),
    [
        ("fine\na b\n", "lines", "list:2"),
        ('id\nfine\n""\n', "csv", "list:3"),
        ("other\nfine\n", "csv", "list:2"),
        ('"fine"\n{"id": 5}\n', "jsonl", "list:2"),
        ('"fine"\n{]\n', "jsonl", "list:2"),
        ("id,resolution\nfine,8k\n", "csv", "list:2"),
        ("x" * 100_000, "lines", "list:1"),
    ],
)
def test_a_bad_line_is_named(text, form, place):
    """By file and line."""
    with pytest.raises(click.UsageError) as caught:
        read(text, form)
    assert place in caught.value.format_message()


@given(st.text(max_size=300), st.sampled_from(["lines", "csv", "jsonl"]))
def test_any_text_is_items_or_a_usage_error(text, form):
    """No list breaks the program."""
    try:
        items = read(text, form)
    except click.UsageError:
        return
    assert all(isinstance(item, BulkItem) for item in items)


def test_stdin_is_read_once():
    """Everything else can be checked before it is used."""
    assert not ItemList(["-"], None, "auto", None).repeatable
    assert ItemList(["a.txt"], None, "auto", None).repeatable


# -- the view --


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize("total", [0, 10, 100_000])
def test_the_live_view_fits(width, total):
    """Ten tasks or a hundred thousand, on any terminal."""
    progress = Progress(total=total, done=total // 3, running=7, failed=1, in_doubt=2, loaded=True)
    progress.failed_downloads = 3

    lines = live_lines(progress, Rate(20, 10.0), 20, 3600.0, 60.0, width)

    assert len(lines) == 5
    assert all(len(line) <= width for line in lines)
    assert plain_line(progress, None, 5.0)


def test_nothing_is_cut_off_on_eighty_columns():
    """A hundred thousand tasks, in the middle of the night."""
    progress = Progress(
        total=100_000, done=41_234, running=12_345, waiting_for_turn=1_234, failed=1_234,
        in_doubt=123, credits_spent=412_340.0, files=41_000, loaded=True,
    )  # fmt: skip

    lines = live_lines(progress, Rate(20, 10.0), 20, 29_000.0, 21_000.0, 79)

    assert lines == [line[:79] for line in lines]
    assert lines[0].endswith("43%  42,591 of 100,000")
    assert lines[1].endswith("in doubt 123")
    assert lines[2].endswith("files 41,000")
    assert lines[3] == "5 h 50 min, about 8 h 03 min left"


def test_a_run_that_stops_says_so_and_not_how_long_all_would_take():
    """By a signal or by an error."""
    progress = Progress(total=1_000, done=10, running=3, loaded=True)
    assert _last_of(progress, 495.0) == "5 s, about 8 min 15 s left"
    assert plain_line(progress, 495.0, 5.0).endswith("about 8 min 15 s left")

    progress.stopping = True

    assert _last_of(progress, 495.0) == "5 s, stopping when what runs has ended"
    assert plain_line(progress, 495.0, 5.0).endswith("stopping when what runs has ended")


def _last_of(progress: Progress, left: float) -> str:
    return live_lines(progress, Rate(20, 10.0), 20, left, 5.0, 79)[-1]


def test_a_list_that_is_known_counts_whole_from_the_start():
    """Though the run has read only the beginning of it."""
    read = Progress(total=4_000, done=100)

    known = Ticker(Output(), read, Rate(20, 10.0), lambda: 0, listed=100_000)._progress
    assert (known.total, known.left, known.loaded) == (100_000, 99_900, True)
    assert Ticker(Output(), read, Rate(20, 10.0), lambda: 0)._progress is read  # from stdin

    read.total, read.loaded = 99_000, True  # a thousand were doubled
    assert Ticker(Output(), read, Rate(20, 10.0), lambda: 0, listed=100_000)._progress is read


def test_the_estimate_is_never_faster_than_the_account_allows():
    """However quickly the first ones ended."""
    progress = Progress(total=1000, done=100)

    assert eta(progress, 1000, 1.0, Rate(20, 10.0)) == 450.0
    assert eta(progress, 1000, 200.0, Rate(20, 10.0)) == 1800.0
    assert eta(Progress(), 0, 1.0, Rate(20, 10.0)) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (65, "1 min 05 s"), (3700, "1 h 01 min")]
)
def test_durations_are_said_as_people_say_them(seconds, text):
    """And bars never overflow."""
    assert duration(seconds) == text
    assert len(bar(7.0)) == len(bar(-1.0)) == 30


def test_a_report_is_made_of_a_run_and_over_nothing_else(kie):
    """Also while the journal is held; sources beside results; no secret in it."""
    ids = kie.sources(3)
    kie("bulk", "ids.txt", "--journal", "run.db", "--out", "results", *FAST)
    (kie.folder / "originals").mkdir()
    (kie.folder / "originals" / f"{ids[0]}-0.png").write_bytes(b"\x89PNG")
    (kie.folder / "mine.html").write_text("<p>my own page</p>")

    made = kie.lines("report", "run.db", "-o", "report.html", "--sources", "originals", "--json")
    fetched = kie("report", "run.db", "-o", "2.html", "--sources", "fetched", "--fetch")
    page = (kie.folder / "report.html").read_text()
    again = kie("report", "run.db")
    mine = kie("report", "run.db", "-o", "mine.html")
    out = kie("report", "run.db", "-o", "-", "--no-thumbnails")
    nowhere = kie("report", "run.db", "-o", "no/where.html")

    assert [line["event"] for line in made] == ["report"]
    assert (made[0]["items"], made[0]["thumbnails"]) == (3, 3)
    assert all(f"./results/{source}.png" in page for source in ids)
    assert f"./originals/{ids[0]}-0.png" in page
    assert kie.emulator.api_key not in page
    assert "3 of 3 sources fetched into fetched" in fetched.stderr
    second = (kie.folder / "2.html").read_text()
    assert all(f"./fetched/{source}" in second for source in ids)
    assert again.returncode == 0
    assert "3 items" in again.stdout
    assert (mine.returncode, nowhere.returncode) == (2, 2)
    assert "is no report of kie" in mine.stderr
    assert (kie.folder / "mine.html").read_text() == "<p>my own page</p>"
    assert out.stdout.startswith("<!doctype html>")
    assert not list(kie.folder.glob("*.part"))
