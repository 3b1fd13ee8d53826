"""The cache as the data plane sees it: look up, fill, and the marks of writes.

With memory alone every call is synchronous. With Redis a call gives a future where Redis has to be asked; the future always
has a result within the time limit, and what it does happens whether or not anybody waits for it. Nothing here raises.

With Redis configured, an entry in memory saves the transfer but not the question: other proxies write too, so each hit
asks for the versions, in the same round trip that would fetch the entry. While Redis is not usable nothing is answered from
the cache at all, writes go on, and a write that could not be announced is a debt: the epoch is raised before Redis is used
again.

The caller's part: `begin_write` before a write is handed to the server, and wait for its result; `end_write` after the
commit was answered and before the client sees that, `lose_write` where the answer never came, `abandon` after a rollback;
`lookup` when the read could be handed over, and `fill` with the ticket of that lookup only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from pgloupe.cache.dependencies import Dependencies
from pgloupe.cache.entry import Entry
from pgloupe.cache.invalidation import LEASE_S, Mark, Versions
from pgloupe.cache.memory import Memory, Slot
from pgloupe.cache.shared import Shared

log: Final = logging.getLogger("pgloupe.cache")

_REFRESH_PAUSE_S: Final = 0.2
_RULES_LIMIT: Final = 4096
NONE: Final[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Read:
    """A read that may be answered: `key` by `key.cache_key`, the rest from the rule that allows it."""

    key: bytes
    tables: tuple[str, ...]
    """As the shape gives them: `name` or `schema.name`."""
    rule: str
    ttl_s: float
    max_entry_bytes: int
    functions: tuple[str, ...] = ()
    """Names of the functions called, as the shape gives them."""
    database: str = ""
    """Where it is asked; "" stands for the database of the catalog connection."""


class Ticket:
    """Leave to store the answer of one read, under the versions that were in force when it was looked up."""

    __slots__ = ("names", "read", "started_s", "versions")

    def __init__(self, read: Read, names: tuple[str, ...], versions: object, started_s: float) -> None:
        self.read = read
        self.names = names
        self.versions = versions
        self.started_s = started_s


@dataclass(frozen=True, slots=True)
class Answer:
    """`entry` is the answer; else ask the server, and `fill` if there is a `ticket`. `reason` says why there is neither."""

    entry: Entry | None
    ticket: Ticket | None = None
    reason: str = ""


class Cache:
    """Memory, Redis (where `redis_url` is given), versions and dependencies in one.

    `memory_bytes` bounds the entries in this process. `redis_timeout_s` bounds what a call may wait for Redis,
    `redis_retry_s` is the pause between attempts to reach it, `lease_s` how long a mark holds that nobody takes off.
    `member_lease_s` bounds how long the answer to a write is held that other proxies could not be told of (0: never held,
    and other proxies may answer from before it until this one reaches Redis again); `forget_s` is how long the others
    wait for a proxy that vanished without a word. Both as in `shared`.
    `clock` is monotonic, in seconds. Without `dependencies` the mode is coarse. Raises ValueError for a `redis_url` that is
    not one.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        redis_url: str | None = None,
        dependencies: Dependencies | None = None,
        redis_timeout_s: float = 0.05,
        redis_retry_s: float = 1.0,
        namespace: str = "pgloupe",
        lease_s: float = LEASE_S,
        member_lease_s: float = 1.0,
        forget_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._memory = Memory(memory_bytes)
        self._versions = Versions(clock, lease_s)
        self.dependencies = dependencies if dependencies is not None else Dependencies(None, clock=clock)
        self._shared: Shared | None = None
        if redis_url is not None:
            self._shared = Shared(
                redis_url,
                namespace=namespace,
                timeout_s=redis_timeout_s,
                retry_s=redis_retry_s,
                lease_s=lease_s,
                member_lease_s=member_lease_s,
                forget_s=forget_s,
                escalate=lambda mark: self._versions.begin(mark, (), True, False),
                on_raised=self._memory.clear,
            )
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")
        self._rules: dict[str, dict[str, int]] = {}
        self._counts: dict[str, int] = dict.fromkeys(
            ("hits", "memory_hits", "redis_hits", "misses", "bypasses", "fills", "fills_refused", "writes"), 0
        )

    async def start(self) -> None:
        """Connect to Redis and read the catalogs, waiting a few seconds at most. Neither need be there."""
        if self._shared is not None:
            await self._shared.start()
        await self._refresh()

    async def stop(self) -> None:
        """Close the connections. Marks that are still on stay in Redis until their leases end."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.gather(self._refreshing, return_exceptions=True)
            self._refreshing = None
        if self._shared is not None:
            await self._shared.stop()
        await self.dependencies.close()
        self._memory.clear()

    @property
    def redis_up(self) -> bool:
        """Redis is configured and usable now."""
        return self._shared is not None and self._shared.up

    async def wait_redis(self, limit_s: float) -> bool:
        """Wait until Redis is usable; False if it takes longer or is not configured."""
        return self._shared is not None and await self._shared.wait_up(limit_s)

    # -- reads

    def lookup(self, read: Read) -> Answer | Awaitable[Answer]:
        """The answer of a read that may be handed to the server now, or leave to store it. Synchronous without Redis."""
        if self.dependencies.due():
            self._want_refresh()
        names = self.dependencies.reads(read.tables, read.functions, read.database)
        if isinstance(names, str):
            return self._bypass(read, names)
        schema = self.dependencies.schema if self.dependencies.covers(read.database) else None
        if self._versions.dirty(names):
            return self._bypass(read, "write under way")
        started_s = self._clock()
        slot = self._memory.get(read.key)
        if slot is not None and started_s - slot.started_s >= read.ttl_s:
            slot = None
        shared = self._shared
        if shared is None:
            if schema is not None and schema != self._versions.schema:
                return self._outdated(read)
            versions = self._versions.current(names)
            if slot is not None and slot.versions == versions:
                return self._hit(read, slot, "memory_hits")
            return self._miss(read, names, versions, started_s)
        if not shared.up:
            return self._bypass(read, "redis is not usable")

        def finish(reply: Any) -> Answer:
            return self._looked_up(read, names, schema, slot, started_s, reply)

        return shared.lookup(
            finish, read.key, names, slot.versions if slot is not None else b"", int(read.ttl_s * 1000)
        )

    def _looked_up(
        self, read: Read, names: tuple[str, ...], schema: object, slot: Slot | None, started_s: float, reply: Any
    ) -> Answer:
        if reply is None:
            return self._bypass(read, "redis is not usable")
        kind, versions = reply[0], reply[1]
        if schema is not None and schema != Shared.schema_of(versions):
            return self._outdated(read)
        if kind == 0:
            return self._bypass(read, "write under way")
        if kind == 4:
            return self._bypass(read, "another proxy is out of touch")
        if kind == 1 and slot is not None:
            return self._hit(read, slot, "memory_hits")
        if kind == 3:
            entry = Entry.from_bytes(reply[3])
            if entry is not None:
                since_s = self._clock() - max(0, reply[2]) / 1000
                self._memory.put(read.key, entry, versions, since_s, len(versions))
                self._count(read.rule, "hits")
                self._counts["redis_hits"] += 1
                return Answer(entry)
        return self._miss(read, names, versions, started_s)

    def fill(self, ticket: Ticket, entry: Entry) -> None:
        """Store the answer of the ticket's read. Refused where a write came in between, or it is too large."""
        read = ticket.read
        if entry.size_bytes > read.max_entry_bytes:
            self._refuse(read, "too large")
            return
        elapsed_s = max(0.0, self._clock() - ticket.started_s)
        if elapsed_s >= read.ttl_s:
            self._refuse(read, "slower than its ttl")
            return
        shared = self._shared
        if shared is None:
            if self._versions.current(ticket.names) != ticket.versions:
                self._refuse(read, "written meanwhile")
                return
            self._store(ticket, entry, 8 * len(ticket.names))
            return
        if not shared.up or not isinstance(ticket.versions, bytes):
            self._refuse(read, "redis is not usable")
            return

        def finish(reply: Any) -> None:
            if reply == 0:
                slot = self._memory.get(read.key)
                if slot is not None and slot.entry is entry:
                    self._memory.remove(read.key)
                self._refuse(read, "written meanwhile")
            elif reply == 1:
                self._count(read.rule, "fills")

        if shared.fill(
            finish, read.key, ticket.names, ticket.versions, entry, int(read.ttl_s * 1000), int(elapsed_s * 1000)
        ):
            # safe before Redis has agreed: it is asked for these versions at each lookup
            self._memory.put(read.key, entry, ticket.versions, ticket.started_s, len(ticket.versions))
        else:
            self._refuse(read, "too many fills under way")

    def _store(self, ticket: Ticket, entry: Entry, versions_bytes: int) -> None:
        if self._memory.put(ticket.read.key, entry, ticket.versions, ticket.started_s, versions_bytes):
            self._count(ticket.read.rule, "fills")
        else:
            self._refuse(ticket.read, "too large")

    # -- writes

    def begin_write(
        self, tables: frozenset[str] | None, functions: frozenset[str] = NONE, database: str = ""
    ) -> Mark | Awaitable[Mark]:
        """A write of these tables (None: of anything) is about to be handed to the server.

        `functions` are those it calls that are not known to be harmless: unless the catalogs say that they write nothing, it
        may write anything. Dirty in this process when this returns, in Redis when the future is done.
        """
        mark = Mark()
        self._counts["writes"] += 1
        return self._begin(mark, tables, functions, database)

    def extend(
        self, mark: Mark, tables: frozenset[str] | None, functions: frozenset[str] = NONE, database: str = ""
    ) -> Mark | Awaitable[Mark]:
        """The same transaction is about to write these too."""
        if not mark.open:
            return mark
        return self._begin(mark, tables, functions, database)

    def _begin(
        self, mark: Mark, tables: frozenset[str] | None, functions: frozenset[str], database: str
    ) -> Mark | Awaitable[Mark]:
        if functions and not self.dependencies.harmless(functions, database):
            tables = None
        if tables is None:
            added = self._versions.begin(mark, (), True, True)
        elif not tables:
            return mark
        else:
            names = self.dependencies.writes(tables, database)
            schema = self.dependencies.schema
            if names is None or mark.known_schema not in (None, schema):
                added = self._versions.begin(mark, names or (), True, False)
            else:
                mark.known_schema = schema
                added = self._versions.begin(mark, names, False, False)
        if self._shared is None or not added:
            return mark
        return self._shared.begin(mark)

    def end_write(self, mark: Mark) -> Awaitable[None] | None:
        """The commit was answered: raise the versions and take the mark off. The client hears of it after this is done."""
        return self._close(mark, self._versions.end, lost=False)

    def lose_write(self, mark: Mark) -> Awaitable[None] | None:
        """Nobody will know what became of the write: raise now and once more when the lease ends, dirty until then."""
        return self._close(mark, self._versions.lose, lost=True)

    def abandon(self, mark: Mark) -> Awaitable[None] | None:
        """The write was surely rolled back: take the mark off, everything stays valid."""
        if not mark.open:
            return None
        if self._shared is None or not self._shared.owns(mark):
            self._versions.abandon(mark)
            return None
        return self._shared.abandon(mark, lambda: self._versions.abandon(mark))

    def _close(self, mark: Mark, local: Callable[[Mark], None], lost: bool) -> Awaitable[None] | None:
        if not mark.open:
            return None
        if not mark.names and not mark.everything:
            mark.open = False
            return None
        if mark.schema:
            self.dependencies.invalidate()
        if self._shared is None:
            local(mark)
            if mark.schema:
                self._want_refresh()
            return None

        def done() -> None:
            local(mark)
            if mark.schema:
                self._want_refresh()

        return self._shared.end(mark, done, lost)

    # -- dependencies

    def _outdated(self, read: Read) -> Answer:
        self.dependencies.invalidate()
        self._want_refresh()
        return self._bypass(read, "dependencies are being read")

    def _want_refresh(self) -> None:
        """Read the catalogs in the background, once at a time."""
        if not self.dependencies.configured or self._refreshing is not None:
            return
        try:
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_soon(), name="pgloupe-catalog")
        except RuntimeError:  # no loop runs: somebody uses the cache by hand
            return

    async def _refresh_soon(self) -> None:
        try:
            wait_s = self._refreshed_s + _REFRESH_PAUSE_S - self._clock()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, _REFRESH_PAUSE_S))
            await self._refresh()
        finally:
            self._refreshing = None

    async def _refresh(self) -> None:
        """The token first, then the catalogs: DDL in between makes the graph out of date, not wrong."""
        if not self.dependencies.configured:
            return
        schema: object = self._versions.schema
        if self._shared is not None:
            schema = await self._shared.schema()
        before = self.dependencies.schema
        changed = await self.dependencies.refresh(schema)
        self._refreshed_s = self._clock()
        if changed and schema == before:
            # somebody changed it without us: what is stored may be of a view that is another one by now
            self._versions.raise_everything(False)
            self._memory.clear()
            if self._shared is not None:
                await self._shared.raise_everything()

    # -- figures

    def _hit(self, read: Read, slot: Slot, counter: str) -> Answer:
        self._memory.touch(slot)
        self._count(read.rule, "hits")
        self._counts[counter] += 1
        return Answer(slot.entry)

    def _miss(self, read: Read, names: tuple[str, ...], versions: object, started_s: float) -> Answer:
        self._count(read.rule, "misses")
        return Answer(None, Ticket(read, names, versions, started_s))

    def _bypass(self, read: Read, reason: str) -> Answer:
        self.count_bypass(read.rule, reason)
        return Answer(None, None, reason)

    def _refuse(self, read: Read, reason: str) -> None:
        self._count(read.rule, "fills_refused")
        self._add(read.rule, "not stored: " + reason)

    def _count(self, rule: str, what: str) -> None:
        self._counts[what] += 1
        self._add(rule, what)

    def _add(self, rule: str, what: str) -> None:
        counts = self._rules.get(rule)
        if counts is None:
            if len(self._rules) >= _RULES_LIMIT:
                return
            counts = self._rules[rule] = {}
        counts[what] = counts.get(what, 0) + 1

    def count_bypass(self, rule: str, reason: str) -> None:
        """A read that the rule allows went to the server without being looked up. `reason` is one of few fixed texts."""
        self._counts["bypasses"] += 1
        self._add(rule, "bypass: " + reason)

    def rule_statistics(self) -> dict[str, dict[str, int]]:
        """For each rule: hits, misses, fills, fills_refused, `bypass: REASON` and `not stored: REASON`."""
        return {rule: dict(counts) for rule, counts in self._rules.items()}

    def statistics(self) -> dict[str, int | float]:
        """Counts since the start, and what is kept now (`bytes`, `entries`)."""
        shared = self._shared
        return {
            **self._counts,
            "evictions": self._memory.evictions,
            "bytes": self._memory.bytes,
            "entries": len(self._memory),
            "invalidations": self._versions.raised,
            "redis_errors": shared.errors if shared is not None else 0,
            "redis_up": int(self.redis_up),
            "catalog_refreshes": self.dependencies.refreshes,
        }
