"""What goes in and out, and the words of the real API, as captured until autumn 2026."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen

__all__ = [
    "HEADERS",
    "MAINTAINED",
    "NO_FUNDS",
    "NO_MODEL",
    "NO_RECORD",
    "SERVER_EXCEPTION",
    "TIMED_OUT",
    "TOO_MANY",
    "UNAUTHORIZED",
    "Answer",
    "Request",
    "Wire",
    "blob",
    "compact",
    "envelope",
    "not_found",
]

TOO_MANY = "Your call frequency is too high. Please try again later."
UNAUTHORIZED = (
    "Unauthorized – Authentication failed. Please check that your Authorization and "
    "Content-Type headers are correctly set."
)
NO_MODEL = (
    "The model name you specified is not supported. Please verify your input and use one of "
    "the supported models provided by KIE."
)
NO_FUNDS = (
    "Credits insufficient : Your current balance isn’t enough to run this request. "
    "Please top up to continue."
)
SERVER_EXCEPTION = "Server exception, please try again later or contact customer service"
MAINTAINED = "The server is currently being maintained, please try again later~"
TIMED_OUT = "generate task timeout."
NO_RECORD = "recordInfo is null"

HEADERS = {
    "Content-Type": "application/json;charset=UTF-8",
    "Server": "cloudflare",
    "cf-cache-status": "DYNAMIC",
}


@define
class Request:
    """One request, whole.  Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path alone."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query; of a name that comes twice, the first."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def route(self) -> str:
        """The name that rules and books know it by."""
        if self.path.startswith("/files/"):
            return "renewed" if "token" in self.query else "files"
        return self.path.rpartition("/")[2]

    def holds(self, text: str) -> bool:
        """True if *text* is in the address or the body."""
        return text in self.target or text.encode() in self.body


@frozen
class Wire:
    """Bytes as they are to be written, and how the connection ends after them.

    Attributes:
        chunks: Written one after the other.
        gap: Seconds between them.
        end: "fin", "rst", "silence" or "endless" (a chunked body that never stops).
    """

    chunks: tuple[bytes, ...] = ()
    gap: float = 0.0
    end: str = "fin"


@frozen
class Answer:
    """What goes back.

    Attributes:
        status: The HTTP status.
        body: The body, not compressed.
        headers: The headers, without length and date.
        delay: Seconds to wait before it is sent, in real time.
        wire: Set where a fault writes its own bytes instead.
        whole: The whole file, where the body is a part of it.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = HEADERS
    delay: float = 0.0
    wire: Wire | None = None
    whole: bytes = b""

    def json(self) -> Any:
        """Return the body, read as JSON."""
        return json.loads(self.body)


def compact(value: Any) -> str:
    """Write JSON as the live API does: no spaces, no escapes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def blob(value: Any) -> bytes:
    """Write JSON as bytes; half a pair of surrogates becomes a question mark."""
    return compact(value).encode("utf-8", "replace")


def envelope(code: int, msg: str, data: Any = None) -> Answer:
    """Return an envelope in HTTP 200: errors, too, come in it (691 of 691 captures)."""
    return Answer(body=blob({"code": code, "msg": msg, "data": data}))


def not_found() -> Answer:
    """Return the true 404 of a route or file that does not exist."""
    page = b"<html><body><h1>404 Not Found</h1></body></html>"
    return Answer(404, page, {**HEADERS, "Content-Type": "text/html"})
