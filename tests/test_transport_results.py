"""Where results may come from: the guard at the socket, redirects, schemes, hosts."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import DownloadError, SessionClosedError, UsageError
from kie_async.transport import ResultTransport, _guard
from kie_async.transport._guard import (
    BlockedAddressError,
    forbidden,
    guarded_sockets,
    is_private,
)
from kie_async.transport._results import Pace

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


_attempts: list[tuple] = []
_listening = False


def _audit(event: str, args: tuple) -> None:
    if _listening and event == "socket.connect":
        _attempts.append(args[1])


sys.addaudithook(_audit)  # it cannot be taken away again; it is off between the tests


@contextmanager
def connects() -> Iterator[list[tuple]]:
    """Collect the address of every connection that is tried, whoever tries it."""
    global _listening
    _attempts.clear()
    _listening = True
    try:
        yield _attempts
    finally:
        _listening = False


class Listener:
    """Counts who connects, and answers or redirects."""

    def __init__(self, location: str = "", body: bytes = b"") -> None:
        self.count = 0
        self.location = location
        self.body = body
        self.heads: list[str] = []
        self.url = ""
        self.port = 0

    async def serve(self, reader, writer) -> None:
        self.count += 1
        try:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.location:
                head = f"HTTP/1.1 302 Found\r\nLocation: {self.location}\r\n"
            else:
                head = "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n"
            length = f"Content-Length: {len(self.body)}\r\nConnection: close\r\n\r\n"
            writer.write((head + length).encode() + self.body)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()


@asynccontextmanager
async def listening(listener: Listener, host: str | None = "127.0.0.1"):
    """Run *listener*."""
    server = await asyncio.start_server(listener.serve, host, 0, family=socket.AF_INET)
    listener.port = server.sockets[0].getsockname()[1]
    listener.url = f"http://127.0.0.1:{listener.port}/start?sig=s3cr3t"
    async with server:
        yield listener


async def opened(fetcher: ResultTransport, url: str, **options) -> bytes:
    """Fetch the whole body."""
    async with asyncio.timeout(10), fetcher.fetch(url, **options) as answer:
        return b"".join([chunk async for chunk in answer.chunks])


@pytest.mark.asyncio
async def test_no_hostile_url_reaches_a_private_address():
    """G9, direct: more than a hundred spellings, not one attempt to connect."""
    async with listening(Listener(), None) as listener, ResultTransport() as fetcher:
        with connects() as tried:
            for url in URLS:
                with pytest.raises(DownloadError) as caught:
                    await opened(fetcher, url.replace("PORT", str(listener.port)))
                assert not caught.value.retryable or "resolved" in str(caught.value)

    assert len(URLS) > 100
    assert listener.count == 0
    assert tried == []


@pytest.mark.asyncio
async def test_no_redirect_reaches_a_private_address(monkeypatch):
    """G9, redirect: the first host is allowed, where it leads to is not."""
    front, victim = Listener(), Listener()
    async with listening(front), listening(victim, None), ResultTransport() as fetcher:
        links = fetcher._pool._links
        real_read = links.read

        def read(text, *, base=None):
            if text == front.url:  # the one address that is let through
                links._allow_private = True
                try:
                    return real_read(text)
                finally:
                    links._allow_private = False
            return real_read(text, base=base)

        def make(info):
            if info[4][1] == front.port:
                return socket.socket(*info[:3])
            return real_make(info)

        real_make = fetcher._pool.http.connector._socket_factory
        monkeypatch.setattr(links, "read", read)
        monkeypatch.setattr(fetcher._pool.http.connector, "_socket_factory", make)
        with connects() as tried:
            for url in URLS:
                front.location = url.replace("PORT", str(victim.port)) or "http:"
                with pytest.raises(DownloadError):
                    await opened(fetcher, front.url)

    assert front.count == len(URLS)
    assert victim.count == 0
    assert {address[1] for address in tried} == {front.port}


ADDRESSES = [
    host.strip("[]")
    for host in SPELLINGS
    if (host.count(".") == 3 and not host.startswith(("0177", "local"))) or ":" in host
]
MORE_ADDRESSES = [
    *(f"::ffff:{a}" for a in ADDRESSES if ":" not in a),
    *(f"64:ff9b::{a}" for a in ADDRESSES if ":" not in a),
    "::127.0.0.1",
    "64:ff9b:1::7f00:1",
    "2001:0:7f00:1::1",
    "fe80::5efe:127.0.0.1",
    "2606:4700::5efe:10.0.0.1",
    "fec0::1",
    "192.88.99.1",
    "100::1",
    "3fff::1",
    "4000::1",
]


@pytest.mark.asyncio
async def test_no_name_reaches_a_private_address(monkeypatch):
    """G9, rebinding: a public name that leads to a private address when it counts."""
    addresses = ADDRESSES + MORE_ADDRESSES
    asked = []

    async def getaddrinfo(host, port, **_):
        asked.append(host)
        address = addresses[int(host.split(".")[0][1:])]
        if ":" in address:
            return [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with ResultTransport() as fetcher:
        with connects() as tried:
            for number in range(len(addresses)):
                with pytest.raises(DownloadError, match="private or special"):
                    await opened(fetcher, f"https://h{number}.example.com/x")

    assert len(asked) == len(addresses) > 60
    assert tried == []


@pytest.mark.asyncio
async def test_the_listener_hears_when_the_guard_is_off(monkeypatch):
    """The control: without the guard the same addresses are tried and reached."""
    monkeypatch.setattr(_guard, "forbidden", lambda text: False)
    monkeypatch.setattr(_guard, "is_private", lambda text: True)
    async with listening(Listener()) as listener, ResultTransport(allow_private=True) as fetcher:
        with connects() as tried:
            await opened(fetcher, listener.url)
            for host in ("localhost", "127.0.0.1", "[::ffff:127.0.0.1]"):
                await opened(fetcher, f"http://{host}:{listener.port}/")

    assert listener.count == 4
    assert len(tried) >= 4


@pytest.mark.asyncio
async def test_redirects_are_followed_a_few_times_and_checked_each():
    """A loop ends, and a redirect to another scheme is refused."""
    async with listening(Listener()) as looping, ResultTransport(allow_private=True) as fetcher:
        looping.location = looping.url
        with pytest.raises(DownloadError, match="redirects"):
            await opened(fetcher, looping.url)
        looped = looping.count
        for location in ("file:///etc/passwd", "ftp://127.0.0.1/", "//u:p@127.0.0.1/"):
            looping.location = location
            with pytest.raises(DownloadError, match=r"https|credentials"):
                await opened(fetcher, looping.url)

    assert looped == 4


@pytest.mark.asyncio
async def test_a_redirect_is_followed_without_cookies_and_with_the_range():
    """Relative ones too; the query is sent to whom it was meant for."""
    end = Listener(body=b"the file")
    async with listening(end), ResultTransport(allow_private=True) as fetcher:
        front = Listener(location=f"http://127.0.0.1:{end.port}/end?a=%2B%7e")
        async with listening(front):
            body = await opened(fetcher, front.url, offset=5, etag='"x"')
            await opened(fetcher, front.url)

    assert body == b"the file"
    assert end.heads[0].startswith("GET /end?a=%2B%7e HTTP/1.1")
    assert "range: bytes=5-" in end.heads[0].lower()
    assert "range" not in end.heads[1].lower()
    assert "cookie" not in "".join(end.heads + front.heads).lower()
    assert "s3cr3t" not in "".join(end.heads)


@pytest.mark.asyncio
async def test_a_relative_redirect_stays_with_its_host():
    """As HTTP says."""
    async with listening(Listener("/other")) as host, ResultTransport(allow_private=True) as pool:
        with pytest.raises(DownloadError, match="redirects"):
            await opened(pool, host.url)

    assert host.heads[1].startswith("GET /other HTTP/1.1")


HOSTS = ["example.com", "Files.Example.NET."]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("example.com", True),
        ("a.b.example.com", True),
        ("EXAMPLE.com.", True),
        ("files.example.net", True),
        ("example.net", False),
        ("badexample.com", False),
        ("example.com.evil.org", False),
        ("com", False),
    ],
)
async def test_an_allow_list_goes_by_whole_labels(host, listed):
    """A name and those below it, and nothing that only looks like it."""
    async with ResultTransport(hosts=HOSTS) as fetcher:
        links = fetcher._pool._links
        if listed:
            assert links.read(f"https://{host}/x").raw_host
        else:
            with pytest.raises(DownloadError, match="not among those allowed"):
                links.read(f"https://{host}/x")


@pytest.mark.asyncio
@pytest.mark.parametrize("wrong", ["example.com", [], [""], ["https://x"], ["a b"], ["ü.de"]])
async def test_an_allow_list_is_checked(wrong):
    """A text instead of a list would allow its letters."""
    with pytest.raises(UsageError):
        await ResultTransport(hosts=wrong).open()


@pytest.mark.parametrize("wrong", [0, -1, "5"])
def test_the_number_of_connections_is_checked(wrong):
    """At least one."""
    with pytest.raises(UsageError):
        ResultTransport(connections=wrong)


@pytest.mark.asyncio
async def test_a_transport_is_closed_opened_and_closed_again():
    """Both are safe to repeat; a closed one says so."""
    fetcher = ResultTransport(allow_private=True)
    async with listening(Listener(body=b"x")) as listener:
        for _ in range(2):
            with pytest.raises(SessionClosedError):
                await opened(fetcher, listener.url)
            await fetcher.open()
            await fetcher.open()
            assert await opened(fetcher, listener.url) == b"x"
            await fetcher.close()
            await fetcher.close()


@pytest.mark.asyncio
async def test_what_the_consumer_raises_stays_what_it_is():
    """A full disk is no fault of the host."""
    async with listening(Listener(body=b"x")) as listener, ResultTransport(allow_private=True) as f:
        with pytest.raises(OSError, match="mine"):
            async with f.fetch(listener.url):
                raise OSError("mine")


@pytest.mark.asyncio
async def test_nothing_of_the_url_is_in_an_error():
    """Signed queries stay out of logs; only the host is named."""
    async with ResultTransport(allow_private=True) as fetcher:
        for url in ("http://127.0.0.1:1/?sig=s3cr3t", "https://127.0.0.1:1/?sig=s3cr3t", "s3cr3t"):
            with pytest.raises(DownloadError) as caught:
                await opened(fetcher, url)
            assert "s3cr3t" not in repr(caught.value)
            assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.asyncio
async def test_a_certificate_that_is_not_trusted_is_final():
    """TLS is verified always; there is no switch."""
    import ssl

    import trustme

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    listener = Listener(body=b"x")
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async with server, ResultTransport(allow_private=True) as fetcher:
        with pytest.raises(DownloadError, match="certificate") as caught:
            await opened(fetcher, f"https://127.0.0.1:{port}/")

    assert not caught.value.retryable
    assert listener.heads == []


# -- addresses ---------------------------------------------------------------------------


@given(
    st.ip_addresses(network="10.0.0.0/8")
    | st.ip_addresses(network="fe80::/10")
    | st.ip_addresses(network="127.0.0.0/8")
    | st.ip_addresses(network="169.254.0.0/16")
    | st.ip_addresses(network="172.16.0.0/12")
    | st.ip_addresses(network="fc00::/7")
)
def test_every_private_address_is_forbidden(address):
    """However it is embedded in IPv6."""
    assert forbidden(str(address))
    if address.version == 4:
        low = f"{int(address) >> 16:x}:{int(address) & 0xFFFF:x}"
        for text in (
            f"::ffff:{address}",
            f"64:ff9b::{address}",
            f"2002:{low}::1",
            f"2606:4700::5efe:{low}",
            f"2606:4700::200:5efe:{low}",
            f"::{address}",
        ):
            assert forbidden(text)


@given(st.ip_addresses(v=4))
def test_what_is_forbidden_bare_is_forbidden_wrapped(address):
    """And what is public stays public when it is mapped."""
    assert forbidden(f"::ffff:{address}") == forbidden(str(address))
    assert forbidden(f"64:ff9b::{address}") == forbidden(str(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses_pass(address):
    """The guard does not forbid everything."""
    assert not forbidden(address)
    assert not is_private(address)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("10.1.2.3", True),
        ("fd00::1", True),
        ("::ffff:192.168.0.1", True),
        ("169.254.169.254", False),
        ("fe80::1%eth0", False),
        ("0.0.0.0", False),
        ("::", False),
        ("224.0.0.1", False),
        ("nonsense", False),
    ],
)
def test_only_private_networks_can_be_allowed(address, private):
    """Never link-local ones, where clouds hand out their keys."""
    info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 8080))

    assert is_private(address) is private
    assert forbidden(address)
    if private:
        guarded_sockets(allow_private=True)(info).close()
    else:
        with pytest.raises(BlockedAddressError):
            guarded_sockets(allow_private=True)(info)
    with pytest.raises(BlockedAddressError):
        guarded_sockets(allow_private=False)(info)


def test_a_public_address_is_reached_on_its_port_only():
    """443; any other is for private ones, if they are allowed."""
    for port, good in ((443, True), (80, False), (22, False)):
        info = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", port))
        for allow_private in (True, False):
            make = guarded_sockets(allow_private=allow_private)
            if good:
                make(info).close()
            else:
                with pytest.raises(BlockedAddressError):
                    make(info)


def test_addresses_given_are_addresses():
    """The lists above hold what they should."""
    assert all(ipaddress.ip_address(a.partition("%")[0]) for a in ADDRESSES + MORE_ADDRESSES)


# -- pace --------------------------------------------------------------------------------


def test_the_pace_is_an_average_over_its_time():
    """A pause is no drip, as long as enough came around it."""
    pace = Pace(1024, 30, 0.0)

    assert not pace.too_slow(40_000, 1.0)
    assert not pace.too_slow(1, 30.5)
    assert not pace.too_slow(30_000, 59.0)
    assert not pace.too_slow(1_000, 60.6)
    assert not pace.too_slow(1, 80.0)
    assert pace.too_slow(1, 91.0)


@given(st.lists(st.tuples(st.floats(0.1, 29.0), st.integers(1, 500)), min_size=200, max_size=200))
def test_a_drip_never_goes_on_for_long(pieces):
    """Below the least rate it ends within twice the time and a piece."""
    pace, now, least = Pace(10_000, 30, 0.0), 0.0, 0.0
    for gap, size in pieces:
        now += gap
        least += size
        if pace.too_slow(size, now):
            break
        assert now < 60 or least > 10_000 * 30
