"""What is `RedisLimiter`'s own; the rest is in ``test_shared_limiter.py``."""

from __future__ import annotations

import asyncio
import signal

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.sentinel import Sentinel

from kie_async.errors import UsageError
from kie_async.redis_limiter import RedisLimiter
from tests.redis_servers import SERVER, Server, redis_server

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


@pytest.fixture(name="node")
def _node(tmp_path):
    """A cluster: one node with all slots is enough to be told off for keys on several."""
    with redis_server(tmp_path, "--cluster-enabled", "yes") as node:
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        node.until("CLUSTER", "INFO", said="cluster_state:ok")
        yield node


@pytest.mark.asyncio
async def test_a_cluster_takes_the_script(node):
    """All keys of an account lie on one node."""
    client = RedisCluster(host="127.0.0.1", port=node.port)
    async with RedisLimiter(client, "test", limit=2, window=0.3) as limiter:
        async with asyncio.timeout(10):
            for _ in range(4):
                (await limiter.acquire()).finish()
        assert not limiter.alone
    await client.aclose()


@pytest.mark.asyncio
async def test_a_cluster_that_dies_leaves_a_share(node):
    """Its client raises errors of a family of their own; and nobody hangs."""
    client = RedisCluster(host="127.0.0.1", port=node.port)
    async with RedisLimiter(client, "test", limit=4, window=0.3, share=0.5) as limiter:
        (await limiter.acquire()).finish()
        node.signal(signal.SIGKILL)
        async with asyncio.timeout(10):
            for _ in range(4):
                (await limiter.acquire()).finish()
        assert limiter.alone
    await client.aclose()


@pytest.mark.asyncio
async def test_a_cluster_that_was_never_there_leaves_a_share():
    """Nothing listens at its address."""
    client = RedisCluster(host="127.0.0.1", port=1)
    async with RedisLimiter(client, "test", limit=4, window=0.3, share=0.5) as limiter:
        async with asyncio.timeout(10):
            (await limiter.acquire()).finish()
        assert limiter.alone
    await client.aclose()


@pytest.mark.asyncio
async def test_a_client_that_is_yours_stays_open(store):
    """Others may be using it."""
    async with Redis.from_url(store.url, single_connection_client=True) as client:
        before = await client.client_id()
        async with RedisLimiter(client, "test") as limiter:
            (await limiter.acquire()).finish()
        assert await client.client_id() == before


@pytest.mark.asyncio
async def test_processes_that_have_gone_are_forgotten(store):
    """A store that is in use for years keeps nothing of those who came and went."""
    with store.client as client:
        clock, _ = client.time()
        client.zadd("kie:{test}:asks", {"gone": (clock - 61) * 1e6, "here": (clock - 30) * 1e6})
        client.zadd("kie:{test}:served", {"gone": 5, "here": 7})
        async with limiter_on(store) as limiter:
            (await limiter.acquire()).finish()
        known = set(client.zrange("kie:{test}:served", 0, -1))

    assert "gone" not in known
    assert "here" in known


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


@pytest.mark.asyncio
@pytest.mark.timeout(120)
async def test_a_failover_by_sentinel_is_lived_through(tmp_path):
    """The master dies; a share is used until the replica has taken over, then all of it."""
    folders = [tmp_path / name for name in ("master", "replica", "sentinel")]
    for folder in folders:
        folder.mkdir()
    with redis_server(folders[0]) as master:
        copy_of = ("--replicaof", f"127.0.0.1 {master.port}")
        with redis_server(folders[1], *copy_of) as replica:
            linked = "'master_link_status': 'up'"
            await asyncio.to_thread(replica.until, "INFO", "replication", said=linked)
            settings = folders[2] / "sentinel.conf"
            settings.write_text(
                f"sentinel monitor limits 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds limits 300\n"
                "sentinel failover-timeout limits 3000\n"
            )
            with redis_server(folders[2], file=settings) as sentinel:
                await failed_over(master, replica, sentinel)


async def failed_over(master: Server, replica: Server, sentinel: Server) -> None:
    """Kill the master under a limiter that asks the sentinel for it."""
    watching = Sentinel([("127.0.0.1", sentinel.port)], socket_timeout=0.2)
    await asyncio.to_thread(
        sentinel.until, "SENTINEL", "REPLICAS", "limits", said=f"{replica.port}"
    )
    client = watching.master_for("limits")
    async with RedisLimiter(client, "test", limit=4, window=0.2, share=0.5) as limiter:
        for _ in range(6):
            (await limiter.acquire()).finish()
        assert not limiter.alone
        master.signal(signal.SIGKILL)
        async with asyncio.timeout(60.0):
            (await limiter.acquire()).finish()
            assert limiter.alone
            while limiter.alone:
                (await limiter.acquire()).finish()
        with replica.client as asked:
            assert asked.role()[0] == "master"
            assert asked.zcard("kie:{test}:turns") > 0
    for one in (client, *watching.sentinels):
        await one.aclose()
