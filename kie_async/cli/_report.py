"""``kie report``: a run as a page to look at."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from kie_async.cli._journal import journal_argument
from kie_async.cli._journals import Where
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.cli._settings import check_key, json_option, rate_option

__all__ = ["report"]


@click.command()
@journal_argument
@click.option(
    "-o",
    "--output",
    "target",
    default="report.html",
    show_default=True,
    help="The page; - is stdout.",
)
@click.option(
    "--sources",
    type=click.Path(path_type=Path, file_okay=False),
    help="A directory with the sources' own pictures, named by their ids.",
)
@click.option(
    "--fetch", is_flag=True, help="Fetch what --sources lacks from Kie, where it is known still."
)
@rate_option
@click.option("--limit", default=10_000, show_default=True, help="Items shown one by one, at most.")
@click.option("--thumbnails/--no-thumbnails", default=True, help="Small pictures within the page.")
@click.option("--force", is_flag=True, help="Write over a file that is no report.")
@click.option("--open", "show", is_flag=True, help="Show it in a browser.")
@json_option
def report(
    path: Where,
    target: str,
    sources: Path | None,
    fetch: bool,
    rate: Rate,
    limit: int,
    thumbnails: bool,
    force: bool,
    show: bool,
    as_json: bool,
) -> int:
    """Make one page of a run: results, figures, plots. Safe while it works.

    The page needs no network. Results are linked, not copied: keep it where it can see
    them. With --sources each result is shown beside its source.

    \b
    Examples:
      kie report run.db -o report.html
      kie report run.db --sources originals/ --fetch --open

    With --json: one object with event "report", path, items, thumbnails, bytes.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    if limit < 1:
        raise click.UsageError("--limit must be 1 or more")
    if fetch and sources is None:
        raise click.UsageError("--fetch needs --sources DIR: where to")
    if fetch:
        check_key()
    elif sources is not None and not sources.is_dir():
        raise click.UsageError(f"there is no directory {sources}: --fetch makes and fills it")
    output = Output(as_json=as_json)
    from kie_async.cli._report_work import Wanted, make

    wanted = Wanted(
        journal=path,
        target=target,
        sources=sources,
        fetch=fetch,
        rate=rate,
        limit=limit,
        thumbnails=thumbnails,
        force=force,
        show=show,
    )
    return asyncio.run(make(wanted, output))
