"""Fuzzing: whatever comes in becomes a value or a documented error, in time and in memory.

    python -m tests.fuzz readers --runs 100000          # mutated inputs for every reader
    python -m tests.fuzz task --seconds 600             # one reader, guided by its coverage
    python -m tests.fuzz sockets --answers 100000       # mutated answers, for each endpoint
    python -m tests.fuzz callbacks --posts 100000       # mutated callbacks to the receiver

The guided form needs ``pip install atheris``, which nothing else does.  The suite runs a
short form of the others, so that the targets stay true.
"""
