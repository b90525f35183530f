"""What commands share: ids, common options, and the session from the environment."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from kie_async.cli._exits import Exit
from kie_async.errors import UsageError
from kie_async.instrumentation import Hook
from kie_async.models import Secret, check_seconds, check_task_id
from kie_async.session import KieSession

__all__ = [
    "Refused",
    "check_key",
    "connect",
    "ids_argument",
    "json_option",
    "on_loopback",
    "out_option",
    "prepared",
    "read_ids",
    "speed_option",
    "timeout_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class Refused(Exception):  # noqa: N818 - it is no fault of the program
    """A command cannot begin; nothing was sent."""

    def __init__(self, message: str, code: Exit, step: str) -> None:
        super().__init__(message)
        self.code = code
        self.step = step


def _seconds(_ctx: click.Context, param: click.Parameter, value: float) -> float:
    try:
        return check_seconds(value, f"--{param.name}")
    except UsageError as error:
        raise click.BadParameter(error.message) from None


def _directory(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.exists() and not value.is_dir():
        raise click.BadParameter(f"{value} is a file, and a directory is needed")
    return value


ids_argument = click.argument("task_ids", nargs=-1, required=True, metavar="TASK_ID...")
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a line on stdout, nothing else there."
)
out_option = click.option(
    "--out",
    type=click.Path(path_type=Path),
    callback=_directory,
    metavar="DIR",
    help="Save the results there; without it their URLs are printed. They expire.",
)
timeout_option = click.option(
    "--timeout",
    type=float,
    default=900.0,
    show_default=True,
    callback=_seconds,
    metavar="SECONDS",
    help="For each task: its turn, the wait and saving together.",
)
speed_option = click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    callback=_seconds,
    metavar="FACTOR",
    help="How much faster than real time its tasks run.",
)


def read_ids(given: Sequence[str]) -> list[str]:
    """Return the ids, each once; ``-`` stands for those on stdin, apart by white space.

    Raises:
        click.UsageError: One of them cannot be a task id, or there is none.
    """
    named: dict[str, None] = {}
    for word in given:
        words: Iterable[str] = [word]
        if word == "-":
            if sys.stdin.isatty():
                click.echo("Type task ids, then Ctrl-D on a line of its own.", err=True)
            words = sys.stdin.read().lstrip("\ufeff").split()
        for task_id in words:
            try:
                named[check_task_id(task_id, "task id")] = None
            except UsageError as error:
                raise click.UsageError(error.message) from None
    if not named:
        raise click.UsageError("no task id given: stdin was empty")
    return list(named)


def check_key() -> None:
    """Refuse to begin without a usable key.

    Raises:
        Refused: There is none, or it holds what no key has.
    """
    step = "put your key into the environment: export KIE_API_KEY=..., then: kie credits"
    if not os.environ.get("KIE_API_KEY"):
        raise Refused(
            "no API key: the environment variable KIE_API_KEY is not set", Exit.AUTHENTICATION, step
        )
    try:
        Secret(os.environ["KIE_API_KEY"], name="API key in KIE_API_KEY")
    except UsageError as error:
        raise Refused(error.message, Exit.AUTHENTICATION, step) from None


def connect(hook: Hook) -> KieSession:
    """Return a session with the account that the environment names.

    Raises:
        Refused: KIE_BASE_URL or KIE_UPLOAD_URL cannot work.
    """
    check_key()
    try:
        return KieSession(hooks=[hook])
    except UsageError as error:
        raise Refused(error.message, Exit.USAGE, "correct or unset KIE_BASE_URL") from None


def on_loopback() -> bool:
    """True where KIE_BASE_URL names this machine: an emulator, whose results are here too."""
    host = urlsplit(os.environ.get("KIE_BASE_URL") or "").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def prepared(out: Path | None) -> None:
    """Make the directory for results before anything is paid.

    Raises:
        Refused: It cannot be made or written to.
    """
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(
            f"cannot make the directory {out}: {error.strerror}", Exit.USAGE, "choose another --out"
        ) from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise Refused(f"cannot write to {out}", Exit.USAGE, "choose another --out")
