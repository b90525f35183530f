"""The architecture: what may import what.  The table here *is* the document."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "kie_async"

FLOORS = (
    ("words", {"errors", "models"}),
    ("rules", {"grok_imagine", "protocol", "retry", "polling", "limiter", "instrumentation"}),
    ("hands", {"transport", "redis_limiter", "journal", "postgres", "callbacks"}),
    ("service", {"files", "session", "bulk", "worker"}),
    ("edges", {"cli", "report", "emulator", "integrations", "testing", "redis_doorbell"}),
)
FLOOR = {module: number for number, (_, names) in enumerate(FLOORS) for module in names}

# The imports within a floor, each with its reason.
SAME_FLOOR = {
    ("models", "errors"),  # checks of plain input raise UsageError
    ("session", "files"),  # `KieSession.download` is a front of it, loaded when called
    ("session", "bulk"),  # `KieSession.upscale_many` is a front of it, loaded when called
    ("session", "worker"),  # `KieSession.work` is a front of it, loaded when called
    ("bulk", "files"),
    ("worker", "bulk"),  # what becomes of one item is the same
    ("postgres", "journal"),  # the same records under the same rules, kept elsewhere
    ("cli", "emulator"),
    ("cli", "integrations"),
    ("cli", "report"),
    ("testing", "emulator"),
}

# A foreign package, and the one module that may import it.
ONLY_IN = {
    "tenacity": {"retry"},
    "sqlite3": {"journal"},
    "redis": {"redis_limiter", "redis_doorbell"},
    "psycopg": {"postgres", "worker"},  # the worker's engine shares the journal's connection
    "psycopg_pool": {"worker"},
    "procrastinate": {"worker"},
    "click": {"cli"},
    "rich": {"cli"},
    "opentelemetry": {"integrations"},
}
AIOHTTP_CLIENT_IN = {"transport", "session", "emulator"}  # session: for the type of `http=`


def sources() -> Iterator[tuple[str, Path]]:
    """Yield each module's name on its floor, and each of its files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield parts[0], path


def imports(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports when it runs, at any depth."""
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # names for types: nothing of it is there at run time
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def test_every_module_has_a_floor():
    """A new module is put on a floor before it is used."""
    assert {module for module, _ in sources()} <= set(FLOOR)


def test_modules_import_only_from_floors_below():
    """No import goes up, and none goes across a floor."""
    wrong = []
    for module, path in sources():
        for name in imports(path):
            other = name.split(".")[1] if name.startswith("kie_async.") else None
            if other is None or other == module or other not in FLOOR:
                continue
            allowed = FLOOR[other] < FLOOR[module] or (module, other) in SAME_FLOOR
            if not allowed:
                wrong.append(f"{path.relative_to(PACKAGE)} imports {name}")
    assert not wrong


def test_the_emulator_shares_no_rule_with_the_client():
    """It is a second reading of the facts: a mistake of ours must not be its own too."""
    for module, path in sources():
        if module == "emulator":
            foreign = [
                n
                for n in imports(path)
                if n.startswith("kie_async.") and not n.startswith("kie_async.emulator")
            ]
            assert not foreign, path


def test_the_session_does_not_know_the_journal():
    """Durability belongs to bulk."""
    for module, path in sources():
        if module in {"session", "files"}:
            assert not [n for n in imports(path) if n.startswith("kie_async.journal")], path


@pytest.mark.parametrize(("package", "homes"), ONLY_IN.items(), ids=list(ONLY_IN))
def test_a_foreign_package_is_imported_in_one_module(package: str, homes: set[str]):
    """What may change outside touches one place inside."""
    for module, path in sources():
        if module not in homes:
            assert not [n for n in imports(path) if n.split(".")[0] == package], path


def test_only_the_transport_imports_the_http_client():
    """Everybody else asks the transport."""
    for module, path in sources():
        if module not in AIOHTTP_CLIENT_IN | {"callbacks", "integrations"}:
            assert not [n for n in imports(path) if n.split(".")[0] == "aiohttp"], path


def test_importing_the_package_imports_nothing_heavy():
    """aiohttp, tenacity, sqlite3 and the command line's packages come when they are used."""
    heavy = "aiohttp tenacity sqlite3 click rich redis ssl importlib.metadata"
    code = f"import sys, kie_async; print([n for n in {heavy.split()!r} if n in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loaded = set(ast.literal_eval(shown.stdout)) - {"ssl"}  # asyncio itself brings ssl
    assert loaded == set()


def test_every_module_has_its_test_file():
    """Where the tests of a module are is no question."""
    tests = {path.stem for path in Path(__file__).parent.glob("test_*.py")}
    modules = {module for module, _ in sources()}
    assert not {m for m in modules if not any(t.startswith(f"test_{m}") for t in tests)}


@pytest.mark.parametrize("path", [p for _, p in sources()], ids=lambda p: p.name)
def test_files_and_functions_are_short(path: Path):
    """A file has at most 400 lines and a function at most 50: one screen, one idea."""
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1 - docstring.count("\n")
            assert lines <= 50, node.name


def test_all_is_exact():
    """`__all__` names what is public, sorted, and all of it exists."""
    import kie_async

    for name in kie_async.__all__:
        assert hasattr(kie_async, name)
    assert kie_async.__all__ == sorted(kie_async.__all__)
