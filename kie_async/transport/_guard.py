"""Keeps downloads away from addresses that are nobody's business.

Checked where the socket is made, not when the name is looked up: an address written into
the URL asks no resolver, and a name may have changed between a check and its use.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

__all__ = ["BlockedAddressError", "forbidden", "guarded_sockets"]


class BlockedAddressError(OSError):
    """A result URL leads to a private, link-local or otherwise special address."""


Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def forbidden(text: str) -> bool:
    """True for every address that is not a plain public one, however it is written."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return True
    inner = _embedded(address)
    if inner is not None:
        address = inner
    return not address.is_global or address.is_multicast or address.is_reserved


def _embedded(address: Address) -> Address | None:
    """Return the IPv4 address inside an IPv6 one: mapped, 6to4 or NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def guarded_sockets(*, allow_private: bool) -> Callable[[Any], socket.socket]:
    """Return aiohttp's ``socket_factory``: it sees the address that is connected to."""

    def make(address_info: Any) -> socket.socket:
        family, kind, protocol, _name, address = address_info
        if not allow_private and forbidden(str(address[0])):
            raise BlockedAddressError("the address is private or special")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make
