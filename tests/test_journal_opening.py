"""Opening and letting go of a journal: forks, cancellations and kills in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORKS = """
import asyncio, os, sys
from kie_async.errors import JournalLockedError
from kie_async.journal import Journal

async def main(path):
    here, there = os.pipe()
    async with Journal(path):
        child = os.fork()
        if child == 0:
            os.close(there)
            os.read(here, 1)  # lives until its parent is done
            os._exit(0)
        locked = await asyncio.create_subprocess_exec(sys.executable, "-c", OPENS, path)
        print("while it was open:", await locked.wait())
    async with Journal(path):
        print("opened again")
    os.close(there)
    os.waitpid(child, 0)

OPENS = '''
import asyncio, sys
from kie_async.errors import JournalLockedError
from kie_async.journal import Journal
try:
    asyncio.run(Journal.open(sys.argv[1]))
except JournalLockedError:
    sys.exit(7)
'''
asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_does_not_keep_the_journal_locked(tmp_path: Path):
    """The lock is its parent's, who gives it back, and has it until then."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(tmp_path / "run.db")],
        capture_output=True,
        text=True,
        timeout=60.0,
        check=False,
    )

    assert done.stdout == "while it was open: 7\nopened again\n", done.stderr
