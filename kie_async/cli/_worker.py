"""``kie worker``: one of many that work on a list in PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kie_async.cli._bulk import grace_option, in_flight_option, name_option, task_timeout_option
from kie_async.cli._journals import NEW_JOURNAL, Where, typed
from kie_async.cli._output import Output
from kie_async.cli._running import run
from kie_async.cli._settings import (
    check_key,
    json_option,
    on_loopback,
    out_option_else,
    prepared,
    rate_option,
)
from kie_async.cli._upscale import callback_option

__all__ = ["worker"]


@click.command()
@click.option(
    "--journal",
    required=True,
    type=NEW_JOURNAL,
    metavar="POSTGRESQL://…#RUN",
    help="The run, as it was given to kie bulk.",
)
@out_option_else(None, "Save the results of what this worker ends there.")
@name_option
@rate_option
@click.option(
    "--account",
    default="kie",
    show_default=True,
    help="Workers of one Kie account name it alike, and share its rate.",
)
@click.option(
    "--workers",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    help="How many there are: this one's share of the rate while the database is away.",
)
@in_flight_option
@task_timeout_option
@click.option(
    "--lease",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0.5),
    metavar="SECONDS",
    help="Without a sign of life for so long, a worker's items go to the others.",
)
@grace_option
@click.option("--forever", is_flag=True, help="Wait for more when all have ended.")
@click.option("--allow-private", is_flag=True, help="Save from private addresses and http too.")
@callback_option
@json_option
def worker(
    journal: Where, out: Path | None, as_json: bool, allow_private: bool, **options: Any
) -> int:
    """Work on a list in PostgreSQL, beside any number of other workers. It costs credits.

    kie bulk --journal POSTGRESQL://…#RUN puts a list there; start workers on as many
    machines as you like, at any time. Each id is created once, whichever worker dies; they
    keep to the account's rate together; and each ends when all items have ended.

    A password belongs in ~/.pgpass or PGPASSWORD: a command line can be seen by others.

    \b
    Examples:
      kie bulk ids.txt --journal postgresql://kie@db/kie#night
      kie worker --journal postgresql://kie@db/kie#night --out results/
      kie journal postgresql://kie@db/kie#night

    Exit codes: as kie bulk.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    from kie_async.cli._worker_work import Wanted, work

    if not journal.shared:
        journal.shared_journal()  # says what to do instead
    check_key()
    prepared(out)
    wanted = Wanted(
        journal=journal,
        again=typed(),
        out=out,
        allow_private=allow_private or on_loopback(),
        **options,
    )
    output = Output(as_json=as_json)
    return run(lambda stop: work(wanted, output, stop))
