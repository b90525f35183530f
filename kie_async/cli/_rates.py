"""A rate on the command line: creates per seconds."""

from __future__ import annotations

from attrs import frozen

__all__ = ["Rate"]


@frozen
class Rate:
    """Creates per seconds, as the account allows them."""

    limit: int
    window: float

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.limit}/{self.window:g}"
