"""Whether a callback is to be trusted.  Pure: no clock, no socket, no memory.

What is signed, as documented: ``base64(HMAC-SHA256(key, taskId + "." + timestamp))`` in
``X-Webhook-Signature``, with Unix seconds in ``X-Webhook-Timestamp``.  The rest of the
body is not signed, and so is not to be used.  No capture of a real signed callback was
found; the documents and their samples are all there is.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping, Sequence

from kie_async.callbacks._body import MAX_BODY, read_body
from kie_async.callbacks._event import CallbackEvent
from kie_async.callbacks._refusal import Reason, refused
from kie_async.errors import UsageError
from kie_async.models import Secret

__all__ = ["MAX_AGE", "check_form", "hint", "lower", "secrets_of", "stamp_of", "verify_callback"]

MAX_AGE = 300.0
"""Seconds between a callback's time and ours.  Kie names no window; 300 is customary."""

TIMESTAMP = "x-webhook-timestamp"
SIGNATURE = "x-webhook-signature"

_SECONDS = re.compile(r"[0-9]{9,12}")
_BASE64_SHA256 = re.compile(r"[A-Za-z0-9+/]{43}=")
_LENGTH = re.compile(r"[0-9]{1,18}")
_JSON_TYPE = re.compile(r"application/(?:[a-z0-9.!#$&^_-]+\+)?json", re.IGNORECASE)


def verify_callback(
    body: bytes,
    headers: Mapping[str, str],
    keys: Sequence[str | Secret] | str | Secret,
    *,
    now: float,
    max_age: float = MAX_AGE,
) -> CallbackEvent:
    """Check a callback's signature and age, and return what it says.

    For services that have a receiver of their own; `CallbackReceiver` does this and the
    rest.  A replay within *max_age* passes: remember the ids.  Nothing but the id and the
    time is signed: read the task with ``get_task`` and use no URL of the body.

    Args:
        body: The body as it came, in bytes.
        headers: The request's headers, in any case.
        keys: The HMAC key of Kie's settings page; several while it is being rotated.
        now: Unix seconds.
        max_age: Seconds that the callback's time may differ from *now*, either way.

    Raises:
        CallbackError: It is not to be trusted; answer with its ``http_status``: 401 for
            signature and age, 400 for form, 413 for size, 415 for type and encoding.
        UsageError: There is no key, or an empty one.
    """
    try:
        secrets = secrets_of(keys)
    finally:
        del keys  # crash reporters show our locals
    if not secrets:
        raise UsageError("no HMAC key: nothing could be verified")
    named = lower(headers)
    check_form(named)
    stamp = stamp_of(named, now=now, max_age=max_age)
    task_id, state = read_body(body)
    if not _is_signed(secrets, task_id, stamp, named[SIGNATURE]):
        raise refused(Reason.SIGNATURE)
    return CallbackEvent(
        task_id=task_id, signed=True, sent_at=float(stamp), received_at=now, state=state
    )


def _is_signed(keys: Sequence[Secret], task_id: str, stamp: str, signature: str) -> bool:
    """Compare with every key, and in constant time: the time tells nothing of the keys."""
    message = f"{task_id}.{stamp}".encode("ascii")
    given = signature.encode("ascii")
    found = False
    for key in keys:
        digest = hmac.digest(key.reveal().encode("ascii"), message, "sha256")
        # Text, not digests, is compared: base64 has several spellings of one digest.
        found |= hmac.compare_digest(base64.b64encode(digest), given)
    return found


def hint(body: bytes, headers: Mapping[str, str], *, now: float) -> CallbackEvent:
    """Read a callback that nobody signed; *headers* have lower-case names.

    Raises:
        CallbackError: Its form is wrong.
    """
    check_form(headers)
    task_id, state = read_body(body)
    return CallbackEvent(task_id=task_id, signed=False, sent_at=None, received_at=now, state=state)


def secrets_of(keys: Sequence[str | Secret] | str | Secret) -> tuple[Secret, ...]:
    """Hide the keys; one alone counts as a sequence of one.

    Raises:
        UsageError: A key is empty or cannot be one.
    """
    several = [keys] if isinstance(keys, str | Secret) else list(keys)
    del keys  # crash reporters show our locals: no key is in them when one is refused
    hidden: list[Secret] = []
    try:
        while several:
            key = several.pop(0)
            hidden.append(key if isinstance(key, Secret) else Secret(key, name="HMAC key"))
    finally:
        several, key = [], ""
    return tuple(hidden)


def lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with lower-case names; one given twice matches no shape."""
    named: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        named[key] = f"{named[key]}, {value}" if key in named else value
    return named


def check_form(headers: Mapping[str, str]) -> None:
    """Check what can be known before the body is read: type, encoding, size.

    Raises:
        CallbackError: 415, 413 or 400.
    """
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        raise refused(Reason.ENCODING)
    kind = headers.get("content-type", "").partition(";")[0].strip()
    if kind and not _JSON_TYPE.fullmatch(kind):
        raise refused(Reason.TYPE)
    length = headers.get("content-length")
    if length is None:
        return
    if not _LENGTH.fullmatch(length):
        raise refused(Reason.LENGTH)
    if int(length) > MAX_BODY:
        raise refused(Reason.SIZE)


def stamp_of(headers: Mapping[str, str], *, now: float, max_age: float) -> str:
    """Return the time that was signed, as the text that was signed.

    Raises:
        CallbackError: 401: a header is missing or misshapen, or the time too far away.
    """
    stamp = headers.get(TIMESTAMP, "")
    if not _SECONDS.fullmatch(stamp) or not _BASE64_SHA256.fullmatch(headers.get(SIGNATURE, "")):
        raise refused(Reason.UNSIGNED)
    if not abs(now - int(stamp)) <= max_age:  # "not <=": a NaN is refused too
        raise refused(Reason.TIME)
    return stamp
