"""What is `RedisLimiter`'s own; the rest is in ``test_shared_limiter.py``."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from kie_async.errors import UsageError
from kie_async.redis_limiter import RedisLimiter
from tests.redis_servers import SERVER, redis_server

pytestmark = pytest.mark.skipif(SERVER is None, reason="no Redis or Valkey on this machine")


@pytest.fixture
def store(tmp_path):
    """Run a server of its own for each test."""
    with redis_server(tmp_path) as server:
        yield server


def limiter_on(store, **settings) -> RedisLimiter:
    settings.setdefault("limit", 5)
    settings.setdefault("window", 0.5)
    return RedisLimiter.from_url(store.url, "test", **settings)


@pytest.mark.asyncio
async def test_keys_lie_on_one_node_and_go_by_themselves(store):
    """One hash tag; no key of ours stays for ever; the API key is in none."""
    async with limiter_on(store) as limiter:
        (await limiter.acquire()).finish()
        await asyncio.sleep(0.05)
        client = store.client
        keys = client.keys("*")
        ttls = [client.pttl(key) for key in keys]

    assert keys
    assert all(key.startswith("kie:{test}:") for key in keys)
    assert all(0 < ttl < 200_000 for ttl in ttls)


@pytest.mark.asyncio
async def test_a_cluster_takes_the_script(tmp_path):
    """One node with all slots is enough to be told off for keys on several."""
    from redis.asyncio.cluster import RedisCluster

    with redis_server(tmp_path, "--cluster-enabled", "yes") as node:
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await asyncio.to_thread(node.until, "CLUSTER", "INFO", said="cluster_state:ok")
        client = RedisCluster(host="127.0.0.1", port=node.port)
        async with RedisLimiter(client, "test", limit=2, window=0.3) as limiter:
            async with asyncio.timeout(10):
                for _ in range(4):
                    (await limiter.acquire()).finish()
            assert not limiter.alone


@pytest.mark.asyncio
async def test_nothing_shows_the_password(store):
    """Not the repr, and not what is logged when it fails."""
    limiter = RedisLimiter.from_url("redis://:canary-pass@127.0.0.1:1/0", "test")

    async with limiter:
        (await limiter.acquire()).finish()
        assert "canary-pass" not in repr(limiter)


def test_settings_that_cannot_work_are_refused():
    """Before anything is asked."""
    client = Redis()
    for settings in (
        {"account": ""},
        {"account": "a{b"},
        {"share": 1.5},
        {"lease": 0},
        {"limit": 0},
        {"window": -1},
    ):
        with pytest.raises(UsageError):
            RedisLimiter(client, **{"account": "a", **settings})
