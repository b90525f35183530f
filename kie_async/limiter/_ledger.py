"""What a process knows of its turns, and what it has yet to tell the store of them.

The store may be away, or hang and then do what was asked of it long ago.  So whatever is to
be told stays here until a call has had its answer, and when the store is back it is told of
everything that may still count there.
"""

from __future__ import annotations

import itertools
import secrets
from collections import deque
from collections.abc import Sequence

from kie_async.limiter._ask import Ask
from kie_async.limiter._own import OwnTurns

__all__ = ["Ledger"]

CARRIED = 500
"""Turns wanted, or ends told, in one call: a script that runs long holds up everybody."""


class Ledger:
    """The turns of one process.  Times are by the loop's clock, in seconds.

    Calls are made one after another: the next one is made of what the last one has told, or
    has not.  `end` may be called in any thread.
    """

    def __init__(self, span: float, lease: float) -> None:
        """There are no turns yet."""
        self._span = span
        self._lease = lease
        self._process = ""
        self._numbers = itertools.count()
        self._calls = itertools.count(1)
        self._finished: deque[tuple[str, float]] = deque()
        self._returned: deque[str] = deque()
        self._lost: deque[str] = deque()  # of calls without an answer: booked, or not
        self._stored = OwnTurns(span, lease)  # that the store gave
        self._alone = OwnTurns(span, lease)  # that were taken without it
        self._pause = 0.0  # until when; 0 once it was told
        self._paused = 0.0  # the same, whoever knows it
        self._counts = 0.0

    @property
    def process(self) -> str:
        """What this process is called; no two have the same name."""
        if not self._process:
            self._process = secrets.token_hex(6)
        return self._process

    def name(self, number: int) -> str:
        """Return the name of the turn of that number."""
        return f"{self.process}:{number}"

    # -- what happens ---------------------------------------------------------------------

    def end(self, turn: str, now: float, *, finished: bool) -> None:
        """Note how a turn has ended."""
        if finished:
            self._finished.append((turn, now))
        else:
            self._returned.append(turn)

    def pause(self, until: float) -> None:
        """Note that everybody is to be held back."""
        self._pause = max(self._pause, until)
        self._paused = max(self._paused, until)

    def take_alone(self, now: float) -> str:
        """Note a turn that was taken without the store; return its name."""
        name = self.name(next(self._numbers))
        self._alone.take([name], now)
        self._may_count(now)
        return name

    # -- calls ----------------------------------------------------------------------------

    def has_news(self, now: float) -> bool:
        """True if there is something to tell the store."""
        return bool(self._finished or self._returned or self._lost or self._pause > now)

    def counts(self, now: float) -> bool:
        """True if a store that is back has to be told something: a turn may count there."""
        return max(self._counts, self._paused) > now

    def ask(self, wanted: int, now: float) -> Ask:
        """Return a call that tells what is new; *wanted* callers wait."""
        returned = itertools.islice(itertools.chain(self._lost, self._returned), CARRIED)
        return self._asking(
            wanted=min(wanted, CARRIED),
            pause=max(0.0, self._pause - now),
            finished=[turn for turn, _ in itertools.islice(self._finished, CARRIED)],
            returned=list(returned),
        )

    def look(self) -> Ask:
        """Return a call that tells nothing and wants nothing."""
        return self._asking()

    def everything(self, now: float) -> Ask:
        """Return the call that tells a store that is back of all that may count there."""
        self.settle(now)
        return self._asking(
            pause=max(0.0, self._paused - now),
            returned=list(self._lost),
            restored=[*self._stored.left(now), *self._alone.left(now)],
        )

    def _asking(
        self,
        *,
        wanted: int = 0,
        pause: float = 0.0,
        finished: Sequence[str] = (),
        returned: Sequence[str] = (),
        restored: Sequence[tuple[str, float]] = (),
    ) -> Ask:
        return Ask(
            process=self.process,
            call=next(self._calls),
            wanted=wanted,
            numbers=[next(self._numbers) for _ in range(wanted)],
            pause=pause,
            finished=finished,
            returned=returned,
            restored=restored,
        )

    def told(self, ask: Ask, granted: int, now: float) -> list[str]:
        """Note that *ask* was answered; return the names of the turns that it brought."""
        for turn in ask.finished:
            self._finished.popleft()
            self._stored.finish(turn, now)
        for turn in ask.returned:
            (self._lost or self._returned).popleft()
            self._stored.give_back(turn, now)
        if ask.pause and now + ask.pause >= self._pause:
            self._pause = 0.0
        names = [self.name(number) for number in ask.numbers[:granted]]
        if names:
            self._stored.take(names, now)
            self._may_count(now)
        if ask.restored:
            self._stored.join(self._alone)
        self._stored.forget(now)
        return names

    def failed(self, ask: Ask, now: float) -> None:
        """Note that *ask* had no answer: the store may have done it, or may do so yet."""
        if ask.wanted:
            self._lost.extend(map(self.name, ask.numbers))
            self._may_count(now)

    # -- without the store ----------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Note what has ended while nobody could be told: the store gets it as a whole."""
        while self._finished:
            turn, at = self._finished.popleft()
            self._stored.finish(turn, at)
            self._alone.finish(turn, at)
        while self._returned:
            turn = self._returned.popleft()
            self._stored.give_back(turn, now)
            self._alone.give_back(turn, now)
        self._alone.forget(now)  # the store knows nothing of them

    def leave(self, now: float) -> tuple[list[float], float]:
        """Go on without the store: return the ages of our turns, and how long all are paused."""
        self.settle(now)
        self._may_count(now)
        return self._stored.ages(now), max(0.0, self._paused - now)

    def _may_count(self, now: float) -> None:
        self._counts = now + self._span + self._lease
