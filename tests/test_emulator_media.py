"""The emulator's pictures: real, small, quick, and really enlarged."""

from __future__ import annotations

import io
import time

import pytest
from PIL import Image

from kie_async.emulator._media import CACHE
from kie_async.emulator._pictures import draw, enlarge, png
from tests.test_emulator import api, ask, create


def opened(data: bytes) -> Image.Image:
    """Open a picture, all of it."""
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return by how much the pixels differ on average, in 256ths."""
    pairs = zip(one.tobytes(), other.tobytes(), strict=True)
    return sum(abs(a - b) for a, b in pairs) / len(one.tobytes())


def picture(core, task_id, now=99.0) -> Image.Image:
    """Fetch a task's first picture."""
    return opened(ask(core, "GET", f"/files/{task_id}-0.png", now).body)


def test_a_picture_opens_and_shows_something():
    """240 by 135, many colours, the same for the same seed."""
    shown = opened(png(draw("a")))

    assert (shown.format, shown.mode, shown.size) == ("PNG", "RGB", (240, 135))
    assert len(shown.getcolors(100_000)) > 500
    assert draw("a") == draw("a")
    assert len({b"".join(draw(f"seed {n}")) for n in range(8)}) == 8


def test_pixels_come_through_the_packing():
    """Every byte of every row."""
    rows = [bytes((7 * x * y + x) % 256 for x in range(30)) for y in range(9)]

    assert opened(png(rows)).tobytes() == b"".join(rows)


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarging_is_what_pillow_calls_bicubic(factor):
    """To within rounding; its kernel is a little sharper than ours."""
    rows = draw("b")
    size = (240 * factor, 135 * factor)
    ours = opened(png(enlarge(rows, factor)))
    theirs = opened(png(rows)).resize(size, Image.Resampling.BICUBIC)

    assert ours.size == size
    assert difference(ours, theirs) < 0.5


def test_hard_edges_stay_within_black_and_white():
    """Overshooting is cut off, never wrapped around."""
    rows = [bytes([0, 0, 0] * 4 + [255, 255, 255] * 4)] * 4 + [bytes([255] * 24)] * 4
    values = set(b"".join(enlarge(rows, 3)))
    middle = enlarge(rows, 3)[4][3 * 4 : 3 * 8]

    assert {0, 255} <= values
    assert set(middle) == {0}


@pytest.mark.parametrize(("wanted", "size"), [("720p", (480, 270)), ("1080p", (720, 405))])
def test_an_upscale_is_the_same_picture_larger(wanted, size):
    """Made small again, it is its source."""
    core = api()
    source = core.add_source_task()
    task_id = create(core, task_id=source, resolution=wanted)["data"]["taskId"]
    small, large = picture(core, source), picture(core, task_id)

    assert large.size == size
    assert difference(large.resize((240, 135), Image.Resampling.BOX), small) < 1.5


def test_an_upscale_of_an_upscale_shows_the_first_source():
    """And two tasks that name each other still end."""
    core = api()
    source = core.add_source_task()
    first = create(core, task_id=source)["data"]["taskId"]
    second = create(core, 20.0, task_id=first, resolution="1080p")["data"]["taskId"]
    ring = create(core, 40.0, task_id="self")["data"]["taskId"]
    core.tasks[ring].source_id = ring

    small = picture(core, second).resize((240, 135), Image.Resampling.BOX)
    assert difference(small, picture(core, source)) < 1.5
    assert picture(core, ring).size == (480, 270)


def test_ids_of_any_form_have_their_files():
    """Dashes, spaces, slashes."""
    core = api()
    for task_id in ("source-0001", "a b", "a/b?c=1"):
        core.add_source_task(0.0, task_id)
        url = core.result_urls(core.tasks[task_id])[0]
        assert ask(core, "GET", url.removeprefix(core.origin)).status == 200


def test_painting_is_quick():
    """Source and largest upscale, each far below half a second even on a busy machine."""
    began = time.process_time()
    rows = draw("c")
    data = png(enlarge(rows, 3))

    assert time.process_time() - began < 0.5
    assert len(data) < 200_000


def test_pictures_take_no_more_memory_than_they_may():
    """The oldest go, and are painted again, the same."""
    core = api()
    first, second = core.add_source_task(), core.add_source_task()
    before = picture(core, first)
    core.media.keep("x", bytes(CACHE))
    picture(core, second)

    assert core.media.size <= CACHE
    assert picture(core, first).tobytes() == before.tobytes()


def test_files_answer_head_and_if_none_match():
    """304 for what the client has."""
    core = api()
    path = f"/files/{core.add_source_task()}-0.png"
    tag = ask(core, "GET", path).headers["ETag"]

    assert ask(core, "GET", path, headers={"if-none-match": tag}).status == 304
    assert ask(core, "GET", path, headers={"range": "bytes=9-", "if-range": '"x"'}).status == 200
    assert ask(core, "HEAD", path).status == 200
    assert ask(core, "POST", path).status == 404
    assert ask(core, "GET", path.replace("-0.", "-1.")).status == 404
