"""The promise through Redis: two caches are two proxies that share it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import redis.asyncio as redis

from pgloupe.cache import Cache
from support.caches import Clock, answer, done, entry, keep, look, read, started, write
from support.servers import Redis

ONE = entry("one")
TWO = entry("two")
Pair = tuple[Cache, Cache]


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return request.node.nodeid


@pytest.fixture
async def pair(redis_server: Redis, namespace: str) -> AsyncIterator[Pair]:
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    async with started(**settings) as one, started(**settings) as two:
        assert one.redis_up
        assert two.redis_up
        yield one, two


@pytest.fixture
async def client(redis_server: Redis) -> AsyncIterator[Any]:
    connection = redis.Redis.from_url(redis_server.url)
    try:
        yield connection
    finally:
        await connection.aclose()


def key_of(namespace: str, rest: str) -> bytes:
    return f"pgloupe:{{{namespace}}}:{rest}".encode()


async def test_what_one_proxy_filled_the_other_answers(pair: Pair) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    assert await answer(two, read("a")) == ONE
    assert two.statistics()["redis_hits"] == 1
    assert await answer(two, read("a")) == ONE
    assert two.statistics()["memory_hits"] == 1


async def test_a_write_through_one_proxy_is_seen_through_the_other_once_it_is_acknowledged(pair: Pair) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    assert await answer(two, read("a")) == ONE
    await write(two, "author")
    assert await answer(one, read("a")) is None
    assert await answer(two, read("a")) is None


async def test_a_mark_of_one_proxy_is_dirty_in_the_other(pair: Pair) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    mark = await done(two.begin_write(frozenset({"author"})))
    assert (await look(one, read("a"))).reason == "write under way"
    await done(two.abandon(mark))
    assert await answer(one, read("a")) == ONE


async def test_more_tables_of_a_transaction_are_dirty_in_the_other_proxy_too(pair: Pair) -> None:
    one, two = pair
    mark = await done(two.begin_write(frozenset()))
    assert (await look(one, read("p", "post"))).ticket is not None
    await done(two.extend(mark, frozenset({"post"})))
    assert (await look(one, read("p", "post"))).reason == "write under way"
    await done(two.end_write(mark))
    assert (await look(one, read("p", "post"))).ticket is not None


async def test_a_mark_is_dirty_in_its_own_process_before_redis_knows_of_it(pair: Pair) -> None:
    one, _ = pair
    waiting = one.begin_write(frozenset({"author"}))
    found = one.lookup(read("a"))
    assert not isinstance(found, asyncio.Future)
    assert (await done(found)).reason == "write under way"
    await done(one.end_write(await done(waiting)))


@pytest.mark.parametrize("order", ["begin fill end", "begin end fill", "fill begin end"])
async def test_a_fill_never_outlives_a_write_through_the_other_proxy(pair: Pair, order: str) -> None:
    one, two = pair
    ticket = (await look(one, read("a"))).ticket
    assert ticket is not None
    mark = None
    for step in order.split():
        if step == "begin":
            mark = await done(two.begin_write(frozenset({"author"})))
        elif step == "fill":
            one.fill(ticket, ONE)
        elif mark is not None:
            await done(two.end_write(mark))
    for cache in pair:
        assert await answer(cache, read("a")) is None


async def test_a_late_fill_does_not_replace_a_newer_one(pair: Pair) -> None:
    one, two = pair
    ticket = (await look(one, read("a"))).ticket
    assert ticket is not None
    await write(two, "author")
    await keep(two, read("a"), TWO)
    one.fill(ticket, ONE)
    assert await answer(two, read("a")) == TWO
    assert await answer(one, read("a")) == TWO
    assert one.rule_statistics()["rule"]["not stored: written meanwhile"] == 1


async def test_many_sessions_at_once_get_their_own_answers(pair: Pair) -> None:
    one, two = pair
    for number in range(100):
        await keep(one, read(f"r{number}"), entry(str(number)))
    found = await asyncio.gather(*(answer(two, read(f"r{number}")) for number in range(100)))
    assert found == [entry(str(number)) for number in range(100)]


async def test_what_is_not_awaited_happens_all_the_same(pair: Pair) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    mark = await done(two.begin_write(frozenset({"author"})))
    two.end_write(mark)
    await answer(two, read("b"))
    assert await answer(one, read("a")) is None


async def test_a_session_that_is_cancelled_while_it_waits_leaves_the_write_announced(pair: Pair) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    mark = await done(two.begin_write(frozenset({"author"})))
    waiting = two.end_write(mark)
    assert isinstance(waiting, asyncio.Future)
    waiting.cancel()
    await answer(two, read("b"))
    assert await answer(one, read("a")) is None


async def test_the_mark_of_a_killed_proxy_ends_with_its_lease_and_raises(
    redis_server: Redis, namespace: str, client: Any
) -> None:
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    async with started(**settings) as one:
        await keep(one, read("a"), ONE)
        ticket = (await look(one, read("b"))).ticket
        assert ticket is not None
        async with started(**settings) as two:
            await done(two.begin_write(frozenset({"author"})))
        assert (await look(one, read("a"))).reason == "write under way"
        # its time is over: what a minute would do, done to the field
        hash_key = key_of(namespace, "epoch")
        marks = [field for field in await client.hkeys(hash_key) if field.startswith(b"m")]
        assert len(marks) == 1
        await client.hset(hash_key, marks[0], 1)
        mine = one._shared
        assert mine is not None
        for field in await client.hkeys(hash_key):
            if field.startswith(b"p") and field != b"p" + mine._identity:
                await client.hdel(hash_key, field)
        one.fill(ticket, TWO)
        for name in ("a", "b"):
            found = await look(one, read(name))
            assert found.entry is None
            assert found.ticket is not None
        assert not [field for field in await client.hkeys(hash_key) if field.startswith(b"m")]


async def test_marks_are_renewed_while_their_write_is_under_way(
    redis_server: Redis, namespace: str, client: Any
) -> None:
    async with started(redis_url=redis_server.url, namespace=namespace) as one:
        mark = await done(one.begin_write(frozenset({"author"})))
        hash_key = key_of(namespace, "epoch")
        (field,) = [field for field in await client.hkeys(hash_key) if field.startswith(b"m")]
        await client.hset(hash_key, field, 1)
        shared = one._shared
        assert shared is not None
        shared._renewed_s = float("-inf")
        shared._tick()
        assert (await look(one, read("a"))).reason == "write under way"
        assert int(await client.hget(hash_key, field)) > 1
        await done(one.end_write(mark))
        assert not await client.hexists(hash_key, field)


async def test_the_ttl_of_the_rule_as_it_is_now_counts_for_entries_in_redis(
    redis_server: Redis, namespace: str
) -> None:
    clock = Clock()
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    async with started(**settings, clock=clock) as one, started(**settings) as two:
        ticket = (await look(one, read("a"))).ticket
        assert ticket is not None
        clock.now_s += 30
        one.fill(ticket, ONE)
        await answer(one, read("b"))
        assert await answer(two, read("a", ttl_s=20)) is None
        assert await answer(two, read("a", ttl_s=60)) == ONE


async def test_an_entry_that_is_malformed_in_redis_is_a_miss(pair: Pair, namespace: str, client: Any) -> None:
    one, two = pair
    await keep(one, read("a"), ONE)
    await answer(one, read("b"))
    entry_key = key_of(namespace, "e:") + read("a").key
    raw = await client.get(entry_key)
    assert raw is not None
    for broken in (b"", b"x", raw[:-1], raw + b"x", raw[:-3] + b"\0\0\0", b"x" * len(raw)):
        await client.set(entry_key, broken)
        assert (await look(two, read("a"))).ticket is not None


async def test_entries_leave_redis_with_their_ttl(pair: Pair, namespace: str, client: Any) -> None:
    one, _ = pair
    await keep(one, read("a", ttl_s=60), ONE)
    await answer(one, read("b"))
    left_ms = await client.pttl(key_of(namespace, "e:") + read("a").key)
    assert 0 < left_ms <= 60_000


async def test_tables_that_are_only_written_leave_nothing_in_redis(pair: Pair, namespace: str, client: Any) -> None:
    one, _ = pair
    for number in range(10):
        await write(one, f"t{number}")
    found = [
        key async for key in client.scan_iter(match=f"pgloupe:{{{namespace.replace('[', '?').replace(']', '?')}}}:*")
    ]
    assert found == [key_of(namespace, "epoch")]


@pytest.mark.parametrize("what", ["tables", "epoch", "everything"])
async def test_what_redis_evicts_is_never_answered_from_before(
    pair: Pair, namespace: str, client: Any, what: str
) -> None:
    one, _ = pair
    await keep(one, read("a"), ONE)
    if what != "tables":
        await client.delete(key_of(namespace, "epoch"))
    if what != "epoch":
        await client.delete(key_of(namespace, "t:author"))
    assert await answer(one, read("a")) is None
    await keep(one, read("a"), TWO)
    assert await answer(one, read("a")) == TWO


async def test_a_proxy_that_left_in_good_order_is_not_waited_for(redis_server: Redis, namespace: str) -> None:
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    async with started(**settings) as one:
        async with started(**settings):
            pass
        await keep(one, read("a"), ONE)
        assert await answer(one, read("a")) == ONE


async def test_while_a_proxy_is_overdue_nobody_answers_and_it_is_given_up_in_the_end(
    pair: Pair, namespace: str, client: Any
) -> None:
    one, _ = pair
    await keep(one, read("a"), ONE)
    now_ms = int((await client.time())[0]) * 1000
    await client.hset(key_of(namespace, "epoch"), b"pgone", now_ms - 5_000)
    assert (await look(one, read("a"))).reason == "another proxy is out of touch"
    await client.hset(key_of(namespace, "epoch"), b"pgone", now_ms - 31_000)
    found = await look(one, read("a"))
    assert found.entry is None
    assert found.ticket is not None
    assert not await client.hexists(key_of(namespace, "epoch"), b"pgone")
