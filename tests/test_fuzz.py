"""Short forms of `python -m tests.fuzz`, so that its targets and its checkers stay true."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.callback_tools import receiver
from tests.fuzz import guided
from tests.fuzz.mutate import mutated
from tests.fuzz.mutated_runs import feed
from tests.fuzz.posts import post_many
from tests.fuzz.readers import BAD as BAD_READERS
from tests.fuzz.readers import READERS
from tests.fuzz.server import answer
from tests.fuzz.sockets import BAD as BAD_CLIENTS
from tests.fuzz.sockets import ENDPOINTS, attack, served

SLACK = 30.0
"""Seconds for a machine that does much else: a hang has none of them."""

# -- readers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READERS)
def test_a_reader_keeps_its_word_for_mutated_inputs(name):
    """True ones, hostile ones, and hundreds that are nearly true."""
    report = feed(name, READERS[name], 200)

    assert report.foreign == {}


@pytest.mark.parametrize("name", READERS)
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: b"\x00" + text.encode()))
@settings(max_examples=40, deadline=None)
def test_a_reader_keeps_its_word_for_any_bytes(name, data):
    """Whatever hypothesis thinks of."""
    READERS[name].target(data)


def test_a_naive_reader_is_caught():
    """The same inputs make many kinds of exceptions where nobody minds."""
    report = feed("naive", BAD_READERS["naive"], 2000)

    assert len(report.foreign) >= 6
    assert any("came out" in fault for fault in report.faults())


def test_the_same_seed_gives_the_same_input():
    """A failure is told by reader, seed and number."""
    seeds = READERS["task"].seeds

    one, other = ([mutated(random.Random(f"{n}"), seeds) for n in range(50)] for _ in range(2))

    assert one == other
    assert len(set(one)) > 40


def test_without_atheris_the_guided_form_says_so(monkeypatch, capsys):
    """It is installed by who runs it, and by nobody else."""
    monkeypatch.setattr(guided.importlib.util, "find_spec", lambda _name: None)

    assert guided.guided("task", 1) == 2
    assert "pip install atheris" in capsys.readouterr().out


# -- answers over sockets ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Run one server for all."""
    with served() as address:
        yield address


@pytest.mark.asyncio
async def test_mutated_answers_end_in_time_as_documented(url):
    """Of each call, over real sockets."""
    for endpoint in ENDPOINTS:
        report = await attack(url, endpoint, 80, slack=SLACK)

        assert report.faults() == []
        assert len(report.ends) >= 5


@pytest.mark.asyncio
@pytest.mark.parametrize(("bad", "told"), [("naive", "came out"), ("hoarding", "memory grew")])
async def test_a_bad_client_is_caught(url, bad, told):
    """One that reads naively, and one that keeps what came."""
    report = await attack(url, "task", 120, client=BAD_CLIENTS[bad], warm=20)

    assert any(told in fault for fault in report.faults())


@pytest.mark.asyncio
async def test_bombs_drips_and_endless_answers_cost_neither_time_nor_memory():
    """One after the other, and many at once; and a client without a deadline is caught."""
    with served(rare=True) as url:
        report = await attack(url, "task", 40, slack=SLACK, warm=20)
        bad = await attack(url, "task", 20, client=BAD_CLIENTS["patient"])

    assert report.faults() == []
    assert set(report.ends) <= {"KieConnectionError", "ResponseError", "a value"}
    assert any("took longer" in fault for fault in bad.faults())


def test_an_answer_follows_from_its_seed():
    """The server can be asked for one again."""
    for number in range(100):
        one, other = (list(answer(random.Random(number), "task")) for _ in range(2))
        assert one == other


# -- callbacks --------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_mutated_callbacks_are_answered_and_none_unproven_is_let_through():
    """By both ways in."""
    report = await post_many(1500)

    assert report.foreign == {}
    assert report.wrong == []
    assert {"200", "400", "401"} <= set(report.ends)


@pytest.mark.asyncio
async def test_a_receiver_that_asks_for_no_signature_is_caught():
    """What it lets through, nobody has signed."""
    report = await post_many(200, to=receiver(require_signature=False, hints_per_second=1000.0))

    assert any("was let through" in fault for fault in report.faults())
