"""References: what makes a create recognisable in the URL that Kie calls back.

A reference is 128 random bits and a keyed tag of 40 bits, in hex.  The tag lets the
receiver drop what is not ours without looking anything up.  It stands in the path,
because a query is not known to survive.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from kie_async.errors import UsageError

__all__ = ["PATH", "References", "checked_base", "derived_key", "split_path"]

PATH = "/kie/cb"
"""Where callbacks are expected, below wherever the receiver is mounted."""

_RANDOM = 16
_TAG = 5
_REFERENCE = re.compile(rf"[0-9a-f]{{{2 * (_RANDOM + _TAG)}}}")
_TAIL = re.compile(rf"(?:.*/)?{PATH.strip('/')}(?:/([^/]*))?/?", re.DOTALL)


def split_path(path: str) -> str | None:
    """Return what follows ``/kie/cb/`` in a path: "" for nothing, None for another path."""
    found = _TAIL.fullmatch(path)
    return None if found is None else found.group(1) or ""


def checked_base(url: object) -> str:
    """Return *url* without a slash at its end.

    Raises:
        UsageError: It is no absolute http(s) URL in plain ASCII, or has a query.
    """
    if isinstance(url, str) and url.isascii() and not any(char <= " " for char in url):
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = None
        if (
            parts is not None
            and parts.scheme in ("http", "https")
            and parts.hostname
            and not (parts.query or parts.fragment or parts.username or parts.password)
        ):
            return url.rstrip("/")
    raise UsageError("public_url must be an absolute http(s) URL without query or password")


def derived_key(secret: bytes) -> bytes:
    """Make a key for references out of a secret that has another purpose."""
    return hmac.digest(secret, b"kie_async: key of callback references, version 1", "sha256")


class References:
    """Makes references and knows its own again; several keys while one is being rotated."""

    __slots__ = ("_tags",)

    def __init__(self, keys: Sequence[bytes] = ()) -> None:
        """The first key makes; all of them recognise.  None: a random one."""
        # In closures and not in attributes, as `Secret` does it.
        self._tags = tuple(_tagger(key) for key in keys or (secrets.token_bytes(32),))

    def new(self) -> str:
        """Return a reference that nobody had before."""
        random = secrets.token_bytes(_RANDOM)
        return (random + self._tags[0](random)).hex()

    def is_ours(self, reference: str) -> bool:
        """True if the tag is right: we made it, or a process with the same key did."""
        if not _REFERENCE.fullmatch(reference):
            return False
        content = bytes.fromhex(reference)
        random, tag = content[:_RANDOM], content[_RANDOM:]
        found = False
        for make in self._tags:
            found |= hmac.compare_digest(make(random), tag)
        return found


def _tagger(key: bytes) -> Callable[[bytes], bytes]:
    return lambda random: hmac.digest(key, random, "sha256")[:_TAG]
