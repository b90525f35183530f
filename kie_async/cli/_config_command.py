"""``kie config``: which settings hold, and why."""

from __future__ import annotations

import os

import click

from kie_async.cli._config import Value, config_path, current
from kie_async.cli._escape import clean
from kie_async.cli._output import Output
from kie_async.cli._settings import json_option
from kie_async.cli._table import Column

__all__ = ["config"]


@click.command()
@click.option("--path", "only_path", is_flag=True, help="Print where the file is, or would be.")
@json_option
def config(only_path: bool, as_json: bool) -> int:
    """Show each setting and where it is from.

    A setting is taken from the first that has it: the command's own option, kie -c
    NAME=VALUE, the environment (KIE_ and the name in capitals), the file, the default.

    The file is TOML, at $XDG_CONFIG_HOME/kie/config.toml, else ~/.config/kie/config.toml;
    KIE_CONFIG names another. It may hold api_key if only you can read it (chmod 600). The
    key is never shown.

    \b
    Settings:
      api_key          your key
      base_url         the API's address
      upload_url       the upload host's; without it base_url on this machine,
                       else Kie's
      timeout          seconds for each task, all together; bulk has its own
      request_timeout  seconds for each request
      max_concurrency  creates in flight at once
      create_rate      what the account may create: so many in so many seconds
      poll_rate        how often tasks are looked at
      create_retry     which failed creates are sent again: never; rejected: what
                       surely created nothing; reported: also code 500
      out              where results are saved
      log_level        what is logged to stderr: off error warning info debug

    \b
    Examples:
      kie config
      kie -c timeout=60 -c base_url=http://127.0.0.1:8765 config
      mkdir -p ~/.config/kie && echo 'out = "results"' >> "$(kie config --path)"

    \b
    With --json each line has "event": "setting", "time", and:
      name, value (of api_key: null), is_set, source: flag environment file
      default, where: the option, variable or file, or null
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    output = Output(as_json=as_json)
    if only_path:
        path = str(config_path(os.environ))
        output.event("path", {"path": path})
        if not as_json:
            output.result(path)
        return 0
    settings = current()
    values = settings.all()
    for value in values:
        output.event("setting", _fields(value))
    columns = [Column("Setting"), Column("Value"), Column("From")]
    output.table(columns, [_cells(value) for value in values])
    if not as_json:
        state = "read" if settings.exists else "not there; the defaults are fine"
        output.note(f"\nFile: {clean(settings.path, 2000)} ({state})")
    return 0


def _cells(value: Value) -> list[str]:
    origin = {"environment": value.where, "flag": "-c"}.get(value.source, value.source)
    return [value.setting.name, clean(value.shown(), 2000), origin]


def _fields(value: Value) -> dict[str, object]:
    plain = value.value
    if plain is not None and not isinstance(plain, str | int | float):
        plain = str(plain)
    return {
        "name": value.setting.name,
        "value": None if value.setting.secret else plain,
        "is_set": value.value is not None,
        "source": value.source,
        "where": value.where or None,
    }
