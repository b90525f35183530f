"""``kie callbacks serve``: see callbacks arrive, verified."""

from __future__ import annotations

import asyncio
import os

import click

from kie_async.cli._exits import Exit
from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import Refused, json_option

__all__ = ["callbacks"]


@click.group()
def callbacks() -> None:
    """Receive Kie's callbacks."""


@callbacks.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8766, show_default=True, type=click.IntRange(0, 65535))
@json_option
def serve(host: str, port: int, as_json: bool) -> int:
    """Print each callback that arrives and is genuine, until Ctrl-C.

    Genuine is what is signed with the key in the environment variable KIE_HMAC_KEY (made on
    Kie's settings page). For trying it out: a service mounts the receiver itself.

    \b
    Example:
      export KIE_HMAC_KEY=...
      kie callbacks serve --port 8766
      kie upscale TASK_ID --callback-url http://127.0.0.1:8766/kie/cb
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    key = os.environ.get("KIE_HMAC_KEY", "")
    if not key:
        raise Refused(
            "no HMAC key: the environment variable KIE_HMAC_KEY is not set",
            Exit.AUTHENTICATION,
            "make one on Kie's settings page, then: export KIE_HMAC_KEY=...",
        )
    return run(lambda stop: _serve(key, host, port, Output(as_json=as_json), stop))


async def _serve(key: str, host: str, port: int, output: Output, stop: Stop) -> int:
    """Listen until somebody asks to stop."""
    from kie_async.callbacks import CallbackServer

    server = CallbackServer([key], host=host, port=port)
    async with server:
        output.note(f"Listening at {server.url} (Ctrl-C ends).")
        output.event("listening", {"url": server.url})
        stopped = asyncio.create_task(stop.wait())
        while not stopped.done():
            arrived = asyncio.create_task(server.next_event())
            await asyncio.wait({arrived, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not arrived.done():
                arrived.cancel()
                break
            event = arrived.result()
            fields = {
                "task_id": event.task_id,
                "state": str(event.state),
                "reference": event.reference,
            }
            output.event("callback", fields)
            if not output.as_json:
                output.result(f"{event.task_id}  {event.state}  {event.reference or '-'}")
    return 0
