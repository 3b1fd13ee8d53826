"""The breaker in front of Redis: who waits, how long, and how often Redis is tried.

Nobody may wait for a trial, so look-ups in these tests are not awaited where the answer has to be there at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from pgloupe.cache import Answer, Cache
from pgloupe.cache.redis import BACKOFF, RedisLink
from pgloupe.cache.topology import Topology
from pgloupe.redis_url import parse
from support.caches import answer, entry, keep, look, read, started, write
from support.fault_proxy import DOWN, NO_FAULT, Fault, FaultProxy
from support.redis_nodes import client, until
from support.servers import Redis, RedisServer

ONE = entry("one")
LIMIT_S = 20.0


def link_of(cache: Cache) -> RedisLink:
    assert cache._shared is not None
    return cache._shared._link


def at_once(cache: Cache) -> str:
    """Why a look-up is not answered, without anybody having waited for that."""
    found = cache.lookup(read("a"))
    assert isinstance(found, Answer)
    assert (found.entry, found.ticket) == (None, None)
    return found.reason


async def nothing() -> None:
    return None


@pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
def test_pauses_double_up_to_a_limit_and_are_shorter_by_chance(chance: float) -> None:
    topology = Topology(parse("redis://127.0.0.1"), b"{x}")
    link = RedisLink(topology, opening=nothing, tick=lambda: None, tick_s=1.0, retry_s=2.0, chance=lambda: chance)
    pauses = [link.pause_s(failures) for failures in range(9)]
    longest = [0.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]
    assert pauses == [value * (0.5 + chance / 2) for value in longest]
    assert max(longest) == 2.0 * BACKOFF
    assert link.pause_s(10**9) == pauses[-1]


async def test_the_state_is_told(own_redis: RedisServer) -> None:
    async with started(memory_bytes=0) as alone:
        assert alone.statistics()["redis_state"] == "none"
    async with started(redis_url=own_redis.url, redis_retry_s=1e6) as cache:
        assert cache.statistics()["redis_state"] == "up"
        own_redis.kill()
        await look(cache, read("a"))
        await until(lambda: cache.statistics()["redis_state"] == "down")
        assert at_once(cache) == "redis is not usable"


async def test_while_a_new_connection_is_tried_nobody_waits_for_it(redis_server: Redis) -> None:
    with FaultProxy(redis_server.url) as network:
        network.always = Fault(DOWN, 0, "stall")
        settings = {"redis_url": network.url, "namespace": "trying", "redis_timeout_s": 600.0}
        async with asyncio.timeout(LIMIT_S), started(**settings) as cache:
            await until(lambda: cache.statistics()["redis_state"] == "trying")
            trials = cache.statistics()["redis_trials"]
            for _ in range(100):
                assert at_once(cache) == "redis is not usable"
                await write(cache, "author")
            assert cache.statistics()["redis_trials"] == trials
            assert cache.statistics()["redis_state"] == "trying"


@pytest.fixture
def full_backlog() -> Iterator[str]:
    """A server that does not accept, and whose queue is full: connections to it hang."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(listener.getsockname())
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"


async def test_connections_that_hang_keep_nobody_waiting(full_backlog: str) -> None:
    async with asyncio.timeout(LIMIT_S), started(redis_url=full_backlog) as cache:
        for _ in range(100):
            assert at_once(cache) == "redis is not usable"
            await write(cache, "author")
        assert cache.statistics()["redis_up"] == 0


async def test_a_redis_that_is_slower_than_the_time_limit_is_not_used_until_it_is_quicker(redis_server: Redis) -> None:
    with FaultProxy(redis_server.url) as network:
        network.always = Fault(delay_s=0.2)
        settings = {"redis_url": network.url, "namespace": "slow", "redis_timeout_s": 0.1}
        async with started(**settings) as cache:
            await until(lambda: cache.statistics()["redis_trials"] > 1)
            assert not cache.redis_up
            assert at_once(cache) == "redis is not usable"
            network.always = NO_FAULT
            assert await cache.wait_redis(LIMIT_S)
            await keep(cache, read("a"), ONE)
            assert await answer(cache, read("a")) == ONE


async def test_a_redis_that_comes_and_goes_is_tried_more_and_more_seldom(redis_server: Redis) -> None:
    """Each connection breaks as soon as it is of use."""
    with FaultProxy(redis_server.url) as network:
        settings = {"redis_url": network.url, "namespace": "flapping", "redis_retry_s": 30.0}
        async with started(**settings) as cache:
            link = link_of(cache)
            failures: list[int] = []

            def pause_s(count: int) -> float:
                failures.append(count)
                return 0.0

            link.pause_s = pause_s  # type: ignore[method-assign]
            for number in range(6):
                assert await cache.wait_redis(LIMIT_S)
                trials = link.trials
                link._break("as if it had gone")
                assert at_once(cache) == "redis is not usable"
                await until(lambda trials=trials: link.trials > trials)  # type: ignore[misc]
                # the first time it is tried at once
                assert failures == [*range(2, number + 2)]


async def test_calls_of_one_turn_leave_in_one_write(own_redis: RedisServer) -> None:
    async with started(redis_url=own_redis.url, member_lease_s=0) as cache:
        await look(cache, read("a"))
        with client(own_redis) as watcher:
            before = watcher.info("stats")
            found = await asyncio.gather(*(look(cache, read(f"r{number}", f"t{number}")) for number in range(200)))
            after = watcher.info("stats")
        assert all(each.ticket is not None for each in found)
        assert after["total_commands_processed"] - before["total_commands_processed"] >= 200
        # 30 KB: one write of ours, and as many reads of Redis as its buffer of 16 KB makes it need
        assert after["total_reads_processed"] - before["total_reads_processed"] <= 8
