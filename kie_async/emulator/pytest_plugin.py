"""The pytest fixture ``kie_emulator``: the emulated API, in a thread of its own.

A plain fixture, so it serves tests with and without asyncio::

    async def test_my_service(kie_emulator, monkeypatch):
        monkeypatch.setenv("KIE_API_KEY", kie_emulator.api_key)
        monkeypatch.setenv("KIE_BASE_URL", kie_emulator.url)
        source = kie_emulator.add_source_task()
        ...
        assert kie_emulator.books.paid == {source: 1}
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from kie_async.emulator import Books, Emulator, Rule

__all__ = ["EmulatorHandle", "kie_emulator"]

T = TypeVar("T")


class EmulatorHandle:
    """What a test sees of the emulator; safe to use from the test's thread.

    Attributes:
        url: Its address, for ``KIE_BASE_URL``.
        api_key: The only key that it accepts.
        hmac_key: What its callbacks are signed with.
    """

    def __init__(self, emulator: Emulator, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap a running emulator."""
        self._emulator = emulator
        self._loop = loop
        self.url = emulator.url
        self.api_key = emulator.api_key
        self.hmac_key = emulator.hmac_key

    @property
    def books(self) -> Books:
        """What was paid, refused and asked."""
        return self._emulator.core.books

    def inject(self, rule: Rule) -> None:
        """Add a fault."""
        self._in_its_thread(lambda: self._emulator.inject(rule))

    def clear_rules(self) -> None:
        """Forget every fault."""
        self._in_its_thread(self._emulator.core.clear_rules)

    def add_source_task(self, task_id: str | None = None) -> str:
        """Put a finished source task on record and return its id."""
        core = self._emulator.core
        return self._in_its_thread(lambda: core.add_source_task(self._emulator.now(), task_id))

    def _in_its_thread(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10)


@pytest.fixture
def kie_emulator() -> Iterator[EmulatorHandle]:
    """Run an emulated Kie API for one test; tasks take some tenths of a second."""
    from kie_async.emulator import Emulator

    ready = threading.Event()
    ending: dict[str, Any] = {}

    async def main() -> None:
        ending["loop"], ending["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with Emulator(speed=10.0) as emulator:
            ending["emulator"] = emulator
            ready.set()
            await ending["stop"].wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="kie-emulator")
    thread.start()
    if not ready.wait(timeout=10):
        raise RuntimeError("the emulator did not start")
    try:
        yield EmulatorHandle(ending["emulator"], ending["loop"])
    finally:
        ending["loop"].call_soon_threadsafe(ending["stop"].set)
        thread.join(timeout=10)
