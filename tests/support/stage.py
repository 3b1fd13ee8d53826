"""What a program sees behind the proxy is what it sees at the server: the same program, run in each place.

A program is a function of a URL, or a command of another language that is given URLs. It runs direct, through a proxy that
only watches, and twice through one that may cache everything. It returns what it saw, made of plain values; process numbers
and ports are left out.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg

from support.proxy import Proxy, proxy_to
from support.servers import Postgres

Program = Callable[[str], Any]

SETUP = """
    DROP TABLE IF EXISTS item, note, typed;
    CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric);
    CREATE TABLE note (id serial PRIMARY KEY, item_id integer REFERENCES item DEFERRABLE INITIALLY DEFERRED, body text);
    CREATE TABLE typed (i2 int2, i8 int8, f8 float8, n numeric, b bool, t text, by bytea, d date, ts timestamptz,
                        iv interval, u uuid, j jsonb, ia int[], ta text[], r int4range);
    INSERT INTO item SELECT n, 'item ' || n, n * 1.5 FROM generate_series(1, 20) n;
"""

TABLES = ("item", "note", "typed", "author", "book", "shelf", "book_shelves")

VALUES: tuple[Any, ...] = (
    -7,
    1 << 40,
    0.1,
    decimal.Decimal("123456789.987654321"),
    True,
    "snowman \u2603 and 'quotes' \\ %s",
    bytes(range(256)),
    datetime.date(2024, 2, 29),
    datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, datetime.UTC),
    datetime.timedelta(days=3, seconds=5, microseconds=7),
    uuid.UUID("12345678-1234-5678-1234-567812345678"),
)


def prepare(url: str) -> None:
    """The tables as every program finds them."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SETUP)


EMPTY = """
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' LOOP
            EXECUTE 'DROP TABLE IF EXISTS ' || name || ' CASCADE';
        END LOOP;
    END $$;
    DROP TYPE IF EXISTS form;
"""


def empty(url: str) -> None:
    """No tables at all, for programs that make their own."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(EMPTY)


def failure(error: BaseException) -> tuple[str, str]:
    """The class of an error and its SQLSTATE."""
    return type(error).__name__, str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None))


class Stage:
    """A database of one server: by its own URL `direct`, and behind two proxies."""

    def __init__(self, server: Postgres, direct: str, watching: Proxy, caching: Proxy) -> None:
        self.server = server
        self.direct = direct
        self.watching = watching
        self.caching = caching

    @property
    def places(self) -> list[tuple[str, str]]:
        """What to call them and their URLs, in the order in which a program visits them."""
        again = [(f"the cache, round {number}", self.caching.url) for number in (1, 2)]
        return [("the server", self.direct), ("the watching proxy", self.watching.url), *again]

    def compare(self, program: Program, *, ready: Callable[[str], None] = prepare) -> Any:
        """Run the program in all places; what it saw. `ready` comes before each run."""
        expected: Any = None
        for place, url in self.places:
            ready(url)
            seen = program(url)
            if expected is None:
                assert seen, f"{program} saw nothing"
                expected = seen
            assert seen == expected, f"through {place}"
        return expected

    def hits(self) -> int:
        """How many answers came from the cache so far."""
        return int(self.caching.running.cache_statistics()["hits"])


@contextlib.contextmanager
def stage_on(server: Postgres, *tables: str) -> Iterator[Stage]:
    """A new database and proxies to it. The cache may answer what reads `tables` only."""
    direct = server.create_database()
    everything = {"allow": [{"name": "all", "tables": [*TABLES, *tables], "ttl": "60s"}]}
    with proxy_to(direct) as watching, proxy_to(direct, cache=everything) as caching:
        yield Stage(server, direct, watching, caching)
    server.drop_database(direct)
