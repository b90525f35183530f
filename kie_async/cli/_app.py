"""The command group, and the one place where an end becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

import kie_async
from kie_async.cli._advice import first_money, first_step
from kie_async.cli._config import SETTINGS, nearest
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, Refused, exit_of
from kie_async.cli._group import Entry, Sections
from kie_async.cli._output import Output
from kie_async.errors import KieError

__all__ = ["kie", "run"]


def _entry(module: str, attribute: str, says: str) -> Entry:
    return Entry(f"kie_async.cli._{module}", attribute, says)


SECTIONS = {
    "Main": {
        "generate": _entry(
            "generate", "generate", "Make pictures or a clip from a prompt, save them, and upscale."
        ),
        "upscale": _entry("upscale", "upscale", "Upscale the results of earlier tasks and wait."),
        "run": _entry("run", "run_command", "Run any model and wait for its result."),
        "demo": _entry("demo", "demo", "Try the main job without a key, in a few seconds."),
    },
    "Tasks": {
        "status": _entry("tasks", "status", "Look at tasks once."),
        "wait": _entry(
            "tasks", "wait", "Wait for tasks that exist already, and save their results."
        ),
        "download": _entry("download", "download", "Save the results of finished tasks."),
        "upload": _entry("upload", "upload", "Upload files for a model's input."),
    },
    "Bulk": {
        "bulk": _entry("bulk", "bulk", "Upscale a long list, each id exactly once."),
        "worker": _entry(
            "worker", "worker", "Work on a list in PostgreSQL, beside any number of other workers."
        ),
        "journal": _entry(
            "journal", "journal", "Show a run: counts, doubts, and what each state waits for."
        ),
        "reconcile": _entry(
            "journal", "reconcile_command", "Settle doubts: by proof from a list of task ids."
        ),
        "report": _entry("report", "report", "Make one page of a run: results, figures, plots."),
    },
    "Service": {
        "models": _entry(
            "models", "models", "List the Grok Imagine models, with what they take and cost."
        ),
        "credits": _entry("account", "credits", "Print the balance in credits."),
        "callbacks": _entry("callbacks", "callbacks", "Receive Kie's callbacks."),
    },
    "Tools": {
        "doctor": _entry(
            "doctor", "doctor", "Check the settings, the network, the clock and the key."
        ),
        "config": _entry("config_command", "config", "Show each setting and where it is from."),
        "completion": _entry(
            "completion", "completion", "Print what makes your shell complete kie."
        ),
        "emulator": _entry("emulator", "emulator", "Emulate Kie's API on this machine."),
    },
}

END = """\
Results go to stdout, everything else to stderr. Exit codes:
  0 done           3 key missing or bad  6 timed out: kie wait   130 interrupted
  1 another error  4 no credits left     7 in doubt: maybe paid  143 terminated
  2 wrong usage    5 a task failed       8 bulk stopped: again
  With several tasks all are tried; the code is the first of 7 8 3 4 5 6 1 2 .
"""


def _overrides(
    _ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]
) -> dict[str, str]:
    """Take ``NAME=VALUE`` apart; what it means is looked at when it is used."""
    taken = {}
    for text in given:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if name == "api_key":
            raise click.BadParameter(
                "every user of a machine can read the arguments of every process: "
                "export KIE_API_KEY=... instead"
            )
        if name not in SETTINGS:
            raise click.BadParameter(f"{clean(name)!r} is no setting{nearest(name, SETTINGS)}")
        if not equals or not value:
            raise click.BadParameter(f"it is NAME=VALUE, such as {name}={SETTINGS[name].example}")
        taken[name] = value
    return taken


@click.group(
    cls=Sections,
    sections=SECTIONS,
    end=END,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "-c",
    "--set",
    "settings",
    multiple=True,
    callback=_overrides,
    metavar="NAME=VALUE",
    help="Change a setting for this command; see: kie config.",
)
@click.version_option(kie_async.__version__, prog_name="kie", message="%(prog)s %(version)s")
def kie(settings: dict[str, str]) -> None:
    """Make, upscale and collect images and videos: no task lost, none paid for twice.

    \b
    Without a key:  kie demo
    With a key:     export KIE_API_KEY=...   (never an argument: it is seen)
                    kie doctor
                    kie upscale TASK_ID --out results/
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    output = Output(as_json="--json" in arguments)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:], "--help"]
    try:
        result = kie.main(
            list(arguments), prog_name="kie", standalone_mode=False, obj=tuple(arguments)
        )
        return int(result) if isinstance(result, int) else int(Exit.OK)
    except Refused as refused:
        return _told(output, str(refused), refused.step, int(refused.code), "Nothing was sent.")
    except click.UsageError as error:
        error.show(sys.stderr)
        step = f"{error.ctx.command_path} --help" if error.ctx is not None else "kie --help"
        output.event("error", _error_fields(error.format_message(), step, Exit.USAGE, False))
        return int(Exit.USAGE)
    except click.ClickException as error:
        return _told(output, error.format_message(), "kie --help", int(Exit.OTHER))
    except (click.Abort, KeyboardInterrupt):
        return int(Exit.INTERRUPTED)
    except KieError as error:
        code, money = exit_of(error), first_money(error)
        return _told(output, str(error), first_step(error), int(code), money, error.maybe_charged)
    except BrokenPipeError:
        return int(Exit.OTHER)


def _told(
    output: Output, message: str, step: str, code: int, money: str = "", charged: bool = False
) -> int:
    output.note(f"{output.emphasis('Error:')} {clean(message)}")
    if money:
        output.note(f"  {money}")
    output.note(f"  Next: {clean(step)}")
    output.event("error", _error_fields(message, step, code, charged))
    return code


def _error_fields(message: str, step: str, code: int, charged: bool) -> dict[str, object]:
    return {"message": message, "maybe_charged": charged, "next": step, "exit_code": int(code)}
