"""``RedisLimiter``: the book of the turns in Redis or Valkey."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, Self

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from kie_async.limiter import LIMIT, WINDOW, Ask, StoreLimiter
from kie_async.redis_limiter._script import SCRIPT, key_names

__all__ = ["RedisLimiter"]


class RedisLimiter(StoreLimiter):
    """At most *limit* turns in any *window* for all processes together, each in its order.

    A turn counts until *window* seconds after its answer, by the store's clock.  Processes
    get equal shares while they all wait; what one does not want, the others take.

    If the store is slow, down or flushed, each process keeps to its *share* of the limit by
    itself, says so once in the log, and comes back by itself; at most one burst too many
    can come of that.  With ``share=0`` nothing is sent without the store.  When it is back
    it is told of all turns, also of those that it gave in an answer that nobody got, so
    that the whole limit can be used again.

    It may be made before a fork, and is another process's in each child; one that was used
    before the fork is refused there.

    Args:
        redis: Your client: ``redis.asyncio.Redis``, of a Sentinel too, or ``RedisCluster``;
            Valkey speaks the same.  It is not closed here.
        account: Names the account; all who share its limit say the same.  Not the key.
        limit: Turns per window.
        window: Seconds.
        share: Of the limit, for this process while the store is away: 1 / processes.
        lease: Seconds after which a turn of a process that died is taken to be answered;
            more than a request may take.

    Raises:
        UsageError: A setting cannot work.
    """

    def __init__(
        self,
        redis: Redis | RedisCluster,
        account: str,
        *,
        limit: int = LIMIT,
        window: float = WINDOW,
        share: float = 0.1,
        lease: float = 35.0,
    ) -> None:
        """Keep the client; nothing is sent yet."""
        super().__init__(account, limit=limit, window=window, share=share, lease=lease)
        self._redis = redis
        self._is_ours = False
        self._keys = key_names(account)
        self._sha = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

    @classmethod
    def from_url(cls, url: str, account: str, **settings: Any) -> Self:
        """Return a limiter with a client of its own; close it with :meth:`aclose`."""
        limiter = cls(Redis.from_url(url), account, **settings)
        limiter._is_ours = True
        return limiter

    async def _let_go(self) -> None:
        if self._is_ours:
            await self._redis.aclose()

    async def _book(self, ask: Ask) -> tuple[int, float]:
        restored = [(name, _micro(left)) for name, left in ask.restored]
        arguments: list[Any] = [
            self._limit,
            _micro(self._span),
            _micro(self._lease),
            ask.process,
            ask.call,
            ask.wanted,
            _micro(ask.pause),
            len(ask.finished),
            *ask.finished,
            len(ask.returned),
            *ask.returned,
            len(restored),
            *itertools.chain.from_iterable(restored),
            *ask.numbers,
        ]
        granted, wait = await self._evaluate(arguments)
        return int(granted), float(wait) / 1e6

    async def _evaluate(self, arguments: list[Any]) -> Any:
        redis, keys = self._redis, self._keys
        try:
            return await redis.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:  # a new server, or its cache was emptied
            return await redis.eval(SCRIPT, len(keys), *keys, *arguments)


def _micro(seconds: float) -> int:
    return round(seconds * 1e6)
