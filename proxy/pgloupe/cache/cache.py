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
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from pgloupe.cache.answers import Answer, Read, Ticket
from pgloupe.cache.dependencies import Dependencies
from pgloupe.cache.entry import COMPRESS_BYTES, Entry
from pgloupe.cache.figures import Figures
from pgloupe.cache.flights import FIRST_PAUSE_S, LAST_PAUSE_S, Flight, Flights
from pgloupe.cache.invalidation import LEASE_S, Mark, Versions
from pgloupe.cache.key import digest
from pgloupe.cache.memory import Memory, Slot
from pgloupe.cache.shared import Shared
from pgloupe.cache.stream import ChangeStream
from pgloupe_rules.types import Outcome, Template

log: Final = logging.getLogger("pgloupe.cache")

_REFRESH_PAUSE_S: Final = 0.2
_REFRESH_PAUSE_MOST_S: Final = 5.0
_REFRESH_SHARE: Final = 5.0
"""Between two readings of the catalogs so many times as long as the last one took passes, within these bounds."""
REFRESH_AT: Final = 0.9
"""From this part of its ttl on one reader of an answer that is asked for often asks the server for a new one, so that those
who come when it has ended need not wait."""
_OFTEN: Final = 2
NONE: Final[frozenset[str]] = frozenset()
NO_STREAM: Final[dict[str, int | float]] = dict.fromkeys(ChangeStream.FIGURES, 0)


class Cache:
    """Memory, Redis (where `redis_url` is given), versions and dependencies in one.

    `memory_bytes` bounds the entries in this process. `redis_timeout_s` bounds what a call may wait for Redis,
    `redis_retry_s` is the pause between attempts to reach it, `lease_s` how long a mark holds that nobody takes off.
    `member_lease_s` bounds how long the answer to a write is held that other proxies could not be told of (0: never held,
    and other proxies may answer from before it until this one reaches Redis again); `forget_s` is how long the others
    wait for a proxy that vanished without a word. Both as in `shared`. `wait_s` is how long a reader waits at most for the
    answer that another one has asked the server for (see `flights`). `change_stream` shows writes that go past every proxy;
    `need_stream` names the rules that give no answers while it is not live.
    Entries of `redis_compress_bytes` and more are compressed in Redis (0: none). Proxies with another `namespace` share
    nothing. `clock` is monotonic, in seconds. Without `dependencies` the mode is coarse. Raises ValueError for a `redis_url` that is
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
        redis_compress_bytes: int = COMPRESS_BYTES,
        namespace: str = "",
        lease_s: float = LEASE_S,
        member_lease_s: float = 1.0,
        forget_s: float = 30.0,
        wait_s: float = 1.0,
        change_stream: ChangeStream | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._flights = Flights(wait_s)
        self._memory = Memory(memory_bytes)
        self._versions = Versions(clock, lease_s)
        self.dependencies = dependencies if dependencies is not None else Dependencies(None, clock=clock)
        self._shared: Shared | None = None
        self._own_identity = "" if namespace or redis_url is None else os.urandom(16).hex()
        if redis_url is not None:
            self._shared = Shared(
                redis_url,
                namespace=namespace,
                timeout_s=redis_timeout_s,
                retry_s=redis_retry_s,
                lease_s=lease_s,
                member_lease_s=member_lease_s,
                forget_s=forget_s,
                compress_bytes=redis_compress_bytes,
                escalate=lambda mark: self._versions.begin(mark, (), True, False),
                on_raised=self._memory.clear,
            )
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_s = float("-inf")
        self._refresh_took_s = 0.0
        self._figures = Figures()
        self._stream = change_stream
        self.need_stream = NONE

    async def start(self) -> None:
        """Connect to Redis and read the catalogs, waiting a few seconds at most. Neither need be there."""
        if self._shared is not None:
            await self._shared.start()
        await self._refresh()
        if self._stream is not None:
            await self._stream.start(self.changed)

    async def stop(self) -> None:
        """Close the connections. Marks that are still on stay in Redis until their leases end."""
        if self._stream is not None:
            await self._stream.stop()
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

    @property
    def server_identity(self) -> str:
        """Which PostgreSQL server this is, for keys: two of them may have the same address, such as 127.0.0.1 on two
        machines. Where the server does not tell and no namespace was chosen, it is one of this process alone."""
        return self.dependencies.identity or self._own_identity

    async def wait_redis(self, limit_s: float) -> bool:
        """Wait until Redis is usable; False if it takes longer or is not configured."""
        return self._shared is not None and await self._shared.wait_up(limit_s)

    # -- reads

    def lookup(self, read: Read, owner: object = None) -> Answer | Awaitable[Answer]:
        """The answer of a read that may be handed to the server now, or leave to store it. Synchronous without Redis, if
        nobody has asked the server for the same already. `owner` is who asks, for `hurry`."""
        found = self._attempt(read, True)
        if isinstance(found, Answer):
            return found
        return self._wait(read, found, owner)

    def hurry(self, owner: object) -> None:
        """Its client wants to cancel: if it waits for another reader's answer, it is to ask the server now."""
        self._flights.hurry(owner)

    async def _wait(self, read: Read, found: Answer | Flight | Awaitable[Answer | Flight], owner: object) -> Answer:
        """Where another reader has asked for the same, wait for its answer and look again."""
        loop = asyncio.get_running_loop()
        until_s: float | None = None
        pause_s = FIRST_PAUSE_S
        while not isinstance(found, Answer):
            if not isinstance(found, Flight):
                found = await found
                continue
            if until_s is None:
                until_s = loop.time() + self._flights.limit_s
                self._figures.count(read.rule, "waits", read.template)
            limit_s = until_s - loop.time()
            if found.elsewhere:
                limit_s = min(limit_s, pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            patient = await found.wait(limit_s, owner)
            found = self._attempt(read, patient and loop.time() < until_s)
        return found

    def _attempt(self, read: Read, may_wait: bool) -> Answer | Flight | Awaitable[Answer | Flight]:
        if read.rule in self.need_stream and (self._stream is None or not self._stream.live(read.database)):
            return self._bypass(read, "change stream is not live")
        if self.dependencies.due():
            self._want_refresh()
        names = self.dependencies.reads(read.tables, read.functions, read.database, read.template)
        if isinstance(names, str):
            return self._bypass(read, names)
        schema = self.dependencies.schema if self.dependencies.covers(read.database) else None
        if self._versions.dirty(names):
            return self._bypass(read, "write under way")
        now_s = self._clock()
        slot = self._memory.get(read.key)
        if slot is not None and now_s - slot.started_s >= read.ttl_s + read.stale_s:
            slot = None
        shared = self._shared
        if shared is None:
            if schema is not None and schema != self._versions.schema:
                return self._outdated(read)
            versions = self._versions.current(names)
            if slot is not None and slot.versions == versions and self._may_give(read, slot, versions, now_s):
                return self._hit(read, names, slot, now_s, "memory_hits")
            return self._miss(read, names, versions, now_s, may_wait)
        if not shared.up:
            return self._bypass(read, "redis is not usable")

        def finish(reply: Any) -> Answer | Flight:
            return self._looked_up(read, names, schema, slot, now_s, may_wait, reply)

        # past its ttl another proxy may have a newer one
        known = slot.versions if slot is not None and now_s - slot.started_s < read.ttl_s else b""
        life_ms = int((read.ttl_s + read.stale_s) * 1000)
        lead_ms = 0
        if may_wait and not read.dry_run and self._flights.may_begin(read.key, now_s):
            lead_ms = int(self._flights.limit_s * 1000)
        return shared.lookup(finish, read.key, names, known, life_ms, read.max_entry_bytes, lead_ms)

    def _looked_up(
        self,
        read: Read,
        names: tuple[str, ...],
        schema: object,
        slot: Slot | None,
        started_s: float,
        may_wait: bool,
        reply: Any,
    ) -> Answer | Flight:
        if reply is None:
            return self._bypass(read, "redis is not usable")
        kind, versions = reply[0], reply[1]
        if schema is not None and schema != Shared.schema_of(versions):
            return self._outdated(read)
        if kind == 0:
            return self._bypass(read, "write under way")
        if kind == 4:
            return self._bypass(read, "another proxy is out of touch")
        if kind == 5:
            return self._flights.of(read.key) or self._flights.elsewhere(read.key, versions)
        counter = "memory_hits"
        if kind == 3:
            entry = Entry.from_bytes(reply[3], read.max_entry_bytes)
            slot = None
            if entry is not None:
                counter = "redis_hits"
                since_s = started_s - max(0, reply[2]) / 1000  # the reply may have been under way for a while
                slot = self._memory.put(read.key, entry, versions, since_s, len(versions))
                slot = slot or Slot(entry, versions, since_s, 0)
        if kind in (1, 3) and slot is not None and self._may_give(read, slot, versions, started_s):
            return self._hit(read, names, slot, started_s, counter)
        return self._miss(read, names, versions, started_s, may_wait)

    def _may_give(self, read: Read, slot: Slot, versions: object, now_s: float) -> bool:
        """Whether an answer of the right versions is given. Towards the end of its ttl, and beyond where the rule has
        `stale_while_revalidate`, one reader has to ask the server while the others are still given it."""
        age_s = now_s - slot.started_s
        if age_s < read.ttl_s * REFRESH_AT:
            return True
        flight = self._flights.of(read.key)
        asked = flight is not None and flight.versions == versions
        if age_s < read.ttl_s:
            if asked or read.dry_run or slot.frequency < _OFTEN or not self._flights.may_begin(read.key, now_s):
                return True
            self._figures.count(read.rule, "refreshes", read.template)
            return False
        return asked

    def fill(self, ticket: Ticket, entry: Entry) -> None:
        """Store the answer of the ticket's read. Refused where a write came in between, or it is too large."""
        read = ticket.read
        if entry.size_bytes > read.max_entry_bytes:
            self._refuse(ticket, "too large")
            return
        if read.dry_run:
            entry = Entry(b"", digest([entry.head, entry.body]), entry.rows, entry.server_s)
            if ticket.expected is not None:
                self._compare(ticket, entry, ticket.expected)
                return
        elapsed_s = max(0.0, self._clock() - ticket.started_s)
        if elapsed_s >= read.ttl_s:
            self._refuse(ticket, "slower than its ttl")
            return
        shared = self._shared
        if shared is None:
            if self._versions.current(ticket.names) != ticket.versions:
                self._refuse(ticket, "written meanwhile")
            elif self._memory.put(read.key, entry, ticket.versions, ticket.started_s, 8 * len(ticket.names)) is None:
                self._refuse(ticket, "too large")
            else:
                self._figures.count(read.rule, "fills", read.template)
                ticket.used()
            return
        if not shared.up or not isinstance(ticket.versions, bytes):
            self._refuse(ticket, "redis is not usable")
            return

        def finish(reply: Any) -> None:
            if reply == 0:
                slot = self._memory.get(read.key)
                if slot is not None and slot.entry is entry:
                    self._memory.remove(read.key)
                self._refuse(ticket, "written meanwhile")
            elif reply == 1:
                self._figures.count(read.rule, "fills", read.template)

        life_ms = int((read.ttl_s + read.stale_s) * 1000)
        if shared.fill(finish, read.key, ticket.names, ticket.versions, entry, life_ms, int(elapsed_s * 1000)):
            # safe before Redis has agreed: it is asked for these versions at each lookup
            kept = self._memory.put(read.key, entry, ticket.versions, ticket.started_s, len(ticket.versions))
            ticket.used(hopeless=kept is None)
        else:
            self._refuse(ticket, "too many fills under way")

    def _compare(self, ticket: Ticket, entry: Entry, expected: Entry) -> None:
        """Count a dry run's hit. It says something of the bytes only if no write came in between."""
        read, names, versions = ticket.read, ticket.names, ticket.versions

        def count(same_versions: bool) -> None:
            different = same_versions and entry.body != expected.body
            self._figures.compared(read.rule, read.template, entry.server_s, different=different)

        if self._shared is None:
            count(self._versions.current(names) == versions and not self._versions.dirty(names))
        elif not self._shared.up or self._versions.dirty(names):
            count(False)
        else:
            # asks for the versions only, since it has these
            self._shared.lookup(
                lambda reply: count(reply is not None and reply[0] == 1), read.key, names, versions, 1, 1
            )

    # -- writes

    def begin_write(
        self, tables: frozenset[str] | None, functions: frozenset[str] = NONE, database: str = ""
    ) -> Mark | Awaitable[Mark]:
        """A write of these tables (None: of anything) is about to be handed to the server.

        `functions` are those it calls that are not known to be harmless: unless the catalogs say that they write nothing, it
        may write anything. Dirty in this process when this returns, in Redis when the future is done.
        """
        mark = Mark()
        self._figures.totals["writes"] += 1
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

    async def changed(self, tables: frozenset[str] | None, database: str) -> None:
        """Somebody changed rows of exactly these tables (names without schemas; None: of any), and that is visible: raise
        what depends on them. Done when no proxy answers from before any more."""
        names = self.dependencies.changes(tables, database) if tables is not None else None
        if names is None:
            if tables is not None and self.dependencies.covers(database):
                self._want_refresh()  # a table that the catalogs did not have
            await self._raise_everything()
            return
        mark = Mark()
        mark.known_schema = self.dependencies.schema
        self._versions.begin(mark, names, False, False)
        ended = self._close(mark, self._versions.end, lost=False)
        if ended is not None:
            await ended

    async def _raise_everything(self) -> None:
        self._versions.raise_everything(False)
        self._memory.clear()
        if self._shared is not None:
            await self._shared.raise_everything()

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
            # where much DDL is done, reading the catalogs after each must not become all that is done
            pause_s = min(max(_REFRESH_PAUSE_S, _REFRESH_SHARE * self._refresh_took_s), _REFRESH_PAUSE_MOST_S)
            wait_s = self._refreshed_s + pause_s - self._clock()
            if wait_s > 0:
                await asyncio.sleep(min(wait_s, pause_s))
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
        began_s = self._clock()
        changed = await self.dependencies.refresh(schema)
        self._refreshed_s = self._clock()
        self._refresh_took_s = self._refreshed_s - began_s
        if changed and schema == before:
            # somebody changed it without us: what is stored may be of a view that is another one by now
            await self._raise_everything()

    # -- figures

    def _hit(self, read: Read, names: tuple[str, ...], slot: Slot, now_s: float, counter: str) -> Answer:
        self._memory.touch(slot)
        if read.dry_run:
            self._figures.add(read.rule, "dry_run_hits", read.template)
            return Answer(None, Ticket(read, names, slot.versions, now_s, None, slot.entry))
        self._figures.count(read.rule, "hits", read.template)
        self._figures.totals[counter] += 1
        if now_s - slot.started_s >= read.ttl_s:
            self._figures.count(read.rule, "stale_hits", read.template)
        age_s = max(0.0, now_s - slot.started_s)
        self._figures.served(read.rule, read.template, slot.entry.size_bytes, age_s)
        return Answer(slot.entry)

    def _miss(
        self, read: Read, names: tuple[str, ...], versions: object, started_s: float, may_wait: bool
    ) -> Answer | Flight:
        flight = self._flights.of(read.key)
        if may_wait and flight is not None and flight.versions == versions:
            return flight
        self._figures.count(read.rule, "misses", read.template)
        flight = None if read.dry_run else self._flights.begin(read.key, versions, started_s)
        return Answer(None, Ticket(read, names, versions, started_s, flight))

    def _bypass(self, read: Read, reason: str) -> Answer:
        self.count_bypass(read.rule, reason, read.template)
        return Answer(None, None, reason)

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        self._figures.refused(ticket.read.rule, reason, ticket.read.template)
        ticket.used(hopeless=reason != "written meanwhile")

    def count_bypass(self, rule: str, reason: str, template: Template | None = None) -> None:
        """A read that the rule names went to the server without being looked up. `reason` is one of few fixed texts."""
        self._figures.bypass(rule, reason, template)

    def count_refused(self, rule: str, reason: str, template: Template | None = None) -> None:
        """An answer was not one to be stored. `reason` is one of few fixed texts."""
        self._figures.refused(rule, reason, template)

    def timed(self, outcome: Outcome) -> None:
        """What became of a read for which the cache was asked: its times tell whether the rule pays."""
        self._figures.timed(outcome)

    def report(self, rules: Iterable[tuple[str, bool]]) -> dict[str, Any]:
        """The figures for a report; `rules` are the configured ones, by name and whether they are dry runs."""
        return {
            "redis": "none" if self._shared is None else "up" if self.redis_up else "down",
            "catalogs": self.dependencies.mode,
            "totals": self.statistics(),
            "rules": self._figures.to_list(rules),
        }

    def rule_statistics(self) -> dict[str, dict[str, int]]:
        """For each rule: hits, misses, fills, fills_refused, `bypass: REASON` and `not stored: REASON`."""
        return self._figures.by_rule()

    def statistics(self) -> dict[str, int | float | str]:
        """Counts since the start, what is kept now (`bytes`, `entries`), and `redis_state`: `up`, `trying`, `down`, or `none`
        where there is none."""
        shared = self._shared
        return {
            **self._figures.totals,
            **(self._stream.statistics() if self._stream is not None else NO_STREAM),
            "evictions": self._memory.evictions,
            "bytes": self._memory.bytes,
            "entries": len(self._memory),
            "invalidations": self._versions.raised,
            "redis_errors": shared.errors if shared is not None else 0,
            "redis_trials": shared.trials if shared is not None else 0,
            "redis_up": int(self.redis_up),
            "redis_state": shared.state if shared is not None else "none",
            "catalog_refreshes": self.dependencies.refreshes,
        }
