"""Where something was opened: its loop, its thread and its process."""

from __future__ import annotations

import asyncio
import os
from threading import get_ident

__all__ = ["Place"]


class _Forks:
    """Counts the forks that this process came from, since the first place was taken."""

    count = 0
    watched = False

    @classmethod
    def watch(cls) -> None:
        if not cls.watched and hasattr(os, "register_at_fork"):
            cls.watched = True
            os.register_at_fork(after_in_child=cls.forked)

    @classmethod
    def forked(cls) -> None:
        cls.count += 1


class Place:
    """The running loop, in this thread and this process.  What is used elsewhere is an error.

    It is asked for at each call, and twice for a create: to ask asyncio for the running
    loop is a system call, which may cost more than a microsecond.
    """

    __slots__ = ("_forks", "_pid", "_thread", "loop")

    def __init__(self) -> None:
        """Take the place; call it where a loop runs."""
        _Forks.watch()
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._forks = _Forks.count
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """True in its loop and its process."""
        if (
            self._forks == _Forks.count
            and self._thread == get_ident()
            and asyncio.current_task(self.loop) is not None
        ):
            return True  # in a task of the loop, and no fork between
        return self.same_process and self.loop is _running_loop()

    @property
    def same_process(self) -> bool:
        """True in its process, and not in a fork of it."""
        return self._pid == os.getpid()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:  # a thread without one
        return None
