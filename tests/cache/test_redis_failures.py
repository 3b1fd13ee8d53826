"""Redis stops, stalls, comes back empty or with an old snapshot: no stale answer, no error, nobody waits for long."""

from __future__ import annotations

import asyncio

import pytest
import redis.asyncio as redis

from pgloupe.cache import Cache
from support.caches import answer, done, entry, keep, look, read, started, write
from support.redis_nodes import until
from support.servers import RedisServer

ONE = entry("one")
TWO = entry("two")
LIMIT_S = 20.0


async def back(*caches: Cache) -> None:
    """Have each cache notice what happened, and wait until it uses Redis again."""
    for cache in caches:
        await look(cache, read("is it there?", "no_table"))
    for cache in caches:
        assert await cache.wait_redis(LIMIT_S)


async def save(server: RedisServer) -> None:
    client = redis.Redis.from_url(server.url)
    try:
        await client.save()
    finally:
        await client.aclose()


async def test_without_redis_at_the_start_the_server_answers_and_writes_go_on(own_redis: RedisServer) -> None:
    own_redis.stop()
    async with started(redis_url=own_redis.url) as cache:
        assert not cache.redis_up
        assert (await look(cache, read("a"))).reason == "redis is not usable"
        await write(cache, "author")
        own_redis.start()
        await back(cache)
        await keep(cache, read("a"), ONE)
        assert await answer(cache, read("a")) == ONE


@pytest.mark.parametrize("write_meanwhile", [True, False])
async def test_a_redis_that_comes_back_empty_brings_no_old_answer(
    own_redis: RedisServer, write_meanwhile: bool
) -> None:
    async with started(redis_url=own_redis.url) as cache:
        await keep(cache, read("a"), ONE)
        assert await answer(cache, read("a")) == ONE
        own_redis.stop()
        found = await look(cache, read("a"))
        assert (found.entry, found.ticket) == (None, None)
        if write_meanwhile:
            await write(cache, "author")
        own_redis.start()
        await back(cache)
        assert await answer(cache, read("a")) is None
        await keep(cache, read("a"), TWO)
        assert await answer(cache, read("a")) == TWO


async def test_a_redis_that_comes_back_with_an_old_snapshot_brings_no_old_answer(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as one, started(redis_url=own_redis.url) as two:
        await keep(one, read("a"), ONE)
        await answer(one, read("b"))
        await save(own_redis)
        await write(one, "author")
        own_redis.stop()
        own_redis.start()
        await back(two)
        # the snapshot holds the answer and the versions under which it was good
        assert await answer(two, read("a")) is None
        await back(one)
        assert await answer(one, read("a")) is None


async def test_a_proxy_that_starts_after_an_old_snapshot_was_loaded_does_not_believe_it(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url, namespace="ns") as one:
        await keep(one, read("a"), ONE)
        await answer(one, read("b"))
        await save(own_redis)
        await write(one, "author")
    own_redis.stop()
    own_redis.start()
    async with started(redis_url=own_redis.url, namespace="ns", forget_s=0.0) as two:
        assert await answer(two, read("a")) is None


async def test_a_write_under_way_while_redis_restarts_is_dirty_again_and_raised(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as one, started(redis_url=own_redis.url) as two:
        mark = await done(one.begin_write(frozenset({"author"})))
        own_redis.stop()
        own_redis.start()
        await back(one, two)
        assert (await look(two, read("a"))).reason == "write under way"
        await done(one.end_write(mark))
        await keep(two, read("a"), TWO)
        assert await answer(two, read("a")) == TWO


async def test_a_write_that_began_while_redis_was_away_is_raised_when_it_ends(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as one, started(redis_url=own_redis.url) as two:
        own_redis.stop()
        await look(one, read("a"))
        mark = await done(one.begin_write(frozenset({"author"})))
        own_redis.start()
        await back(one, two)
        assert (await look(two, read("a"))).reason == "write under way"
        await done(one.end_write(mark))
        assert (await look(two, read("a"))).ticket is not None


async def test_a_stalled_redis_is_given_up_in_time_and_nothing_old_is_answered_after_it(own_redis: RedisServer) -> None:
    settings = {"redis_url": own_redis.url, "redis_timeout_s": 0.05, "member_lease_s": 0.2}
    async with started(**settings) as one, started(**settings) as two:
        await back(one, two)
        await keep(one, read("a"), ONE)
        assert await answer(two, read("a")) == ONE
        own_redis.pause()
        try:
            async with asyncio.timeout(LIMIT_S):
                found = await look(two, read("a"))
                assert (found.entry, found.ticket) == (None, None)
                await write(one, "author")
                await write(one, "author")
            assert not one.redis_up
        finally:
            own_redis.resume()
        while not (one.redis_up and two.redis_up):
            assert await answer(two, read("a")) is None
            await back(two)
            assert await answer(two, read("a")) is None
            await back(one)
        assert await answer(two, read("a")) is None
        assert await answer(one, read("a")) is None


async def test_the_client_of_a_write_that_could_not_be_announced_waits_until_no_proxy_can_answer(
    own_redis: RedisServer,
) -> None:
    """One proxy loses its connection, the other does not: the network is cut between one of them and Redis."""
    settings = {"redis_url": own_redis.url, "member_lease_s": 0.5}
    async with started(**settings, redis_retry_s=1e6) as one, started(**settings) as two:
        await back(one, two)
        await keep(two, read("a"), ONE)
        assert await answer(two, read("a")) == ONE
        own_task = one._shared._link._task  # type: ignore[union-attr]
        assert own_task is not None
        own_task.cancel()
        await asyncio.gather(own_task, return_exceptions=True)
        assert not one.redis_up
        late = await done(one.begin_write(frozenset({"author"})))
        async with asyncio.timeout(LIMIT_S):
            await done(one.end_write(late))
        # acknowledged now: the other proxy must not answer from before it
        found = await look(two, read("a"))
        assert found.entry is None
        assert found.reason == "another proxy is out of touch"


async def test_a_debt_is_paid_before_redis_is_used_again(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as one, started(redis_url=own_redis.url) as two:
        await keep(two, read("a"), ONE)
        shared = one._shared
        assert shared is not None
        shared._debt = True
        shared._link._break("as if a reply had not come")
        await back(one)
        assert not shared._debt
        assert await answer(two, read("a")) is None
        assert await answer(one, read("a")) is None


async def test_an_error_reply_opens_the_breaker_and_is_no_error_for_the_session(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as cache:
        await keep(cache, read("a"), ONE)
        client = redis.Redis.from_url(own_redis.url)
        try:
            await client.script_flush()
            found = await look(cache, read("a"))
            assert (found.entry, found.ticket, found.reason) == (None, None, "redis is not usable")
            await back(cache)
            assert await answer(cache, read("a")) == ONE
            await client.set("pgloupe:{default}:t:author", "not a hash")
            assert (await look(cache, read("a"))).reason == "redis is not usable"
            await write(cache, "author")
            await client.delete("pgloupe:{default}:t:author")
            await back(cache)
            assert await answer(cache, read("a")) is None
        finally:
            await client.aclose()


async def test_a_redis_without_memory_left_serves_no_old_answer(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url) as cache:
        await keep(cache, read("a"), ONE)
        client = redis.Redis.from_url(own_redis.url)
        try:
            await client.config_set("maxmemory", "1")
            async with asyncio.timeout(LIMIT_S):
                await write(cache, "author")
                assert await answer(cache, read("a")) is None
            await client.config_set("maxmemory", "0")
            await back(cache)
            assert await answer(cache, read("a")) is None
        finally:
            await client.aclose()


async def test_stopping_with_a_dead_redis_is_quick_and_quiet(own_redis: RedisServer) -> None:
    async with asyncio.timeout(LIMIT_S):
        async with started(redis_url=own_redis.url, redis_timeout_s=0.05) as cache:
            await keep(cache, read("a"), ONE)
            own_redis.pause()
        own_redis.resume()


async def test_on_another_server_nobody_answers_until_the_other_proxies_have_come(own_redis: RedisServer) -> None:
    """An empty Redis has never heard of the proxy that does not reach it; whoever comes first tells it."""
    settings = {"redis_url": own_redis.url, "member_lease_s": 0.4}
    async with started(**settings, redis_retry_s=1e6) as away, started(**settings) as here:
        assert here._shared is not None
        assert away._shared is not None
        name, shared = b"p" + away._shared._identity, here._shared
        await until(lambda: name in shared._peers)
        own_redis.kill()
        for cache in (away, here):
            await look(cache, read("a"))
        # the first attempt comes at once, the next one never
        await until(lambda: [away.statistics()[what] for what in ("redis_trials", "redis_state")] == [2, "down"])
        own_redis.start()
        await back(here)
        assert (await look(here, read("a"))).reason == "another proxy is out of touch"
        await away.stop()
        await away.start()
        assert await away.wait_redis(LIMIT_S)
        await keep(here, read("a"), ONE)
        assert await answer(here, read("a")) == ONE


@pytest.mark.parametrize("replica_meanwhile", [True, False])
async def test_a_server_that_was_a_replica_meanwhile_is_another_one(
    own_redis: RedisServer, replica_meanwhile: bool
) -> None:
    """The process is the same, and what it holds may be from before it was replaced as master."""
    async with started(redis_url=own_redis.url) as cache:
        await keep(cache, read("a"), ONE)
        assert await answer(cache, read("a")) == ONE
        client = redis.Redis.from_url(own_redis.url)
        try:
            if replica_meanwhile:
                await client.replicaof("127.0.0.1", 1)
                await client.replicaof("NO", "ONE")
            await client.client_kill_filter(_type="normal", skipme=True)
        finally:
            await client.aclose()
        await back(cache)
        assert await answer(cache, read("a")) == (None if replica_meanwhile else ONE)


async def test_a_proxy_that_used_another_server_last_raises_where_it_comes(own_redis: RedisServer) -> None:
    """It comes back to the server that was replaced, which has not heard of anything since."""
    async with started(redis_url=own_redis.url) as one, started(redis_url=own_redis.url) as two:
        await keep(two, read("a"), ONE)
        assert await answer(one, read("a")) == ONE
        assert one._shared is not None
        one._shared._server = b"the one that was used meanwhile"
        one._shared._link._break("as if that one had gone")
        await back(one)
        assert await answer(one, read("a")) is None
        assert await answer(two, read("a")) is None
