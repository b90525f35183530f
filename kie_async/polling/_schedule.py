"""The settings of polling: what a poll costs, and the limits of every gap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

from kie_async.errors import UsageError
from kie_async.models import check_seconds

if TYPE_CHECKING:
    from kie_async.polling._durations import Law

__all__ = ["PollSchedule"]


@frozen(kw_only=True)
class PollSchedule:
    """When a task is looked at.  Times in seconds.

    The loss that it keeps small: the mean delay between the end of a task and its
    discovery, plus *poll_cost* for each poll of the task.  Per model, wait until the
    *percentile* of the durations seen, then look at a fixed gap of
    ``sqrt(2 × poll_cost × mean residual time)``.  A task that has outlived everything
    seen is looked at each ``growth ×`` the excess, if that is more; never more than
    *longest_gap* apart.

    With callbacks, polls are only a safety net: the first at the *safety_percentile*,
    then one each *safety_gap*.  Before anything was learned: one each *safety_gap*.

    Attributes:
        poll_cost: Seconds of delay that one poll is worth: the one knob.  Higher means
            fewer polls and later discovery.
        percentile: Share of the durations seen that may end before the first poll.
        memory: How many durations are remembered per model.
        learned_from: How many of them it takes before they are believed.
        first_gap: Before that, the gap is the greater of this and ``growth × age``.
        growth: See *first_gap*.
        min_gap: No task is looked at more often than this, whatever rings.
        longest_gap: Nor, after its first poll, less often than this.
        safety_percentile: With callbacks: when the first safety poll is due.
        safety_gap: With callbacks: the gap between safety polls.
        error_cap: The longest wait after a poll that failed.
        jitter: Share by which every gap varies at random, so that tasks created together
            are not looked at together.  The first look varies by five times the share.

    Raises:
        UsageError: A setting that cannot work.
    """

    poll_cost: float = 0.3
    percentile: float = 0.1
    memory: int = 50
    learned_from: int = 10
    first_gap: float = 2.0
    growth: float = 0.10
    min_gap: float = 0.25
    longest_gap: float = 60.0
    safety_percentile: float = 0.95
    safety_gap: float = 60.0
    error_cap: float = 60.0
    jitter: float = 0.1

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        for name in ("poll_cost", "first_gap", "min_gap", "longest_gap", "safety_gap", "error_cap"):
            check_seconds(getattr(self, name), name)
        for name in ("percentile", "safety_percentile", "jitter", "growth"):
            share = check_seconds(getattr(self, name), name, zero=True)
            if share >= 1.0:
                raise UsageError(f"{name} must be below 1, not {share:g}")
        for name in ("memory", "learned_from"):
            count = getattr(self, name)
            if isinstance(count, bool) or not isinstance(count, int) or count < 2:
                raise UsageError(f"{name} must be a whole number of 2 or more, not {count!r}")
        if self.learned_from > self.memory:
            raise UsageError("learned_from must not exceed memory: nothing would be learned")
        if self.min_gap > min(self.longest_gap, self.safety_gap, self.error_cap, self.first_gap):
            raise UsageError("min_gap must not exceed the other gaps and error_cap")

    def gap(self, age: float, law: Law | None, *, aged: bool = True) -> float:
        """Return the planned seconds from a look at *age* to the next, without jitter.

        Args:
            age: Seconds since the task was created.
            law: What was learned of its model, if enough.
            aged: False if the task was adopted and *age* counts from then: it may be at
                any point of its life, so there is no first wait.
        """
        if law is None:
            gap = max(self.first_gap, self.growth * age)
        elif age > law.longest:
            gap = max(law.gap, self.growth * (age - law.longest))
        elif aged and (age <= 0.0 or law.first - age > law.gap / 2.0):
            return max(law.first - age, self.min_gap)  # uncapped: hardly any end before
        else:
            gap = law.gap
        return min(max(gap, self.min_gap), self.longest_gap)

    def safety_wait(self, age: float, law: Law | None, *, aged: bool = True) -> float:
        """Return the same for a task whose callback is expected."""
        if law is not None and aged and age < law.safety:
            return max(law.safety - age, self.min_gap)
        return self.safety_gap
