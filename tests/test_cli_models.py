"""`kie models`, its data, and the inputs that are typed on the command line."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys

import click
import pytest
from attrs import NOTHING, fields
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from kie_async.cli._app import kie, run
from kie_async.cli._catalogue import MODELS, estimate, find, price_text
from kie_async.cli._values import checked_input, fields_given, whole_input
from kie_async.errors import UsageError
from kie_async.models import check_task_id

TYPED = [model for model in MODELS.values() if model.typed is not None]
ID = "281e5b0c74d14a5d8f39b9aa00c1e2d3"
KINDS = {"text", "number", "flag", "urls", "task", "json"}


# -- the data ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", TYPED, ids=lambda model: model.name)
def test_the_list_agrees_with_the_typed_inputs(model):
    """The same names, the same needs: what is shown is what is checked."""
    known = {each.name: each for each in fields(model.typed) if each.name != "extra"}

    assert model.typed.model == model.name
    assert {each.name for each in model.inputs} == set(known)
    assert {each.name for each in model.inputs if each.needed} == {
        name for name, each in known.items() if each.default is NOTHING
    }


@pytest.mark.parametrize("model", TYPED, ids=lambda model: model.name)
def test_what_the_list_says_a_field_takes_is_taken(model):
    """Each word of it, and nothing else."""
    sample = {"prompt": "a", "image_urls": ["https://x"], "task_id": ID}
    for each in model.inputs:
        words = re.sub(r"\(.*", "", each.takes).split()
        if each.name in ("aspect_ratio", "mode", "resolution", "extend_times"):
            base = {k: v for k, v in sample.items() if model.input(k)}
            if model.name.endswith("image-to-video"):
                del base["image_urls"]
            for word in words:
                assert model.typed(**{**base, each.name: word}).to_input()[each.name] == word
            with pytest.raises(UsageError):
                model.typed(**{**base, each.name: "9:99"})


def test_the_data_is_in_order():
    """Names, kinds, prices."""
    for name, model in MODELS.items():
        assert model.name == name
        assert {each.kind for each in model.inputs} <= KINDS
        assert all(price.per in ("task", "second") for price in model.prices)
        assert all(model.input(key) for price in model.prices for key in price.when)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
def test_every_example_works(model):
    """It passes the check that it would pass."""
    words = shlex.split(model.example)
    pairs = words[1::2]

    assert set(words[::2]) == {"-i"}
    assert checked_input(model, fields_given(pairs, model))


@pytest.mark.parametrize(
    ("name", "given_input", "price"),
    [
        ("text-to-image", {"prompt": "a"}, (4, 4)),
        ("grok-imagine/text-to-image", {"enable_pro": True}, (5, 5)),
        ("text-to-video", {}, (9.6, 9.6)),
        ("text-to-video", {"duration": 10, "resolution": "720p"}, (30, 30)),
        ("text-to-video", {"duration": "10"}, (16, 16)),
        ("text-to-video", {"duration": "x"}, (9.6, 9.6)),
        ("text-to-video", {"resolution": "1080p"}, None),
        ("upscale", {}, (10, 10)),
        ("upscale", {"resolution": "1080p"}, (20, 30)),
        ("extend", {"extend_times": "10"}, (20, 30)),
        ("grok-imagine-video-1-5-preview", {}, None),
        ("segment-map", {}, (0, 0)),
    ],
)
def test_a_price_is_told_if_it_is_known(name, given_input, price):
    """As a range where the source decides."""
    model = find(name)

    assert model is not None
    assert estimate(model, given_input) == price


def test_prices_in_a_few_characters():
    """For the table."""
    assert price_text(MODELS["grok-imagine/upscale"].prices) == "10-30"
    assert price_text(MODELS["grok-imagine/text-to-video"].prices) == "1.6-3/s"
    assert price_text(()) == "?"


# -- the command -------------------------------------------------------------------------


def test_the_list_needs_no_key(capsys):
    """It asks nobody."""
    assert run(["models"]) == 0

    told = capsys.readouterr()
    assert all(name in told.out for name in MODELS)
    assert "2026-08-19" in told.err


def test_a_model_is_found_by_the_end_of_its_name(capsys):
    """Where it is the only one, or of the first family."""
    assert run(["models", "upscale"]) == 0
    assert capsys.readouterr().out.startswith("grok-imagine/upscale: ")
    assert run(["models", "text-to-image"]) == 0
    assert capsys.readouterr().out.startswith("grok-imagine/text-to-image: ")
    assert run(["models", "segment-map"]) == 0
    shown = capsys.readouterr().out
    assert "kie run grok-imagine-image-2-0/segment-map -i task_id=TASK_ID --out results/" in shown
    assert run(["models", "txt-to-video"]) == 2
    assert "did you mean text-to-video?" in capsys.readouterr().err


def test_the_json_of_a_model_has_the_documented_fields(capsys):
    """Every field of it stands in the help."""
    assert run(["models", "--json"]) == 0

    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    help_text = CliRunner().invoke(kie, ["models", "--help"]).output
    assert [each["name"] for each in told] == list(MODELS)
    first = told[0]
    for name in [*first, *first["inputs"][0], *first["prices"][0]]:
        assert name in help_text, name


# -- fields ------------------------------------------------------------------------------


def test_text_becomes_what_the_field_takes():
    """Of a model of the list; of any other it stays text."""
    video, picture = find("text-to-video"), find("image-to-image")
    typed = ["prompt=a=b", "duration=6", "resolution=720p"]

    assert fields_given(typed, video) == {"prompt": "a=b", "duration": 6, "resolution": "720p"}
    assert fields_given(typed, None)["duration"] == "6"
    assert fields_given(["image_urls=https://a", "image_urls=https://b"], picture) == {
        "image_urls": ["https://a", "https://b"]
    }
    assert fields_given(["nsfw_checker=True"], picture) == {"nsfw_checker": True}
    assert fields_given(["x:=[1, {}]", "y:=null", "z:=6"], None) == {
        "x": [1, {}],
        "y": None,
        "z": 6,
    }


def test_a_value_may_be_in_a_file(tmp_path, monkeypatch):
    """Text or JSON; - is stdin; a literal @ is written as JSON."""
    (tmp_path / "p.txt").write_text("\ufeffa long\nprompt")
    (tmp_path / "l.json").write_text("[1]")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from stdin")))

    found = fields_given(
        [f"a=@{tmp_path / 'p.txt'}", f"b:=@{tmp_path / 'l.json'}", "c=@-", 'd:="@x"'], None
    )

    assert found == {"a": "a long\nprompt", "b": [1], "c": "from stdin", "d": "@x"}


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["prompt"], "is not name=text"),
        (["=a"], "is not name=text"),
        (["a b=c"], "is not name=text"),
        (["prompt=a", "prompt=b"], "given twice"),
        (["x:={"], "is no JSON"),
        (["x:=NaN"], "is no JSON"),
        (["x:=" + "[" * 100_000], "no JSON"),
        (["duration=six"], "a whole number, not 'six'"),
        (["duration=6.5"], "a whole number"),
        (["duration=٦"], "a whole number"),
        (["prompt=@/no/such/file"], "cannot read /no/such/file: No such file"),
        (["prompt=@/"], "cannot read /"),
    ],
)
def test_a_field_that_cannot_be_read_is_wrong_usage(texts, told):
    """By its name."""
    with pytest.raises(click.UsageError) as caught:
        fields_given(texts, find("text-to-video"))

    assert told in caught.value.message


def test_a_picture_is_no_text(tmp_path):
    """It says what to do."""
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n")

    with pytest.raises(click.UsageError, match="kie upload"):
        fields_given([f"prompt=@{tmp_path / 'p.png'}"], None)


def test_a_file_without_end_is_not_read():
    """Memory is bounded."""
    with pytest.raises(click.UsageError, match="more than"):
        fields_given(["prompt=@/dev/zero"], None)


@given(st.text())
def test_any_text_is_a_field_or_wrong_usage(text):
    """Nothing else comes out, and nothing that commands a terminal."""
    told = ""
    try:
        fields_given([text.replace("@", "")], find("text-to-video"))
    except click.UsageError as error:
        told = error.message
    assert told.isprintable()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1]", "one JSON object"),
        ("{", "is no JSON"),
        ('{"model": "m", "input": {}}', "the inner object"),
        ("", "is no JSON"),
    ],
)
def test_a_whole_input_is_an_object(text, told, tmp_path):
    """The model's input, not the request."""
    path = tmp_path / "input.json"
    path.write_text(text)

    with pytest.raises(click.UsageError, match=told):
        whole_input(str(path))


@pytest.mark.parametrize(
    ("name", "given_input", "told"),
    [
        ("text-to-image", {}, "needs prompt; see: kie models"),
        ("text-to-image", {"prompt": ""}, "needs prompt"),
        ("text-to-image", {"prompt": "a", "aspect_ration": "1:1"}, "did you mean aspect_ratio?"),
        ("text-to-image", {"prompt": "a", "aspect_ratio": "1:9"}, "must be one of"),
        ("text-to-video", {"prompt": "a", "duration": 5}, "duration must be 6 to 30"),
        ("image-to-video", {}, "give image_urls or task_id"),
        ("image-to-image", {"image_urls": ["ftp://x"]}, "no http"),
        ("upscale", {"task_id": "../x"}, "character that no task id has"),
        ("image-edit", {"image_urls": ["https://x"]}, "needs aspect_ratio"),
    ],
)
def test_what_cannot_work_is_refused_before_it_costs(name, given_input, told):
    """A misspelt field would be ignored, and the task paid for."""
    with pytest.raises(click.UsageError) as caught:
        checked_input(find(name), given_input)

    assert told in caught.value.message


def test_what_is_not_known_is_sent_as_it_is():
    """A new field of a known model, and any input of another one."""
    assert checked_input(find("text-to-image"), {"prompt": "a", "zoom": 2}) == {
        "prompt": "a",
        "aspect_ratio": "1:1",
        "zoom": 2,
    }
    assert checked_input(None, {"x": 1}) == {"x": 1}
    assert check_task_id(ID) == ID
