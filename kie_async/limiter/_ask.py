"""What a limiter asks the store that keeps its book."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

__all__ = ["Ask"]


@frozen(kw_only=True)
class Ask:
    """What one call tells the store, and what it wants; times are in seconds.

    Attributes:
        wanted: Turns for callers who wait, and
        numbers: how these turns will be called, behind the process's name.
        pause: Hold everybody back for so long.
        finished: Turns whose answer has come.
        returned: Turns that were not used.
        restored: All turns of this process after the store was away, and how long each
            still counts; 0 if no longer.
    """

    wanted: int
    numbers: Sequence[int]
    pause: float
    finished: Sequence[str]
    returned: Sequence[str]
    restored: Sequence[tuple[str, float]]
