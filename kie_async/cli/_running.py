"""Run a command's coroutine, and stop it as a person expects.

The first Ctrl-C (or SIGTERM) asks the work to end in good order; the second one leaves at
once.  Handlers are plain signal handlers: they also work where a loop takes none.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from types import FrameType

__all__ = ["Stop", "run"]

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)


class Stop:
    """Somebody asked to stop, or has not yet."""

    def __init__(self) -> None:
        """Belong to the running loop."""
        self._event = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.signal: int | None = None
        self.last_words: Callable[[], str] = lambda: ""

    @property
    def asked(self) -> bool:
        """True once a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's code for an end by this signal."""
        return 128 + (self.signal or 0)

    async def wait(self) -> None:
        """Return when somebody asked to stop."""
        await self._event.wait()

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the first signal; leave on the second."""
        if self.asked:
            try:
                # Not through sys.stderr: the signal may have come while it was writing.
                os.write(2, self.last_words().encode(errors="backslashreplace"))
            finally:
                os._exit(128 + number)
        self.signal = number
        self._loop.call_soon_threadsafe(self._event.set)


def run(work: Callable[[Stop], Awaitable[int]]) -> int:
    """Run *work* to its end and return its exit code, or the signal's."""

    async def guarded() -> int:
        stop = Stop()
        kept = {}
        for number in SIGNALS:
            # Ignored: by nohup, or for a background job of a script.  None: not ours.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                kept[number] = signal.signal(number, stop.handle)
        try:
            code = await work(stop)
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)
        return stop.exit_code if stop.asked else code

    return asyncio.run(guarded())
