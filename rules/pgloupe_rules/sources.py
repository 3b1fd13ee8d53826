"""What earlier results of a unit of work gave: their values by column, as the possible parents of a loop."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, final

from pgloupe_rules.catalog import FIRST_USER_OID, Place
from pgloupe_rules.record import Record, kept, plain
from pgloupe_rules.types import Outcome, Template, Value

MAX_COLUMNS: Final = 64
"""Columns of a result that are looked at."""
MAX_CELLS: Final = 100_000
"""Values of results that are indexed when one unit of work closes; the latest results come first."""
MAX_ROWS: Final = 1000
"""Rows of one result that are reckoned with; whoever made the outcome kept fewer or as many."""
RARE: Final = 100_000
"""Integers from here on are not met by chance: two sequences seldom stand there together."""


def is_trivial(value: Value) -> bool:
    """Whether a value is so common that meeting it twice means nothing: a digit, a letter, a flag, nothing."""
    if value is None:
        return True
    if isinstance(value, int):
        return -10 < value < 10
    return isinstance(value, str) and len(value) < 2


def is_rare(value: Value) -> bool:
    """Whether equal values in two columns are hardly chance: uuids, large numbers, texts."""
    if value is None or isinstance(value, bool):
        return False
    if isinstance(value, int):
        return abs(value) >= RARE
    return not isinstance(value, str) or len(value) >= 8


@final
class ColumnIndex:
    """The values of one column over all kept results of one template, in the order in which they came."""

    __slots__ = ("name", "place", "places", "sequences", "unique", "values")

    def __init__(self, name: str, place: Place = (0, 0)) -> None:
        self.name = name
        self.place = place
        """OID of the table and attribute number; (0, 0) where it is no column of a table."""
        self.places: dict[Value, list[int]] = {}
        """Where each value stands, in ascending order."""
        self.sequences: list[float] = []
        """When each place was given, in the order of statements."""
        self.values = 0
        """Values that are not null."""
        self.unique = True
        """No value came twice."""

    def extend(self, values: Sequence[Value], sequence: float) -> None:
        for given in values:
            place = len(self.sequences)
            self.sequences.append(sequence)
            if given is None:
                continue
            value = given if isinstance(given, int) else kept(plain(given))
            self.values += 1
            places = self.places.setdefault(value, [])
            if places:
                self.unique = False
            places.append(place)

    def seen_before(self, value: Value, sequence: float) -> bool:
        """Whether the value was in a result given before `sequence`."""
        places = self.places.get(value)
        return places is not None and self.sequences[places[0]] < sequence

    def order(self, values: Sequence[Value]) -> float:
        """Share of the steps from one value to another that go forward through the rows, 0 to 1. That a value comes again
        at once says nothing of the order. All values must be in the column."""
        if len(values) < 2:
            return 0.0
        at = self.places[values[0]][0]
        forward = steps = 0
        for before, value in pairwise(values):
            places = self.places[value]
            following = bisect_right(places, at)
            if value != before:
                steps += 1
                forward += following < len(places)
                at = places[following if following < len(places) else 0]
            elif following < len(places):
                at = places[following]
        return forward / steps if steps else 1.0


@final
class Source:
    """All kept results of one template: a possible parent."""

    __slots__ = ("_columns", "given", "many", "outcomes", "template", "truncated")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.outcomes: list[Outcome] = []
        self.given: list[float] = []
        """When each result was given, in the order of statements."""
        self.many = False
        """One of the results had two rows or more."""
        self.truncated = False
        """More rows came than were kept. Known when the columns are."""
        self._columns: list[ColumnIndex] | None = None

    def add(self, outcome: Outcome, given: float) -> None:
        """A result; later than those before it."""
        self.outcomes.append(outcome)
        self.given.append(given)
        if outcome.rows > 1:
            self.many = True

    @property
    def latest(self) -> float:
        return self.given[-1]

    def columns(self) -> list[ColumnIndex]:
        """An index of each column, built at the first call."""
        if self._columns is None:
            indexes: list[ColumnIndex] = []
            for outcome, given in zip(self.outcomes, self.given, strict=True):
                decoded = outcome.column_values()[:MAX_COLUMNS]
                if not decoded:
                    continue
                if len(decoded[0]) < outcome.rows:
                    self.truncated = True
                for position in range(len(indexes), min(len(decoded), len(outcome.columns))):
                    column = outcome.columns[position]
                    indexes.append(ColumnIndex(column.name, (column.table_oid, column.attribute)))
                for index, values in zip(indexes, decoded, strict=False):
                    index.extend(values[:MAX_ROWS], given)
            self._columns = indexes
        return self._columns

    def table_oids(self) -> list[int]:
        """OIDs of the tables that its columns come from, system tables left out."""
        return [column.table_oid for column in self.outcomes[-1].columns if column.table_oid >= FIRST_USER_OID]

    def rows(self, given: set[float]) -> int:
        """Rows of the results that were given then."""
        return sum(outcome.rows for outcome, then in zip(self.outcomes, self.given, strict=True) if then in given)


def sources(record: Record) -> dict[str, Source]:
    """The kept results by the fingerprint of their template, each in the order of execution. All FETCHes of a cursor are
    one source."""
    cells = 0
    chosen: list[tuple[Template, Outcome]] = []
    for template, outcome in reversed(record.results()):
        cells += min(outcome.rows, MAX_ROWS) * len(outcome.columns)
        if cells > MAX_CELLS:
            break
        chosen.append((template, outcome))
    found: dict[str, Source] = {}
    for template, outcome in reversed(chosen):
        source = found.get(template.fingerprint)
        if source is None:
            source = found[template.fingerprint] = Source(template)
            source.truncated = template.fingerprint in record.evicted
        source.add(outcome, outcome.statement.sequence)
    return found
