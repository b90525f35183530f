"""Some worlds of `tests.world`; ten thousand of them are a command."""

from __future__ import annotations

import pytest

from tests import world


@pytest.mark.parametrize("seed", range(6))
def test_a_world_of_crashes_and_faults_keeps_the_books(seed):
    """Nothing lost, nothing paid twice, and the journal says what is."""
    wrong, figures = world.run(seed, 60)

    assert wrong == []
    assert figures["done"] + figures["failed"] + figures["in_doubt"] == 60


def test_a_seed_does_again_what_it_did():
    """A world that went wrong can be looked at."""
    assert world.run(3, 40) == world.run(3, 40)


def test_the_checker_catches_a_run_that_sends_its_doubts_again():
    """The same worlds, with doubts put back to planned after each crash."""
    wrong = [text for seed in range(6) for text in world.run(seed, 60, bad=True)[0]]

    assert any("paid for 2 times" in text for text in wrong)
