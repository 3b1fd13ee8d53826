"""Real clusters and sentinels: found, followed, and nothing old after a failover."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.exceptions import RedisError

from pgloupe.cache import Cache
from pgloupe.cache.topology import Topology
from pgloupe.redis_url import parse
from support.caches import answer, done, entry, keep, look, read, started, write
from support.redis_nodes import RedisCluster, client, until, watched
from support.servers import RedisServer

ONE = entry("one")
TWO = entry("two")
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Tests leave it as it is, except for the last one."""
    with RedisCluster() as running:
        yield running


def node_of(cache: Cache) -> int:
    """Port of the server that the cache is connected to."""
    assert cache._shared is not None
    address = cache._shared._topology.address
    assert address is not None
    return address.port


async def usable(*caches: Cache) -> None:
    """Have each notice what happened, and wait until the cache is of use to all."""
    for cache in caches:

        async def ready(cache: Cache = cache) -> bool:
            return (await look(cache, read("is it there?", "no_table"))).ticket is not None

        await until(ready)


async def failed_over(server: RedisServer, *caches: Cache) -> None:
    """Wait until all use this server. Nothing is answered meanwhile."""

    async def over() -> bool:
        for cache in caches:
            assert (await look(cache, read("a"))).entry is None
        return all(cache.redis_up and node_of(cache) == server.port for cache in caches)

    await until(over)


async def test_any_node_of_a_cluster_leads_to_the_one_that_has_the_slot(cluster: RedisCluster) -> None:
    for number in range(4):
        namespace = f"ns{number}"
        master = cluster.serving(f"pgloupe:{{{namespace}}}:epoch")
        urls = [cluster.url, *(node.url for node in cluster.masters)]
        async with started(redis_url=urls[number], namespace=namespace) as one:
            assert await one.wait_redis(LIMIT_S)
            assert node_of(one) == master.port
            await keep(one, read("a"), ONE)
            async with started(redis_url=urls[number - 1], namespace=namespace) as two:
                assert await two.wait_redis(LIMIT_S)
                assert node_of(two) == master.port
                assert await answer(two, read("a")) == ONE
                await write(two, "author")
            assert await answer(one, read("a")) is None


async def test_all_keys_of_a_namespace_are_in_one_slot(cluster: RedisCluster) -> None:
    async with started(redis_url=cluster.url, namespace="slots") as cache:
        assert await cache.wait_redis(LIMIT_S)
        for number in range(20):
            await keep(cache, read(f"r{number}", f"t{number}", "author"), ONE)
        await answer(cache, read("r0", "t0", "author"))
        keys = [key for node in cluster.masters for key in _keys(node, "pgloupe:{slots}:*")]
        assert len(keys) == 20 + 21 + 1
        with client(cluster.masters[0]) as c:
            assert len({c.execute_command("CLUSTER", "KEYSLOT", key) for key in keys}) == 1


def _keys(node: RedisServer, pattern: str) -> list[bytes]:
    with client(node) as c:
        return list(c.scan_iter(match=pattern))


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_slot_that_moves_to_another_node_is_followed(cluster: RedisCluster, scheme: str) -> None:
    namespace = f"moving-{scheme}"
    source = cluster.serving(f"pgloupe:{{{namespace}}}:epoch")
    target = next(node for node in cluster.masters if node is not source)
    url = source.url.replace("redis://", f"{scheme}://")
    async with (
        started(redis_url=url, namespace=namespace) as one,
        started(redis_url=url, namespace=namespace) as two,
    ):
        await keep(one, read("a"), ONE)
        assert await answer(two, read("a")) == ONE
        with client(source) as from_node, client(target) as to_node:
            slot = from_node.execute_command("CLUSTER", "KEYSLOT", f"pgloupe:{{{namespace}}}:epoch")
            to_node.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id_of(source))
            from_node.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id_of(target))
            keys = from_node.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100)
            for key in keys:
                from_node.execute_command("MIGRATE", target.host, target.port, key, 0, 1000)
                # some keys are here and some there: no answer, no error
                assert (await look(one, read("b", "post"))).entry is None
                await write(one, "post")
            for node in (to_node, from_node):
                node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))
        try:
            await usable(one, two)
            assert node_of(one) == node_of(two) == target.port
            assert await answer(two, read("a")) is None
            await keep(one, read("a"), TWO)
            assert await answer(two, read("a")) == TWO
            await write(two, "author")
            assert await answer(one, read("a")) is None
        finally:
            for each in cluster.masters:
                with client(each) as c:
                    c.execute_command("CLUSTER", "SETSLOT", slot, "NODE", cluster.id_of(target))


async def test_the_replica_of_a_killed_node_is_followed_and_nothing_old_is_answered(cluster: RedisCluster) -> None:
    master = cluster.serving("pgloupe:{default}:epoch")
    replica = cluster.replica_of(master)
    url = f"redis://127.0.0.1:{cluster.masters[0].port}"
    async with started(redis_url=url) as one, started(redis_url=url) as two:
        assert await one.wait_redis(LIMIT_S)
        assert await two.wait_redis(LIMIT_S)
        await keep(one, read("a"), ONE)
        assert await answer(two, read("a")) == ONE
        mark = await done(one.begin_write(frozenset({"author"})))
        master.kill()
        await failed_over(replica, one, two)

        async def marked() -> bool:
            found = await look(two, read("a"))
            assert found.entry is None
            return found.reason == "write under way"

        await until(marked)
        await done(one.end_write(mark))
        assert await answer(two, read("a")) is None
        await keep(two, read("a"), TWO)
        assert await answer(one, read("a")) == TWO


async def test_what_a_replica_has_not_heard_of_is_not_answered_from_before_it() -> None:
    """The master dies with acknowledged writes that its replica never got, and the sentinel lets the replica take over."""
    with watched() as servers:
        async with started(redis_url=servers.url) as one, started(redis_url=servers.url) as two:
            assert node_of(one) == node_of(two) == servers.master.port
            await keep(one, read("a"), ONE)
            assert await answer(two, read("a")) == ONE
            await until(servers.in_step)
            servers.link.last.hold()
            await write(two, "author")
            assert await answer(one, read("a")) is None
            with client(servers.replica) as c:
                # what the replica has is the answer from before the write, and the versions under which it is good
                assert c.hexists("pgloupe:{default}:t:author", "v")
            servers.master.kill()
            await failed_over(servers.replica, one, two)
            await usable(one, two)
            for cache in (one, two):
                assert await answer(cache, read("a")) is None
            await keep(one, read("a"), TWO)
            assert await answer(two, read("a")) == TWO


async def test_a_master_that_the_sentinels_have_replaced_is_left() -> None:
    with watched() as servers:
        topology = Topology(parse(servers.url), b"key")
        connection = await topology.connect()
        await connection.disconnect(nowait=True)
        assert topology.address is not None
        assert topology.address.port == servers.master.port
        assert await topology.confirm()
        await until(servers.in_step)
        with client(servers.sentinel) as c:
            c.execute_command("SENTINEL", "FAILOVER", "mymaster")

        async def replaced() -> bool:
            return not await topology.confirm()

        await until(replaced)

        async def connected() -> bool:
            try:
                connection = await topology.connect()
            except RedisError as error:  # it is named some time before it is one
                if "no master yet" not in str(error):
                    raise
                return False
            await connection.disconnect(nowait=True)
            return True

        await until(connected)
        assert topology.address.port == servers.replica.port
        servers.sentinel.kill()
        # no answer says nothing
        assert await topology.confirm()


async def test_a_name_that_no_sentinel_knows_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with watched() as servers:
        async with started(redis_url=servers.url.replace("mymaster", "other")) as cache:
            assert not cache.redis_up
        assert "the sentinels know no master called other" in caplog.text
