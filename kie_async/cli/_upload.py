"""``kie upload``: a file becomes an address that an input can take."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from attrs import define

from kie_async.cli._escape import clean
from kie_async.cli._exits import Exit, exit_of, worst
from kie_async.cli._output import Output
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import check_key, connect, json_option
from kie_async.errors import KieError, SessionClosedError, UsageError
from kie_async.models import UploadedFile, check_seconds
from kie_async.protocol import MAX_UPLOAD, upload_url_request
from kie_async.session import KieSession

__all__ = ["upload"]

AT_ONCE = 2
"""Files in memory and on the line at once."""
KEPT = 86_400.0
"""Seconds that an upload is kept at least: one page says a day, others three."""


@define(eq=False)
class _Upload:
    """One file, and what became of it."""

    given: str
    done: UploadedFile | None = None
    error: KieError | None = None


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="FILE|URL...")
@click.option(
    "--folder", metavar="PATH", help="Where on the host; without it a new folder each time."
)
@click.option("--name", metavar="NAME", help="Its name there; without it the file's own.")
@click.option(
    "--timeout",
    type=float,
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="For each file.",
)
@json_option
def upload(
    what: tuple[str, ...], folder: str | None, name: str | None, timeout: float, as_json: bool
) -> int:
    """Upload files for a model's input, and print their addresses. It costs nothing.

    Each address is a line on stdout, in the order of the files; when it expires stands on
    stderr. A file has at most 100 MB. A URL is fetched by Kie itself. In the same --folder
    a file of the same name is overwritten.

    \b
    Examples:
      kie upload photo.png
      kie run grok-imagine/image-to-image -i image_urls="$(kie upload photo.png)"

    \b
    With --json each line has "event" and "time", and:
      uploaded      file, url, name, bytes, mime_type, expires_at (Unix seconds,
                    at the earliest)
      not_uploaded  file, error: {type, message}, next
      summary       uploaded, not_uploaded, exit_code
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    if name is not None and len(what) > 1:
        raise click.UsageError("--name goes with one file")
    uploads = [_Upload(word) for word in what]
    for each in uploads:
        _check(each.given, folder, name)
    try:
        check_seconds(timeout, "--timeout")
    except UsageError as error:
        raise click.UsageError(error.message) from None
    check_key()
    output = Output(as_json=as_json)
    place = folder or f"kie-async/{secrets.token_hex(8)}"

    async def send(kie: KieSession, each: _Upload) -> UploadedFile:
        # Each in a folder of its own: two files of one name must not meet.
        own = place if folder or len(what) == 1 else f"{place}/{uploads.index(each)}"
        if _is_url(each.given):
            return await kie.upload_url(each.given, folder=own, file_name=name, timeout=timeout)
        return await kie.upload_file(each.given, folder=own, file_name=name, timeout=timeout)

    return run(lambda stop: _work(uploads, send, output, stop))


def _is_url(word: str) -> bool:
    return word.startswith(("https://", "http://"))


def _check(word: str, folder: str | None, name: str | None) -> None:
    """Refuse what cannot work before anything is sent.

    Raises:
        click.UsageError: It is no file that can be uploaded.
    """
    shown = clean(word, 200)
    try:
        if _is_url(word):
            upload_url_request(word, folder=folder or "kie", file_name=name)
            return
        path = Path(word)
        upload_url_request("https://x", folder=folder or "kie", file_name=name or path.name)
        if not path.is_file():
            told = "is a directory" if path.is_dir() else "is no file and no http(s) address"
            raise click.UsageError(f"{shown} {told}")
        size = path.stat().st_size
    except UsageError as error:
        raise click.UsageError(f"{shown}: {error.message}") from None
    except OSError as error:
        raise click.UsageError(f"{shown} cannot be read: {error.strerror}") from None
    if not 0 < size <= MAX_UPLOAD:
        told = "is empty" if not size else f"has more than {MAX_UPLOAD} bytes: give its URL instead"
        raise click.UsageError(f"{shown} {told}")


async def _work(uploads: Sequence[_Upload], send: Any, output: Output, stop: Stop) -> int:
    """Send all; one that fails stops no other."""
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(kie: KieSession, each: _Upload) -> None:
        async with turns:
            try:
                each.done = await send(kie, each)
            except KieError as error:
                each.error = error
            _tell(each, output)

    async with connect(lambda _event: None) as kie:

        async def close_when_asked() -> None:
            await stop.wait()
            await kie.close(grace=0)

        closing = asyncio.create_task(close_when_asked())
        try:
            await asyncio.gather(*(one(kie, each) for each in uploads))
        finally:
            closing.cancel()
    return _end(uploads, output)


def _tell(each: _Upload, output: Output) -> None:
    """Tell at once what a script reads; people get the addresses in order at the end."""
    if each.done is not None:
        output.event("uploaded", {"file": each.given, **_fields(each.done)})
    elif each.error is not None:
        told = {"type": type(each.error).__name__, "message": each.error.message}
        output.event("not_uploaded", {"file": each.given, "error": told, "next": _next(each)})


def _end(uploads: Sequence[_Upload], output: Output) -> int:
    failed = [each for each in uploads if each.done is None]
    code = worst(exit_of(each.error) for each in failed)
    count = {"uploaded": len(uploads) - len(failed), "not_uploaded": len(failed)}
    output.event("summary", {**count, "exit_code": int(code)})
    if output.as_json:
        return int(code)
    for each in uploads:
        if each.done is not None:
            output.result(clean(each.done.download_url, 4000))
            when = datetime.fromtimestamp(_expires(each.done)).astimezone()
            output.note(
                f"{clean(each.given, 200)}: {_size(each.done)}, kept until "
                f"{when:%Y-%m-%d %H:%M %Z} at least"
            )
    for each in failed:
        what = "stopped" if isinstance(each.error, SessionClosedError) else str(each.error)
        output.note(f"{output.emphasis('Not uploaded:')} {clean(each.given, 200)}")
        output.note(f"  {clean(what)}")
        output.note("  Nothing was paid: an upload is free.")
        output.note(f"  Next: {_next(each)}")
    return int(code)


def _next(each: _Upload) -> str:
    if exit_of(each.error) is Exit.AUTHENTICATION:
        return "put a valid key into the environment variable KIE_API_KEY, then: kie credits"
    return shlex.join(["kie", "upload", clean(each.given, 4000)])


def _size(done: UploadedFile) -> str:
    return "size not told" if done.size is None else f"{done.size:,} bytes"


def _fields(done: UploadedFile) -> dict[str, Any]:
    return {
        "url": done.download_url,
        "name": done.file_name,
        "bytes": done.size,
        "mime_type": done.mime_type,
        "expires_at": round(_expires(done), 3),
    }


def _expires(done: UploadedFile) -> float:
    """Return when it may be gone at the earliest, in Unix seconds."""
    try:
        told = datetime.fromisoformat(str(done.raw.get("uploadedAt")))
    except ValueError:
        return time.time() + KEPT
    return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp() + KEPT
