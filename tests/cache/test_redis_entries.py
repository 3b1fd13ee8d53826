"""Answers in Redis: compressed where that pays, bounded whatever is there, and never those of another server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import redis.asyncio as redis

from pgloupe.cache import Entry
from support.caches import answer, entry, keep, look, read, started
from support.proxy import proxy_to
from support.raw import eventually
from support.servers import PASSWORDS, PostgresServer, Redis, RedisServer

LARGE = entry("a text that comes again and again, " * 500)
ALLOW = {"allow": [{"name": "everything", "tables": ["t"], "ttl": "60s"}]}


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> str:
    return request.node.nodeid


@pytest.fixture
async def client(redis_server: Redis) -> AsyncIterator[Any]:
    connection = redis.Redis.from_url(redis_server.url)
    try:
        yield connection
    finally:
        await connection.aclose()


def key_of(namespace: str, name: str) -> bytes:
    return f"pgloupe:{{{namespace}}}:e:".encode() + read(name).key


async def test_large_answers_are_compressed_unless_that_is_switched_off_and_both_are_read(
    redis_server: Redis, namespace: str, client: Any
) -> None:
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    async with started(**settings) as one, started(**settings, redis_compress_bytes=0) as two:
        await keep(one, read("packed"), LARGE)
        await keep(two, read("plain"), LARGE)
        assert await answer(two, read("packed")) == LARGE
        assert await answer(one, read("plain")) == LARGE
        packed = await client.strlen(key_of(namespace, "packed"))
        plain = await client.strlen(key_of(namespace, "plain"))
        assert plain > LARGE.size_bytes
        assert packed < plain / 10
        # in memory it is plain: that is where hits come from
        assert one.statistics()["bytes"] > 2 * LARGE.size_bytes


async def test_what_is_larger_than_the_rule_allows_is_a_miss(redis_server: Redis, namespace: str, client: Any) -> None:
    settings = {"redis_url": redis_server.url, "namespace": namespace}
    most = read("a").max_entry_bytes
    async with started(**settings) as one, started(**settings) as two:
        await keep(one, read("a"), LARGE)
        assert await answer(two, read("a")) == LARGE
        raw = await client.get(key_of(namespace, "a"))
        head = raw[: raw.index(b"pgl\x02")]
        for big in (Entry(b"", b"x" * (most + 1)), Entry(b"", b"y" * (4 << 20))):
            for compress_bytes in (0, 1):
                await client.set(key_of(namespace, "a"), head + big.to_bytes(compress_bytes))
                two._memory.clear()
                found = await look(two, read("a"))
                assert found.entry is None
                assert found.ticket is not None


def values(url: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        return [connection.execute("SELECT v FROM t").fetchone() for _ in range(3)]


def test_another_server_at_the_same_address_gets_none_of_the_answers(own_redis: RedisServer) -> None:
    """Two machines may each have a server at 127.0.0.1 and share a Redis."""
    port = 0
    for name in ("one", "another"):
        server = PostgresServer()
        server.port = port
        with server:
            port = server.port
            url = server.url_for("app", PASSWORDS["app"], "app")
            with psycopg.connect(url) as connection:
                connection.execute("CREATE TABLE t AS SELECT %s AS v", (name,))
            with proxy_to(url, cache={**ALLOW, "redis": own_redis.url}) as proxy:
                assert values(proxy.url) == [(name,)] * 3
                assert proxy.running.cache_statistics()["hits"] == 2
                eventually(lambda proxy=proxy: proxy.running.cache_statistics()["fills"] == 1)  # type: ignore[misc]
            with proxy_to(url, cache={**ALLOW, "redis": own_redis.url}) as proxy:
                assert values(proxy.url) == [(name,)] * 3
                assert proxy.running.cache_statistics()["redis_hits"] == 1
