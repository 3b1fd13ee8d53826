"""Advice: SQL where it can be written safely, and it parses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot

from pgloupe_rules.advice import advise
from pgloupe_rules.normalise import recognise
from pgloupe_rules.orm import library_of, line_for
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Severity
from support.traces import play

TRACES = sorted((Path(__file__).parent / "traces").glob("*.json"))


def finding(rule: str, sql: str, child: Child | None, parent: Parent | None) -> Finding:
    template = recognise(sql)[0].template
    return Finding(
        rule,
        Severity.WARNING,
        Confidence.PROVEN,
        template.fingerprint,
        template.text if len(recognise(sql)) == 1 else sql,
        ("t",),
        6,
        6,
        3.0,
        5,
        parent=parent,
        child=child,
    )


POST = Parent("0" * 16, "SELECT id FROM visit", ("visit",), "id", 6)


def advice(rule: str, sql: str, parameter: int = 1, *, tree: bool = False) -> Advice:
    parent = POST
    if tree:
        parent = replace(POST, fingerprint=recognise(sql)[0].template.fingerprint)
    found = advise(finding(rule, sql, Child(parameter, "k"), parent))
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
        ("DELETE FROM t WHERE id = $1 AND version = $2", "DELETE FROM t WHERE id = ANY($1) AND version = $2"),
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
        "SELECT a FROM t WHERE lower(b) = $1",
        "SELECT a FROM t WHERE id = $1 OR b = 2",
        "SELECT a FROM t WHERE id = $1 UNION SELECT b FROM u",
        "WITH c AS (SELECT 1 AS x) SELECT a FROM c WHERE x = $1",
        "SELECT a FROM (SELECT id, a FROM t) AS s JOIN u USING (x) WHERE s.id = $1 ORDER BY a LIMIT 3",
        "SELECT a FROM t WHERE NOT (id = $1)",
        "SELEKT a FRUM t",
        "x",
        "SELECT a FROM t WHERE id = $1; SELECT 2",
        "SELECT " + "a, " * 9000 + "b FROM t WHERE id = $1",
    ],
    ids=lambda sql: sql[:60],
)
@pytest.mark.parametrize(
    "parent",
    [
        None,
        Parent("0" * 16, "SELECT id FROM visit FOR UPDATE", ("visit",), "id", 6),
        Parent(
            "0" * 16, "SELECT v.id, p.id FROM visit v JOIN patient p ON p.visit = v.id", ("visit", "patient"), "id", 6
        ),
        Parent("0" * 16, "SELECT * FROM visit v JOIN patient p ON p.visit = v.id", ("visit", "patient"), "id", 6),
        Parent("0" * 16, "SELECT lower(name) FROM visit", ("visit",), "id", 6),
        Parent("0" * 16, "FETCH 5 FROM c", (), "id", 6),
    ],
    ids=lambda parent: "no parent" if parent is None else parent.template[:40],
)
def test_where_no_safe_form_is_known_there_is_text_and_no_sql(sql: str, parent: Parent | None) -> None:
    found = advise(finding("n_plus_one", sql, Child(1, "k"), parent))
    assert found is not None
    assert found.sql == ""
    assert "6 queries" in found.text


@pytest.mark.parametrize(
    ("sql", "varying"),
    [
        ("SELECT a FROM t WHERE id = $1 AND b > $2", (1, 2)),
        ("SELECT a FROM t WHERE id = $1 OR b = $2", (1, 2)),
        ("SELECT $1 AS page, a FROM t WHERE id = $2", (1, 2)),
        ("SELECT a FROM t WHERE id = $1 AND b = $2 LIMIT 3", (1, 2)),
    ],
)
def test_what_varies_beside_the_key_is_not_lost(sql: str, varying: tuple[int, ...]) -> None:
    found = advise(finding("n_plus_one", sql, Child(varying[-1], "k", varying=varying), POST))
    assert found is not None
    assert found.sql == ""


@pytest.mark.parametrize(
    ("sql", "number", "keys"),
    [
        ("SELECT EXISTS (SELECT 1 FROM t WHERE b = 'x' AND id = 7)", 3, "id = ANY($2)"),
        ("SELECT EXISTS (SELECT 1 FROM t WHERE id = 7 AND b = 'x')", 2, "id = ANY($1)"),
        ("SELECT 1 AS one, a FROM t WHERE b = 'x' AND id = 7", 3, "id = ANY($3)"),
    ],
)
def test_the_placeholder_that_takes_the_keys_is_named_as_the_sql_has_it(sql: str, number: int, keys: str) -> None:
    found = advise(finding("n_plus_one", sql, Child(number, "id", varying=(number,)), POST))
    assert found is not None
    assert keys in found.sql
    assert f"{keys[9:11]} takes an array of the keys" in found.text


@pytest.mark.parametrize("column", ["id", "Id"])
def test_a_parent_is_joined_by_the_name_that_its_result_has(column: str) -> None:
    name = column if column == "id" else f'"{column}"'
    parent = Parent("0" * 16, f"SELECT n AS {name} FROM visit WHERE day = $1", ("visit",), "n", 6, output=column)
    found = advise(finding("n_plus_one", "SELECT a FROM t WHERE c = $1 OR d < $2", Child(1, "c", varying=(1,)), parent))
    assert found is not None
    assert found.kind == "join"
    assert found.sql == (
        f"SELECT keys.key, child.* FROM (SELECT DISTINCT parent.{name} AS key FROM (SELECT n AS {name} FROM visit "
        "WHERE day = $1) AS parent) AS keys CROSS JOIN LATERAL (SELECT a FROM t WHERE c = keys.key OR d < $2) AS child"
    )


def test_a_tree_gets_a_recursive_cte() -> None:
    found = advice("n_plus_one", "SELECT id FROM unit WHERE parent_unit = $1", tree=True)
    assert found.sql == (
        "WITH RECURSIVE tree AS (SELECT unit.id FROM unit WHERE unit.parent_unit = $1 UNION ALL "
        "SELECT unit.id FROM unit CROSS JOIN tree WHERE unit.parent_unit = tree.id) SELECT * FROM tree"
    )
    assert "WITH RECURSIVE" in found.text


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM unit WHERE parent_unit = $1",
        "SELECT id FROM unit WHERE parent_unit = $1 LIMIT 5",
        "SELECT u.id FROM unit u JOIN staff s ON s.unit = u.id WHERE parent_unit = $1",
        "SELECT count(id) AS id FROM unit WHERE parent_unit = $1 GROUP BY kind",
        "SELECT id FROM unit WHERE path @> $1",
    ],
)
def test_a_tree_of_another_form_gets_words(sql: str) -> None:
    found = advice("n_plus_one", sql, tree=True)
    assert found.sql == ""
    assert "WITH RECURSIVE" in found.text


def test_a_redundant_query_is_to_be_kept() -> None:
    found = advice("redundant_query", "SELECT value FROM setting WHERE name = $1")
    assert (found.kind, found.sql) == ("reuse", "")
    assert "6 times" in found.text


def test_the_text_names_the_parent() -> None:
    assert "visit.id" in advice("n_plus_one", "SELECT a FROM t WHERE k = $1").text


def test_a_rule_without_advice_gets_none() -> None:
    slow = Finding("slow_query", Severity.WARNING, Confidence.PROVEN, "0" * 16, "SELECT 1", (), 1, 0, 1.0, 0)
    assert advise(slow) is None


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_all_sql_in_the_advice_of_the_traces_parses(path: Path) -> None:
    for found in play(json.loads(path.read_text())):
        assert found.advice is not None
        assert found.advice.text
        if found.advice.sql:
            assert sqlglot.parse_one(found.advice.sql, dialect="postgres").sql(dialect="postgres")


SQLALCHEMY = "SELECT author.id AS author_id, author.name AS author_name \nFROM author \nWHERE author.id = 5"
TYPEORM = 'SELECT "Post"."id" AS "Post_id", "Post"."title" AS "Post_title" FROM "post" "Post" WHERE "Post"."id" = $1'
DRIZZLE = 'select "id", "post_id" from "comment" where "comment"."post_id" = $1'
PRISMA = 'SELECT "public"."Post"."id" FROM "public"."Post" WHERE ("public"."Post"."id" = $1 AND 1=1) LIMIT $2 OFFSET $3'
SEQUELIZE = 'SELECT "id", "title" FROM "Posts" AS "Post" WHERE "Post"."id" = 1;'
DJANGO = 'SELECT "blog_post"."id", "blog_post"."title" FROM "blog_post" WHERE "blog_post"."id" = 7 LIMIT 21'
RAILS = 'SELECT "users".* FROM "users" WHERE "users"."id" = $1 LIMIT $2'
HIBERNATE = "select p1_0.id,p1_0.title from post p1_0 where p1_0.id=$1"


@pytest.mark.parametrize(
    ("tags", "sample", "name"),
    [
        ({}, SQLALCHEMY, "SQLAlchemy"),
        ({}, TYPEORM, "TypeORM"),
        ({}, DRIZZLE, "Drizzle"),
        ({}, PRISMA, "Prisma"),
        ({}, SEQUELIZE, "Sequelize"),
        ({}, DJANGO, "Django"),
        ({}, RAILS, "Active Record"),
        ({}, HIBERNATE, "Hibernate"),
        ({"framework": ["django:5.1"]}, "SELECT 1", "Django"),
        ({"db_driver": ["sequelize:6.35.0"]}, "SELECT 1", "Sequelize"),
        ({"framework": ["rails_v7.1"]}, "SELECT 1", "Active Record"),
        ({"application": ["Shop"], "controller": ["posts"], "action": ["index"]}, "SELECT 1", "Active Record"),
        ({}, "SELECT id, name FROM author WHERE id = $1", ""),
        ({}, 'SELECT "id", "name" FROM "author" WHERE "id" = $1', ""),
        ({}, 'select "id", "name" from "author" where "id" = $1', ""),
        ({}, "SELECT a.id AS a_id, count(*) FROM a WHERE a.id = 1", ""),
        ({"framework": ["flask:3"]}, "SELECT id FROM t WHERE id = 1", ""),
        ({"application_name": ["psql"]}, "SELECT id FROM t WHERE id = 1", ""),
    ],
)
def test_the_library_is_named_only_where_the_traffic_shows_it(
    tags: dict[str, list[str]], sample: str, name: str
) -> None:
    assert library_of(tags, [sample]) == name
    assert bool(line_for("n_plus_one", tags, [sample])) is bool(name)


def test_statements_of_two_styles_name_no_library() -> None:
    assert library_of({}, [SQLALCHEMY, RAILS]) == ""
    assert library_of({}, []) == ""


def test_the_line_is_in_the_advice_of_reads_and_writes_and_of_nothing_else() -> None:
    for rule, word in (
        ("n_plus_one", "prefetch_related"),
        ("n_plus_one_write", "bulk_create"),
        ("redundant_query", ""),
    ):
        one = finding(rule, "SELECT a FROM t WHERE id = $1", Child(1, "id"), POST)
        one.tags["framework"] = ["django"]
        found = advise(one)
        assert found is not None
        assert (word in found.text) if word else ("Django" not in found.text)
