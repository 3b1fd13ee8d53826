"""One replication slot, read over SQL: which tables transactions changed since it was last asked.

The slot is a temporary one: it ends with our connection, so that a proxy which dies does not make the server keep WAL.

Only the names of tables leave the server. The statement that reads the slot cuts each line to its beginning, groups and
counts, so that a row of a gigabyte costs us nothing and a transaction of a million rows one line for each table.

Decoding follows the WAL, and the WAL is ahead of what others see: the record of a commit is there before the transaction
becomes visible, with synchronous replication long before. Whoever forgets an answer in between reads the old rows again,
for good. So what a transaction changed is held back until a snapshot taken after it was decoded shows it.

And it can be behind: a commit with `synchronous_commit = off` is visible before its record is on disk, and only what is on
disk is decoded. So each reading notes how far the WAL had been written at all, and we know everything up to the last such note
that the disk has reached. Where no transaction ended since, by the snapshot, there is nothing more to know, and later notes
count as much: the tail of the WAL may lie in memory for long while nobody commits.

Source: documentation, "Replication Management Functions", "Logical Decoding Concepts", "Asynchronous Commit".
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import asyncpg

from pgloupe.errors import ChangeStreamError
from pgloupe.wire.changes import RELATION_BYTES, TRUNCATE_BYTES, parse_pgoutput, parse_test_decoding

PGOUTPUT: Final = "pgoutput"
TEST_DECODING: Final = "test_decoding"
AUTO: Final = "auto"
MODES: Final = (AUTO, PGOUTPUT, TEST_DECODING)

CONNECT_S: Final = 10.0
CREATE_S: Final = 60.0
"""To make the slot: the server waits for the transactions that are under way."""
POLL_S: Final = 60.0
"""For one reading. After that a new slot, which begins with the present, is the shorter way."""
ROWS: Final = 5_000
"""Lines of decoding after which a reading ends, at the end of a transaction."""
NOTES: Final = 1_000
"""Readings whose WAL is not on the disk yet. Those over it count with the next that is noted."""
TABLES: Final = 20_000
"""Tables, counted for each transaction, that one reading may bring."""

_SETTINGS: Final = {
    "application_name": "pgloupe change stream",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "jit": "off",
    "synchronous_commit": "off",
    # a machine that vanishes without a word shall not keep its slot, and the WAL with it, for two hours
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

_FACTS: Final = """
SELECT pg_catalog.current_setting('wal_level'), pg_catalog.pg_is_in_recovery(),
  pg_catalog.current_setting('max_replication_slots'), current_user, pg_catalog.current_database()
"""

# Its row is another one, or none, after whatever made it cover less.
_PUBLICATION: Final = """
SELECT oid::text || ' ' || xmin::text, puballtables AND pubinsert AND pubupdate AND pubdelete AND pubtruncate
FROM pg_catalog.pg_publication WHERE pubname = $1
"""

_PROBE: Final = """
SELECT pg_catalog.pg_current_wal_flush_lsn()::text, pg_catalog.pg_current_wal_insert_lsn()::text,
  pg_catalog.pg_current_snapshot()::text,
  (SELECT oid::text || ' ' || xmin::text FROM pg_catalog.pg_publication WHERE pubname = $1)
"""

_SNAPSHOT: Final = "SELECT pg_catalog.pg_current_snapshot()::text"

_READ_PGOUTPUT: Final = f"""
SELECT CASE
    WHEN code IN (66, 67) THEN NULL
    WHEN code IN (68, 73, 85) THEN pg_catalog.substring(data, 1, 5)
    WHEN code = 82 THEN pg_catalog.substring(data, 1, {RELATION_BYTES})
    ELSE pg_catalog.substring(data, 1, {TRUNCATE_BYTES}) END,
  CASE WHEN code NOT IN (66, 67) THEN xid::text END, pg_catalog.count(*)
FROM (
  SELECT pg_catalog.get_byte(data, 0) AS code, data, xid FROM pg_catalog.pg_logical_slot_get_binary_changes(
    $1, NULL, $2, 'proto_version', '1', 'publication_names', pg_catalog.quote_ident($3), 'binary', 'true')
) AS message
GROUP BY 1, 2 LIMIT {TABLES + 1}
"""  # noqa: S608 (numbers)

# Most names need no quotes, and then the beginning ends at the second colon; a regular expression for each line costs four
# times as much.
_READ_TEST_DECODING: Final = f"""
SELECT pg_catalog.textsend(beginning), CASE WHEN beginning IS NOT NULL THEN xid::text END, pg_catalog.count(*)
FROM (
  SELECT xid, CASE
    WHEN pg_catalog.left(data, 6) <> 'table ' THEN NULL
    WHEN action IN (' INSERT', ' UPDATE', ' DELETE') AND pg_catalog.strpos(names, '"') = 0
      THEN names || ':' || action || ':'
    ELSE coalesce(
      pg_catalog.substring(pg_catalog.left(data, 700),
        '^table (?:"(?:[^"]|"")+"|[a-z0-9_]+)[.](?:"(?:[^"]|"")+"|[a-z0-9_]+): (?:INSERT|UPDATE|DELETE):'),
      pg_catalog.left(data, {TRUNCATE_BYTES})) END AS beginning
  FROM (
    SELECT xid, data, pg_catalog.split_part(pg_catalog.left(data, 150), ':', 1) AS names,
      pg_catalog.split_part(pg_catalog.left(data, 150), ':', 2) AS action
    FROM pg_catalog.pg_logical_slot_get_changes($1, NULL, $2, 'include-xids', '0', 'skip-empty-xacts', '1')
  ) AS line
) AS cut
GROUP BY 1, 2 LIMIT {TABLES + 1}
"""  # noqa: S608 (numbers)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions are visible: those before `xmax` that are not `running`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    def shows(self, xid: int) -> bool:
        """`xid` has 32 bits, as it stands in the WAL: that of the transactions with these bits which is nearest is meant."""
        full = (self.xmax & ~0xFFFFFFFF) | xid
        if full > self.xmax + 0x80000000:
            full -= 1 << 32
        elif full < self.xmax - 0x80000000:
            full += 1 << 32
        return full < self.xmax and full not in self.running


def parse_snapshot(text: str) -> Snapshot:
    """`xmin:xmax:xip_list`, as type pg_snapshot is written."""
    xmin, xmax, running = text.split(":")
    return Snapshot(int(xmin), int(xmax), frozenset(map(int, running.split(","))) if running else frozenset())


def parse_lsn(text: str) -> int:
    """`16/B374D848`, as type pg_lsn is written."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


Tables: TypeAlias = frozenset[str]


class _Note:
    """All that was visible at `began_s` is in the WAL up to `inserted`."""

    __slots__ = ("began_s", "inserted", "snapshot")

    def __init__(self, began_s: float, inserted: int, snapshot: str) -> None:
        self.began_s = began_s
        self.inserted = inserted
        self.snapshot = snapshot


@dataclass(frozen=True, slots=True)
class Poll:
    """What one reading brought."""

    known_s: float | None
    """All that was visible by then is in what this and earlier readings brought; None where nobody can say so yet."""
    more: bool
    """There is more to read at once."""
    tables: Tables | None
    """Names without schemas of tables that transactions changed which are visible by now; None: any table."""
    changes: int
    """Rows that were changed, and lists of tables that were truncated."""


class Slot:
    """Made by `open_slot`. Whatever a method raises, the slot is lost: `close` it, and take it that changes were missed."""

    def __init__(self, connection: Any, name: str, plugin: str, publication: str, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock
        self._publication = publication
        self._covers: str | None = None
        self._notes: deque[_Note] = deque()
        self._probe: Any = None
        self._read: Any = None
        self._snapshot: Any = None
        self._first_xid = 0
        self._read_to = ""
        self._held: dict[int, Tables | None] = {}
        self.name = name
        self.plugin = plugin
        self.database = ""

    async def begin(self) -> None:
        """Make the slot. It sees each transaction from now on, but for some of those that are under way: see `ready`."""
        connection = self._connection
        wal_level, standby, slots, role, self.database = await connection.fetchrow(_FACTS)
        if standby:
            raise ChangeStreamError("the server is a standby: change_stream_url has to lead to the primary")
        if wal_level != "logical":
            raise ChangeStreamError(
                f"wal_level is {wal_level}: set wal_level = logical in postgresql.conf and restart PostgreSQL"
            )
        await self._choose_plugin()
        try:
            await connection.execute(
                "SELECT pg_catalog.pg_create_logical_replication_slot($1, $2, true)",
                *(self.name, self.plugin),
                timeout=CREATE_S,
            )
        except TimeoutError:
            raise ChangeStreamError(
                f"the slot could not be made in {CREATE_S:g} s: a transaction that wrote something is open, or prepared, "
                "for longer (see backend_xid in pg_stat_activity, and pg_prepared_xacts)"
            ) from None
        except asyncpg.PostgresError as error:
            raise ChangeStreamError(_advice(error, role, slots, self.plugin)) from error
        self._first_xid = int(await connection.fetchval("SELECT pg_catalog.pg_current_xact_id()::text"))
        self._probe = await connection.prepare(_PROBE)
        self._snapshot = await connection.prepare(_SNAPSHOT)
        self._read = await connection.prepare(_READ_PGOUTPUT if self.plugin == PGOUTPUT else _READ_TEST_DECODING)

    async def _choose_plugin(self) -> None:
        if self.plugin == TEST_DECODING:
            return
        row = await self._connection.fetchrow(_PUBLICATION, self._publication)
        if row is not None and row[1]:
            self._covers = row[0]
            self.plugin = PGOUTPUT
        elif self.plugin == AUTO:
            self.plugin = TEST_DECODING
        else:
            wrong = "does not cover all tables and all of insert, update, delete, truncate" if row else "does not exist"
            raise ChangeStreamError(
                f'the publication "{self._publication}" {wrong}: CREATE PUBLICATION … FOR ALL TABLES as a superuser, or '
                'set change_stream = "test_decoding", which needs none'
            )

    async def poll(self) -> Poll:
        """Read what is there. Raises ChangeStreamError and whatever the connection raises."""
        try:
            return await self._poll()
        except (
            asyncpg.InternalClientError
        ) as error:  # asyncpg after it was told between two queries that this was the end
            raise ChangeStreamError("the server has ended the connection") from error

    async def _poll(self) -> Poll:
        began_s = self._clock()
        flushed, inserted, snapshot, covers = await self._probe.fetchrow(self._publication, timeout=POLL_S)
        if covers != self._covers and self.plugin == PGOUTPUT:
            raise ChangeStreamError(f'the publication "{self._publication}" was changed')
        self._note(began_s, parse_lsn(inserted), snapshot)
        changes, drained = 0, True
        if flushed != self._read_to:
            changes, drained = await self._drain()
            if drained:
                self._read_to = flushed
            if changes:
                snapshot = await self._snapshot.fetchval(timeout=POLL_S)
        shown = parse_snapshot(snapshot)
        tables = self._release(shown)
        known_s: float | None = None
        if drained and shown.xmin >= self._first_xid:
            known_s = self._known(parse_lsn(flushed))
        return Poll(known_s, not drained, tables, changes)

    def _note(self, began_s: float, inserted: int, snapshot: str) -> None:
        last = self._notes[-1] if self._notes else None
        if last is not None and last.snapshot == snapshot:
            last.began_s = began_s  # no transaction has ended: what was visible then is what was visible before
        elif len(self._notes) < NOTES:
            self._notes.append(_Note(began_s, inserted, snapshot))

    def _known(self, flushed: int) -> float | None:
        """All that was visible then has been read, if all that was on the disk has been."""
        notes = self._notes
        while len(notes) > 1 and notes[1].inserted <= flushed:
            notes.popleft()
        return notes[0].began_s if notes[0].inserted <= flushed else None

    async def _drain(self) -> tuple[int, bool]:
        """Read some transactions. How many changes there were, and whether that was all."""
        arguments = (self.name, ROWS, self._publication) if self.plugin == PGOUTPUT else (self.name, ROWS)
        rows = await self._read.fetch(*arguments, timeout=POLL_S)
        if len(rows) > TABLES:
            raise ChangeStreamError(f"more than {TABLES} tables were changed at once")
        found = [(bytes(data), int(xid), int(count)) for data, xid, count in rows if data is not None]
        named = _by_pgoutput(found) if self.plugin == PGOUTPUT else _by_test_decoding(found)
        changes = 0
        for xid, tables, count in named:
            changes += count
            held = self._held.get(xid, frozenset())
            self._held[xid] = None if tables is None or held is None else held | tables
        return changes, sum(row[2] for row in rows) < ROWS

    def _release(self, shown: Snapshot) -> Tables | None:
        """The tables of transactions that are visible by now, which are forgotten here."""
        if not self._held:
            return frozenset()
        visible = [xid for xid in self._held if shown.shows(xid)]
        tables: set[str] = set()
        everything = False
        for xid in visible:
            names = self._held.pop(xid)
            if names is None:
                everything = True
            else:
                tables |= names
        return None if everything else frozenset(tables)

    async def close(self) -> None:
        """End the connection, and the slot with it."""
        try:
            await self._connection.close(timeout=1.0)
        except Exception:  # asyncpg has errors of its own for a connection that was lost in the middle of something
            self._connection.terminate()


def _by_pgoutput(found: list[tuple[bytes, int, int]]) -> list[tuple[int, Tables | None, int]]:
    """Transaction, tables and number of changes. Each reading names its relations anew; a relation that had two names
    meanwhile counts by both."""
    parsed = [(parse_pgoutput(data), xid, count) for data, xid, count in found]
    names: dict[int, set[str]] = {}
    for change, _, _ in parsed:
        if change is not None and change.relation:
            names.setdefault(change.relation, set()).add(change.name)
    out: list[tuple[int, Tables | None, int]] = []
    for change, xid, count in parsed:
        if change is None or any(oid not in names for oid in change.changed):
            out.append((xid, None, count))
        elif change.changed:
            out.append((xid, frozenset().union(*(names[oid] for oid in change.changed)), count))
    return out


def _by_test_decoding(found: list[tuple[bytes, int, int]]) -> list[tuple[int, Tables | None, int]]:
    out: list[tuple[int, Tables | None, int]] = []
    for data, xid, count in found:
        tables = parse_test_decoding(data.decode("utf-8", "surrogateescape"))
        if tables is None or tables:
            out.append((xid, None if tables is None else frozenset(tables), count))
    return out


def _advice(error: asyncpg.PostgresError, role: str, slots: str, plugin: str) -> str:
    """What the server said when it made no slot, and what to do."""
    code = getattr(error, "sqlstate", "")
    if code == "42501":
        return f"the role {role} may not use replication slots: ALTER ROLE … REPLICATION (or what your provider has for it)"
    if code == "53400":
        return f"no replication slot is free: raise max_replication_slots ({slots}) and restart PostgreSQL"
    if code == "58P01":
        return f"the server has no {plugin}: install PostgreSQL's contrib modules, or make a publication for pgoutput"
    return f"no replication slot can be made: {error}"


async def open_slot(
    url: str, *, mode: str, publication: str, connect: dict[str, Any], clock: Callable[[], float]
) -> Slot:
    """Connect and make a slot. `mode` is one of `MODES`. Raises ChangeStreamError with what to do, and whatever the
    connection raises."""
    connection = await asyncpg.connect(
        url, statement_cache_size=0, timeout=CONNECT_S, server_settings=_SETTINGS, **connect
    )
    slot = Slot(connection, f"pgloupe_{os.urandom(6).hex()}", mode, publication, clock)
    try:
        await slot.begin()
    except BaseException:  # cancellation too: the server has to be told, it may be waiting for other transactions
        await slot.close()
        raise
    return slot
