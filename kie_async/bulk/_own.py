"""The journal of a run that was given none: it goes with the run."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from kie_async.journal import Journal

__all__ = ["own_journal"]


@asynccontextmanager
async def own_journal() -> AsyncGenerator[Journal, None]:
    """Open a journal in a folder of its own, and delete both in the end."""
    async with _folder_of_its_own() as folder, Journal(folder / "run.db") as journal:
        yield journal


@asynccontextmanager
async def _folder_of_its_own() -> AsyncGenerator[Path, None]:
    """Make a folder that goes with the run; a large journal takes its time to delete."""
    folder = tempfile.TemporaryDirectory(prefix="kie-", ignore_cleanup_errors=True)
    try:
        yield Path(folder.name)
    finally:
        try:
            await asyncio.to_thread(folder.cleanup)
        except BaseException:  # a cancellation can take the thread's turn away
            folder.cleanup()
            raise
