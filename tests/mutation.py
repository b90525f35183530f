"""Mutation testing: small mistakes put into a package, one at a time; do its tests see them?

    python -m tests.mutation protocol                   # every mistake there is
    python -m tests.mutation limiter --sample 200       # so many of them, drawn by --seed
    python -m tests.mutation files --at _part.py:57     # those of one line again

A mistake is a comparison or a condition turned round, another number or word, another
operator, a `return None`, or a statement left out.  The tests run in a copy of the tree,
each time in a forked process that has the libraries loaded already.  What survives is
printed with its place; the exit code is 1 if fewer than ``--aim`` per cent were killed.

Left alone are annotations, decorators, and texts with a blank in them: those are for people
(or for a database, which answers nonsense by itself).
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parent.parent

TESTS: dict[str, tuple[str, ...]] = {
    "protocol": (
        "test_protocol_edges", "test_protocol_create", "test_protocol_uploads", "test_protocol",
        "test_session_uploads", "test_session_calls",
    ),
    "limiter": (
        "test_limiter_edges", "test_limiter_at_once", "test_store_limiter", "test_limiter",
        "test_limiter_stateful",
    ),
    "callbacks": (
        "test_callbacks_edges", "test_callbacks_listeners", "test_callbacks",
        "test_callbacks_attack", "test_callbacks_faces",
    ),
    "journal": (
        "test_journal_edges", "test_journal_rows", "test_journal", "test_journal_contract",
        "test_journal_crash",
    ),
    "files": (
        "test_files_edges", "test_files_fetching", "test_files_kinds", "test_files_names",
        "test_files", "test_files_faults", "test_files_crash",
    ),
}  # fmt: skip
"""Which tests answer for a package; the quick ones first."""

PRELOADED = ("pytest", "hypothesis", "aiohttp.web", "tenacity", "redis.asyncio", "PIL.Image",
             "pytest_asyncio.plugin", "pytest_timeout", "sqlite3", "unittest.mock")  # fmt: skip

_FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OTHER: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip


@frozen
class Mutant:
    """One mistake: a stretch of a file and what stands there instead."""

    path: str
    line: int
    start: int
    end: int
    old: str
    new: str

    def put_into(self, source: bytes) -> bytes:
        """Return the file with the mistake in it."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.path}:{self.line}  {' '.join(self.old.split())}  ->  {self.new}"


def mutants(path: str, source: bytes) -> Iterator[Mutant]:
    """Yield every mistake that can be put into a file, from top to bottom."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _code(ast.parse(source)):
        for place, new in _mistakes(node):
            start = starts[place.lineno - 1] + place.col_offset
            end = starts[(place.end_lineno or 0) - 1] + (place.end_col_offset or 0)
            found = Mutant(path, place.lineno, start, end, source[start:end].decode(), new)
            try:
                compile(found.put_into(source), path, "exec")
            except SyntaxError:
                continue
            yield found


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what is executed: no annotation, no decorator, no docstring, no f-string."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "bases"}:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _aside(child):
                yield from _code(child)


def _aside(node: ast.AST) -> bool:
    if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Assign):
        return any(isinstance(to, ast.Name) and to.id.startswith("__") for to in node.targets)
    if isinstance(node, ast.If):  # if TYPE_CHECKING
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _mistakes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """Yield what can be wrong at one node: where, and what is written there."""
    match node:
        case ast.Compare(left, ops, others):
            for number, op in enumerate(ops):
                other = [*ops[:number], _FLIPPED[type(op)](), *ops[number + 1 :]]
                yield node, _written(ast.Compare(left, other, others))
        case ast.BoolOp(op, values):
            yield (
                node,
                _written(ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)),
            )
        case ast.UnaryOp(ast.Not(), operand):
            yield node, _written(operand)
        case ast.BinOp(left, op, right) if type(op) in _OTHER:
            yield node, _written(ast.BinOp(left, _OTHER[type(op)](), right))
        case ast.Constant(value):
            yield from ((node, new) for new in _other_value(value))
        case ast.Return(ast.expr() as value) if not _is_none(value):
            yield node, "return None"
        case ast.Expr(ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield node, "pass"
        case ast.Assign(targets) if not isinstance(targets[0], ast.Name | ast.Tuple):
            yield node, "pass"
        case ast.Break():
            yield node, "continue"
        case ast.Continue():
            yield node, "break"
    test = getattr(node, "test", None)
    if isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Await | ast.NamedExpr):
        yield test, _written(ast.UnaryOp(ast.Not(), test))


def _other_value(value: object) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(not value)
    elif isinstance(value, int | float):
        yield f"({value!r} + 1)"
    elif isinstance(value, str) and " " not in value:
        yield repr(f"{value}X")
    elif isinstance(value, bytes):
        yield repr(value + b"X")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _written(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


# -- running -----------------------------------------------------------------------------------


def forked(copy: Path, tests: Sequence[str], patience: float, out: Path, *, write: bool) -> int:
    """Run tests in a copy of the tree, in a process of its own; return the exit code."""
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            with out.open("w") as told:
                os.dup2(told.fileno(), 1)
                os.dup2(told.fileno(), 2)
            code = _run(copy, tests, write=write)
        except BaseException:  # noqa: BLE001 - reason: told in the file; a fork must end here
            traceback.print_exc()
            code = 99
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    ends = time.monotonic() + patience
    while time.monotonic() < ends:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 98


def _run(copy: Path, tests: Sequence[str], *, write: bool) -> int:
    import hypothesis
    import pytest

    for name in [name for name in sys.modules if name.split(".")[0] in {"kie_async", "tests"}]:
        del sys.modules[name]
    sys.dont_write_bytecode = not write
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy)
    sys.path[:0] = [str(copy)]
    hypothesis.settings.register_profile(
        "mutation", max_examples=30, deadline=None, derandomize=True, database=None
    )
    options = ["-x", "-q", "--no-header", "-p", "no:cacheprovider", "-o", "addopts=",
               "-o", "timeout=40",  # what hangs is seen too, and soon
               "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip
    return int(
        pytest.main([*options, "--hypothesis-profile", "mutation", "--rootdir", str(copy), *tests])
    )


def copied(folder: Path) -> Path:
    """Copy what the tests need."""
    for name in ("kie_async", "tests", "benchmarks"):
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def tried(
    copy: Path, found: Sequence[Mutant], tests: Sequence[str]
) -> Iterator[tuple[Mutant, int]]:
    """Yield each mutant with the exit code of the tests: 0 if they saw nothing.

    Raises:
        RuntimeError: The tests fail without any mistake too.
    """
    out, began = copy / "out.txt", time.monotonic()
    if forked(copy, tests, 600.0, out, write=True):
        raise RuntimeError(f"the tests fail as things are:\n{out.read_text()[-3000:]}")
    patience = 10.0 + 2.0 * (time.monotonic() - began)
    for mutant in found:
        path = copy / mutant.path
        source = path.read_bytes()
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            cached.unlink()
        path.write_bytes(mutant.put_into(source))
        yield mutant, forked(copy, tests, patience, out, write=False)
        path.write_bytes(source)


def all_of(package: str) -> list[Mutant]:
    """Return every mutant of a package (or of a module of that name)."""
    home = ROOT / "kie_async" / package
    files = sorted(home.glob("*.py")) if home.is_dir() else [home.with_suffix(".py")]
    return [
        one for file in files for one in mutants(str(file.relative_to(ROOT)), file.read_bytes())
    ]


def asked_for(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("package", choices=sorted(TESTS))
    arguments.add_argument("--sample", type=int, help="so many mutants, drawn by chance")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--at", default="", help="only those of FILE:LINE, or of FILE")
    arguments.add_argument("--aim", type=float, default=90.0, help="per cent to be killed")
    arguments.add_argument("--tests", nargs="*", help="instead of those of the table")
    return arguments.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Try the mutants of one package; exit 1 if too many survive."""
    asked = asked_for(argv)
    file, _, line = asked.at.partition(":")
    found = [
        one
        for one in all_of(asked.package)
        if one.path.endswith(file) and (not line or one.line == int(line))
    ]
    everything = len(found)
    if asked.sample and asked.sample < everything:
        drawn = random.Random(asked.seed).sample(range(everything), asked.sample)
        found = [found[number] for number in sorted(drawn)]
    tests = asked.tests or [f"tests/{name}.py" for name in TESTS[asked.package]]
    for name in PRELOADED:
        __import__(name)
    began, killed = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="kie-mutation-") as folder:
        for mutant, code in tried(copied(Path(folder)), found, tests):
            killed += code != 0
            if code == 0:
                print(f"survived  {mutant}", flush=True)
    rate = 100.0 * killed / max(len(found), 1)
    print(f"{asked.package}: {killed} of {len(found)} killed ({rate:.1f} %), {everything} there "
          f"are, {time.monotonic() - began:.0f} s")  # fmt: skip
    return 0 if rate >= asked.aim else 1


if __name__ == "__main__":
    sys.exit(main())
