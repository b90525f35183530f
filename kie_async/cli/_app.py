"""The command group, and the one place where an end becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

import kie_async
from kie_async.cli._account import credits  # noqa: A004 - the command's name
from kie_async.cli._advice import first_step
from kie_async.cli._bulk import bulk
from kie_async.cli._callbacks import callbacks
from kie_async.cli._demo import demo
from kie_async.cli._emulator import emulator
from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, exit_of
from kie_async.cli._journal import journal, reconcile_command
from kie_async.cli._output import Output
from kie_async.cli._report import report
from kie_async.cli._settings import Refused
from kie_async.cli._tasks import status, wait
from kie_async.cli._upscale import upscale
from kie_async.errors import KieError

__all__ = ["kie", "run"]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(kie_async.__version__, prog_name="kie", message="%(prog)s %(version)s")
def kie() -> None:
    """Upscale and collect images and videos with Kie AI.

    No task is lost, and none is paid for twice.

    \b
    Try it without a key:
      kie demo
    With a key:
      export KIE_API_KEY=...
      kie credits
      kie upscale TASK_ID --out results/
      kie bulk ids.txt --journal run.db --out results/

    The key comes from the environment variable KIE_API_KEY only. There is no option for it:
    every user of a machine can read the arguments of every process. KIE_BASE_URL names
    another address than https://api.kie.ai, such as that of an emulator.

    Results go to stdout; progress and messages go to stderr. NO_COLOR is respected.

    \b
    Exit codes:
      0    done
      1    another error: no connection, no such task, a file not saved
      2    wrong usage; nothing was sent
      3    authentication: no key, or a refused one
      4    not enough credits, or the key's own limit is reached
      5    a task failed
      6    timed out; the task goes on (kie wait)
      7    in doubt: a create may have been paid for, and its task id is unknown
      8    a bulk run stopped early, in good order: run the same again
      130  interrupted with Ctrl-C
      143  terminated (SIGTERM)
    With several tasks all are tried, and the code is the most serious:
    7, then 8, 3, 4, 5, 6, 1, 2. An interruption is told before all of them.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone


for command in (
    demo,
    upscale,
    status,
    wait,
    credits,
    bulk,
    journal,
    reconcile_command,
    report,
    callbacks,
    emulator,
):
    kie.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    output = Output(as_json="--json" in arguments)
    try:
        result = kie.main(list(arguments), prog_name="kie", standalone_mode=False)
        return int(result) if isinstance(result, int) else int(Exit.OK)
    except Refused as refused:
        return _told(output, str(refused), refused.step, int(refused.code))
    except click.UsageError as error:
        error.show(sys.stderr)
        output.event("error", _error_fields(error.format_message(), "kie --help", Exit.USAGE))
        return int(Exit.USAGE)
    except click.ClickException as error:
        return _told(output, error.format_message(), "kie --help", int(Exit.OTHER))
    except (click.Abort, KeyboardInterrupt):
        return int(Exit.INTERRUPTED)
    except KieError as error:
        code = exit_of(error)
        return _told(output, str(error), first_step(error), int(code))
    except BrokenPipeError:
        return int(Exit.OTHER)


def _told(output: Output, message: str, step: str, code: int) -> int:
    output.note(f"{output.emphasis('Error:')} {clean(message)}")
    output.note(f"  Next: {clean(step)}")
    output.event("error", _error_fields(message, step, code))
    return code


def _error_fields(message: str, step: str, code: int) -> dict[str, object]:
    return {"message": message, "next": step, "exit_code": int(code)}
