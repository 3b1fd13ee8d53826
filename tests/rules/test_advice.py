"""Advice: SQL where it can be written safely, and it parses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlglot

from pgloupe_rules.advice import advise
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Severity
from support.traces import play

TRACES = sorted((Path(__file__).parent / "traces").glob("*.json"))


def advice(rule: str, sql: str, parameter: int = 1, *, tree: bool = False) -> Advice:
    template = recognise(sql)[0].template
    parent = Parent(template.fingerprint if tree else "0" * 16, "SELECT id FROM visit", ("visit",), "id", 6)
    found = advise(
        Finding(
            rule,
            Severity.WARNING,
            Confidence.PROVEN,
            template.fingerprint,
            template.text,
            ("t",),
            6,
            6,
            3.0,
            5,
            parent=parent,
            child=Child(parameter, "k"),
        )
    )
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("sql", "parameter", "kind", "better"),
    [
        ("SELECT id, name FROM d WHERE id = $1", 1, "any_array", "SELECT id, name FROM d WHERE id = ANY($1)"),
        ("SELECT name FROM d WHERE id = $1", 1, "any_array", "SELECT id, name FROM d WHERE id = ANY($1)"),
        ("SELECT * FROM d WHERE $1 = id", 1, "any_array", "SELECT * FROM d WHERE id = ANY($1)"),
        ("SELECT id FROM d WHERE id IN ($1)", 1, "any_array", "SELECT id FROM d WHERE id = ANY($1)"),
        ("SELECT id FROM d WHERE id = ANY($1)", 1, "any_array", "SELECT id FROM d WHERE id = ANY($1)"),
        (
            "SELECT name FROM d WHERE c = $1 AND id = $2",
            2,
            "any_array",
            "SELECT id, name FROM d WHERE c = $1 AND id = ANY($2)",
        ),
        ("SELECT id, a FROM d WHERE id = 7 LIMIT 1", 1, "any_array", "SELECT id, a FROM d WHERE id = ANY($1)"),
        (
            "SELECT t.a FROM t JOIN u ON u.t = t.id WHERE u.k = $1 ORDER BY t.a",
            1,
            "any_array",
            "SELECT u.k, t.a FROM t JOIN u ON u.t = t.id WHERE u.k = ANY($1) ORDER BY t.a",
        ),
        (
            "SELECT count(*) FROM n WHERE k = $1",
            1,
            "group_by",
            "SELECT k, COUNT(*) FROM n WHERE k = ANY($1) GROUP BY k",
        ),
        (
            "SELECT body FROM n WHERE k = $1 ORDER BY id DESC LIMIT 1",
            1,
            "lateral",
            "SELECT keys.key, child.* FROM (SELECT DISTINCT k AS key FROM n WHERE k = ANY($1)) AS keys "
            "CROSS JOIN LATERAL (SELECT body FROM n WHERE k = keys.key ORDER BY id DESC LIMIT $2) AS child",
        ),
    ],
)
def test_a_read_per_row_becomes_one_read(sql: str, parameter: int, kind: str, better: str) -> None:
    found = advice("n_plus_one", sql, parameter)
    assert (found.kind, found.sql) == (kind, better)


@pytest.mark.parametrize(
    ("sql", "better"),
    [
        ("INSERT INTO t (a, b) VALUES ($1, $2)", "INSERT INTO t (a, b) VALUES ($1, $2), ($3, $4)"),
        ("INSERT INTO t (a) VALUES (4) RETURNING id", "INSERT INTO t (a) VALUES ($1), ($2) RETURNING id"),
        ("DELETE FROM t WHERE id = $1", "DELETE FROM t WHERE id = ANY($1)"),
        ("UPDATE t SET n = n + m WHERE id = $1", "UPDATE t SET n = n + m WHERE id = ANY($1)"),
        ("UPDATE t SET n = $1 WHERE id = $2", ""),
        ("DELETE FROM t WHERE id = $1 AND version = $2", ""),
        ("INSERT INTO t (a) VALUES ($1) ON CONFLICT (a) DO UPDATE SET b = $2", ""),
        ("INSERT INTO t DEFAULT VALUES", ""),
    ],
)
def test_a_write_per_row_becomes_one_write_where_the_template_says_enough(sql: str, better: str) -> None:
    found = advice("n_plus_one_write", sql)
    assert (found.kind, found.sql) == ("batch_write", better)
    assert found.text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t WHERE id = $1 OR b = 2",
        "SELECT DISTINCT a FROM t WHERE id = $1",
        "SELECT a, count(*) FROM t WHERE id = $1 GROUP BY a",
        "SELECT a FROM t WHERE id = $1 UNION SELECT b FROM u",
        "WITH c AS (SELECT 1 AS x) SELECT a FROM t WHERE id = $1",
        "SELECT EXISTS (SELECT 1 FROM t WHERE id = $1)",
        "SELECT a FROM t WHERE lower(b) = $1",
        "SELECT a FROM t WHERE id = $1 OFFSET 5",
        "SELECT a FROM t JOIN u USING (x) WHERE id = $1 ORDER BY a LIMIT 3",
        "SELECT a FROM t WHERE NOT (id = $1)",
        "SELEKT a FRUM t",
        "",
    ],
)
def test_what_is_not_understood_gets_text_without_sql(sql: str) -> None:
    template = sql or "x"
    found = advice("n_plus_one", template)
    assert found.sql == ""
    assert "6 queries" in found.text


def test_a_tree_gets_a_recursive_cte_in_words() -> None:
    found = advice("n_plus_one", "SELECT id FROM unit WHERE parent_unit = $1", tree=True)
    assert found.sql == ""
    assert "WITH RECURSIVE" in found.text


def test_a_redundant_query_is_to_be_kept() -> None:
    found = advice("redundant_query", "SELECT value FROM setting WHERE name = $1")
    assert (found.kind, found.sql) == ("reuse", "")
    assert "6 times" in found.text


def test_the_text_names_the_parent() -> None:
    assert "visit.id" in advice("n_plus_one", "SELECT a FROM t WHERE k = $1").text


def test_a_rule_without_advice_gets_none() -> None:
    finding = Finding("slow_query", Severity.WARNING, Confidence.PROVEN, "0" * 16, "SELECT 1", (), 1, 0, 1.0, 0)
    assert advise(finding) is None


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_all_sql_in_the_advice_of_the_traces_parses(path: Path) -> None:
    for finding in play(json.loads(path.read_text())):
        assert finding.advice is not None
        assert finding.advice.text
        if finding.advice.sql:
            assert sqlglot.parse_one(finding.advice.sql, dialect="postgres").sql(dialect="postgres")
