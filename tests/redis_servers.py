"""Real Redis servers for tests: each in a folder of its own, on loopback, gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

__all__ = ["SERVER", "Server", "redis_server"]

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")
PATIENCE = 20.0


class Server:
    """One server process; it can be killed, stopped for a while, and started again."""

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, file: Path | None = None
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._options = options
        self._file = file  # a sentinel's settings: it writes what it learns into them
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> Redis:
        """A plain client for the test itself."""
        return Redis(port=self.port, decode_responses=True)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                SERVER or "redis-server",
                *((str(self._file), "--sentinel") if self._file else ()),
                *("--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)),
                *(() if self._file else ("--save", "", "--appendonly", "no")),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + PATIENCE
        while not _answers(self.port):
            if self._process.poll() is not None:
                raise OSError(f"port {self.port} was taken meanwhile")
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.02)

    def until(self, *command: str, said: str) -> None:
        """Ask it until it says something."""
        until = time.monotonic() + PATIENCE
        with self.client as client:
            while said not in str(client.execute_command(*command)):
                assert time.monotonic() < until, f"{command} never said {said}"
                time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGKILL, SIGSTOP, SIGCONT."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.wait()

    def cpu(self) -> float:
        """The CPU seconds that it has spent."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it, however it stands."""
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)


def _answers(port: int) -> bool:
    try:
        with Redis(port=port) as client:
            return bool(client.ping())
    except (RedisError, OSError):
        return False


@contextmanager
def redis_server(folder: Path, *options: str, file: Path | None = None) -> Iterator[Server]:
    """Run a server, or with a file of settings a sentinel."""
    for _ in range(10):
        server = Server(folder, *options, file=file)
        try:
            server.start()
        except OSError:
            continue
        break
    try:
        yield server
    finally:
        server.stop()


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
