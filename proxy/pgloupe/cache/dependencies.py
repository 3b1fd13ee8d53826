"""Which versions a write raises and which a read depends on, from the server's own catalogs.

The text of a statement does not tell it: a view reads tables, a trigger writes them, a foreign key cascades, a partition is
its parent. So a connection of our own reads the catalogs (see `catalog`) when it is first needed, after whatever may have
been DDL (the schema token moved, here or in another proxy), when a table is unknown, and every `refresh_s` for DDL that
went past us. When that connection is lost the server may have been started again, which empties unlogged tables, or it may be
another one that knows less: nothing is read from the cache then until there is a new connection and everything was raised.

Modes, told by `mode`:

`catalog`     The graph is in force: writes raise the tables they reach, reads depend on what they reach.
`refreshing`  The graph is out of date and another is on its way: writes raise everything, nothing is read from the cache.
`coarse`      No graph can be had (no URL, no connection, another database than the catalog's): every write raises everything,
              which is right whatever views, triggers and cascades there are, and reads depend on the epoch and on their own
              tables. Foreign tables, temporary tables, row-level security, functions inside of views and code of
              users behind operators, casts and columns (see `suspects`) cannot be seen then: a rule that allows such a
              table gets answers as old as its ttl.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import asyncpg

from pgloupe.cache.catalog import QUERIES, Graph, build_graph, version_name, version_names
from pgloupe_rules.mentions import CLOCK_CAST, mentions
from pgloupe_rules.types import Template

log: Final = logging.getLogger("pgloupe.cache")

_ROLE: Final = re.compile(r"[\"']?([A-Za-z_][A-Za-z0-9_]*)[\"']?")
"""A role in a form that has no second reading."""
_MEMO_LIMIT: Final = 4096
_RETRY_S: Final = 5.0
"""How soon a catalog that could not be read is asked for again."""
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
        self._personal: set[str] = set()
        self._started = ""
        self._connected_anew = False
        self._defaults: object = None
        self._failed = url is None
        self._memo_reads: dict[tuple[str, ...], tuple[str, ...] | str] = {}
        self._memo_coarse: dict[tuple[str, ...], tuple[str, ...] | str] = {}
        self._memo_writes: dict[frozenset[str], frozenset[str] | None] = {}
        self.refresh_s = refresh_s
        self.refreshed_s = float("-inf")
        """When the last attempt to refresh ended."""
        self.schema: object = None
        """The schema token under which the graph was read."""
        self.identity = ""
        """Which server the catalogs were read from, and in what state: when it was started, to the microsecond, and the digest
        of the graph. "" while nobody knows."""
        self.on_defaults: Callable[[], None] | None = None
        """Called where roles have other settings than at the last refresh."""
        self.on_steady: Callable[[float], None] | None = None
        """Called where they have the same, with the time by `clock` at which that was so."""
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
        pause_s = min(self.refresh_s, _RETRY_S) if self._failed else self.refresh_s
        return self.configured and self._clock() - self.refreshed_s >= pause_s

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

    def impersonal(self, user: str, roles: Iterable[str], database: str) -> bool:
        """This user and these roles (as SET wrote them) have never been seen to have a schema of their name or settings of
        their own, so a statement means the same for all such. False where that is not known."""
        if self._graph is None or not self.covers(database) or user.lower() in self._personal:
            return False
        for role in roles:
            name = _ROLE.fullmatch(role)
            if name is None or name.group(1).lower() in self._personal:
                return False
        return True

    def never(self, table: str) -> str:
        """Why a read of this table, as a rule names it, is never stored; "" where it may be, or where nobody knows."""
        if self._graph is None:
            return ""
        found = self.reads((table,))
        if not isinstance(found, str):
            return ""
        # somebody's temporary table hides the other one for as long as it is there
        passing = found == "temporary table" and version_name(table) not in self._graph.passing
        return "" if passing else found

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

    def changes(self, tables: frozenset[str], database: str = "") -> frozenset[str] | None:
        """The version names that changed rows of exactly these tables raise; None for everything. Names are without schemas,
        as the catalogs have them. What triggers and cascades did is not followed: whoever saw these rows sees those too."""
        if self._graph is None or not self.covers(database):
            return None
        found = self._graph.changes(tables)
        return found if found is None or len(found) <= _NAMES_LIMIT else None

    def reads(
        self,
        tables: tuple[str, ...],
        functions: Iterable[str] = (),
        database: str = "",
        template: Template | None = None,
    ) -> tuple[str, ...] | str:
        """The version names that a read of these tables depends on, sorted; or, as text, why it is not stored.

        `functions` are the names that it calls: one that a user defined too, and did not declare IMMUTABLE, could be meant.
        So could other code of a user's by what the `template` mentions besides.
        """
        graph = self._graph
        if graph is None:
            if not self._failed:
                return "dependencies are being read"
        elif database and database != graph.database:
            graph = None
        elif graph.shadowing and any(name.rpartition(".")[2] in graph.shadowing for name in functions):
            return "a user-defined function has this name"
        if template is not None:
            why = _suspected(graph, template)
            if why:
                return why
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

    def may_write(self, text: str, database: str = "") -> bool:
        """A statement with a template of this text may write anything, by code of a user's that it mentions without calling
        a function by its name."""
        graph = self._graph
        if graph is None or not self.covers(database):
            return False
        suspects = graph.suspects
        return suspects.always_writes or (
            bool(suspects.writes) and not suspects.writes.isdisjoint(mentions(text).names)
        )

    async def refresh(self, schema: object = None) -> bool:
        """Read the catalogs now. `schema` is the token that was in force before: the graph holds for that one.

        True if the graph differs from the last one. Without a connection the mode is coarse. Raises nothing but
        cancellation.
        """
        if self._url is None:
            return False
        graph: Graph | None = None
        started_s = self._clock()
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(
                        self._url,
                        statement_cache_size=0,
                        server_settings={"application_name": "pgloupe"},
                        **self._connect,
                    )
                    self._started = str(await self._connection.fetchval("SELECT pg_catalog.pg_postmaster_start_time()"))
                    self._connected_anew = self._last is not None or self.refreshes > 0
                    self._connection.add_termination_listener(self._lost)
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
        changed = graph != self._last or self._connected_anew
        if graph is not None:
            self._connected_anew = False
            self.identity = f"{self._started} {graph.digest}"
        self._memo_reads.clear()
        self._memo_writes.clear()
        if graph is not None:
            # sessions that are open may have begun with settings that are gone by now
            self._personal |= graph.personal
            if self.refreshes and graph.defaults != self._defaults:
                if self.on_defaults is not None:
                    self.on_defaults()
            elif self.on_steady is not None:
                self.on_steady(started_s)
            self._defaults = graph.defaults
        self._graph = self._last = graph
        self._failed = graph is None
        self.schema = schema
        self.refreshes += 1
        self.refreshed_s = self._clock()
        return changed

    async def fetch(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Rows of a query of the caller's, over the connection of the last refresh; [] where there is none."""
        if self._connection is None:
            return []
        return [tuple(row) for row in await self._connection.fetch(query, *arguments)]

    async def close(self) -> None:
        """End the connection to the catalogs."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            try:
                await connection.close(timeout=1.0)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                connection.terminate()

    def _lost(self, connection: object) -> None:
        if connection is self._connection:
            self._connection = None
            self.invalidate()
            self.refreshed_s = float("-inf")

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()


def _suspected(graph: Graph | None, template: Template) -> str:
    if graph is None:
        return CLOCK_CAST if mentions(template.text).timed else ""
    suspects = graph.suspects
    if suspects.never_read:
        return suspects.never_read
    found = mentions(template.text)
    if not suspects.reads.isdisjoint(found.names):
        return "mentions code of a user's that is not known to be immutable"
    return "" if found.timed <= suspects.timed else CLOCK_CAST
