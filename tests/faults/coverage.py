"""Which rows of the fault matrix have a test: ``python -m tests.faults.coverage``.

Reads the rows from ``rows.txt`` and the tests from the syntax trees of the files beside it:
nothing is imported and nothing runs.  A test belongs to a row by its name,
``test_fault_T14_created_then_closed``, and to two by ``test_fault_T14_T15_...``.

The exit code is 1 if a row has no test, if one is skipped without a reason, or if a test is
named by a row that does not exist.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

HERE = Path(__file__).parent

_ROW = re.compile(r"([A-Z][0-9]{2}) (.+)")
_NAMED = re.compile(r"test_fault_((?:[A-Z][0-9]+_)*)(.*)")
_OFF = {"skip", "xfail"}  # a test that is expected to fail covers nothing either
_Def = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@frozen
class Found:
    """One test: the rows it is named by; ``skipped`` is its reason, "" if it has none."""

    name: str
    file: str
    rows: tuple[str, ...]
    skipped: str | None = None


@frozen
class Report:
    """What is covered; everything by row id, in the order of the rows."""

    rows: Mapping[str, str]
    covered: Mapping[str, int]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    unreasoned: tuple[str, ...]
    unknown: tuple[str, ...]

    @property
    def good(self) -> bool:
        """True if every row has a test, or a reason for having none."""
        return not (self.missing or self.unreasoned or self.unknown)


def read_rows(text: str) -> dict[str, str]:
    """Return the titles of the rows by their ids.

    Raises:
        ValueError: A line is no row, or an id stands there twice.
    """
    rows: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        match = _ROW.fullmatch(line)
        if match is None or match[1] in rows:
            raise ValueError(f"no row, or one that is there already: {line}")
        rows[match[1]] = match[2]
    return rows


def find_tests(source: str, file: str) -> Iterator[Found]:
    """Yield the tests of a file that are named by a row."""
    tree = ast.parse(source, file)
    constants = _constants(tree)
    yield from _within(tree.body, file, _own_marks(tree.body, constants), constants)


def _within(
    body: Sequence[ast.stmt], file: str, outer: str | None, constants: Mapping[str, str]
) -> Iterator[Found]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            marks = _first(_marks(node, constants), _own_marks(node.body, constants), outer)
            yield from _within(node.body, file, marks, constants)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _within(node.body, file, outer, constants)
            yield from _within(getattr(node, "orelse", []), file, outer, constants)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            match = _NAMED.match(node.name)
            if match is not None:
                rows = tuple(match[1].split("_")[:-1]) or (match[2],)
                yield Found(node.name, file, rows, _first(_marks(node, constants), outer))


def _first(*reasons: str | None) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return the file's text constants: a reason may have a name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def _own_marks(body: Sequence[ast.stmt], constants: Mapping[str, str]) -> str | None:
    """Return the reason if ``pytestmark`` skips a whole file or class."""
    for node in body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "pytestmark" for target in node.targets
        ):
            many = node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
            return _first(*(_reason(mark, constants) for mark in many))
    return None


def _marks(node: _Def, constants: Mapping[str, str]) -> str | None:
    return _first(*(_reason(mark, constants) for mark in node.decorator_list))


def _reason(mark: ast.expr, constants: Mapping[str, str]) -> str | None:
    """Return why *mark* skips a test always; None if it does not."""
    call = mark if isinstance(mark, ast.Call) else None
    named = call.func if call is not None else mark
    if not isinstance(named, ast.Attribute) or named.attr not in _OFF:
        return None
    if call is None:
        return ""
    told = [word.value for word in call.keywords if word.arg == "reason"]
    told += [*call.args] if named.attr == "skip" else []
    if not told:
        return ""
    if isinstance(told[0], ast.Constant):
        return str(told[0].value or "").strip()
    if isinstance(told[0], ast.Name) and told[0].id in constants:
        return constants[told[0].id].strip()
    return ast.unparse(told[0])


def compare(rows: Mapping[str, str], tests: Sequence[Found]) -> Report:
    """Set the tests against the rows; one test that runs covers its row."""
    of = {row: [test for test in tests if row in test.rows] for row in rows}
    covered = {row: sum(test.skipped is None for test in of[row]) for row in rows}
    reasons = {
        row: "; ".join(dict.fromkeys(test.skipped for test in of[row] if test.skipped))
        for row in rows
        if of[row] and not covered[row]
    }
    return Report(
        rows=rows,
        covered={row: number for row, number in covered.items() if number},
        skipped={row: reason for row, reason in reasons.items() if reason},
        missing=tuple(row for row in rows if not of[row]),
        unreasoned=tuple(row for row, reason in reasons.items() if not reason),
        unknown=tuple(f"{t.file}: {t.name}" for t in tests if not set(t.rows) <= set(rows)),
    )


def table(report: Report) -> str:
    """Write a report for people: a line per group, then what is not covered."""
    lines = ["group  rows  covered  skipped  missing"]
    groups = dict.fromkeys(row[0] for row in report.rows)
    for group in [*groups, ""]:
        counts = [
            sum(row.startswith(group) for row in part)
            for part in (report.rows, report.covered, report.skipped, report.missing)
        ]
        counts[3] += sum(row.startswith(group) for row in report.unreasoned)
        lines.append("{:<5}{:>6}{:>9}{:>9}{:>9}".format(group or "all", *counts))
    lines += [f"skipped  {row}  {report.rows[row]}: {why}" for row, why in report.skipped.items()]
    lines += [f"missing  {row}  {report.rows[row]}" for row in report.missing]
    lines += [f"missing  {row}  skipped without a reason" for row in report.unreasoned]
    lines += [f"unknown  {test}: there is no such row" for test in report.unknown]
    return "\n".join(lines)


def look(directory: Path = HERE) -> Report:
    """Compare the rows and the tests of a directory."""
    rows = read_rows((directory / "rows.txt").read_text())
    files = sorted(directory.glob("*.py"))
    tests = [test for path in files for test in find_tests(path.read_text(), path.name)]
    return compare(rows, tests)


def main(directory: Path = HERE) -> int:
    """Print the table; return the exit code."""
    report = look(directory)
    print(table(report))
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
