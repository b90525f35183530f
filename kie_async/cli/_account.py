"""``kie credits``: the account."""

from __future__ import annotations

import asyncio

import click

from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import check_key, connect, json_option
from kie_async.errors import SessionClosedError

__all__ = ["credits"]


@click.command()
@json_option
def credits(as_json: bool) -> int:
    """Print the balance in credits; one is half a US cent.

    With --json: event "credits", time, credits. It also shows whether the key is accepted.

    \b
    Example:
      kie credits
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    check_key()
    output = Output(as_json=as_json)

    async def work(stop: Stop) -> int:
        async with connect(lambda _event: None) as kie:

            async def close_when_asked() -> None:
                await stop.wait()
                await kie.close(grace=0)

            closing = asyncio.create_task(close_when_asked())
            try:
                balance = await kie.get_credits()
            except SessionClosedError:
                return stop.exit_code
            finally:
                closing.cancel()
        output.event("credits", {"credits": balance})
        if not as_json:
            output.result(f"{balance:.10g}")
        return 0

    return run(work)
