"""redundant_query: the same statement with the same parameters again and again, though nothing had changed.

What it does
    Reports a SELECT that the client ran five times or more with equal parameters in one transaction, with no write to
    its tables in between. Outside of a transaction only where the runs follow one result of two or more rows that could
    have driven the loop, since otherwise each run may belong to a request of its own.

    Five, as for the other rules: twice or three times is how layers of one request each look up the user, which costs
    little and is seldom worth a change; a loop goes on with the number of rows.

    In a transaction whose writes are rolled back, which is a test's and may hold several requests, the severity is info
    without such a result.

    Not reported: statements without a table (`SELECT 1`, `nextval`), system catalogs, locking reads, SKIP LOCKED, and
    statements that ask for the time, a sequence or chance.

Why it is bad
    Each run costs a round trip for an answer that the application already had.

Example
    SELECT value FROM app_setting WHERE key = 'currency'
    … once per row of the page

Use instead
    Ask once before the loop and keep the answer.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final, final

from pgloupe_rules.record import Record, Repeats, Run, Write, is_catalog
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Confidence, Finding, Outcome, Severity, Shape, Value

VOLATILE: Final = frozenset(
    {
        "clock_timestamp",
        "current_date",
        "current_time",
        "current_timestamp",
        "currval",
        "gen_random_uuid",
        "lastval",
        "localtime",
        "localtimestamp",
        "nextval",
        "now",
        "random",
        "setval",
        "statement_timestamp",
        "timeofday",
        "transaction_timestamp",
        "txid_current",
        "uuid_generate_v4",
    }
)
"""Functions whose answer changes by itself."""
_LOCKING: Final = ("pg_advisory", "pg_try_advisory", "pg_notify", "pg_sleep", "dblink")


@final
class RedundantQuery:
    """The rule `redundant_query`."""

    name = "redundant_query"

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold

    def start(self) -> Record:
        """New state for one unit of work."""
        return Record()

    def observe(self, state: Record, outcome: Outcome) -> None:
        """Take an outcome in."""
        state.observe(outcome)

    def close(self, state: Record) -> list[Finding]:
        """The unit of work is over: what was asked again in it."""
        findings: list[Finding] = []
        for repeats in state.repeats.values():
            if repeats.count < self._threshold or repeats.verb != "SELECT":
                continue
            shape = shape_of(repeats.template)
            if not shape.tables or not shape.read_only or is_catalog(shape.tables) or _changes_itself(shape):
                continue
            runs = self._longest(repeats, shape, state)
            if len(runs) >= self._threshold:
                finding = _finding(repeats, shape, runs)
                if runs[0].transaction and len(_driven(runs, [], _drivers(state, repeats))) < self._threshold:
                    finding.severity = state.severity(runs)
                findings.append(finding)
        return findings

    def _longest(self, repeats: Repeats, shape: Shape, record: Record) -> list[Run]:
        """The most runs with equal values in one scope and without a write to its tables in between."""
        tables = set(shape.tables)
        writers = {write.template.fingerprint: write for write in record.writes}
        changing = {fingerprint for fingerprint, write in writers.items() if _may_change(write, tables)}
        changes = [write.sequence for write in record.writes if write.template.fingerprint in changing]
        if record.writes_lost:
            changes.insert(0, record.writes_lost)
        drivers: list[list[Outcome]] | None = None
        best: list[Run] = []
        for number, part in _by_transaction(repeats.runs).items():
            if len(part) < self._threshold:
                continue
            if number:
                found = _largest(part, changes)
            else:
                if drivers is None:
                    drivers = _drivers(record, repeats)
                found = _driven(part, changes, drivers)
            if len(found) > len(best):
                best = found
        for part in _by_trace(repeats.runs).values():
            found = _largest(part, changes)
            if len(found) > len(best):
                best = found
        return best


def _by_trace(runs: list[Run]) -> dict[str, list[Run]]:
    out: dict[str, list[Run]] = {}
    for run in runs:
        if run.trace:
            out.setdefault(run.trace, []).append(run)
    return out


def _by_transaction(runs: list[Run]) -> dict[int, list[Run]]:
    out: dict[int, list[Run]] = {}
    for run in runs:
        out.setdefault(run.transaction, []).append(run)
    return out


def _largest(runs: list[Run], boundaries: list[int]) -> list[Run]:
    """The largest group of runs with equal values between two boundaries, which are sequence numbers in order."""
    groups: dict[tuple[int, tuple[Value, ...]], list[Run]] = {}
    best: list[Run] = []
    for run in runs:
        values = run.values()
        if not values and run.unknown:
            continue
        group = groups.setdefault((bisect_right(boundaries, run.sequence), values), [])
        group.append(run)
        if len(group) > len(best):
            best = group
    return best


def _drivers(record: Record, repeats: Repeats) -> list[list[Outcome]]:
    """The results of two or more rows by their template: what a loop could have gone over."""
    found: dict[str, list[Outcome]] = {}
    for template, outcome in record.lists():
        if template.fingerprint != repeats.template.fingerprint:
            found.setdefault(template.fingerprint, []).append(outcome)
    return list(found.values())


def _driven(runs: list[Run], changes: list[int], drivers: list[list[Outcome]]) -> list[Run]:
    """The largest group that follows one result with at least half as many rows, before that template ran again: what
    runs once for each list belongs to requests, what runs for each row to a loop."""
    best: list[Run] = []
    for lists in drivers:
        starts = [outcome.statement.sequence for outcome in lists]
        found = _largest([run for run in runs if run.sequence > starts[0]], sorted([*changes, *starts]))
        if len(found) > len(best):
            driver = lists[bisect_right(starts, found[0].sequence) - 1]
            if len(found) <= 2 * driver.rows:
                best = found
    return best


def _changes_itself(shape: Shape) -> bool:
    for function in shape.functions:
        bare = function.rpartition(".")[2]
        if bare in VOLATILE or bare.startswith(_LOCKING):
            return True
    return False


def _may_change(write: Write, tables: set[str]) -> bool:
    """Whether the write may have changed one of the tables; what is not understood may."""
    shape = shape_of(write.template)
    return not shape.written or not tables.isdisjoint(shape.written)


def _finding(repeats: Repeats, shape: Shape, runs: list[Run]) -> Finding:
    count = len(runs)
    return Finding(
        rule="redundant_query",
        severity=Severity.WARNING,
        confidence=Confidence.PROVEN,
        fingerprint=repeats.template.fingerprint,
        template=repeats.template.text,
        tables=shape.tables,
        count=count,
        distinct_params=1,
        total_ms=sum(run.server_s for run in runs) * 1000.0,
        avoidable_round_trips=count - 1,
        samples=list(repeats.samples),
    )
