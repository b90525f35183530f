"""The command line ``kie``: for people, and for scripts with ``--json``.

One file per group of commands.  The packages it stands on come with the extra ``[cli]``;
nothing else of kie_async imports them.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

NEEDED = ("click", "rich")


def main() -> None:
    """Run ``kie`` with the arguments of this process, and leave with its exit code."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(  # noqa: T201 - nothing better is installed
            f"kie: {' and '.join(missing)} not installed. Type: pip install 'kie_async[cli]'",
            file=sys.stderr,
        )
        sys.exit(2)
    try:
        from kie_async.cli._app import run
    except KeyboardInterrupt:  # pressed while it loads: nothing was begun
        sys.exit(130)
    sys.exit(run(sys.argv[1:]))
