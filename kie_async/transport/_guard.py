"""Keeps downloads away from addresses that are nobody's business.

Checked where the socket is made, not when the name is looked up: an address written into
the URL asks no resolver, and a name may have changed between a check and its use.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["BLOCKED", "BlockedAddressError", "forbidden", "guarded_sockets", "is_private"]

BLOCKED = "the address is private or special"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that was ever given out
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Written out, because what `is_global` says of them changed between releases of Python.
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",
        "192.88.99.0/24",  # relays of 6to4, given back
        "2001::/23",  # Teredo, ORCHID and other protocols: an IPv4 address may be inside
        "2001:db8::/32",
        "3fff::/20",
    )
)
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "::1/128",
        "fc00::/7",
    )
)


class BlockedAddressError(OSError):
    """A result URL leads to a private, link-local or otherwise special address."""


def forbidden(text: str) -> bool:
    """True for every address that is not a plain public one, however it is written."""
    address = _parsed(text)
    return address is None or not _is_public(address)


def is_private(text: str) -> bool:
    """True for loopback and private networks; not for link-local, where clouds keep keys."""
    address = _parsed(text)
    return address is not None and any(address in network for network in _PRIVATE)


def _parsed(text: str) -> Address | None:
    """Read an address; of one that wraps an IPv4 address, the one inside."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    inner = address.sixtofour or _isatap(address)
    # The outside stays what it is when the inside is public: then both must be.
    return inner if inner is not None and not _is_public(inner) else address


def _isatap(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address in an interface id of the form 0:5efe:a.b.c.d."""
    low = int(address) & 0xFFFFFFFFFFFFFFFF
    if low >> 32 in (0x00005EFE, 0x02005EFE):
        return ipaddress.IPv4Address(low & 0xFFFFFFFF)
    return None


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def guarded_sockets(*, allow_private: bool) -> Callable[[Any], socket.socket]:
    """Return aiohttp's ``socket_factory``: it sees the address that is connected to.

    Args:
        allow_private: Also let through loopback and private networks, on any port.
    """

    def make(address_info: Any) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        host, port = str(address[0]), address[1]
        public = not forbidden(host) and port == 443
        if not public and not (allow_private and is_private(host)):
            raise BlockedAddressError(errno.EACCES, BLOCKED)  # aiohttp shows the second
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make
