"""Rows that something else has written: damage is told, and evidence never in the way."""

from __future__ import annotations

import pytest

from kie_async.errors import JournalCorruptError
from kie_async.journal._rows import read_attempt, read_decision, read_item, seal
from tests.fuzz.readers import ATTEMPT, DECISION, ITEM

DEEP = "[" * 100_000


@pytest.mark.parametrize("files", [DEEP, "{", "5", b"\xff", 7])
def test_file_names_that_cannot_be_read_are_damage(files):
    """No seal covers them."""
    row = list(ITEM)
    row[18] = files

    with pytest.raises(JournalCorruptError):
        read_item((*row, seal(*(ITEM[n] for n in (1, 2, 5, 6, 8)))))


@pytest.mark.parametrize("evidence", [DEEP, "{", b"\xff", 5, 1.5])
def test_evidence_that_cannot_be_read_is_shown_as_it_is(evidence):
    """It decides nothing by itself, so that a list of doubts is shown all the same."""
    attempt, decision = list(ATTEMPT), list(DECISION)
    attempt[10] = decision[5] = evidence

    assert read_attempt(tuple(attempt)).evidence == {"damaged": evidence}
    assert read_decision(tuple(decision)).evidence == {"damaged": evidence}
