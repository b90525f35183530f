"""The session: one account, one loop, everything that a caller does with Kie."""

from __future__ import annotations

from kie_async.session._session import KieSession, upscale

__all__ = ["KieSession", "upscale"]
