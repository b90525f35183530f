"""Downloads a task's results: bounded, renewed when expired, each whole or absent."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from kie_async.errors import DownloadError, KieError, StorageFullError, UsageError
from kie_async.files._fetching import Fetcher, Fetching, Renew
from kie_async.files._names import check_template, file_name
from kie_async.files._part import Part
from kie_async.files._threads import in_thread
from kie_async.instrumentation import FileSaved, Hooks
from kie_async.models import Task, check_seconds

__all__ = ["Downloader"]

MAX_BYTES = 2 * 2**30
"""Bytes of one file, at most: a result is a picture or a clip of seconds."""
LONGEST_PAUSE = 10.0
"""Seconds between two attempts, at most."""

_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})


class Downloader:
    """Saves results in one folder.

    A file under its final name is whole and checked; what is unfinished ends in
    ``.part`` (with a note, ``.part.json``) and is gone on with by the next run, if the
    host has a strong ETag for it.  Nothing is ever overwritten, and no link followed.

    Args:
        fetcher: An open result transport.
        renew: Returns a fresh URL for one that has expired; asked once a file, and once
            more for each fresh one that brought some of it.
        directory: Where the files go; it is made if it is missing.
        name: Template of the names: ``{source_id}``, ``{task_id}``, ``{index}``.
        max_bytes: The largest file that is accepted, in bytes.
        timeout: Seconds for one file, with all its attempts.
        concurrency: Files at once.
        attempts: How often to try without getting any further.
        backoff: Seconds to wait before the second attempt, doubled for each other one;
            half of it is random.
        hooks: Told of each saved file.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        renew: Renew,
        directory: Path,
        *,
        name: str = "{task_id}",
        max_bytes: int = MAX_BYTES,
        timeout: float = 900.0,
        concurrency: int = 4,
        attempts: int = 4,
        backoff: float = 0.5,
        hooks: Hooks | None = None,
    ) -> None:
        for value, what in (
            (max_bytes, "max_bytes"),
            (concurrency, "concurrency"),
            (attempts, "attempts"),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{what} must be a whole number above zero, not {value!r}")
        self._directory = directory
        self._name = check_template(name)
        self._timeout = check_seconds(timeout, "timeout")
        self._backoff = check_seconds(backoff, "backoff", zero=True)
        self._attempts = attempts
        self._turns = asyncio.Semaphore(concurrency)
        self._hooks = hooks or Hooks()
        self._fetching = Fetching(
            fetcher=fetcher,
            renew=renew,
            max_bytes=max_bytes,
            timeout=timeout,
            attempts=attempts,
            pause=self._pause,
        )

    async def save(
        self, task: Task, *, source_id: str | None = None, name: str | None = None
    ) -> tuple[Path, ...]:
        """Save every result of *task*, and return the files in the order of its URLs.

        Safe to repeat: what is there is known again and no request is made for it.

        Args:
            task: A finished task.
            source_id: For the name; by default the id in the task's input.
            name: A template for this task instead of the usual one.

        Raises:
            DownloadError: A file could not be saved; ``saved`` has the others.
            StorageFullError: The disk is full; what came so far is kept and resumed,
                unless the disk said so only when the whole file was synced.
        """
        source = source_id or str((task.input or {}).get("task_id") or task.task_id)
        template = self._name if name is None else check_template(name)
        name_of = partial(
            file_name,
            template,
            source_id=source,
            task_id=task.task_id,
            count=len(task.result_urls),
        )
        results = await asyncio.gather(
            *(
                self._one(task.task_id, index, url, name_of(index=index))
                for index, url in enumerate(task.result_urls)
            ),
            return_exceptions=True,  # one that fails leaves the others be
        )
        return _told(task.task_id, results)

    async def _one(self, task_id: str, index: int, url: str, stem: str) -> Path:
        """Save one file, within its time."""
        part = Part(self._directory, stem, task_id, index)
        problem: KieError
        try:
            async with self._turns, asyncio.timeout(self._timeout):
                return await self._saved(part, task_id, url)
        except TimeoutError:
            problem = DownloadError(f"the download took longer than {self._timeout:g} s")
        except OSError as error:
            problem = _unwritable(self._directory, error)
        raise problem

    async def _saved(self, part: Part, task_id: str, url: str) -> Path:
        began = asyncio.get_running_loop().time()
        try:
            if (found := await self._claimed(part)) is not None:
                return found
            suffix = await self._fetching.bring(part, url)
            final, size = await in_thread(part.finish, suffix)
        finally:
            if part.is_open:
                await in_thread(part.close)
        if self._hooks:
            seconds = asyncio.get_running_loop().time() - began
            self._hooks.emit(FileSaved(task_id=task_id, path=final, size=size, seconds=seconds))
        return final

    async def _claimed(self, part: Part) -> Path | None:
        """Open *part*, or return the file if it was saved before, perhaps just now."""
        attempt = 1
        while True:
            try:
                return await in_thread(part.claim)
            except DownloadError as error:
                if not error.retryable or attempt == self._attempts:
                    raise
            await asyncio.sleep(self._pause(attempt))
            attempt += 1

    def _pause(self, failures: int) -> float:
        longest = min(LONGEST_PAUSE, self._backoff * 2.0 ** (failures - 1))
        return longest * (0.5 + random.random() / 2)  # noqa: S311 - jitter is no secret


def _told(task_id: str, results: Sequence[Path | BaseException]) -> tuple[Path, ...]:
    """Return the paths, or raise what went wrong, with the others on it."""
    saved = tuple(result for result in results if isinstance(result, Path))
    failures = [result for result in results if isinstance(result, BaseException)]
    for failure in failures:
        if isinstance(failure, StorageFullError) or not isinstance(failure, KieError):
            raise failure
    if not failures:
        return saved
    first = failures[0]
    assert isinstance(first, KieError)  # noqa: S101 - the others were raised above
    which = f" ({len(failures)} of {len(results)} results)" if len(results) > 1 else ""
    raise DownloadError(
        f"{first.message}{which}",
        saved=saved,
        task_id=task_id,
        http_status=first.http_status,
        retryable=any(f.retryable for f in failures if isinstance(f, KieError)),
    )


def _unwritable(directory: Path, error: OSError) -> KieError:
    if error.errno in _FULL:
        return StorageFullError("the disk is full: make room and run the same again")
    return DownloadError(
        f"{directory} cannot be written to ({error.strerror or type(error).__name__}): "
        "choose another folder",
        retryable=False,
    )
