"""``RedisDoorbell``: what one replica hears, all of them know.

Kie posts a callback to one address, so it arrives at one replica of a service; who waits
for the task may be in another.  The replicas tell each other over Redis which task rang,
and how long tasks took.  A message is a hint: the truth is read with ``recordInfo``, and
one that is lost costs latency and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kie_async.callbacks import CallbackEvent, CallbackReceiver
from kie_async.errors import UsageError
from kie_async.models import TaskState
from kie_async.polling import Durations

__all__ = ["RedisDoorbell"]

logger = logging.getLogger("kie_async.redis_doorbell")

PATIENCE = 1.0
"""Seconds for one call of the store."""
SILENCE = 15.0
"""Seconds without a message after which the store is asked whether it is there."""
LONGEST_PAUSE = 5.0
BACKLOG = 1000
"""News that wait to be told; the oldest are dropped first."""
TOGETHER = 100
BIGGEST = 64 * 1024
"""Bytes of a message that are read: ours are smaller."""
A_DAY = 86_400.0

_AWAY = (RedisError, OSError, TimeoutError)


class RedisDoorbell:
    """Passes callbacks and learned durations on between the processes of an account.

    Use it with ``async with``, around the session.  While the store is away, each process
    hears its own callbacks and polls for the rest.

    Args:
        redis: Your client: ``redis.asyncio.Redis``, of a Sentinel too; Valkey speaks the
            same, and any node of a Cluster will do.  It is not closed here.
        account: Names the account; all who share it say the same.  Not the key.
        receiver: Whose callbacks are passed on, and whose waiters are rung.
        durations: What is passed on of how long tasks took; the same object goes into
            ``KieSession(durations=…)``.

    Raises:
        UsageError: A setting cannot work, or there is nothing to share.
    """

    def __init__(
        self,
        redis: Redis,
        account: str,
        *,
        receiver: CallbackReceiver | None = None,
        durations: Durations | None = None,
    ) -> None:
        if not account or not account.isprintable() or set(account) & set("{} "):
            raise UsageError("account must be a plain name; it stands in the channel's")
        if receiver is None and durations is None:
            raise UsageError("give a receiver or durations: there is nothing to share")
        self._redis = redis
        self._channel = f"kie:{{{account}}}:bell"
        self._receiver, self._durations = receiver, durations
        self._name = secrets.token_hex(6)
        self._rings: deque[tuple[str, str | None]] = deque(maxlen=BACKLOG)
        self._taken: deque[tuple[str, str | None, float]] = deque(maxlen=BACKLOG)
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._away = False
        self._heard = asyncio.Event()
        self._disconnect: Callable[[], None] | None = None

    def __repr__(self) -> str:
        """Say whether it hears the others; nothing of the store's address."""
        if not hasattr(self, "_disconnect"):  # a traceback of its making shows it
            return "<RedisDoorbell unfinished>"
        state = "closed" if not self._tasks else "alone" if self._away else "shared"
        return f"<RedisDoorbell {self._channel} {state}>"

    async def __aenter__(self) -> Self:
        """Begin to listen and to tell; it does not wait for the store."""
        loop = asyncio.get_running_loop()
        self._news, self._heard = asyncio.Event(), asyncio.Event()
        self._tasks = [
            loop.create_task(self._again(self._listen), name="kie-doorbell-hears"),
            loop.create_task(self._again(self._tell), name="kie-doorbell-tells"),
        ]
        self._disconnect = None if self._receiver is None else self._receiver.subscribe(self._rung)
        if self._durations is not None:
            self._durations.listener = self._learned
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End both; what was not told yet is not."""
        if self._disconnect is not None:
            self._disconnect()
        if self._durations is not None:
            self._durations.listener = None
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def ready(self) -> None:
        """Wait until the others are heard: for tests, and for a service's start."""
        await self._heard.wait()

    # -- what happens here -------------------------------------------------------------------

    async def _rung(self, event: CallbackEvent) -> None:
        self._rings.append((event.task_id, event.reference))
        self._news.set()

    def _learned(self, model: str, seconds: float, after: TaskState | None) -> None:
        self._taken.append((model, None if after is None else after.value, seconds))
        self._news.set()

    async def _tell(self) -> None:
        """Pass on what has gathered, in one message."""
        while True:
            if not self._rings and not self._taken:
                self._news.clear()
                await self._news.wait()
            rings, taken = _some(self._rings), _some(self._taken)
            told = {"from": self._name, "rings": rings, "taken": taken}
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._redis.publish(self._channel, json.dumps(told))
            except BaseException:
                _put_back(self._rings, rings)
                _put_back(self._taken, taken)
                raise

    # -- what the others say -----------------------------------------------------------------

    async def _listen(self) -> None:
        async with self._redis.pubsub() as bell:
            async with asyncio.timeout(PATIENCE):
                await bell.subscribe(self._channel)
            asked = False
            while True:
                message = await bell.get_message(timeout=SILENCE if not asked else PATIENCE)
                if message is None:
                    if asked:
                        raise TimeoutError("the store does not answer")
                    async with asyncio.timeout(PATIENCE):
                        await bell.ping()
                    asked = True
                    continue
                asked = False
                self._is_there()
                if message.get("type") == "message":
                    self._hear(message.get("data"))

    def _hear(self, data: Any) -> None:
        """Take a message; anybody may have sent it, and anything may be in it."""
        if not isinstance(data, bytes | str) or len(data) > BIGGEST:
            return
        try:
            told = json.loads(data)
        except (ValueError, RecursionError):
            return
        if not isinstance(told, dict) or told.get("from") == self._name:
            return
        for ring in _lists(told.get("rings"), 2):
            if self._receiver is not None and isinstance(ring[0], str):
                reference = ring[1] if isinstance(ring[1], str) else None
                self._receiver.ring(ring[0], reference)
        for model, state, seconds in _lists(told.get("taken"), 3):
            if self._durations is not None and _sane(model, seconds):
                after = next((one for one in TaskState if one.value == state), None)
                if state is None or after is not None:
                    self._durations.learn(model, float(seconds), after=after)

    # -- a store that is away ------------------------------------------------------------------

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* for ever; after a failure again, in a while."""
        pause = 0.1
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await work()
            except _AWAY as error:
                self._is_away(error)
            except ValueError as error:  # a client that decodes met a stranger's bytes: its
                self._is_away(error)  # connection may stand in the middle of an answer
            if asyncio.get_running_loop().time() - began > LONGEST_PAUSE:
                pause = 0.1
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _is_away(self, error: Exception) -> None:
        self._heard.clear()
        if not self._away:
            self._away = True
            kind = type(error).__name__
            logger.warning("the store of the doorbell is away (%s): polls find what rings", kind)

    def _is_there(self) -> None:
        self._heard.set()
        if self._away:
            self._away = False
            logger.warning("the store of the doorbell is back")


def _some(waiting: deque[Any]) -> list[Any]:
    """Take the first ones off a queue."""
    return [waiting.popleft() for _ in range(min(TOGETHER, len(waiting)))]


def _put_back(waiting: deque[Any], taken: list[Any]) -> None:
    """Put what was not told back in front, as far as there is room: the newest of it."""
    room = BACKLOG - len(waiting)
    if room > 0:
        waiting.extendleft(reversed(taken[-room:]))


def _lists(value: Any, width: int) -> list[list[Any]]:
    """Return the lists of *width* in a list, and nothing else of it."""
    if not isinstance(value, list):
        return []
    return [entry for entry in value[:TOGETHER] if isinstance(entry, list) and len(entry) == width]


def _sane(model: Any, seconds: Any) -> bool:
    """True for a duration that may be learned from a stranger."""
    if not isinstance(model, str) or not 0 < len(model) <= 200 or isinstance(seconds, bool):
        return False
    # Only compared: an integer of hundreds of digits cannot even be asked if it is finite.
    return isinstance(seconds, int | float) and 0 < seconds < A_DAY
