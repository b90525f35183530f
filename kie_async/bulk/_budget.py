"""What a run may spend, and whether one more task still fits."""

from __future__ import annotations

from attrs import define

__all__ = ["UPSCALE_PRICES", "Budget", "expected_price"]

UPSCALE_PRICES: dict[str | None, float] = {None: 10.0, "720p": 10.0, "1080p": 30.0}
"""Credits of an upscale by what is asked for (price rows of 2026-09).

The price depends on the source too (720p to 1080p costs 20), which a request does not
name: these are the upper ones.
"""


def expected_price(resolution: str | None) -> float:
    """Return the credits that one upscale costs at most, as far as is published."""
    return UPSCALE_PRICES.get(resolution, max(UPSCALE_PRICES.values()))


@define
class Budget:
    """Counts credits; a price seen higher than published is the price from then on.

    ``spent`` is what tasks are known to have cost.  ``doubts`` are creates that may have
    been paid for: each counts against the limit as one task.
    """

    limit: float | None
    price: float
    spent: float = 0.0
    reserved: int = 0
    doubts: int = 0

    @property
    def committed(self) -> float:
        """Credits spent, those that tasks under way will cost, and those of doubts."""
        return self.spent + (self.reserved + self.doubts) * self.price

    def reserve(self) -> bool:
        """Set the price of one task aside; False if it does not fit."""
        if self.limit is not None and self.committed + self.price > self.limit:
            return False
        self.reserved += 1
        return True

    def settle(self, credits: float | None, *, charged: bool, in_doubt: bool = False) -> None:
        """Replace what was set aside by what it cost; an unknown price is the expected."""
        self.reserved -= 1
        if in_doubt:
            self.doubts += 1
        elif charged:
            self.spent += self.price if credits is None else credits
        if credits is not None:
            self.price = max(self.price, credits)
