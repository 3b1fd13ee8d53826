"""Adds up the findings of many units of work and lays out the report, version 1.

A rule speaks of one unit of work. The same page requested a thousand times gives a thousand findings that a reader wants
as one, with the largest repeat count and the number of times it was seen. What is the same:

- one finding for each rule, child fingerprint and set of the parent's tables. The same child under parents of two tables
  is two places in the application and two findings; two queries of the same tables feeding it is one, whose parent is
  that of the best evidence (proven before likely, then the largest count);
- where nothing was known of the parent, the finding joins the costliest one of the same rule and child that has a parent:
  a loop whose first query came before the connection was watched is not a second problem.

By default a report holds no value that the application sent: `samples` then holds the template. Statements as sent, and the
query of the advice with the values of a loop (`advice.example`), are included only on request, because there is personal data in
them.

Memory is bounded: findings, tags and samples are, and what falls out is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import nsmallest
from math import isfinite
from typing import Any, Final

from pgloupe_rules.example import example_of
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Severity

VERSION: Final = 1
MAX_FINDINGS: Final = 1_000
MAX_SAMPLES: Final = 3
MAX_SAMPLE_CHARACTERS: Final = 4_000
MAX_TAGS: Final = 20
MAX_TAG_VALUES: Final = 10
MAX_TAG_CHARACTERS: Final = 200

ROUND_TRIP_MS: Final = 1.0
"""What a round trip that could be saved weighs against a millisecond of statements, when findings are ordered."""

_RANK: Final = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}

_Key = tuple[str, str, tuple[str, ...] | None]


class Total:
    """Equal findings, added up. `finding` holds the sums; its parent, child and advice are those of the best evidence."""

    __slots__ = ("evidence", "finding", "occurrences")

    def __init__(self, finding: Finding) -> None:
        self.finding = Finding(
            finding.rule,
            finding.severity,
            finding.confidence,
            finding.fingerprint,
            finding.template,
            finding.tables,
            finding.count,
            finding.distinct_params,
            _finite(finding.total_ms),
            finding.avoidable_round_trips,
            finding.parent,
            finding.child,
            finding.advice,
            session=finding.session,
            foreign_key=finding.foreign_key,
            sent=finding.sent,
        )
        self.occurrences = 1
        self.evidence = _evidence(finding)
        self._collect(finding)

    def add(self, finding: Finding, occurrences: int = 1) -> None:
        """Take in another finding, seen in so many units of work."""
        mine = self.finding
        evidence = _evidence(finding)
        # What has no parent never replaces what has one: its advice would be the poorer.
        # Nor does what does not know the columns by the catalogs replace what does.
        if (
            evidence > self.evidence
            and (finding.parent is not None or mine.parent is None)
            and (_named(finding) or not _named(mine))
        ) or (_named(finding) and not _named(mine)):
            self.evidence = max(evidence, self.evidence)
            mine.foreign_key = finding.foreign_key
            mine.parent, mine.child = finding.parent, finding.child or mine.child
            if finding.advice is not None:
                mine.advice, mine.sent = (
                    finding.advice,
                    finding.sent or (mine.sent if _says_the_same(mine, finding) else None),
                )
        else:
            mine.parent, mine.child = mine.parent or finding.parent, mine.child or finding.child
            mine.advice = mine.advice or finding.advice
            if mine.sent is None and _says_the_same(mine, finding):
                mine.sent = finding.sent
        if finding.confidence is Confidence.PROVEN:
            mine.confidence = Confidence.PROVEN
        if _RANK[finding.severity] < _RANK[mine.severity]:
            mine.severity = finding.severity
        mine.count = max(mine.count, finding.count)
        mine.distinct_params = max(mine.distinct_params, finding.distinct_params)
        mine.total_ms += _finite(finding.total_ms)
        mine.avoidable_round_trips += finding.avoidable_round_trips
        self.occurrences += occurrences
        self._collect(finding)

    def _collect(self, finding: Finding) -> None:
        add_tags(self.finding.tags, finding.tags)
        _extend(self.finding.samples, finding.samples, MAX_SAMPLES, MAX_SAMPLE_CHARACTERS)

    def cost(self) -> float:
        return self.finding.total_ms + ROUND_TRIP_MS * self.finding.avoidable_round_trips


def add_tags(known: dict[str, list[str]], more: Mapping[str, Sequence[str]]) -> None:
    """Add the values of further tags, within the bounds."""
    for name, values in more.items():
        short = name[:MAX_TAG_CHARACTERS]
        if short not in known and len(known) >= MAX_TAGS:
            continue
        _extend(known.setdefault(short, []), values, MAX_TAG_VALUES, MAX_TAG_CHARACTERS)


def _extend(known: list[str], values: Iterable[str], limit: int, characters: int) -> None:
    for value in values:
        if len(known) >= limit:
            return
        if value[:characters] not in known:
            known.append(value[:characters])


def _finite(value: float) -> float:
    return value if isfinite(value) else 0.0


def _evidence(finding: Finding) -> tuple[bool, bool, int]:
    return finding.confidence is Confidence.PROVEN, finding.parent is not None, finding.count


def _says_the_same(one: Finding, other: Finding) -> bool:
    """Whether the values of one fit the advice of the other."""
    mine, its = one.advice, other.advice
    return mine is not None and its is not None and (mine.sql, mine.roles) == (its.sql, its.roles)


def _named(finding: Finding) -> bool:
    """Whether the server's catalogs were known to it."""
    return finding.parent is not None and bool(finding.parent.table)


def _worst_first(total: Total) -> tuple[int, float, str, str, str]:
    finding = total.finding
    parent = finding.parent.fingerprint if finding.parent is not None else ""
    return _RANK[finding.severity], -total.cost(), finding.rule, finding.fingerprint, parent


class Report:
    """What was found since the start."""

    def __init__(self, *, limit: int = MAX_FINDINGS) -> None:
        self._limit = limit
        self._totals: dict[_Key, Total] = {}
        self.dropped = 0
        """Distinct findings that were left out because there were more than `limit`: those that would be last."""

    def add(self, findings: Iterable[Finding]) -> None:
        """Add findings of units of work that ended; each counts as one unit of work."""
        for finding in findings:
            parent = finding.parent
            key = (finding.rule, finding.fingerprint, None if parent is None else tuple(sorted(parent.tables)))
            total = self._totals.get(key)
            if total is not None:
                total.add(finding)
                continue
            self._totals[key] = Total(finding)
            # A tenth more than the limit may gather, so that pruning costs little per finding.
            if len(self._totals) > self._limit + self._limit // 10:
                self._prune()

    def _prune(self) -> None:
        kept = nsmallest(self._limit, self._totals.items(), key=lambda item: _worst_first(item[1]))
        self.dropped += len(self._totals) - len(kept)
        self._totals = dict(kept)

    def totals(self, covered: Callable[[Finding], bool] | None = None) -> list[Total]:
        """The findings added up, worst first: by severity, then by milliseconds and round trips that could be saved.
        `covered` is asked of what has no parent and nothing to join: True leaves it out."""
        with_parent: dict[tuple[str, str], Total] = {}
        merged: list[Total] = []
        for (rule, fingerprint, tables), total in self._totals.items():
            if tables is None:
                continue
            copy = _copy(total)
            merged.append(copy)
            best = with_parent.get((rule, fingerprint))
            if best is None or best.cost() < copy.cost():
                with_parent[rule, fingerprint] = copy
        for (rule, fingerprint, tables), total in self._totals.items():
            if tables is not None:
                continue
            best = with_parent.get((rule, fingerprint))
            if best is not None:
                best.add(total.finding, total.occurrences)
            elif covered is None or not covered(total.finding):
                merged.append(_copy(total))
        merged.sort(key=_worst_first)
        return merged[: self._limit]

    def to_dict(
        self,
        statistics: Sequence[Mapping[str, Any]] = (),
        statements: int = 0,
        sessions: int = 0,
        duration_s: float = 0.0,
        *,
        show_values: bool = False,
        covered: Callable[[Finding], bool] | None = None,
    ) -> dict[str, Any]:
        """The report as its JSON has it. `statistics` are the rows of `ops.statistics`; `show_values` puts statements
        as sent into `samples`, where otherwise the template stands, and says `"values": true`; `covered` is as for
        `totals`."""
        return {
            "version": VERSION,
            "statements": statements,
            "sessions": sessions,
            "duration_s": round(_finite(duration_s), 3),
            **({"values": True} if show_values else {}),
            "findings": [_finding(total, show_values) for total in self.totals(covered)],
            "statistics": [dict(row) for row in statistics],
        }


def _copy(total: Total) -> Total:
    copy = Total(total.finding)
    copy.occurrences = total.occurrences
    copy.evidence = total.evidence
    return copy


def _finding(total: Total, show_values: bool) -> dict[str, Any]:
    finding = total.finding
    return {
        "rule": finding.rule,
        "severity": str(finding.severity),
        "confidence": str(finding.confidence),
        "fingerprint": finding.fingerprint,
        "template": finding.template,
        "tables": list(finding.tables),
        "count": finding.count,
        "occurrences": total.occurrences,
        "distinct_params": finding.distinct_params,
        "total_ms": round(finding.total_ms, 3),
        "avoidable_round_trips": finding.avoidable_round_trips,
        "parent": _parent(finding.parent),
        "child": _child(finding.child),
        **({"foreign_key": finding.foreign_key} if finding.foreign_key else {}),
        "advice": _advice(finding.advice, example_of(finding) if show_values else ""),
        "tags": {name: list(values) for name, values in finding.tags.items()},
        "samples": list(finding.samples) if show_values else [finding.template[:MAX_SAMPLE_CHARACTERS]],
    }


def _parent(parent: Parent | None) -> dict[str, Any] | None:
    if parent is None:
        return None
    return {
        "fingerprint": parent.fingerprint,
        "template": parent.template,
        "tables": list(parent.tables),
        "column": parent.column,
        **({"table": parent.table} if parent.table else {}),
        "rows": parent.rows,
    }


def _child(child: Child | None) -> dict[str, Any] | None:
    return (
        None
        if child is None
        else {
            "parameter": child.parameter,
            "column": child.column,
            **({"table": child.table} if child.table else {}),
        }
    )


def _advice(advice: Advice | None, example: str) -> dict[str, Any] | None:
    if advice is None:
        return None
    shown = {"kind": advice.kind, "sql": advice.sql, "text": advice.text}
    return {**shown, "example": example} if example else shown
