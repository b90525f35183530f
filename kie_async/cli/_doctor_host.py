"""What ``kie doctor`` looks at on the network: name, connection, TLS and clock, one by one.

Plain sockets on purpose: a library would tell only that the whole of it failed.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from kie_async.cli._doctor_says import Finding, fail, ok, skip, warn
from kie_async.cli._escape import clean

__all__ = ["check_host", "clock_finding"]

PATIENCE = 10.0
"""Seconds for each step."""
TOLERANCE = 300.0
"""Seconds that a callback's stamp may be away from this clock: the receiver's own."""
SLOPPY = 30.0
EXPIRES_SOON = 7 * 86_400.0
LONGEST_ANSWER = 65536
PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


async def check_host(url: str, what: str) -> AsyncIterator[Finding]:
    """Yield what was found of the host of *url*; the steps after a failed one are left out."""
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            addresses = await _resolved(host, port)
    except (OSError, UnicodeError) as error:  # a time-out is an OSError too
        yield fail(f"{what} name", f"{host} has no address: {_why(error)}", _network())
        return
    if addresses == [host]:
        yield skip(f"{what} name", f"none: {host} is an address")
    else:
        yield ok(f"{what} name", f"{host}: {_many(addresses)}, {_ms(began)}")
    began = time.perf_counter()
    try:
        address, sock = await _connected(addresses, port)
    except OSError as error:
        yield fail(f"{what} connection", f"{host} port {port}: {_why(error)}", _network())
        return
    yield ok(f"{what} connection", f"{address} port {port}, {_ms(began)}")
    async for finding in _spoken(sock, host, what, secure=secure):
        yield finding


async def _spoken(
    sock: socket.socket, host: str, what: str, *, secure: bool
) -> AsyncIterator[Finding]:
    """Yield what TLS and the clock are like; closes the socket."""
    began = time.perf_counter()
    context = ssl.create_default_context() if secure else None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=host if secure else None
            )
    except OSError as error:
        sock.close()
        yield fail(f"{what} TLS", _why(error), _tls_step(error))
        return
    try:
        yield _tls(writer, what, began)
        yield await _clock(reader, writer, host, what)
    finally:
        writer.transport.abort()


async def _resolved(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(each[4][0]) for each in found))


async def _connected(addresses: list[str], port: int) -> tuple[str, socket.socket]:
    """Connect to the first address that lets us, or raise what the last one said."""
    problem = OSError("no address")
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError as error:
            sock.close()
            problem = error
        except BaseException:
            sock.close()
            raise
        else:
            return address, sock
    raise problem


def _tls(writer: asyncio.StreamWriter, what: str, began: float) -> Finding:
    tls = writer.get_extra_info("ssl_object")
    if tls is None:
        return skip(f"{what} TLS", "none: http to this machine")
    ends = ssl.cert_time_to_seconds(str(tls.getpeercert().get("notAfter")))
    left = ends - time.time()
    days = f"the certificate is good for {left / 86_400:.0f} days"
    if left < EXPIRES_SOON:
        return warn(f"{what} TLS", f"{tls.version()}; {days}", "the host must renew it: tell Kie")
    return ok(f"{what} TLS", f"{tls.version()}, {_ms(began)}; {days}")


async def _clock(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, what: str
) -> Finding:
    """Compare this clock with the ``Date`` of an answer; no key is sent."""
    name = "clock" if what == "API" else f"{what} answer"
    shown = f"[{host}]" if ":" in host else host
    sent = time.time()
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(f"HEAD / HTTP/1.1\r\nHost: {shown}\r\nConnection: close\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, EOFError, asyncio.LimitOverrunError) as error:
        return fail(name, f"no answer to a plain request: {_why(error)}", _network())
    lines = (line.partition(b":") for line in head.split(b"\r\n"))
    dates = [value.strip() for key, _, value in lines if key.strip().lower() == b"date"]
    if name != "clock":
        return ok(name, clean(head.split(b"\r\n")[0].decode("latin-1"), 60))
    return clock_finding(dates[0].decode("latin-1") if dates else "", sent, time.time())


def clock_finding(date: str, sent: float, received: float) -> Finding:
    """Judge this clock by the server's date, which is cut to whole seconds."""
    try:
        server = email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return skip("clock", "the server told no date to compare with")
    # The server read its clock between the two, and within the second that it tells.
    early, late = server - received, server + 1.0 - sent
    off = 0.0 if early <= 0.0 <= late else min(early, late, key=abs)
    if off == 0.0:
        return ok("clock", f"right, within {max(1.0, received - sent + 1.0):.0f} s")
    told = f"{abs(off):.0f} s {'behind' if off > 0 else 'ahead of'} the server's"
    if abs(off) <= SLOPPY:
        return ok("clock", f"{told}; callbacks may be {TOLERANCE:.0f} s off")
    step = "set this machine's clock, best by NTP: timedatectl set-ntp true"
    if abs(off) <= TOLERANCE:
        return warn("clock", f"{told}; callbacks are refused from {TOLERANCE:.0f} s on", step)
    return fail("clock", f"{told}: genuine callbacks are refused as too old or too new", step)


def _many(addresses: list[str]) -> str:
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    return f"{addresses[0]}{more}"


def _ms(began: float) -> str:
    return f"{(time.perf_counter() - began) * 1000:.0f} ms"


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.args:
        return f"nothing within {PATIENCE:g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate was refused: {clean(error.verify_message)}"
    if isinstance(error, asyncio.IncompleteReadError):
        return "the connection was closed"
    if isinstance(error, OSError) and error.strerror:
        return clean(error.strerror)
    return clean(error) or type(error).__name__


def _network() -> str:
    proxy = next((name for name in PROXIES if os.environ.get(name)), None)
    if proxy is not None:
        return f"{proxy} is set, and kie_async uses no proxy: let this host through directly"
    return "check the network, the firewall and base_url: kie config"


def _tls_step(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "check base_url, this machine's clock and its trusted certificates (SSL_CERT_FILE)"
    return "something between here and the host speaks no TLS: check base_url and the firewall"
