"""What a bulk run is asked to do."""

from __future__ import annotations

from attrs import frozen

from kie_async.bulk._claims import Receiver
from kie_async.bulk._items import Source
from kie_async.bulk._job import Save
from kie_async.bulk._record import NewCallback
from kie_async.errors import UsageError
from kie_async.models import check_seconds

__all__ = ["Plan"]


@frozen(kw_only=True)
class Plan:
    """What a run was asked to do; times are in seconds, ``max_credits`` in credits.

    ``new_callback`` makes each attempt's callback URL with its reference, so that a doubt
    can be settled with proof; ``receiver`` hears the callbacks, and ``linger`` is how long
    a finished run waits for those of its doubts.  A doubt counts against ``max_credits``,
    as one that was paid.  ``save`` saves a task's files,
    ``saving`` at once.
    """

    source: Source
    resolution: str | None = None
    in_flight: int = 100
    task_timeout: float = 3600.0
    new_callback: NewCallback | None = None
    receiver: Receiver | None = None
    linger: float = 120.0
    max_credits: float | None = None
    save: Save | None = None
    saving: int = 8

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work."""
        check_seconds(self.task_timeout, "task_timeout")
        if self.in_flight < 1 or self.saving < 1:
            raise UsageError("in_flight and saving must be 1 or more")
        if self.max_credits is not None and self.max_credits < 0:
            raise UsageError("max_credits must be 0 or more")
