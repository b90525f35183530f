"""Fuzz: the readers, one of them guided, over sockets, or the callbacks; see the package."""

from __future__ import annotations

import argparse
import asyncio
import sys

# Nothing of the package is imported up here: atheris instruments what it imports itself.


def readers(runs: int, seed: int) -> int:
    """Feed every reader with mutated inputs."""
    from tests.fuzz.mutated_runs import feed
    from tests.fuzz.readers import READERS

    faults = 0
    for name, reader in READERS.items():
        report = feed(name, reader, runs, seed)
        print(f"{name}: {report.told()}", flush=True)
        faults += tell(report)
    return min(faults, 1)


def sockets(answers: int, seed: int) -> int:
    """Attack each endpoint."""
    from tests.fuzz.sockets import ENDPOINTS, attack, served

    faults = 0
    with served(seed) as url:
        for endpoint in ENDPOINTS:
            report = asyncio.run(attack(url, endpoint, answers))
            print(f"{endpoint}: {report.told()}", flush=True)
            faults += tell(report)
    return min(faults, 1)


def callbacks(posts: int, seed: int) -> int:
    """Attack the receiver."""
    from tests.fuzz.posts import post_many

    report = asyncio.run(post_many(posts, seed=seed))
    print(f"callbacks: {report.told()}")
    return min(tell(report), 1)


def tell(report: object) -> int:
    """Print what must not be; return how many things that are."""
    from tests.fuzz.report import Report

    assert isinstance(report, Report)
    for fault in report.faults():
        print(f"  WRONG: {fault}")
    for trace in report.foreign.values():
        print(trace)
    return len(report.faults())


def main() -> int:
    """Do as the command line says; 1 if something broke its word."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", help="readers, sockets, callbacks, or the name of a reader")
    parser.add_argument("--runs", type=int, default=10_000, help="of each reader")
    parser.add_argument("--answers", type=int, default=100_000, help="to each endpoint")
    parser.add_argument("--posts", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=60, help="of a guided run")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    match asked.what:
        case "readers":
            return readers(asked.runs, asked.seed)
        case "sockets":
            return sockets(asked.answers, asked.seed)
        case "callbacks":
            return callbacks(asked.posts, asked.seed)
    from tests.fuzz.guided import guided

    return guided(asked.what, asked.seconds)


if __name__ == "__main__":
    sys.exit(main())
