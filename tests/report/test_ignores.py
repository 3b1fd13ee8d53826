"""`[[ignore]]` rules: what they match, what they refuse, what they count."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe.config import settings
from pgloupe.errors import SettingsError
from pgloupe.report.ignores import Ignores, parse_ignore
from pgloupe.report.model import Report
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Confidence, Finding, Parent, Severity

SQL = "SELECT id FROM comment WHERE post_id = 17"
TEMPLATE = recognise(SQL)[0].template


def finding(**changes: Any) -> Finding:
    values: dict[str, Any] = {
        "rule": "n_plus_one",
        "severity": Severity.WARNING,
        "confidence": Confidence.PROVEN,
        "fingerprint": TEMPLATE.fingerprint,
        "template": TEMPLATE.text,
        "tables": ("comment",),
        "count": 8,
        "distinct_params": 8,
        "total_ms": 4.0,
        "avoidable_round_trips": 7,
        "parent": Parent("b" * 16, "SELECT id FROM post", ("post",), "id", 8),
        "tags": {"route": ["/posts/7"], "controller": ["posts"]},
    }
    values.update(changes)
    return Finding(**values)


def ignores(*rules: dict[str, Any]) -> Ignores:
    return Ignores([parse_ignore({"reason": "known", **rule}) for rule in rules])


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "n_plus_one"},
        {"fingerprint": TEMPLATE.fingerprint.upper()},
        {"template": "select  ID from Comment where post_id=$1 -- any spelling"},
        {"tables": ["comment"]},
        {"tables": ["author", "comment"]},
        {"parent": ["post"]},
        {"parent": "post"},
        {"route": "/posts/7"},
        {"route": "/posts/*"},
        {"route": "*"},
        {"route": "/*/7"},
        {"tags": {"controller": "post*", "route": "/posts/7"}},
        {"rule": "n_plus_one", "tables": ["comment"], "parent": ["post"], "route": "/posts/*"},
    ],
)
def test_a_rule_matches_what_it_names(rule: dict[str, Any]) -> None:
    assert ignores(rule).take([finding()]) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"rule": "redundant_query"},
        {"fingerprint": "0" * 16},
        {"template": "SELECT id FROM comment WHERE author_id = $1"},
        {"tables": ["post"]},
        {"parent": ["author"]},
        {"route": "/posts"},
        {"route": "/posts/*/edit"},
        {"route": "/p*s/*s/7"},
        {"tags": {"job": "*"}},
        {"rule": "n_plus_one", "tables": ["comment"], "route": "/authors/*"},
    ],
)
def test_a_rule_leaves_what_differs_in_anything_that_it_names(rule: dict[str, Any]) -> None:
    one = finding()
    assert ignores(rule).take([one]) == [one]


def test_tables_and_tags_match_only_whole() -> None:
    joined = finding(tables=("comment", "author"))
    two_routes = finding(tags={"route": ["/posts/7", "/authors"]})
    assert ignores({"tables": ["comment"]}).take([joined]) == [joined]
    assert ignores({"route": "/posts/*"}).take([two_routes]) == [two_routes]
    assert ignores({"tables": ["comment"]}).take([finding(tables=())]) != []


def test_a_rule_for_one_route_leaves_the_same_loop_on_another() -> None:
    report, rules = Report(), ignores({"route": "/posts/*"})
    report.add(rules.take([finding(), finding(tags={"route": ["/feed"]})]))
    (left,) = report.to_dict(covered=rules.covers)["findings"]
    assert left["tags"] == {"route": ["/feed"]}
    assert left["occurrences"] == 1


def test_where_the_parent_was_not_known_the_finding_goes_with_those_whose_parent_was() -> None:
    rules = ignores({"parent": ["post"], "route": "/posts/*"})
    for findings, left in (
        ([finding(), finding(parent=None)], 0),
        ([finding(parent=None), finding()], 0),
        ([finding(parent=None)], 1),
        ([finding(), finding(parent=None, tags={"route": ["/feed"]})], 1),
        ([finding(), finding(parent=None, rule="redundant_query")], 1),
    ):
        report, again = Report(), Ignores(rules.rules)
        report.add(again.take(findings))
        assert len(report.to_dict(covered=again.covers)["findings"]) == left


def test_what_a_rule_matched_is_counted_and_one_that_matched_nothing_is_told() -> None:
    rules = ignores({"tables": ["comment"]}, {"rule": "n_plus_one"}, {"tables": ["author"]})
    rules.take([finding(), finding(), finding(fingerprint="c" * 16)])
    assert [(rule["findings"], rule["occurrences"], rule["used"]) for rule in rules.to_list()] == [
        (2, 3, True),
        (0, 0, True),
        (0, 0, False),
    ]
    assert rules.to_list()[2] == {
        "number": 3,
        "match": {"tables": ["author"]},
        "reason": "known",
        "findings": 0,
        "occurrences": 0,
        "used": False,
    }


def test_many_stars_take_no_time_to_speak_of() -> None:
    one = finding(tags={"route": ["a" * 200]})
    assert ignores({"route": "*a" * 100 + "b"}).take([one]) == [one]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"tables": ["x"]}, ["needs a reason"]),
        ({"tables": ["x"], "reason": "  "}, ["needs a reason"]),
        ({"reason": "because"}, ["matches everything", "tables"]),
        ({"reason": "because", "table": ["x"]}, ["unknown key 'table'", "did you mean 'tables'"]),
        ({"reason": "because", "rule": "n_plus_on"}, ["no rule 'n_plus_on'", "did you mean 'n_plus_one'"]),
        ({"reason": "because", "fingerprint": "xyz"}, ["16 hex digits"]),
        ({"reason": "because", "template": "SELECT 1; SELECT 2"}, ["one statement"]),
        ({"reason": "because", "template": "SELECT 1", "fingerprint": "0" * 16}, ["either fingerprint or template"]),
        ({"reason": "because", "tables": []}, ["tables must be a list"]),
        ({"reason": "because", "parent": [1]}, ["parent must be a list"]),
        ({"reason": "because", "route": 7}, ["route must be a text"]),
        ({"reason": "because", "tags": {}}, ["tags is empty"]),
        ({"reason": "because", "tags": {"a": 1}}, ["tags must be a table"]),
        ({"reason": "because", "route": "/a", "tags": {"route": "/b"}}, ["the route twice"]),
    ],
)
def test_a_rule_that_cannot_be_used_is_one_sentence(rule: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        settings({"upstream": "postgres://u@h/db", "ignore": [rule]}, origin="pgloupe.toml")
    assert str(caught.value).startswith("pgloupe.toml: [[ignore]] rule 1: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [{"tables": ["x"]}, ["x"], "x"])
def test_ignore_that_is_no_list_of_tables_is_told_how_to_write_it(value: Any) -> None:
    with pytest.raises(SettingsError, match=r"write \[\[ignore\]\]"):
        settings({"upstream": "postgres://u@h/db", "ignore": value})
