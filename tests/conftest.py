"""What all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from kie_async import limiter
from tests.hygiene import _no_blocking, choose_loop, pytest_addoption

__all__ = ["_no_blocking", "pytest_addoption"]  # pytest finds them here

CANARY_KEY = "canary-key-7f3a91c2d4"  # searched for after the suite: see test_secrets.py
CANARY_HMAC = "canary-hmac-55b0e8aa17"

# A busy machine is slow at everything; that says nothing of the code.
settings.register_profile("kie", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kie")

_leaks: list[str] = []


class _LeakFinder(logging.Handler):
    """Reads every log record of the suite, at DEBUG, for the canaries."""

    def emit(self, record: logging.LogRecord) -> None:
        """Note the record if a canary is in it."""
        text = self.format(record)
        if CANARY_KEY in text or CANARY_HMAC in text:
            _leaks.append(f"{record.name}: a canary in a log record")


def pytest_configure(config: pytest.Config) -> None:
    """Listen at DEBUG from the first test to the last."""
    choose_loop(config)
    for name in ("kie_async", "aiohttp", "asyncio"):
        found = logging.getLogger(name)
        found.addHandler(_LeakFinder(logging.DEBUG))
        found.setLevel(logging.DEBUG)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a key was logged anywhere in it."""
    if _leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        raise pytest.UsageError("\n".join(sorted(set(_leaks))))


@pytest.fixture(autouse=True)
def _fresh_limiters() -> Iterator[None]:
    """Give each test its own shared limiters: virtual clocks start at zero again."""
    limiter._shared.clear()
    yield
    limiter._shared.clear()


@pytest.fixture(autouse=True)
def _no_key_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's own settings out of the tests."""
    for name in ("KIE_API_KEY", "KIE_BASE_URL", "KIE_UPLOAD_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KIE_CONFIG", os.devnull)
