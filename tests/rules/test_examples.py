"""The query of an advice with the values that the loop sent, pasted into psql: it gives the rows that the loop got."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.example import example_of
from pgloupe_rules.literals import array, quoted
from pgloupe_rules.record import MAX_VALUE_CHARS
from pgloupe_rules.sent import MAX_KEYS
from pgloupe_rules.types import Column, Finding
from support.psql import paste
from support.servers import Postgres
from support.traces import Player

SCHEMA = """
CREATE SCHEMA "Odd Schema";
CREATE TABLE part (id int PRIMARY KEY, code uuid, word text, price numeric, ratio real, born timestamptz, seen timestamp,
    name varchar(40), hash bytea, number int, digits text, zone int, parent_id int);
CREATE TABLE "Odd Schema"."Mixed Case" ("Id" int PRIMARY KEY, "theWord" text);
"""

WORDS = [
    "plain",
    "",
    "NULL",
    "null",
    "it's",
    'say "so"',
    "a,b",
    "{c}",
    "\\",
    "\\x41",
    "two  blanks",
    " edge ",
    "tab\there",
]
WORDS += [
    "line\nbreak",
    "$1",
    ":'DBNAME'",
    ":DBNAME",
    "größe",
    "日本",
    "\U0001f600",
    "--",
    "/* */",
    "bell\x07",
    "\u202eturned",
]
CODES = [UUID(int=0xA0EEBC999C0B4EF8BB6D6BB9BD380A00 + n) for n in range(len(WORDS))]
PRICES = [Decimal(n) / 8 for n in range(len(WORDS))]
BORN = [dt.datetime(2024, 3, 1, n % 24, 30, tzinfo=dt.UTC) for n in range(len(WORDS))]
HASHES = [bytes([n, 0, 92, 39, 255 - n]) for n in range(len(WORDS))]
MD5 = [f"{n:02x}D41D8CD98F00B204E9800998ECF8427E"[:32] for n in range(len(WORDS))]


@pytest.fixture(scope="module")
def parts(postgres: Postgres) -> str:
    url = postgres.create_database()
    with psycopg.connect(url) as connection:
        connection.execute(SCHEMA)
        for n, word in enumerate(WORDS):
            values = [n, CODES[n], word, PRICES[n], n / 8, BORN[n], BORN[n].replace(tzinfo=None), word, HASHES[n]]
            values += [n * 7, MD5[n] if n % 2 else f"{n}.50", n % 3, n // 2 if n else None]
            marks = sql.SQL(", ").join([sql.Placeholder()] * len(values))
            connection.execute(sql.SQL("INSERT INTO part VALUES ({})").format(marks), values)
            connection.execute('INSERT INTO "Odd Schema"."Mixed Case" VALUES (%s, %s)', (n, word))
    return url


def literal(value: Any) -> str:
    """As a driver inlines it."""
    if isinstance(value, (int, Decimal)):
        return str(value)
    if isinstance(value, bytes):
        return f"'\\x{value.hex()}'"
    return quoted(str(value))


class Run(NamedTuple):
    sql: str
    params: list[Any] | None = None


def found(runs: list[Run], given: list[Any], parent: Run | None = None, type_oid: int = 0) -> Finding:
    """The finding of a loop behind a list of one column, `id`."""
    player = Player(Engine(Settings()))
    player.run("BEGIN")
    first = parent or Run("SELECT id FROM list ORDER BY id")
    (outcome,) = player.run(first.sql, first.params, {"id": given})
    outcome.columns = (Column("id", type_oid=type_oid),)
    for run in runs:
        player.run(run.sql, run.params, {"x": [1]})
    (finding,) = player.close()
    return finding


def answers(url: str, runs: list[Run]) -> list[tuple[Any, ...]]:
    """What the loop gets from the server."""
    rows: list[tuple[Any, ...]] = []
    with psycopg.connect(url) as connection:
        for run in runs:
            cursor = psycopg.RawCursor(connection)
            rows += cursor.execute(run.sql, run.params).fetchall()
    return sorted(rows)


def check(postgres: Postgres, url: str, finding: Finding, runs: list[Run]) -> str:
    """The last columns of the example's rows are those of the loop's. Gives the example."""
    example = example_of(finding)
    assert example
    assert "\n" not in example
    expected = sorted(tuple(map(str, row)) for row in answers(url, runs))
    assert expected
    width = len(expected[0])
    assert sorted(row[-width:] for row in paste(postgres, url, example)) == expected
    return example


def _name(value: Any) -> str:
    return str(value[0] if isinstance(value, list) else value)


INLINE = [
    ("code", CODES, "= {}"),
    ("code", CODES, "= {}::uuid"),
    ("code", CODES, "IN ({}::uuid)"),
    ("word", WORDS, "= {}"),
    ("name", WORDS, "= {}"),
    ("name", WORDS, "= {}::varchar(40)"),
    ("price", PRICES, "= {}"),
    ("price", PRICES, "= {}::numeric"),
    ("ratio", PRICES, "= {}"),
    ("born", BORN, "= {}"),
    ("born", [f"2024-03-01 {n:02}:30:00+02" for n in range(2, 24)], "= {}"),
    ("seen", [moment.replace(tzinfo=None) for moment in BORN], "= {}"),
    ("hash", HASHES, "= {}"),
    ("number", [n * 7 for n in range(9)], "= {}"),
    ("number", [str(n * 7) for n in range(9)], "= {}"),
    ("digits", MD5, "= {}"),
    ("digits", [f"{n}.50" for n in range(8)], "= {}"),
]


@pytest.mark.parametrize(("column", "keys", "condition"), INLINE, ids=_name)
def test_literals_of_every_type_come_back_as_keys(
    postgres: Postgres, parts: str, column: str, keys: list[Any], condition: str
) -> None:
    runs = [Run(f"SELECT id FROM part WHERE {column} {condition.format(literal(key))}") for key in keys]
    check(postgres, parts, found(runs, keys), runs)


@pytest.mark.parametrize(
    ("column", "keys"),
    [("code", CODES), ("word", WORDS), ("price", PRICES), ("born", BORN), ("number", [7, 14, 21, 28]), ("digits", MD5)],
    ids=_name,
)
def test_parameters_of_every_type_come_back_as_keys(
    postgres: Postgres, parts: str, column: str, keys: list[Any]
) -> None:
    runs = [Run(f"SELECT id FROM part WHERE {column} = $1 AND zone < $2", [key, 2]) for key in keys]
    assert "AND zone < '2'" in check(postgres, parts, found(runs, keys), runs)


def test_bytes_come_back_where_the_list_says_that_they_are_bytea(postgres: Postgres, parts: str) -> None:
    runs = [Run("SELECT id FROM part WHERE hash = $1", [key]) for key in HASHES]
    check(postgres, parts, found(runs, HASHES, type_oid=17), runs)
    assert example_of(found(runs, HASHES)) == ""  # the binary form of any type


CONSTANTS = [
    "SELECT id FROM part WHERE number = {k} AND word <> 'it''s' AND name <> E'a\\\\b' AND zone + 1 > -5",
    "SELECT id FROM part WHERE number = {k} AND digits <> '5' AND price > 0.125 AND born > date '2020-01-01'",
    "SELECT id FROM part WHERE number = {k} AND word NOT IN ('a', 'it''s', E'\\\\') AND zone IN (0, 1)",
    "SELECT id FROM part WHERE number = {k} AND zone = ANY(ARRAY[0, 1, 2]) AND (true OR word IS NULL)",
    "SELECT id FROM part WHERE number = {k} AND hash <> '\\x00' AND code <> $$a0eebc99-9c0b-4ef8-bb6d-6bb9bd380fff$$",
    "SELECT id, CASE WHEN zone > 1 THEN 1 ELSE 0 END FROM part WHERE number = {k} AND born < timestamptz '2030-01-01'",
    "SELECT sum(zone * 2) FROM part WHERE number = {k} AND coalesce(word, '') <> 'x' HAVING count(*) > 0",
    "SELECT id FROM part WHERE number = {k} AND word LIKE '%' ORDER BY id LIMIT 3",
    "SELECT name FROM part WHERE number = {k} ORDER BY 1 LIMIT 2",
]


@pytest.mark.parametrize("child", CONSTANTS)
def test_constants_are_written_as_they_were_sent(postgres: Postgres, parts: str, child: str) -> None:
    keys = [7, 14, 21, 28, 35]
    runs = [Run(child.format(k=key)) for key in keys]
    check(postgres, parts, found(runs, keys), runs)


def test_a_test_for_existence_gives_the_keys_that_have_rows(postgres: Postgres, parts: str) -> None:
    runs = [
        Run(f"SELECT EXISTS (SELECT 1 FROM part WHERE number = {key} AND name <> 'it''s')") for key in (7, 8, 28, 29)
    ]
    example = example_of(found(runs, [7, 8, 28, 29]))
    assert sorted(paste(postgres, parts, example)) == [("7",)]


def test_parameters_beside_the_key_mean_what_they_meant(postgres: Postgres, parts: str) -> None:
    child = (
        "SELECT id, zone + $2 AS more FROM part WHERE number = $1 AND born > $3 AND born < $4 AND price >= $5 AND "
        "word <> $6 AND zone = ANY($7) AND digits IN ($8, $9) LIMIT $10"
    )
    rest = [10, BORN[0], dt.date(2030, 1, 1), Decimal("0.125"), "it's", [0, 1, 2], MD5[1], "2.50", 5]
    keys = [7, 14, 21, 28]
    loop = [Run(child, [key, *rest]) for key in keys]
    example = check(postgres, parts, found(loop, keys), loop)
    assert "zone + 10" in example
    assert "LIMIT 5" in example
    assert "born < '2030-01-01'" in example
    assert "zone = ANY('{0,1,2}')" in example


def test_what_may_mean_two_things_has_no_example() -> None:
    child = "SELECT id FROM part WHERE number = $1 AND data -> $2 = 'x'"
    assert example_of(found([Run(child, [key, 5]) for key in (7, 14, 21)], [7, 14, 21])) == ""
    child = "SELECT id FROM part WHERE number = $1 AND kind = $2"
    assert example_of(found([Run(child, [key, b"ab"]) for key in (7, 14, 21)], [7, 14, 21])) == ""


@pytest.mark.parametrize("inline", [True, False])
def test_a_key_of_several_columns_is_written_with_all_rows(postgres: Postgres, parts: str, inline: bool) -> None:
    keys = [(WORDS[n], n % 3) for n in range(len(WORDS))]
    if inline:
        child = "SELECT id FROM part WHERE price >= 0 AND word = {} AND zone = {}"
        runs = [Run(child.format(*map(literal, key))) for key in keys]
    else:
        runs = [Run("SELECT id FROM part WHERE word = $1 AND price >= $3 AND zone = $2", [*key, 0]) for key in keys]
    example = check(postgres, parts, found(runs, WORDS), runs)
    assert ("('it''s', 1)" if inline else "('it''s', '1')") in example


def test_counts_by_several_columns_have_all_rows(postgres: Postgres, parts: str) -> None:
    keys = [(n * 7, n % 3) for n in range(6)]
    runs = [Run(f"SELECT count(*), max(price) FROM part WHERE number = {a} AND zone = {b}") for a, b in keys]
    assert "(number, zone) IN ((0, 0), (7, 1)," in check(postgres, parts, found(runs, [a for a, _ in keys]), runs)


def test_names_of_mixed_case_and_of_other_schemas_stay_quoted(postgres: Postgres, parts: str) -> None:
    runs = [Run(f'SELECT "Id" FROM "Odd Schema"."Mixed Case" WHERE "theWord" = {literal(word)}') for word in WORDS]
    check(postgres, parts, found(runs, WORDS), runs)


@pytest.mark.parametrize("params", [None, [3, "%"]])
def test_a_join_has_the_values_of_the_parent(postgres: Postgres, parts: str, params: list[Any] | None) -> None:
    condition = "zone < $1 AND word LIKE $2" if params else "zone < 3 AND word LIKE '%'"
    parent = Run(f"SELECT number AS id FROM part WHERE {condition}", params)
    keys = [n * 7 for n in range(len(WORDS))]
    runs = [Run(f"SELECT id FROM part WHERE (number = {key} OR id < -1) AND name <> 'x'") for key in keys]
    finding = found(runs, keys, parent)
    assert finding.advice is not None
    assert finding.advice.kind == "join"
    check(postgres, parts, finding, runs)


def test_a_parent_that_writes_is_not_run_again() -> None:
    keys = [7, 14, 21]
    runs = [Run(f"SELECT id FROM part WHERE number = {key} OR id < -1") for key in keys]
    assert example_of(found(runs, keys, Run("SELECT number AS id FROM part")))
    for parent in ("SELECT take_next(number) AS id FROM part", "SELECT nextval(word) AS id FROM part"):
        assert example_of(found(runs, keys, Run(parent))) == ""


@pytest.mark.parametrize(
    "child",
    [
        "SELECT id FROM part WHERE number = {k} FOR UPDATE",
        "SELECT nextval(word) FROM part WHERE number = {k}",
        "SELECT my_function(id) FROM part WHERE number = {k}",
        "SELECT pg_advisory_lock(id) FROM part WHERE number = {k}",
    ],
)
def test_a_read_that_leaves_a_trace_is_not_run_again(child: str) -> None:
    keys = [7, 14, 21, 28, 35]
    assert example_of(found([Run(child.format(k=key)) for key in keys], keys)) == ""


@pytest.mark.parametrize(
    "child", ["DELETE FROM part WHERE number = {k}", "UPDATE part SET zone = 1 WHERE number = {k}"]
)
def test_a_write_has_no_example(child: str) -> None:
    keys = [7, 14, 21, 28, 35]
    finding = found([Run(child.format(k=key)) for key in keys], keys)
    assert finding.advice is not None
    assert finding.advice.sql
    assert finding.sent is None
    assert example_of(finding) == ""


@pytest.mark.parametrize("params", [False, True])
def test_a_tree_begins_at_its_first_key(postgres: Postgres, parts: str, params: bool) -> None:
    with psycopg.connect(parts) as connection:
        rows = connection.execute(
            "SELECT parent_id, id FROM part WHERE parent_id IS NOT NULL AND id <> parent_id"
        ).fetchall()
    children: dict[int, list[int]] = {}
    for above, below in rows:
        children.setdefault(above, []).append(below)
    player = Player(Engine(Settings()))
    ahead, seen = [2], list[int]()
    while ahead:
        key = ahead.pop(0)
        below = sorted(children.get(key, []))
        seen += below
        ahead += below
        child = f"SELECT id FROM part WHERE parent_id = {'$1' if params else key} ORDER BY id"
        player.run(child, [key] if params else None, {"id": below})
    (finding,) = player.close()
    example = example_of(finding)
    root = "'2'" if params else "2"
    assert f"parent_id = {root} UNION ALL" in example
    assert sorted(int(row[0]) for row in paste(postgres, parts, example)) == sorted(seen)


def test_a_value_that_was_not_kept_whole_leaves_no_example() -> None:
    long = ["x" * MAX_VALUE_CHARS + str(n) for n in range(6)]
    child = "SELECT id FROM part WHERE word = {} AND zone = 1"
    short = [word[-MAX_VALUE_CHARS:] for word in long]
    assert example_of(found([Run(child.format(literal(word))) for word in short], short))
    assert example_of(found([Run(child.format(literal(word))) for word in long], long)) == ""
    mixed = [*short[:5], long[5]]
    assert example_of(found([Run(child.format(literal(word))) for word in mixed], mixed)) == ""
    runs = [Run("SELECT id FROM part WHERE number = $1 AND word = $2", [n, long[0]]) for n in range(20, 26)]
    assert example_of(found(runs, list(range(20, 26)))) == ""
    runs = [
        Run(f"SELECT id FROM part WHERE number = {n} AND zone IN ({', '.join('123456789' * 3)})") for n in range(20, 26)
    ]
    assert example_of(found(runs, list(range(20, 26)))) == ""


def test_text_in_another_encoding_leaves_no_example() -> None:
    words = [f"gr\udcf6\udcdfe {n}" for n in range(6)]
    assert example_of(found([Run("SELECT id FROM part WHERE word = $1", [word]) for word in words], words)) == ""


def test_more_keys_than_are_kept_are_said_in_a_comment() -> None:
    keys = list(range(1000, 1260))
    example = example_of(found([Run(f"SELECT id FROM part WHERE number = {key}") for key in keys], keys))
    shown = example.partition("{")[2].count(",") + 1
    assert shown <= MAX_KEYS
    assert example.endswith(f"}}') /* the first {shown} of the keys of {len(keys)} queries */;")


def test_constants_that_differ_in_form_alone_leave_no_example() -> None:
    runs = [
        Run(f"SELECT id FROM part WHERE number = {n} AND digits = '1.{'5' + '0' * (n % 2)}'") for n in range(20, 26)
    ]
    assert example_of(found(runs, list(range(20, 26)))) == ""


def test_values_are_in_no_representation_of_a_finding() -> None:
    keys = [9001, 9002, 9003]
    finding = found([Run("SELECT id FROM part WHERE number = $1", [key]) for key in keys], keys)
    finding.samples.clear()
    assert finding.sent is not None
    assert "9001" not in repr(finding)


TEXTS = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30), max_size=20)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS)
def test_any_text_survives_as_a_literal_and_as_an_element_of_an_array(
    postgres: Postgres, parts: str, texts: list[str]
) -> None:
    items = "".join(f", {quoted(text)}" for text in texts)
    query = (
        f"SELECT encode(convert_to(item, 'UTF8'), 'hex') FROM unnest({array(tuple(texts))}::text[]) AS item UNION ALL "
        f"SELECT encode(convert_to(item, 'UTF8'), 'hex') FROM unnest(ARRAY['-'{items}]::text[]) AS item;"
    )
    expected = [text.encode().hex() for text in [*texts, "-", *texts]]
    assert [row[0] if row else "" for row in paste(postgres, parts, query)] == expected


def test_arrays_hold_null_and_arrays() -> None:
    assert array((None, "NULL", "", "a b", (1, (2,)), ())) == """'{NULL,"NULL","","a b",{1,{2}},{}}'"""
    assert array(("\\", '"')) == """E'{"\\\\\\\\","\\\\""}'"""
