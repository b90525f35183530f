"""Downloads a task's results: streamed, resumed, checked, renewed when expired."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from kie_async.errors import DownloadError, KieError, StorageFullError
from kie_async.files._kinds import HEAD, kind_of, looks_like_a_page, unfinished
from kie_async.files._names import check_template, file_name
from kie_async.files._part import Part
from kie_async.instrumentation import FileSaved, Hooks
from kie_async.models import Task, check_seconds
from kie_async.transport import Fetched

__all__ = ["Downloader"]

MAX_BYTES = 2 * 2**30
"""Bytes of one file, at most: a result is a picture or a clip of seconds."""
BLOCK = 2**20
"""Bytes written in one hop to a thread."""
ATTEMPTS = 4
"""Tries for one file; each goes on where the last one stopped."""
SLOWEST = 1024.0
"""Bytes a second, averaged over half a minute: slower is broken off and resumed."""
PATIENCE = 30.0
"""Seconds that this average is taken over."""
EXPIRED = frozenset({401, 403, 404, 410})
"""Statuses of a result URL whose time is over."""


class Fetcher(Protocol):
    """What opens a result URL."""

    def fetch(
        self, url: str, *, offset: int = 0, etag: str | None = None
    ) -> AbstractAsyncContextManager[Fetched]:
        """Open *url* from byte *offset* on."""


class Downloader:
    """Saves results in one folder.

    Args:
        fetcher: An open result transport.
        renew: Returns a fresh URL for one that has expired; asked once a file.
        directory: Where the files go; it is made if it is missing.
        name: Template of the names: ``{source_id}``, ``{task_id}``, ``{index}``.
        max_bytes: The largest file that is accepted, in bytes.
        timeout: Seconds for one file, with all its attempts.
        hooks: Told of each saved file.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        renew: Callable[[str], Awaitable[str]],
        directory: Path,
        *,
        name: str = "{task_id}",
        max_bytes: int = MAX_BYTES,
        timeout: float = 900.0,
        hooks: Hooks | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._renew = renew
        self._directory = directory
        self._name = check_template(name)
        self._max_bytes = max_bytes
        self._timeout = check_seconds(timeout, "timeout")
        self._hooks = hooks or Hooks()

    async def save(
        self, task: Task, *, source_id: str | None = None, name: str | None = None
    ) -> tuple[Path, ...]:
        """Save every result of *task*; safe to repeat, what is there is not fetched twice.

        Args:
            task: A finished task.
            source_id: For the name; by default the id in the task's input.
            name: A template for this task instead of the usual one.

        Raises:
            DownloadError: A file could not be saved; ``saved`` has the others.
            StorageFullError: The disk is full; what came so far is kept and resumed.
        """
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        source = source_id or str((task.input or {}).get("task_id") or task.task_id)
        template = self._name if name is None else check_template(name)
        saved: list[Path] = []
        failure: KieError | None = None
        for index, url in enumerate(task.result_urls):
            stem = file_name(
                template,
                source_id=source,
                task_id=task.task_id,
                index=index,
                count=len(task.result_urls),
            )
            try:
                saved.append(await self._one(task.task_id, url, stem))
            except StorageFullError:
                raise
            except KieError as error:
                failure = error
        if failure is not None:
            raise DownloadError(
                failure.message,
                saved=tuple(saved),
                task_id=task.task_id,
                retryable=failure.retryable,
            )
        return tuple(saved)

    async def _one(self, task_id: str, url: str, stem: str) -> Path:
        """Save one file, within its time."""
        part = Part(self._directory, stem)
        try:
            async with asyncio.timeout(self._timeout):
                suffix = await self._fetched(part, url)
                final = self._directory / f"{stem}{suffix}"
                size = await asyncio.to_thread(part.size)
                await asyncio.to_thread(part.finish, final)
        except KieError:
            raise
        except TimeoutError:
            pass
        except OSError as error:
            raise DownloadError(
                f"{self._directory} cannot be written to ({error.strerror}): choose another folder",
                retryable=False,
            ) from None
        else:
            if self._hooks:
                self._hooks.emit(FileSaved(task_id=task_id, path=final, size=size))
            return final
        raise DownloadError(f"the download took longer than {self._timeout:g} s; try again")

    async def _fetched(self, part: Part, url: str) -> str:
        """Bring the whole file into *part*; return the suffix that its content has."""
        renewed = False
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._attempt(part, url)
            except _ExpiredError as expired:
                if renewed:
                    raise DownloadError(
                        f"the result has expired (HTTP {expired.status}) and could not be renewed: "
                        "look at Kie's site; the task itself was paid once and stays done",
                        http_status=expired.status,
                        retryable=False,
                    ) from None
            except DownloadError as error:
                if not error.retryable or attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(random.random() * 2**attempt * 0.25)  # noqa: S311 - jitter
                continue
            renewed, url = True, await self._renew(url)
        raise DownloadError("the result could not be fetched; try again")

    async def _attempt(self, part: Part, url: str) -> str:
        offset, tag = await asyncio.to_thread(lambda: (part.size(), part.tag()))
        if tag is None:
            offset = 0
        async with self._fetcher.fetch(url, offset=offset, etag=tag) as answer:
            expected = await self._begun(part, answer, offset)
            if expected is None:  # 416: everything had come
                await asyncio.to_thread(part.drop)
                raise DownloadError("the file changed meanwhile; it is fetched anew")
            size = await self._stream(part, answer, offset if answer.status == 206 else 0)
        return await self._judged(part, answer, size, expected)

    async def _begun(self, part: Part, answer: Fetched, offset: int) -> int | None:
        """Check the head; return the length to expect (-1: not told), or None for 416."""
        status, headers = answer.status, answer.headers
        if status in EXPIRED:
            raise _ExpiredError(status)
        if status == 416:
            return None
        if status not in (200, 206):
            raise DownloadError(
                f"the result's host answered HTTP {status}; try again", http_status=status
            )
        length = headers.get("content-length", "")
        expected = int(length) if length.isdigit() else -1
        if status == 206:
            if not headers.get("content-range", "").startswith(f"bytes {offset}-"):
                await asyncio.to_thread(part.drop)
                raise DownloadError("the host resumed elsewhere; the file is fetched anew")
            expected += offset if expected >= 0 else 0
        else:
            await asyncio.to_thread(part.start, headers.get("etag"))
        if expected > self._max_bytes:
            raise self._too_large()
        return expected

    async def _stream(self, part: Part, answer: Fetched, size: int) -> int:
        """Write what comes; return the size of the part."""
        loop = asyncio.get_running_loop()
        block = bytearray()
        window_at, window_bytes = loop.time(), 0
        try:
            async for chunk in answer.chunks:
                size += len(chunk)
                window_bytes += len(chunk)
                if size > self._max_bytes:
                    block.clear()
                    raise self._too_large()
                block += chunk
                if len(block) >= BLOCK:
                    await asyncio.to_thread(part.append, bytes(block))
                    block.clear()
                if loop.time() - window_at > PATIENCE:
                    if window_bytes < SLOWEST * PATIENCE:
                        raise DownloadError("the host sends too slowly; the download is resumed")
                    window_at, window_bytes = loop.time(), 0
        finally:
            if block:  # what came is kept, also when it broke off: the next try resumes
                part.append(bytes(block))
        return size

    async def _judged(self, part: Part, answer: Fetched, size: int, expected: int) -> str:
        """Say whether the file is whole and what it is; return its suffix."""
        if expected >= 0 and size < expected:
            raise DownloadError(f"{size} of {expected} bytes came; the download is resumed")
        head, tail = await asyncio.to_thread(part.ends) if size else (b"", b"")
        said = answer.headers.get("content-type", "")
        problem = None
        if not size or (expected >= 0 and size != expected):
            problem = f"{size} bytes came instead of {expected}" if size else "the file is empty"
        elif looks_like_a_page(head[:HEAD], said):
            problem = "a page came in the place of the file"
        elif unfinished(kind_of(head), head, tail, size):
            problem = "the file stops before its end"
        if problem is not None:
            await asyncio.to_thread(part.drop)
            raise DownloadError(f"{problem}; try again")
        return kind_of(head).suffix

    def _too_large(self) -> DownloadError:
        return DownloadError(
            f"the result is larger than {self._max_bytes} bytes: raise max_bytes if that is right",
            retryable=False,
        )


class _ExpiredError(Exception):
    """The URL has no file any more."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status
