"""Whether values flowed from a result into later statements of the same unit of work.

Value flow is the strongest evidence that the wire alone can give: the parameter that varies over the repeats was in a
column of an earlier result. Three measures guard against coincidence: every one of the repeats' values must have been
in the column *before* it was asked for; the order should be that of the rows; and small integers, flags and single
letters prove nothing unless the column looks like a key. How much of the parent was followed matters less, since
applications look away from rows.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, final

from pgloupe_rules.record import Record, Run, single
from pgloupe_rules.types import Outcome, Shape, Template, Value

MAX_COLUMNS: Final = 64
"""Columns of a result that are looked at."""
MAX_CELLS: Final = 100_000
"""Values of results that are indexed when one unit of work closes; the latest results come first."""
MAX_ROWS: Final = 1000
"""Rows of one result that are reckoned with; whoever made the outcome kept fewer or as many."""
MAX_PLACEHOLDERS: Final = 4
"""Varying placeholders of one template that are looked at."""
MAX_COMPARISONS: Final = 400_000
"""Values that are looked up in columns when one rule closes one unit of work; what is left after that has no flow."""
MOST: Final = 0.8
"""Share of the steps in order, or of the rows followed, that tells a loop from requests by chance."""
FLOW_LEAST: Final = 3
"""Runs that are enough where values flowed with full strength."""


def is_trivial(value: Value) -> bool:
    """Whether a value is so common that meeting it twice means nothing: a digit, a letter, a flag, nothing."""
    if value is None:
        return True
    if isinstance(value, int):
        return -10 < value < 10
    return isinstance(value, str) and len(value) < 2


@final
class ColumnIndex:
    """The values of one column over all kept results of one template, in the order in which they came."""

    __slots__ = ("name", "places", "sequences", "unique", "values")

    def __init__(self, name: str) -> None:
        self.name = name
        self.places: dict[Value, list[int]] = {}
        """Where each value stands, in ascending order."""
        self.sequences: list[int] = []
        """Sequence number of the statement that each place came from."""
        self.values = 0
        """Values that are not null."""
        self.unique = True
        """No value came twice."""

    def extend(self, values: Sequence[Value], sequence: int) -> None:
        for value in values:
            place = len(self.sequences)
            self.sequences.append(sequence)
            if value is None:
                continue
            self.values += 1
            places = self.places.setdefault(value, [])
            if places:
                self.unique = False
            places.append(place)

    def seen_before(self, value: Value, sequence: int) -> bool:
        """Whether the value was in a result of a statement before number `sequence`."""
        places = self.places.get(value)
        return places is not None and self.sequences[places[0]] < sequence

    def order(self, values: Sequence[Value]) -> float:
        """Share of the steps from one value to the next that go forward through the rows, 0 to 1. All values must be
        in the column."""
        if len(values) < 2:
            return 0.0
        at = self.places[values[0]][0]
        forward = 0
        for before, value in pairwise(values):
            places = self.places[value]
            following = bisect_right(places, at)
            if following < len(places):
                at = places[following]
                forward += 1
            elif value == before:
                forward += 1
            else:
                at = places[0]
        return forward / (len(values) - 1)


@final
class Source:
    """All kept results of one template: a possible parent."""

    __slots__ = ("_columns", "many", "outcomes", "template", "truncated")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.outcomes: list[Outcome] = []
        self.many = False
        """One of the results had two rows or more."""
        self.truncated = False
        """More rows came than were kept. Known when the columns are."""
        self._columns: list[ColumnIndex] | None = None

    def columns(self) -> list[ColumnIndex]:
        """An index of each column, built at the first call."""
        if self._columns is None:
            indexes: list[ColumnIndex] = []
            for outcome in self.outcomes:
                decoded = outcome.column_values()[:MAX_COLUMNS]
                if not decoded:
                    continue
                if len(decoded[0]) < outcome.rows:
                    self.truncated = True
                for position in range(len(indexes), min(len(decoded), len(outcome.columns))):
                    indexes.append(ColumnIndex(outcome.columns[position].name))
                for index, values in zip(indexes, decoded, strict=False):
                    index.extend(values[:MAX_ROWS], outcome.statement.sequence)
            self._columns = indexes
        return self._columns

    def rows(self, sequences: set[int]) -> int:
        """Rows of those results that the statements numbered `sequences` gave."""
        return sum(outcome.rows for outcome in self.outcomes if outcome.statement.sequence in sequences)


def sources(record: Record) -> dict[str, Source]:
    """The kept results by the fingerprint of their template, each in the order of execution. All FETCHes of a cursor are
    one source."""
    latest = sorted([*record.lists, *record.singles], key=lambda outcome: -outcome.statement.sequence)
    cells = 0
    chosen: list[Outcome] = []
    for outcome in latest:
        cells += min(outcome.rows, MAX_ROWS) * len(outcome.columns)
        if cells > MAX_CELLS:
            break
        chosen.append(outcome)
    found: dict[str, Source] = {}
    chosen.sort(key=lambda outcome: outcome.statement.sequence)
    for outcome in chosen:
        template = record.source(outcome.statement.template)
        source = found.get(template.fingerprint)
        if source is None:
            source = found[template.fingerprint] = Source(template)
        source.outcomes.append(outcome)
        if outcome.rows > 1:
            source.many = True
    return found


@final
class Budget:
    """What one rule may still compare for one unit of work, so that no traffic makes closing it slow."""

    __slots__ = ("left",)

    def __init__(self, comparisons: int = MAX_COMPARISONS) -> None:
        self.left = comparisons


@dataclass(frozen=True, slots=True)
class Flow:
    """Values that went from a column into the runs of a template."""

    source: Source
    column: ColumnIndex
    placeholder: int
    """From 1."""
    runs: tuple[Run, ...]
    """The runs explained, consecutive ones of their template."""
    distinct: int
    order: float
    followed: float
    """Share of the column's distinct values that were asked for."""
    affinity: int
    """How far the names agree: 2 like a foreign key, 1 equal, 0 not."""

    @property
    def exact(self) -> bool:
        """As many runs as values and in their order: the loop went once over the rows."""
        return self.order >= 1.0 and len(self.runs) == self.column.values

    def weight(self) -> tuple[float, ...]:
        """Of two flows into one template the heavier explains it better: more runs, a list rather than keys met one by
        one, names that fit, the order, few rows left out, a key, and last the nearest result."""
        nearest = self.source.outcomes[-1].statement.sequence
        return (
            len(self.runs),
            from_lists(self),
            self.source.many,
            self.affinity,
            self.order,
            self.followed,
            self.column.unique,
            nearest,
        )

    def values(self) -> list[Value]:
        """The values that flowed, in the order in which they were asked for."""
        return [single(run.values()[self.placeholder - 1]) for run in self.runs]

    def givers(self) -> set[int]:
        """Sequence numbers of the statements whose results first had the values."""
        places, sequences = self.column.places, self.column.sequences
        return {sequences[places[value][0]] for value in set(self.values()) if value in places}

    def rows(self) -> int:
        """Rows of the results that the values came from."""
        return self.source.rows(self.givers())


def name_affinity(column: str, tables: Sequence[str], child_column: str, child_tables: Sequence[str]) -> int:
    """How well the names of a parent's column and a child's fit: `author_id` to `author.id`, `id` to `post_id`."""
    column, child_column = column.lower(), child_column.lower()
    if not child_column:
        return 0
    if child_column == "id":
        stems = {_stem(table) for table in child_tables}
        if column.endswith("_id") and _stem(column[:-3]) in stems:
            return 2
    if column == "id" and child_column.endswith("_id") and _stem(child_column[:-3]) in {_stem(t) for t in tables}:
        return 2
    if column != child_column:
        return 0
    same_table = not {_stem(table) for table in tables}.isdisjoint(_stem(table) for table in child_tables)
    return 2 if same_table else 1 if column != "id" else 0


def _stem(name: str) -> str:
    """A table's name in the singular, roughly, without its schema."""
    bare = name.rpartition(".")[2].lower()
    return bare[:-1] if bare.endswith("s") and not bare.endswith("ss") else bare


def flows_into(
    runs: Sequence[Run],
    placeholder: int,
    source: Source,
    names: tuple[Sequence[str], str, Sequence[str]],
    budget: Budget,
) -> list[Flow]:
    """The flows from each column of `source` into placeholder number `placeholder` of the runs: the longest stretch of
    consecutive runs whose values had all been in the column before. `names`: tables of the source, column and tables of
    the child. Empty where no column explains two runs."""
    tables, child_column, child_tables = names
    values = [single(run.values()[placeholder - 1]) for run in runs]
    probes = {values[0], values[len(values) // 2], values[-1]}
    found: list[Flow] = []
    for column in source.columns():
        if budget.left <= 0:
            break
        if probes.isdisjoint(column.places):
            budget.left -= 8
            continue
        budget.left -= len(values) + 8
        start = best_start = best_length = 0
        length = 0
        for position, value in enumerate(values):
            if value is not None and column.seen_before(value, runs[position].sequence):
                if not length:
                    start = position
                length += 1
                if length > best_length:
                    best_start, best_length = start, length
            else:
                length = 0
        if best_length < 2:
            continue
        stretch = values[best_start : best_start + best_length]
        distinct = len(set(stretch))
        found.append(
            Flow(
                source=source,
                column=column,
                placeholder=placeholder,
                runs=tuple(runs[best_start : best_start + best_length]),
                distinct=distinct,
                order=column.order(stretch),
                followed=distinct / max(1, len(column.places)),
                affinity=name_affinity(column.name, tables, child_column, child_tables),
            )
        )
    return found


_EQUALITY: Final = frozenset({"=", "in", "= any", "is not distinct from"})


def equality_columns(shape: Shape, template: Template) -> dict[int, str]:
    """Placeholder number to the column that it is compared with for equality. Where the template could not be parsed,
    a placeholder after `=` is taken and its column is ""."""
    if shape.parsed:
        return {p.placeholder: p.column for p in shape.predicates if p.operator in _EQUALITY}
    return {int(match.group(1)): "" for match in _EQUALS_PLACEHOLDER.finditer(template.text)}


_EQUALS_PLACEHOLDER: Final = re.compile(r"(?<![<>!])=\s*\$(\d{1,5})\b")


def varying(runs: Sequence[Run], placeholder: int) -> bool:
    """Whether the placeholder has two or more values over the runs, all known."""
    seen: set[Value] = set()
    for run in runs:
        values = run.values()
        if len(values) < placeholder:
            return False
        seen.add(values[placeholder - 1])
    return len(seen) > 1


def one_key_runs(runs: Sequence[Run], placeholders: Sequence[int]) -> list[Run]:
    """The runs without those that asked for several keys at once (an IN list or array of any length but one)."""
    out: list[Run] = []
    for run in runs:
        values = run.values()
        if all(
            len(values) >= number and not (isinstance(values[number - 1], tuple) and len(values[number - 1]) != 1)
            for number in placeholders
        ):
            out.append(run)
    return out


class Mode(StrEnum):
    """How the runs of a repeated template lie in the unit of work."""

    TOGETHER = "together"
    """In one transaction."""
    AUTOCOMMIT = "autocommit"
    """Outside of transactions."""
    APART = "apart"
    """In a transaction each, or a few in each."""


def scopes(runs: Sequence[Run]) -> list[tuple[Mode, list[Run]]]:
    """The runs of one template, parted by transaction; those in two transactions or more also as a whole."""
    within: dict[int, list[Run]] = {}
    for run in runs:
        within.setdefault(run.transaction, []).append(run)
    out = [(Mode.TOGETHER if number else Mode.AUTOCOMMIT, part) for number, part in within.items() if len(part) > 1]
    apart = [run for run in runs if run.transaction]
    if len(within) - (0 in within) > 1:
        out.append((Mode.APART, apart))
    return out


def convincing(flow: Flow, mode: Mode, threshold: int) -> bool:
    """Whether a flow is more than a coincidence, given how the runs lie.

    Inside one transaction that all the values come from one column is nearly enough. Outside of one, statements of
    several requests may lie between the boundaries that were seen, so the runs must also go through the rows in order,
    or through nearly all of them. In a transaction each they must be in order without exception.
    """
    runs, distinct = len(flow.runs), flow.distinct
    if distinct < 2 or (distinct == 2 and not (flow.exact and runs >= threshold)):
        return False
    values = flow.values()
    commonplace = sum(1 for value in values if is_trivial(value)) * 2 > len(values)
    if runs < threshold:
        if mode is Mode.APART or runs < FLOW_LEAST or flow.order < 1.0 or distinct < runs:
            return False
        return flow.exact and flow.column.unique if commonplace else True
    if commonplace and not (flow.column.unique or flow.affinity or flow.followed >= MOST):
        return False
    if mode is Mode.TOGETHER:
        return distinct >= threshold or flow.order >= MOST or flow.followed >= MOST
    if mode is Mode.AUTOCOMMIT:
        whole_list = distinct >= threshold and flow.followed >= MOST and len(flow.givers()) == 1
        return flow.order >= MOST or whole_list
    return flow.order >= 1.0


def from_lists(flow: Flow) -> bool:
    """Whether the results gave several values each. A column that had one value in each result, the key that was asked
    for or a user who was looked up, shows that something was looked at twice, not that a list was followed."""
    return flow.distinct >= 2 * len(flow.givers()) or flow.distinct - len(flow.givers()) >= FLOW_LEAST
