"""Inputs from the command line: ``name=text``, ``name:=json``, ``name=@file``, or a whole file.

For a model of the list, text becomes what the field takes: ``duration=6`` is a number.
What cannot work is refused here, where it costs nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from attrs import fields

from kie_async.cli._catalogue import Input, Model
from kie_async.cli._config import nearest
from kie_async.cli._escape import clean
from kie_async.errors import UsageError

__all__ = ["checked_input", "fields_given", "whole_input"]

FIELD = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_.-]*)(?P<sign>:=|=)(?P<value>.*)", re.DOTALL)
MOST_READ = 4 * 2**20
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def fields_given(given: Iterable[str], model: Model | None) -> dict[str, Any]:
    """Return the fields of ``-i`` options.

    Raises:
        click.UsageError: One of them cannot be read.
    """
    found: dict[str, Any] = {}
    for text in given:
        match = FIELD.fullmatch(text)
        if match is None:
            raise click.UsageError(
                f"-i {clean(text, 60)!r} is not name=text, name:=json, name=@file or name:=@file"
            )
        name, value = match["name"], match["value"]
        if value.startswith("@"):
            value = _read(value[1:], f"-i {name}")
        known = None if model is None else model.input(name)
        as_json = match["sign"] == ":="
        new = _json(value, f"-i {name}") if as_json else _of_kind(known, name, value)
        if name in found and not (isinstance(new, list) and isinstance(found[name], list)):
            raise click.UsageError(
                f'-i {name} is given twice; a list is {name}:=\'["one", "two"]\''
            )
        found[name] = found[name] + new if name in found else new
    return found


def whole_input(name: str) -> dict[str, Any]:
    """Return the JSON object in a file; ``-`` is stdin.

    Raises:
        click.UsageError: It is none.
    """
    found = _json(_read(name, "--input"), "--input")
    if not isinstance(found, dict):
        raise click.UsageError("--input takes one JSON object: the model's input")
    if "model" in found and isinstance(found.get("input"), dict):
        raise click.UsageError(
            "--input takes the inner object, the model's input; the model is an argument"
        )
    return found


def checked_input(model: Model | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input to send: checked where the model is known, else as it is.

    Raises:
        click.UsageError: It cannot work; a misspelt name would be paid for all the same.
    """
    if model is None:
        return dict(given)
    for name in given:
        if model.input(name) is None:
            hint = nearest(name, [each.name for each in model.inputs])
            if hint:
                raise click.UsageError(
                    f"{model.name} has no input {clean(name)!r}{hint} "
                    "(--no-check sends it as it is)"
                )
    missing = [
        each.name for each in model.inputs if each.needed and given.get(each.name) in (None, "")
    ]
    if missing:
        raise click.UsageError(
            f"{model.name} needs {' and '.join(missing)}; see: kie models {model.name}"
        )
    if model.typed is None:
        return dict(given)
    known = {each.name for each in fields(model.typed)} - {"extra"}  # type: ignore[arg-type]  # attrs
    try:
        made = model.typed(
            **{name: value for name, value in given.items() if name in known},
            extra={name: value for name, value in given.items() if name not in known},
        )  # type: ignore[call-arg]  # reason: each of them takes its own fields
    except UsageError as error:
        raise click.UsageError(f"{error.message} (--no-check sends it as it is)") from None
    return made.to_input()


def _of_kind(known: Input | None, name: str, text: str) -> Any:
    """Make of a text what the field takes; without knowledge it stays a text."""
    kind = "text" if known is None else known.kind
    if kind == "flag":
        if text.lower() not in FLAGS:
            raise click.UsageError(f"-i {name} takes true or false, not {clean(text, 40)!r}")
        return FLAGS[text.lower()]
    if kind == "number":
        if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
            raise click.UsageError(f"-i {name} takes a whole number, not {clean(text, 40)!r}")
        return int(text)
    if kind == "urls":
        return [text]
    return _json(text, f"-i {name}") if kind == "json" else text


def _json(text: str, what: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise click.UsageError(f"{what} is no JSON: {clean(told, 100)}") from None


def _read(name: str, what: str) -> str:
    """Return the text of a file; ``-`` is stdin."""
    try:
        if name == "-":
            if sys.stdin.isatty():
                click.echo("Type it, then Ctrl-D on a line of its own.", err=True)
            data = sys.stdin.buffer.read(MOST_READ + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MOST_READ + 1)
        if len(data) > MOST_READ:
            raise click.UsageError(f"{what}: {clean(name)} has more than {MOST_READ} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        told = f"{what}: cannot read {clean(name)}: {error.strerror}"
    except UnicodeDecodeError:
        told = f"{what}: {clean(name)} is no UTF-8 text; for a picture: kie upload"
    raise click.UsageError(told)
