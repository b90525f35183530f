"""``kie demo``: the main job, without a key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from kie_async.cli._board import Row, SavedFile
from kie_async.cli._escape import clean
from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import json_option, prepared
from kie_async.cli._work import Job, report, work_off
from kie_async.errors import SessionClosedError
from kie_async.instrumentation import Hook
from kie_async.models import Task
from kie_async.session import KieSession

__all__ = ["demo"]

SOURCES = 6


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("kie-demo"),
    show_default=True,
    metavar="DIR",
    help="Where the pictures go.",
)
@json_option
def demo(out: Path, as_json: bool) -> int:
    """Try the main job without a key, in a few seconds.

    It starts an emulator of the API on this machine, upscales six pictures at once through
    the real client over real HTTP, and saves each picture before and after. It costs
    nothing and sends nothing to the network. The JSON objects are those of `kie upscale`.

    \b
    Example:
      kie demo
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    prepared(out)
    output = Output(as_json=as_json)

    async def work(stop: Stop) -> int:
        from kie_async.emulator import Emulator

        async with Emulator() as api:
            rows = [Row(source_id=await api.add_source_task()) for _ in range(SOURCES)]
            output.note(f"Upscaling {len(rows)} pictures against an emulator at {api.url}.")

            def connect(hook: Hook) -> KieSession:
                return KieSession(api.api_key, base_url=api.url, upload_url=api.url, hooks=[hook])

            gallery = _Gallery(out, rows)
            job = Job(
                call=gallery.upscale, timeout=60.0, out=out, allow_private=True, keep=gallery.keep
            )
            await work_off(job, rows, connect, output, stop)
        code = report(rows, output, out, upscaled=True, advice=False)
        _conclude(output, rows, out)
        return code

    return run(work)


class _Gallery:
    """Names the pictures so that what belongs together stands together."""

    def __init__(self, out: Path, rows: Sequence[Row]) -> None:
        self._out = out
        self._numbers = {id(row): number for number, row in enumerate(rows, 1)}

    async def upscale(self, kie: KieSession, row: Row) -> Task:
        """Save the source, then upscale it."""
        source = await kie.get_task(row.name)
        self._rename(row, "before", await kie.download(source, self._out, allow_private=True))
        return await kie.upscale(row.name, timeout=60.0)

    def keep(self, row: Row, paths: Sequence[Path]) -> list[Path]:
        """Name the results."""
        return self._rename(row, "after", paths)

    def _rename(self, row: Row, word: str, paths: Sequence[Path]) -> list[Path]:
        number = self._numbers[id(row)]
        return [path.replace(self._out / f"{number}-{word}{path.suffix}") for path in paths[:1]]


def _conclude(output: Output, rows: Sequence[Row], out: Path) -> None:
    """Say what was seen, and what to do next."""
    for row in rows:
        if isinstance(row.error, SessionClosedError):
            output.note("Stopped.")
            break
        if row.error is not None:
            output.note(f"{output.emphasis('Error:')} {clean(row.error)}")
    output.note()
    first = next((row.files[0] for row in rows if row.files), None)
    if first is not None:
        before = SavedFile.at(first.path.with_name(first.path.name.replace("after", "before")))
        output.note(f"Compare {clean(before, 2000)} with {clean(first, 2000)}.")
    output.note("Nothing was paid: this was the emulator.")
    output.note("Next: export KIE_API_KEY=..., then: kie upscale TASK_ID --out results/")
