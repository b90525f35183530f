"""Where requests may go: the two addresses that are given the key, checked once."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from attrs import frozen

from kie_async.errors import UsageError

__all__ = ["Address", "check_address"]

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\]")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]+)*")


@frozen(kw_only=True)
class Address:
    """An origin with a path prefix; ``text`` has no slash at its end."""

    scheme: str
    authority: str
    host: str
    prefix: str

    @property
    def text(self) -> str:
        """The address as one string."""
        return f"{self.scheme}://{self.authority}{self.prefix}"


def check_address(url: str, name: str, *, allow_insecure: bool = False) -> Address:
    """Take *url* apart if the key may be sent there.

    Args:
        url: ``https://host``, with a port and a path prefix if need be.
        name: The setting's name, for messages.
        allow_insecure: Accept ``http`` to any host and not only to this machine.

    Raises:
        UsageError: It is no such address, or would send the key in the clear.
    """
    parts = _split(url, name)
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{name} must not hold a user name or password")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise UsageError(f"{name} must end with its path: no query, no fragment")
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    prefix = parts.path.rstrip("/")
    dots = {".", ".."} & set(prefix.split("/"))
    if not _HOST.fullmatch(shown) or not _PREFIX.fullmatch(prefix) or dots:
        raise UsageError(f"{name} has no usable host or path: give it as https://host/path")
    if parts.scheme == "http" and not (allow_insecure or _is_loopback(host)):
        raise UsageError(f"{name} must be https: over http the API key travels in the clear")
    authority = shown if parts.port is None else f"{shown}:{parts.port}"
    return Address(scheme=parts.scheme, authority=authority, host=host, prefix=prefix)


def _split(url: str, name: str) -> SplitResult:
    if isinstance(url, str) and url.isascii() and url.isprintable() and " " not in url:
        try:
            parts = urlsplit(url)
            if parts.scheme in {"http", "https"} and parts.port != 0:
                return parts
        except ValueError:  # a port that is no number, an unclosed bracket
            pass
    # The value is not shown: a mistyped one may hold a password.
    raise UsageError(f"{name} must be an absolute https address in plain ASCII")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
