"""Which versions a write raises and which a read depends on, from the server's own catalogs.

The text of a statement does not tell it: a view reads tables, a trigger writes them, a foreign key cascades, a partition is
its parent. So a connection of our own reads the catalogs (see `catalog`) when it is first needed, after whatever may have
been DDL (the schema token moved, here or in another proxy), when a table is unknown, and every `refresh_s` for DDL that
went past us.

Modes, told by `mode`:

`catalog`     The graph is in force: writes raise the tables they reach, reads depend on what they reach.
`refreshing`  The graph is out of date and another is on its way: writes raise everything, nothing is read from the cache.
`coarse`      No graph can be had (no URL, no connection, another database than the catalog's): every write raises everything,
              which is right whatever views, triggers and cascades there are, and reads depend on the epoch and on their own
              tables. Foreign tables, temporary tables, row-level security and functions inside of views cannot be seen
              then: a rule that allows such a table gets answers as old as its ttl.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg

from pgloupe.cache.catalog import QUERIES, Graph, build_graph, version_names

log: Final = logging.getLogger("pgloupe.cache")

_MEMO_LIMIT: Final = 4096
_NAMES_LIMIT: Final = 256
"""A write that reaches more raises everything, a read that reaches more is not stored: each name costs at each lookup."""


class Dependencies:
    """The graph of one database, kept up to date by `Cache`.

    `url` is that of the server itself (libpq form), or None for coarse mode. `connect` keyword arguments go to
    asyncpg.connect (ssl, password …).
    """

    def __init__(
        self,
        url: str | None,
        *,
        refresh_s: float = 30.0,
        timeout_s: float = 5.0,
        connect: dict[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._connect = connect or {}
        self._timeout_s = timeout_s
        self._clock = clock
        self._connection: Any = None
        self._graph: Graph | None = None
        self._last: Graph | None = None
        self._failed = url is None
        self._memo_reads: dict[tuple[str, ...], tuple[str, ...] | str] = {}
        self._memo_coarse: dict[tuple[str, ...], tuple[str, ...] | str] = {}
        self._memo_writes: dict[frozenset[str], frozenset[str] | None] = {}
        self.refresh_s = refresh_s
        self.refreshed_s = float("-inf")
        """When the last attempt to refresh ended."""
        self.schema: object = None
        """The schema token under which the graph was read."""
        self.refreshes = 0
        self.last_error = ""

    @property
    def mode(self) -> str:
        """`catalog`, `refreshing` or `coarse`."""
        if self._graph is not None:
            return "catalog"
        return "coarse" if self._failed else "refreshing"

    @property
    def configured(self) -> bool:
        """There is a catalog to ask."""
        return self._url is not None

    @property
    def database(self) -> str:
        """The database that the graph describes; "" while there is none."""
        return self._graph.database if self._graph is not None else ""

    def due(self) -> bool:
        """DDL that went past us may be older than `refresh_s`, or there is no graph."""
        return self.configured and self._clock() - self.refreshed_s >= self.refresh_s

    def invalidate(self) -> None:
        """The graph is out of date."""
        if self._graph is not None:
            self._graph = None
            self._memo_reads.clear()
            self._memo_writes.clear()

    def covers(self, database: str) -> bool:
        """The graph describes this database ("" stands for the graph's own)."""
        return self._graph is not None and (not database or database == self._graph.database)

    def read_committed(self, database: str) -> bool:
        """Sessions of this database surely begin with READ COMMITTED as their default."""
        return self._graph is not None and self.covers(database) and self._graph.read_committed

    def writes(self, tables: frozenset[str] | None, database: str = "") -> frozenset[str] | None:
        """The version names that a write of these tables raises; None for everything."""
        if tables is None or self._graph is None or not self.covers(database):
            return None
        try:
            return self._memo_writes[tables]
        except KeyError:
            pass
        names = version_names(tables)
        found = self._graph.writes(names) if names is not None else None
        if found is not None and len(found) > _NAMES_LIMIT:
            found = None
        if len(self._memo_writes) >= _MEMO_LIMIT:
            self._memo_writes.clear()
        self._memo_writes[tables] = found
        return found

    def reads(
        self, tables: tuple[str, ...], functions: Iterable[str] = (), database: str = ""
    ) -> tuple[str, ...] | str:
        """The version names that a read of these tables depends on, sorted; or, as text, why it is not stored.

        `functions` are the names that it calls: one that a user defined too, and did not declare IMMUTABLE, could be meant.
        """
        graph = self._graph
        if graph is None:
            if not self._failed:
                return "dependencies are being read"
        elif database and database != graph.database:
            graph = None
        elif graph.shadowing and any(name.rpartition(".")[2] in graph.shadowing for name in functions):
            return "a user-defined function has this name"
        memo = self._memo_coarse if graph is None else self._memo_reads
        answer = memo.get(tables)
        if answer is None:
            answer = self._depends(tables, graph)
            if len(memo) >= _MEMO_LIMIT:
                memo.clear()
            memo[tables] = answer
        return answer

    @staticmethod
    def _depends(tables: tuple[str, ...], graph: Graph | None) -> tuple[str, ...] | str:
        names = version_names(tables)
        if not names:
            return "table name"
        found = names if graph is None else graph.reads(names)
        if isinstance(found, str):
            return found
        return tuple(sorted(found)) if len(found) <= _NAMES_LIMIT else "too many tables"

    def harmless(self, functions: Iterable[str], database: str = "") -> bool:
        """All of these are functions that a user defined and declared IMMUTABLE or STABLE in each of their forms."""
        graph = self._graph
        if graph is None or not self.covers(database):
            return False
        return all(name.rpartition(".")[2] in graph.harmless for name in functions)

    async def refresh(self, schema: object = None) -> bool:
        """Read the catalogs now. `schema` is the token that was in force before: the graph holds for that one.

        True if the graph differs from the last one. Without a connection the mode is coarse. Raises nothing but
        cancellation.
        """
        if self._url is None:
            return False
        graph: Graph | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self._url,
                        statement_cache_size=0,
                        server_settings={"application_name": "pgloupe"},
                        **self._connect,
                    )
                results = []
                async with self._connection.transaction(isolation="repeatable_read", readonly=True):
                    for query in QUERIES:
                        results.append([tuple(row) for row in await self._connection.fetch(query)])
            graph = build_graph(results)
            self.last_error = "" if graph is not None else "too many relations"
        except (
            Exception
        ) as error:  # a URL, a certificate, the network, the server: without catalogs we go on in any case
            self.last_error = f"{type(error).__name__}: {error}"
            self._drop()
        if graph is None and not self._failed:
            log.warning("the catalogs cannot be read (%s): every write invalidates every answer", self.last_error)
        changed = graph != self._last
        self._memo_reads.clear()
        self._memo_writes.clear()
        self._graph = self._last = graph
        self._failed = graph is None
        self.schema = schema
        self.refreshes += 1
        self.refreshed_s = self._clock()
        return changed

    async def close(self) -> None:
        """End the connection to the catalogs."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1.0)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()
