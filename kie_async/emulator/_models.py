"""The models that the emulator knows: inputs, prices, how many files come out.

From the documents and prices of 2026-06 to 2026-09.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

__all__ = ["MODELS", "Model", "complaint"]

Input = Mapping[str, Any]
REQUIRED = "This field is required"
ASPECTS = ("2:3", "3:2", "1:1", "16:9", "9:16")
RESOLUTIONS = ("480p", "720p", "1080p")


@frozen(kw_only=True)
class Model:
    """One model.

    Attributes:
        price: Called with the input and the resolution of the source; returns credits.
        required: Fields that must be there, and what is said if not.
        choices: Fields with a fixed set of values.
        outputs: Called with the input; returns the number of files.
        objects: True if it returns a ``resultObject`` and no files.
    """

    price: Callable[[Input, str], float]
    required: Mapping[str, str] = {}
    choices: Mapping[str, tuple[str, ...]] = {}
    outputs: Callable[[Input], int] = lambda given: 1
    objects: bool = False


def _upscale_price(given: Input, source: str) -> float:
    """10 to 720p, 20 from 720p to 1080p, 30 from less (price rows of 2026-09)."""
    if given.get("resolution", "720p") != "1080p":
        return 10.0
    return 20.0 if source == "720p" else 30.0


def _video_price(given: Input, source: str) -> float:
    """480p $0.008 and 720p $0.015 a second (2026-06); 1080p is our guess."""
    second = {"720p": 3.0, "1080p": 6.0}.get(str(given.get("resolution")), 1.6)
    return round(second * _number(given.get("duration"), 6.0), 2)


def _extend_price(given: Input, source: str) -> float:
    """$0.05 or $0.10 for 6 s, twice that for 10 s."""
    long = str(given.get("extend_times")) == "10"
    return (20.0 if long else 10.0) * (2.0 if source == "720p" else 1.0)


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def _is(required: str) -> dict[str, str]:
    return {required: f"{required} is required"}


VIDEO = {"mode": ("fun", "normal", "spicy"), "resolution": RESOLUTIONS}
MODELS: dict[str, Model] = {
    "grok-imagine/upscale": Model(
        price=_upscale_price, required=_is("task_id"), choices={"resolution": ("720p", "1080p")}
    ),
    "grok-imagine/text-to-image": Model(
        price=lambda given, source: 5.0 if given.get("enable_pro") else 4.0,
        # The documents call aspect_ratio optional; asked for real, it was not (2026-08-31).
        required={**_is("prompt"), "aspect_ratio": REQUIRED},
        choices={"aspect_ratio": ASPECTS},
        outputs=lambda given: 4 if given.get("enable_pro") else 6,
    ),
    "grok-imagine/image-to-image": Model(
        price=lambda given, source: 4.0, required=_is("image_urls"), outputs=lambda given: 2
    ),
    "grok-imagine/text-to-video": Model(
        price=_video_price, required=_is("prompt"), choices={**VIDEO, "aspect_ratio": ASPECTS}
    ),
    # With an empty input it was accepted, and paid for (2026-08-31).
    "grok-imagine/image-to-video": Model(price=_video_price, choices=VIDEO),
    "grok-imagine/extend": Model(
        price=_extend_price,
        required={**_is("task_id"), **_is("extend_at"), **_is("extend_times")},
        choices={"extend_times": ("6", "10")},
    ),
    "grok-imagine-video-1-5-preview": Model(
        price=_video_price, choices={"resolution": RESOLUTIONS}
    ),
    "grok-imagine-image-2-0/text-to-image": Model(
        price=lambda given, source: 4.0,
        required={**_is("prompt"), **_is("aspect_ratio")},
        choices={"aspect_ratio": ASPECTS},
    ),
    "grok-imagine-image-2-0/image-edit": Model(
        price=lambda given, source: 4.0,
        required={**_is("image_urls"), **_is("aspect_ratio")},
        choices={"aspect_ratio": (*ASPECTS, "auto")},
    ),
    "grok-imagine-image-2-0/segment-map": Model(price=lambda given, source: 0.0, objects=True),
    "grok-imagine-image-2-0/segment-edit": Model(
        price=lambda given, source: 4.0, required={**_is("prompt"), **_is("task_id")}
    ),
}


def complaint(model: Model, given: Input) -> tuple[int, str] | None:
    """Return code and text if *given* is refused; fields that nobody knows are ignored."""
    for name, msg in model.required.items():
        if given.get(name) in (None, "", []):
            return 500, msg  # validation in the disguise of a server error, as captured
    for name, value in given.items():
        allowed = model.choices.get(name)
        if allowed and value is not None and str(value) not in allowed:
            return 422, f"{name} is not within the range of allowed options"  # our wording
        if name == "task_id" and len(str(value)) > 100:
            return 422, "task_id is too long"  # our wording
    return None
