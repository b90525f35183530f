"""``kie run``: any model, with any input."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from click.core import ParameterSource

from kie_async.cli._board import Row
from kie_async.cli._catalogue import MODELS, Model, estimate, find
from kie_async.cli._completing import complete_field, complete_model
from kie_async.cli._config import nearest
from kie_async.cli._escape import clean
from kie_async.cli._output import Output, row_fields
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import (
    check_key,
    connect,
    json_option,
    on_loopback,
    out_option,
    prepared,
    timeout_option,
)
from kie_async.cli._upscale import callback_option
from kie_async.cli._values import checked_input, fields_given, whole_input
from kie_async.cli._work import Job, report, work_off
from kie_async.errors import UsageError
from kie_async.models import Task, TaskState
from kie_async.protocol import create_task_request
from kie_async.session import KieSession

__all__ = ["Request", "run_command", "show_request"]


@frozen(kw_only=True)
class Request:
    """What is to be created."""

    model: str
    input: Mapping[str, Any]
    known: Model | None = None


@click.command("run")
@click.argument("model", shell_complete=complete_model)
@click.argument("stdin", metavar="[-]", required=False, type=click.Choice(["-"]))
@click.option(
    "-i",
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    shell_complete=complete_field,
    help="An input field; again for another one.",
)
@click.option("--input", "whole", metavar="FILE", help="The whole input as JSON; - is stdin.")
@out_option
@timeout_option
@callback_option
@click.option("--no-wait", is_flag=True, help="Print the task's id as soon as it is created.")
@click.option("--no-check", is_flag=True, help="Send the input as it is, whatever is known of it.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent and cost; send nothing.")
@json_option
@click.pass_context
def run_command(
    context: click.Context,
    /,
    model: str,
    stdin: str | None,
    out: Path | None,
    timeout: float,
    callback_url: str | None,
    no_wait: bool,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Run any model and wait for its result. It costs credits.

    MODEL is a name such as grok-imagine/text-to-image. Those of `kie models` are checked
    before anything is sent; any other is sent as it is. With - the input comes from stdin.

    \b
    Fields:
      -i prompt="a lighthouse"     text; or a number, where one is wanted
      -i duration:=6               JSON: a number, true, null, a list, an object
      -i prompt=@prompt.txt        the text of a file; @- is stdin
      -i words:=@list.json         the JSON of a file
      -i 'handle:="@me"'           a text that begins with @
    A field of --input is replaced by the one of -i.

    \b
    Examples:
      kie run grok-imagine/text-to-image -i prompt="a lighthouse" --out results/
      kie run grok-imagine/text-to-video -i prompt=@p.txt -i duration=6 --no-wait
      kie run some/other-model --input input.json --json
      make-input | kie run some/other-model -i seed=7 --json -

    With --json the objects are those of `kie upscale`, with source_id null; with --no-wait
    one with event "created", model, task_id; with --dry-run one with event "request".
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    output = Output(as_json=as_json)
    given["whole"] = _one_of_two(stdin, given["whole"])
    request = _request(model, output, **given)
    if dry_run:
        return show_request(request, output)
    out = _unless_no_wait(context, out, no_wait)
    check_key()
    prepared(out)
    row = Row(label=request.model, again=_again(model, out=out, no_wait=no_wait, **given))

    async def create(kie: KieSession, _row: Row) -> Task:
        task_id = await kie.create_task(
            request.model, request.input, callback_url=callback_url, timeout=timeout
        )
        return Task(task_id=task_id, model=request.model, state=TaskState.WAITING)

    async def create_and_wait(kie: KieSession, _row: Row) -> Task:
        return await kie.run(
            request.model, request.input, timeout=timeout, callback_url=callback_url
        )

    job = Job(
        call=create if no_wait else create_and_wait,
        timeout=timeout,
        out=out,
        allow_private=on_loopback(),
        quiet=no_wait,
    )

    async def work(stop: Stop) -> int:
        await work_off(job, [row], connect, output, stop)
        return _tell_created(row, output) if no_wait else report([row], output, out, upscaled=False)

    return run(work)


def _unless_no_wait(context: click.Context, out: Path | None, no_wait: bool) -> Path | None:
    """Return where results go; a setting gives way, an option would contradict itself."""
    if not no_wait or out is None:
        return out
    if context.get_parameter_source("out") is ParameterSource.DEFAULT:
        return None
    raise click.UsageError("--out needs the result, and --no-wait does not wait for it")


def _one_of_two(stdin: str | None, whole: str | None) -> str | None:
    """Return where the whole input is, if anywhere."""
    if stdin is not None and whole is not None:
        raise click.UsageError("- and --input both give the whole input: choose one")
    return stdin or whole


def _request(
    model: str, output: Output, *, fields: tuple[str, ...], whole: str | None, no_check: bool
) -> Request:
    """Read and check what was typed; nothing was sent."""
    known = MODELS.get(model)
    if known is None and "/" not in model and (found := find(model)) is not None:
        known, model = found, found.name
        output.note(f"Model: {model}")
    elif known is None and (hint := nearest(model, MODELS)):
        output.note(f"Note: {clean(model)} is not in the list of models{hint} It is sent as it is.")
    given = {**(whole_input(whole) if whole else {}), **fields_given(fields, known)}
    if known is not None and not no_check:
        for name in (name for name in given if known.input(name) is None):
            output.note(f"Note: {clean(name)} is no listed input of {model}; sent as it is.")
        given = checked_input(known, given)
    try:
        create_task_request(model, given)
    except UsageError as error:
        raise click.UsageError(error.message) from None
    return Request(model=model, input=given, known=known)


def show_request(request: Request, output: Output) -> int:
    """Print what would be sent, and what it would cost."""
    price = None if request.known is None else estimate(request.known, request.input)
    body = {"model": request.model, "input": dict(request.input)}
    output.event("request", {**body, "credits": price})
    if output.as_json:
        return 0
    output.result(json.dumps(body, indent=2, ensure_ascii=False))
    if price is None:
        output.note("Nothing was sent. Its price is not known here.")
    else:
        low, high = price
        cost = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        output.note(f"Nothing was sent. It would cost about {cost} credits (kie models).")
    return 0


def _tell_created(row: Row, output: Output) -> int:
    """Print the id: it is all there is."""
    if row.error is None and row.task_id is not None:
        output.event("created", {"model": row.label, "task_id": row.task_id})
        if not output.as_json:
            output.result(clean(row.task_id))
            output.note(f"Next: kie wait {shlex.quote(clean(row.task_id))}")
        return 0
    output.event("result", row_fields(row, None))
    if not output.as_json:
        from kie_async.cli._advice import advise

        output.advice(advise([row], None))
    return int(row.exit)


def _again(
    model: str,
    *,
    fields: tuple[str, ...],
    whole: str | None,
    no_check: bool,
    out: Path | None,
    no_wait: bool,
) -> str:
    """Return the command that was typed."""
    words = ["kie", "run", model]
    words += [word for text in fields for word in ("-i", text)]
    words += ["--input", whole] if whole else []
    words += ["--no-check"] if no_check else []
    words += ["--no-wait"] if no_wait else []
    words += ["--out", str(out)] if out is not None else []
    return shlex.join(clean(word, 2000) for word in words)
