"""The makespan benchmark, in small: the limit is kept, and not wasted."""

from __future__ import annotations

import pytest

from benchmarks.makespan import LIMIT, OURS, SERVERS, Row, Server, ideal, rows, simulate

EXACT = ("exact log", "log, refused count", "fixed window", "token bucket")


@pytest.mark.parametrize("seed", [1, 2])
def test_the_shipped_limiter_is_never_refused_and_hardly_waits(seed: int):
    """0 refused and at most 1.025 of the ideal; the first 20 leave within 50 ms."""
    found = {row.server: row for row in rows(1000, [OURS], seed)}

    assert set(found) == set(SERVERS)
    for server in EXACT:
        assert found[server].refused == 0
        assert 1.0 < found[server].ratio <= 1.025
        assert found[server].first_burst <= 0.050


def test_a_server_that_weighs_the_previous_window_teaches_us_at_once():
    """After the first refusals the turns are spread, and hardly any more follow."""
    short, long = (simulate(OURS, "sliding counter", items) for items in (500, 3000))

    assert 0 < short.refused <= 15
    assert long.refused - short.refused <= 10


@pytest.mark.parametrize("policy", ["token bucket", "leaky bucket", "semaphore, full jitter"])
def test_the_control_is_refused(policy: str):
    """A broken server would refuse nobody, and our zero would mean nothing."""
    row: Row = simulate(policy, "exact log", 400)

    assert row.refused > 10


def test_the_ideal_is_the_limit_itself():
    """One window for each LIMIT items after the first, and the last one's duration."""
    assert ideal([15.0] * (3 * LIMIT)) == 35.0
    assert ideal([15.0] * (3 * LIMIT + 1)) == 45.0


def admitted(server: Server, *arrivals: float) -> list[int]:
    """Return how many of 20 requests the server takes at each of these times."""
    return [sum(server.takes(at) for _ in range(20)) for at in arrivals]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("exact log", [20, 0, 20, 0]),
        ("log, refused count", [20, 0, 0, 0]),
        ("fixed window", [20, 0, 20, 0]),
        ("token bucket", [20, 10, 10, 18]),
        ("sliding counter", [20, 0, 1, 18]),
        ("strict counter", [20, 0, 0, 18]),
    ],
)
def test_the_servers_are_what_they_are_called(kind: str, expected: list[int]):
    """Twenty at 0 s, at 5 s, just after 10 s and just after 19 s."""
    assert admitted(SERVERS[kind](0.0), 0.0, 5.0, 10.01, 19.02) == expected
