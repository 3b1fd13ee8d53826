"""n_plus_one_write: rows written one statement at a time, where one statement could have written them all.

What it does
    Reports an INSERT, UPDATE, DELETE or MERGE template that the client ran five times or more in one transaction,
    waiting for each answer, a row at a time. Outside of a transaction, or with a transaction for each, only where the
    keys were in a column of an earlier result: otherwise the statements may belong to as many requests. Where value
    flow is known the parent is named. Rows from nowhere in a transaction that is rolled back are how tests set up what
    they need: such a finding has severity info and comes last.

    Not reported: multi-row VALUES, COPY, arrays, `executemany` that a driver pipelines; UPDATE and DELETE whose WHERE has
    no key that varies; work in one transaction with DDL (a migration).

Why it is bad
    A round trip and an execution for each row, and the transaction holds its locks all that while.

Example
    BEGIN
    INSERT INTO line_item (order_id, product_id) VALUES (7, 31)
    INSERT INTO line_item (order_id, product_id) VALUES (7, 45)
    … once per item
    COMMIT

Use instead
    One INSERT with several rows, or `INSERT … SELECT … FROM unnest($1, $2)`; `UPDATE … FROM (VALUES …)`;
    `DELETE … WHERE id = ANY($1)`; COPY for very many. In a driver: a pipelined `executemany`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from pgloupe_rules.catalog import Catalog, Catalogs
from pgloupe_rules.n_plus_one import child_of, foreign_key_of, opens, parent_of
from pgloupe_rules.record import DEFINITIONS, ROW_WRITES, Record, Repeats, Run, is_catalog
from pgloupe_rules.shape import shape_of
from pgloupe_rules.sources import Source, sources
from pgloupe_rules.types import Child, Confidence, Finding, Outcome, Parent, Severity, Shape, Value
from pgloupe_rules.value_flow import (
    MAX_PLACEHOLDERS,
    Budget,
    Flow,
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


@final
class WriteLoop:
    """The rule `n_plus_one_write`."""

    name = "n_plus_one_write"

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
        """The unit of work is over: the write loops in it."""
        known: dict[str, Source] | None = None
        budget = Budget()
        migrations = {write.transaction for write in state.writes if write.verb in DEFINITIONS and write.transaction}
        findings: list[Finding] = []
        for repeats in state.repeats.values():
            if repeats.count < self._threshold or repeats.verb not in ROW_WRITES:
                continue
            shape = shape_of(repeats.template)
            if is_catalog(shape.tables):
                continue
            columns = equality_columns(shape, repeats.template)
            runs = _row_by_row(repeats, shape, columns)
            if len(runs) < self._threshold:
                continue
            if known is None:
                known = sources(state)
            catalog = self._catalogs.of(state.database)
            finding = self._judge(repeats, shape, columns, runs, known, migrations, state, budget, catalog)
            if finding is not None:
                findings.append(finding)
        return findings

    def _judge(
        self,
        repeats: Repeats,
        shape: Shape,
        columns: dict[int, str],
        runs: list[Run],
        known: dict[str, Source],
        migrations: set[int],
        record: Record,
        budget: Budget,
        catalog: Catalog | None,
    ) -> Finding | None:
        own = repeats.template.fingerprint
        insert = repeats.verb == "INSERT"
        numbers = range(1, repeats.template.placeholders + 1) if insert else sorted(columns)
        keys = [number for number in numbers if varying(runs, number)][:MAX_PLACEHOLDERS]
        if not insert and not keys:
            return None
        best: tuple[Sequence[Run], Flow | None] | None = None
        for mode, part in scopes(runs):
            if len(part) < self._threshold or part[0].transaction in migrations:
                continue
            flow = self._flow(mode, part, keys, columns, shape, own, known, budget, catalog)
            if flow is None and (mode is not Mode.TOGETHER or not (insert or _different(part, keys, self._threshold))):
                continue
            loop = flow.runs if flow is not None and mode is not Mode.TOGETHER else part
            if best is None or (len(loop), flow is not None) > (len(best[0]), best[1] is not None):
                best = (loop, flow)
        if best is None:
            return None
        finding = _finding(repeats, shape, columns, best[0], best[1])
        if best[1] is None:
            finding.severity = record.severity(best[0])
        return finding

    def _flow(
        self,
        mode: Mode,
        part: list[Run],
        keys: Sequence[int],
        columns: dict[int, str],
        shape: Shape,
        own: str,
        known: dict[str, Source],
        budget: Budget,
        catalog: Catalog | None,
    ) -> Flow | None:
        best: Flow | None = None
        for fingerprint, source in known.items():
            if fingerprint == own or not (source.many or mode is Mode.TOGETHER):
                continue
            for number in keys:
                key = key_of(shape, number, columns.get(number, ""), catalog, None)
                for flow in flows_into(part, number, source, key, budget):
                    if (
                        len(flow.runs) >= self._threshold
                        and flow.better(best)
                        and convincing(flow, mode, self._threshold)
                        and (mode is Mode.TOGETHER or from_lists(flow))
                        and (mode is not Mode.APART or opens(flow, own, {}))
                    ):
                        best = flow
        return best


def _row_by_row(repeats: Repeats, shape: Shape, columns: dict[int, str]) -> list[Run]:
    """The runs that wrote for one key: an INSERT of at most one row, an UPDATE or DELETE by one value of each key."""
    if repeats.verb == "INSERT":
        if shape.parsed and len(shape.tables) > len(shape.written):
            return []  # INSERT … SELECT
        every = range(1, repeats.template.placeholders + 1)
        known = [run for run in one_key_runs(repeats.runs, every) if run.rows <= 1]
        # rows so wide that their values were not kept
        return known or [run for run in repeats.runs if run.unknown and run.rows == 1]
    return one_key_runs(repeats.runs, list(columns))


def _different(runs: Sequence[Run], keys: Sequence[int], least: int) -> bool:
    """Whether one of the keys has `least` values or more."""
    for number in keys:
        seen: set[Value] = {run.values()[number - 1] for run in runs}
        if len(seen) >= least:
            return True
    return False


def _finding(
    repeats: Repeats,
    shape: Shape,
    columns: dict[int, str],
    runs: Sequence[Run],
    flow: Flow | None,
) -> Finding:
    template = repeats.template
    parent: Parent | None = None
    child: Child | None = None
    keys = [number for number in range(1, template.placeholders + 1) if varying(runs, number)]
    if keys:
        child = Child(keys[0], columns.get(keys[0], ""), varying=tuple(keys))
    if flow is not None:
        key = flow.key
        catalog = key.catalog if key is not None else None
        parent = parent_of(flow.source.template, flow.column.name, flow.rows(), catalog, flow.column.place)
        if key is not None:
            child = child_of(flow.placeholder, key, template, runs)
    count = len(runs) + repeats.count - len(repeats.runs)
    return Finding(
        rule="n_plus_one_write",
        severity=Severity.WARNING,
        confidence=Confidence.PROVEN if flow is not None else Confidence.LIKELY,
        fingerprint=template.fingerprint,
        template=template.text,
        tables=shape.tables,
        count=count,
        distinct_params=len({run.values() for run in runs}),
        total_ms=sum(run.server_s for run in runs) * 1000.0,
        avoidable_round_trips=count - 1,
        parent=parent,
        child=child,
        samples=list(repeats.samples),
        foreign_key=foreign_key_of(flow) if flow is not None else "",
    )
