"""The pytest fixture ``kie_emulator``: the emulated API, in a thread of its own.

A plain fixture, so it serves tests with and without asyncio::

    async def test_my_service(kie_emulator, monkeypatch):
        monkeypatch.setenv("KIE_API_KEY", kie_emulator.api_key)
        monkeypatch.setenv("KIE_BASE_URL", kie_emulator.url)
        source = kie_emulator.add_source_task()
        kie_emulator.inject(route="createTask", action="fin", when="after", nth=0)
        ...
        assert kie_emulator.books.paid(source) == 1

Nothing is loaded at pytest's start; the emulator comes with the first test that asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    import asyncio

    from kie_async.emulator import Books, Emulator, Rule

__all__ = ["EmulatorHandle", "kie_emulator"]

T = TypeVar("T")
PATIENCE = 30.0  # seconds for a thread to start, stop or answer on a busy machine


class EmulatorHandle:
    """What a test sees of the emulator; safe to use from the test's thread.

    Attributes:
        url: Its address, for ``KIE_BASE_URL`` and ``KIE_UPLOAD_URL``.
        api_key: The only key that it accepts.
        hmac_key: What its callbacks are signed with.
    """

    def __init__(self, emulator: Emulator, loop: asyncio.AbstractEventLoop) -> None:
        self._emulator = emulator
        self._loop = loop
        self.url = emulator.url
        self.api_key = emulator.api_key
        self.hmac_key = emulator.hmac_key

    @property
    def books(self) -> Books:
        """What was paid, refused and asked, as it goes on."""
        return self._emulator.core.books

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The faults, in the order in which they are tried."""
        return tuple(self._emulator.rules)

    def inject(self, rule: Rule | None = None, **fields: Any) -> Rule:
        """Add a fault and return it.

        Args:
            rule: The fault; or give its fields by name.
            fields: As `kie_async.emulator.Rule`.
        """
        from kie_async.emulator import Rule

        added = Rule(**fields) if rule is None else rule
        self._in_its_thread(lambda: self._emulator.inject(added))
        return added

    def clear_rules(self) -> None:
        """Forget every fault."""
        self._in_its_thread(self._emulator.clear_rules)

    def add_source_task(self, task_id: str | None = None, **options: Any) -> str:
        """Put a finished source task on record and return its id."""
        core, now = self._emulator.core, self._emulator.now
        return self._in_its_thread(lambda: core.add_source_task(now(), task_id, **options))

    def _in_its_thread(self, work: Callable[[], T]) -> T:
        import asyncio

        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=PATIENCE)


@pytest.fixture
def kie_emulator() -> Iterator[EmulatorHandle]:
    """Run an emulated Kie API for one test; tasks take some tenths of a second."""
    import asyncio
    import threading

    from kie_async.emulator import Emulator

    started: dict[str, Any] = {}
    ready = threading.Event()

    async def main() -> None:
        started["loop"], started["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with Emulator(speed=10.0) as emulator:
            started["emulator"] = emulator
            ready.set()
            await started["stop"].wait()

    def work() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - reason: told to the test's thread
            started["error"] = error
            ready.set()

    thread = threading.Thread(target=work, name="kie-emulator", daemon=True)
    thread.start()
    if not ready.wait(timeout=PATIENCE) or "error" in started:
        raise RuntimeError("the emulator did not start") from started.get("error")
    try:
        yield EmulatorHandle(started["emulator"], started["loop"])
    finally:
        started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(timeout=PATIENCE)
    if "error" in started:
        raise RuntimeError("the emulator broke") from started["error"]
