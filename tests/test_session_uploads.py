"""Uploads over real sockets, and the chain: generate, upscale, download."""

from __future__ import annotations

import asyncio

import pytest

from kie_async import AuthenticationError, KieSession, PollSchedule, UsageError
from kie_async.emulator import Emulator, Rule
from kie_async.grok_imagine import ImageToVideo, TextToImage

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
QUICK = PollSchedule(first_gap=0.2, min_gap=0.1)


def open_on(api, **settings):
    """Return a session that looks often: the emulator is quick."""
    return KieSession(api.api_key, base_url=api.url, polling=QUICK, **settings)


@pytest.mark.asyncio
async def test_a_file_bytes_and_a_url_are_uploaded(tmp_path):
    """Each is there afterwards, byte for byte, under its name and type."""
    path = tmp_path / "my best picture.png"
    path.write_bytes(PICTURE)
    async with Emulator() as api, KieSession(api.api_key, base_url=api.url) as kie:
        first = await kie.upload_file(path, folder="mine")
        second = await kie.upload_bytes(PICTURE, "two.png")
        third = await kie.upload_url("https://pictures.example/three.png", file_name="3.png")

        files = api.core.uploads.files
        stored = [files[one.file_path] for one in (first, second, third)]

    assert [data for data, _, _ in stored][:2] == [PICTURE, PICTURE]
    assert {kind for _, kind, _ in stored} == {"image/png"}
    assert (first.size, second.file_name, third.file_name) == (len(PICTURE), "two.png", "3.png")
    assert first.file_path.split("/")[2] == "mine"
    assert "best" in first.file_name


@pytest.mark.asyncio
async def test_an_upload_is_sent_again_when_its_answer_is_lost():
    """It is free, and a name that exists is overwritten."""
    async with Emulator() as api, KieSession(api.api_key, base_url=api.url) as kie:
        api.inject(Rule(route="file-stream-upload", action="fin", when="after", nth=0))

        uploaded = await kie.upload_bytes(PICTURE, "a.png")

        assert list(api.core.uploads.files) == [uploaded.file_path]
        assert api.books.requests["file-stream-upload"] == 2


@pytest.mark.asyncio
async def test_what_cannot_be_uploaded_is_told_before_anything_is_sent(tmp_path):
    """No file, an empty one, a wrong key."""
    (tmp_path / "empty.png").write_bytes(b"")
    async with Emulator() as api, KieSession(api.api_key, base_url=api.url) as kie:
        for path in ("missing.png", "empty.png", ""):
            with pytest.raises(UsageError):
                await kie.upload_file(tmp_path / path)
        assert api.books.requests == {}
        async with KieSession("another-key", base_url=api.url) as other:
            with pytest.raises(AuthenticationError):
                await other.upload_bytes(PICTURE, "a.png")


@pytest.mark.asyncio
async def test_generate_upscale_download_under_one_deadline(tmp_path):
    """The chain of the README: an upload, a generation, an upscale, files."""
    async with Emulator(speed=20) as api, open_on(api) as kie:
        async with asyncio.timeout(60):
            uploaded = await kie.upload_bytes(PICTURE, "start.png")
            video = await kie.generate(ImageToVideo(image_urls=(uploaded.download_url,)))
            made = await kie.generate(TextToImage(prompt="a lighthouse"))
            task = await kie.upscale(made.task_id)
            files = await kie.download(task, tmp_path)

        assert api.books.paid(made.task_id) == 1
        assert len(api.books.creates) == 3
    assert video.result_urls
    assert len(files) == len(task.result_urls) > 0
    assert all(file.stat().st_size for file in files)


@pytest.mark.asyncio
async def test_a_chain_that_runs_out_of_time_loses_nothing():
    """The deadline strikes while the upscale runs: its id is an event and goes on."""
    told = []
    async with Emulator(durations=lambda _rng: 0.2) as api:
        api.inject(Rule(route="task", action="never", match="upscale"))
        async with open_on(api, hooks=[told.append]) as kie:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    made = await kie.generate(TextToImage(prompt="a lighthouse"))
                    await kie.upscale(made.task_id)

            paid = [row.task_id for row in api.books.creates]
    named = {getattr(event, "task_id", None) for event in told}
    assert len(paid) == 2
    assert set(paid) <= named
