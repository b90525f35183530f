"""A real browser for tests of a page: headless Chromium, driven by its own protocol."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

__all__ = ["CHROMIUM", "Page", "browsing"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]
PATIENCE = 30.0


class Page:
    """One tab: what it did, and what it says when asked.

    Attributes:
        problems: Script errors, and what its policy or the network refused.
        requests: Every address that it asked for.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.loaded = asyncio.Event()

    async def read(self) -> None:
        """Take what the browser says, for as long as it lives."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            else:
                self._event(told["method"], told["params"])

    def _event(self, method: str, facts: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(facts["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and facts["entry"]["level"] == "error":
            self.problems.append(facts["entry"]["text"])

    async def ask(self, method: str, **parameters: Any) -> Any:
        """Send a command of the protocol and return its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE):
            told = await answer
        if "error" in told:
            raise RuntimeError(f"{method}: {told['error']}")
        return told["result"]

    async def open(self, url: str) -> None:
        """Go to *url* and wait until it has loaded."""
        self.loaded.clear()
        await self.ask("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE):
            await self.loaded.wait()

    async def js(self, code: str) -> Any:
        """Evaluate an expression in the page; a promise is awaited."""
        told = await self.ask(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(json.dumps(told["exceptionDetails"])[:500])
        return told["result"].get("value")

    async def key(self, key: str) -> None:
        """Press and release a key."""
        text = key if len(key) == 1 else "\r" if key == "Enter" else ""
        facts = {"key": key, "code": key, "text": text, "windowsVirtualKeyCode": _CODES.get(key, 0)}
        await self.ask("Input.dispatchKeyEvent", type="keyDown", **facts)
        await self.ask("Input.dispatchKeyEvent", type="keyUp", **facts)


_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
          "ArrowDown": 40}  # fmt: skip


@asynccontextmanager
async def browsing(width: int = 1400, height: int = 1000) -> AsyncIterator[Page]:
    """Start a browser with one empty tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(  # noqa: ASYNC220 - reason: nothing else runs meanwhile
            [CHROMIUM or "chromium", *QUIET, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await _port(Path(profile) / "DevToolsActivePort")
            async with aiohttp.ClientSession() as http:
                async with http.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = await answer.json(content_type=None)
                address = next(t for t in tabs if t["type"] == "page")["webSocketDebuggerUrl"]
                async with http.ws_connect(address, max_msg_size=0) as socket:
                    page = Page(socket)
                    reading = asyncio.create_task(page.read())
                    for domain in ("Page", "Runtime", "Network", "Log"):
                        await page.ask(f"{domain}.enable")
                    await page.ask(
                        "Emulation.setDeviceMetricsOverride",
                        width=width,
                        height=height,
                        deviceScaleFactor=1,
                        mobile=width < 600,
                    )
                    yield page
                    reading.cancel()
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait)


async def _port(told: Path) -> int:
    async with asyncio.timeout(PATIENCE):
        while not (told.exists() and told.read_text().count("\n")):  # noqa: ASYNC110 - a file
            await asyncio.sleep(0.02)
    return int(told.read_text().split("\n")[0])
