"""Kie's callbacks: received, verified, and turned into a ring at the waiter's door."""

from __future__ import annotations

from kie_async.callbacks._event import (
    CallbackClockSkewed,
    CallbackEvent,
    CallbackReceived,
    CallbackRefused,
    Reply,
)
from kie_async.callbacks._receiver import CallbackReceiver, CallbackURL
from kie_async.callbacks._server import CallbackServer
from kie_async.callbacks._verify import verify_callback

__all__ = [
    "CallbackClockSkewed",
    "CallbackEvent",
    "CallbackReceived",
    "CallbackReceiver",
    "CallbackRefused",
    "CallbackServer",
    "CallbackURL",
    "Reply",
    "verify_callback",
]
