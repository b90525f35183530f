"""``kie doctor``: is everything in order, step by step, and what to do if not."""

from __future__ import annotations

from pathlib import Path

import click

from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import json_option

__all__ = ["doctor"]


@click.command()
@click.option(
    "--journals",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where journals of bulk runs shall be; without it the current directory.",
)
@json_option
def doctor(journals: Path, as_json: bool) -> int:
    """Check the settings, the network, the clock and the key.

    It asks for the balance, creates nothing and costs nothing. No secret is in what it
    prints, so it can go into a report.

    \b
    Examples:
      kie doctor
      kie -c base_url=http://127.0.0.1:8765 doctor

    \b
    With --json each line has "event" and "time", and:
      check    name, state: ok warn fail skip, found: what was found, next: what
               to do, or null
      summary  how many of each state, exit_code

    \b
    Exit codes: 0 nothing failed; 3 the key is missing or refused; 1 another
    thing failed.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    from kie_async.cli._doctor_work import work

    async def stoppable(stop: Stop) -> int:
        return await work(journals, Output(as_json=as_json), stop)

    return run(stoppable)
