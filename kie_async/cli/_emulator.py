"""``kie emulator``: the API on this machine, to try things against."""

from __future__ import annotations

import click

from kie_async.cli._exits import Exit
from kie_async.cli._output import Output
from kie_async.cli._rates import Rate
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import Refused, json_option, rate_option_else, speed_option

__all__ = ["emulator"]

LOOPBACK = "127.0.0.1"
EXAMPLES = 3


@click.command()
@click.option(
    "--host",
    type=click.Choice([LOOPBACK, "localhost"]),
    default=LOOPBACK,
    show_default=True,
    help="It listens on this machine only.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0: a free one."
)
@speed_option
@rate_option_else("20/10", "What its account may create. Without it 20/10, as Kie's.")
@click.option(
    "--credits",
    type=click.FloatRange(0.0),
    default=1000.0,
    show_default=True,
    help="Its balance at the start.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed: the same ids.")
@json_option
def emulator(
    host: str, port: int, speed: float, rate: Rate, credits: float, seed: int, as_json: bool
) -> int:
    """Emulate Kie's API on this machine, until Ctrl-C (exit code 0).

    It costs nothing, needs no key, and keeps no data. Its key is no secret.

    With --json: one object with event "listening", time, url, api_key, source_ids.

    Faults strike by rule; the README lists them. GET .../__emulator__/books tells what
    was paid how often.

    \b
    Examples:
      kie emulator --port 8765
      kie emulator --rate 1000/10 --credits 1000000
      curl http://127.0.0.1:8765/__emulator__/rules --data \\
        '{"route": "createTask", "action": "fin", "when": "after", "nth": 2}'
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    output = Output(as_json=as_json)

    async def work(stop: Stop) -> int:
        from kie_async.emulator import Emulator

        api = Emulator(
            port=port, speed=speed, seed=seed, rate=(rate.limit, rate.window), credits=credits
        )
        try:
            await api.__aenter__()
        except OSError as error:
            step = "kie emulator --port 0 takes a free one"
            message = f"cannot listen on {host}:{port}: {error.strerror or error}"
            raise Refused(message, Exit.OTHER, step) from None
        try:
            sources = [await api.add_source_task() for _ in range(EXAMPLES)]
            _introduce(output, api.url, api.api_key, sources)
            await stop.wait()
        finally:
            await api.__aexit__(None, None, None)
        return 0

    code = run(work)
    return 0 if code in (Exit.INTERRUPTED, Exit.TERMINATED) else code


def _introduce(output: Output, url: str, api_key: str, sources: list[str]) -> None:
    if output.as_json:
        output.event("listening", {"url": url, "api_key": api_key, "source_ids": sources})
        return
    output.result(f"Kie's API, emulated: {url}\n")
    output.result("In another terminal:")
    output.result(f"  export KIE_BASE_URL={url}")
    output.result(f"  export KIE_API_KEY={api_key}")
    output.result(f"  kie upscale {sources[0]} --out results/\n")
    output.result("Source tasks to upscale:")
    for source in sources:
        output.result(f"  {source}")
    output.note("\nCtrl-C ends it.")
