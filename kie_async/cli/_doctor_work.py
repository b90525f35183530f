"""The work of ``kie doctor``: all checks in their order, as they are found."""

from __future__ import annotations

import asyncio
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import click

from kie_async.cli import _doctor_here as here
from kie_async.cli._config import SETTINGS, Config, current
from kie_async.cli._doctor_host import check_host
from kie_async.cli._doctor_says import Finding, fail, ok, skip
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, Refused, exit_of
from kie_async.cli._output import Output
from kie_async.cli._running import Stop
from kie_async.cli._settings import connect, on_loopback
from kie_async.errors import KieError

__all__ = ["work"]

PATIENCE = 20.0
NAMES = 17
"""Columns of the names."""
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red", "skip": None}
UPLOADS = "https://kieai.redpandaai.co"


async def work(journals: Path, output: Output, stop: Stop) -> int:
    """Check everything, tell each finding at once, and return the exit code."""
    told: list[Finding] = []

    async def check() -> None:
        async for finding in _findings(journals):
            told.append(finding)
            _tell(finding, output)

    checking = asyncio.create_task(check())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({checking, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not checking.done():
        checking.cancel()
        await asyncio.wait({checking})
        return stop.exit_code
    checking.result()
    return _summed_up(told, output)


def _summed_up(told: list[Finding], output: Output) -> int:
    count = Counter(finding.state for finding in told)
    failed = [finding.name for finding in told if finding.state == "fail"]
    code = Exit.AUTHENTICATION if "key" in failed else Exit.OTHER if failed else Exit.OK
    output.event("summary", {**count, "exit_code": int(code)})
    if not output.as_json:
        counted = ", ".join(f"{count[state]} {state}" for state in COLOURS if count[state])
        output.result("")
        output.result(f"{'Something is wrong' if failed else 'Nothing failed'}: {counted}.")
    return int(code)


async def _findings(journals: Path) -> AsyncIterator[Finding]:
    yield here.versions()
    yield here.extras()
    try:
        config = current()
    except Refused as refused:
        name = "key" if refused.code is Exit.AUTHENTICATION else "settings"
        yield fail(name, str(refused), refused.step)
    else:
        usable = True
        for finding in here.settings(config):
            usable = usable and finding.state != "fail"
            yield finding
        if usable:
            async for finding in _account(config):
                yield finding
    for finding in here.journals(journals):
        yield finding


async def _account(config: Config) -> AsyncIterator[Finding]:
    """Yield what is found of the API and of the account."""
    values = {name: config.get(name).value for name in SETTINGS}
    base: str = values["base_url"]
    yield here.limits(values)
    yield here.address(base, here=on_loopback())
    reached = True
    async for finding in check_host(base, "API"):
        reached = reached and finding.state != "fail"
        yield finding
    uploads = values["upload_url"] or (base if on_loopback() else UPLOADS)
    if uploads != base:
        async for finding in check_host(uploads, "uploads"):
            yield finding
    if values["api_key"] is None:
        step = "export KIE_API_KEY=...  (keys are made at https://kie.ai/api-key)"
        yield fail("key", "there is none: KIE_API_KEY is not set", step)
    elif not reached:
        yield skip("key", f"set ({_origin(config)}); not tried, the API cannot be reached")
    else:
        yield await _key(config)


def _origin(config: Config) -> str:
    return clean(config.get("api_key").where, 2000)


async def _key(config: Config) -> Finding:
    """Ask for the balance: the cheapest call that takes a key."""
    try:
        async with connect(lambda _event: None) as kie:
            balance = await kie.get_credits(timeout=PATIENCE)
    except Refused as refused:
        return fail("key", str(refused), refused.step)
    except KieError as error:
        if exit_of(error) is Exit.AUTHENTICATION:
            step = "put a valid key into KIE_API_KEY; look at its IP list at https://kie.ai/api-key"
            return fail("key", f"refused ({_origin(config)}): {clean(error.message)}", step)
        return fail("account", clean(error.message), "try again later: kie credits")
    return ok("key", f"accepted ({_origin(config)}); {balance:,.10g} credits")


def _tell(finding: Finding, output: Output) -> None:
    """Write a finding: one line, or more where the terminal is narrow."""
    fields = {"name": finding.name, "state": finding.state, "found": finding.found}
    output.event("check", {**fields, "next": finding.next})
    if output.as_json:
        return
    state = finding.state.ljust(4)
    if output.coloured:
        state = click.style(state, fg=COLOURS[finding.state])
    head, *rest = _wrapped(finding.found)
    margin = " " * (6 + NAMES)
    output.result(f"{state}  {finding.name:<{NAMES}}{head}".rstrip())
    for line in rest:
        output.result(margin + line)
    if finding.next is not None:
        output.result(f"      Next: {finding.next}")


def _wrapped(text: str) -> list[str]:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    room = max(20, width - 1 - 6 - NAMES)
    return textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
