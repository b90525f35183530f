"""Where results may come from: the guard at the socket, redirects, schemes."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import DownloadError
from kie_async.transport import ResultTransport
from kie_async.transport._guard import BlockedAddressError, forbidden, guarded_sockets

SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.0.2",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "localhost",
    "localhost.",
    "LOCALHOST",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:0:0:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "192.168.255.255",
    "169.254.169.254",
    "169.254.0.1",
    "100.64.0.1",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00::1]",
    "[fec0::1]",
    "224.0.0.1",
    "239.255.255.255",
    "255.255.255.255",
    "240.0.0.1",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.0.0.1",
    "[ff02::1]",
    "[2001:db8::1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a00:1]",
    "[2002:a00:1::]",
    "[2002:a9fe:a9fe::]",
]
URLS = (
    [f"https://{host}/x" for host in SPELLINGS]
    + [f"https://{host}:PORT/x" for host in SPELLINGS]
    + [
        "http://127.0.0.1:PORT/x",
        "ftp://127.0.0.1:PORT/x",
        "file:///etc/passwd",
        "gopher://h/",
        "//127.0.0.1:PORT/x",
        "",
        "https://",
        "https:///x",
        "https://user:pw@127.0.0.1:PORT/",
        "https://public.example@127.0.0.1:PORT/",
        "https://127.0.0.1\\@public.example/",
        "javascript:alert(1)",
        "https://h:99999/",
        "https://[::1/",
        "https://a b/",
    ]
)


class Listener:
    """Counts who connects, and redirects whoever does."""

    def __init__(self, location: str = "") -> None:
        self.count = 0
        self.location = location
        self.port = 0

    async def serve(self, reader, writer) -> None:
        self.count += 1
        await reader.read(100)
        head = f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        writer.close()


@pytest.mark.asyncio
async def test_no_hostile_url_reaches_a_private_address():
    """More than a hundred spellings: the listener hears nothing."""
    listener = Listener()
    server = await asyncio.start_server(listener.serve, None, 0, family=socket.AF_INET)
    port = server.sockets[0].getsockname()[1]

    async with server, ResultTransport() as fetcher:
        for url in URLS:
            with pytest.raises(DownloadError):
                async with asyncio.timeout(5), fetcher.fetch(url.replace("PORT", str(port))):
                    pass

    assert len(URLS) > 100
    assert listener.count == 0


@pytest.mark.asyncio
async def test_the_listener_hears_when_the_guard_is_off():
    """The control: without the guard the same address is reached."""
    listener = Listener("http://127.0.0.1:1/")
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with server, ResultTransport(allow_private=True) as fetcher:
        with pytest.raises(DownloadError):
            async with fetcher.fetch(f"http://127.0.0.1:{port}/"):
                pass

    assert listener.count == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("host", SPELLINGS[:25])
async def test_the_guard_looks_where_the_socket_connects(host, monkeypatch):
    """A name that resolves to a private address at the last moment is stopped there."""
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async with server, ResultTransport() as fetcher:
        monkeypatch.setattr(ResultTransport, "_check", lambda self, url: None)
        with pytest.raises(DownloadError):
            async with asyncio.timeout(5), fetcher.fetch(f"http://{host}:{port}/"):
                pass

    assert listener.count == 0


@pytest.mark.asyncio
async def test_redirects_are_followed_a_few_times_and_checked_each():
    """A loop ends, and a redirect to another scheme is refused."""
    looping = Listener()
    server = await asyncio.start_server(looping.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    looping.location = url

    async with server, ResultTransport(allow_private=True) as fetcher:
        with pytest.raises(DownloadError, match="redirects"):
            async with fetcher.fetch(url):
                pass
        looped = looping.count
        looping.location = "file:///etc/passwd"
        with pytest.raises(DownloadError, match="https"):
            async with fetcher.fetch(url):
                pass

    assert looped == 4


@given(
    st.ip_addresses(network="10.0.0.0/8")
    | st.ip_addresses(network="fe80::/10")
    | st.ip_addresses(network="127.0.0.0/8")
    | st.ip_addresses(network="169.254.0.0/16")
)
def test_every_private_address_is_forbidden(address):
    """However it is embedded in IPv6."""
    assert forbidden(str(address))
    if address.version == 4:
        assert forbidden(f"::ffff:{address}")
        assert forbidden(f"64:ff9b::{address}")


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_pass(address):
    """The guard does not forbid everything."""
    assert not forbidden(address)


def test_the_socket_factory_refuses_and_makes():
    """It is told the final address by aiohttp."""
    info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80))

    with pytest.raises(BlockedAddressError):
        guarded_sockets(allow_private=False)(info)
    made = guarded_sockets(allow_private=True)(info)
    made.close()
