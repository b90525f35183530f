"""A thousand creates over real sockets, five in a hundred of the answers lost."""

from __future__ import annotations

import pytest

from kie_async import KieSession, OutcomeStatus, PollSchedule, SlidingWindowLimiter
from kie_async.emulator import Emulator, Rule
from kie_async.journal import ItemState, Journal

LOSSES = [
    {"action": "fin"},
    {"action": "rst"},
    {"action": "silence"},
    {"action": "html", "status": 502},
    {"action": "html", "status": 524},
]


@pytest.mark.asyncio
async def test_no_lost_answer_is_paid_for_twice_and_each_is_listed(tmp_path):
    """FIN, RST, silence, HTML 502, HTML 524, each after the task was created."""
    ids = [f"source-{n:04}" for n in range(1000)]
    async with Emulator(rate=(10_000, 1.0), credits=1e6, durations=lambda _rng: 0.05) as emulator:
        for number, loss in enumerate(LOSSES):
            struck = tuple(range(10 + number, 1000, 100))  # ten of each kind: 5 % in all
            emulator.inject(Rule(route="createTask", when="after", nth=struck, **loss))
        kie = KieSession(
            emulator.api_key,
            base_url=emulator.url,
            limiter=SlidingWindowLimiter(400, 0.1),
            poll_limiter=SlidingWindowLimiter(400, 0.1),
            polling=PollSchedule(first_gap=0.1, min_gap=0.05),
            request_timeout=5.0,  # a busy machine answers late, too
        )
        async with Journal(tmp_path / "run.db") as journal, kie:
            first = [o async for o in kie.upscale_many(ids, journal=journal)]
            again = [o async for o in kie.upscale_many(ids, journal=journal)]
            doubts = {doubt.item.source_id async for doubt in journal.doubts()}
            counts = await journal.counts()
        paid = dict(emulator.books.paid)

    in_doubt = {o.source_id for o in first if o.status is OutcomeStatus.IN_DOUBT}
    assert paid == dict.fromkeys(ids, 1)
    assert len(in_doubt) == 50
    assert doubts == in_doubt
    assert again == []
    assert (counts.done, counts.in_doubt) == (950, 50)
    assert ItemState.SENDING.value not in {str(o.status) for o in first}
