"""What a limiter asks the store that keeps its book."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

__all__ = ["Ask"]


@frozen(kw_only=True)
class Ask:
    """What one call tells the store, and what it wants; times are in seconds.

    A call may be made again with the same number: what it told is told once, and the turns
    that it was given are given once.  One that arrives behind a later one does nothing.

    Attributes:
        process: Who asks.
        call: The number of this call, of all that the process makes.
        wanted: Turns for callers who wait, and
        numbers: how these turns will be called, behind the process's name.
        pause: Hold everybody back for so long.
        finished: Turns whose answer has come.
        returned: Turns that were not used.
        restored: All turns of this process after the store was away, and how long each
            still counts; 0 if no longer.
    """

    process: str
    call: int
    wanted: int
    numbers: Sequence[int]
    pause: float
    finished: Sequence[str]
    returned: Sequence[str]
    restored: Sequence[tuple[str, float]]
