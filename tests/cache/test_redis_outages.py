"""Clients at work while Redis stalls, dies and comes back: no error, nothing old, and nobody waits for Redis to be back.

Each statement has a time limit of its own, and the outage lasts until every client has done its share: a client that waited
for Redis would fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import psycopg
import pytest

from support.proxy import Proxy, proxy_to
from support.redis_nodes import until
from support.servers import Postgres, RedisServer

CLIENTS: Final = 3
SHARE: Final = 8
STATEMENT_S: Final = 10.0
"""Far over what a statement may wait for Redis (0.05 s for a read, twice that and 0.3 s for a write): this machine may be slow."""


@dataclass
class Work:
    """What clients do: each writes a counter of its own, and all read all of them."""

    done: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    acknowledged: list[int] = field(default_factory=lambda: [0] * CLIENTS)
    stopping: bool = False

    async def share(self) -> None:
        """Wait until each client has done so many rounds more."""
        goal = [count + SHARE for count in self.done]
        await until(lambda: all(count >= wanted for count, wanted in zip(self.done, goal, strict=True)))

    async def client(self, number: int, url: str) -> None:
        connection = await asyncpg.connect(url, command_timeout=STATEMENT_S)
        try:
            while not self.stopping:
                for other in range(CLIENTS):
                    least = self.acknowledged[other]
                    seen = await connection.fetchval("SELECT n FROM counter WHERE id = $1", other)
                    assert seen >= least, "older than a write that was acknowledged before"
                n = self.acknowledged[number] + 1
                await connection.execute("UPDATE counter SET n = $2 WHERE id = $1", number, n)
                self.acknowledged[number] = n
                for _ in range(3):
                    assert await connection.fetchval("SELECT n FROM counter WHERE id = $1", number) == n
                    assert await connection.fetchval("SELECT name FROM label WHERE id = 1") == "label"
                self.done[number] += 1
        finally:
            await connection.close()


@pytest.fixture
def counters(postgres: Postgres) -> str:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE counter AS SELECT id, 0 AS n FROM generate_series(0, 2) AS id")
        connection.execute("CREATE TABLE label AS SELECT 1 AS id, 'label' AS name")
    return url


@pytest.fixture
def proxies(counters: str, own_redis: RedisServer) -> Iterator[list[Proxy]]:
    rules = [{"name": name, "tables": [name], "ttl": "60s"} for name in ("counter", "label")]
    cache: dict[str, Any] = {"allow": rules, "redis": own_redis.url, "redis_timeout_s": 0.05, "redis_hold_s": 0.3}
    with proxy_to(counters, cache=cache) as one, proxy_to(counters, cache=cache) as two:
        yield [one, two]


async def test_clients_notice_nothing_of_a_redis_that_stalls_and_dies(
    proxies: list[Proxy], own_redis: RedisServer
) -> None:
    work = Work()
    clients = [asyncio.create_task(work.client(n, proxies[n % 2].url)) for n in range(CLIENTS)]

    def figure(name: str) -> list[Any]:
        return [proxy.running.cache_statistics()[name] for proxy in proxies]

    async def used_again() -> None:
        before = figure("hits")
        await until(lambda: all(now > then for now, then in zip(figure("hits"), before, strict=True)))

    try:
        await work.share()
        await used_again()
        own_redis.pause()
        await work.share()
        assert "up" not in figure("redis_state")
        own_redis.resume()
        await used_again()
        own_redis.kill()
        await work.share()
        assert "up" not in figure("redis_state")
        own_redis.start()
        await used_again()
        await work.share()
    finally:
        own_redis.resume()
        work.stopping = True
        ended = await asyncio.gather(*clients, return_exceptions=True)
    assert ended == [None] * CLIENTS
