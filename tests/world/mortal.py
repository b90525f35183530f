"""What makes a process die where its seed says, and do the same again."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from kie_async.journal import _connected, _journal, _writer

__all__ = ["FILES", "KILLED", "Crash", "make_mortal"]

KILLED = 137
FILES = ("", "-wal", ".lock")
"""What a journal consists of."""
SECTOR = 512
"""Bytes that a disk writes whole or not at all."""
WAL_HEADER = 32
"""Bytes of a WAL file that are synced before anything behind them is written."""


class Crash:
    """Counts steps, and ends the process at one of them.

    Args:
        at: The step; None lets the process live.
        torn: The journal, if the power shall fail in its first commit after that step.
        rng: Says which sectors of that commit are on the disk.
        cancel_at: The step at which `cancel` is called.
        copy_to: A folder for a copy of *journal*, made after the first commit of all.
    """

    def __init__(
        self,
        at: int | None,
        journal: Path,
        rng: random.Random,
        *,
        torn: bool = False,
        cancel_at: int | None = None,
        copy_to: Path | None = None,
    ) -> None:
        self.at, self.steps, self.commits = at, 0, 0
        self.cancel: Callable[[], object] = lambda: None
        self._journal, self._rng, self._torn = journal, rng, torn
        self._cancel_at, self._copy_to = cancel_at, copy_to
        self._before: list[bytes] | None = None

    def __call__(self, where: str = "") -> None:
        """One step further; maybe the last."""
        self.steps += 1
        committed = where.endswith(".after_commit")
        if committed and self._before is not None:
            self._tear(*self._before)
            os._exit(KILLED)
        if committed and self._copy_to is not None:
            self._copy(self._copy_to)
        if self.steps == self._cancel_at:
            self.cancel()
        if self.at is None or self.steps < self.at:
            return
        if not self._torn:
            os._exit(KILLED)
        if where.endswith(".before_commit"):
            self._before = [self._bytes(name) for name in FILES]

    def _bytes(self, name: str) -> bytes:
        return Path(f"{self._journal}{name}").read_bytes()

    def _copy(self, folder: Path) -> None:
        self.commits += 1
        if self.commits == 1:
            for name in FILES:
                shutil.copy(f"{self._journal}{name}", folder / f"copy{name}")

    def _tear(self, database: bytes, old: bytes, lock: bytes) -> None:
        """Leave of the last commit what was on the disk before its sync came back."""
        new = self._bytes("-wal")
        if database != self._bytes(""):
            return  # a checkpoint: the commit was synced before it began
        length = self._rng.randint(min(len(old), len(new)), len(new))
        left = bytearray(new[:WAL_HEADER])
        for start in range(0, length, SECTOR):
            one = old if self._rng.random() < 0.5 else new
            left[max(start, WAL_HEADER) :] = one[max(start, WAL_HEADER) : start + SECTOR].ljust(
                min(start + SECTOR, length) - max(start, WAL_HEADER), b"\x00"
            )
        Path(f"{self._journal}-wal").write_bytes(left)
        Path(f"{self._journal}.lock").write_bytes(lock)


def make_mortal(step: Crash) -> None:
    """Make each step of each task a step of *step*, and take the threads out."""
    run = asyncio.events.Handle._run

    def mortal(handle: asyncio.Handle) -> None:
        step()
        run(handle)

    asyncio.events.Handle._run = mortal  # type: ignore[method-assign]
    _connected.ThreadPoolExecutor = Inline  # type: ignore[misc,assignment]  # see the class
    _journal.Writer = InlineWriter  # type: ignore[misc]  # see the class
    _writer.threading.Thread = NoThread  # type: ignore[misc,assignment]  # see the class


class Inline:
    """An executor without a thread."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except BaseException as error:  # noqa: BLE001 - reason: whoever waits is told
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        """Nothing runs."""


class InlineWriter(_writer.Writer):
    """A journal's writer without its thread: the same commits, at once."""

    def _flush(self) -> None:
        batch, self._gathered = self._gathered, []
        if batch:
            self._tell(list(zip(batch, self._commits.commit(batch), strict=True)))

    async def close(self) -> None:
        """Write what was queued, and let go."""
        self._flush()
        self._commits.close()
        self._tell_closed()


class NoThread:
    """Stands for a thread that is not wanted."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        """Do nothing."""
