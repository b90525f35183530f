"""The report: all numbers, escaped, bounded, and shown by a real browser."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest

from kie_async.bulk import note_balance
from kie_async.journal import Journal, PlannedItem
from kie_async.models import Task
from kie_async.report import MARK, add_thumbnails, build_page, gather
from kie_async.report._plots import histogram, over_time
from tests.browser import CHROMIUM, browsing
from tests.conftest import CANARY_KEY

T0 = 1_790_000_000.0
HOSTILE = (
    "</script><script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    '"onmouseover="window.hit=3',
    "javascript:window.hit=4",
    "{{thumbnails}}{{data}}",
    "\u202egnp.evil \u2028 \u2029 <!--",
    "'; rm -rf / #",
)


def picture(path, colour=(200, 30, 30), size=(64, 36)):
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return str(path)


async def a_run(path, items):
    """Make a journal; *items* are (source id, how it ended, files or message)."""
    async with Journal(path, clock=lambda: T0 + 20.0) as journal:
        await journal.plan(PlannedItem(source_id=i[0], model="m", input={}) for i in items)
        for number, (source, ended, more) in enumerate(items):
            if ended == "planned":
                continue
            attempt = await journal.begin_sending(source)
            if ended == "in_doubt":
                await journal.record_in_doubt(source, attempt, reason=more)
                continue
            await journal.record_created(source, attempt, f"task-{number}")
            task = Task(
                task_id=f"task-{number}",
                state="fail" if ended == "failed" else "success",
                created_at=T0 + number / 2,
                completed_at=T0 + number / 2 + 10,
                credits_consumed=10.0,
            )
            if ended == "failed":
                await journal.record_failed(
                    source, reason="task failed", task=task, error_code="500", error_message=more
                )
            elif ended == "done":
                await journal.record_done(source, task, polls=3)
                if more:
                    await journal.record_files(source, more)


async def page_of(path, directory, **options):
    async with Journal(path, read_only=True) as journal:
        report = await gather(journal, str(path), made_at=T0, **options)
    add_thumbnails(report.entries)
    return report, build_page(report, directory)


def data_in(page):
    """Return the page's data as a browser would find it."""
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.mark.asyncio
async def test_the_numbers_are_of_all_and_doubts_come_first(tmp_path):
    """Even if few are shown one by one."""
    items = [(f"s-{n}", "done", [picture(tmp_path / f"r/{n}.png")]) for n in range(20)]
    items += [("f", "failed", "no"), ("d", "in_doubt", "lost"), ("p", "planned", None)]
    await a_run(tmp_path / "run.db", items)

    report, page = await page_of(tmp_path / "run.db", tmp_path, limit=5)
    whole, _ = await page_of(tmp_path / "run.db", tmp_path)

    assert [e.item.source_id for e in report.entries] == ["d", "f", "s-17", "s-18", "s-19"]
    assert len(report.figures.durations) == 20
    assert set(report.figures.durations) == {10.0}
    assert report.figures.polls == 60
    assert min(report.figures.delays) == pytest.approx(10.0 - 9.5)
    assert "5 of 23 items are shown one by one" in page
    assert {e.item.source_id for e in whole.entries} == {i[0] for i in items}
    assert sum(1 for e in whole.entries if e.thumbnail) == 20


@pytest.mark.asyncio
async def test_what_comes_from_outside_is_text(tmp_path):
    """Ids, messages and names of files: nothing of them is markup, an address or a template."""
    items = [(f"{text} {n}", "failed", text) for n, text in enumerate(HOSTILE)]
    items.append(("named", "done", [picture(tmp_path / "r" / "a<b>'&% #1.png")]))
    await a_run(tmp_path / "run.db", items)

    _, page = await page_of(tmp_path / "run.db", tmp_path)

    class Tags(HTMLParser):
        found: ClassVar[list[tuple[str, dict[str, str | None]]]] = []

        def handle_starttag(self, tag, attrs):
            self.found.append((tag, dict(attrs)))

    Tags().feed(page)
    scripts = [facts.get("type") for tag, facts in Tags.found if tag == "script"]
    assert scripts == ["application/json", "text/plain", None]
    assert not [facts for tag, facts in Tags.found if any(name.startswith("on") for name in facts)]
    told = data_in(page)
    assert {row[0] for row in told["items"]} == {i[0] for i in items}
    named = next(row for row in told["items"] if row[0] == "named")
    assert named[9] == ["./r/a%3Cb%3E%27%26%25%20%231.png"]
    quoted = next(row for row in told["items"] if "rm -rf" in row[0])[16]
    assert quoted.startswith("'")
    assert "'\"'\"'" in quoted


@pytest.mark.asyncio
async def test_no_network_is_allowed_and_nothing_else_runs(tmp_path):
    """The policy names the hashes of the one script and the one style."""
    await a_run(tmp_path / "run.db", [("a", "planned", None)])

    _, page = await page_of(tmp_path / "run.db", tmp_path)

    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    script = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert CANARY_KEY not in page
    assert MARK in page[:200]


@pytest.mark.asyncio
async def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Twenty thousand rows, fifty of them shown: no list of items."""
    async with Journal(tmp_path / "run.db") as journal:
        await journal.plan(
            PlannedItem(source_id=f"s-{n}", model="m", input={"text": "x" * 200})
            for n in range(20_000)
        )
        async with asyncio.TaskGroup() as group:
            for n in range(20_000):
                group.create_task(journal.record_failed(f"s-{n}", reason="no"))
    tracemalloc.start()
    report, _ = await page_of(tmp_path / "run.db", tmp_path, limit=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert len(report.entries) == 50
    assert peak < 6 * 2**20


@pytest.mark.asyncio
async def test_files_that_are_gone_or_no_pictures_have_no_thumbnail(tmp_path):
    """And the page says so; the rest is shown."""
    good, bad = picture(tmp_path / "r/good.png"), tmp_path / "r/bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    items = [("a", "done", [good]), ("b", "done", [str(bad)]), ("c", "done", ["r/gone.png"])]
    await a_run(tmp_path / "run.db", items)

    report, page = await page_of(tmp_path / "run.db", tmp_path)

    rows = {row[0]: row for row in data_in(page)["items"]}
    assert [bool(e.thumbnail) for e in report.entries] == [True, False, False]
    assert rows["a"][14] == pytest.approx(64 / 36, abs=0.01)
    assert (rows["c"][9], rows["c"][15]) == ([], 1)


def test_thumbnails_have_a_budget(tmp_path):
    """The last ones get theirs first."""
    from kie_async.report import Entry

    entries = []
    for number in range(10):
        entry = Entry(item=None)
        entry.files = (tmp_path / f"{number}.png",)
        picture(entry.files[0], size=(300, 300))
        entries.append(entry)
    one = add_thumbnails(entries[:1])
    size = len(entries[0].thumbnail)

    assert one == 1
    assert add_thumbnails(entries[1:], budget=size * 4) == 4
    assert [bool(e.thumbnail) for e in entries[1:]] == [False] * 5 + [True] * 4


def test_the_plots_show_what_they_say():
    """Counts in each window, the limit, and shares."""
    steady = over_time([T0 + 10 * n for n in range(30) for _ in range(20)], limit=20, window=10.0)
    long = over_time([T0 + n for n in range(40_000)], limit=20, window=10.0)
    spread = histogram([1.0] * 90 + [5.0] * 9 + [100.0], what="durations")

    assert steady.count('class="bar"') == 30
    assert "20.0 in 10 s, at most 20" in steady
    assert "limit 20" in steady
    assert 60 <= long.count('class="bar"') <= 120
    assert "median 1 s" in spread
    assert "90 % 1 s" in spread
    assert "and more: 10" in spread
    assert "no task has been created yet" in over_time([], limit=20, window=10.0)
    assert "no delays on record" in histogram([], what="delays")


@pytest.mark.asyncio
async def test_credits_that_no_task_explains_are_told(tmp_path):
    """As `kie bulk` told them at the end of the run."""
    await a_run(tmp_path / "run.db", [("a", "done", []), ("b", "in_doubt", "lost")])
    async with Journal(tmp_path / "run.db") as journal:
        await note_balance(journal, 100.0, first=True)
        await note_balance(journal, 80.0, first=False)

    _, page = await page_of(tmp_path / "run.db", tmp_path)

    assert "10 credits left the account that no task on record explains" in page


def test_the_axes_tell_the_truth():
    """Round whole numbers upwards, and an axis of time that ends where the last column does."""
    short = over_time([T0 + 0.4 * n for n in range(100)], limit=20, window=10.0)
    seven = histogram([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4.0], what="durations")

    upright = [int(n) for n in re.findall(r'text-anchor="end">(\d+)</text>', short)]
    assert upright == [0, 10, 20]
    assert re.findall(r'text-anchor="end">(\d+)</text>', seven) == ["0", "5"]
    along = [(float(x), t) for x, t in re.findall(r'x="([\d.]+)" y="210"[^>]*>([^<]*)<', short)]
    assert short.count('class="bar"') == 4
    assert along[-2][0] == pytest.approx(56 + (640 - 56 - 16) * 3 / 4, abs=0.1)
    assert along[-1] == (640, "0:40")  # written inwards, so that it is not cut off


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@needs_browser
@pytest.mark.asyncio
async def test_a_browser_shows_it_by_keyboard_and_asks_for_nothing_else(tmp_path):
    """Figures, tiles in view only, filter, search, compare, keys; hostile ids do nothing."""
    sources = tmp_path / "originals"
    items = []
    for number in range(600):
        source = f"source-{number:04}"
        items.append(
            (source, "done", [picture(tmp_path / f"r/{source}.png", (number % 250, 9, 9))])
        )
    picture(sources / "source-0599.png", (0, 0, 250))
    items += [(f"{text} {n}", "failed", text) for n, text in enumerate(HOSTILE)]
    items.append(("doubt", "in_doubt", "the answer was lost"))
    await a_run(tmp_path / "run.db", items)
    _, page = await page_of(
        tmp_path / "run.db",
        tmp_path,
        find_source=lambda s: p if (p := sources / f"{s}.png").exists() else None,
    )
    (tmp_path / "report.html").write_text(page)

    async with browsing() as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        tiles = await tab.js("document.querySelectorAll('.tile').length")
        await tab.key("/")
        for letter in "0599":
            await tab.key(letter)
        found = await tab.js("document.getElementById('count').textContent")
        await tab.key("Escape")
        await tab.key("ArrowDown")
        await tab.key("Enter")
        opened = await tab.js("document.querySelector('#facts h2').textContent")
        compared = await tab.js("document.querySelectorAll('#stage img').length")
        wide = await tab.js(
            "new Promise(d => { const i = document.querySelector('#stage img');"
            " i.complete ? d(i.naturalWidth) : i.onload = () => d(i.naturalWidth); })"
        )
        await tab.key("Escape")
        await tab.js("document.querySelector('#states button[value=failed]').click()")
        await tab.js(
            "search = document.getElementById('search'); search.value = ''; search.oninput()"
        )
        failed = await tab.js("[...document.querySelectorAll('.tile .id')].map(e => e.textContent)")
        await tab.js("document.querySelector('.tile').click()")
        command = await tab.js("document.querySelector('.command').textContent")
        await tab.key("ArrowRight")
        second = await tab.js("document.querySelector('#facts h2').textContent")
        hit = await tab.js("window.hit ?? null")

    assert 0 < tiles < 80
    assert found == "1 shown"
    assert (opened, compared, wide) == ("source-0599", 2, 64)
    seen = re.compile("[\u202e\u2028\u2029]")
    assert sorted(failed) == sorted(
        seen.sub(lambda char: f"\\u{ord(char[0]):04x}", f"{text} {n}")
        for n, text in enumerate(HOSTILE)
    )
    assert "--recreate" in command
    assert second in failed
    assert hit is None
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


@needs_browser
@pytest.mark.asyncio
@pytest.mark.parametrize("width", [390, 1800])
async def test_nothing_sticks_out_at_any_width(tmp_path, width):
    """A phone and a wide screen: no sideways scrolling, tiles fill the row."""
    items = [(f"a-very-long-source-id-{n:040}", "failed", "x" * 300) for n in range(30)]
    await a_run(tmp_path / "run.db", items)
    _, page = await page_of(tmp_path / "run.db", tmp_path)
    (tmp_path / "report.html").write_text(page)

    async with browsing(width=width) as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        over = await tab.js("document.documentElement.scrollWidth - innerWidth")
        right = await tab.js(
            "Math.max(...[...document.querySelectorAll('.tile')]"
            ".map(t => t.getBoundingClientRect().right))"
        )
        await tab.js("document.querySelector('.tile').click()")
        dialog = await tab.js("document.getElementById('detail').getBoundingClientRect().width")

    assert over <= 0
    assert width - 40 < right <= width
    assert dialog <= width


CLIP = base64.b64decode(
    "GkXfo59ChoEBQveBAULygQRC84EIQoKEd2VibUKHgQRChYECGFOAZwEAAAAAAANxEU2bdLlNu4tTq4QVSalmU6yB"
    "bk27i1OrhBZUrmtTrIGTTbuLU6uEH0O2dVOsgcFNu4xTq4QcU7trU6yCA1/srgAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAVSalmoCrXsYMPQkBEiYRD+dj2TYCGQ2hyb21lV0GGQ2hyb21lFlSu"
    "a6mup9eBAXPFhwKZS9a8vwSDgQFV7oEBhoVWX1ZQOOCKsIEguoESU8CBAR9DtnUBAAAAAAACkueBAKBAi6HggQAA"
    "ADADAJ0BKiAAEgACRwiFhYiZhIgMggHYBBMjbfj50VCeCzpA/vVrPrV3c15v8Jig0hs+OEhLJePq1frtRkX/6+ZV"
    "HxZL3//5zBSBjiqP/4JP0xJBf8/ubYveqtgAdaGmpqTugQGlnzACAJ0BKiAAEgAHBwiFhYiZhIgmAgAHkPPJwP7w"
    "XQCgQICh4IEAYwBRAgAJEIAAGNtsUEBMIHjhwD1urvD+1dfmMf9u8/7//GET4Cn/6+wfymf/6uev/E76ViGFZqbc"
    "oA7bv//MXYj/vvi1cjF1xxySJ+/37bw5kXGpXZ2AWv5BsoCZgHWhmKaW7oEBpZGxAQAcETwAGAAYWC/0AAhwAPuB"
    "AKDRobGBAMkA8QEACRCIABgAHkAv9AAZvHzYzDehNxcOOnYiaxFwW9Ti3X6DOyXtQPIy0AsAdaGYppbugQGlkbEB"
    "ABwRLAAYABhYL/QACHAA+4FjoMWhpYEBKwARAgAJEHgAGAAkQC/0AC+QxvkAy8VL2eANcHzNtt9AAAB1oZimlu6B"
    "AaWRsQEAHBEcABgAGFgv9AAIcAD7gcmg9qHVgQGPABECAAkQUAAYACpL//QAYu8nJAD+9Bi34rfUDOQf/UGf+QZ/"
    "5Bn6m2ZJqnpJKssSqEaoVBgEvb/I+2NE1sq99wJUXYsD1LZegADlgKPn2s10AHWhmKaW7oEBpZGxAQAcEOwAGAAY"
    "WC/0AAhwAPuCASug6qHJgQHzABECAAkQTAAYACRL//QAP6T3DAD+9L7v7ovtRVB//1aH/q0P/VofuO1Nhg43D8sY"
    "6Ks2Ysq7yCULec/08j2AP3uYp73wAHWhmKaW7oEBpZGxAQAcENwAGAAYWC/0AAhwAPuCAY8cU7trjbuLs4EAt4b3"
    "gQHxgcE="
)
"""Half a second of WebM, 32 by 18."""


@needs_browser
@pytest.mark.asyncio
async def test_a_video_plays_in_place_beside_its_source(tmp_path):
    """Its tile shows a frame of it; opened, it plays, and the source moves as it does."""
    items = []
    for number in range(3):
        (tmp_path / f"{number}.webm").write_bytes(CLIP)
        items.append((f"s-{number}", "done", [str(tmp_path / f"{number}.webm")]))
    await a_run(tmp_path / "run.db", items)
    _, page = await page_of(
        tmp_path / "run.db", tmp_path, find_source=lambda _: tmp_path / "0.webm"
    )
    (tmp_path / "report.html").write_text(page)

    async with browsing() as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        framed = await tab.js(
            "new Promise(done => { const look = () => {"
            " const all = [...document.querySelectorAll('.tile video')];"
            " all.filter(v => v.videoWidth).length === 3 ? done(all.length)"
            " : requestAnimationFrame(look); };"
            " look(); })"
        )
        await tab.js("document.querySelector('.tile').click()")
        played = await tab.js(
            "(async () => { const [result, source] = document.querySelectorAll('#stage video');"
            " result.muted = true;"
            " const both = [result, source].map(v => new Promise(d => v.onplaying = d));"
            " await result.play(); await Promise.all(both);"
            " return [result.loop, source.muted]; })()"
        )
        sizes = await tab.js(
            "[...document.querySelectorAll('#stage .tag')].map(e => e.textContent)"
        )
        stopped = await tab.js(
            "new Promise(done => { const [result, source] ="
            " document.querySelectorAll('#stage video'); result.pause();"
            " const look = () => source.paused ? done(true) : requestAnimationFrame(look);"
            " look(); })"
        )
        await tab.key("Escape")
        left = await tab.js(
            "new Promise(done => { const look = () => {"
            " const left = document.querySelectorAll('#stage video').length;"
            " left ? requestAnimationFrame(look) : done(left); }; look(); })"
        )

    assert framed == 3
    assert played == [True, True]
    assert sizes == ["result 32 × 18", "source 32 × 18"]
    assert stopped is True
    assert left == 0
    assert tab.problems == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


@needs_browser
@pytest.mark.asyncio
async def test_hidden_characters_are_seen(tmp_path):
    """A turn of direction in a message cannot write the page's own words backwards."""
    await a_run(tmp_path / "run.db", [("a", "failed", "no \u202egnp.evil\u0007 \u2028")])
    _, page = await page_of(tmp_path / "run.db", tmp_path)
    (tmp_path / "report.html").write_text(page)

    async with browsing() as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        told = await tab.js("document.querySelector('.tile .words').textContent")

    assert told == "500; no \\u202egnp.evil\\u0007 \\u2028"


@needs_browser
@pytest.mark.asyncio
async def test_a_taller_window_shows_more_rows(tmp_path):
    """Without a scroll: as wide as before, but with room below."""
    await a_run(tmp_path / "run.db", [(f"s-{n}", "failed", "no") for n in range(200)])
    _, page = await page_of(tmp_path / "run.db", tmp_path)
    (tmp_path / "report.html").write_text(page)
    lowest = (
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done("
        "Math.max(...[...document.querySelectorAll('.tile')]"
        ".map(t => t.getBoundingClientRect().bottom))))))"
    )

    async with browsing(height=600) as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        await tab.ask(
            "Emulation.setDeviceMetricsOverride",
            width=1400,
            height=2400,
            deviceScaleFactor=1,
            mobile=False,
        )
        bottom = await tab.js(lowest)

    assert bottom >= 2400


@needs_browser
@pytest.mark.asyncio
async def test_a_failed_item_shows_its_source_and_what_to_type(tmp_path):
    """The picture that it was to be made of; the run's own journal and directory, quoted."""
    source = picture(tmp_path / "originals" / "f.png")
    items = [("f", "failed", "no"), ("g", "done", ["my results/g.png"])]
    await a_run(tmp_path / "my run.db", items)
    async with Journal(tmp_path / "my run.db", read_only=True) as journal:
        report = await gather(journal, "my run.db", made_at=T0, find_source={"f": Path(source)}.get)
    (tmp_path / "report.html").write_text(build_page(report, tmp_path))

    async with browsing() as tab:
        await tab.open((tmp_path / "report.html").as_uri())
        told = {}
        for item in "fg":
            await tab.js(
                f"[...document.querySelectorAll('.tile')]"
                f".find(t => t.textContent.includes('{item}')).click()"
            )
            told[item] = await tab.js(
                "[document.querySelector('.command').textContent,"
                " document.querySelector('#stage').textContent,"
                " document.querySelectorAll('#stage img').length]"
            )
            await tab.key("Escape")

    assert told["f"][0] == (
        "kie reconcile 'my run.db' --recreate f\nkie bulk --journal 'my run.db' --out 'my results/'"
    )
    assert told["f"][1].startswith("500; no")
    assert told["f"][2] == 1
    assert told["g"][0] == "kie wait task-1 --out 'my results/'"
