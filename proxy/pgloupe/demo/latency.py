"""How long a page takes direct and from the cache, measured one after the other so that both meet the same machine.

The proxy runs in a thread of this process and shares its interpreter with the caller, so the cached figure is somewhat worse
than that of a proxy that runs by itself.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from pgloupe.demo import app_asyncpg

PRODUCTS: Final = tuple(range(7, 2400, 199))
"""The products whose pages are asked for, a dozen, as visitors of a shop keep to a few."""

CALLS: Final = 400


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds of each call, and whether both ways always showed the same page."""

    direct_ms: list[float]
    cached_ms: list[float]
    equal: bool
    fresh: bool
    """A price changed through the proxy was on the next page."""


def figures(samples_ms: list[float]) -> dict[str, float]:
    """`median`, `p95` and the number of `calls`."""
    twentieths = statistics.quantiles(samples_ms, n=20)
    return {
        "median": round(statistics.median(samples_ms), 3),
        "p95": round(twentieths[18], 3),
        "calls": len(samples_ms),
    }


def measure(direct_url: str, proxied_url: str, advance: Callable[[], object]) -> Latencies:
    """Ask for product pages `CALLS` times each way, turn and turn about; `advance` is called after each pair."""
    return asyncio.run(_measure(direct_url, proxied_url, advance))


async def _measure(direct_url: str, proxied_url: str, advance: Callable[[], object]) -> Latencies:
    direct = await app_asyncpg.connect(direct_url, "shop-page-direct")
    try:
        proxied = await app_asyncpg.connect(proxied_url, "shop-page-cached")
        try:
            return await _alternate(direct, proxied, advance)
        finally:
            await proxied.close()
    finally:
        await direct.close()


async def _alternate(direct: Any, proxied: Any, advance: Callable[[], object]) -> Latencies:
    times: tuple[list[float], list[float]] = ([], [])
    equal = True
    # The first round prepares the statement on both connections and fills the cache.
    for product in PRODUCTS:
        pages = [await app_asyncpg.product_page(way, product) for way in (direct, proxied)]
        equal = equal and pages[0] == pages[1]
    for call in range(CALLS):
        product = PRODUCTS[call % len(PRODUCTS)]
        pages = [(), ()]
        for way in (0, 1) if call % 2 else (1, 0):
            started = time.perf_counter()
            pages[way] = await app_asyncpg.product_page((direct, proxied)[way], product)
            times[way].append((time.perf_counter() - started) * 1000)
        equal = equal and pages[0] == pages[1]
        advance()
    before = await app_asyncpg.product_page(proxied, PRODUCTS[0])
    await proxied.execute("UPDATE product SET price_cents = price_cents + 1 WHERE id = $1", PRODUCTS[0])
    after = await app_asyncpg.product_page(proxied, PRODUCTS[0])
    fresh = before != after and after == await app_asyncpg.product_page(direct, PRODUCTS[0])
    return Latencies(times[0], times[1], equal, fresh)
