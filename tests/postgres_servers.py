"""Real PostgreSQL servers for tests: each in a folder of its own, on loopback, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.redis_servers import free_port

__all__ = ["POSTGRES", "Postgres", "postgres_server"]

PATIENCE = 60.0


def _programs() -> Path | None:
    """Where Debian and others keep the server's programs; the newest one there is."""
    there = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if there:
        return there[-1].parent
    found = shutil.which("initdb")
    return Path(found).parent if found else None


POSTGRES = _programs()

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "fsync": "off",  # its process is killed, never the machine
    "full_page_writes": "off",
    "log_min_messages": "panic",
}


class Postgres:
    """One server; it can be killed, stopped for a while, and started again.

    It refuses to run as root, so then it runs as the user that its package made.
    """

    def __init__(self, folder: Path) -> None:
        assert POSTGRES is not None
        self.folder = folder
        self.port = free_port()
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        subprocess.run(
            [
                *(POSTGRES / "initdb", "--pgdata", self._data, "--username", "kie"),
                *("--auth", "trust", "--encoding", "UTF8", "--no-locale", "--no-sync"),
            ],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **self._as,
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://kie@127.0.0.1:{self.port}/postgres"

    def connect(self) -> psycopg.Connection[Any]:
        """A plain connection for the test itself."""
        return psycopg.connect(self.url, autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert POSTGRES is not None
        settings = [f"-c{name}={value}" for name, value in _SETTINGS.items()]
        self._process = subprocess.Popen(
            [POSTGRES / "postgres", "-D", self._data, "-p", str(self.port), *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            **self._as,
        )
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            if self._process.poll() is not None:
                raise OSError("the server ended")
            assert time.monotonic() < until, "the server did not start"
            time.sleep(0.05)

    def signal_all(self, number: signal.Signals) -> None:
        """Signal its first process and all that it has started."""
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def cpu(self) -> float:
        """The CPU seconds that it has spent, with all that it has started."""
        ticks = 0
        for place, pid in enumerate(self._pids()):
            with contextlib.suppress(FileNotFoundError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, fields[11 : 13 if place else 15]))  # its own; the first
        return ticks / os.sysconf("SC_CLK_TCK")  # one's also of those that have ended

    def _pids(self) -> list[int]:
        assert self._process is not None
        first = self._process.pid
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    def stop(self) -> None:
        """End it at once, as a crash does: every connection breaks."""
        if self._process is not None and self._process.poll() is None:
            self.signal_all(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(PATIENCE)


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """Run a server in a folder that its own user can read."""
    folder = Path(tempfile.mkdtemp(prefix="kie-pg-"))
    try:
        server = Postgres(folder)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
