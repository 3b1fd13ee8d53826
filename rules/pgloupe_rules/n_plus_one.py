"""n_plus_one: one query per row of an earlier result, where one query could have answered for all rows.

What it does
    Reports a SELECT template that the client ran again and again in one unit of work, waiting for each answer, with a
    parameter that varies. `proven` where the values were in a column of an earlier result (value flow): then the
    parent, its column and the child's column are named, and three runs can be enough. `likely` where one transaction
    held five or more look-ups by key and no result is known that the keys came from.

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

from pgloupe_rules.record import Record, Repeats, Run, is_catalog, sample_of, single, verb_of
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Child, Confidence, Finding, Outcome, Parent, Severity, Shape
from pgloupe_rules.value_flow import (
    FLOW_LEAST,
    MAX_PLACEHOLDERS,
    MOST,
    Budget,
    Flow,
    Mode,
    Source,
    convincing,
    equality_columns,
    flows_into,
    from_lists,
    is_trivial,
    one_key_runs,
    scopes,
    sources,
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

    __slots__ = ("columns", "placeholders", "repeats", "runs", "shape")

    def __init__(self, repeats: Repeats, shape: Shape, runs: list[Run], columns: dict[int, str]) -> None:
        self.repeats = repeats
        self.shape = shape
        self.runs = runs
        """Those that asked for one key."""
        self.columns = columns
        self.placeholders = [number for number in columns if varying(runs, number)][:MAX_PLACEHOLDERS]


@final
class NPlusOne:
    """The rule `n_plus_one`."""

    name = "n_plus_one"

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._least = min(FLOW_LEAST, threshold)

    def start(self) -> Record:
        """New state for one unit of work."""
        return Record()

    def observe(self, state: Record, outcome: Outcome) -> None:
        """Take an outcome in."""
        verb = verb_of(outcome)
        state.observe(outcome, verb, verb == "SELECT")

    def close(self, state: Record) -> list[Finding]:
        """The unit of work is over: the N+1s in it."""
        subjects = [
            subject
            for repeats in state.repeats.values()
            if repeats.count >= self._least and (subject := self._subject(repeats)) is not None
        ]
        if not subjects:
            return []
        known = sources(state)
        budget = Budget()
        found: dict[str, Finding] = {}
        subjects = self._with_flow(subjects, known, found, budget)
        left: list[_Subject] = []
        for subject in subjects:
            finding = self._without_flow(subject, state, known)
            if finding is None:
                left.append(subject)
            else:
                found[finding.fingerprint] = finding
        if left and len(left) < len(subjects):
            self._with_flow(left, known, found, budget)
        return list(found.values())

    def _subject(self, repeats: Repeats) -> _Subject | None:
        template = repeats.template
        shape = shape_of(template)
        if shape.written or is_catalog(shape.tables) or (shape.parsed and not shape.tables):
            return None
        if _SKIP_LOCKED.search(template.text):
            return None
        columns = equality_columns(shape, template)
        runs = one_key_runs(repeats.runs, list(columns))
        if len(runs) < self._least:
            return None
        subject = _Subject(repeats, shape, runs, columns)
        return subject if subject.placeholders else None

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
            tables = shape_of(source.template).tables
            for mode, runs in parts:
                for number in subject.placeholders:
                    names = (tables, subject.columns[number], subject.shape.tables)
                    for flow in flows_into(runs, number, source, names, budget):
                        if (
                            (best is None or flow.weight() > best.weight())
                            and convincing(flow, mode, self._threshold)
                            and (fingerprint in found or from_lists(flow))
                            and (mode is not Mode.APART or _opens(flow.runs, own, found))
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
                if len(giving) - len(set(giving)) >= 2 and order >= 0.5:
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
                    return _finding(
                        subject, runs, len(values), number, Confidence.LIKELY, None, _all_in_scope(subject, runs)
                    )
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
        template = flow.source.template
        parent = Parent(
            fingerprint=template.fingerprint,
            template=template.text,
            tables=shape_of(template).tables,
            column=flow.column.name,
            rows=flow.rows(),
        )
        distinct = flow.distinct
        count = len(flow.runs)
        if flow.source.truncated or subject.repeats.count > len(subject.repeats.runs):
            count = max(count, _all_in_scope(subject, flow.runs))
        return _finding(subject, flow.runs, distinct, flow.placeholder, Confidence.PROVEN, parent, count)


def _opens(runs: Iterable[Run], own: str, found: dict[str, Finding]) -> bool:
    """Whether each run's transaction began with it, or with another child: a request's would begin with its own
    look-ups, of the user for example."""
    return all(run.opener == own or run.opener in found for run in runs)


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


def _finding(
    subject: _Subject,
    runs: Sequence[Run],
    distinct: int,
    number: int,
    confidence: Confidence,
    parent: Parent | None,
    count: int,
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
        child=Child(number, subject.columns[number]),
        samples=[sample_of(item) for item in subject.repeats.samples],
    )
