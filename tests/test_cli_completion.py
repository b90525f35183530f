"""`kie completion`: what a shell is told, and that it is told at once."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kie_async.cli._app import SECTIONS, run

ROOT = Path(__file__).parents[1]


def completed(*words: str) -> list[str]:
    """Return what is offered for the last word, by the program itself."""
    ended = subprocess.run(
        [sys.executable, "-m", "kie_async.cli"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_KIE_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["kie", *words]),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
    return [line.partition(",")[2] for line in ended.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["do"], ["download", "doctor"]),
        (["upscale", "--re"], ["--resolution"]),
        (["upscale", "--resolution", ""], ["720p", "1080p"]),
        (["run", "grok-imagine/te"], ["grok-imagine/text-to-image", "grok-imagine/text-to-video"]),
        (["models", "grok-imagine/up"], ["grok-imagine/upscale"]),
        (["run", "grok-imagine/text-to-video", "-i", "mo"], ["mode="]),
        (["run", "grok-imagine/text-to-video", "-i", "mode=s"], ["mode=spicy"]),
        (["run", "grok-imagine/text-to-video", "-i", "prompt="], []),
        (["run", "some/other", "-i", "x"], []),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_the_next_word_is_offered(words, offered):
    """Commands, options, choices, models and their fields; exactly those."""
    assert completed(*words) == offered


def test_every_command_is_offered():
    """In the order of the help."""
    names = [name for entries in SECTIONS.values() for name in entries]

    assert completed("") == names


def test_offering_loads_nothing_that_only_work_needs():
    """A key is pressed, and the answer is there."""
    code = (
        "import sys; sys.argv = ['kie']\n"
        "from kie_async.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'aiohttp', 'tenacity', 'rich', 'sqlite3', 'kie_async.emulator'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    environment = {**os.environ, "_KIE_COMPLETE": "bash_complete", "PYTHONPATH": str(ROOT)}
    environment |= {"COMP_WORDS": "kie run grok", "COMP_CWORD": "2"}

    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )

    assert "grok-imagine/upscale" in ended.stdout
    assert ended.stderr == "[]\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell, capsys):
    """With nothing else on stdout, so that it can go into a file."""
    assert run(["completion", shell]) == 0

    told = capsys.readouterr()
    assert f"_KIE_COMPLETE={shell}_complete" in told.out
    assert told.err == ""


def test_an_unknown_shell_is_wrong_usage(capsys):
    """With those that there are."""
    assert run(["completion", "csh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_completes(tmp_path, capsys):
    """The script is sourced by a real bash, and its function asked."""
    program = tmp_path / "kie"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m kie_async.cli "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert run(["completion", "bash"]) == 0
    script = tmp_path / "complete.bash"
    script.write_text(capsys.readouterr().out)

    ask = (
        f'source "{script}" && COMP_WORDS=(kie jo) && COMP_CWORD=1 && _kie_completion kie '
        '&& echo "${COMPREPLY[@]}" && complete -p kie && grep -c "compopt -o nospace" '
        f'"{script}"'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "--norc", "-c", ask],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert ended.stderr == ""
    assert ended.stdout.splitlines()[0] == "journal"
    assert "-F _kie_completion kie" in ended.stdout
    assert ended.stdout.splitlines()[-1] == "1"
