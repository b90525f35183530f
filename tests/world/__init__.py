"""A simulated world: bulk runs that crash anywhere, against an API that fails anyhow.

    python -m tests.world --seeds 10000 --tasks 200 --jobs 2
    python -m tests.world --seed 4711            # one again, as it was

Each life of a run is a forked process in virtual time.  How it ends is drawn from the
seed: killed at any step of any task between two awaits, before or after a commit or an
answer of the API; the power fails in the middle of a commit, and each sector of it is on
the disk or not; it is cancelled, or its consumer leaves, and is then perhaps killed in the
middle of that.  The next life goes on with the same journal.  The API is the parent's, so
its books survive.  At the end the doubts are settled from Kie's task log, everything is
run once more, and the journal is held against the books.

The journal's threads are taken out: what a seed does, it does again.
"""

from tests.world.life import BAD
from tests.world.play import run

__all__ = ["BAD", "run"]
