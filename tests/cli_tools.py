"""Run `kie` as a program against an emulator, for the tests of its commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kie_async.emulator.pytest_plugin import EmulatorHandle

__all__ = ["Ended", "Kie", "kie_fixture"]

KIE = [sys.executable, "-W", "error", "-m", "kie_async.cli"]
PATIENCE = 60.0


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Stdout as JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The objects of one event."""
        return [each for each in self.objects if each["event"] == name]


class Kie:
    """Starts `kie` in a folder, with the emulator's address and key; what it prints is kept."""

    def __init__(self, api: EmulatorHandle, folder: Path) -> None:
        self.api, self.folder = api, folder
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **os.environ,
            "KIE_BASE_URL": api.url,
            "KIE_API_KEY": api.api_key,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Begin one; an empty variable is an unset one."""
        process = subprocess.Popen(
            [*KIE, *arguments],
            cwd=self.folder,
            env={**self.environment, **env},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A background job of a script ignores interrupts; a person's shell does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self.started.append(process)
        return process

    def __call__(self, *arguments: str, given: str = "", **env: str) -> Ended:
        """Run one to its end; it never shows a traceback nor the key."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(given, timeout=PATIENCE)
        assert "Traceback" not in err, err
        key = {**self.environment, **env}["KIE_API_KEY"]
        assert not key or key not in out + err
        return Ended(process.returncode, out, err)

    def kill(self) -> None:
        """End what still runs."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture(name="kie")
def kie_fixture(kie_emulator: EmulatorHandle, tmp_path: Path) -> Iterator[Kie]:
    """Return what runs `kie` against an emulator; its key is looked for in all output."""
    kie = Kie(kie_emulator, tmp_path)
    yield kie
    kie.kill()
