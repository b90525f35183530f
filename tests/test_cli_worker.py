"""`kie worker`, and the other commands on a journal that workers share."""

from __future__ import annotations

import json
import os
import pty
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kie_async.cli._app import kie as command_line
from kie_async.cli._journals import NEW_JOURNAL, Where, typed
from tests.cli_tools import Kie, kie_fixture, until
from tests.postgres_servers import POSTGRES, Postgres, postgres_server

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(POSTGRES is None, reason="no PostgreSQL on this machine"),
]

__all__ = ["kie_fixture"]

FAST = ("--rate", "400/0.5", "--lease", "2")


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(name="url")
def _url(server: Postgres) -> str:
    """A run that no other test knows."""
    return f"{server.url}#t{secrets.token_hex(5)}"


def listed(kie: Kie, count: int) -> Path:
    ids = [kie.api.add_source_task() for _ in range(count)]
    path = kie.folder / "ids.txt"
    path.write_text("\n".join(ids))
    return path


def test_a_list_is_submitted_worked_on_and_looked_at(kie: Kie, url: str):
    """The whole way: bulk submits, two workers work, journal and report read it."""
    path = listed(kie, 12)
    told = kie("bulk", str(path), "--journal", url)
    assert told.code == 0
    assert "12 new, 12 on record, 12 to create: at most 120 credits" in " ".join(told.out.split())
    assert f"kie worker --journal '{url}'" in " ".join(told.err.split())

    first = kie.start("worker", "--journal", url, "--out", "out", "--json", *FAST)
    other = kie.start("worker", "--journal", url, "--out", "out", "--json", *FAST)
    ended = [process.communicate(timeout=90) for process in (first, other)]
    assert [first.returncode, other.returncode] == [0, 0], ended
    events = [json.loads(line) for out, _ in ended for line in out.splitlines()]
    results = [event for event in events if event["event"] == "result"]
    assert sorted(event["source_id"] for event in results) == sorted(path.read_text().split())
    assert {event["status"] for event in results} == {"done"}
    summaries = [event for event in events if event["event"] == "summary"]
    assert [(event["done"], event["exit_code"]) for event in summaries] == [(12, 0)] * 2
    assert len(list((kie.folder / "out").iterdir())) == 12

    (counts,) = kie("journal", url, "--json").objects
    assert (counts["done"], counts["total"], counts["credits_explained"]) == (12, 12, 120)
    assert "kie worker --journal" in kie("journal", url).out
    assert len(kie("journal", url, "--state", "done", "--json").objects) == 12
    report = kie("report", url, "-o", "page.html")
    assert report.code == 0
    assert "12 items" in report.out
    assert (kie.folder / "page.html").stat().st_size > 10_000

    again = kie("worker", "--journal", url, *FAST)  # nothing is left: it ends at once
    assert again.code == 0
    assert "12 done, 0 failed, 0 in doubt, 0 left of 12" in " ".join(again.out.split())


def test_a_doubt_is_settled_by_hand_and_worked_on(kie: Kie, url: str):
    """Reconcile writes to the shared journal as it does to a file."""
    path = listed(kie, 3)
    kie("bulk", str(path), "--journal", url)
    kie.api.inject(route="createTask", action="fin", when="after", nth=1)
    worked = kie("worker", "--journal", url, *FAST)
    assert worked.code == 7
    (doubt,) = kie("journal", url, "--doubts", "--json").events("doubt")

    settled = kie("reconcile", url, "--recreate", doubt["source_id"])
    assert settled.code == 0
    assert "now planned" in settled.out
    assert f"kie worker --journal '{url}'" in " ".join(settled.err.split())
    assert kie("worker", "--journal", url, *FAST).code == 0


def test_ctrl_c_ends_a_worker_in_good_order(kie: Kie, url: str):
    """What is under way is finished, what was not sent is left to the others."""
    path = listed(kie, 40)
    kie("bulk", str(path), "--journal", url)
    process = kie.start("worker", "--journal", url, "--rate", "4/5", "--lease", "2")
    until(lambda: len(kie.api.books.creates) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)

    assert process.returncode == 130, said
    (counts,) = kie("journal", url, "--json").objects
    assert counts["in_doubt"] == counts["sending"] == counts["sent"] == 0
    assert counts["done"] == len(kie.api.books.creates)
    assert counts["planned"] == 40 - counts["done"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "--journal", "run.db"), "is a file, which one process works on"),
        (("worker", "--journal", "postgresql://h/d#A b"), "names no run"),
        (("bulk", "-", "--journal", "{}", "--out", "x"), "--out is not for a shared journal"),
        (("bulk", "-", "--journal", "{}", "--dry-run"), "--dry-run is not for a shared journal"),
        (("worker", "--journal", "{}"), "there is no journal"),
        (("journal", "{}"), "there is no journal"),
        (("worker", "--journal", "postgresql://kie@127.0.0.1:1/x"), "its address is right"),
    ],
)
def test_what_cannot_work_says_what_to_do(
    kie: Kie, url: str, arguments: tuple[str, ...], said: str
):
    """Before anything is paid."""
    ended = kie(*(argument.format(url) for argument in arguments))
    assert ended.code != 0
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_the_command_to_type_again_has_no_password():
    """It stands in the summary, which is pasted into chats."""
    words = (
        "worker",
        "--journal",
        "postgresql://kie:canary-pass@db/x#night",
        "--out",
        "my results",
    )
    with click.Context(command_line, obj=words):
        told = typed()

    assert told == "kie worker --journal 'postgresql://kie@db/x#night' --out 'my results'"


def test_several_in_the_background_do_not_draw_over_each_other():
    """On the terminal of a script that starts workers with ``&``: plain lines."""
    ours, theirs = pty.openpty()
    asked = "from kie_async.cli._output import Output; print('live', Output().live)"
    script = f'"{sys.executable}" -c "{asked}"; "{sys.executable}" -c "{asked}" & wait'
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", "-c", script],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": ""},
    )
    process.wait(60)
    said = os.read(ours, 10_000).decode().split()
    os.close(ours)
    os.close(theirs)

    assert said == ["live", "True", "live", "False"]


def test_a_password_is_not_shown():
    """It is somebody's mistake to type it; it goes no further."""
    for url in (
        "postgresql://kie:canary-pass@host/db#night",
        "postgresql://host/db?user=kie&password=canary-pass#night",
    ):
        where = NEW_JOURNAL.convert(url, None, None)
        assert isinstance(where, Where)
        assert "canary-pass" in where.url  # the control
        assert "canary-pass" not in str(where)
        assert "canary-pass" not in where.again
        assert "#night" in str(where)
