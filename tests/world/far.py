"""The API in the parent process, and what of it a life sees through its pipe."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any
from urllib.parse import urlsplit

from kie_async.emulator import EmulatedAPI, Request
from kie_async.testing import VirtualKie

__all__ = ["EPOCH", "FALSE_ALARM", "FAULTS", "FarKie", "serve"]

EPOCH = 1_790_000_000.0

FAULTS: tuple[dict[str, Any], ...] = (
    {"route": "createTask", "action": "fin", "when": "before"},
    {"route": "createTask", "action": "rst", "when": "after"},
    {"route": "createTask", "action": "silence", "when": "after"},
    {"route": "createTask", "action": "half-headers", "when": "after"},
    {"route": "createTask", "action": "cut", "cut": 60},
    {"route": "createTask", "action": "cut", "cut": 20},
    {"route": "createTask", "action": "html", "status": 502, "when": "after"},
    {"route": "createTask", "action": "html", "status": 504, "when": "before"},
    {"route": "createTask", "action": "too-many"},
    {"route": "createTask", "action": "maintenance"},
    {"route": "createTask", "action": "envelope", "code": 500, "when": "before"},
    {"route": "createTask", "action": "delay", "delay": 12.0, "when": "after"},
    {"route": "recordInfo", "action": "fin"},
    {"route": "recordInfo", "action": "html", "status": 503},
    {"route": "recordInfo", "action": "envelope", "code": 500},
    {"route": "recordInfo", "action": "silence"},
    {"route": "recordInfo", "action": "garbage"},
    {"route": "recordInfo", "action": "backwards"},
    {"route": "task", "action": "fail"},
    {"route": "task", "action": "slow", "seconds": 200.0},
    {"route": "task", "action": "late", "seconds": 20.0},
    {"route": "task", "action": "generating"},
    {"route": "callback", "action": "lost"},
    {"route": "callback", "action": "double"},
    {"route": "callback", "action": "delay", "delay": 90.0},
    {"route": "callback", "action": "early"},
    {"route": "callback", "action": "forged"},
    {"route": "callback", "action": "foreign"},
    {"route": "callback", "action": "mixed"},
    {"route": "callback", "action": "backwards"},
)
FALSE_ALARM = {"route": "createTask", "action": "envelope", "code": 500, "when": "after"}
"""It says 500 and has created: only a client that was told to trust 500 pays twice."""


class FarAPI:
    """The parent's API, asked through a pipe; each question is two steps."""

    api_key = "emulator-key"

    def __init__(self, pipe: Connection, step: Callable[[], None]) -> None:
        self._pipe, self._step = pipe, step

    @staticmethod
    def unix(now: float) -> float:
        """Return the Unix seconds of *now*."""
        return EPOCH + now

    def arrive(self, request: Request, now: float) -> Any:
        """Nothing yet: the whole request is there."""
        return request, now

    def begin(self, arrived: Any) -> Any:
        """Return the visit: a number and its delay."""
        return self._ask("begin", *arrived)

    def finish(self, visit: Any, now: float) -> Any:
        """Return the answer."""
        return self._ask("finish", visit, now)

    def posts(self, now: float) -> list[tuple[str, dict[str, str], bytes]]:
        """Return the callbacks that are posted by *now*: path, headers, body."""
        posted: list[tuple[str, dict[str, str], bytes]] = self._ask("posts", now)
        return posted

    def _ask(self, *question: Any) -> Any:
        self._step()
        self._pipe.send(question)
        answer = self._pipe.recv()
        self._step()
        return answer


class FarKie(VirtualKie):
    """Kie in the parent process, whose time goes on between the lives."""

    api: FarAPI  # type: ignore[assignment]  # what is asked of it

    def __init__(self, pipe: Connection, step: Callable[[], None], base: float, seed: int) -> None:
        super().__init__(seed=seed)
        self.api = FarAPI(pipe, step)
        self._base = base

    def now(self) -> float:
        """Return the API's seconds."""
        return self._base + super().now()


class Numbered:
    """A visit, as the other process sees it."""

    def __init__(self, number: int, delay: float) -> None:
        self.number, self.delay = number, delay


def serve(pipe: Connection, api: EmulatedAPI, tell: dict[str, Any]) -> None:
    """Answer a life's questions until it is over; *tell* is what it said of itself."""
    visits: dict[int, Any] = {}
    while True:
        try:
            what, *args = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        if what not in {"begin", "finish", "posts"}:
            tell[what] = args
            continue
        tell["now"] = max(tell["now"], args[-1])
        if what == "begin":
            visit = api.begin(api.arrive(*args))
            visits[len(visits)] = visit
            reply: Any = Numbered(len(visits) - 1, visit.delay)
        elif what == "finish":
            reply = api.finish(visits[args[0].number], args[1])
            visits[args[0].number] = None
        else:
            reply = posted(api, args[0])
        try:
            pipe.send(reply)
        except BrokenPipeError:
            return


def posted(api: EmulatedAPI, now: float) -> list[tuple[str, dict[str, str], bytes]]:
    """Return what the postman brings by *now*."""
    return [
        (urlsplit(each.url).path, dict(each.headers), each.body)
        for each in api.due_callbacks(now)
        if each.fault != "lost"
    ]
