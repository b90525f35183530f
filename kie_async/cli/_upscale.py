"""``kie upscale``: the main job."""

from __future__ import annotations

from pathlib import Path

import click

from kie_async.cli._board import Row
from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import (
    check_key,
    connect,
    ids_argument,
    json_option,
    on_loopback,
    out_option,
    prepared,
    read_ids,
    timeout_option,
)
from kie_async.cli._work import Job, report, work_off
from kie_async.errors import UsageError
from kie_async.grok_imagine import RESOLUTIONS
from kie_async.models import Task
from kie_async.protocol import create_task_request
from kie_async.session import KieSession

__all__ = ["callback_option", "upscale"]


def _callback(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    try:
        create_task_request("-", {}, value)
    except UsageError as error:
        raise click.BadParameter(error.message) from None
    return value


callback_option = click.option(
    "--callback-url",
    callback=_callback,
    metavar="URL",
    help="Kie posts the end of each task there.",
)


@click.command()
@ids_argument
@click.option("--resolution", type=click.Choice(RESOLUTIONS), help="Without it Kie takes 720p.")
@out_option
@timeout_option
@callback_option
@json_option
def upscale(
    task_ids: tuple[str, ...],
    resolution: str | None,
    out: Path | None,
    timeout: float,
    callback_url: str | None,
    as_json: bool,
) -> int:
    """Upscale the results of earlier tasks and wait. It costs credits.

    TASK_ID is the id of an earlier task of the same account; - reads ids from stdin.
    All are worked on at once, within the account's rate limit. The same id given twice is
    upscaled once. Ctrl-C stops in good order: no paid task stays without its id.

    \b
    Examples:
      kie upscale 281e5b0c74d14a5d8f39b9aa00c1e2d3 --out results/
      kie upscale --resolution 1080p --json - < ids.txt > results.jsonl

    \b
    With --json each line has "event" and "time" (Unix seconds), and:
      created  source_id, task_id: it is paid for from now on
      changed  source_id, task_id, state, polls
      retry    source_id, task_id, reason
      saved    source_id, task_id, path
      result   source_id, task_id (or null), state, seconds, polls, credits,
               status: done failed timed_out in_doubt refused not_sent
                 not_saved interrupted error,
               result_urls, files: [{path, bytes, pixels: [width, height]}],
               error: {type, message, code, http_status, retryable,
                 maybe_charged}, next: what to type
      summary  how many of each status, exit_code
      error    message, next, exit_code: the command could not begin
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    options = f" --resolution {resolution}" if resolution else ""
    rows = [Row(source_id=task_id, options=options) for task_id in read_ids(task_ids)]
    check_key()
    prepared(out)
    output = Output(as_json=as_json)

    async def call(kie: KieSession, row: Row) -> Task:
        return await kie.upscale(
            row.name, resolution=resolution, timeout=timeout, callback_url=callback_url
        )

    job = Job(call=call, timeout=timeout, out=out, allow_private=on_loopback())

    async def work(stop: Stop) -> int:
        await work_off(job, rows, connect, output, stop)
        return report(rows, output, out, upscaled=True)

    return run(work)
