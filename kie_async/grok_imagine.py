"""The Grok Imagine models: what they take, checked before anything is sent.

The facts are of 2026-08-19 and later captures.  Models move within weeks, so nothing here
refuses a *model*: any other goes through ``KieSession.run(model, input)`` untouched, and
``extra`` passes fields on that these classes do not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, fields, frozen

from kie_async.errors import UsageError
from kie_async.models import check_task_id

__all__ = [
    "RESOLUTIONS",
    "UPSCALE",
    "Extend",
    "GrokInput",
    "ImageEdit2",
    "ImageToImage",
    "ImageToVideo",
    "SegmentEdit",
    "SegmentMap",
    "TextToImage",
    "TextToImage2",
    "TextToVideo",
    "Upscale",
    "VideoPreview",
    "upscale_input",
]

UPSCALE = "grok-imagine/upscale"
"""The upscaler.  It takes the id of an earlier task of the account, never a file."""

RESOLUTIONS = ("720p", "1080p")
"""What an upscale can be asked for (documented 2026-08); 720p if not said."""

RATIOS = ("2:3", "3:2", "1:1", "16:9", "9:16")
VIDEO_RESOLUTIONS = ("480p", "720p", "1080p")
MODES = ("fun", "normal", "spicy")
LONGEST_PROMPT = 5000
LONG_PROMPT = 390_000


class GrokInput:
    """A model and its input; ``None`` fields are not sent."""

    model: ClassVar[str]
    extra: Mapping[str, Any]

    def to_input(self) -> dict[str, Any]:
        """Return the input as it is sent, unknown fields included."""
        known = {
            each.name: getattr(self, each.name)
            for each in fields(type(self))  # type: ignore[arg-type]  # each subclass is attrs
            if each.name != "extra"
        }
        sent = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in known.items()
            if value is not None
        }
        return {**sent, **self.extra}


def _one_of(*allowed: str, needed: bool = False) -> Any:
    def check(_self: Any, attribute: Any, value: Any) -> None:
        if (needed or value is not None) and value not in allowed:
            raise UsageError(f"{attribute.name} must be one of {', '.join(allowed)}, not {value!r}")

    return check


def _text(longest: int, *, needed: bool = True) -> Any:
    def check(_self: Any, attribute: Any, value: Any) -> None:
        if value is None and not needed:
            return
        if not isinstance(value, str) or (needed and not value.strip()):
            raise UsageError(f"{attribute.name} must be a text, not {value!r:.40}")
        if len(value) > longest:
            raise UsageError(f"{attribute.name} has {len(value)} characters; {longest} at most")

    return check


def _between(low: int, high: int) -> Any:
    def check(_self: Any, attribute: Any, value: Any) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f"{attribute.name} must be {low} to {high}, not {value!r}")

    return check


def _urls(most: int, *, needed: bool) -> Any:
    def check(_self: Any, attribute: Any, value: Any) -> None:
        if value is None and not needed:
            return
        if not isinstance(value, tuple) or not 1 <= len(value) <= most:
            raise UsageError(f"{attribute.name} takes 1 to {most} URLs")
        for url in value:
            _url(_self, attribute, "" if url is None else url)

    return check


def _url(_self: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not value.startswith(("https://", "http://")):
        raise UsageError(f"{attribute.name}: {value!r:.60} is no http(s) URL")


def _task(_self: Any, attribute: Any, value: Any) -> None:
    if value is not None:
        check_task_id(value, attribute.name)


def _needed_task(_self: Any, attribute: Any, value: Any) -> None:
    check_task_id(value, attribute.name)


def _flag(_self: Any, attribute: Any, value: Any) -> None:
    if value is not None and not isinstance(value, bool):
        raise UsageError(f"{attribute.name} must be True or False, not {value!r:.40}")


def _masks(_self: Any, attribute: Any, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, tuple) or not value:
        raise UsageError(f"{attribute.name} takes one number or more")
    for number in value:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise UsageError(f"{attribute.name} holds numbers from 0 on, not {number!r:.40}")


def _one_at_1080p(resolution: str | None, urls: tuple[str, ...] | None) -> None:
    if resolution == "1080p" and urls is not None and len(urls) > 1:
        raise UsageError("at 1080p image_urls takes one URL")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _extra() -> Any:
    return field(factory=dict)


@frozen(kw_only=True)
class TextToImage(GrokInput):
    """Six pictures from a text (four with ``enable_pro``).

    ``aspect_ratio`` is always sent: the documents call it optional, the API did not.
    """

    model: ClassVar[str] = "grok-imagine/text-to-image"
    prompt: str = field(validator=_text(LONGEST_PROMPT))
    aspect_ratio: str = field(default="1:1", validator=_one_of(*RATIOS, needed=True))
    enable_pro: bool | None = field(default=None, validator=_flag)
    nsfw_checker: bool | None = field(default=None, validator=_flag)
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class ImageToImage(GrokInput):
    """Two pictures from a picture; jpeg, png or webp of 10 MB at most."""

    model: ClassVar[str] = "grok-imagine/image-to-image"
    image_urls: tuple[str, ...] = field(converter=_tuple, validator=_urls(5, needed=True))
    prompt: str | None = field(default=None, validator=_text(LONG_PROMPT, needed=False))
    nsfw_checker: bool | None = field(default=None, validator=_flag)
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class TextToVideo(GrokInput):
    """A clip from a text; ``duration`` in seconds, 6 to 30."""

    model: ClassVar[str] = "grok-imagine/text-to-video"
    prompt: str = field(validator=_text(LONGEST_PROMPT))
    aspect_ratio: str | None = field(default=None, validator=_one_of(*RATIOS))
    mode: str | None = field(default=None, validator=_one_of(*MODES))
    duration: int | None = field(default=None, validator=_between(6, 30))
    resolution: str | None = field(default=None, validator=_one_of(*VIDEO_RESOLUTIONS))
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class ImageToVideo(GrokInput):
    """A clip from pictures of one's own, or from one picture of an earlier task."""

    model: ClassVar[str] = "grok-imagine/image-to-video"
    image_urls: tuple[str, ...] | None = field(
        default=None, converter=_tuple, validator=_urls(7, needed=False)
    )
    task_id: str | None = field(default=None, validator=_task)
    index: int | None = field(default=None, validator=_between(0, 5))
    prompt: str | None = field(default=None, validator=_text(LONGEST_PROMPT, needed=False))
    aspect_ratio: str | None = field(default=None, validator=_one_of(*RATIOS))
    mode: str | None = field(default=None, validator=_one_of(*MODES))
    duration: int | None = field(default=None, validator=_between(6, 30))
    resolution: str | None = field(default=None, validator=_one_of(*VIDEO_RESOLUTIONS))
    extra: Mapping[str, Any] = _extra()

    def __attrs_post_init__(self) -> None:
        """Refuse what the model refuses, or worse, bills (an empty input was billed)."""
        if (self.image_urls is None) == (self.task_id is None):
            raise UsageError("give image_urls or task_id, and not both")
        if self.index is not None and self.task_id is None:
            raise UsageError("index goes with task_id only")
        if self.mode == "spicy" and self.image_urls is not None:
            raise UsageError("mode 'spicy' does not go with pictures of your own")
        _one_at_1080p(self.resolution, self.image_urls)


@frozen(kw_only=True)
class Extend(GrokInput):
    """A longer clip: from ``extend_at`` seconds on, by 6 or 10 seconds."""

    model: ClassVar[str] = "grok-imagine/extend"
    task_id: str = field(validator=_needed_task)
    prompt: str = field(default="", validator=_text(LONGEST_PROMPT, needed=False))
    extend_at: int = field(default=2, validator=_between(2, 3600))
    extend_times: str = field(default="6", validator=_one_of("6", "10"))
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class VideoPreview(GrokInput):
    """``grok-imagine-video-1-5-preview``: a clip from a text, pictures or both."""

    model: ClassVar[str] = "grok-imagine-video-1-5-preview"
    prompt: str | None = field(default=None, validator=_text(4096, needed=False))
    image_urls: tuple[str, ...] | None = field(
        default=None, converter=_tuple, validator=_urls(7, needed=False)
    )
    aspect_ratio: str | None = field(default=None, validator=_one_of(*RATIOS, "auto"))
    resolution: str | None = field(default=None, validator=_one_of(*VIDEO_RESOLUTIONS))
    duration: int | None = field(default=None, validator=_between(1, 15))
    nsfw_checker: bool | None = field(default=None, validator=_flag)
    extra: Mapping[str, Any] = _extra()

    def __attrs_post_init__(self) -> None:
        """Refuse an input without anything in it: such a one was billed elsewhere."""
        if self.prompt is None and self.image_urls is None:
            raise UsageError("give a prompt, image_urls or both")
        _one_at_1080p(self.resolution, self.image_urls)


TWO = "grok-imagine-image-2-0"


@frozen(kw_only=True)
class TextToImage2(GrokInput):
    """Pictures from a text, by the second generation."""

    model: ClassVar[str] = f"{TWO}/text-to-image"
    prompt: str = field(validator=_text(LONG_PROMPT))
    aspect_ratio: str = field(validator=_one_of(*RATIOS, needed=True))
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class ImageEdit2(GrokInput):
    """Pictures from one to five pictures."""

    model: ClassVar[str] = f"{TWO}/image-edit"
    image_urls: tuple[str, ...] = field(converter=_tuple, validator=_urls(5, needed=True))
    aspect_ratio: str = field(validator=_one_of(*RATIOS, "auto", needed=True))
    prompt: str | None = field(default=None, validator=_text(LONG_PROMPT, needed=False))
    extra: Mapping[str, Any] = _extra()


@frozen(kw_only=True)
class SegmentMap(GrokInput):
    """A map of the parts of a picture: of an earlier task's, or of one of your own."""

    model: ClassVar[str] = f"{TWO}/segment-map"
    task_id: str | None = field(default=None, validator=_task)
    image_url: str | None = field(default=None, validator=_url)
    extra: Mapping[str, Any] = _extra()

    def __attrs_post_init__(self) -> None:
        """Refuse what the model refuses: it takes the one or the other."""
        if (self.task_id is None) == (self.image_url is None):
            raise UsageError("give task_id or image_url, and not both")


@frozen(kw_only=True)
class SegmentEdit(GrokInput):
    """A picture, parts of it changed; ``mask_indexs`` is spelled as the API does."""

    model: ClassVar[str] = f"{TWO}/segment-edit"
    prompt: str = field(validator=_text(LONG_PROMPT))
    task_id: str = field(validator=_needed_task)
    mask_indexs: tuple[int, ...] | None = field(default=None, converter=_tuple, validator=_masks)
    extra: Mapping[str, Any] = _extra()


def _known_resolution(_self: Any, _attribute: Any, value: Any) -> None:
    if value is not None and value not in RESOLUTIONS:
        raise UsageError(
            f"resolution must be one of {', '.join(RESOLUTIONS)}, not {value!r}; "
            "for anything newer use run('grok-imagine/upscale', {...})"
        )


@frozen(kw_only=True)
class Upscale(GrokInput):
    """The result of an earlier task, larger.

    The kind of the source task is not checked: documents disagree on it, and the id is
    opaque.
    """

    model: ClassVar[str] = UPSCALE
    task_id: str = field(validator=_needed_task)
    resolution: str | None = field(default=None, validator=_known_resolution)
    extra: Mapping[str, Any] = _extra()


def upscale_input(task_id: str, resolution: str | None = None) -> dict[str, Any]:
    """Return the input of an upscale.

    Raises:
        UsageError: The id cannot be one, or the resolution is none of the documented.
    """
    if resolution is None:  # of a long list nearly all are so, and the class takes its time
        return {"task_id": check_task_id(task_id)}
    return Upscale(task_id=task_id, resolution=resolution).to_input()
