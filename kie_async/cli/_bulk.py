"""``kie bulk``: a long list, each id upscaled exactly once, through crashes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from kie_async.cli._journals import NEW_JOURNAL, Where, typed
from kie_async.cli._output import Output
from kie_async.cli._running import run
from kie_async.cli._settings import (
    check_key,
    json_option,
    on_loopback,
    out_option,
    prepared,
    rate_option,
)
from kie_async.cli._upscale import callback_option
from kie_async.errors import UsageError
from kie_async.files import check_template
from kie_async.grok_imagine import RESOLUTIONS

if TYPE_CHECKING:
    from kie_async.cli._bulk_input import ItemList

__all__ = ["bulk", "grace_option", "in_flight_option", "name_option", "task_timeout_option"]

FORMATS = ("auto", "lines", "csv", "jsonl")


def _name(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return check_template(value)
    except UsageError as error:
        raise click.BadParameter(error.message) from None


name_option = click.option(
    "--name",
    default="{source_id}",
    show_default=True,
    callback=_name,
    metavar="TEMPLATE",
    help="Names of the files: {source_id}, {task_id}, {index}.",
)
in_flight_option = click.option(
    "--in-flight", default=100, show_default=True, type=click.IntRange(1, 100_000)
)
task_timeout_option = click.option(
    "--timeout", default=3600.0, show_default=True, type=click.FloatRange(1.0)
)
grace_option = click.option(
    "--grace",
    default=28.0,
    show_default=True,
    type=click.FloatRange(0.0),
    metavar="SECONDS",
    help="How long a stopped run waits for what is under way.",
)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option(
    "--journal",
    required=True,
    type=NEW_JOURNAL,
    help="Where the run is kept: a file, or postgresql://…#RUN for several workers. The same "
    "journal goes on where the last run stopped.",
)
@out_option
@name_option
@click.option("--resolution", type=click.Choice(RESOLUTIONS), help="Without it Kie takes 720p.")
@click.option("--column", metavar="NAME", help="Where the id stands in CSV and JSONL.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", show_default=True)
@rate_option
@in_flight_option
@task_timeout_option
@grace_option
@click.option(
    "--max-credits", type=click.FloatRange(0.0), help="Create nothing beyond this; doubts count."
)
@click.option("--dry-run", is_flag=True, help="Read the list, tell what it would cost, and end.")
@click.option("--allow-private", is_flag=True, help="Save from private addresses and http too.")
@callback_option
@json_option
def bulk(
    files: tuple[str, ...],
    journal: Where,
    column: str | None,
    form: str,
    as_json: bool,
    allow_private: bool,
    **options: Any,
) -> int:
    """Upscale a long list, each id exactly once. It costs credits.

    FILE has an id on each line, or is CSV or JSONL with a column source_id, task_id or id,
    and perhaps resolution and name; - is stdin. Without FILE the journal's own list goes on.

    Whatever happens (a crash, Ctrl-C, no credits), type the same again: what is done is not
    done twice, what runs is collected, and what may have been paid for is not sent again but
    listed: kie journal RUN.DB --doubts.

    \b
    Examples:
      kie bulk ids.txt --journal run.db --out results/
      kie bulk list.csv --column task --journal run.db --dry-run
      kie bulk --journal run.db --out results/          go on
      kie bulk ids.txt --journal postgresql://kie@db/kie#night     for kie worker

    \b
    With --json each line has "event" and "time", and:
      start     total, planned, done, credits, expected_credits
      result    source_id, task_id, status: done failed in_doubt not_sent,
                seconds, credits, result_urls, files, error
      progress  the figures of the run, every half minute
      summary   the figures, unexplained_credits, stopped_by, exit_code

    \b
    Exit codes: 0 all done; 8 stopped early, run the same again; 7 doubts;
    5 a task failed; 1 a file was not saved; 130 and 143 interrupted; others as
    kie --help.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    from kie_async.cli._bulk_input import ItemList
    from kie_async.cli._bulk_work import Wanted, work

    items = ItemList(files, column, form, options["resolution"])
    # A list that can be read twice is checked whole before anything is paid.
    count = sum(1 for _ in items) if items.repeatable else None
    output = Output(as_json=as_json)
    if journal.shared:
        return _submitted(journal, items, options, output)
    if not files and not (journal.path and journal.path.exists()):
        raise click.UsageError("no list given, and the journal does not exist yet")
    check_key()
    prepared(options["out"])
    wanted = Wanted(
        items=items,
        count=count,
        journal=journal,
        again=typed(),
        allow_private=allow_private or on_loopback(),
        **options,
    )
    return run(lambda stop: work(wanted, output, stop))


def _submitted(where: Where, items: ItemList, options: dict[str, Any], output: Output) -> int:
    """Put the list where workers find it; what they do is said to them."""
    for name in ("out", "max_credits", "dry_run"):
        if options[name]:
            flag = name.replace("_", "-")
            raise click.UsageError(f"--{flag} is not for a shared journal: kie worker --help")
    journal = where.shared_journal()  # says what is missing, if something is
    del journal
    from kie_async.cli._worker_work import submit_list

    return asyncio.run(submit_list(where, items, options["resolution"], output))
