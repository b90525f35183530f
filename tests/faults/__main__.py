"""The fault matrix as a command: which rows are covered, and does it flicker?

    python -m tests.faults                  # the coverage, then the matrix once
    python -m tests.faults --repeats 20     # the same again and again: no run may differ

The exit code is 1 if a row is missing, or a run failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.faults import coverage

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Print the rows, run the matrix, and say how it went."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes for one run")
    chosen = parser.parse_args()
    good = coverage.main() == 0
    for number in range(1, chosen.repeats + 1):
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", str(chosen.workers), "tests/faults"],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "250"},  # room for the reason beside the name
            capture_output=True,
            text=True,
            check=False,
        )
        last = (ran.stdout.strip().splitlines() or ["nothing was said"])[-1]
        print(f"run {number} of {chosen.repeats}: {last} ({time.monotonic() - began:.0f} s)")
        if ran.returncode:
            good = False
            failed = [line for line in ran.stdout.splitlines() if line.startswith("FAILED")]
            print("\n".join(failed) or ran.stdout[-4000:])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
