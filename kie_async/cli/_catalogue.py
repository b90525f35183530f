"""The Grok Imagine family as data: what each model takes, makes and costs.

Inputs are of the documents of 2026-08-19 and the captures after them, prices of rows seen
from 2026-06 to 2026-09.  Models and prices change within weeks: what is not here works all
the same, and is sent as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import field, frozen

from kie_async.grok_imagine import (
    Extend,
    GrokInput,
    ImageEdit2,
    ImageToImage,
    ImageToVideo,
    SegmentEdit,
    SegmentMap,
    TextToImage,
    TextToImage2,
    TextToVideo,
    Upscale,
    VideoPreview,
)

__all__ = ["INPUTS_SEEN", "MODELS", "Input", "Model", "Price", "estimate", "find", "price_text"]

INPUTS_SEEN = "2026-08-19"

RATIOS = "2:3 3:2 1:1 16:9 9:16"
CLIPS = "480p 720p 1080p"
SHORTEST = 6.0
"""Seconds of a clip whose duration is not said: no default is documented; this is the least."""


@frozen(kw_only=True)
class Input:
    """One input field.

    Attributes:
        name: As it is sent.
        kind: "text", "number", "flag", "urls" or "task".
        needed: True if the model refuses to work without it.
        takes: What it may be, for people.
        default: What holds if it is not sent, as documented.
    """

    name: str
    kind: str = "text"
    needed: bool = False
    takes: str = ""
    default: Any = None


@frozen(kw_only=True)
class Price:
    """What a task costs in credits (one is half a US cent), and when that holds.

    Attributes:
        credits: For each task, or for each second of a clip.
        when: Input fields with the values that it is for.
        source: What the source must be: the request does not tell.
        seen: When the price was seen.
    """

    credits: float
    per: str = "task"
    when: Mapping[str, Any] = field(factory=dict)
    source: str = ""
    seen: str = "2026-06"


@frozen(kw_only=True)
class Model:
    """One model; ``typed`` checks its input, where this package knows it well enough."""

    name: str
    makes: str
    inputs: tuple[Input, ...]
    prices: tuple[Price, ...] = ()
    example: str = ""
    typed: type[GrokInput] | None = None
    note: str = ""

    def input(self, name: str) -> Input | None:
        """Return the field of that name."""
        return next((each for each in self.inputs if each.name == name), None)


def _prompt(takes: str = "up to 5000 characters", *, needed: bool = True) -> Input:
    return Input(name="prompt", needed=needed, takes=takes)


def _ratio(default: str | None = None, more: str = "", *, needed: bool = False) -> Input:
    takes = RATIOS + more
    return Input(name="aspect_ratio", needed=needed, takes=takes, default=default)


def _urls(takes: str, *, needed: bool = False) -> Input:
    return Input(name="image_urls", kind="urls", needed=needed, takes=takes)


def _source(takes: str, *, needed: bool = True) -> Input:
    return Input(name="task_id", kind="task", needed=needed, takes=takes)


def _clip(longest: str = "6 to 30 seconds", default: int | None = None) -> tuple[Input, Input]:
    return (
        Input(name="duration", kind="number", takes=longest, default=default),
        Input(name="resolution", takes=CLIPS, default="480p"),
    )


MODE = Input(name="mode", takes="fun normal spicy", default="normal")
NSFW = Input(name="nsfw_checker", kind="flag", takes="true false", default=False)
CLIP_PRICES = (
    Price(credits=1.6, per="second", when={"resolution": "480p"}),
    Price(credits=3.0, per="second", when={"resolution": "720p"}),
)
EDIT_PRICE = (Price(credits=4.0, seen="2026-08"),)
TWO = "grok-imagine-image-2-0"

_LIST = (
    Model(
        name="grok-imagine/text-to-image",
        makes="6 pictures from a text",
        inputs=(
            _prompt(),
            _ratio("1:1"),
            Input(
                name="enable_pro",
                kind="flag",
                takes="true (4 pictures, better) false",
                default=False,
            ),
            NSFW,
        ),
        prices=(
            Price(credits=4.0, when={"enable_pro": False}),
            Price(credits=5.0, when={"enable_pro": True}),
        ),
        example='-i prompt="a lighthouse at dusk" -i aspect_ratio=3:2',
        typed=TextToImage,
        note="aspect_ratio is always sent: documented as optional, it was refused when missing",
    ),
    Model(
        name="grok-imagine/image-to-image",
        makes="2 pictures from a picture",
        inputs=(
            _urls("1 to 5 addresses of jpeg, png or webp, 10 MB each", needed=True),
            _prompt("up to 390000 characters", needed=False),
            NSFW,
        ),
        prices=(Price(credits=4.0),),
        example='-i image_urls=https://example.org/photo.png -i prompt="make it snow"',
        typed=ImageToImage,
    ),
    Model(
        name="grok-imagine/text-to-video",
        makes="a clip from a text",
        inputs=(_prompt(), _ratio("2:3"), MODE, *_clip()),
        prices=CLIP_PRICES,
        example='-i prompt="waves at night" -i duration=6 -i resolution=720p',
        typed=TextToVideo,
    ),
    Model(
        name="grok-imagine/image-to-video",
        makes="a clip from pictures",
        inputs=(
            _urls("1 to 7 addresses (1 at 1080p), 10 MB each; or task_id"),
            _source("a finished grok text-to-image task; or image_urls", needed=False),
            Input(name="index", kind="number", takes="0 to 5: which picture of task_id", default=0),
            _prompt(needed=False),
            _ratio("16:9"),
            Input(name="mode", takes="fun normal spicy (with task_id only)", default="normal"),
            *_clip(),
        ),
        prices=CLIP_PRICES,
        example='-i task_id=TASK_ID -i index=2 -i prompt="the light turns"',
        typed=ImageToVideo,
        note="one of image_urls and task_id is needed: without either it was accepted, and billed",
    ),
    Model(
        name="grok-imagine/upscale",
        makes="a result of Kie's, larger",
        inputs=(
            _source("a finished task of this account", needed=True),
            Input(name="resolution", takes="720p 1080p", default="720p"),
        ),
        prices=(
            Price(credits=10.0, when={"resolution": "720p"}, seen="2026-09"),
            Price(credits=20.0, when={"resolution": "1080p"}, source="720p", seen="2026-09"),
            Price(credits=30.0, when={"resolution": "1080p"}, source="480p", seen="2026-09"),
        ),
        example="-i task_id=TASK_ID -i resolution=1080p",
        typed=Upscale,
        note="documented for tasks of video models; earlier documents named image tasks",
    ),
    Model(
        name="grok-imagine/extend",
        makes="a longer clip",
        inputs=(
            _source("a finished video task"),
            Input(name="prompt", takes="up to 5000 characters", default=""),
            Input(name="extend_at", kind="number", takes="from second 2 on", default=2),
            Input(name="extend_times", takes="6 10 (seconds)", default="6"),
        ),
        prices=(
            Price(credits=10.0, when={"extend_times": "6"}, source="480p"),
            Price(credits=20.0, when={"extend_times": "6"}, source="720p"),
            Price(credits=20.0, when={"extend_times": "10"}, source="480p"),
            Price(credits=30.0, when={"extend_times": "10"}, source="720p"),
        ),
        example='-i task_id=TASK_ID -i extend_times=10 -i prompt="and it rains"',
        typed=Extend,
    ),
    Model(
        name="grok-imagine-video-1-5-preview",
        makes="a clip from a text or pictures",
        inputs=(
            _prompt("up to 4096 characters; or image_urls", needed=False),
            _urls("1 to 7 addresses (1 at 1080p), 20 MB each; or prompt"),
            _ratio("auto", " auto"),
            *_clip("1 to 15 seconds", 8),
            NSFW,
        ),
        example='-i prompt="waves at night" -i duration=8',
        typed=VideoPreview,
    ),
    Model(
        name=f"{TWO}/text-to-image",
        makes="pictures from a text",
        inputs=(_prompt(""), _ratio(needed=True)),
        prices=EDIT_PRICE,
        example='-i prompt="a lighthouse" -i aspect_ratio=3:2',
        typed=TextToImage2,
    ),
    Model(
        name=f"{TWO}/image-edit",
        makes="pictures from pictures",
        inputs=(
            _urls("1 to 5 addresses", needed=True),
            _ratio(None, " auto", needed=True),
            _prompt("up to 390000 characters", needed=False),
        ),
        prices=EDIT_PRICE,
        example='-i image_urls=https://example.org/photo.png -i aspect_ratio=auto -i prompt="snow"',
        note="its page is called image-to-image since the end of August 2026",
        typed=ImageEdit2,
    ),
    Model(
        name=f"{TWO}/segment-map",
        makes="a map of a picture's parts",
        inputs=(
            _source("a task; or image_url", needed=False),
            Input(name="image_url", takes="an address; or task_id"),
        ),
        prices=(Price(credits=0.0, seen="2026-08"),),
        example="-i task_id=TASK_ID",
        typed=SegmentMap,
    ),
    Model(
        name=f"{TWO}/segment-edit",
        makes="a picture, parts of it changed",
        inputs=(
            _prompt(""),
            _source("a 2-0 text-to-image or segment-map task"),
            Input(name="mask_indexs", kind="json", takes="a list of numbers (sic: indexs)"),
        ),
        prices=EDIT_PRICE,
        example='-i task_id=TASK_ID -i prompt="a red roof" -i mask_indexs:=[0,2]',
        typed=SegmentEdit,
    ),
)
MODELS = {model.name: model for model in _LIST}


def find(name: str) -> Model | None:
    """Return the model of that name, or of the one name that ends so."""
    if name in MODELS:
        return MODELS[name]
    if f"grok-imagine/{name}" in MODELS:
        return MODELS[f"grok-imagine/{name}"]
    ending = [model for full, model in MODELS.items() if full.endswith(f"/{name}")]
    return ending[0] if len(ending) == 1 else None


def estimate(model: Model, given: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return what a task costs at least and at most, or None if no price is known."""
    chosen = {**{each.name: each.default for each in model.inputs}, **given}

    def holds(price: Price) -> bool:
        return all(str(chosen.get(name)) == str(value) for name, value in price.when.items())

    found = [_times(price, chosen) for price in model.prices if holds(price)]
    return (min(found), max(found)) if found else None


def _times(price: Price, chosen: Mapping[str, Any]) -> float:
    if price.per == "task":
        return price.credits
    try:
        seconds = float(chosen.get("duration") or SHORTEST)
    except (TypeError, ValueError):
        seconds = SHORTEST
    return round(price.credits * seconds, 2)


def price_text(prices: Iterable[Price]) -> str:
    """Return the range of prices in a few characters: ``4-5``, ``1.6-3/s``."""
    found = sorted({price.credits for price in prices})
    per = {price.per for price in prices}
    if not found:
        return "?"
    text = f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g}-{found[-1]:g}"
    return text + ("/s" if per == {"second"} else "")
