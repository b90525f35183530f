"""``kie download``: the results of finished tasks, by id or by address."""

from __future__ import annotations

import hashlib
import json
import shlex
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click

from kie_async.cli._board import Row
from kie_async.cli._escape import clean
from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import (
    check_key,
    connect,
    json_option,
    on_loopback,
    out_option_else,
    prepared,
    read_ids,
    read_words,
    timeout_option,
)
from kie_async.cli._work import Job, report, work_off
from kie_async.errors import DownloadError, TaskFailedError, UsageError, WaitTimeoutError
from kie_async.files import check_template
from kie_async.models import Task, TaskState
from kie_async.session import KieSession

__all__ = ["download"]

LOOK = 120.0
"""Seconds for one look, at most."""


def _name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return check_template(value)
    except UsageError as error:
        raise click.BadParameter(error.message) from None


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="TASK_ID|URL...")
@out_option_else(Path(), "Where to; without it the current directory.")
@click.option(
    "--name",
    default="{task_id}",
    show_default=True,
    callback=_name,
    metavar="TEMPLATE",
    help="Names of a task's files: {source_id}, {task_id}, {index}.",
)
@timeout_option
@json_option
def download(what: tuple[str, ...], out: Path, name: str, timeout: float, as_json: bool) -> int:
    """Save the results of finished tasks. It costs nothing.

    A dead link is renewed once. What is saved already is not fetched again, and what is
    half there is gone on with; no other file is ever overwritten. A URL is one that Kie
    gave, as `kie status` prints it; the file is named after its end. - reads both from stdin.

    \b
    Examples:
      kie download 281e5b0c74d14a5d8f39b9aa00c1e2d3 --out results/
      kie download - --out results/ --name '{source_id}' < ids.txt

    With --json the objects are those of `kie upscale`, with source_id null.
    A task that is not done yet counts as timed out: kie wait.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    words = read_words(what)
    urls = list(dict.fromkeys(word for word in words if _is_url(word)))
    ids = [word for word in words if not _is_url(word)]
    rows = [Row(task_id=task_id) for task_id in (read_ids(ids) if ids or not urls else [])]
    links = {_row_of(url, out): url for url in urls}
    check_key()
    prepared(out)
    output = Output(as_json=as_json)

    async def find(kie: KieSession, row: Row) -> Task:
        return _linked(links[row]) if row in links else await _finished(kie, row.name)

    job = Job(
        call=find,
        timeout=timeout,
        out=out,
        allow_private=on_loopback(),
        name=lambda row: "{source_id}" if row in links else name,
    )

    async def work(stop: Stop) -> int:
        every = [*rows, *links]
        await work_off(job, every, connect, output, stop)
        return report(every, output, out, upscaled=False)

    return run(work)


async def _finished(kie: KieSession, task_id: str) -> Task:
    """Return the task if it has results.

    Raises:
        TaskFailedError: It failed.
        WaitTimeoutError: It is not done yet.
        DownloadError: It has no files.
    """
    task = await kie.get_task(task_id, timeout=LOOK)
    if task.failed:
        said = ": ".join(text for text in (task.fail_code, task.fail_message) if text)
        raise TaskFailedError(f"the task failed ({said or 'no reason given'})", task=task)
    if not task.succeeded:
        raise WaitTimeoutError(
            f"it is not done yet: {task.raw.get('state', task.state)}", task=task, task_id=task_id
        )
    if not task.result_urls:
        raise DownloadError("the task has no files", task_id=task_id, retryable=False)
    return task


def _row_of(url: str, out: Path) -> Row:
    """Return the row of an address; it is shown without its query, which may be a signature."""
    again = shlex.join(["kie", "download", clean(url, 4000), "--out", clean(out, 2000)])
    return Row(label=url.partition("?")[0], again=again, resumes=False)


def _linked(url: str) -> Task:
    """Return what stands for the task of an address that Kie gave.

    Its id follows from the address without its query, so that a new link to the same file
    is known again; and its files are named after the end of the address.
    """
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        path = ""
    digest = hashlib.sha256(url.partition("?")[0].encode()).hexdigest()[:32]
    stem = Path(path.rpartition("/")[2]).stem or digest
    param = json.dumps({"input": {"task_id": stem}})
    return Task(
        task_id=f"url-{digest}",
        state=TaskState.SUCCESS,
        result_urls=(url,),
        raw={"param": param},
    )


def _is_url(word: str) -> bool:
    return word.startswith(("https://", "http://"))
