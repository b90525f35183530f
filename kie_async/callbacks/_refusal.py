"""Why a callback is refused: one word for the log, one status for the sender."""

from __future__ import annotations

from enum import Enum

from kie_async.errors import CallbackError

__all__ = ["Reason", "refused"]


class Reason(Enum):
    """A word and the HTTP status that goes with it."""

    METHOD = ("method", 405, "a callback is a POST")
    PATH = ("path", 404, "no callback is expected at this path")
    REFERENCE = ("reference", 401, "the reference in the path is not ours")
    ENCODING = ("encoding", 415, "the body is compressed")
    TYPE = ("type", 415, "the body is not declared as JSON")
    LENGTH = ("length", 400, "the declared length is no number")
    SIZE = ("size", 413, "the body is too large")
    UNSIGNED = ("unsigned", 401, "a signature header is missing or misshapen")
    TIME = ("time", 401, "the signed time is too far from ours")
    JSON = ("json", 400, "the body is no JSON object of the expected form")
    NO_ID = ("id", 400, "the body has no usable task id")
    SEVERAL_IDS = ("ids", 401, "the body names several tasks")
    SIGNATURE = ("signature", 401, "the signature is wrong")
    SLOW = ("slow", 408, "the body came too slowly")
    CUT = ("cut", 400, "the body ended early")
    CROWD = ("crowd", 503, "too many large bodies at once")
    FLOOD = ("flood", 429, "too many unsigned callbacks")

    def __init__(self, word: str, status: int, text: str) -> None:
        self.word = word
        self.status = status
        self.text = text


class RefusedCallbackError(CallbackError):
    """A callback is refused; `reason` says why."""

    def __init__(self, message: str, *, reason: Reason) -> None:
        super().__init__(message, http_status=reason.status)
        self.reason = reason


def refused(reason: Reason) -> RefusedCallbackError:
    """Return the error to raise.  Nothing of the callback is in it."""
    return RefusedCallbackError(reason.text, reason=reason)
