"""What commands share: ids, common options, and the session that the settings describe."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from kie_async.cli._config import SETTINGS, Config, current
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, Refused
from kie_async.cli._rates import Rate
from kie_async.errors import UsageError
from kie_async.instrumentation import Hook
from kie_async.limiter import RateLimiter, SlidingWindowLimiter
from kie_async.models import check_seconds, check_task_id
from kie_async.retry import CreateRetry
from kie_async.session import KieSession

__all__ = [
    "Refused",
    "check_key",
    "connect",
    "ids_argument",
    "json_option",
    "on_loopback",
    "out_option",
    "out_option_else",
    "prepared",
    "rate_option",
    "rate_option_else",
    "read_ids",
    "read_words",
    "speed_option",
    "timeout_option",
]

F = TypeVar("F", bound=Callable[..., Any])


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


def out_option_else(fallback: Path | None, says: str) -> Callable[[F], F]:
    """Return the option for a directory, which is the setting's if it is not given."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        callback=_directory,
        metavar="DIR",
        default=lambda: current().get("out").value or fallback,
        help=says,
    )


out_option = out_option_else(
    None, "Save the results there; without it their URLs are printed. They expire."
)
timeout_option = click.option(
    "--timeout",
    type=float,
    default=lambda: current().get("timeout").value,
    callback=_seconds,
    metavar="SECONDS",
    help="For each task: its turn, the wait and saving together. Without it 900.",
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


def read_words(given: Sequence[str]) -> list[str]:
    """Return the words; ``-`` stands for those on stdin, apart by white space."""
    words: list[str] = []
    for word in given:
        if word == "-":
            if sys.stdin.isatty():
                click.echo("Type task ids, then Ctrl-D on a line of its own.", err=True)
            words += sys.stdin.read().lstrip("\ufeff").split()
        else:
            words.append(word)
    return words


def read_ids(given: Sequence[str]) -> list[str]:
    """Return the ids, each once; ``-`` stands for those on stdin, apart by white space.

    Raises:
        click.UsageError: One of them cannot be a task id, or there is none.
    """
    named: dict[str, None] = {}
    for task_id in read_words(given):
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
    if current().get("api_key").value is None:
        raise Refused(
            "no API key: the environment variable KIE_API_KEY is not set",
            Exit.AUTHENTICATION,
            "put your key into the environment: export KIE_API_KEY=..., then: kie credits",
        )


def connect(
    hook: Hook,
    *,
    limiter: RateLimiter | None = None,
    poll_limiter: RateLimiter | None = None,
) -> KieSession:
    """Return a session with the account that the settings name.

    Args:
        hook: Told of what happens.
        limiter: For creates, instead of the setting's.
        poll_limiter: For reads, likewise.

    Raises:
        Refused: There is no key, or a setting cannot work.
    """
    check_key()
    config = current()
    values = {name: config.get(name).value for name in SETTINGS}
    creates, polls = values["create_rate"], values["poll_rate"]
    # The process shares one limiter per account, if it is the usual one.
    if limiter is None and creates != SETTINGS["create_rate"].default:
        limiter = SlidingWindowLimiter(creates.limit, creates.window)
    if poll_limiter is None and polls != SETTINGS["poll_rate"].default:
        poll_limiter = SlidingWindowLimiter(polls.limit, polls.window)
    try:
        return KieSession(
            values["api_key"].reveal(),
            base_url=values["base_url"],
            upload_url=values["upload_url"],
            max_concurrency=values["max_concurrency"],
            create_retry=CreateRetry[values["create_retry"].upper()],
            limiter=limiter,
            poll_limiter=poll_limiter,
            hooks=[hook, *_logging(config)],
            request_timeout=values["request_timeout"],
        )
    except UsageError as error:
        raise Refused(error.message, Exit.USAGE, "see the settings: kie config") from None


def _logging(config: Config) -> list[Hook]:
    """Begin to log to stderr, if a level is set; return what writes the events."""
    level = config.get("log_level").value
    if level == "off":
        return []
    from kie_async.integrations import LoggingHook

    logger = logging.getLogger("kie_async")
    logger.setLevel(level.upper())
    if not any(isinstance(handler.formatter, _OneLine) for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    return [LoggingHook()]


class _OneLine(logging.Formatter):
    """Keeps what a server says from commanding the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(clean(line, 2000) for line in super().format(record).split("\n"))


def on_loopback() -> bool:
    """True where the API is on this machine: an emulator, whose results are here too."""
    try:
        host = urlsplit(current().get("base_url").value).hostname or ""
    except Refused:  # told when a session is made
        return False
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


def _rate(_ctx: click.Context, _param: click.Parameter, value: str | Rate) -> Rate:
    if isinstance(value, Rate):  # the setting
        return value
    limit, _, window = value.partition("/")
    try:
        rate = Rate(int(limit), float(window))
        SlidingWindowLimiter(rate.limit, rate.window)
    except (ValueError, UsageError):
        raise click.BadParameter("it is creates/seconds, such as 20/10") from None
    return rate


def rate_option_else(default: Any, told: str) -> Callable[[F], F]:
    """Return ``--rate`` with another default."""
    return click.option("--rate", default=default, callback=_rate, metavar="N/SECONDS", help=told)


rate_option = rate_option_else(
    lambda: current().get("create_rate").value, "What the account may create. Without it 20/10."
)
