"""Concurrent misses of one key make one query, and nobody waits for what will not come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from pgloupe.cache import Answer, Cache, Read
from pgloupe.cache.cache import REFRESH_AT
from pgloupe.cache.flights import HOPELESS_S
from support.caches import Clock, answer, done, entry, keep, look, read, started, write
from support.servers import Redis

ONE = entry("one")
TWO = entry("two")
LONG_S = 30.0
"""Longer than any test waits."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(memory_bytes=1 << 20, wait_s=LONG_S, clock=clock)


def behind(cache: Cache, what: Read, owner: object = None) -> asyncio.Task[Answer]:
    """A reader that waits."""
    found = cache.lookup(what, owner)
    assert isinstance(found, Awaitable)

    async def wait() -> Answer:
        return await found

    return asyncio.get_running_loop().create_task(wait())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def waited(cache: Cache, count: int) -> None:
    """Until so many readers wait, or have waited."""
    async with asyncio.timeout(LONG_S):
        for _ in iter(lambda: int(cache.statistics()["waits"]) >= count, True):
            await asyncio.sleep(0)


async def test_those_who_come_while_the_server_is_asked_get_its_answer(cache: Cache) -> None:
    leader = await look(cache, read("a"))
    others = [behind(cache, read("a")) for _ in range(10)]
    await turns()
    assert not any(other.done() for other in others)
    assert leader.ticket is not None
    cache.fill(leader.ticket, ONE)
    assert [(await other).entry for other in others] == [ONE] * 10
    assert (cache.statistics()["misses"], cache.statistics()["waits"]) == (1, 10)


async def test_another_key_does_not_wait(cache: Cache) -> None:
    leader = await look(cache, read("a"))
    assert leader.ticket is not None
    assert isinstance(cache.lookup(read("b")), Answer)


async def test_a_write_in_between_sends_the_next_reader_to_the_server(cache: Cache) -> None:
    """The answer that is under way may be older than the write."""
    leader = await look(cache, read("a"))
    await write(cache, "author")
    second = cache.lookup(read("a"))
    assert isinstance(second, Answer)
    assert second.ticket is not None
    assert leader.ticket is not None
    cache.fill(leader.ticket, ONE)
    cache.fill(second.ticket, TWO)
    assert await answer(cache, read("a")) is TWO


async def test_a_write_while_they_wait_has_one_of_them_ask_anew_and_the_others_wait_for_that(cache: Cache) -> None:
    leader = await look(cache, read("a"))
    others = [behind(cache, read("a")) for _ in range(3)]
    await turns()
    await write(cache, "author")
    assert leader.ticket is not None
    cache.fill(leader.ticket, ONE)
    await turns()
    asking = [other.result().ticket for other in others if other.done()]
    assert len(asking) == 1
    assert asking[0] is not None
    cache.fill(asking[0], TWO)
    await turns()
    assert [other.result().entry for other in others].count(TWO) == 2


async def test_a_leader_that_gives_up_leaves_nobody_waiting(cache: Cache, clock: Clock) -> None:
    found = await look(cache, read("a"))
    others = [behind(cache, read("a")) for _ in range(3)]
    await turns()
    del found  # its session ended, or the answer was an error
    results = [await other for other in others]
    assert all(result.ticket is not None for result in results)
    # nor does anybody wait for that key soon
    results.clear()
    again = [cache.lookup(read("a")) for _ in range(2)]
    assert all(isinstance(one, Answer) and one.ticket is not None for one in again)
    again.clear()
    clock.now_s += HOPELESS_S + 1
    hope = await look(cache, read("a"))
    assert hope.ticket is not None
    other = behind(cache, read("a"))
    cache.fill(hope.ticket, ONE)
    assert (await other).entry is ONE


async def test_nobody_waits_for_an_answer_that_is_too_large(cache: Cache) -> None:
    large = entry("x" * (1 << 17))
    leader = await look(cache, read("a"))
    other = behind(cache, read("a"))
    await turns()
    assert leader.ticket is not None
    cache.fill(leader.ticket, large)
    assert (await other).ticket is not None
    assert isinstance(cache.lookup(read("a")), Answer)


async def test_there_is_a_limit_to_waiting() -> None:
    cache = Cache(memory_bytes=1 << 20, wait_s=0.01)
    leader = await look(cache, read("a"))
    late = await behind(cache, read("a"))
    assert leader.ticket is not None
    assert late.ticket is not None


async def test_a_reader_that_is_told_to_stop_waits_no_longer_and_the_others_do(cache: Cache) -> None:
    leader = await look(cache, read("a"))
    me, someone = object(), object()
    mine, other = behind(cache, read("a"), me), behind(cache, read("a"), someone)
    await turns()
    cache.hurry(me)
    assert (await mine).ticket is not None
    await turns()
    assert not other.done()
    assert leader.ticket is not None
    cache.fill(leader.ticket, ONE)
    assert (await other).entry is ONE


async def test_without_a_limit_nobody_waits() -> None:
    cache = Cache(memory_bytes=1 << 20, wait_s=0.0)
    leader = await look(cache, read("a"))
    other = cache.lookup(read("a"))
    assert isinstance(other, Answer)
    assert leader.ticket is not None
    assert other.ticket is not None


async def test_an_answer_in_use_is_asked_for_again_before_its_time_is_over(cache: Cache, clock: Clock) -> None:
    """By one reader, while the others still get the old one."""
    what = read("a", ttl_s=100.0)
    await keep(cache, what, ONE)
    for _ in range(3):
        assert await answer(cache, what) is ONE
    clock.now_s += 100 * REFRESH_AT + 1
    first = await look(cache, what)
    assert first.entry is None
    assert await answer(cache, what) is ONE
    assert first.ticket is not None
    cache.fill(first.ticket, TWO)
    clock.now_s += 50
    assert await answer(cache, what) is TWO
    assert cache.statistics()["refreshes"] == 1


async def test_an_answer_that_is_hardly_used_runs_out(cache: Cache, clock: Clock) -> None:
    what = read("a", ttl_s=100.0)
    await keep(cache, what, ONE)
    clock.now_s += 99
    assert await answer(cache, what) is ONE


async def test_past_its_ttl_an_answer_is_given_only_while_somebody_asks_for_a_new_one(
    cache: Cache, clock: Clock
) -> None:
    what = Read(read("a").key, ("author",), "rule", 100.0, 1 << 16, stale_s=50.0)
    await keep(cache, what, ONE)
    clock.now_s += 120
    leader = await look(cache, what)
    assert leader.entry is None
    assert await answer(cache, what) is ONE
    assert cache.statistics()["stale_hits"] == 1
    assert leader.ticket is not None
    cache.fill(leader.ticket, TWO)
    assert await answer(cache, what) is TWO
    clock.now_s += 151
    leader = await look(cache, what)
    assert leader.entry is None
    waiting = behind(cache, what)  # too old to be given, but a new one is worth waiting for
    await turns()
    assert not waiting.done()
    assert leader.ticket is not None
    cache.fill(leader.ticket, ONE)
    assert (await waiting).entry is ONE


async def test_what_a_write_has_made_old_is_never_given_however_the_rule_is(cache: Cache, clock: Clock) -> None:
    what = Read(read("a").key, ("author",), "rule", 100.0, 1 << 16, stale_s=50.0)
    await keep(cache, what, ONE)
    clock.now_s += 120
    leader = await look(cache, what)
    assert leader.ticket is not None
    await write(cache, "author")
    assert (await look(cache, what)).entry is None


async def test_with_redis_those_who_come_later_wait_too(redis_server: Redis) -> None:
    async with started(redis_url=redis_server.url, namespace="flights", wait_s=LONG_S) as cache:
        leader = await done(cache.lookup(read("a")))
        others = [asyncio.get_running_loop().create_task(look(cache, read("a"))) for _ in range(5)]
        await waited(cache, 5)
        assert leader.ticket is not None
        cache.fill(leader.ticket, ONE)
        assert [(await other).entry for other in others] == [ONE] * 5
        assert cache.statistics()["misses"] == 1


async def test_with_redis_an_answer_past_its_ttl_is_given_while_somebody_asks(redis_server: Redis) -> None:
    clock = Clock()
    settings = {"redis_url": redis_server.url, "namespace": "stale", "wait_s": LONG_S, "clock": clock}
    async with started(**settings) as cache:
        what = Read(read("a").key, ("author",), "rule", 0.001, 1 << 16, stale_s=50.0)
        await keep(cache, what, ONE)
        for _ in range(20):  # by now its time is over by the clock of Redis
            await look(cache, read("b"))
        clock.now_s += 1
        leader = await look(cache, what)
        assert leader.ticket is not None
        assert await answer(cache, what) is not None
        assert cache.statistics()["stale_hits"] == 1


async def test_another_proxy_waits_for_the_answer_too(redis_server: Redis) -> None:
    settings = {"redis_url": redis_server.url, "namespace": "two flights", "wait_s": LONG_S}
    async with started(**settings) as one, started(**settings) as two:
        leader = await look(one, read("a"))
        others = [asyncio.get_running_loop().create_task(look(two, read("a"))) for _ in range(3)]
        await waited(two, 3)
        assert leader.ticket is not None
        one.fill(leader.ticket, ONE)
        assert {(await other).entry.body for other in others} == {ONE.body}
        assert (two.statistics()["misses"], two.statistics()["hits"]) == (0, 3)


async def test_another_proxy_does_not_wait_for_an_answer_from_before_a_write(redis_server: Redis) -> None:
    settings = {"redis_url": redis_server.url, "namespace": "a write between flights", "wait_s": LONG_S}
    async with started(**settings) as one, started(**settings) as two:
        leader = await look(one, read("a"))
        await write(two, "author")
        second = await look(two, read("a"))
        assert leader.ticket is not None
        assert second.ticket is not None
        # the answer of the first one is refused, and leaves the note of the second one where it is
        one.fill(leader.ticket, ONE)
        third = asyncio.get_running_loop().create_task(look(one, read("a")))
        await waited(one, 1)
        two.fill(second.ticket, TWO)
        assert (found := (await third).entry) is not None
        assert found.body == TWO.body


async def test_a_proxy_waits_no_longer_than_its_limit_for_another_one(redis_server: Redis) -> None:
    settings = {"redis_url": redis_server.url, "namespace": "a lost flight", "wait_s": 0.05}
    async with started(**settings) as one, started(**settings) as two:
        leader = await look(one, read("a"))
        late = await look(two, read("a"))
        assert leader.ticket is not None
        assert late.ticket is not None
