"""The mutation runner: what a test sees is killed, what none sees survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import mutation

SOURCE = b'''"""A module."""
def seen(x: int = 3) -> int:
    """Return more."""
    if x < 10 and x != 4:
        return x + 1
    raise ValueError("words for people")

def unseen(x):
    return x == 2
'''

TEST = """
import pytest
from small import seen

def test_seen():
    assert (seen(3), seen(9), seen()) == (4, 10, 4)
    for bad in (4, 10, 11):
        with pytest.raises(ValueError):
            seen(bad)
"""

RUN = """
import sys
from pathlib import Path
import hypothesis, pytest  # loaded once, for all forks
from tests.mutation import mutants, tried

copy = Path(sys.argv[1])
found = list(mutants("small.py", (copy / "small.py").read_bytes()))[4:]
for mutant, code in tried(copy, found, ["test_small.py"]):
    print("survived" if code == 0 else "killed", mutant.line)
"""


def test_the_mistakes_of_a_module():
    """Each kind once; nothing in annotations, docstrings and words for people."""
    found = [f"{one.line} {one.old} {one.new}" for one in mutation.mutants("m.py", SOURCE)]

    assert found == [
        "2 3 (3 + 1)",
        "4 x < 10 and x != 4 (x < 10 or x != 4)",
        "4 x < 10 (x <= 10)",
        "4 10 (10 + 1)",
        "4 x != 4 (x == 4)",
        "4 4 (4 + 1)",
        "5 return x + 1 return None",
        "5 x + 1 (x - 1)",
        "5 1 (1 + 1)",
        '6 raise ValueError("words for people") pass',
        "9 return x == 2 return None",
        "9 x == 2 (x != 2)",
        "9 2 (2 + 1)",
    ]


@pytest.mark.timeout(120)
@pytest.mark.skipif(not hasattr(sys, "abiflags"), reason="it forks")
def test_what_is_tested_is_killed_and_the_rest_survives(tmp_path: Path):
    """And the module is as it was when all is over."""
    (tmp_path / "small.py").write_bytes(SOURCE)
    (tmp_path / "test_small.py").write_text(TEST)

    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        cwd=mutation.ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    expected = [*["killed 4"] * 2, *["killed 5"] * 3, "killed 6", *["survived 9"] * 3]
    assert ran.stdout.split("\n")[:-1] == expected
    assert (tmp_path / "small.py").read_bytes() == SOURCE


@pytest.mark.timeout(120)
def test_tests_that_fail_anyhow_kill_nothing(tmp_path: Path):
    """The control: else everything would seem to be killed."""
    (tmp_path / "small.py").write_bytes(SOURCE)
    (tmp_path / "test_small.py").write_text("def test_bad():\n    assert False\n")

    ran = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        cwd=mutation.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert "the tests fail as things are" in ran.stderr
    assert ran.stdout == ""


def test_every_package_of_the_table_is_there():
    """With its tests, and mistakes enough."""
    assert len(mutation.all_of("retry")) > 50
    for package, tests in mutation.TESTS.items():
        assert (mutation.ROOT / "kie_async" / package).is_dir()
        assert all((mutation.ROOT / f"tests/{name}.py").exists() for name in tests)
