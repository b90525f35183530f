"""One account's rate limit, shared by any number of processes and machines (extra ``[redis]``).

The book of turns is kept in Redis or Valkey, by the server's own clock; see
:class:`RedisLimiter`.
"""

from __future__ import annotations

try:
    from kie_async.redis_limiter._limiter import RedisLimiter
except ModuleNotFoundError as error:
    if error.name != "redis":
        raise
    raise ModuleNotFoundError(
        "RedisLimiter needs redis-py: pip install 'kie_async[redis]'", name="redis"
    ) from None

__all__ = ["RedisLimiter"]
