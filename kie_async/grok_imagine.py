"""The Grok Imagine models: what they take, checked before anything is sent."""

from __future__ import annotations

from typing import Any

from kie_async.errors import UsageError
from kie_async.models import check_task_id

__all__ = ["RESOLUTIONS", "UPSCALE", "upscale_input"]

UPSCALE = "grok-imagine/upscale"
"""The upscaler.  It takes the id of an earlier task of the account, never a file."""

RESOLUTIONS = ("720p", "1080p")
"""What an upscale can be asked for (documented 2026-08); 720p if not said."""


def upscale_input(task_id: str, resolution: str | None = None) -> dict[str, Any]:
    """Return the input of an upscale.

    The kind of the source task is not checked: documents disagree on it, and the id is
    opaque.

    Raises:
        UsageError: The id cannot be one, or the resolution is none of the documented.
    """
    source = {"task_id": check_task_id(task_id)}
    if resolution is None:
        return source
    if resolution not in RESOLUTIONS:
        raise UsageError(
            f"resolution must be one of {', '.join(RESOLUTIONS)}, not {resolution!r}; "
            "for anything newer use run('grok-imagine/upscale', {...})"
        )
    return {**source, "resolution": resolution}
