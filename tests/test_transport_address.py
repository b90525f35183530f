"""Where the key may be sent, and what is never shown of it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from kie_async.errors import (
    UsageError,
)
from kie_async.transport import Transport
from tests.wire_servers import (
    transport,
)

API = "https://api.kie.ai"


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("https://api.kie.ai", "https://api.kie.ai"),
        ("https://API.kie.ai/", "https://api.kie.ai"),
        ("https://h:8443/a/b-c/", "https://h:8443/a/b-c"),
        ("http://127.0.0.1:80", "http://127.0.0.1:80"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://[::1]:1/x", "http://[::1]:1/x"),
    ],
)
def test_an_address_is_taken(url: str, text: str):
    """Take https anywhere, http on this machine, a port, a path prefix."""
    assert transport(url).base_url == text
    assert transport(API, upload_url=url).upload_url == text


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.kie.ai",
        "//api.kie.ai",
        "ftp://api.kie.ai",
        "http://api.kie.ai",
        "http://128.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "https://user@api.kie.ai",
        "https://user:pass@api.kie.ai",
        "https://@api.kie.ai",
        "https://api.kie.ai?x=1",
        "https://api.kie.ai?",
        "https://api.kie.ai#x",
        "https://api.kie.ai#",
        "https://api.kie.ai/../x",
        "https://api.kie.ai/a b",
        "https://api.kie.ai/a%2fb",
        "https://api.kie.ai\\@evil.example",
        "https://api.kie.ai\r\nX: y",
        "https://api.kie.ai:0",
        "https://api.kie.ai:99999",
        "https://api.kie.ai:x",
        "https://[::1",
        "https://",
        "https://:443",
        "https://bücher.example",
        None,
        7,
    ],
)
def test_an_address_is_refused(url: Any):
    """What could send the key in the clear, or to another host than is read there."""
    with pytest.raises(UsageError) as caught:
        transport(url, upload_url=API)
    with pytest.raises(UsageError):
        transport(API, upload_url=url)
    assert "pass" not in str(caught.value).replace("password", "")


def test_http_elsewhere_is_for_those_who_ask_for_it():
    """allow_insecure names what it does."""
    assert transport("http://kie.test", allow_insecure=True).base_url == "http://kie.test"


def test_a_key_that_cannot_stand_in_a_header_is_refused():
    """Also when it comes from something that only looks like a Secret."""

    class Loose:
        def reveal(self) -> str:
            return "key\r\nX-Evil: 1"

    with pytest.raises(UsageError) as caught:
        Transport(api_key=Loose(), base_url=API, upload_url=API)  # type: ignore[arg-type]  # on purpose
    assert "Evil" not in str(caught.value)


def test_repr_tells_the_address_and_not_the_key():
    """What a log would show."""
    assert repr(transport(API)) == "<Transport https://api.kie.ai closed>"


def test_a_transport_is_not_pickled():
    """It holds a secret and sockets."""
    with pytest.raises(UsageError):
        pickle.dumps(transport(API))
