"""Callbacks under attack: a hundred thousand tries, none accepted, memory flat."""

from __future__ import annotations

import base64
import gc
import logging
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from kie_async.callbacks import CallbackReceiver, Reply
from tests.callback_tools import NOW, content, post, receiver, signed

TRIES = 100_000
Attack = Callable[[random.Random, int], tuple[str, str, dict[str, str], bytes]]


@pytest.fixture(autouse=True)
def _log_of_refusals_is_off(caplog):
    """Keep pytest from keeping a record of each refusal: that is not our memory."""
    with caplog.at_level(logging.INFO, logger="kie_async"):
        yield


def _told(number: int, **headers: str) -> tuple[str, str, dict[str, str], bytes]:
    return "POST", "/kie/cb", signed(f"t{number}", **headers), content(f"t{number}")


def wrong_key(_rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Sign with a key that is not ours."""
    task_id = f"t{number}"
    return "POST", "/kie/cb", signed(task_id, key=f"guess-{number}"), content(task_id)


def one_bit_off(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Flip a bit of a true digest."""
    method, path, headers, body = _told(number)
    digest = bytearray(base64.b64decode(headers["X-Webhook-Signature"]))
    digest[rng.randrange(32)] ^= 1 << rng.randrange(8)
    headers["X-Webhook-Signature"] = base64.b64encode(digest).decode()
    return method, path, headers, body


def other_time(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Refresh the time of a true signature."""
    return _told(number, **{"X-Webhook-Timestamp": str(int(NOW) + rng.choice([-9, 1, 60]))})


def too_old(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Send a true one that is out of time, on either side."""
    at = NOW + rng.choice([-1, 1]) * rng.randint(301, 10**6)
    return "POST", "/kie/cb", signed(f"t{number}", at=at), content(f"t{number}")


def other_task(_rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Use a true signature for another task, in all fields or in one of them."""
    headers = signed("known")
    body = content(f"t{number}", **({"taskId": "known"} if number % 2 else {}))
    return "POST", "/kie/cb", headers, body


def moved_dot(_rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Move the border between id and time."""
    headers = signed(f"t{number}.1790000000")
    headers["X-Webhook-Timestamp"] = "1790000000"
    return "POST", "/kie/cb", headers, content(f"t{number}.1790000000")


def unsigned(_rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Send no signature."""
    return "POST", "/kie/cb", {}, content(f"t{number}")


def junk_reference(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Guess a reference, under a true signature."""
    _, _, headers, body = _told(number)
    return "POST", f"/kie/cb/{rng.randbytes(21).hex()}", headers, body


def mutated_body(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Change bytes where the id stands, or cut the body off."""
    method, path, headers, body = _told(number)
    if number % 2:
        return method, path, headers, body[: rng.randrange(len(body))]
    at = body.index(b'"taskId"') + rng.randrange(13)
    return method, path, headers, body[:at] + bytes([body[at] ^ 0x80]) + body[at + 1 :]


def replay(_rng: random.Random, _number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Send again what was accepted."""
    return "POST", "/kie/cb", signed("known"), content("known")


def replay_with_news(rng: random.Random, number: int) -> tuple[str, str, dict[str, str], bytes]:
    """Send what was accepted again, with another state and foreign URLs."""
    state = rng.choice(["fail", "waiting", f"word{number}"])
    return "POST", "/kie/cb", signed("known"), content("known", state, resultUrls=["http://evil"])


ATTACKS: tuple[Attack, ...] = (
    wrong_key,
    one_bit_off,
    other_time,
    too_old,
    other_task,
    moved_dot,
    unsigned,
    junk_reference,
    mutated_body,
    replay,
    replay_with_news,
)


def attacked(to: CallbackReceiver, tries: int, seed: int) -> list[Reply]:
    """Return the replies that let something through."""
    rng = random.Random(seed)
    through = []
    for number in range(tries):
        attack = ATTACKS[number % len(ATTACKS)]
        reply = to.handle(*attack(rng, number))
        refused = 400 <= reply.status < 500 and reply.refusal is not None
        if reply.event is not None or not (refused or attack in (replay, replay_with_news)):
            through.append(reply)
    return through


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_each_attack_fails_by_itself(attack):
    """Each is tried alone, and its control passes: the same callback, true."""
    to = receiver()
    post(to, "known")

    replies = [to.handle(*attack(random.Random(seed), seed)) for seed in range(50)]

    assert [reply.event for reply in replies] == [None] * 50
    assert to.pending == 1
    assert post(to, "t0").event is not None


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_hundred_thousand_attacks_let_nothing_through():
    """Forged, replayed, mutated: none is accepted, and nothing is kept of them."""
    to = receiver()
    post(to, "known")
    attacked(to, 1_000, seed=1)
    gc.collect()
    before = resident() if Path("/proc/self/statm").exists() else None

    through = attacked(to, TRIES, seed=2)

    assert through == []
    assert to.pending == 1
    assert not to.seen("t5")
    if before is not None:
        assert resident() - before < 16 * 2**20


def test_nothing_is_kept_of_an_attack():
    """Less than 14 bytes for each of five thousand: not the smallest object."""
    to = receiver()
    post(to, "known")
    attacked(to, 1_000, seed=1)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        attacked(to, 5_000, seed=3)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()

    assert grown < 64 * 2**10


def test_ten_thousand_in_three_copies_have_ten_thousand_effects():
    """The same bytes, and the same news signed a little later, in any order."""
    to = receiver()
    copies = [(f"t{number}", late) for number in range(10_000) for late in (0, 0, 30)]
    random.Random(4).shuffle(copies)

    replies = [post(to, task_id, at=NOW + late) for task_id, late in copies]

    assert {reply.status for reply in replies} == {200}
    rung = [reply.event.task_id for reply in replies if reply.event is not None]
    assert sorted(rung) == sorted(f"t{number}" for number in range(10_000))


def test_a_full_memory_has_its_bound():
    """At most a kilobyte for a task and its reference: 100 MiB for the default 100,000."""
    limit = 3_000
    to = receiver(max_pending=limit)
    references = [to.new_callback_url().reference for _ in range(3 * limit)]
    tracemalloc.start()
    try:
        for number, reference in enumerate(references[:limit]):
            post(to, f"{number:032x}", path=f"/kie/cb/{reference}")
        full = tracemalloc.get_traced_memory()[0]
        for number, reference in enumerate(references[limit:]):
            post(to, f"{number:031x}a", path=f"/kie/cb/{reference}")
        later = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()

    assert full / limit < 1024
    assert later / limit < 1024
