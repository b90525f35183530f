"""Every code block of the README is executed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres_servers import POSTGRES, postgres_server

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python" and "def test_" not in code]
TESTS = [code for language, code in BLOCKS if language == "python" and "def test_" in code]
SHELL = [code for language, code in BLOCKS if language == "sh"]
SOURCES = sorted(set(re.findall(r"\b281e5b0c[0-9a-f]{24}\b", README)))


@pytest.fixture
def environment(kie_emulator, monkeypatch, tmp_path):
    """Set the key and the address of an emulator that knows the README's ids."""
    for source in SOURCES:
        kie_emulator.add_source_task(source)
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "KIE_API_KEY": kie_emulator.api_key,
        "KIE_BASE_URL": kie_emulator.url,
    }


@pytest.fixture(name="database", scope="module")
def _database() -> Iterator[str]:
    """The database of the blocks that need one."""
    if POSTGRES is None:
        pytest.skip("no PostgreSQL on this machine")
    with postgres_server() as server:
        yield server.url


def settings_for(block, environment, request) -> dict[str, str]:
    """What a block finds around it."""
    if "DATABASE" not in block:
        return environment
    return {**environment, "DATABASE": request.getfixturevalue("database")}


def test_there_is_no_block_that_nobody_runs():
    """Only Python and shell, and the commands below."""
    assert {language for language, _ in BLOCKS} <= {"python", "sh", "toml"}
    assert len(PYTHON) >= 4


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_python_block_runs(number, environment, request):
    """As it stands, against the emulator."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", PYTHON[number]],
        env=settings_for(PYTHON[number], environment, request),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert "never retrieved" not in ran.stderr


@pytest.mark.parametrize("number", range(len(TESTS)))
def test_a_block_of_tests_passes(number, tmp_path):
    """In a folder of its own, as a reader would paste it; with no plugin but ours."""
    (tmp_path / "test_pasted.py").write_text(TESTS[number])
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:xdist"]

    ran = subprocess.run(
        [*command, "-p", "no:asyncio", "-p", "no:cacheprovider", "test_pasted.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout
    assert f"{TESTS[number].count('def test_')} passed" in ran.stdout


def test_the_settings_file_is_one(environment, tmp_path):
    """Each line of it is a setting that holds."""
    (tmp_path / "kie.toml").write_text(next(c for language, c in BLOCKS if language == "toml"))

    ran = subprocess.run(
        ["kie", "config", "--json"],
        env={**environment, "KIE_CONFIG": str(tmp_path / "kie.toml")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count('"file') >= 4


def installed(block: str) -> bool:
    """True for the two blocks that make an environment first."""
    return block.startswith("python3 -m venv")


@pytest.mark.parametrize("block", [b for b in SHELL if not installed(b)])
def test_a_shell_block_runs(block, environment, request):
    """With the placeholders left out: the environment has a key, and a database."""
    ours = re.compile(r"export (KIE_API_KEY|DATABASE)=")
    script = "\n".join(line for line in block.splitlines() if not ours.match(line))

    ran = subprocess.run(
        ["bash", "-euc", script],
        env=settings_for(block, environment, request),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr


def test_the_two_commands_that_install_are_run_by_ci():
    """Word for word: the demo, and the tests (this run)."""
    ci = (ROOT / ".ci" / "run").read_text()
    installing = [block.strip() for block in SHELL if installed(block)]

    assert len(installing) == 2
    for command in installing:
        assert command in ci


def test_the_demo_of_the_readme_shows_pictures(environment, tmp_path):
    """Its last part, without the installation: exit 0, a table, and pictures that open."""
    from PIL import Image

    ran = subprocess.run(
        ["kie", "demo"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )

    assert ran.returncode == 0, ran.stderr
    pictures = sorted((tmp_path / "kie-demo").glob("*.png"))
    assert pictures
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
