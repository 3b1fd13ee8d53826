"""Compares what was reported with what was expected, and adds up.

A finding is right when its rule is the expected one, the expected table is among those of its statement and, where the
expectation has a parent and the finding names one, the expected parent is among the parent's tables. A function that
returns rows is no table, so there the name in the statement's text will do. An alarm of a
counting rule is right when the table fits. Each expectation is met once; more findings of the same thing are neutral, as
are those that the input allows. A wrong parent costs twice: the expectation is missed, and the finding is false.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.accuracy.counting import Alarm
from bench.accuracy.trace import RULES, Expected
from pgloupe_rules.types import Finding

NOTHING = "nothing"
CLASSES = (*RULES, NOTHING)


@dataclass(frozen=True)
class Reported:
    """A finding, as far as it is judged."""

    rule: str
    """"" for a counting rule, which has none."""
    tables: tuple[str, ...]
    confidence: str = ""
    parent: tuple[str, ...] | None = None
    column: str = ""
    count: int = 0
    template: str = ""

    def __str__(self) -> str:
        source = "" if self.parent is None else f" from {'/'.join(self.parent)}.{self.column}"
        return f"{self.confidence} {self.rule} on {'/'.join(self.tables)}{source} times {self.count}".strip()


def bare(name: str) -> str:
    """A table's name without schema and quotes, in lower case."""
    return name.rpartition(".")[2].strip('"').lower()


def reported_by_engine(findings: Iterable[Finding]) -> list[Reported]:
    """Equal findings of several units of work are one, as in a report."""
    found: dict[tuple[Any, ...], Reported] = {}
    for finding in findings:
        parent = finding.parent
        one = Reported(
            finding.rule,
            tuple(map(bare, finding.tables)),
            finding.confidence.value,
            None if parent is None else tuple(map(bare, parent.tables)),
            "" if parent is None else parent.column,
            finding.count,
            finding.template,
        )
        key = (finding.rule, finding.fingerprint, one.parent)
        if key not in found or found[key].count < one.count:
            found[key] = one
    return list(found.values())


def reported_by_check(report: dict[str, Any]) -> list[Reported]:
    """The findings of a JSON report of `pgloupe check`."""
    found = []
    for finding in report["findings"]:
        parent = finding["parent"]
        found.append(
            Reported(
                finding["rule"],
                tuple(map(bare, finding["tables"])),
                finding["confidence"],
                None if parent is None else tuple(map(bare, parent["tables"])),
                "" if parent is None else parent["column"],
                finding["count"],
                finding["template"],
            )
        )
    return found


def reported_by_counting(alarms: Iterable[Alarm]) -> list[Reported]:
    return [Reported("", tuple(map(bare, alarm.tables))) for alarm in alarms]


@dataclass
class Verdict:
    """One input, one checker."""

    name: str
    kind: str
    label: str
    met: list[tuple[Expected, Reported]] = field(default_factory=list)
    missed: list[Expected] = field(default_factory=list)
    false: list[Reported] = field(default_factory=list)

    @property
    def right(self) -> bool:
        return not self.missed and not self.false

    def faults(self) -> list[str]:
        """What is wrong, in words; what a test asserts to be empty. Names and counts are looked at more closely here than
        in the figures."""
        out = [f"missed: {expected}" for expected in self.missed]
        out += [f"false: {reported}" for reported in self.false]
        for expected, reported in self.met:
            if expected.parent and reported.parent is None:
                out.append(f"no parent named: {reported}")
            elif expected.column and reported.column != expected.column:
                out.append(f"parent's column is {expected.column}: {reported}")
            if reported.count < expected.times:
                out.append(f"{expected.times} times: {reported}")
        return out


def judge(
    name: str,
    kind: str,
    expect: Sequence[Expected],
    allow: Sequence[Expected],
    reported: Iterable[Reported],
) -> Verdict:
    """Match each expectation with a finding, and tell what is left on either side."""
    verdict = Verdict(name, kind, expect[0].rule if expect else NOTHING)
    left = list(reported)
    for expected in expect:
        fitting = [one for one in left if _fits(expected, one)]
        if fitting:
            verdict.met.append((expected, max(fitting, key=lambda one: (one.parent is not None, one.count))))
        else:
            verdict.missed.append(expected)
    for one in left:
        if not any(_fits(expected, one) for expected in (*expect, *allow)):
            verdict.false.append(one)
    return verdict


def _fits(expected: Expected, one: Reported) -> bool:
    if one.rule and one.rule != expected.rule:
        return False
    table = bare(expected.table)
    if table not in one.tables and (one.tables or table not in one.template.lower()):
        return False
    return not expected.parent or one.parent is None or bare(expected.parent) in one.parent


@dataclass
class Score:
    """Figures over many inputs."""

    inputs: int = 0
    met: int = 0
    missed: int = 0
    false: int = 0
    proven: int = 0
    """Expectations with a parent that were met by a proven finding."""
    parents: int = 0
    """… of which the finding names the right one."""
    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Pairs of expected and reported class."""

    @property
    def precision(self) -> float | None:
        """Share of the findings that are right; None without any."""
        return self.met / (self.met + self.false) if self.met + self.false else None

    @property
    def recall(self) -> float | None:
        """Share of the expectations that were met; None without any."""
        return self.met / (self.met + self.missed) if self.met + self.missed else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "inputs": self.inputs,
            "true_positives": self.met,
            "false_negatives": self.missed,
            "false_positives": self.false,
            "precision": self.precision,
            "recall": self.recall,
            "proven_with_parent_expected": self.proven,
            "proven_with_parent_named": self.parents,
            "confusion": {
                expected: {reported: self.confusion[expected, reported] for reported in CLASSES} for expected in CLASSES
            },
        }


def add_up(verdicts: Iterable[Verdict]) -> Score:
    score = Score()
    for verdict in verdicts:
        score.inputs += 1
        score.met += len(verdict.met)
        score.missed += len(verdict.missed)
        score.false += len(verdict.false)
        for expected, reported in verdict.met:
            score.confusion[expected.rule, reported.rule or expected.rule] += 1
            if expected.parent and reported.confidence == "proven":
                score.proven += 1
                score.parents += reported.parent is not None
        left = list(verdict.false)
        for expected in verdict.missed:
            other = next((one for one in left if bare(expected.table) in one.tables), None)
            if other is not None:
                left.remove(other)
            score.confusion[expected.rule, (other.rule if other is not None else "") or NOTHING] += 1
        for one in left:
            score.confusion[NOTHING, one.rule or NOTHING] += 1
        if verdict.label == NOTHING and not verdict.false:
            score.confusion[NOTHING, NOTHING] += 1
    return score
