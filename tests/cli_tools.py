"""Run `kie` against an emulator, for the tests of its commands: real sockets, real files."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kie_async.cli._app import run
from kie_async.emulator.pytest_plugin import EmulatorHandle

__all__ = ["Ended", "Kie", "kie_fixture", "until"]

KIE = [sys.executable, "-W", "error", "-m", "kie_async.cli"]
PATIENCE = 60.0


def until(true: Callable[[], object]) -> None:
    """Wait for something in another process; there is no clock to jump there."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
    """Runs `kie` in a folder, with the emulator's address and key.

    Called, it runs in this process, which is quick.  ``process`` runs it as a program, and
    ``start`` lets it run.
    """

    def __init__(
        self,
        api: EmulatorHandle,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.api, self.folder = api, folder
        self._monkeypatch, self._capsys = monkeypatch, capsys
        self._started: list[subprocess.Popen[str]] = []
        self._settings = {"KIE_BASE_URL": api.url, "KIE_API_KEY": api.api_key}

    def __call__(self, *arguments: str, given: str = "", **env: str) -> Ended:
        """Run it here; an empty variable is an unset one."""
        settings = {**self._settings, **env}
        stdin = io.TextIOWrapper(io.BytesIO(given.encode()))
        with self._monkeypatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", stdin)
            patch.chdir(self.folder)
            self._capsys.readouterr()
            code = run(arguments)
        return self._ended(code, *self._capsys.readouterr(), settings)

    def process(self, *arguments: str, given: str = "", **env: str) -> Ended:
        """Run it as a program."""
        process = self.start(*arguments, **env)
        out, err = process.communicate(given, timeout=PATIENCE)
        return self._ended(process.returncode, out, err, {**self._settings, **env})

    def start(self, *arguments: str, **env: str) -> subprocess.Popen[str]:
        """Begin one.  Read its end with ``communicate`` only: a line read before may be more."""
        here = {"PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen(
            [*KIE, *arguments],
            cwd=self.folder,
            env={**os.environ, **self._settings, **here, **env},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # A background job of a script ignores interrupts; a person's shell does not.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._started.append(process)
        return process

    @staticmethod
    def _ended(code: int, out: str, err: str, settings: dict[str, str]) -> Ended:
        """Check what holds for every end: no traceback, and no key."""
        key = settings["KIE_API_KEY"]
        assert "Traceback" not in err, err
        assert not key or key not in out + err
        return Ended(code, out, err)

    def kill(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture(name="kie")
def kie_fixture(
    kie_emulator: EmulatorHandle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Kie]:
    """Return what runs `kie` against an emulator; its key is looked for in all output."""
    kie = Kie(kie_emulator, tmp_path, monkeypatch, capsys)
    yield kie
    kie.kill()
