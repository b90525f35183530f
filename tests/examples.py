"""How long the state machines play: short in every run, as long as one likes by hand.

    KIE_TEST_EXAMPLES=5000 KIE_TEST_STEPS=50 pytest tests/test_*stateful.py

The longer play is what the promises were shown with; it takes minutes for each machine.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

__all__ = ["many", "play"]


def many(examples: int) -> int:
    """Return how many, unless the environment asks for others."""
    return int(os.environ.get("KIE_TEST_EXAMPLES", examples))


def play(examples: int, steps: int) -> settings:
    """Return settings for *examples* of *steps* each, unless the environment asks for others."""
    return settings(
        max_examples=many(examples),
        stateful_step_count=int(os.environ.get("KIE_TEST_STEPS", steps)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
