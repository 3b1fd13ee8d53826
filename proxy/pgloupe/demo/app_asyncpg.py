"""The shop's storefront in asyncpg: loops of prepared look-ups, and the same work as one statement.

Nothing here knows of pgloupe. Each function takes the URL of the database and the name of its connection; `product_page`
is the read that the demonstration lets the cache answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import asyncpg

from pgloupe.demo.scenario import FIXED, LAZY, Scenario, checksum

PRODUCT_PAGE: Final = """
SELECT product.id, product.name, product.description, product.price_cents, category.name AS category,
    (SELECT count(*) FROM review WHERE review.product_id = product.id) AS reviews,
    (SELECT round(avg(review.stars), 2) FROM review WHERE review.product_id = product.id) AS stars,
    (SELECT sum(sold.quantity) FROM purchase_item AS sold JOIN product AS peer ON peer.id = sold.product_id
        WHERE peer.category_id = product.category_id) AS sold_in_category,
    (SELECT string_agg(bought.id::text, ' ' ORDER BY bought.times DESC, bought.id) FROM (
        SELECT other.product_id AS id, count(*) AS times FROM purchase_item AS this
        JOIN purchase_item AS other ON other.purchase_id = this.purchase_id AND other.product_id <> this.product_id
        WHERE this.product_id = product.id
        GROUP BY other.product_id ORDER BY times DESC, other.product_id LIMIT 6) AS bought) AS bought_together
FROM product JOIN category ON category.id = product.category_id
WHERE product.id = $1
"""

PRODUCT_PAGE_TABLES: Final = ("product", "category", "review", "purchase_item")

_SOLD_PER_PRODUCT: Final = """
SELECT product.id, product.name,
    (SELECT coalesce(sum(item.quantity), 0) FROM purchase_item AS item WHERE item.product_id = product.id) AS sold
FROM product JOIN category ON category.id = product.category_id
WHERE category.name LIKE 'Sport %' AND product.price_cents > 5000
ORDER BY product.id
"""

_SOLD_AT_ONCE: Final = """
SELECT product.id, product.name, coalesce(sum(item.quantity), 0) AS sold
FROM product JOIN category ON category.id = product.category_id
    LEFT JOIN purchase_item AS item ON item.product_id = product.id
WHERE category.name LIKE 'Sport %' AND product.price_cents > 5000
GROUP BY product.id
ORDER BY product.id
"""

_OPEN_PURCHASES: Final = "SELECT id, customer_id FROM purchase WHERE status = $1 ORDER BY placed_at DESC LIMIT 25"

_TO_COUNT: Final = "SELECT id, price_cents FROM product WHERE category_id = $1 ORDER BY id LIMIT 40"


async def connect(url: str, application_name: str) -> Any:
    """An asyncpg connection of that name."""
    return await asyncpg.connect(url, server_settings={"application_name": application_name})


def _alone(work: Callable[[Any], Awaitable[object]]) -> Callable[[str, str], str]:
    """A scenario's function from a coroutine: an event loop and a connection of its own, the result as a checksum."""

    async def run(url: str, application_name: str) -> str:
        connection = await connect(url, application_name)
        try:
            return checksum(await work(connection))
        finally:
            await connection.close()

    return lambda url, application_name: asyncio.run(run(url, application_name))


async def letters_lazy(connection: Any) -> object:
    """Letters to the buyers of what is paid and not sent: their address is looked up one purchase at a time."""
    letters = []
    for purchase in await connection.fetch(_OPEN_PURCHASES, "paid"):
        customer = await connection.fetchrow("SELECT name, city FROM customer WHERE id = $1", purchase["customer_id"])
        letters.append((purchase["id"], customer["name"], customer["city"]))
    return letters


async def letters_fixed(connection: Any) -> object:
    """All the addresses in one statement."""
    purchases = await connection.fetch(_OPEN_PURCHASES, "paid")
    customers = await connection.fetch(
        "SELECT id, name, city FROM customer WHERE id = ANY($1::int[])",
        [purchase["customer_id"] for purchase in purchases],
    )
    by_id = {customer["id"]: customer for customer in customers}
    return [
        (purchase["id"], by_id[purchase["customer_id"]]["name"], by_id[purchase["customer_id"]]["city"])
        for purchase in purchases
    ]


def _counted(product: Any) -> int:
    """What the count of the shelves found."""
    return int(product["price_cents"]) % 90


async def _shelf(connection: Any) -> object:
    rows = await connection.fetch(
        "SELECT product_id, quantity FROM stock JOIN product ON product.id = product_id WHERE category_id = $1 "
        "ORDER BY product_id",
        7,
    )
    return [tuple(row) for row in rows]


async def stocktaking_lazy(connection: Any) -> object:
    """One UPDATE for each product counted."""
    async with connection.transaction():
        for product in await connection.fetch(_TO_COUNT, 7):
            await connection.execute(
                "UPDATE stock SET quantity = $2 WHERE product_id = $1", product["id"], _counted(product)
            )
    return await _shelf(connection)


async def stocktaking_fixed(connection: Any) -> object:
    """One UPDATE for all of them."""
    async with connection.transaction():
        products = await connection.fetch(_TO_COUNT, 7)
        await connection.execute(
            "UPDATE stock SET quantity = counted.quantity FROM unnest($1::int[], $2::int[]) AS counted (id, quantity) "
            "WHERE product_id = counted.id",
            [product["id"] for product in products],
            [_counted(product) for product in products],
        )
    return await _shelf(connection)


async def bestsellers_lazy(connection: Any) -> object:
    """A subquery runs for each product, over a table without the index it needs."""
    return [tuple(row) for row in await connection.fetch(_SOLD_PER_PRODUCT)]


async def bestsellers_fixed(connection: Any) -> object:
    """The same by a join and GROUP BY."""
    return [tuple(row) for row in await connection.fetch(_SOLD_AT_ONCE)]


async def product_page(connection: Any, product_id: int) -> tuple[object, ...]:
    """What the page of one product shows."""
    return tuple(await connection.fetchrow(PRODUCT_PAGE, product_id))


SCENARIOS = (
    Scenario("letters", LAZY, "n_plus_one", "letters to buyers (asyncpg)", _alone(letters_lazy)),
    Scenario("letters", FIXED, "n_plus_one", "letters to buyers (asyncpg)", _alone(letters_fixed)),
    Scenario("stocktaking", LAZY, "n_plus_one_write", "stocktaking (asyncpg)", _alone(stocktaking_lazy)),
    Scenario("stocktaking", FIXED, "n_plus_one_write", "stocktaking (asyncpg)", _alone(stocktaking_fixed)),
    Scenario("bestsellers", LAZY, "slow_query", "bestsellers (asyncpg)", _alone(bestsellers_lazy)),
    Scenario("bestsellers", FIXED, "slow_query", "bestsellers (asyncpg)", _alone(bestsellers_fixed)),
)
