"""Kill -9 at random instants, with real processes: the short form of benchmarks/kills.py."""

from __future__ import annotations

import pytest

from benchmarks import kills


@pytest.mark.timeout(400)
def test_sixty_kills_lose_nothing_and_pay_nothing_twice():
    """Books, journal and files agree after every run."""
    total = kills.run(60, tasks=150)

    assert total["kills"] >= 60
    assert kills.passed(total), total


@pytest.mark.timeout(300)
def test_the_checker_catches_a_client_that_sends_its_doubts_again():
    """The control: without the rule of the doubts, something is paid for twice."""
    for seed in range(5):
        total = kills.run(15, tasks=150, bad=True, seed=seed)
        if total["paid twice"]:
            break

    assert not kills.passed(total), total


def test_the_file_checker_knows_a_cut_picture(tmp_path):
    """The other control."""
    from kie_async.emulator._pictures import draw, png

    picture = png(draw("x"))
    (tmp_path / "whole.png").write_bytes(picture)
    (tmp_path / "cut.png").write_bytes(picture[:-30])

    assert kills.whole(tmp_path / "whole.png")
    assert not kills.whole(tmp_path / "cut.png")
