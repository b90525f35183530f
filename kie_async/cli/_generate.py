"""``kie generate``: from a prompt to saved files, upscaled if wished, in one go."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import sys
from pathlib import Path
from typing import Any

import click
from attrs import evolve, frozen

from kie_async.cli._board import Row, status_of
from kie_async.cli._catalogue import MODELS, RATIOS
from kie_async.cli._escape import clean
from kie_async.cli._output import Output, row_fields
from kie_async.cli._run import Request, show_request
from kie_async.cli._running import Stop, run
from kie_async.cli._settings import (
    check_key,
    connect,
    json_option,
    on_loopback,
    out_option,
    prepared,
    timeout_option,
)
from kie_async.cli._work import Job, report, work_off
from kie_async.errors import UsageError, WaitTimeoutError
from kie_async.grok_imagine import (
    RESOLUTIONS,
    GrokInput,
    ImageToImage,
    ImageToVideo,
    TextToImage,
    TextToVideo,
    Upscale,
)
from kie_async.models import Task
from kie_async.session import KieSession

__all__ = ["generate"]

LATER = "https://to.be.uploaded/"
"""Stands for a picture's address until it has one."""


@click.command()
@click.argument("prompt", nargs=-1, required=True)
@click.option("--video", is_flag=True, help="Make a clip instead of pictures.")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="FILE|URL",
    help="Begin with this picture, and perhaps more; a file is uploaded.",
)
@click.option(
    "--upscale",
    "larger",
    type=click.Choice(RESOLUTIONS),
    help="Upscale the result when it is there.",
)
@click.option("--aspect-ratio", type=click.Choice(RATIOS.split()), help="Width to height.")
@click.option("--pro", is_flag=True, help="Four better pictures instead of six.")
@click.option("--duration", type=int, metavar="SECONDS", help="Of a clip: 6 to 30.")
@click.option("--resolution", type=click.Choice(["480p", "720p", "1080p"]), help="Of a clip.")
@click.option("--mode", type=click.Choice(["fun", "normal", "spicy"]), help="Of a clip.")
@out_option
@timeout_option
@click.option("--dry-run", is_flag=True, help="Print what would be sent and cost; send nothing.")
@json_option
def generate(
    prompt: tuple[str, ...],
    images: tuple[str, ...],
    larger: str | None,
    out: Path | None,
    timeout: float,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Make pictures or a clip from a prompt, save them, and upscale. It costs credits.

    PROMPT may be several words; - reads it from stdin. --timeout is one deadline for all.
    Each task's id is told as soon as it is paid for: whatever happens after that, the
    command that goes on from there is printed at the end.

    An upscale takes a whole task, not one of its pictures. Kie documents it for clips; of
    pictures it may be refused, and they are saved before it is tried.

    \b
    Examples:
      kie generate a lighthouse at dusk --out results/
      kie generate "waves at night" --video --upscale 1080p --out results/
      kie generate "make it snow" --image photo.png --out results/

    With --json the objects are those of `kie upscale`; source_id is null for what is made
    first, and its task id for the upscale.
    """  # noqa: D301 - a real backspace: click leaves such a paragraph alone
    text = " ".join(prompt)
    if text == "-":
        if sys.stdin.isatty():
            click.echo("Type the prompt, then Ctrl-D on a line of its own.", err=True)
        text = sys.stdin.read().strip()
    wanted = _wanted(text, images, options)
    output = Output(as_json=as_json)
    if dry_run:
        return _dry(wanted, larger, output)
    for image in images:
        _check_image(image)
    check_key()
    prepared(out)
    order = Order(
        wanted=wanted,
        images=images,
        larger=larger,
        out=out,
        timeout=timeout,
        again=_again(text, images, larger, out, options),
    )
    return run(lambda stop: _Chain(order, output, stop).work())


@frozen(kw_only=True)
class Order:
    """What the command line asked for."""

    wanted: GrokInput
    images: tuple[str, ...]
    larger: str | None
    out: Path | None
    timeout: float
    again: str


class _Chain:
    """One task after the other, within one deadline."""

    def __init__(self, order: Order, output: Output, stop: Stop) -> None:
        self._order = order
        self._output = output
        self._stop = stop
        self._deadline: float | None = None

    async def work(self) -> int:
        """Make, then upscale; return the exit code."""
        order = self._order
        first = Row(label=_label(order.wanted), again=order.again)
        rows = [first]
        await work_off(self._job(self._make), rows, connect, self._output, self._stop)
        going = first.task is None or not first.task.failed
        if order.larger is not None and first.task_id is not None and going:
            rows.append(await self._upscaled(first))
        return report(rows, self._output, order.out, upscaled=False)

    async def _upscaled(self, first: Row) -> Row:
        """Upscale what is there; without it the row tells how to do that later."""
        options = f" --resolution {self._order.larger}"
        row = Row(source_id=first.task_id, label="upscale", options=options)
        if status_of(first) == "done" and not self._stop.asked:
            if self._left() > 0:
                await work_off(self._job(self._enlarge), [row], connect, self._output, self._stop)
                return row
            row.error = WaitTimeoutError("no time was left to upscale; nothing was created for it")
        self._output.event("result", row_fields(row, self._order.out))
        return row

    def _left(self) -> float:
        """Return the seconds that are left; they run from the first task's turn on."""
        if self._deadline is None:
            return self._order.timeout
        return round(self._deadline - asyncio.get_running_loop().time(), 1)

    def _job(self, call: Any) -> Job:
        return Job(
            call=call, timeout=self._left(), out=self._order.out, allow_private=on_loopback()
        )

    async def _make(self, kie: KieSession, row: Row) -> Task:
        wanted: Any = self._order.wanted
        self._deadline = asyncio.get_running_loop().time() + self._order.timeout
        if self._order.images:
            row.phase = "uploading"
            urls = [await self._address(kie, image) for image in self._order.images]
            wanted = evolve(wanted, image_urls=tuple(urls))
        return await kie.generate(wanted, timeout=max(0.1, self._left()))

    async def _address(self, kie: KieSession, image: str) -> str:
        if _is_url(image):
            return image
        # A folder of its own: in a shared one a file of the same name would be overwritten.
        folder = f"kie-async/{secrets.token_hex(8)}"
        uploaded = await kie.upload_file(image, folder=folder, timeout=max(0.1, self._left()))
        return uploaded.download_url

    async def _enlarge(self, kie: KieSession, row: Row) -> Task:
        return await kie.upscale(
            row.name, resolution=self._order.larger, timeout=max(0.1, self._left())
        )


def _label(wanted: GrokInput) -> str:
    return "video" if wanted.model.endswith("video") else "pictures"


def _wanted(text: str, images: tuple[str, ...], options: dict[str, Any]) -> GrokInput:
    """Return the typed input; what it does not take is refused, and not left out.

    Raises:
        click.UsageError: It cannot work; nothing was sent.
    """
    urls = tuple(image if _is_url(image) else LATER for image in images) or None
    given = {name: value for name, value in options.items() if value not in (None, False)}
    video = given.pop("video", False)
    if given.pop("pro", False):
        given["enable_pro"] = True
    kind: type[GrokInput]
    if video:
        kind = TextToVideo if urls is None else ImageToVideo
    else:
        kind = TextToImage if urls is None else ImageToImage
    known = MODELS[kind.model]
    for name in given:
        if known.input(name) is None:
            option = {"enable_pro": "pro"}.get(name, name).replace("_", "-")
            with_image = " and --image" if urls else ""
            made = ("--video" if video else "pictures") + with_image
            raise click.UsageError(f"--{option} does not go with {made}")
    if urls is not None:
        given["image_urls"] = urls
    try:
        return kind(prompt=text, **given)
    except UsageError as error:
        raise click.UsageError(error.message) from None


def _is_url(image: str) -> bool:
    return image.startswith(("https://", "http://"))


def _check_image(image: str) -> None:
    if not _is_url(image) and not Path(image).is_file():
        raise click.UsageError(f"--image {clean(image, 200)} is no file and no http(s) address")


def _dry(wanted: GrokInput, larger: str | None, output: Output) -> int:
    first = Request(model=wanted.model, input=wanted.to_input(), known=MODELS[wanted.model])
    show_request(first, output)
    if larger is not None:
        upscale = Upscale(task_id="ITS_TASK_ID", resolution=larger)
        known = MODELS[upscale.model]
        show_request(Request(model=upscale.model, input=upscale.to_input(), known=known), output)
    return 0


def _again(
    text: str,
    images: tuple[str, ...],
    larger: str | None,
    out: Path | None,
    options: dict[str, Any],
) -> str:
    """Return the command that was typed."""
    words = ["kie", "generate", text]
    words += [word for image in images for word in ("--image", image)]
    for name, value in options.items():
        if value not in (None, False):
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else [str(value)]
    words += ["--upscale", larger] if larger else []
    words += ["--out", str(out)] if out is not None else []
    return shlex.join(clean(word, 6000) for word in words)
