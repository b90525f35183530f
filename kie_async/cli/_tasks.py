"""``kie status`` and ``kie wait``: tasks that exist already."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click

from kie_async.cli._advice import advise
from kie_async.cli._board import Row
from kie_async.cli._escape import clean
from kie_async.cli._exits import worst
from kie_async.cli._output import Output, row_fields
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
from kie_async.cli._table import Column
from kie_async.cli._work import Job, report, work_off
from kie_async.models import Task
from kie_async.session import KieSession

__all__ = ["status", "wait"]

LOOK = 120.0
"""Seconds for one look, with its repetitions."""


@click.command()
@ids_argument
@json_option
def status(task_ids: tuple[str, ...], as_json: bool) -> int:
    """Look at tasks once. It costs nothing.

    - reads ids from stdin. The exit code is 0 when every task could be looked at, whatever
    its state.

    \b
    Example:
      kie status 281e5b0c74d14a5d8f39b9aa00c1e2d3

    \b
    With --json each line has event "task", time, and:
      task_id, model, state, created_at, completed_at (Unix seconds), credits,
      result_urls, fail_code, fail_message, error
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    rows = [Row(task_id=task_id) for task_id in read_ids(task_ids)]
    check_key()
    output = Output(as_json=as_json)

    async def call(kie: KieSession, row: Row) -> Task:
        return await kie.get_task(row.name, timeout=LOOK)

    async def work(stop: Stop) -> int:
        job = Job(call=call, timeout=LOOK, quiet=True)
        await work_off(job, rows, connect, output, stop)
        _tell_states(rows, output)
        return int(worst(row.exit for row in rows))

    return run(work)


@click.command()
@ids_argument
@out_option
@timeout_option
@json_option
def wait(task_ids: tuple[str, ...], out: Path | None, timeout: float, as_json: bool) -> int:
    """Wait for tasks that exist already, and save their results.

    It costs nothing. - reads ids from stdin. For a task that ended long ago the result may
    have expired. The JSON objects are those of `kie upscale`, with source_id null.

    \b
    Example:
      kie wait 281e5b0c74d14a5d8f39b9aa00c1e2d3 --out results/
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    rows = [Row(task_id=task_id) for task_id in read_ids(task_ids)]
    check_key()
    prepared(out)
    output = Output(as_json=as_json)

    async def call(kie: KieSession, row: Row) -> Task:
        return await kie.wait_for_result(row.name, timeout=timeout)

    job = Job(call=call, timeout=timeout, out=out, allow_private=on_loopback())

    async def work(stop: Stop) -> int:
        await work_off(job, rows, connect, output, stop)
        return report(rows, output, out, upscaled=False)

    return run(work)


def _tell_states(rows: Sequence[Row], output: Output) -> None:
    for row in rows:
        task = row.task
        output.event(
            "task",
            {
                "task_id": row.task_id,
                "model": task and task.model,
                "state": task and task.state,
                "created_at": task and task.created_at,
                "completed_at": task and task.completed_at,
                "credits": task and task.credits_consumed,
                "result_urls": list(task.result_urls) if task else [],
                "fail_code": task and task.fail_code,
                "fail_message": task and task.fail_message,
                "error": row_fields(row, None)["error"],
            },
        )
    columns = [
        Column("Task"),
        Column("Model", below=True),
        Column("State"),
        Column("Seconds", right=True),
        Column("Credits", right=True),
        Column("Result", below=True),
    ]
    output.table(columns, [_cells(row) for row in rows if row.task is not None])
    if not output.as_json:
        output.advice(advise(rows, None))


def _cells(row: Row) -> list[str]:
    task = row.task
    assert task is not None  # noqa: S101 - the caller has looked
    age = task.duration
    if age is None and task.created_at is not None and not task.done:
        age = max(0.0, time.time() - task.created_at)
    said = ": ".join(clean(text) for text in (task.fail_code, task.fail_message) if text)
    urls = "\n".join(clean(url, 2000) for url in task.result_urls)
    return [
        clean(task.task_id),
        clean(task.model or "-"),
        clean(task.raw.get("state", task.state)),
        "-" if age is None else f"{age:.1f}",
        "-" if task.credits_consumed is None else f"{task.credits_consumed:,.10g}",
        urls or (said if task.failed else "") or "-",
    ]
