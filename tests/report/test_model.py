"""Findings of many units of work become the findings of one report."""

from __future__ import annotations

import json
from typing import Any

from pgloupe.report.model import MAX_SAMPLES, MAX_TAG_VALUES, MAX_TAGS, Report
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Severity

SECRET = "alice@example.org"


def post(fingerprint: str = "a" * 16, *, tables: tuple[str, ...] = ("post",), rows: int = 8) -> Parent:
    return Parent(fingerprint, "SELECT id FROM post", tables, "id", rows)


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "n_plus_one",
        "severity": Severity.WARNING,
        "confidence": Confidence.LIKELY,
        "fingerprint": "c" * 16,
        "template": "SELECT id FROM comment WHERE post_id = $1",
        "tables": ("comment",),
        "count": 8,
        "distinct_params": 7,
        "total_ms": 4.0,
        "avoidable_round_trips": 7,
    }
    values.update(changes)
    return Finding(**values)


def findings(report: Report, **options: Any) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = report.to_dict(**options)["findings"]
    return out


def test_equal_findings_add_up_over_units_of_work() -> None:
    report = Report()
    report.add([finding(count=8, distinct_params=7, total_ms=4.0, avoidable_round_trips=7)])
    report.add([finding(count=12, distinct_params=3, total_ms=2.5, avoidable_round_trips=11)])
    report.add([finding(count=5, distinct_params=5, total_ms=0.25, avoidable_round_trips=4)])
    (only,) = findings(report)
    assert (only["count"], only["occurrences"], only["distinct_params"]) == (12, 3, 7)
    assert (only["total_ms"], only["avoidable_round_trips"]) == (6.75, 22)


def test_the_json_has_the_documented_keys_and_nulls() -> None:
    report = Report()
    report.add([finding()])
    row = {"fingerprint": "c" * 16, "template": "SELECT 1", "calls": 1}
    document = report.to_dict([row], statements=9, sessions=2, duration_s=1.23456)
    assert list(document) == ["version", "statements", "sessions", "duration_s", "findings", "statistics"]
    assert (document["version"], document["statements"], document["sessions"]) == (1, 9, 2)
    assert document["duration_s"] == 1.235
    assert document["statistics"] == [row]
    assert document["findings"] == [
        {
            "rule": "n_plus_one",
            "severity": "warning",
            "confidence": "likely",
            "fingerprint": "c" * 16,
            "template": "SELECT id FROM comment WHERE post_id = $1",
            "tables": ["comment"],
            "count": 8,
            "occurrences": 1,
            "distinct_params": 7,
            "total_ms": 4.0,
            "avoidable_round_trips": 7,
            "parent": None,
            "child": None,
            "advice": None,
            "tags": {},
            "samples": ["SELECT id FROM comment WHERE post_id = $1"],
        }
    ]


def test_parent_child_and_advice_are_objects() -> None:
    report = Report()
    report.add([finding(parent=post(), child=Child(1, "post_id"), advice=Advice("join", "SELECT 1", "Join."))])
    (only,) = findings(report)
    assert only["parent"] == {
        "fingerprint": "a" * 16,
        "template": "SELECT id FROM post",
        "tables": ["post"],
        "column": "id",
        "rows": 8,
    }
    assert only["child"] == {"parameter": 1, "column": "post_id"}
    assert only["advice"] == {"kind": "join", "sql": "SELECT 1", "text": "Join."}


def test_a_finding_without_a_parent_joins_the_one_with_a_parent_whichever_came_first() -> None:
    with_parent = finding(parent=post(), child=Child(1, "post_id"), confidence=Confidence.PROVEN, count=3)
    without = finding(count=20, advice=Advice("any_array", "…", "poorer"))
    for order in ([with_parent, without], [without, with_parent]):
        report = Report()
        report.add(order)
        (only,) = findings(report)
        assert only["parent"]["fingerprint"] == "a" * 16
        assert only["child"] == {"parameter": 1, "column": "post_id"}
        assert (only["confidence"], only["count"], only["occurrences"]) == ("proven", 20, 2)


def test_a_proven_finding_without_a_parent_does_not_take_the_advice_from_one_with_a_parent() -> None:
    report = Report()
    report.add([finding(parent=post(), advice=Advice("join", "SELECT 1", "Join."))])
    report.add([finding(confidence=Confidence.PROVEN, advice=Advice("any_array", "SELECT 2", "Any."))])
    (only,) = findings(report)
    assert only["parent"] is not None
    assert only["confidence"] == "proven"
    assert only["advice"]["kind"] == "join"


def test_it_joins_the_costliest_of_several_parents_and_only_of_its_own_rule_and_query() -> None:
    report = Report()
    report.add([finding(parent=post(), total_ms=1.0), finding(parent=post(tables=("author",)), total_ms=50.0)])
    report.add([finding(), finding(rule="redundant_query"), finding(fingerprint="d" * 16)])
    by_key = {
        (found["rule"], found["fingerprint"], tuple((found["parent"] or {"tables": ()})["tables"])): found[
            "occurrences"
        ]
        for found in findings(report)
    }
    assert by_key == {
        ("n_plus_one", "c" * 16, ("post",)): 1,
        ("n_plus_one", "c" * 16, ("author",)): 2,
        ("redundant_query", "c" * 16, ()): 1,
        ("n_plus_one", "d" * 16, ()): 1,
    }


def test_parents_of_the_same_tables_are_one_finding_with_the_best_evidence() -> None:
    report = Report()
    report.add([finding(parent=post("1" * 16), count=9)])
    report.add([finding(parent=post("2" * 16), count=4, confidence=Confidence.PROVEN)])
    report.add([finding(parent=post("3" * 16), count=30)])
    (only,) = findings(report)
    assert only["parent"]["fingerprint"] == "2" * 16
    assert (only["confidence"], only["count"], only["occurrences"]) == ("proven", 30, 3)


def test_reading_the_report_does_not_change_it() -> None:
    report = Report()
    report.add([finding(parent=post()), finding(tags={"route": ["/a"]})])
    assert report.to_dict() == report.to_dict()


def test_the_caller_s_findings_are_not_changed() -> None:
    mine = finding(tags={"route": ["/a"]}, samples=["one"])
    report = Report()
    report.add([mine, finding(tags={"route": ["/b"]}, samples=["two"], total_ms=9.0)])
    assert (mine.tags, mine.samples, mine.total_ms) == ({"route": ["/a"]}, ["one"], 4.0)


def test_worst_first_by_severity_then_by_milliseconds_and_round_trips() -> None:
    report = Report()
    report.add(
        [
            finding(fingerprint="1" * 16, severity=Severity.INFO, total_ms=1000.0),
            finding(fingerprint="2" * 16, total_ms=1.0, avoidable_round_trips=5),
            finding(fingerprint="3" * 16, total_ms=1.0, avoidable_round_trips=50),
            finding(fingerprint="4" * 16, severity=Severity.ERROR, total_ms=0.1, avoidable_round_trips=1),
            finding(fingerprint="5" * 16, total_ms=40.0, avoidable_round_trips=5),
        ]
    )
    assert [found["fingerprint"][0] for found in findings(report)] == ["4", "3", "5", "2", "1"]


def test_the_worst_severity_wins() -> None:
    report = Report()
    report.add([finding(severity=Severity.INFO), finding(severity=Severity.ERROR), finding()])
    assert findings(report)[0]["severity"] == "error"


def test_no_value_is_in_the_report_unless_asked_for() -> None:
    report = Report()
    sample = f"SELECT id FROM comment WHERE email = '{SECRET}'"
    report.add([finding(samples=[sample])])
    assert SECRET not in json.dumps(report.to_dict())
    assert findings(report)[0]["samples"] == ["SELECT id FROM comment WHERE post_id = $1"]
    assert findings(report, show_values=True)[0]["samples"] == [sample]


def test_tags_are_the_union_of_those_seen_and_bounded() -> None:
    report = Report()
    report.add([finding(tags={"route": ["/a"]}), finding(tags={"route": ["/b", "/a"], "application_name": ["shop"]})])
    assert findings(report)[0]["tags"] == {"route": ["/a", "/b"], "application_name": ["shop"]}
    for number in range(100):
        report.add(
            [finding(tags={"route": [f"/{number}"], f"{'n' * 300}{number}": ["x"], f"tag{number}": ["y" * 999]})]
        )
    tags = findings(report)[0]["tags"]
    assert len(tags) == MAX_TAGS
    assert len(tags["route"]) == MAX_TAG_VALUES
    assert max(len(name) for name in tags) == max(len(value) for values in tags.values() for value in values) == 200


def test_samples_are_distinct_and_bounded() -> None:
    report = Report()
    for text in ("one", "one", "two", "x" * 10_000, "four"):
        report.add([finding(samples=[text])])
    samples = findings(report, show_values=True)[0]["samples"]
    assert samples[:2] == ["one", "two"]
    assert len(samples) == MAX_SAMPLES
    assert len(samples[2]) == 4_000


def test_the_number_of_findings_is_bounded_and_the_costliest_stay() -> None:
    report = Report(limit=20)
    report.add(finding(fingerprint=f"{number:016x}", total_ms=float(number % 100)) for number in range(500))
    kept = findings(report)
    assert len(kept) == 20
    assert {found["total_ms"] for found in kept} == {float(number) for number in range(96, 100)}
    assert report.dropped >= 500 - 22


def test_times_that_are_no_number_do_not_make_invalid_json() -> None:
    report = Report()
    report.add([finding(total_ms=float("nan")), finding(total_ms=float("inf")), finding(total_ms=1.0)])
    document = report.to_dict(duration_s=float("inf"))
    json.dumps(document, allow_nan=False)
    assert document["findings"][0]["total_ms"] == 1.0
