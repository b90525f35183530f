"""Saving results on behalf of a session: pools that are opened when first needed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kie_async.instrumentation import Hooks

if TYPE_CHECKING:
    from kie_async.files import Downloader
    from kie_async.transport import ResultTransport

__all__ = ["Saving"]


class Saving:
    """Makes downloaders; belongs to one entering of a session and is closed with it."""

    def __init__(self, renew: Callable[[str], Awaitable[str]], hooks: Hooks) -> None:
        """Open nothing yet."""
        self._renew = renew
        self._hooks = hooks
        self._pools: dict[bool, ResultTransport] = {}

    async def downloader(self, directory: Path, name: str, *, allow_private: bool) -> Downloader:
        """Return a downloader into *directory*; those with the same rules share a pool."""
        from kie_async.files import Downloader
        from kie_async.transport import ResultTransport

        pool = self._pools.get(allow_private)
        if pool is None:
            pool = self._pools[allow_private] = ResultTransport(allow_private=allow_private)
            await pool.__aenter__()
        return Downloader(pool, self._renew, directory, name=name, hooks=self._hooks)

    async def close(self) -> None:
        """Close what was opened."""
        while self._pools:
            _, pool = self._pools.popitem()
            await pool.__aexit__(None, None, None)
