"""Play many worlds; exit 1 if one is wrong."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from multiprocessing import get_context

from tests import world


def played(seed: int, tasks: int, bad: str) -> tuple[int, list[str], Counter[str]]:
    """Play one; return its seed too."""
    return seed, *world.run(seed, tasks, bad=bad)


def main() -> int:
    """Do as the command line says."""
    arguments = argparse.ArgumentParser(prog="python -m tests.world", description=__doc__)
    arguments.add_argument("--seeds", type=int, default=100)
    arguments.add_argument("--first", type=int, default=0)
    arguments.add_argument("--seed", type=int, help="only this one")
    arguments.add_argument("--tasks", type=int, default=200)
    arguments.add_argument("--jobs", type=int, default=1, help="processes")
    arguments.add_argument("--bad", choices=sorted(world.BAD), default="")
    asked = arguments.parse_args()
    seeds: Iterable[int] = range(asked.first, asked.first + asked.seeds)
    if asked.seed is not None:
        seeds = [asked.seed]
    total: Counter[str] = Counter()
    failed, began = 0, time.monotonic()
    play = partial(played, tasks=asked.tasks, bad=asked.bad)
    with get_context("fork").Pool(asked.jobs) as pool:
        for seed, wrong, figures in pool.imap_unordered(play, seeds):
            total.update(figures)
            total["worlds"] += 1
            if wrong:
                failed += 1
                print(f"seed {seed}: {len(wrong)} wrong, first: {wrong[0]}", flush=True)
            if total["worlds"] % 500 == 0:
                print(f"{total['worlds']:,} worlds, {failed} wrong", file=sys.stderr, flush=True)
    for name, number in sorted(total.items()):
        print(f"{name:<10} {number:>9,}")
    print(f"wrong      {failed:>9,}   in {time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the same seed: the same world
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.world", *sys.argv[1:]],
            {**os.environ, "PYTHONHASHSEED": "0"},
        )
    sys.exit(main())
