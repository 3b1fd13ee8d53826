"""Whether values flowed from a result into later statements of the same unit of work.

Value flow is the strongest evidence that the wire alone can give: the parameter that varies over the repeats was in a
column of an earlier result. Three measures guard against coincidence: every one of the repeats' values must have been
in the column *before* it was asked for; the order should be that of the rows; and small integers, flags and single
letters prove nothing unless the column looks like a key. How much of the parent was followed matters less, since
applications look away from rows. Where the server's catalogs are known, a foreign key between the two columns is evidence
of its own, and two keys that have nothing to do with each other need values that nobody meets by chance.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, final

from pgloupe_rules.catalog import Catalog, Place, Relation
from pgloupe_rules.record import Run, single
from pgloupe_rules.shape import shape_of
from pgloupe_rules.sources import ColumnIndex, Source, is_rare, is_trivial
from pgloupe_rules.types import Shape, Template, Value

MAX_PLACEHOLDERS: Final = 4
"""Varying placeholders of one template that are looked at."""
MAX_COMPARISONS: Final = 400_000
"""Values that are looked up in columns when one rule closes one unit of work; what is left after that has no flow."""
MOST: Final = 0.8
"""Share of the steps in order, or of the rows followed, that tells a loop from requests by chance."""
FLOW_LEAST: Final = 3
"""Runs that are enough where values flowed with full strength."""
TWO: Final = 2
"""Runs that are enough where the parent had two rows, both were followed at once, and the columns belong together."""
TWO_APART: Final = 4
"""Statements from one run to the next, at most, where two runs are to be enough inside a transaction."""


@final
class Budget:
    """What one rule may still compare for one unit of work, so that no traffic makes closing it slow."""

    __slots__ = ("left",)

    def __init__(self, comparisons: int = MAX_COMPARISONS) -> None:
        self.left = comparisons


@final
class Key:
    """The column that a template's placeholder is compared with."""

    __slots__ = ("catalog", "column", "place", "tables")

    def __init__(
        self, column: str, tables: Sequence[str], catalog: Catalog | None = None, place: Place = (0, 0)
    ) -> None:
        self.column = column
        self.tables = tables
        self.catalog = catalog
        self.place = place
        """Where the catalogs have it; (0, 0) where that is not known."""

    def relation(self, column: ColumnIndex) -> Relation:
        """What the catalogs say of it and the column of a result. A key has nothing to do with what was reckoned, a count
        for example, unless that bears its name."""
        catalog = self.catalog
        if catalog is None:
            return Relation.UNKNOWN
        if not column.place[0] and catalog.is_key(self.place) and not column.name.lower().endswith("id"):
            return Relation.APART
        return catalog.relation(column.place, self.place)


def key_of(shape: Shape, number: int, column: str, catalog: Catalog | None, own: Source | None) -> Key:
    """The key behind placeholder `number`, with its place in the catalogs where that is certain. `own` are results of
    the template itself, which tell which of several tables of one name is meant."""
    place: Place = (0, 0)
    if catalog is not None and column:
        table = next((p.table for p in shape.predicates if p.placeholder == number and p.table), None)
        if table is None and len(shape.tables) == 1:
            table = shape.tables[0]
        if table is not None:
            place = catalog.place(table, column, own.table_oids() if own is not None else ())
    return Key(column, shape.tables, catalog, place)


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
    relation: Relation = Relation.UNKNOWN
    """What the catalogs say of the two columns."""
    key: Key | None = None

    @property
    def exact(self) -> bool:
        """As many runs as values and in their order: the loop went once over the rows."""
        return self.order >= 1.0 and len(self.runs) == self.column.values

    def weight(self) -> tuple[float, ...]:
        """Of two flows into one template the heavier explains it better: more runs, a list rather than keys met one by
        one, names that fit, the order, few rows left out, a key, and last the nearest result."""
        return (
            len(self.runs),
            from_lists(self),
            self.source.many,
            self.relation is Relation.LINKED,
            self.relation is not Relation.APART,
            self.affinity,
            self.order,
            self.followed,
            self.column.unique,
            self.source.latest,
        )

    def better(self, other: Flow | None) -> bool:
        """Whether it explains the template better. A foreign key outweighs a few runs more."""
        if other is None:
            return True
        mine, its = self.relation is Relation.LINKED, other.relation is Relation.LINKED
        if mine != its and self.source.many == other.source.many:
            if mine and len(self.runs) >= MOST * len(other.runs):
                return True
            if its and len(other.runs) >= MOST * len(self.runs):
                return False
        return self.weight() > other.weight()

    def values(self) -> list[Value]:
        """The values that flowed, in the order in which they were asked for."""
        return [single(run.values()[self.placeholder - 1]) for run in self.runs]

    def givers(self) -> set[float]:
        """When the results were given that first had the values."""
        places, sequences = self.column.places, self.column.sequences
        return {sequences[places[value][0]] for value in set(self.values()) if value in places}

    def rows(self) -> int:
        """Rows of the results that the values came from."""
        return self.source.rows(self.givers())

    def at_once(self, most: int) -> bool:
        """Whether each run came within `most` statements of the one before, and the first of the result."""
        before = max(self.givers())
        for run in self.runs:
            if not 0 < run.sequence - before <= most:
                return False
            before = run.sequence
        return True


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


def flows_into(runs: Sequence[Run], placeholder: int, source: Source, key: Key, budget: Budget) -> list[Flow]:
    """The flows from each column of `source` into placeholder number `placeholder` of the runs, which is compared with
    `key`: the longest stretch of consecutive runs whose values had all been in the column before. Empty where no column
    explains two runs."""
    tables = shape_of(source.template).tables
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
                affinity=name_affinity(column.name, tables, key.column, key.tables),
                relation=key.relation(column),
                key=key,
            )
        )
    return found


_EQUALITY: Final = frozenset({"=", "in", "= any", "is not distinct from"})


def equality_columns(shape: Shape, template: Template) -> dict[int, str]:
    """Placeholder number to the column that it is compared with for equality. Where the template could not be parsed,
    a placeholder after `=` is taken and its column is ""."""
    if shape.parsed:
        found = {p.placeholder: p.column for p in shape.predicates if p.operator in _EQUALITY}
        for match in _EQUALS_FOLDED.finditer(template.text):
            found.setdefault(int(match.group(1)), "")
        return found
    return {int(match.group(1)): "" for match in _EQUALS_PLACEHOLDER.finditer(template.text)}


_EQUALS_FOLDED: Final = re.compile(r"(?<![<>!])=\s*(?:lower|upper|btrim)\(\$(\d{1,5})\)", re.IGNORECASE)
"""A comparison of texts without regard to case: the parameter still is the value of the list."""

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
    """The runs without those that asked for several keys at once (an IN list or array of any length but one). A list that
    is the same in all runs is no key."""
    lists = [
        number
        for number in placeholders
        if any(len(run.values()) >= number and isinstance(run.values()[number - 1], tuple) for run in runs)
        and len({run.values()[number - 1] for run in runs if len(run.values()) >= number}) > 1
    ]
    out: list[Run] = []
    for run in runs:
        values = run.values()
        if len(values) >= max(placeholders, default=0) and not any(
            isinstance(values[number - 1], tuple) and len(values[number - 1]) != 1 for number in lists
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
    """The runs of one template, parted by transaction; those in two transactions or more also as a whole. Those of one
    trace are together whatever their transactions."""
    within: dict[int, list[Run]] = {}
    for run in runs:
        within.setdefault(run.transaction, []).append(run)
    out = [(Mode.TOGETHER if number else Mode.AUTOCOMMIT, part) for number, part in within.items() if len(part) > 1]
    apart = [run for run in runs if run.transaction]
    if len(within) - (0 in within) > 1:
        out.append((Mode.APART, apart))
    traced: dict[str, list[Run]] = {}
    for run in runs:
        if run.trace:
            traced.setdefault(run.trace, []).append(run)
    if traced and not (len(traced) == 1 and 0 not in within and len(within) == 1):
        out += [(Mode.TOGETHER, part) for part in traced.values() if len(part) > 1]
    return out


def convincing(flow: Flow, mode: Mode, threshold: int) -> bool:
    """Whether a flow is more than a coincidence, given how the runs lie.

    Inside one transaction that all the values come from one column is nearly enough. Outside of one, statements of
    several requests may lie between the boundaries that were seen, so the runs must also go through the rows in order,
    or through nearly all of them, if these have each value once or the names of the columns fit. In a transaction each they must be in order without exception.
    """
    runs, distinct = len(flow.runs), flow.distinct
    if distinct < TWO or (mode is not Mode.TOGETHER and asked_anew(flow)):
        return False
    values = flow.values()
    linked = flow.relation is Relation.LINKED
    if flow.relation is Relation.APART and sum(1 for value in values if is_rare(value)) * 2 <= len(values):
        return False
    commonplace = not linked and sum(1 for value in values if is_trivial(value)) * 2 > len(values)
    if distinct == TWO:
        if runs >= threshold:
            return flow.exact
        return runs == TWO and not commonplace and _two_are_enough(flow, mode, linked)
    if runs < threshold:
        if mode is Mode.APART or runs < FLOW_LEAST or flow.order < 1.0 or distinct < runs:
            return False
        return flow.exact and flow.column.unique if commonplace else True
    if commonplace and not (flow.column.unique or flow.affinity or flow.followed >= MOST):
        return False
    if commonplace and mode is Mode.AUTOCOMMIT and not (flow.affinity or (flow.exact and flow.column.unique)):
        return False
    if mode is Mode.TOGETHER:
        return distinct >= threshold or flow.order >= MOST or flow.followed >= MOST
    if mode is Mode.AUTOCOMMIT:
        belongs = flow.column.unique or flow.affinity > 0 or linked
        whole_list = belongs and distinct >= threshold and flow.followed >= MOST and len(flow.givers()) == 1
        return flow.order >= MOST or whole_list
    return flow.order >= 1.0


def asked_anew(flow: Flow) -> bool:
    """Whether the list came again before (nearly) each run, with the value that an earlier one had already: a page that is
    refreshed and shows one row in turn asks for the list and for one row, and not for a row per row."""
    givens, places, sequences = flow.source.given, flow.column.places, flow.column.sequences
    anew = 0
    for before, run in pairwise(flow.runs):
        place = bisect_right(givens, run.sequence) - 1
        value = single(run.values()[flow.placeholder - 1])
        if place >= 0 and givens[place] > before.sequence and sequences[places[value][0]] < givens[place]:
            anew += 1
    return anew >= max(2, MOST * (len(flow.runs) - 1))


def _two_are_enough(flow: Flow, mode: Mode, linked: bool) -> bool:
    """Two runs prove a loop where a result of two rows was followed whole, in order and at once, and the columns belong
    together by a foreign key or by their names. With a foreign key rows that were not kept may be missing."""
    if mode is Mode.APART or flow.order < 1.0 or not (linked or flow.affinity == 2):
        return False
    if not flow.at_once(TWO_APART if mode is Mode.TOGETHER else 1):
        return False
    return (flow.exact and flow.column.unique) or (linked and flow.source.truncated)


def from_lists(flow: Flow) -> bool:
    """Whether the results gave several values each. A column that had one value in each result, the key that was asked
    for or a user who was looked up, shows that something was looked at twice, not that a list was followed."""
    return flow.distinct >= 2 * len(flow.givers()) or flow.distinct - len(flow.givers()) >= FLOW_LEAST
