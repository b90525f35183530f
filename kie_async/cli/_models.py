"""``kie models``: what there is to run, what it takes and what it costs."""

from __future__ import annotations

from typing import Any

import click

from kie_async.cli._catalogue import INPUTS_SEEN, MODELS, Input, Model, Price, find, price_text
from kie_async.cli._completing import complete_model
from kie_async.cli._config import nearest
from kie_async.cli._escape import clean
from kie_async.cli._output import Output
from kie_async.cli._settings import json_option
from kie_async.cli._table import Column

__all__ = ["models"]


@click.command()
@click.argument("name", required=False, shell_complete=complete_model)
@json_option
def models(name: str | None, as_json: bool) -> int:
    """List the Grok Imagine models, with what they take and cost.

    NAME shows one of them; the part after the slash is enough. It asks nobody: the list is
    of the date that it tells. Any other model of Kie's can be run as well.

    \b
    Examples:
      kie models
      kie models text-to-video

    \b
    With --json each line has "event": "model", "time", and:
      name, makes, note, checked (its input is checked before it is sent),
      inputs_seen, inputs: [{name, type, needed, takes, default}],
      prices: [{credits, per, when, source, seen}], example
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    output = Output(as_json=as_json)
    chosen = [_known(name)] if name is not None else list(MODELS.values())
    for model in chosen:
        output.event("model", fields_of(model))
    if as_json:
        return 0
    if name is None:
        _list(output)
    else:
        _show(chosen[0], output)
    return 0


def _known(name: str) -> Model:
    model = find(name)
    if model is None:
        alike = [each for each in MODELS if each.endswith(f"/{name}")]
        known = [*MODELS, *(each.partition("/")[2] for each in MODELS if "/" in each)]
        hint = f": it is one of {', '.join(alike)}" if alike else nearest(name, known)
        raise click.UsageError(f"no model {clean(name)!r} in the list{hint}; see: kie models")
    return model


def _list(output: Output) -> None:
    columns = [
        Column("Model"),
        Column("Credits", right=True),
        Column("Makes", below=True),
    ]
    rows = [
        [
            model.name,
            price_text(model.prices),
            model.makes,
        ]
        for model in MODELS.values()
    ]
    output.table(columns, rows)
    output.note()
    output.note(
        f"Inputs as documented on {INPUTS_SEEN}, prices as seen from 2026-06 to 2026-09; "
        "one credit is half a US cent."
    )
    output.note("Next: kie models text-to-image")


def _show(model: Model, output: Output) -> None:
    output.result(f"{model.name}: {model.makes}")
    output.result("")
    columns = [
        Column("Input"),
        Column("Type"),
        Column("Needed"),
        Column("Default"),
        Column("Takes", below=True),
    ]
    output.table(columns, [_cells(each) for each in model.inputs])
    output.result("")
    for price in model.prices:
        output.prose(f"Price: {_price(price)}")
    if not model.prices:
        output.prose("Price: not known.")
    if model.note:
        output.prose(f"Note: {model.note}.")
    output.result("")
    output.result(f"kie run {model.name} {model.example} --out results/")


def _cells(each: Input) -> list[str]:
    return [
        each.name,
        {"task": "task id", "urls": "URLs"}.get(each.kind, each.kind),
        "yes" if each.needed else "no",
        "-" if each.default in (None, "") else _json(each.default),
        each.takes or "-",
    ]


def _json(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _price(price: Price) -> str:
    when = [f"{name}={_json(value)}" for name, value in price.when.items()]
    when += [f"a source of {price.source}"] if price.source else []
    told = f" with {' and '.join(when)}" if when else ""
    return f"{price.credits:g} credits a {price.per}{told} (seen {price.seen})."


def fields_of(model: Model) -> dict[str, Any]:
    """Return a model as its JSON object."""
    return {
        "name": model.name,
        "makes": model.makes,
        "note": model.note or None,
        "checked": model.typed is not None,
        "inputs_seen": INPUTS_SEEN,
        "inputs": [
            {
                "name": each.name,
                "type": each.kind,
                "needed": each.needed,
                "takes": each.takes,
                "default": each.default,
            }
            for each in model.inputs
        ],
        "prices": [
            {
                "credits": price.credits,
                "per": price.per,
                "when": dict(price.when),
                "source": price.source or None,
                "seen": price.seen,
            }
            for price in model.prices
        ],
        "example": f"kie run {model.name} {model.example} --out results/",
    }
