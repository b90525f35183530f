"""What the Grok Imagine models take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kie_async import grok_imagine
from kie_async.errors import UsageError
from kie_async.grok_imagine import (
    RESOLUTIONS,
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
    upscale_input,
)
from kie_async.protocol import create_task_request


def test_an_upscale_takes_the_id_alone():
    """No default is sent that the caller did not choose: the price follows from it."""
    assert upscale_input("abcd") == {"task_id": "abcd"}


@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_a_documented_resolution_is_sent(resolution):
    """As it was written."""
    assert upscale_input("abcd", resolution) == {"task_id": "abcd", "resolution": resolution}


@pytest.mark.parametrize("resolution", ["", "4k", 720, "720P"])
def test_another_resolution_is_refused_before_it_costs(resolution):
    """And the message says how to send it all the same."""
    with pytest.raises(UsageError, match="run"):
        upscale_input("abcd", resolution)


GOOD = [
    (TextToImage(prompt="a lighthouse"), {"prompt": "a lighthouse", "aspect_ratio": "1:1"}),
    (ImageToImage(image_urls=["https://h/1.png"]), {"image_urls": ["https://h/1.png"]}),
    (
        TextToVideo(prompt="waves", duration=6, mode="fun"),
        {"prompt": "waves", "duration": 6, "mode": "fun"},
    ),
    (ImageToVideo(task_id="abcd", index=5), {"task_id": "abcd", "index": 5}),
    (ImageToVideo(image_urls=("https://h/1.png",)), {"image_urls": ["https://h/1.png"]}),
    (
        Extend(task_id="abcd"),
        {"task_id": "abcd", "prompt": "", "extend_at": 2, "extend_times": "6"},
    ),
    (VideoPreview(prompt="x", aspect_ratio="auto"), {"prompt": "x", "aspect_ratio": "auto"}),
    (Upscale(task_id="abcd", extra={"brand_new": 1}), {"task_id": "abcd", "brand_new": 1}),
    (TextToImage2(prompt="x", aspect_ratio="3:2"), {"prompt": "x", "aspect_ratio": "3:2"}),
    (
        ImageEdit2(image_urls=["https://h/1.png"], aspect_ratio="auto"),
        {"image_urls": ["https://h/1.png"], "aspect_ratio": "auto"},
    ),
    (SegmentMap(image_url="https://h/1.png"), {"image_url": "https://h/1.png"}),
    (
        SegmentEdit(prompt="a red roof", task_id="abcd", mask_indexs=[0, 2]),
        {"prompt": "a red roof", "task_id": "abcd", "mask_indexs": [0, 2]},
    ),
]


@pytest.mark.parametrize(("wanted", "sent"), GOOD, ids=lambda v: type(v).__name__)
def test_an_input_is_sent_as_it_was_meant(wanted, sent):
    """What was not said is not sent, and unknown fields go along."""
    assert wanted.to_input() == sent
    assert wanted.model.startswith("grok-imagine")
    assert create_task_request(wanted.model, wanted.to_input()).paid


BAD = [
    lambda: TextToImage(prompt=""),
    lambda: TextToImage(prompt="x" * 5001),
    lambda: TextToImage(prompt="x", aspect_ratio="4:3"),
    lambda: ImageToImage(image_urls=[]),
    lambda: ImageToImage(image_urls=["https://h/x"] * 6),
    lambda: ImageToImage(image_urls=["ftp://h/x"]),
    lambda: TextToVideo(prompt="x", duration=5),
    lambda: TextToVideo(prompt="x", duration=True),
    lambda: TextToVideo(prompt="x", resolution="4k"),
    lambda: ImageToVideo(),
    lambda: ImageToVideo(image_urls=["https://h/x"], task_id="abcd"),
    lambda: ImageToVideo(image_urls=["https://h/x"], index=1),
    lambda: ImageToVideo(image_urls=["https://h/x"], mode="spicy"),
    lambda: ImageToVideo(task_id="a b"),
    lambda: Extend(task_id="abcd", extend_times="7"),
    lambda: VideoPreview(),
    lambda: VideoPreview(prompt="x", duration=16),
    lambda: Upscale(task_id=""),
    lambda: Extend(task_id=None),
    lambda: Extend(task_id="abcd", extend_at=1),
    lambda: TextToImage(prompt="x", enable_pro="yes"),
    lambda: TextToImage(prompt="x", aspect_ratio=None),
    lambda: ImageToVideo(image_urls=["https://h/x"] * 2, resolution="1080p"),
    lambda: VideoPreview(image_urls=["https://h/x"] * 2, resolution="1080p"),
    lambda: TextToImage2(prompt="x", aspect_ratio=None),
    lambda: ImageEdit2(image_urls=["https://h/x"] * 6, aspect_ratio="auto"),
    lambda: ImageEdit2(image_urls=[None], aspect_ratio="auto"),
    lambda: SegmentMap(),
    lambda: SegmentMap(task_id="abcd", image_url="https://h/x"),
    lambda: SegmentMap(image_url="file:///x"),
    lambda: SegmentEdit(prompt="x", task_id=None),
    lambda: SegmentEdit(prompt="x", task_id="abcd", mask_indexs=[]),
    lambda: SegmentEdit(prompt="x", task_id="abcd", mask_indexs=["0"]),
]


@pytest.mark.parametrize("make", BAD)
def test_an_input_that_cannot_work_is_refused_before_it_costs(make):
    """An empty one was even billed."""
    with pytest.raises(UsageError):
        make()


@given(st.text(max_size=50), st.one_of(st.none(), st.integers(), st.text(max_size=5)))
def test_anything_is_an_input_or_a_usage_error(prompt, duration):
    """No other exception comes out of a check."""
    try:
        wanted = TextToVideo(prompt=prompt, duration=duration)
    except UsageError:
        return
    assert wanted.to_input()["prompt"] == prompt


def test_every_input_names_its_model():
    """The models are data, and each is another one."""
    classes = [
        cls
        for name in grok_imagine.__all__
        if isinstance(cls := getattr(grok_imagine, name), type)
        and issubclass(cls, GrokInput)
        and cls is not GrokInput
    ]

    assert len({cls.model for cls in classes}) == len(classes) == 11
