"""The README's service in three replicas, over real sockets: one limit for all of them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from kie_async.emulator import Emulator
from tests.redis_servers import SERVER, free_port, redis_server

README = (Path(__file__).parents[1] / "README.md").read_text()
SERVICE = next(
    code
    for code in re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    if "RedisLimiter.from_url" in code
)


async def replica(folder: Path, port: int, **environment: str) -> asyncio.subprocess.Process:
    """Start one, and wait until it answers."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "service:app", "--port", str(port)),
        *("--log-level", "error"),
        cwd=folder,
        env={**os.environ, **environment},
    )
    async with asyncio.timeout(60), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(f"http://127.0.0.1:{port}/openapi.json"):
                    return process
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.05)


@pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey on this machine")
@pytest.mark.asyncio
async def test_three_replicas_are_never_refused(tmp_path):
    """Thirty upscales at once over three processes: 20, and 10 in the next window."""
    (tmp_path / "service.py").write_text(SERVICE)
    with redis_server(tmp_path) as store:
        async with Emulator(durations=lambda _rng: 0.2) as api, aiohttp.ClientSession() as http:
            sources = [await api.add_source_task() for _ in range(30)]
            ports = [free_port() for _ in range(3)]
            settings = {
                "KIE_API_KEY": api.api_key,
                "KIE_BASE_URL": api.url,
                "REDIS_URL": store.url,
            }
            replicas = await asyncio.gather(*(replica(tmp_path, p, **settings) for p in ports))

            async def ask(number: int) -> int:
                url = f"http://127.0.0.1:{ports[number % 3]}/upscale/{sources[number]}"
                async with http.post(url) as answer:
                    return answer.status

            try:
                statuses = await asyncio.gather(*(ask(n) for n in range(30)))
            finally:
                for process in replicas:
                    process.terminate()
                codes = [await process.wait() for process in replicas]

            assert statuses == [200] * 30
            assert codes == [0] * 3 or codes == [-15] * 3
            assert api.books.paid == dict.fromkeys(sources, 1)
            assert api.books.refused == {}
            assert api.books.most_in_window(10.0) == 20
