"""What the server's catalogs say about tables, columns and foreign keys, for rules that compare columns.

A RowDescription gives the OID of a column's table and its attribute number; with the catalogs that is a name, and a foreign
key between two columns is close to proof that values which went from one to the other were meant to. Two columns are
linked when a chain of foreign keys joins them: `comment.post_id` and `like.post_id` both stand for `post.id`. They are
apart when both are keys and no such chain exists: the ids of authors and of posts are equal numbers and mean nothing to
each other. Where one of them is no key, the catalogs say nothing.

Whoever can ask the server fills `Catalogs`; the rules work without it. A table that nobody knows yet, or DDL that went
past, makes them ask for a database to be read again.

Sources: documentation, "System Catalogs", pg_class, pg_attribute, pg_constraint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, TypeAlias, final

FIRST_USER_OID: Final = 16384
"""Objects with lower OIDs come with the server (FirstNormalObjectId)."""
MAX_DATABASES: Final = 64

Place: TypeAlias = tuple[int, int]
"""OID of a table and attribute number of a column of it."""


class Relation(StrEnum):
    """What two columns have to do with each other."""

    LINKED = "linked"
    UNKNOWN = "unknown"
    APART = "apart"


class Table(NamedTuple):
    """A table or view."""

    schema: str
    name: str
    columns: dict[int, str]
    """Attribute number to name."""
    types: dict[int, str]
    """Attribute number to type, as SQL writes it."""


class ForeignKey(NamedTuple):
    """One foreign key; the columns of both sides stand in the same order."""

    table: int
    columns: tuple[int, ...]
    referenced: int
    referenced_columns: tuple[int, ...]


@final
class Catalog:
    """The catalogs of one database at one time. `keys` are the columns that alone are a primary or unique key."""

    __slots__ = ("_links", "_names", "_root", "keys", "tables")

    def __init__(
        self, tables: dict[int, Table], foreign_keys: Iterable[ForeignKey], keys: Iterable[Place] = ()
    ) -> None:
        self.tables = tables
        self.keys = frozenset(keys)
        self._names: dict[str, list[int]] = {}
        for oid, table in tables.items():
            self._names.setdefault(table.name, []).append(oid)
            self._names.setdefault(f"{table.schema}.{table.name}", []).append(oid)
        self._root: dict[Place, Place] = {}
        self._links: set[tuple[Place, Place]] = set()
        for key in foreign_keys:
            for column, referenced in zip(key.columns, key.referenced_columns, strict=False):
                here, there = (key.table, column), (key.referenced, referenced)
                self._links.add((here, there))
                mine, other = self._class(here), self._class(there)
                self._root[mine] = other
                self._root.setdefault(other, other)

    def _class(self, place: Place) -> Place:
        """What stands for all columns that foreign keys join with this one."""
        root = self._root
        while True:
            above = root.get(place, place)
            if above == place:
                return place
            root[place] = root.get(above, above)
            place = above

    def column(self, place: Place) -> tuple[str, str] | None:
        """Bare name of the table and name of the column; None where they are not known."""
        table = self.tables.get(place[0])
        name = table.columns.get(place[1]) if table is not None else None
        return None if table is None or name is None else (table.name, name)

    def types(self, table: str) -> dict[str, str]:
        """Name of each column of a table to its type; empty where several tables have the name, or none."""
        oids = self._names.get(table) or self._names.get(table.lower()) or []
        if len(oids) != 1:
            return {}
        found = self.tables[oids[0]]
        return {name: found.types[number] for number, name in found.columns.items() if number in found.types}

    def place(self, table: str, column: str, near: Sequence[int] = ()) -> Place:
        """The column of a table as a statement names them; (0, 0) where that is not certain. Of several tables of the
        name one of the OIDs `near` is meant."""
        oids = self._names.get(table) or self._names.get(table.lower()) or []
        if len(oids) > 1:
            oids = [oid for oid in oids if oid in near]
        if len(oids) != 1:
            return (0, 0)
        for attribute, name in self.tables[oids[0]].columns.items():
            if name in (column, column.lower()):
                return (oids[0], attribute)
        return (0, 0)

    def relation(self, first: Place, second: Place) -> Relation:
        """What the catalogs say of two columns."""
        if not first[0] or not second[0]:
            return Relation.UNKNOWN
        if first == second:
            return Relation.LINKED
        mine, other = self._class(first), self._class(second)
        if mine == other:
            return Relation.LINKED
        if self.is_key(first) and self.is_key(second):
            return Relation.APART
        return Relation.UNKNOWN

    def is_key(self, place: Place) -> bool:
        """Whether a column is a primary key by itself, or part of a foreign key or of what one refers to."""
        return place in self._root or place in self.keys

    def foreign_key(self, first: Place, second: Place) -> str:
        """`comment.post_id → post.id` where one of the two columns refers to the other; else ""."""
        for pair in ((first, second), (second, first)):
            if pair in self._links:
                names = [self.column(place) for place in pair]
                return " → ".join(".".join(name) for name in names if name is not None)
        return ""


@final
class Catalogs:
    """The catalogs of all databases that are known. `on_want` is told of a database that should be read, each time that
    someone misses something; it sees to it that nobody is asked too often."""

    __slots__ = ("_known", "on_want")

    def __init__(self, on_want: Callable[[str], None] | None = None) -> None:
        self._known: dict[str, Catalog] = {}
        self.on_want = on_want

    def of(self, database: str) -> Catalog | None:
        return self._known.get(database)

    def put(self, database: str, catalog: Catalog) -> None:
        if database in self._known or len(self._known) < MAX_DATABASES:
            self._known[database] = catalog

    def drop(self, database: str) -> None:
        """Nobody asks for this database any more."""
        self._known.pop(database, None)

    def want(self, database: str) -> None:
        if self.on_want is not None:
            self.on_want(database)
