"""Reads tables, columns and foreign keys from the server, so that rules can tell what two columns have to do with each other.

The connection is our own, made when the first rows of a table of the application come by, in the background: no statement
ever waits for it, and where it fails the rules work without. It is closed as soon as the catalogs are read. They are read
again when a table turns up that they do not have, or when DDL went past; not more often than every `AGAIN_S` seconds,
and ever more seldom while reading fails or shows nothing new (a temporary table is unknown each time).

Every role may read these catalogs, whatever it may do with the tables themselves.

Source: documentation, "System Catalogs".
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final

import asyncpg

from pgloupe_rules.catalog import Catalog, Catalogs, ForeignKey, Table

log: Final = logging.getLogger("pgloupe.catalog")

AGAIN_S: Final = 10.0
"""Least time between two readings of a database, in seconds."""
FAILED_S: Final = 60.0
"""The same after a failure; twice as long after each further one."""
MOST_S: Final = 900.0
TIMEOUT_S: Final = 10.0
MAX_CONNECTIONS: Final = 2
"""At the same time."""
MAX_DATABASES: Final = 32
MAX_COLUMNS: Final = 200_000
"""A database with more columns is not read."""

# 16384 is FirstNormalObjectId: what has a lower OID came with the server
_TABLES: Final = """
SELECT c.oid, n.nspname, c.relname, array_agg(a.attnum ORDER BY a.attnum), array_agg(a.attname::text ORDER BY a.attnum),
  array_agg(pg_catalog.format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND c.relpersistence <> 't'
GROUP BY c.oid, n.nspname, c.relname
"""

_COUNT: Final = """
SELECT count(*) FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attnum > 0
"""

_FOREIGN_KEYS: Final = """
SELECT conrelid, conkey, confrelid, confkey FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conparentid = 0
"""

_KEYS: Final = """
SELECT indrelid, indkey[0]::int FROM pg_catalog.pg_index
WHERE indisprimary AND indnkeyatts = 1 AND indrelid >= 16384
"""


class _Reading:
    """When a database was read, and when it may be again."""

    __slots__ = ("not_before_s", "wait_s", "wanted")

    def __init__(self) -> None:
        self.wait_s = AGAIN_S
        self.not_before_s = float("-inf")
        self.wanted = False


class CatalogReader:
    """Fills `catalogs`. `url` is that of the server, or None where none can be asked; the database is replaced by the one
    that is wanted. `connect` keyword arguments go to asyncpg.connect; `spawn` runs a coroutine in the background."""

    def __init__(
        self,
        url: str | None,
        spawn: Callable[[Any], Any],
        *,
        connect: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._spawn = spawn
        self._connect = connect if connect is not None else {}
        self._clock = clock
        self._readings: dict[str, _Reading] = {}
        self._running: set[str] = set()
        self._closed = False
        self.catalogs = Catalogs(self.want)
        self.readings = 0
        """How often catalogs were read, failures included."""
        self.last_error = ""

    def want(self, database: str) -> None:
        """The catalogs of a database are missing or out of date: read them as soon as that may be."""
        if self._url is None or self._closed:
            return
        reading = self._readings.get(database)
        if reading is None:
            if len(self._readings) >= MAX_DATABASES:
                self._forget_one()
            reading = self._readings[database] = _Reading()
        else:  # the one that was wanted longest ago is the first to go
            del self._readings[database]
            self._readings[database] = reading
        reading.wanted = True
        self._begin(database, reading)

    def _forget_one(self) -> None:
        for database in self._readings:
            if database not in self._running:
                del self._readings[database]
                self.catalogs.drop(database)
                return

    def tick(self) -> None:
        """Begin the readings whose time has come. To be called about once a second."""
        for database, reading in list(self._readings.items()):
            if reading.wanted:
                self._begin(database, reading)

    def close(self) -> None:
        """Read no more. What is running is for whoever spawned it to end."""
        self._closed = True

    def _begin(self, database: str, reading: _Reading) -> None:
        if self._closed or database in self._running or self._clock() < reading.not_before_s:
            return
        if len(self._running) >= MAX_CONNECTIONS:
            return  # `tick` comes back to it
        reading.wanted = False
        self._running.add(database)
        self._spawn(self._read(database, reading))

    async def _read(self, database: str, reading: _Reading) -> None:
        before = self.catalogs.of(database)
        try:
            catalog = await self.read(database)
        except Exception as error:  # a URL, a certificate, the network, the server: the rules do without
            if not self.last_error:
                log.info("the catalogs cannot be read, so foreign keys are not known to the rules: %s", error)
            self.last_error = f"{type(error).__name__}: {error}"
            reading.wait_s = min(MOST_S, max(FAILED_S, reading.wait_s * 2))
        else:
            self.catalogs.put(database, catalog)
            news = before is None or catalog.tables != before.tables
            reading.wait_s = AGAIN_S if news else min(MOST_S, reading.wait_s * 2)
        finally:
            self.readings += 1
            self._running.discard(database)
            reading.not_before_s = self._clock() + reading.wait_s

    async def read(self, database: str) -> Catalog:
        """The catalogs of a database as they are now. Raises whatever the connection raises."""
        async with asyncio.timeout(TIMEOUT_S):
            connection = await asyncpg.connect(
                self._url,
                database=database,
                statement_cache_size=0,
                server_settings={"application_name": "pgloupe"},
                **self._connect,
            )
            try:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    if await connection.fetchval(_COUNT) > MAX_COLUMNS:
                        raise ValueError("the database has too many columns")
                    tables = await connection.fetch(_TABLES)
                    foreign_keys = await connection.fetch(_FOREIGN_KEYS)
                    keys = await connection.fetch(_KEYS)
            finally:
                connection.terminate()
        return Catalog(
            {
                row[0]: Table(
                    row[1], row[2], dict(zip(row[3], row[4], strict=True)), dict(zip(row[3], row[5], strict=True))
                )
                for row in tables
            },
            [ForeignKey(row[0], tuple(row[1]), row[2], tuple(row[3])) for row in foreign_keys],
            [(row[0], row[1]) for row in keys],
        )
