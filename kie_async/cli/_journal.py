"""``kie journal`` and ``kie reconcile``: look into a run, and settle its doubts."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from kie_async.cli._journals import JOURNAL, Where
from kie_async.cli._output import Output
from kie_async.cli._settings import json_option, read_ids

__all__ = ["STATES", "journal", "reconcile_command"]

STATES = ("planned", "sending", "sent", "done", "failed", "in_doubt")
journal_argument = click.argument("path", metavar="RUN.DB", type=JOURNAL)


@click.command()
@journal_argument
@click.option("--doubts", is_flag=True, help="What may have been paid for, with its attempts.")
@click.option("--state", type=click.Choice(STATES), help="List these items.")
@click.option("--limit", default=100, show_default=True, help="Items listed at most; 0 is all.")
@json_option
def journal(path: Where, doubts: bool, state: str | None, limit: int, as_json: bool) -> int:
    """Show a run: counts, doubts, and what each state waits for. Safe while it works.

    \b
    Examples:
      kie journal run.db
      kie journal run.db --doubts
      kie journal run.db --state failed --limit 0 --json
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    output = Output(as_json=as_json)

    from kie_async.cli._journal_work import show

    return asyncio.run(show(path, doubts, state, limit, output))


@click.command("reconcile")
@journal_argument
@click.argument("source_ids", nargs=-1, metavar="[SOURCE_ID]...")
@click.option(
    "--ids", "ids_file", type=click.File(), help="Task ids from Kie's log page; - is stdin."
)
@click.option("--as", "as_task_id", metavar="TASK_ID", help="This task came of it.")
@click.option("--not-created", is_flag=True, help="Nothing was created: it may be sent again.")
@click.option("--recreate", is_flag=True, help="Send it again whatever happened; may pay twice.")
@json_option
def reconcile_command(
    path: Where,
    source_ids: tuple[str, ...],
    ids_file: Any,
    as_task_id: str | None,
    not_created: bool,
    recreate: bool,
    as_json: bool,
) -> int:
    """Settle doubts: by proof from a list of task ids, or by your own word.

    With --ids each task is looked up (free of charge) and compared with the doubts: by the
    reference in its callback URL, else by its input and time if only one doubt fits. Every
    decision is recorded in the journal.

    \b
    Examples:
      kie reconcile run.db --ids exported.txt
      kie reconcile run.db --as TASK_ID SOURCE_ID
      kie reconcile run.db --not-created SOURCE_ID SOURCE_ID
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    ways = [ids_file is not None, as_task_id is not None, not_created, recreate]
    if sum(ways) != 1:
        raise click.UsageError("choose one of --ids, --as, --not-created, --recreate")
    if ids_file is None and not source_ids:
        raise click.UsageError("name the SOURCE_ID that you decide about")
    if as_task_id is not None and len(source_ids) != 1:
        raise click.UsageError("--as takes one SOURCE_ID")
    output = Output(as_json=as_json)
    from kie_async.cli._journal_work import by_hand, by_proof

    if ids_file is not None:
        return asyncio.run(by_proof(path, read_ids(ids_file.read().split()), output))
    return asyncio.run(by_hand(path, source_ids, output, as_task_id, not_created, recreate))
