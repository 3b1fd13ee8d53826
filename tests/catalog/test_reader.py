"""The catalogs as a real server gives them, and when they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import psycopg
import pytest

from pgloupe.catalog.reader import AGAIN_S, FAILED_S, MAX_CONNECTIONS, MAX_DATABASES, CatalogReader
from pgloupe_rules.catalog import Relation
from support.proxy import proxy_to
from support.servers import Postgres

SCHEMA = """
CREATE SCHEMA shop;
CREATE TABLE shop.customer (id int PRIMARY KEY, name text);
CREATE TABLE shop."Order" (gone int, id int PRIMARY KEY, customer_id int REFERENCES shop.customer, total numeric);
ALTER TABLE shop."Order" DROP COLUMN gone;
CREATE TABLE shop.line (order_id int REFERENCES shop."Order", position int, PRIMARY KEY (order_id, position));
CREATE TABLE shop.part (order_id int, position int, weight int,
    FOREIGN KEY (order_id, position) REFERENCES shop.line (order_id, position));
CREATE TABLE shop.colour (id int PRIMARY KEY, rank int);
CREATE TABLE line (id int PRIMARY KEY);
CREATE VIEW shop.open_order AS SELECT id, customer_id FROM shop."Order";
CREATE TABLE shop.reading (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE shop.reading_2024 PARTITION OF shop.reading FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
"""


@pytest.fixture(scope="module")
def url(postgres: Postgres) -> str:
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
    return database


class Background:
    """Runs what is spawned when it is told to; the clock stands still between."""

    def __init__(self, url: str | None) -> None:
        self.now_s = 1000.0
        self.work: list[Coroutine[Any, Any, None]] = []
        self.reader = CatalogReader(url, self.work.append, clock=lambda: self.now_s)

    async def settle(self) -> int:
        work, self.work[:] = list(self.work), []
        for one in work:
            await one
        return len(work)


def name_of(url: str) -> str:
    return url.rpartition("/")[2].partition("?")[0]


async def test_names_columns_and_foreign_keys_are_those_of_the_server(url: str) -> None:
    catalog = await CatalogReader(url, lambda work: None).read(name_of(url))
    order_id = catalog.place("Order", "id")
    customer = catalog.place("customer", "id")
    assert catalog.column(order_id) == ("Order", "id")
    assert order_id[1] == 2, "a dropped column keeps its number"
    assert catalog.relation(catalog.place("Order", "customer_id"), customer) is Relation.LINKED
    assert catalog.foreign_key(customer, catalog.place("Order", "customer_id")) == "Order.customer_id → customer.id"
    assert catalog.relation(catalog.place("part", "order_id"), order_id) is Relation.LINKED, "by way of line"
    assert catalog.foreign_key(catalog.place("part", "order_id"), order_id) == ""
    assert catalog.relation(customer, catalog.place("colour", "id")) is Relation.APART
    assert catalog.relation(customer, catalog.place("colour", "rank")) is Relation.UNKNOWN
    assert catalog.relation(catalog.place("part", "order_id"), catalog.place("part", "position")) is Relation.APART


async def test_a_table_of_which_there_are_two_is_told_by_its_schema_or_by_its_columns(url: str) -> None:
    catalog = await CatalogReader(url, lambda work: None).read(name_of(url))
    assert catalog.place("line", "id") == (0, 0)
    inner, outer = catalog.place("shop.line", "order_id"), catalog.place("public.line", "id")
    assert inner[0]
    assert outer[0]
    assert catalog.place("line", "order_id", [inner[0]]) == inner
    assert catalog.place("LINE", "ID", [outer[0]]) == outer
    assert catalog.place("nowhere", "id") == (0, 0)
    assert catalog.place("customer", "nothing") == (0, 0)
    assert catalog.column((1, 1)) is None
    assert catalog.column((inner[0], 99)) is None


async def test_a_view_has_columns_and_a_partition_those_of_its_own(url: str) -> None:
    catalog = await CatalogReader(url, lambda work: None).read(name_of(url))
    assert catalog.column(catalog.place("open_order", "customer_id")) == ("open_order", "customer_id")
    assert catalog.column(catalog.place("reading_2024", "at")) == ("reading_2024", "at")


async def test_a_database_is_read_once_and_again_after_a_while_when_it_is_wanted(url: str) -> None:
    background = Background(url)
    reader, database = background.reader, name_of(url)
    reader.want(database)
    reader.want(database)
    assert await background.settle() == 1
    assert reader.catalogs.of(database) is not None
    reader.want(database)
    assert await background.settle() == 0
    background.now_s += AGAIN_S
    reader.tick()
    assert await background.settle() == 1
    reader.want(database)
    background.now_s += AGAIN_S
    reader.tick()
    assert await background.settle() == 0, "nothing was new, so the next time is later"
    background.now_s += AGAIN_S
    reader.tick()
    assert await background.settle() == 1
    reader.tick()
    assert await background.settle() == 0, "nobody asked"


async def test_a_new_table_is_known_after_the_next_reading(url: str) -> None:
    background = Background(url)
    reader, database = background.reader, name_of(url)
    reader.want(database)
    await background.settle()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE shop.late (id int PRIMARY KEY)")
    background.now_s += AGAIN_S
    reader.want(database)
    await background.settle()
    catalog = reader.catalogs.of(database)
    assert catalog is not None
    assert catalog.place("late", "id")[0]


@pytest.mark.parametrize("wrong", ["postgresql://nobody:x@127.0.0.1:1/none", "postgresql://a@no.such.host.invalid/x"])
async def test_where_it_fails_the_rules_do_without_and_nobody_tries_often(wrong: str) -> None:
    background = Background(wrong)
    reader = background.reader
    reader.want("shop")
    assert await background.settle() == 1
    assert reader.catalogs.of("shop") is None
    assert reader.last_error
    reader.want("shop")
    background.now_s += FAILED_S - 1
    reader.tick()
    assert await background.settle() == 0
    background.now_s += 1
    reader.tick()
    assert await background.settle() == 1


async def test_a_database_that_is_not_there_is_no_error_for_anybody(url: str) -> None:
    background = Background(url)
    background.reader.want("no_such_database")
    await background.settle()
    assert background.reader.catalogs.of("no_such_database") is None


async def test_without_a_url_and_after_the_end_nothing_is_read(url: str) -> None:
    background = Background(None)
    background.reader.want("shop")
    assert await background.settle() == 0
    background = Background(url)
    background.reader.close()
    background.reader.want(name_of(url))
    assert await background.settle() == 0


async def test_however_many_databases_are_named_few_are_read() -> None:
    background = Background("postgresql://u@127.0.0.1:1/x")
    for number in range(5 * MAX_DATABASES):
        background.reader.want(f"d{number}")
    at_once = await background.settle()
    assert at_once == MAX_CONNECTIONS
    read = at_once
    while at_once:
        background.reader.tick()
        at_once = await background.settle()
        assert at_once <= MAX_CONNECTIONS
        read += at_once
    assert read <= MAX_DATABASES + MAX_CONNECTIONS


async def test_the_database_that_was_wanted_last_is_read_however_many_came_before(url: str) -> None:
    background = Background(url)
    for number in range(MAX_DATABASES):
        background.reader.want(f"nowhere_{number}")
    background.reader.want(name_of(url))
    for _ in range(MAX_DATABASES):
        await background.settle()
        background.reader.tick()
    assert background.reader.catalogs.of(name_of(url)) is not None


def loop_with_aliases(url: str) -> None:
    with psycopg.connect(url) as connection:
        rows = connection.execute('SELECT o.id AS o_1, o.total AS o_2 FROM shop."Order" AS o ORDER BY o.id').fetchall()
        for number, _ in rows:
            connection.execute("SELECT position AS p FROM shop.line AS l WHERE l.order_id = %s", (number,)).fetchall()


def test_a_finding_names_the_real_columns_and_the_foreign_key(postgres: Postgres) -> None:
    database = postgres.create_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(SCHEMA)
        connection.execute("INSERT INTO shop.customer VALUES (1, 'a')")
        connection.execute('INSERT INTO shop."Order" SELECT n, 1, 0 FROM generate_series(11, 16) n')
    with proxy_to(database) as proxy:
        loop_with_aliases(proxy.url)
        before = proxy.findings("n_plus_one")
        assert [found["parent"]["column"] in ("o_1", "id") for found in before] == [True]
        asyncio.run(_until_known(proxy.running._app, name_of(database)))
        loop_with_aliases(proxy.url)
        (found,) = proxy.findings("n_plus_one")
    assert found["foreign_key"] == "line.order_id → Order.id"
    assert (found["parent"]["table"], found["parent"]["column"]) == ("Order", "id")
    assert (found["child"]["table"], found["child"]["column"]) == ("line", "order_id")


async def _until_known(app: Any, database: str) -> None:
    async with asyncio.timeout(20):
        while app.catalog_reader.catalogs.of(database) is None:  # noqa: ASYNC110 (in another thread)
            await asyncio.sleep(0.01)
