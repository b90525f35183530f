"""The script that compares the matrix with the tests: each gap in them is caught."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import coverage

ROWS = "# a group\nT01 one thing\nT02 another\n\nH01 a third\n"
GOOD = """
import pytest
WHY = "needs a second machine"

async def test_fault_T01_one_thing(): ...

@pytest.mark.parametrize("n", [1, 2])
def test_fault_T02_another(n): ...

@pytest.mark.skip(reason=WHY)
async def test_fault_H01_a_third(): ...
"""


def written(directory: Path, source: str) -> coverage.Report:
    (directory / "rows.txt").write_text(ROWS)
    (directory / "test_some.py").write_text(source)
    return coverage.look(directory)


def test_the_matrix_has_its_167_rows():
    """None is lost, none is there twice, and each group is complete from 01 on."""
    rows = coverage.read_rows((coverage.HERE / "rows.txt").read_text())

    counts = {group: sum(row[0] == group for row in rows) for group in "THSDCKXLMA"}
    assert len(rows) == 167
    assert list(counts.values()) == [28, 29, 14, 20, 19, 25, 13, 7, 4, 8]
    assert set(rows) == {f"{g}{n:02}" for g, most in counts.items() for n in range(1, most + 1)}


def test_every_row_of_the_matrix_has_a_test():
    """None is missing, none skipped without a reason, and no test is named by an unknown row."""
    report = coverage.look()

    assert report.good, "\n" + coverage.table(report)
    assert set(report.covered) | set(report.skipped) == set(report.rows)


def test_covered_and_skipped_rows_are_told_apart(tmp_path: Path):
    """A reason may be a constant of the file."""
    report = written(tmp_path, GOOD)

    assert report.good
    assert report.covered == {"T01": 1, "T02": 1}
    assert report.skipped == {"H01": "needs a second machine"}
    assert "all       3        2        1        0" in coverage.table(report)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("test_fault_T02_another", "test_T02_another", "missing  T02  another"),
        ("test_fault_T01_one", "test_fault_T77_one", "unknown  test_some.py: test_fault_T77"),
        ("test_fault_T01_one_thing", "test_fault_one", "unknown  test_some.py: test_fault_one"),
        ("test_fault_T01_one_thing", "test_fault_T01_T88_x", "there is no such row"),
        ("skip(reason=WHY)", "skip", "missing  H01  skipped without a reason"),
        ("skip(reason=WHY)", "skip(reason='')", "missing  H01  skipped without a reason"),
        ("skip(reason=WHY)", "skip()", "missing  H01  skipped without a reason"),
        ("skip(reason=WHY)", "xfail", "missing  H01  skipped without a reason"),
    ],
)
def test_a_gap_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str], old, new, told):
    """A row without a test, a test without a row, a skip without a reason: exit code 1."""
    assert old in GOOD
    written(tmp_path, GOOD.replace(old, new))

    assert coverage.main(tmp_path) == 1
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(
    "source",
    [
        "pytestmark = pytest.mark.skip(reason='later')\ndef test_fault_T01_x(): ...",
        "pytestmark = [pytest.mark.skip('later')]\ndef test_fault_T01_x(): ...",
        "@pytest.mark.skip(reason='later')\nclass TestIt:\n    def test_fault_T01_x(self): ...",
        "class TestIt:\n  pytestmark = pytest.mark.skip('later')\n  def test_fault_T01_x(s): ...",
    ],
)
def test_a_skipped_file_or_class_skips_its_tests(source: str):
    """The mark may stand further up."""
    assert [test.skipped for test in coverage.find_tests(source, "f.py")] == ["later"]


def test_one_test_may_cover_two_rows_and_a_condition_is_no_skip():
    """``skipif`` leaves a test that runs somewhere."""
    source = "@pytest.mark.skipif(True, reason='x')\nasync def test_fault_T01_T02_both(): ..."

    assert [(t.rows, t.skipped) for t in coverage.find_tests(source, "f.py")] == [
        (("T01", "T02"), None)
    ]


def test_a_running_test_covers_a_row_that_has_a_skipped_one_too(tmp_path: Path):
    """One that runs is enough."""
    report = written(tmp_path, GOOD + "\ndef test_fault_H01_here(): ...\n")

    assert report.covered["H01"] == 1
    assert not report.skipped


@pytest.mark.parametrize("text", ["T01 one\nT01 two", "T1 one", "something"])
def test_a_list_of_rows_that_is_wrong_is_not_read(text: str):
    """A typing error in the list must not take a row away."""
    with pytest.raises(ValueError, match="no row"):
        coverage.read_rows(text)


@pytest.mark.parametrize("how", [["-m", "tests.faults.coverage"], ["tests/faults/coverage.py"]])
def test_it_runs_as_a_script(how: list[str], tmp_path: Path):
    """Both ways; it prints the table and exits by it."""
    written(tmp_path, GOOD.replace("T02", "H01"))

    run = subprocess.run(
        [sys.executable, *how, str(tmp_path)],
        cwd=coverage.HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 1, run.stderr
    assert "missing  T02  another" in run.stdout
