"""What users' type checkers see: `py.typed` is shipped, and the promised types hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
import asyncio
from collections.abc import AsyncIterator
from kie_async import CreateRetry, KieSession, Outcome, RetryPolicy, Task, upscale
from kie_async.bulk import BulkItem, BulkRun
from kie_async.journal import Journal

async def main() -> None:
    async with KieSession("k", create_retry=CreateRetry.REJECTED, retry=RetryPolicy()) as kie:
        task: Task = await kie.upscale("x", resolution="720p", timeout=3.0)
        other: Task = await kie.run("m", {"prompt": "p"})
        new: str = await kie.create_task("m", {"a": 1}, callback_url=None)
        credits: float = await kie.get_credits()
        urls: tuple[str, ...] = task.result_urls
        tasks: tuple[Task, Task] = await asyncio.gather(kie.upscale("a"), kie.upscale("b"))
        alone: Task = await upscale("x", session=kie)
        async with Journal("run.db") as journal:
            run: BulkRun = kie.upscale_many(["a", BulkItem(source_id="b")], journal=journal)
            async for outcome in run:
                status: Outcome = outcome
"""

BAD = """
from kie_async import KieSession

async def main() -> None:
    async with KieSession("k") as kie:
        number: int = await kie.upscale("x")
        await kie.upscale(5)
        await kie.upscale("x", nonsense=True)
        kie.upscale_many(5)
"""


def check(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy --strict as a user would, on *code*."""
    user = tmp_path / "user.py"
    user.write_text(code)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(user)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)


@pytest.mark.timeout(300)  # mypy reads all of it, on a busy machine too
def test_the_promised_types_hold(tmp_path):
    """Every call of the design, under --strict."""
    checked = check(GOOD, tmp_path)

    assert checked.returncode == 0, checked.stdout


@pytest.mark.timeout(300)
def test_wrong_calls_are_found(tmp_path):
    """The control: mypy sees our types and not Any."""
    checked = check(BAD, tmp_path)

    assert checked.stdout.count("error:") == 4, checked.stdout
