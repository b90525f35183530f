"""The command line's rules: exit codes, escaping, tables, advice, arguments."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kie_async import (
    AuthenticationError,
    CreateInDoubtError,
    InsufficientCreditsError,
    KieConnectionError,
    KieError,
    SessionClosedError,
    Task,
    TaskFailedError,
    TaskState,
    UsageError,
    WaitTimeoutError,
)
from kie_async.cli import _running as running
from kie_async.cli import _settings
from kie_async.cli._advice import advise
from kie_async.cli._app import kie, run
from kie_async.cli._board import Board, Row, SavedFile, status_of
from kie_async.cli._escape import clean, short
from kie_async.cli._exits import SERIOUS, Exit, exit_of, worst
from kie_async.cli._output import Output, row_fields
from kie_async.cli._pixels import pixels, pixels_of
from kie_async.cli._table import Column, table
from kie_async.cli._work import Job, work_off
from kie_async.instrumentation import (
    CreateInDoubt,
    RequestRefused,
    TaskChanged,
    TaskCreated,
    TurnTaken,
)

ID = "281e5b0c74d14a5d8f39b9aa00c1e2d3"
NEW = "9f31aa02b4efdd35f80fa34266ccfdba"


def ended(row: Row, error: KieError | None = None) -> Row:
    """Bring a row to its end, as a board does."""
    board = Board([row], lambda *_: None)
    asyncio.run(_begin(board, row))
    row.error = error
    board.end(row)
    return row


async def _begin(board: Board, row: Row) -> None:
    board.begin(row)


# -- exit codes ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (KieConnectionError("m"), 1),
        (UsageError("m"), 2),
        (AuthenticationError("m"), 3),
        (InsufficientCreditsError("m"), 4),
        (TaskFailedError("m", task=Task(task_id="t")), 5),
        (WaitTimeoutError("m"), 6),
        (CreateInDoubtError("m"), 7),
    ],
)
def test_each_kind_of_end_has_its_own_exit_code(error, code):
    """A script can tell them apart without reading."""
    assert exit_of(error) == code


def test_the_most_serious_code_wins():
    """Doubt about money goes before everything, and success before nothing."""
    assert worst([]) == 0
    assert worst([Exit.OK, Exit.TIMED_OUT, Exit.FAILED]) == 5
    assert worst([Exit.AUTHENTICATION, Exit.IN_DOUBT, Exit.CREDITS]) == 7
    assert set(SERIOUS) == set(Exit) - {Exit.INTERRUPTED, Exit.TERMINATED}


def test_help_names_every_exit_code():
    """What is documented is what there is."""
    told = CliRunner().invoke(kie, ["--help"]).output

    for code in Exit:
        assert f" {int(code)} " in told or f" {int(code)}:" in told, code


# -- escaping --------------------------------------------------------------------------


@given(st.text())
def test_nothing_from_outside_reaches_the_terminal_as_a_command(text):
    """For all texts, what is shown is one printable line."""
    shown = clean(text)

    assert shown.isprintable()
    assert len(clean(text, 10)) <= 10 * 10 + 3


def test_what_is_hidden_becomes_visible():
    """An escape, a bidirectional override, a newline; and plain text stays."""
    assert clean("\x1b[2J") == "\\x1b[2J"
    assert clean("a\u202eb") == "a\\u202eb"
    assert clean("a\nb") == "a b"
    assert clean("Größe 日本 [red]") == "Größe 日本 [red]"
    assert clean("abcdef", 3) == "abc..."
    assert short(ID) == "281e5b0c.."
    assert short("100") == "100"
    assert short(None) == "-"


# -- tables ----------------------------------------------------------------------------

COLUMNS = [Column("Source"), Column("Polls", right=True), Column("File", below=True)]


def test_a_table_lines_up():
    """Numbers to the right, further lines of a cell below it, no blanks at the end."""
    assert table(COLUMNS, [["abc", "3", "x\ny"], ["d", "12", "-"]]) == [
        "Source  Polls  File",
        "abc         3  x",
        "               y",
        "d          12  -",
    ]


def test_a_table_that_does_not_fit_loses_nothing():
    """Long columns move to lines of their own."""
    assert table(COLUMNS, [["abc", "3", "long/path"], ["d", "12", "-"]], width=20) == [
        "Source  Polls",
        "abc         3",
        "  file long/path",
        "d          12",
    ]


@given(st.lists(st.tuples(*[st.text("ab0", min_size=1)] * 3), min_size=1), st.integers(1, 100))
def test_no_cell_is_ever_cut(rows, width):
    """For all rows and widths, every text is there in full."""
    lines = "\n".join(table(COLUMNS, rows, width))

    for row in rows:
        for cell in row:
            assert cell in lines


# -- rows ------------------------------------------------------------------------------


def test_a_row_learns_from_the_events_of_its_own_task():
    """The create's events find it by context, the polls' by the task id."""
    told = []
    one, two = Row(source_id="a"), Row(source_id="b")
    board = Board([one, two], lambda kind, row, word: told.append((kind, row.source_id, word)))

    async def create(row: Row, task_id: str) -> None:
        board.begin(row)
        board(TurnTaken(lane="createTask", waited=0.0))
        assert row.phase == "creating"
        board(TaskCreated(task_id=task_id, model="m"))

    async def both() -> None:
        await asyncio.gather(create(one, "t1"), create(two, "t2"))
        board(TaskChanged(task_id="t2", state=TaskState.WAITING, polls=4))
        board(TaskChanged(task_id="unknown", state=TaskState.WAITING, polls=9))

    asyncio.run(both())

    assert (one.task_id, two.task_id) == ("t1", "t2")
    assert (one.polls, two.polls) == (0, 4)
    assert told[-1] == ("changed", "b", "waiting")


@pytest.mark.parametrize(
    ("late_event", "status", "code", "charged"),
    [
        (None, "in_doubt", 7, True),
        (CreateInDoubt(model="m", reason="r"), "in_doubt", 7, True),
        (TaskCreated(task_id=NEW, model="m"), "timed_out", 6, True),
        (RequestRefused(route="createTask", error="no"), "timed_out", 6, False),
        (RequestRefused(route="recordInfo", error="no"), "in_doubt", 7, True),
    ],
)
def test_a_create_under_way_is_judged_when_the_session_has_closed(
    late_event, status, code, charged
):
    """Its caller has left; only a refusal proves that nothing was paid."""
    told = []
    row = Row(source_id="a")
    board = Board([row], lambda kind, row, word: told.append(kind))

    async def late() -> None:
        board.begin(row)
        board(RequestRefused(route="createTask", error="before, and tried again"))
        row.error = WaitTimeoutError("m", maybe_charged=True)
        board.end(row)
        assert told == []
        if late_event is not None:
            board(late_event)
        board.settle()

    asyncio.run(late())

    assert told[-1] == "result"
    assert (status_of(row), row.exit, row.error.maybe_charged) == (status, code, charged)
    assert row.task_id == (NEW if isinstance(late_event, TaskCreated) else None)


def test_a_result_is_told_once():
    """Whatever comes later."""
    told = []
    row = Row(source_id="a")
    board = Board([row], lambda kind, row, word: told.append(kind))

    board.end(row)
    board.settle()

    assert told == ["result"]


# -- advice ----------------------------------------------------------------------------


def advised(*rows: Row, out: Path | None = None) -> str:
    """Return what a person reads."""
    return "\n".join(f"{a.title}|{a.what}|{a.money}|" + "|".join(a.next) for a in advise(rows, out))


def test_a_time_out_is_taken_up_again():
    """The paid id stands in the next command, and the directory too."""
    row = ended(Row(source_id=ID, task_id=NEW), WaitTimeoutError("late", task_id=NEW))

    told = advised(row, out=Path("my results"))

    assert "paid for" in told
    assert f"kie wait {NEW} --out 'my results'" in told


def test_a_doubt_is_looked_up_before_anything_is_sent_again():
    """First the vendor's log, and only then another create."""
    told = advised(ended(Row(source_id=ID), CreateInDoubtError("lost")))

    assert "may have been paid" in told
    assert told.index("https://kie.ai/logs") < told.index(f"kie upscale {ID}")


def test_equal_ends_are_told_together():
    """A thousand refusals are one message, in commands that can be copied."""
    rows = [ended(Row(source_id=f"id{n}"), KieConnectionError("no", sent=False)) for n in range(60)]

    told = list(advise([*rows, ended(Row(source_id="fine"))], None))

    assert len(told) == 1
    assert len(told[0].ids) == 60
    assert [step.count("id") for step in told[0].next[1:]] == [50, 10]
    assert "Nothing was paid" in told[0].money


def test_hostile_ids_are_quoted_in_commands():
    """A server cannot put a command of its own into ours."""
    row = ended(Row(source_id=ID, task_id="x; rm -rf ~\x1b"), WaitTimeoutError("late"))

    assert "kie wait 'x; rm -rf ~\\x1b'" in advised(row)


def test_what_was_stopped_is_told_apart():
    """Created, not created, not begun."""
    told = advised(
        ended(Row(source_id="a", task_id=NEW), SessionClosedError("closed")),
        ended(Row(source_id="b"), SessionClosedError("closed")),
        Row(source_id="c"),
    )

    assert f"kie wait {NEW}" in told
    assert told.count("Nothing was paid") == 2
    assert "kie upscale b" in told
    assert "kie upscale c" in told


def test_the_json_of_a_row_has_the_documented_fields():
    """Every field of it stands in the help."""
    task = Task(task_id=NEW, state=TaskState.FAIL)
    row = ended(Row(source_id=ID, task_id=NEW, task=task), TaskFailedError("no", task=task))
    row.files = (SavedFile(Path("a.png"), 3, (1, 2)),)

    fields = json.loads(json.dumps(row_fields(row, None)))

    told = CliRunner().invoke(kie, ["upscale", "--help"]).output
    assert fields["status"] == "failed"
    assert fields["files"] == [{"path": "a.png", "bytes": 3, "pixels": [1, 2]}]
    for name in [*fields, *fields["error"], *fields["files"][0]]:
        assert name in told, name


# -- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["upscale"],
        ["upscale", "a b"],
        ["upscale", "x" * 101],
        ["upscale", ID, "--resolution", "8k"],
        ["upscale", ID, "--timeout", "-1"],
        ["upscale", ID, "--timeout", "nan"],
        ["upscale", ID, "--callback-url", "ftp://x"],
        ["upscale", ID, "--api-key", "secret"],
        ["upscale", ID, "--out", __file__],
        ["status", "../x"],
        ["emulator", "--host", "0.0.0.0"],
        ["frobnicate"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_code_2(arguments, capsys):
    """Nothing is sent, and stdout stays empty."""
    assert run(arguments) == 2
    assert capsys.readouterr().out == ""


def test_wrong_usage_is_an_object_too(capsys):
    """Whoever reads JSON learns it there."""
    assert run(["upscale", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2


@pytest.mark.parametrize("key", [None, "", "white space"])
def test_no_usable_key_is_code_3(key, monkeypatch, capsys):
    """It is refused here, with the command that sets it, and is not shown."""
    if key is not None:
        monkeypatch.setenv("KIE_API_KEY", key)

    assert run(["credits"]) == 3

    told = capsys.readouterr()
    assert "export KIE_API_KEY=" in told.err
    assert "white space" not in told.err.replace("holds white space", "")
    assert told.out == ""


def test_a_base_url_that_cannot_work_is_code_2(monkeypatch, capsys):
    """The key would travel in the clear."""
    monkeypatch.setenv("KIE_API_KEY", "k")
    monkeypatch.setenv("KIE_BASE_URL", "http://example.org")

    assert run(["credits"]) == 2
    assert "KIE_BASE_URL" in capsys.readouterr().err


def test_an_output_directory_that_cannot_be_is_refused_before_anything_is_paid(
    tmp_path, monkeypatch, capsys
):
    """A file stands in its way."""
    monkeypatch.setenv("KIE_API_KEY", "k")
    (tmp_path / "file").touch()

    assert run(["upscale", ID, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "--out" in capsys.readouterr().err


def test_ids_come_from_stdin_each_once():
    """With a byte order mark, blank lines, and doubles."""

    @click.command()
    @_settings.ids_argument
    def show(task_ids):
        click.echo(",".join(_settings.read_ids(task_ids)))

    told = CliRunner().invoke(show, ["a", "-", "z"], input="\ufeffb\r\n\n a c\n")
    none = CliRunner().invoke(show, ["-"], input="\n")

    assert told.output == "a,b,c,z\n"
    assert none.exit_code == 2


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:8765", True),
        ("http://localhost:1", True),
        ("http://[::1]:1", True),
        ("https://api.kie.ai", False),
        ("http://127.0.0.1.example.org", False),
        ("", False),
    ],
)
def test_private_results_are_fetched_only_where_the_api_is_on_loopback(url, here, monkeypatch):
    """An emulator's results are on this machine; Kie's never are."""
    monkeypatch.setenv("KIE_BASE_URL", url)

    assert _settings.on_loopback() is here


# -- work ------------------------------------------------------------------------------


class Kie:
    """A session that does what it is told, by source id."""

    def __init__(self, hook):
        self.hook = hook

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def upscale(self, source_id):
        """Create the task, then end as the source id says."""
        self.hook(TaskCreated(task_id=f"new-{source_id}", model="m"))
        await asyncio.sleep(0)
        ends = {"bug": ZeroDivisionError("x"), "disk": OSError(28, "No space left")}
        if source_id == "given-up":
            raise asyncio.CancelledError
        if source_id in ends:
            raise ends[source_id]
        return Task(task_id=f"new-{source_id}", state=TaskState.SUCCESS)


def worked_off(*sources: str) -> list[Row]:
    """Upscale the sources with the double."""
    rows = [Row(source_id=source) for source in sources]
    job = Job(call=lambda kie, row: kie.upscale(row.name), timeout=5.0)

    async def work(stop):
        await work_off(job, rows, Kie, Output(), stop)
        return 0

    assert running.run(work) == 0
    return rows


def test_whatever_happens_every_paid_id_is_told(capsys):
    """A bug, a full disk, a create given up: each row ends, and the others go on."""
    rows = worked_off("bug", "disk", "given-up", "fine")

    assert [row.exit for row in rows] == [1, 1, 7, 0]
    assert [row.task_id for row in rows] == ["new-bug", "new-disk", "new-given-up", "new-fine"]
    assert "ZeroDivisionError at test_cli.py:" in rows[0].error.message
    told = capsys.readouterr().err
    assert all(row.task_id in told for row in rows)


def test_a_hundred_are_under_way_at_once():
    """More wait, so that each deadline starts when its task does; all come to their end."""
    rows = worked_off(*(f"s{n}" for n in range(250)))

    most = max(sum(r.started <= row.started < r.ended for r in rows) for row in rows)
    assert {status_of(row) for row in rows} == {"done"}
    assert most == 100


# -- files -----------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 480, 270)
JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + struct.pack(">HH", 270, 480) + b"\3"
WEBP = (
    b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + (479).to_bytes(3, "little") + (269).to_bytes(3, "little")
)
LOSSY = b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 480, 270)
LOSSLESS = b"RIFF\0\0\0\0WEBPVP8L" + bytes(5) + (479 | 269 << 14).to_bytes(4, "little")


@pytest.mark.parametrize("head", [PNG, JPEG, b"GIF89a" + struct.pack("<HH", 480, 270), WEBP])
def test_the_size_of_a_picture_is_read(head, tmp_path):
    """From its first bytes, for each kind."""
    path = tmp_path / "p"
    path.write_bytes(head + bytes(20))

    assert pixels(path) == (480, 270)


@pytest.mark.parametrize("head", [LOSSY, LOSSLESS], ids=["lossy", "lossless"])
def test_the_size_of_every_webp_is_read(head, tmp_path):
    """It has three forms."""
    path = tmp_path / "p"
    path.write_bytes(head)

    assert pixels(path) == (480, 270)


@given(st.binary(max_size=60), st.sampled_from([b"", PNG[:8], JPEG[:2], WEBP[:12], b"GIF89a"]))
def test_any_bytes_have_a_size_or_none(tail, head):
    """No file makes it fail."""
    size = pixels_of(head + tail)

    assert size is None or len(size) == 2


def test_a_file_that_is_gone_has_no_size(tmp_path):
    """It is not worth an error."""
    assert pixels(tmp_path / "gone") is None


# -- the program -----------------------------------------------------------------------


def test_results_go_to_stderr_when_nobody_reads_stdout(monkeypatch, capsys):
    """A paid id is never dropped, even behind `| head`."""
    output = Output()

    class Gone:
        def write(self, _text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            return spare.fileno()

    with Path("/dev/null").open("w") as spare:
        monkeypatch.setattr(sys, "stdout", Gone())
        output.result("one")
        output.result("two")

    assert capsys.readouterr().err == "one\ntwo\n"


def test_without_its_packages_it_says_what_to_install():
    """One line, code 2."""
    code = (
        "import sys; sys.modules['rich'] = None; sys.argv = ['kie']\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name: None if name == 'rich' else real(name)\n"
        "from kie_async.cli import main; main()"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert ended.returncode == 2
    assert ended.stderr == "kie: rich not installed. Type: pip install 'kie_async[cli]'\n"


def test_help_loads_nothing_that_only_work_needs():
    """So it is there at once."""
    code = (
        "import sys; sys.argv = ['kie', '--help']\n"
        "from kie_async.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'aiohttp', 'tenacity', 'rich', 'sqlite3', 'kie_async.emulator'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stderr == "[]\n"


def test_it_tells_its_version(capsys):
    """In one line."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("kie 0.")
