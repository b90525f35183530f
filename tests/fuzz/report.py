"""What a long run of hostile input has shown, and what of it must not be."""

from __future__ import annotations

import gc
import time
import traceback
from collections import Counter
from pathlib import Path

from attrs import define, field

__all__ = ["GROWTH", "Report"]

GROWTH = 16 * 2**20
"""Bytes that the process may grow by, however many answers came."""


def resident() -> int:
    """Return the bytes of memory that this process holds; 0 where nobody tells."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except OSError:
        return 0


@define
class Report:
    """The figures of a run.

    Attributes:
        patience: Seconds that one call may take.
        ends: How the calls ended, by name.
        foreign: Exceptions that are not documented, each kind once with its traceback.
        wrong: Other broken promises.
        longest: Seconds of the longest call.
        late: Calls that took longer than the patience.
        growth: Bytes that the process grew by after `warm`.
    """

    patience: float
    ends: Counter[str] = field(factory=Counter)
    foreign: dict[str, str] = field(factory=dict)
    wrong: list[str] = field(factory=list)
    longest: float = 0.0
    late: int = 0
    growth: int = 0
    began: float = field(factory=time.monotonic)
    _base: int | None = None

    def count(self, name: str, seconds: float) -> None:
        """Count a call that ended well, or with a documented error."""
        self.ends[name] += 1
        self.longest = max(self.longest, seconds)
        self.late += seconds > self.patience

    def escape(self, error: BaseException, seconds: float) -> None:
        """Count an exception that should not have come out."""
        name = f"!{type(error).__name__}"
        self.count(name, seconds)
        self.foreign.setdefault(name, "".join(traceback.format_exception(error)))

    def weigh(self) -> None:
        """Look at the memory: the first time for what is there, later for what was added."""
        gc.collect()
        if self._base is None:
            self._base = resident()
        self.growth = max(self.growth, resident() - self._base)

    def faults(self) -> list[str]:
        """Return what must not be; empty if all is well."""
        found = [f"{name} came out {self.ends[name]} times" for name in self.foreign]
        found += self.wrong[:5]
        if self.late:
            found.append(f"{self.late} calls took longer than {self.patience:g} s")
        if self.growth > GROWTH:
            found.append(f"memory grew by {self.growth / 2**20:.1f} MiB")
        return found

    def told(self) -> str:
        """Return the figures as one paragraph."""
        total, seconds = self.ends.total(), time.monotonic() - self.began
        ends = ", ".join(f"{name} {number:,}" for name, number in self.ends.most_common())
        return (
            f"{total:,} in {seconds:.0f} s; longest {self.longest:.2f} s, {self.late} late; "
            f"memory +{self.growth / 2**20:.1f} MiB; {len(self.foreign)} foreign kinds\n  {ends}"
        )
