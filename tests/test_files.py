"""Saving over real sockets: whole or absent, under safe names, known again later."""

from __future__ import annotations

import os
import shutil

import pytest

from kie_async import DownloadError, KieSession, Task, UsageError
from kie_async.emulator import Emulator
from kie_async.files import Downloader
from kie_async.instrumentation import FileSaved, Hooks
from kie_async.transport import ResultTransport
from tests.file_hosts import (
    GIF,
    JPEG,
    MP4,
    PNG,
    WEBM,
    WEBP,
    Host,
    files,
    finals,
    hosted,
    no_renewal,
    png,
    response,
    served,
    task,
)

BODIES = [
    (PNG, ".png"),
    (JPEG, ".jpg"),
    (GIF, ".gif"),
    (WEBP, ".webp"),
    (MP4, ".mp4"),
    (WEBM, ".webm"),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("body", "suffix"), BODIES, ids=[s for _, s in BODIES])
async def test_a_file_is_saved_whole_with_the_suffix_of_its_content(body, suffix, tmp_path):
    """Whatever the URL and the host call it; nothing else stays in the folder."""
    host = Host(body=body)

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved == (tmp_path / "out" / f"task-1{suffix}",)
    assert saved[0].read_bytes() == body
    assert files(tmp_path) == {f"task-1{suffix}": len(body)}


@pytest.mark.asyncio
async def test_a_large_file_goes_through_several_blocks(tmp_path):
    """More than the writer holds at once."""
    host = Host(body=png(5_000_000))

    async with hosted(host, tmp_path) as downloader:
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == host.body


@pytest.mark.asyncio
async def test_the_key_is_never_there(tmp_path):
    """No Authorization, no cookie, no compression."""
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        await downloader.save(task(host.url))

    sent = host.requests[0].lower()
    assert "authorization" not in sent
    assert "cookie" not in sent
    assert "accept-encoding: identity" in sent


@pytest.mark.asyncio
async def test_saving_twice_asks_once(tmp_path):
    """The second time no request is made: the file is known by its mark."""
    host, told = Host(), []

    async with hosted(host, tmp_path, hooks=Hooks([told.append])) as downloader:
        first = await downloader.save(task(host.url))
        again = await downloader.save(task("https://gone.invalid/x"))

    assert again == first
    assert len(host.requests) == 1
    assert 0 < told[0].seconds < 30
    assert told == [
        FileSaved(task_id="task-1", path=first[0], size=len(PNG), seconds=told[0].seconds)
    ]


@pytest.mark.asyncio
async def test_a_file_without_its_mark_is_fetched_and_compared(tmp_path):
    """A copy without times, or a file system that keeps none: it stays what it is."""
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        first = await downloader.save(task(host.url))
        os.utime(first[0], ns=(0, 0))
        again = await downloader.save(task(host.url))

    assert again == first
    assert len(host.requests) == 2
    assert finals(tmp_path) == ["task-1.png"]


@pytest.mark.asyncio
async def test_a_changed_file_is_not_overwritten(tmp_path):
    """What somebody put there is his; the error says what to do."""
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        first = await downloader.save(task(host.url))
        first[0].write_bytes(b"mine")
        os.utime(first[0], ns=(0, 0))
        with pytest.raises(DownloadError, match="exists and is something else") as caught:
            await downloader.save(task(host.url))

    assert first[0].read_bytes() == b"mine"
    assert not caught.value.retryable


@pytest.mark.asyncio
async def test_two_items_that_want_one_name_get_two(tmp_path):
    """Each finds its own again, in any order, without a request."""
    host, other = Host(), Host(body=JPEG + b"")
    other.body = png(1000, seed=2)
    template = "{source_id:.0s}same"

    async with hosted(host, tmp_path) as downloader, served(other):
        one = await downloader.save(task(host.url, task_id="one"), name=template)
        two = await downloader.save(task(other.url, task_id="two"), name=template)
        again = [
            await downloader.save(task("https://gone.invalid/", task_id=name), name=template)
            for name in ("two", "one")
        ]

    assert one[0].name == "same.png"
    assert two[0].name.startswith("same~")
    assert one[0].read_bytes() == PNG
    assert two[0].read_bytes() == other.body
    assert again == [two, one]


@pytest.mark.asyncio
async def test_the_same_bytes_for_two_items_are_two_files(tmp_path):
    """One of them may be deleted without the other."""
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        for name in ("one", "two"):
            await downloader.save(task(host.url, task_id=name), name="{task_id:.0s}same")

    assert len(finals(tmp_path)) == 2


@pytest.mark.asyncio
async def test_several_results_are_numbered_and_one_failure_keeps_the_rest(tmp_path):
    """The error tells what was saved; a repeat fetches only the missing one."""
    host, bad = Host(), Host(*[response(500)] * 4)

    async with hosted(host, tmp_path) as downloader, served(bad):
        saved = await downloader.save(task(host.url, host.url))
        with pytest.raises(DownloadError, match=r"1 of 3 results") as caught:
            await downloader.save(task(host.url, bad.url, host.url, task_id="t-2"))
        asked = len(host.requests)
        complete = await downloader.save(task(host.url, bad.url, host.url, task_id="t-2"))

    assert [path.name for path in saved] == ["task-1-0.png", "task-1-1.png"]
    assert [path.name for path in caught.value.saved] == ["t-2-0.png", "t-2-2.png"]
    assert caught.value.task_id == "t-2"
    assert caught.value.retryable
    assert [path.name for path in complete] == ["t-2-0.png", "t-2-1.png", "t-2-2.png"]
    assert len(host.requests) == asked


@pytest.mark.asyncio
async def test_a_task_without_results_saves_nothing(tmp_path):
    """And makes no folder."""
    async with hosted(Host(), tmp_path) as downloader:
        assert await downloader.save(task()) == ()

    assert not (tmp_path / "out").exists()


@pytest.mark.asyncio
async def test_names_come_from_the_source_of_an_upscale(tmp_path):
    """Unless they are given."""
    host = Host()
    record = {"param": '{"input": "{\\"task_id\\": \\"the-source\\"}"}'}

    async with hosted(host, tmp_path, name="{source_id}") as downloader:
        one = Task(task_id="a", result_urls=(host.url,), raw=record)
        first = await downloader.save(one)
        second = await downloader.save(task(host.url, task_id="b"), source_id="given")

    assert [first[0].name, second[0].name] == ["the-source.png", "given.png"]


@pytest.mark.asyncio
async def test_a_saved_file_has_the_mode_of_any_new_file(tmp_path):
    """The part is private, the file follows the umask."""
    before = os.umask(0o027)
    host = Host()
    try:
        async with hosted(host, tmp_path) as downloader:
            saved = await downloader.save(task(host.url))
    finally:
        os.umask(before)

    assert saved[0].stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bytes": 0},
        {"concurrency": 0},
        {"attempts": True},
        {"timeout": 0},
        {"backoff": -1},
        {"name": "{nothing}"},
    ],
    ids=str,
)
def test_settings_are_checked(wrong, tmp_path):
    """Before anything is asked for."""
    with pytest.raises(UsageError):
        Downloader(ResultTransport(), no_renewal, tmp_path, **wrong)


@pytest.mark.asyncio
async def test_a_closed_transport_is_an_error_of_ours(tmp_path):
    """And no file is left."""
    downloader = Downloader(ResultTransport(), no_renewal, tmp_path / "out")

    with pytest.raises(DownloadError, match="not open"):
        await downloader.save(task("https://example.com/x"))

    assert files(tmp_path) == {}


@pytest.mark.asyncio
async def test_a_session_saves_and_a_bulk_run_does(tmp_path):
    """`download` and `upscale_many(directory=…)`, with names of their own."""
    from kie_async import PollSchedule
    from kie_async.bulk import BulkItem

    quick = PollSchedule(first_gap=0.05, min_gap=0.02)
    async with Emulator(speed=20) as emulator:
        source = await emulator.add_source_task()
        async with KieSession(emulator.api_key, base_url=emulator.url, polling=quick) as kie:
            finished = await kie.upscale(source)
            with pytest.raises(DownloadError, match="https"):
                await kie.download(finished, tmp_path / "no", allow_private=False)
            one = await kie.download(finished, tmp_path / "one")
            run = kie.upscale_many(
                ["a-source", BulkItem(source_id="b-source", output_name="my picture")],
                directory=tmp_path / "many",
            )
            outcomes = [o async for o in run]

    assert one[0].read_bytes().startswith(b"\x89PNG")
    assert sorted(o.files[0].name for o in outcomes) == ["a-source.png", "my picture.png"]


@pytest.mark.asyncio
async def test_files_at_once_are_bounded(tmp_path):
    """Six results, two at a time."""
    most = 0

    def counted(head: str) -> bytes:
        nonlocal most
        most = max(most, host.open)
        return response(200, JPEG, kind="image/jpeg")

    host = Host(*[counted] * 6)
    async with hosted(host, tmp_path, concurrency=2) as downloader:
        saved = await downloader.save(task(*[host.url] * 6))

    assert len(saved) == 6
    assert 1 <= most <= 2


@pytest.mark.asyncio
async def test_the_folder_may_vanish_and_come_back(tmp_path):
    """It is made anew for each file."""
    host = Host()

    async with hosted(host, tmp_path) as downloader:
        await downloader.save(task(host.url))
        shutil.rmtree(tmp_path / "out")
        saved = await downloader.save(task(host.url))

    assert saved[0].read_bytes() == PNG
