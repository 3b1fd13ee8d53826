"""Short forms for tests of the cache: reads by a name, entries by a text, and calls that may or may not be awaitable."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pgloupe.cache import SIMPLE, Answer, Cache, Entry, Read, cache_key

T = TypeVar("T")


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def done(value: Awaitable[T] | T) -> T:
    """The value, awaited if that is needed."""
    return await value if isinstance(value, Awaitable) else value


def read(name: str, *tables: str, ttl_s: float = 60.0, database: str = "", functions: tuple[str, ...] = ()) -> Read:
    """A read with a key of its own, of these tables (of the table `author` if none is named)."""
    return Read(
        cache_key(b"", SIMPLE, name),
        tables or ("author",),
        "rule",
        ttl_s,
        1 << 16,
        functions=functions,
        database=database,
    )


def entry(text: str = "1") -> Entry:
    """One DataRow with this text, and a CommandComplete."""
    value = text.encode()
    row = (1).to_bytes(2, "big") + len(value).to_bytes(4, "big") + value
    tag = b"SELECT 1\0"
    body = b"D" + (len(row) + 4).to_bytes(4, "big") + row + b"C" + (len(tag) + 4).to_bytes(4, "big") + tag
    return Entry(b"", body, 1, 0.01)


async def look(cache: Cache, what: Read) -> Answer:
    return await done(cache.lookup(what))


async def answer(cache: Cache, what: Read) -> Entry | None:
    """What the cache answers."""
    return (await look(cache, what)).entry


async def keep(cache: Cache, what: Read, value: Entry) -> None:
    """Miss, ask the server, fill."""
    found = await look(cache, what)
    assert found.ticket is not None, found.reason
    cache.fill(found.ticket, value)


async def write(cache: Cache, *tables: str) -> None:
    """A whole write of these tables; of anything if none is named."""
    mark = await done(cache.begin_write(frozenset(tables) if tables else None))
    await done(cache.end_write(mark))


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[Cache]:
    """A cache from its start to its stop."""
    cache = Cache(**{"memory_bytes": 1 << 20, "redis_timeout_s": 1.0, "redis_retry_s": 0.02, **settings})
    await cache.start()
    try:
        yield cache
    finally:
        await cache.stop()
