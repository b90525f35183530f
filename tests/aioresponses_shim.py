"""aioresponses 0.7.9 with aiohttp 3.14: its made-up responses lack an argument.

``ClientResponse`` wants ``stream_writer`` since 3.14.  Import ``aioresponses`` from here.
"""

from __future__ import annotations

from typing import Any

import aiohttp
from aioresponses import CallbackResult, core
from aioresponses import aioresponses as _aioresponses

__all__ = ["CallbackResult", "aioresponses"]


class _NothingWritten:
    """A writer that has written nothing."""

    output_size = 0


class _Response(aiohttp.ClientResponse):
    """A response that fills in what its maker does not know of."""

    def __init__(self, *args: Any, **options: Any) -> None:
        """Build it with a writer."""
        options.setdefault("stream_writer", _NothingWritten())
        super().__init__(*args, **options)


class aioresponses(_aioresponses):
    """The same, with responses that aiohttp 3.14 accepts."""

    def start(self) -> None:
        """Put the stand-in for the response class in place."""
        core.ClientResponse = _Response
        super().start()

    def stop(self) -> None:
        """Put the original back."""
        super().stop()
        core.ClientResponse = aiohttp.ClientResponse
