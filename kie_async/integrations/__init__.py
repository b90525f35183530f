"""Watchers for other systems: standard logging, and OpenTelemetry (extra ``[otel]``).

async with KieSession(hooks=[LoggingHook()]) as kie:
...
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kie_async.integrations._logging import LoggingHook

if TYPE_CHECKING:
    from kie_async.integrations._otel import OpenTelemetryHook

__all__ = ["LoggingHook", "OpenTelemetryHook"]


def __getattr__(name: str) -> Any:
    """Load what needs a package of its own when it is asked for."""
    if name != "OpenTelemetryHook":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from kie_async.integrations._otel import OpenTelemetryHook

    return OpenTelemetryHook
