"""`kie generate` as a program: from a prompt to files, and no step lost on the way."""

from __future__ import annotations

import json
import shlex
import signal

import pytest

from kie_async.emulator import Rule
from tests.cli_tools import kie_fixture, until  # noqa: F401 - a fixture

PICTURES = "grok-imagine/text-to-image"


def tasks(api) -> list:
    """Return the tasks that were created, in their order."""
    return [api._emulator.core.tasks[each[2]] for each in api.books.creates]


def inputs(api) -> list[dict]:
    return [json.loads(json.loads(task.param)["input"]) for task in tasks(api)]


def test_a_prompt_becomes_pictures_and_an_upscale(kie):
    """Six pictures and a larger one, in place; two tasks, each paid for once."""
    ended = kie.process("generate", "a", "lighthouse", "--upscale", "1080p", "--out", "r")

    first, second = tasks(kie.api)
    assert ended.code == 0, ended
    assert [task.model for task in (first, second)] == [PICTURES, "grok-imagine/upscale"]
    assert inputs(kie.api)[0] == {"prompt": "a lighthouse", "aspect_ratio": "1:1"}
    assert inputs(kie.api)[1] == {"task_id": first.task_id, "resolution": "1080p"}
    assert sorted(path.name for path in (kie.folder / "r").iterdir()) == sorted(
        [f"{first.task_id}-{n}.png" for n in range(6)] + [f"{second.task_id}.png"]
    )
    lines = ended.out.splitlines()
    assert lines[0].split()[:2] == ["Step", "Task"]
    assert lines[1].split()[:2] == ["pictures", first.task_id]
    assert lines[-1].split()[:2] == ["upscale", second.task_id]
    assert "2 done; " in ended.err


def test_a_clip_with_all_its_options(kie):
    """As the model takes them."""
    ended = kie(
        *("generate", "-", "--video", "--duration", "6", "--resolution", "720p"),
        *("--mode", "fun", "--aspect-ratio", "16:9", "--json"),
        given="waves\nat night\n",
    )

    assert ended.code == 0, ended
    assert inputs(kie.api) == [
        {
            "prompt": "waves\nat night",
            "duration": 6,
            "resolution": "720p",
            "mode": "fun",
            "aspect_ratio": "16:9",
        }
    ]
    assert [each["event"] for each in ended.objects if each["event"] != "changed"] == [
        *("created", "result", "summary")
    ]


def test_a_picture_of_ones_own_is_uploaded_first(kie):
    """Two of the same name do not overwrite each other; an address is taken as it is."""
    for folder in ("one", "two"):
        (kie.folder / folder).mkdir()
        (kie.folder / folder / "p.png").write_bytes(f"\x89PNG {folder}".encode())

    ended = kie(
        *("generate", "snow", "--image", "one/p.png", "--image", "two/p.png"),
        *("--image", "https://example.org/x.png"),
    )

    (sent,) = inputs(kie.api)
    files = kie.api._emulator.core.uploads.files
    assert ended.code == 0, ended
    assert tasks(kie.api)[0].model == "grok-imagine/image-to-image"
    assert len(set(sent["image_urls"])) == 3
    assert sent["image_urls"][2] == "https://example.org/x.png"
    assert sorted(data for data, *_ in files.values()) == [b"\xc2\x89PNG one", b"\xc2\x89PNG two"]
    assert all(path.endswith("/p.png") for path in files)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [" "],
        ["-"],
        ["x" * 5001],
        ["a", "--duration", "6"],
        ["a", "--mode", "fun"],
        ["a", "--video", "--pro"],
        ["a", "--video", "--duration", "5"],
        ["a", "--image", "no-such-file"],
        ["a", "--image", "."],
        ["a", "--image", "https://x/y.png", "--aspect-ratio", "1:1"],
        ["a", "--video", "--image", "https://x/y.png", "--mode", "spicy"],
        ["a", "--upscale", "4k"],
    ],
    ids=lambda words: shlex.join(words)[:40],
)
def test_what_cannot_work_sends_nothing(kie, arguments):
    """Code 2, stdout empty, and the emulator heard nothing at all."""
    ended = kie("generate", *arguments)

    assert (ended.code, ended.out) == (2, ""), ended
    assert dict(kie.api.books.requests) == {}


def test_a_dry_run_shows_both_steps(kie):
    """And their prices."""
    ended = kie(
        "generate", "a", "--pro", "--upscale", "720p", "--dry-run", "--json", KIE_API_KEY=""
    )

    first, second = ended.objects
    assert (first["model"], first["input"]["enable_pro"], first["credits"]) == (
        PICTURES,
        True,
        [5, 5],
    )
    assert (second["model"], second["credits"]) == ("grok-imagine/upscale", [10, 10])
    assert dict(kie.api.books.requests) == {}


# -- each place where it can end -----------------------------------------------------------


def test_a_failed_picture_is_not_upscaled(kie):
    """There is nothing to upscale, and nothing was paid."""
    kie.api.inject(Rule(route="task", action="fail"))
    ended = kie("generate", "a", "--upscale", "720p", "--json")

    assert ended.code == 5
    assert len(ended.events("result")) == 1
    assert ended.events("result")[0]["next"] == "kie generate a --upscale 720p"
    assert len(kie.api.books.creates) == 1


def test_a_lost_answer_is_told_with_the_whole_command(kie):
    """Code 7; it is not sent again."""
    kie.api.inject(Rule(route="createTask", action="fin", when="after"))
    ended = kie("generate", "it's", "late", "--pro", "--upscale", "720p", "--out", "r")

    again = ended.err.partition("only if it is not: ")[2].splitlines()[0]
    assert ended.code == 7
    assert shlex.split(again) == [
        *("kie", "generate", "it's late", "--pro", "--upscale", "720p", "--out", "r")
    ]
    assert len(kie.api.books.creates) == 1


def test_a_lost_answer_to_the_upscale_leaves_the_pictures(kie):
    """They are saved before it is tried; the doubt names the source."""
    kie.api.inject(Rule(route="createTask", action="fin", when="after", nth=1))
    ended = kie("generate", "a", "--upscale", "1080p", "--out", "r")

    first = tasks(kie.api)[0].task_id
    assert ended.code == 7
    assert len(list((kie.folder / "r").glob("*.png"))) == 6
    assert f"only if it is not: kie upscale {first} --resolution 1080p --out r" in ended.err
    assert len(kie.api.books.creates) == 2


def test_a_refused_upscale_leaves_the_pictures(kie):
    """As Kie may do with tasks of pictures."""
    kie.api.inject(Rule(route="createTask", action="envelope", code=422, nth=1))
    ended = kie("generate", "a", "--upscale", "720p", "--out", "r", "--json")

    made, upscaled = ended.events("result")
    assert ended.code == 1
    assert (made["status"], len(made["files"])) == ("done", 6)
    assert (upscaled["status"], upscaled["source_id"]) == ("refused", made["task_id"])
    assert upscaled["error"]["maybe_charged"] is False


def test_when_the_time_is_over_each_step_has_its_command(kie):
    """First to wait for what is paid, then to upscale it."""
    kie.api._emulator.core.durations = lambda _rng: 10_000.0
    ended = kie("generate", "a", "--upscale", "720p", "--timeout", "1", "--out", "r")

    first = tasks(kie.api)[0].task_id
    steps = [line.strip() for line in ended.err.splitlines() if "Next: " in line]
    assert ended.code == 6
    assert "not done after 1 s" in ended.err
    assert steps == [
        f"Next: kie wait {first} --out r",
        f"Next: kie upscale {first} --resolution 720p --out r",
    ]


def test_what_cannot_be_saved_is_not_paid_for_once_more(kie):
    """The upscale waits until somebody has looked."""
    kie.api.inject(Rule(route="files", action="html", status=500))
    ended = kie("generate", "a", "--upscale", "720p", "--out", "r", "--timeout", "4", "--json")

    made, upscaled = ended.events("result")
    assert ended.code in (1, 6)
    assert made["status"] in ("not_saved", "timed_out")
    assert upscaled["status"] == "not_sent"
    assert len(kie.api.books.creates) == 1


@pytest.mark.parametrize("step", [0, 1])
def test_an_interrupt_names_what_is_paid_and_what_is_left(kie, step):
    """In whichever step it comes."""
    slow = [0.2, 0.2]
    slow[step] = 10_000.0
    kie.api._emulator.core.durations = lambda _rng: slow[min(1, len(kie.api.books.creates))]
    process = kie.start("generate", "a", "--upscale", "720p", "--json")
    until(lambda: len(kie.api.books.creates) > step)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    told = [json.loads(line) for line in out.splitlines()]
    ends = [each for each in told if each["event"] == "result"]
    ids = [task.task_id for task in tasks(kie.api)]
    assert process.returncode == 130, err
    assert ends[step]["next"] == f"kie wait {ids[step]}"
    if step == 0:
        assert ends[1]["next"] == f"kie upscale {ids[0]} --resolution 720p"
    assert len(ids) == step + 1


def test_a_refused_key_and_no_credits(kie):
    """Codes 3 and 4; nothing was paid."""
    assert kie("generate", "a", KIE_API_KEY="wrong").code == 3
    kie.api._emulator.core.credits = 1.0
    ended = kie("generate", "a")

    assert ended.code == 4
    assert "add credits" in ended.err
    assert kie.api.books.creates == []
