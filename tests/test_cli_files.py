"""`kie download` and `kie upload` as programs: files come and go, and nothing is paid."""

from __future__ import annotations

import json
import signal
import socket
import time

import pytest

from kie_async.cli._download import _linked
from kie_async.cli._upload import KEPT, _expires
from kie_async.emulator import Rule
from kie_async.models import UploadedFile
from tests.cli_tools import kie_fixture  # noqa: F401 - a fixture


def url_of(kie, task_id: str) -> str:
    """Return the address of a task's result."""
    return kie("status", task_id, "--json").objects[0]["result_urls"][0]


# -- download ----------------------------------------------------------------------------


def test_results_are_saved_by_id_and_by_address(kie):
    """In place, under names of their own; no task is created."""
    one, two = (kie.api.add_source_task() for _ in range(2))
    link = url_of(kie, two)

    ended = kie.process("download", one, link + "?signature=secret", one, "--out", "r", "--json")

    ends = {each["result_urls"][0]: each for each in ended.events("result")}
    saved = {path.name for path in (kie.folder / "r").iterdir()}
    assert ended.code == 0, ended
    assert len(ended.events("result")) == 2
    assert saved == {f"{one}.png", link.rpartition("/")[2]}
    assert ends[link + "?signature=secret"]["task_id"] is None
    assert kie.api.books.creates == []


def test_what_is_there_is_not_fetched_again(kie):
    """Neither by id nor by another link to the same file."""
    one = kie.api.add_source_task()
    link = url_of(kie, one)
    first = kie("download", one, link, "--out", "r")
    asked = kie.api.books.requests["files"]

    again = kie("download", one, link + "?later=1", "--out", "r")

    assert first.code == again.code == 0, again
    assert kie.api.books.requests["files"] == asked
    assert len(list((kie.folder / "r").iterdir())) == 2


def test_without_a_directory_it_is_here_or_where_the_setting_says(kie):
    """And stdin gives ids and addresses."""
    one, two = (kie.api.add_source_task() for _ in range(2))

    both = kie("download", "-", given=f"{one}\n{url_of(kie, two)}\n")
    assert both.code == 0, both
    assert (kie.folder / f"{two}-0.png").is_file()
    kie("download", one, "--name", "mine-{source_id}", KIE_OUT="there")

    assert (kie.folder / f"{one}.png").is_file()
    assert (kie.folder / "there" / f"mine-{one}.png").is_file()


def test_a_dead_link_is_renewed(kie):
    """Once, by asking Kie for another one."""
    one = kie.api.add_source_task()
    link = url_of(kie, one)
    kie.api.inject(Rule(route="files", action="html", status=403, times=1))

    ended = kie("download", link, "--out", "r")

    assert ended.code == 0, ended
    assert kie.api.books.requests["download-url"] == 1


def test_each_that_cannot_be_saved_says_why(kie):
    """Running, failed, unknown, gone; the good one is saved all the same."""
    good = kie.api.add_source_task()
    core = kie.api._emulator.core
    kie.api.inject(Rule(route="task", action="fail", match="bad"))
    core.durations = lambda _rng: 10_000.0 if len(kie.api.books.creates) < 1 else 0.0
    running, bad = (
        kie("run", "upscale", "-i", f"task_id={name}", "--no-wait").out.strip()
        for name in ("slow", "bad")
    )

    ended = kie("download", good, running, bad, "unknown", "--out", "r", "--json")

    ends = {each["task_id"]: each for each in ended.events("result")}
    assert ended.code == 5, ended
    assert ends[good]["status"] == "done"
    assert (ends[running]["status"], ends[running]["next"]) == (
        "timed_out",
        f"kie wait {running} --out r",
    )
    assert (ends[bad]["status"], ends[bad]["next"]) == ("failed", f"kie status {bad}")
    assert ends["unknown"]["status"] == "refused"


def test_a_host_that_is_gone_is_told_with_the_same_command(kie):
    """For an address there is no task to wait for."""
    ended = kie("download", "http://127.0.0.1:9/a/x.png?s=1", "http://127.0.0.1:9/y", "--out", "r")

    assert ended.code == 1
    assert "Next: kie download http://127.0.0.1:9/y --out r" in ended.err
    assert "Next: kie download 'http://127.0.0.1:9/a/x.png?s=1' --out r" in ended.err
    assert "Nothing was paid." in ended.err
    assert ["not saved" in line for line in ended.out.splitlines()] == [False, True, True]


def test_a_private_address_is_not_fetched_for_the_real_service(kie):
    """A link could come from anywhere; and nobody ever needs a cloud's own addresses."""
    here = url_of(kie, kie.api.add_source_task())
    cloud = "http://169.254.169.254/latest/key"

    for words, env in (
        ((here,), {"KIE_BASE_URL": "https://api.invalid"}),
        ((here.replace("http:", "https:"),), {"KIE_BASE_URL": "https://api.invalid"}),
        ((cloud,), {}),
    ):
        ended = kie("download", *words, "--out", "r", "--timeout", "5", **env)
        assert ended.code == 1, ended

    assert list((kie.folder / "r").glob("*")) == []
    assert "files" not in kie.api.books.requests


@pytest.mark.parametrize(
    "arguments", [[], ["a b"], ["x" * 101], ["abc", "--name", "{nothing}"], ["abc", "--out", "f"]]
)
def test_what_cannot_be_downloaded_is_wrong_usage(kie, arguments):
    """Nothing is asked."""
    (kie.folder / "f").touch()
    ended = kie("download", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert dict(kie.api.books.requests) == {}


@pytest.mark.parametrize(
    ("url", "stem"),
    [
        ("https://h/a/b.png?x=1", "b"),
        ("https://h/%2e%2e%2fpasswd", "passwd"),
        ("https://h/a/..", ".."),
        ("https://h/", None),
        ("https://h", None),
        ("https://[bad/x.png", None),
    ],
)
def test_the_name_of_an_address_is_only_its_end(url, stem):
    """What is in it cannot be a path; the file's name is made safe after that."""
    task = _linked(url)

    assert task.task_id.startswith("url-")
    assert task.input["task_id"] == (stem or task.task_id[4:])
    assert "/" not in task.input["task_id"]
    assert task.task_id == _linked(url.partition("?")[0] + "?other").task_id


# -- upload ------------------------------------------------------------------------------


def test_files_become_addresses_in_their_order(kie):
    """One a line on stdout, to be used in a command; two of one name do not meet."""
    for name in ("one", "two"):
        (kie.folder / name).mkdir()
        (kie.folder / name / "p.png").write_bytes(name.encode())

    ended = kie.process("upload", "two/p.png", "one/p.png")

    files = kie.api._emulator.core.uploads.files
    urls = ended.out.splitlines()
    assert ended.code == 0, ended
    assert [files[url.partition("/files/")[2]][0] for url in urls] == [b"two", b"one"]
    assert ended.err.count("kept until 20") == 2
    assert kie.api.books.creates == []


def test_in_json_with_size_and_expiry(kie):
    """At the earliest: the documents disagree."""
    (kie.folder / "p.png").write_bytes(b"12345")

    ended = kie("upload", "p.png", "--json", "--folder", "mine", "--name", "q.png")

    (told,) = ended.events("uploaded")
    assert told["url"].endswith("/mine/q.png")
    assert (told["file"], told["name"], told["bytes"]) == ("p.png", "q.png", 5)
    assert (told["mime_type"], ended.objects[-1]["exit_code"]) == ("image/png", 0)
    assert abs(told["expires_at"] - time.time() - KEPT) < 120


def test_an_address_is_fetched_by_kie(kie):
    """And printed like any other."""
    ended = kie("upload", "https://example.org/x.png")

    assert ended.code == 0, ended
    assert ended.out.endswith("/x.png\n")
    assert kie.api.books.requests["file-url-upload"] == 1


def test_one_that_fails_stops_no_other(kie):
    """The good one's address is there, and the other one has its command."""
    (kie.folder / "a.png").write_bytes(b"a")
    (kie.folder / "bad one.png").write_bytes(b"b")
    kie.api.inject(
        Rule(route="file-stream-upload", action="envelope", code=400, match="bad one.png")
    )

    ended = kie("upload", "bad one.png", "a.png")
    as_json = kie("upload", "bad one.png", "a.png", "--json")

    assert ended.code == as_json.code == 1
    assert ended.out.endswith("/a.png\n")
    assert "Next: kie upload 'bad one.png'" in ended.err
    assert "Nothing was paid" in ended.err
    assert as_json.events("not_uploaded")[0]["file"] == "bad one.png"
    assert as_json.objects[-1]["uploaded"] == 1


def test_a_refused_key_is_code_3(kie):
    """With what to do."""
    (kie.folder / "a.png").write_bytes(b"a")
    ended = kie("upload", "a.png", KIE_API_KEY="wrong-key")

    assert ended.code == 3, ended
    assert "kie credits" in ended.err


def test_an_interrupt_ends_it(kie):
    """While the host says nothing."""
    (kie.folder / "a.png").write_bytes(b"a")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(30)
        address = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = kie.start("upload", "a.png", "--json", KIE_UPLOAD_URL=address)
        connected, _ = mute.accept()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        connected.close()

    told = [json.loads(line) for line in out.splitlines()]
    assert process.returncode == 130, err
    assert told[0]["event"] == "not_uploaded"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["."],
        ["no-such-file"],
        ["empty"],
        ["huge"],
        ["fine", "fine", "--name", "x"],
        ["fine", "--name", "a/b"],
        ["fine", "--folder", "../up"],
        ["fine", "--timeout", "0"],
        ["ftp://example.org/x"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_uploaded_sends_nothing(kie, arguments):
    """Code 2, stdout empty, and the emulator heard nothing at all."""
    (kie.folder / "empty").touch()
    (kie.folder / "fine").write_bytes(b"x")
    with (kie.folder / "huge").open("wb") as file:
        file.truncate(101 * 2**20)
    ended = kie("upload", *arguments)

    assert (ended.code, ended.out) == (2, ""), ended
    assert dict(kie.api.books.requests) == {}


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [("1970-01-01T00:00:10Z", 10), ("1970-01-01T00:00:10", 10), ("1970-01-01T01:00:10+01:00", 10)],
)
def test_the_expiry_follows_the_servers_stamp(stamp, expected):
    """Whatever its form; without one it is counted from now."""
    made = UploadedFile(file_name="a", file_path="b", download_url="c", raw={"uploadedAt": stamp})
    plain = UploadedFile(file_name="a", file_path="b", download_url="c")

    assert _expires(made) == expected + KEPT
    assert abs(_expires(plain) - time.time() - KEPT) < 60
