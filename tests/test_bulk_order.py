"""The order of system calls, seen by strace: durable first, then sent; synced, then named."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import asyncio, sys
from kie_async import KieSession, PollSchedule
from kie_async.emulator import Emulator
from kie_async.journal import Journal

async def main(folder):
    async with Emulator(speed=20) as emulator, Journal(folder + "/run.db") as journal:
        quick = PollSchedule(first_gap=0.05, min_gap=0.02)
        async with KieSession(emulator.api_key, base_url=emulator.url, polling=quick) as kie:
            run = kie.upscale_many(
                [f"source-{n}" for n in range(12)], journal=journal, directory=folder + "/out",
                allow_private=True, callback_url="http://127.0.0.1:9/cb",
            )
            async for outcome in run:
                print(outcome.status)

asyncio.run(main(sys.argv[1]))
"""

CALL = re.compile(r"^(?:\[pid +)?(\d+)?\]? *(\w+)\((.*)$")


def traced(tmp_path: Path) -> list[str]:
    """Run the worker under strace; return its calls in the order in which they began or ended."""
    log = tmp_path / "calls"
    calls = "openat,fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg,linkat,link,rename"
    command = ["strace", "-f", "-s", "200000", "-e", f"trace={calls}", "-o", str(log)]
    ran = subprocess.run(
        [*command, sys.executable, "-c", WORKER, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.count("done") == 12
    return log.read_text(errors="replace").splitlines()


def finished(lines: list[str]) -> list[str]:
    """Join calls that another thread interrupted: a sync counts when it has returned."""
    whole: list[str] = []
    begun: dict[str, str] = {}
    for line in lines:
        thread, _, rest = line.partition(" ")
        if rest.rstrip().endswith("<unfinished ...>"):
            begun[thread] = rest.strip().removesuffix("<unfinished ...>")
        elif "resumed>" in rest:
            tail = rest.partition("resumed>")[2]
            whole.append(begun.pop(thread, "") + tail)
        else:
            whole.append(rest.strip())
    return whole


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed here")
@pytest.mark.timeout(150)
def test_every_post_follows_its_intent_and_every_name_its_sync(tmp_path):
    """Write-ahead for real: what strace saw of the kernel, reference by reference."""
    names: dict[str, str] = {}
    written: set[str] = set()
    durable: set[str] = set()
    synced_files: set[str] = set()
    posts = links = 0

    for call in finished(traced(tmp_path)):
        name = call.partition("(")[0]
        if name == "openat" and (made := re.search(r'"([^"]+)".*= (\d+)$', call)):
            names[made[2]] = made[1]
        descriptor = (re.search(r"\((\d+)", call) or [None, ""])[1]
        path = names.get(str(descriptor), "")
        if name == "pwrite64" and path.endswith("-wal"):
            written |= set(re.findall(r"[0-9a-f]{32}", call))
        elif name in {"fsync", "fdatasync"} and call.endswith("= 0"):
            if path.endswith("-wal"):
                durable |= written
            synced_files.add(path)
        elif name in {"sendto", "sendmsg", "write", "writev"} and "/cb/" in call:
            for reference in re.findall(r"/cb/([0-9a-f]{32})", call):
                if (
                    "callBackUrl" in call
                    and '\\"model\\"' in call
                    and "recordInfo" not in call
                    and "taskId" not in call
                ):
                    posts += 1
                    assert reference in durable, f"POST {reference} before its intent was synced"
        elif name in {"link", "linkat", "rename"} and ".png" in call:
            links += 1
            part = re.findall(r'"([^"]+)"', call)[0]
            assert part in synced_files, f"{part} was named before it was synced"

    assert posts == 12
    assert links == 12
