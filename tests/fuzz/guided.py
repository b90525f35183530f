"""One reader under atheris: what it reads is guided by the lines that it reaches."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

__all__ = ["guided"]


def guided(name: str, seconds: int) -> int:
    """Fuzz a reader for some seconds; the process ends with it.

    An input that breaks it is written to a file ``crash-…`` here, and its traceback shown.
    """
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris (there are wheels for Linux and")
        print("CPython 3.11 to 3.13); without it: python -m tests.fuzz readers --runs 100000")
        return 2
    import atheris

    with atheris.instrument_imports(include=["kie_async"]):
        from tests.fuzz.readers import BAD, READERS

    reader = {**READERS, **BAD}[name]
    with tempfile.TemporaryDirectory(prefix="kie-corpus-") as folder:
        for number, seed in enumerate((*reader.seeds, *reader.hostile)):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        options = [f"-max_total_time={seconds}", "-max_len=16384", "-rss_limit_mb=1024"]
        atheris.Setup([sys.argv[0], *options, "-timeout=10", folder], reader.target)
        atheris.Fuzz()
    return 0
