"""n_plus_one: one query per row of an earlier result, where one query could have answered for all rows.

What it does
    Reports a SELECT template that the client ran again and again in one unit of work, waiting for each answer, with a
    parameter that varies. `proven` where the values were in a column of an earlier result (value flow): then the
    parent, its column and the child's column are named, and three runs can be enough, or two where a result of two rows
    was followed whole and the columns belong together. `likely` where one transaction
    held five or more look-ups by key and no result is known that the keys came from; if its writes were rolled back, as a
    test's are, with severity info.

    Look-ups that one request spreads over the connections of a pool, in turns or at once, are one loop where trace tags
    say so, or where they follow the list at once and ask for (nearly) each of its values once. Where the server's catalogs
    can be read (`catalog_url`), a foreign key between the two columns is evidence too, the finding has the columns' real
    names, and equal ids of unrelated tables prove nothing.

    Not reported: IN lists and arrays of several keys; LIMIT, OFFSET and keyset pages (what varies is no equality);
    FETCH; linked lists, where each key is known only after the row before; jobs claimed one by one; repeats that were
    sent in one batch; system catalogs; statements without a table.

Why it is bad
    Each run costs a round trip and an execution. A list of 50 rows pays 50 of them, and the page gets slower with every
    row. On a development machine nobody notices, since the round trip is short there.

Example
    SELECT id, title, author_id FROM post ORDER BY id LIMIT 8
    SELECT id, name FROM author WHERE id = 396
    SELECT id, name FROM author WHERE id = 168
    … once per post

Use instead
    A join, or one query for all keys: `SELECT id, name FROM author WHERE id = ANY($1)`. For counts `GROUP BY`, for the
    latest row of each `LATERAL`, for trees a recursive CTE. In an ORM: joined or batched eager loading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, final
from uuid import UUID

from pgloupe_rules.catalog import Catalog, Catalogs, Relation
from pgloupe_rules.record import Record, Repeats, Run, is_catalog, single
from pgloupe_rules.sent import sent_by
from pgloupe_rules.shape import shape_of
from pgloupe_rules.sources import Source, is_trivial, sources
from pgloupe_rules.types import Child, Confidence, Finding, Outcome, Parent, Severity, Shape, Template
from pgloupe_rules.value_flow import (
    FLOW_LEAST,
    MAX_PLACEHOLDERS,
    MOST,
    TWO,
    Budget,
    Flow,
    Key,
    Mode,
    convincing,
    equality_columns,
    flows_into,
    from_lists,
    key_of,
    one_key_runs,
    scopes,
    varying,
)

TEXT_KEYS_FACTOR: Final = 2
"""Without value flow, keys that are text need this many times the threshold: often they are constants of the program."""
MAX_LEVELS: Final = 5
"""Levels of nesting that are looked for."""

_SKIP_LOCKED: Final = re.compile(r"\bSKIP\s+LOCKED\b", re.IGNORECASE)


@final
class _Subject:
    """A repeated template that may be an N+1."""

    __slots__ = ("columns", "keys", "placeholders", "repeats", "runs", "shape")

    def __init__(self, repeats: Repeats, shape: Shape, runs: list[Run], columns: dict[int, str]) -> None:
        self.repeats = repeats
        self.shape = shape
        self.runs = runs
        """Those that asked for one key."""
        self.columns = columns
        self.placeholders = [number for number in columns if varying(runs, number)][:MAX_PLACEHOLDERS]
        self.keys: dict[int, Key] = {}


def row_reader(template: Template) -> Shape | None:
    """The shape of a template that may read once per row; None for one that never is an N+1: it writes, claims jobs, or
    reads system catalogs or no table at all."""
    shape = shape_of(template)
    if shape.written or is_catalog(shape.tables) or (shape.parsed and not shape.tables):
        return None
    return None if _SKIP_LOCKED.search(template.text) else shape


@final
class NPlusOne:
    """The rule `n_plus_one`."""

    name = "n_plus_one"

    def __init__(self, threshold: int, catalogs: Catalogs | None = None) -> None:
        self._threshold = threshold
        self._catalogs = catalogs or Catalogs()

    def start(self) -> Record:
        """New state for one unit of work."""
        return Record()

    def observe(self, state: Record, outcome: Outcome) -> None:
        """Take an outcome in."""
        state.observe(outcome)

    def close(self, state: Record) -> list[Finding]:
        """The unit of work is over: the N+1s in it."""
        subjects = [
            subject
            for repeats in state.repeats.values()
            if repeats.verb == "SELECT" and repeats.count >= TWO and (subject := _subject(repeats)) is not None
        ]
        if not subjects:
            return []
        known = sources(state)
        catalog = self._catalogs.of(state.database)
        if catalog is not None and any(
            oid not in catalog.tables for source in known.values() for oid in source.table_oids()
        ):
            self._catalogs.want(state.database)
        for subject in subjects:
            own = known.get(subject.repeats.template.fingerprint)
            for number in subject.placeholders:
                subject.keys[number] = key_of(subject.shape, number, subject.columns[number], catalog, own)
        budget = Budget()
        found: dict[str, Finding] = {}
        subjects = self._with_flow(subjects, known, found, budget)
        left: list[_Subject] = []
        for subject in subjects:
            finding = self._by_foreign_key(subject, known) or self._without_flow(subject, state, known)
            if finding is None:
                left.append(subject)
            else:
                found[finding.fingerprint] = finding
        if left and len(left) < len(subjects):
            self._with_flow(left, known, found, budget)
        return list(found.values())

    def _with_flow(
        self, subjects: list[_Subject], known: dict[str, Source], found: dict[str, Finding], budget: Budget
    ) -> list[_Subject]:
        """Find those whose keys came from a list, then those whose keys came from the rows of these, and so on. Gives
        the rest."""
        for _ in range(MAX_LEVELS):
            rest: list[_Subject] = []
            for subject in subjects:
                flow = self._best_flow(subject, known, found, budget) or self._tree(subject, known)
                if flow is None:
                    rest.append(subject)
                else:
                    found[subject.repeats.template.fingerprint] = self._proven(subject, flow)
            if not rest or len(rest) == len(subjects):
                return rest
            subjects = rest
        return subjects

    def _best_flow(
        self, subject: _Subject, known: dict[str, Source], found: dict[str, Finding], budget: Budget
    ) -> Flow | None:
        own = subject.repeats.template.fingerprint
        best: Flow | None = None
        parts = scopes(subject.runs)
        for fingerprint, source in known.items():
            if fingerprint == own or not (source.many or fingerprint in found):
                continue
            for mode, runs in parts:
                for number in subject.placeholders:
                    for flow in flows_into(runs, number, source, subject.keys[number], budget):
                        if (
                            flow.better(best)
                            and convincing(flow, mode, self._threshold)
                            and (fingerprint in found or from_lists(flow))
                            and (mode is not Mode.APART or opens(flow, own, found))
                        ):
                            best = flow
        return best

    def _tree(self, subject: _Subject, known: dict[str, Source]) -> Flow | None:
        """The keys came from earlier results of the same template, of which some had several rows: a tree walked node by
        node. A linked list has one row each, and nothing better can be done about it with one level of join."""
        source = known.get(subject.repeats.template.fingerprint)
        if source is None or not source.many:
            return None
        for number in subject.placeholders:
            first = _first_of_each(subject.runs, number)
            if len(first) <= FLOW_LEAST:
                continue
            for column in source.columns():
                if column.name.lower() == subject.columns[number].lower():
                    continue
                taken = [run for run in first if column.seen_before(single(run.values()[number - 1]), run.sequence)]
                if len(taken) < MOST * (len(first) - 1) or len(taken) < FLOW_LEAST:
                    continue
                values = [single(run.values()[number - 1]) for run in taken]
                giving = [column.sequences[column.places[value][0]] for value in values]
                order = column.order(values)
                if len(giving) - len(set(giving)) >= 2 and (
                    order >= 0.5 or len(set(values)) >= MOST * len(column.places)
                ):
                    return Flow(
                        source,
                        column,
                        number,
                        tuple(subject.runs),
                        len(first),
                        order,
                        len(values) / len(column.places),
                        0,
                    )
        return None

    def _by_foreign_key(self, subject: _Subject, known: dict[str, Source]) -> Finding | None:
        """Look-ups in one transaction by a key that is joined by foreign keys with a column of an earlier result, of whose
        rows too few were kept to see the values."""
        for mode, runs in scopes(subject.runs):
            if mode is not Mode.TOGETHER:
                continue
            for number in subject.placeholders:
                first = _first_of_each(runs, number)
                if len(first) < max(FLOW_LEAST, len(runs) // 2):
                    continue
                for source in known.values():
                    if not source.many:
                        continue
                    for column in source.columns():
                        if (
                            source.truncated
                            and source.given[0] < runs[0].sequence
                            and subject.keys[number].relation(column) is Relation.LINKED
                            and source.template.fingerprint != subject.repeats.template.fingerprint
                        ):
                            rows = source.rows(set(source.given))
                            parent = parent_of(
                                source.template, column.name, rows, subject.keys[number].catalog, column.place
                            )
                            count = _all_in_scope(subject, runs)
                            return _finding(subject, runs, len(first), number, Confidence.LIKELY, parent, count)
        return None

    def _without_flow(self, subject: _Subject, record: Record, known: dict[str, Source]) -> Finding | None:
        """Look-ups by key in one transaction whose keys came from outside."""
        shape = subject.shape
        if not shape.parsed or shape.aggregate:
            return None
        for mode, runs in scopes(subject.runs):
            if mode is not Mode.TOGETHER or len(runs) < self._threshold:
                continue
            transaction = runs[0].transaction
            writers = {write.template.fingerprint: write for write in record.writes if write.transaction == transaction}
            if any(not set(shape.tables).isdisjoint(shape_of(write.template).written) for write in writers.values()):
                continue
            for number in subject.placeholders:
                first = _first_of_each(runs, number)
                values = [single(run.values()[number - 1]) for run in first]
                if self._are_keys(values, runs) and not _depends(first, number, known.values()):
                    finding = _finding(
                        subject, runs, len(values), number, Confidence.LIKELY, None, _all_in_scope(subject, runs)
                    )
                    finding.severity = record.severity(runs)
                    return finding
        return None

    def _are_keys(self, values: Sequence[object], runs: Sequence[Run]) -> bool:
        """Whether the values look like those of a key, not like constants of the program."""
        unique = all(run.rows <= 1 for run in runs)
        if all(isinstance(value, (int, UUID)) for value in values):
            commonplace = sum(1 for value in values if is_trivial(value)) * 2 > len(values)
            return len(values) >= self._threshold and (unique or not commonplace)
        if all(isinstance(value, str) for value in values):
            return len(values) >= TEXT_KEYS_FACTOR * self._threshold and unique
        return False

    def _proven(self, subject: _Subject, flow: Flow) -> Finding:
        catalog = flow.key.catalog if flow.key is not None else None
        parent = parent_of(flow.source.template, flow.column.name, flow.rows(), catalog, flow.column.place)
        count = len(flow.runs)
        if flow.source.truncated or subject.repeats.count > len(subject.repeats.runs):
            count = max(count, _all_in_scope(subject, flow.runs))
        finding = _finding(subject, flow.runs, flow.distinct, flow.placeholder, Confidence.PROVEN, parent, count, flow)
        finding.foreign_key = foreign_key_of(flow)
        return finding


def parent_of(template: Template, column: str, rows: int, catalog: Catalog | None, place: tuple[int, int]) -> Parent:
    """The parent as a finding names it: its column by the catalogs' name where that is known."""
    named = catalog.column(place) if catalog is not None else None
    return Parent(
        fingerprint=template.fingerprint,
        template=template.text,
        tables=shape_of(template).tables,
        column=named[1] if named is not None else column,
        rows=rows,
        table=named[0] if named is not None else "",
        output=column,
    )


def foreign_key_of(flow: Flow) -> str:
    """`comment.post_id → post.id`; "" where no foreign key is between the two columns, or nobody knows."""
    key = flow.key
    if key is None or key.catalog is None:
        return ""
    return key.catalog.foreign_key(key.place, flow.column.place)


def _subject(repeats: Repeats) -> _Subject | None:
    shape = row_reader(repeats.template)
    if shape is None:
        return None
    columns = equality_columns(shape, repeats.template)
    runs = one_key_runs(repeats.runs, list(columns))
    if len(runs) < TWO:
        return None
    subject = _Subject(repeats, shape, runs, columns)
    return subject if subject.placeholders else None


def opens(flow: Flow, own: str, found: dict[str, Finding]) -> bool:
    """Whether each run's transaction began with it, or with another child: a request's would begin with its own
    look-ups, of the user for example. The first may be in the transaction of the list."""
    return all(
        run.opener == own or run.opener in found or (not place and run.opener == flow.source.template.fingerprint)
        for place, run in enumerate(flow.runs)
    )


def _first_of_each(runs: Sequence[Run], number: int) -> list[Run]:
    """The first run with each value of placeholder `number`."""
    seen: set[object] = set()
    out: list[Run] = []
    for run in runs:
        value = single(run.values()[number - 1])
        if value is not None and value not in seen:
            seen.add(value)
            out.append(run)
    return out


def _depends(first: Sequence[Run], number: int, known: Iterable[Source]) -> bool:
    """Whether half of the values were in an earlier result of any template: each step waited for the one before."""
    for source in known:
        for column in source.columns():
            met = sum(1 for run in first if column.seen_before(single(run.values()[number - 1]), run.sequence))
            if met * 2 >= len(first):
                return True
    return False


def _all_in_scope(subject: _Subject, runs: Sequence[Run]) -> int:
    """Runs from the first of `runs` on, those included whose values were not kept."""
    start = runs[0].sequence
    later = sum(1 for run in subject.runs if run.sequence >= start)
    return later + subject.repeats.count - len(subject.repeats.runs)


def child_of(number: int, key: Key, template: Template, runs: Sequence[Run]) -> Child:
    """The child as a finding names it."""
    catalog = key.catalog
    named = catalog.column(key.place) if catalog is not None else None
    return Child(
        number,
        key.column,
        table=named[0] if named is not None else "",
        varying=tuple(placeholder for placeholder in range(1, template.placeholders + 1) if varying(runs, placeholder)),
        unique=catalog is not None and key.place in catalog.keys,
    )


def _finding(
    subject: _Subject,
    runs: Sequence[Run],
    distinct: int,
    number: int,
    confidence: Confidence,
    parent: Parent | None,
    count: int,
    flow: Flow | None = None,
) -> Finding:
    template = subject.repeats.template
    return Finding(
        rule="n_plus_one",
        severity=Severity.WARNING,
        confidence=confidence,
        fingerprint=template.fingerprint,
        template=template.text,
        tables=subject.shape.tables,
        count=count,
        distinct_params=distinct,
        total_ms=sum(run.server_s for run in runs) * 1000.0,
        avoidable_round_trips=count - 1,
        parent=parent,
        child=child_of(number, subject.keys[number], template, runs),
        samples=list(subject.repeats.samples),
        sent=sent_by(template, subject.repeats.form, runs, number, count, flow),
    )
