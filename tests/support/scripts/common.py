"""The tables of all scripts and programs, and the messages that most scripts are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pgloupe.wire.frontend import (
    Formats,
    build_bind,
    build_describe,
    build_execute,
    build_flush,
    build_parse,
    build_sync,
)
from support.raw import Script


@dataclass(frozen=True)
class Case:
    script: Script
    writes: bool = False
    """The tables are to be filled anew first."""
    hits: int = 0
    """How often it is answered by the cache once its answers are known, at least. 0 also where an Execute of nothing, which
    may have been anything, makes the cache forget all that it knows."""
    followed: bool = True
    """The proxy understands it to its end."""

    @property
    def ends(self) -> bool:
        """The connection ends with the last step."""
        return self.script[-1][1] == "end"

    @property
    def cut(self) -> bool:
        """It may be sent in single bytes: it is short, and the server does not close before it has read all of it."""
        return not any(len(data) > 3000 or wait == "end" for data, wait in self.script)


SCHEMA: Final = """
CREATE TABLE item (id integer PRIMARY KEY, name text) WITH (autovacuum_enabled = false);
CREATE TABLE note (id integer PRIMARY KEY, body text) WITH (autovacuum_enabled = false);
CREATE TABLE guarded (id integer PRIMARY KEY, body text) WITH (autovacuum_enabled = false);
CREATE TABLE late (id integer UNIQUE DEFERRABLE INITIALLY DEFERRED) WITH (autovacuum_enabled = false);
CREATE SCHEMA other;
CREATE TABLE other.item (id integer PRIMARY KEY, name text) WITH (autovacuum_enabled = false);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'guarded'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON guarded FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE FUNCTION touch() RETURNS integer LANGUAGE sql VOLATILE AS
    $$ UPDATE item SET name = name || '!' WHERE id = 3; SELECT 1 $$;
"""
"""`guarded` refuses every COPY before it has read any of it, `late` refuses doubles at the commit, and settings of a session
decide which `item` is read."""

FILL: Final = (
    "TRUNCATE item, note, guarded, late, other.item; INSERT INTO item SELECT n, 'item ' || n FROM generate_series(1, 9) n;"
    "INSERT INTO other.item VALUES (1, 'other 1'), (3, 'other 3')"
)

CACHED: Final = ("item", "note")
"""A rule allows to cache what reads these."""

SELECT_ALL: Final = "SELECT id, name FROM item ORDER BY id"
SELECT_ONE: Final = "SELECT name FROM item WHERE id = $1"
SYNC: Final = build_sync()
FLUSH: Final = build_flush()

INT4PL: Final = 177
"""OID of int4pl(integer, integer), the same in every server."""
NOW: Final = 1299
"""OID of now()."""


def ask(
    name: str,
    sql: str,
    *values: bytes | None,
    portal: str = "",
    limit: int = 0,
    oids: tuple[int, ...] = (),
    formats: Formats = (),
    results: Formats = (),
) -> bytes:
    """Parse Bind Describe Execute, without Sync."""
    return build_parse(name, sql, oids) + again(
        name, *values, portal=portal, limit=limit, formats=formats, results=results
    )


def again(
    name: str,
    *values: bytes | None,
    portal: str = "",
    limit: int = 0,
    formats: Formats = (),
    results: Formats = (),
) -> bytes:
    """Bind Describe Execute of what was prepared, without Sync."""
    return (
        build_bind(portal, name, values, formats, results) + build_describe("P", portal) + build_execute(portal, limit)
    )


def run(name: str, *values: bytes | None, portal: str = "", limit: int = 0) -> bytes:
    """Bind Execute of what was prepared, without Describe and Sync."""
    return build_bind(portal, name, values) + build_execute(portal, limit)
