"""Options for the whole suite: other event loops, and nothing that holds the loop up.

    pytest --loop uvloop        # or eager: every task begins at once
    pytest --blockbuster        # a blocking call of ours on a running loop fails its test
    PYTHONASYNCIODEBUG=1 pytest # asyncio's own debug mode needs no option

A loop is changed for tests marked ``asyncio``; those in virtual time bring their own.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

Loop = Callable[[], asyncio.AbstractEventLoop]

ASIDE = ("kie_async.testing", "kie_async.cli", "kie_async.emulator")
"""Not ours in this sense: they run a loop for others, own the process, or serve tests."""


def eager_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose tasks take their first step at once (Python 3.12 and later)."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # see above
    return loop


def fast_loop() -> asyncio.AbstractEventLoop:
    """Return one of uvloop's loops."""
    loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return loop


LOOPS: Mapping[str, Loop] = {
    "asyncio": asyncio.new_event_loop,
    "eager": eager_loop,
    "uvloop": fast_loop,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    group = parser.getgroup("hygiene")
    group.addoption("--loop", choices=sorted(LOOPS), default="asyncio", help="the event loop")
    group.addoption("--blockbuster", action="store_true", help="no blocking call on the loop")


class OtherLoop:
    """Answers pytest-asyncio; only there if another loop is asked for: it changes tests' ids."""

    def pytest_asyncio_loop_factories(self, config: pytest.Config) -> Mapping[str, Loop]:
        """Return the one loop that tests run on."""
        name = config.getoption("--loop")
        return {name: LOOPS[name]}


def asyncio_only() -> None:
    """Skip a test whose fake of `socket.getaddrinfo` uvloop never asks."""
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop looks names up by itself")


def choose_loop(config: pytest.Config) -> None:
    """Take the loop that was asked for."""
    if config.getoption("--loop") != "asyncio":
        config.pluginmanager.register(OtherLoop())


def _caller() -> str:
    """Return the place in kie_async that the call came from."""
    frames = [
        one for one in traceback.extract_stack() if f"{os.sep}kie_async{os.sep}" in one.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"


@contextmanager
def never_blocking() -> Iterator[list[str]]:
    """Let blocking calls of kie_async on a running loop fail; yield what was called.

    The list matters: an error may be caught and told of as another.
    """
    from blockbuster import BlockBuster, blockbuster

    called: list[str] = []

    class Noted(blockbuster.BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            called.append(f"{func} by {_caller()}")

    detector = BlockBuster(["kie_async"], excluded_modules=ASIDE)
    for function in detector.functions.values():
        function.can_block_in("logging/__init__.py", {"callHandlers"})  # the owner's handlers
        function.can_block_in("redis/utils.py", {"get_lib_version"})  # for each connection
        function.can_block_in("psycopg/_tz.py", {"get_tzinfo"})  # for each time zone, once
    # One folder for a run without a journal of the user's: made in a thread, it could stay
    # behind when the run is cancelled meanwhile.
    for name in ("os.mkdir", "os.path.abspath", "os.getcwd"):
        detector.functions[name].can_block_in("tempfile.py", {"mkdtemp"})
    with mock.patch.object(blockbuster, "BlockingError", Noted):
        detector.activate()
        try:
            yield called
        finally:
            detector.deactivate()


@pytest.fixture(autouse=True)
def _no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """Watch each test, if that was asked for."""
    if not request.config.getoption("--blockbuster") or request.node.get_closest_marker("blocks"):
        yield
        return
    with never_blocking() as called:
        yield
    assert called == [], f"blocked the loop: {sorted(set(called))}"
