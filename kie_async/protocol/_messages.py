"""What goes out and what comes in, as values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import field, frozen

__all__ = ["Request", "Response"]


@frozen(kw_only=True)
class Request:
    """One HTTP request, without the key.

    ``path`` has the query in it.  ``paid`` marks a create: it gets a fresh connection,
    because a reused idle one fails in a way that leaves its outcome unknown.
    """

    method: str
    path: str
    body: bytes | None = field(default=None, repr=False)
    paid: bool = False
    host: Literal["api", "upload"] = "api"
    content_type: str = "application/json"


@frozen
class Response:
    """One whole answer, the body decoded and bounded.

    Header names are asked for in lower case, in which tests write them; the transport's
    mapping does not mind the case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
