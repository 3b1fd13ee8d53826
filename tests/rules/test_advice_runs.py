"""The SQL in the advice, run on a real server: it gives the rows that the loop gave, and leaves what the loop left."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import asyncpg
import pytest

from pgloupe_rules.catalog import Catalog, Catalogs, Table
from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.example import example_of
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Finding
from support.psql import paste, shown
from support.servers import Postgres
from support.traces import Player

SCHEMA = """
CREATE SCHEMA lib;
CREATE TABLE shelf (id int PRIMARY KEY, code uuid, name text, parent_id int, zone int);
CREATE TABLE book (id int PRIMARY KEY, shelf_id int, title text, state text, tenant int, lang text,
    deleted_at date, price numeric, code uuid);
CREATE TABLE lib."Card Owner" ("cardId" int PRIMARY KEY, "shelfId" int, "fullName" varchar(40));
CREATE TABLE loan (id int PRIMARY KEY, book_id int, zone int, shelf_id int, days int);
INSERT INTO shelf SELECT n, ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 's' || n,
    CASE WHEN n > 11 THEN 10 + (n - 10) / 2 END, n % 3 FROM generate_series(11, 18) n;
INSERT INTO book SELECT n, 10 + n % 9, 'book ' || n % 7, (ARRAY['lent', 'in'])[1 + n % 2], n % 3, (ARRAY['de', 'en'])[1 + n % 2],
    CASE WHEN n % 5 = 0 THEN date '2024-01-01' END, n * 1.5,
    ('00000000-0000-4000-8000-' || lpad((10 + n % 9)::text, 12, '0'))::uuid FROM generate_series(1, 80) n;
INSERT INTO lib."Card Owner" SELECT n, 10 + n % 9, 'Owner ' || n FROM generate_series(1, 40) n;
INSERT INTO loan SELECT n, 1 + n % 80, (10 + n % 9) % 3, 10 + n % 9, n % 30 FROM generate_series(1, 200) n;
"""
KEYS = list(range(11, 19))
K = object()
"""Stands for the array of the keys."""


@pytest.fixture(scope="module")
def library(postgres: Postgres) -> str:
    return postgres.create_database()


@pytest.fixture
async def server(library: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(library)
    await connection.execute("DROP SCHEMA IF EXISTS public, lib CASCADE; CREATE SCHEMA public;" + SCHEMA)
    yield connection
    await connection.close()


def parents(column: str = "id", values: list[Any] | None = None) -> tuple[str, dict[str, list[Any]]]:
    sql = f"SELECT {column} FROM shelf ORDER BY id"
    return sql, {column: values or KEYS}


def loop(
    child: str, keys: list[Any], parent: tuple[str, dict[str, list[Any]]], catalogs: Catalogs | None = None
) -> Finding:
    """What is found of a child that runs once for each key, `{k}` being the key."""
    player = Player(Engine(Settings(), catalogs=catalogs))
    player.run("BEGIN")
    player.run(parent[0], None, parent[1])
    for key in keys:
        values = key if isinstance(key, dict) else {"k": key}
        player.run(child.format(**values), None, {"x": [1]})
    (finding,) = player.close()
    assert finding.advice is not None
    return finding


class Form(NamedTuple):
    """A child, the parameters of the advice, and the key's name in its result."""

    child: str
    parameters: list[Any]
    key: str = "shelf_id"
    kind: str = "any_array"


FORMS = [
    Form("SELECT * FROM book WHERE shelf_id = {k}", [K]),
    Form("SELECT id, title FROM book WHERE shelf_id = {k} ORDER BY title, id", [K]),
    Form("SELECT b.id AS b_id, b.title AS b_title FROM book AS b WHERE b.shelf_id = {k}", [K]),
    Form("SELECT b.id, b.shelf_id AS owner FROM book b WHERE {k} = b.shelf_id", [K], "owner"),
    Form(
        'SELECT "public"."book"."title" FROM "public"."book" WHERE ("public"."book"."shelf_id" = {k} AND 1=1)',
        [K, "1", "1"],
    ),
    Form('SELECT "fullName" FROM lib."Card Owner" WHERE "shelfId" = {k}', [K], "shelfId"),
    Form('SELECT c."fullName" FROM lib."Card Owner" AS c WHERE c."shelfId" = {k} ORDER BY c."cardId"', [K], "shelfId"),
    Form("SELECT id FROM book WHERE shelf_id IN ({k}) AND deleted_at IS NULL", [K]),
    Form("SELECT id FROM book WHERE shelf_id = ANY(ARRAY[{k}])", [K]),
    Form("SELECT id FROM book WHERE shelf_id = CAST({k} AS int) AND price > 20::numeric", [K, 20]),
    Form("SELECT id FROM book WHERE tenant = 1 AND state = 'lent' AND shelf_id = {k}", [1, "lent", K]),
    Form(
        "SELECT id FROM book WHERE shelf_id = {k} AND (state = 'lent' OR lang = 'de') ORDER BY id DESC",
        [K, "lent", "de"],
    ),
    Form(
        "SELECT id FROM book WHERE shelf_id = {k} AND state IN ('lent', 'in') AND price BETWEEN 3 AND 90",
        [K, ["lent", "in"], 3, 90],
    ),
    Form("SELECT DISTINCT title FROM book WHERE shelf_id = {k}", [K]),
    Form(
        "SELECT l.days, b.title FROM loan l JOIN book b ON b.id = l.book_id WHERE b.shelf_id = {k} ORDER BY l.id", [K]
    ),
    Form(
        "SELECT l.id FROM loan l LEFT JOIN book b ON b.id = l.book_id AND b.state = 'in' WHERE l.shelf_id = {k}",
        ["in", K],
    ),
    Form("SELECT id, name FROM shelf WHERE id = {k} LIMIT 1", [K], "id"),
    Form("SELECT * FROM shelf WHERE shelf.id = {k} LIMIT 21", [K], "id"),
    Form("SELECT count(*) FROM book WHERE shelf_id = {k}", [K], "shelf_id", "group_by"),
    Form(
        "SELECT count(*) AS n, max(price) AS top FROM book AS b WHERE b.shelf_id = {k} AND b.state = 'in'",
        [K, "in"],
        "shelf_id",
        "group_by",
    ),
    Form("SELECT coalesce(sum(days), 0) AS n FROM loan WHERE shelf_id = {k} LIMIT 1", [0, K], "shelf_id", "group_by"),
    Form("SELECT id, title FROM book WHERE shelf_id = {k} ORDER BY price DESC LIMIT 1", [K, 1], "key", "lateral"),
    Form(
        "SELECT id FROM book WHERE shelf_id = {k} AND tenant = 2 ORDER BY id LIMIT 2 OFFSET 1",
        [K, 2, 2, 1],
        "key",
        "lateral",
    ),
    Form(
        "SELECT b.id, l.id AS loan FROM book b JOIN loan l ON l.book_id = b.id WHERE b.shelf_id = {k} ORDER BY l.id DESC LIMIT 3",
        [K, 3],
        "key",
        "lateral",
    ),
    Form(
        "SELECT state, count(*) AS n FROM book WHERE shelf_id = {k} GROUP BY state ORDER BY state",
        [K],
        "key",
        "lateral",
    ),
    Form(
        "SELECT id, row_number() OVER (ORDER BY price) AS place FROM book WHERE shelf_id = {k}", [K], "key", "lateral"
    ),
    Form(
        "SELECT DISTINCT ON (state) state, id FROM book WHERE shelf_id = {k} ORDER BY state, price",
        [K],
        "key",
        "lateral",
    ),
    Form("SELECT id FROM book WHERE shelf_id = {k} OR tenant = -{k}", [], "", ""),
    Form("SELECT id FROM book WHERE shelf_id NOT IN (1, 2) AND (shelf_id = {k} OR id < 1)", [[1, 2], 1], "key", "join"),
    Form("SELECT id FROM book WHERE (shelf_id = {k} OR id = 3) AND state = 'in' ORDER BY id", [3, "in"], "key", "join"),
    Form(
        "SELECT id FROM book WHERE id IN (SELECT book_id FROM loan WHERE shelf_id = {k}) ORDER BY id", [], "key", "join"
    ),
    Form(
        "SELECT s.id FROM book s JOIN loan l ON l.book_id = s.id AND l.shelf_id = {k} ORDER BY l.id", [], "key", "join"
    ),
    Form(
        "WITH b AS (SELECT * FROM book WHERE state = 'in') SELECT id FROM b WHERE shelf_id = {k} ORDER BY id",
        ["in"],
        "key",
        "join",
    ),
    Form("SELECT id FROM book WHERE shelf_id = {k} UNION SELECT 0 ORDER BY id", [0], "key", "join"),
    Form(
        "SELECT count(*) AS n FROM (SELECT DISTINCT title FROM book WHERE shelf_id = {k}) AS titles", [], "key", "join"
    ),
]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.child[:90])
async def test_a_read_gives_the_rows_of_the_loop_and_so_does_its_example_in_psql(
    server: Any, postgres: Postgres, library: str, form: Form
) -> None:
    finding = loop(form.child, KEYS, parents())
    advice = finding.advice
    assert advice is not None
    if not form.kind:
        assert advice.sql == example_of(finding) == ""
        return
    assert advice.kind == form.kind
    assert advice.sql
    expected: dict[Any, list[tuple[Any, ...]]] = {}
    names: list[str] = []
    for key in KEYS:
        rows = await server.fetch(form.child.format(k=key))
        names = list(rows[0].keys()) if rows else names
        expected[key] = [tuple(row) for row in rows]
    got: dict[Any, list[tuple[Any, ...]]] = defaultdict(list)
    answer = await server.fetch(advice.sql, *[KEYS if value is K else value for value in form.parameters])
    assert sorted(paste(postgres, library, example_of(finding))) == sorted(tuple(map(shown, row)) for row in answer)
    for row in answer:
        got[row[form.key]].append(tuple(row)[-len(names) :])
    if form.kind == "group_by":
        expected = {key: rows for key, rows in expected.items() if rows[0][0]}
    ordered = "ORDER BY" in form.child
    for key, rows in expected.items():
        if ordered:
            assert got.get(key, []) == rows
        else:
            assert sorted(map(repr, got.get(key, []))) == sorted(map(repr, rows))
    assert set(got) <= set(expected)


@pytest.mark.parametrize(
    ("child", "parameters"),
    [
        ("SELECT EXISTS (SELECT 1 FROM book WHERE shelf_id = {k} AND state = 'in' AND tenant = 1)", [KEYS, "in", 1]),
        ("SELECT 1 AS one FROM book WHERE shelf_id = {k} AND price > 112 LIMIT 1", [KEYS, 112]),
        (
            "SELECT EXISTS (SELECT * FROM book AS b WHERE b.shelf_id = {k} AND b.deleted_at IS NOT NULL ORDER BY b.id)",
            [KEYS],
        ),
    ],
)
async def test_a_test_for_existence_gives_the_keys_that_have_rows(
    server: Any, child: str, parameters: list[Any]
) -> None:
    advice = loop(child, KEYS, parents()).advice
    assert advice is not None
    there = [key for key in KEYS if await server.fetchval(child.format(k=key))]
    assert 0 < len(there) < len(KEYS) or "deleted_at" in child
    assert sorted(row[0] for row in await server.fetch(advice.sql, *parameters)) == there


async def test_a_key_of_several_columns_is_asked_for_as_a_whole(server: Any) -> None:
    keys = [{"k": n, "z": n % 3} for n in KEYS]
    parent = ("SELECT id, zone FROM shelf", {"id": KEYS, "zone": [n % 3 for n in KEYS]})
    child = "SELECT id, days FROM loan WHERE days > 4 AND shelf_id = {k} AND zone = {z} AND book_id > 2"
    advice = loop(child, keys, parent).advice
    assert advice is not None
    first, second = keys[1], keys[2]
    rows = await server.fetch(advice.sql, 4, 2, first["k"], first["z"], second["k"], second["z"])
    expected = [await server.fetch(child.format(**key)) for key in (first, second)]
    assert sorted(tuple(row)[-2:] for row in rows) == sorted(tuple(row) for part in expected for row in part)
    assert rows
    assert {(row["shelf_id"], row["zone"]) for row in rows} <= {(first["k"], first["z"]), (second["k"], second["z"])}


async def test_keys_of_another_type_need_no_cast(server: Any) -> None:
    codes = [row[0] for row in await server.fetch("SELECT code FROM shelf ORDER BY id")]
    advice = loop("SELECT id FROM book WHERE code = '{k}'::uuid", codes, parents("code", codes)).advice
    assert advice is not None
    assert len(await server.fetch(advice.sql, codes)) == await server.fetchval(
        "SELECT count(*) FROM book WHERE shelf_id > 10"
    )


async def test_the_parent_keeps_its_own_parameters(server: Any) -> None:
    parent = (
        "SELECT id, name FROM shelf WHERE zone < 7 AND name LIKE 's%' ORDER BY id LIMIT 8",
        {"id": KEYS, "name": ["s"] * 8},
    )
    advice = loop("SELECT id FROM book WHERE (shelf_id = {k} OR id < 1) AND state = 'in'", KEYS, parent).advice
    assert advice is not None
    rows = await server.fetch(advice.sql, 7, "s%", 8, 1, "in")
    expected = await server.fetch("SELECT id FROM book WHERE shelf_id BETWEEN 11 AND 18 AND state = 'in'")
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in expected)


async def test_a_tree_is_read_by_one_recursive_query(server: Any) -> None:
    children: dict[int, list[int]] = defaultdict(list)
    for row in await server.fetch("SELECT id, parent_id FROM shelf WHERE parent_id IS NOT NULL ORDER BY id"):
        children[row["parent_id"]].append(row["id"])
    player = Player(Engine(Settings()))
    ahead, seen = [11], []
    while ahead:
        key = ahead.pop(0)
        seen += children[key]
        ahead += children[key]
        player.run(
            f"SELECT id, name FROM shelf WHERE parent_id = {key} ORDER BY id",
            None,
            {"id": children[key], "name": ["x"] * len(children[key])},
        )
    (finding,) = player.close()
    assert finding.advice is not None
    rows = await server.fetch(finding.advice.sql, 11)
    assert sorted(row["id"] for row in rows) == sorted(seen)


TYPED = Catalog(
    {20000: Table("public", "book", {1: "id", 3: "title", 8: "price"}, {1: "integer", 3: "text", 8: "numeric"})}, []
)


def typed() -> Catalogs:
    catalogs = Catalogs()
    catalogs.put("shop", TYPED)
    return catalogs


WRITES = [
    ("DELETE FROM book WHERE id = {k}", [[11, 12]], False),
    ("DELETE FROM book AS b WHERE b.id = {k} AND b.state <> 'gone'", [[11, 12], "gone"], False),
    (
        "UPDATE book SET state = 'gone', price = price + 1 WHERE id = {k} AND tenant < 5",
        ["gone", 1, [11, 12], 5],
        False,
    ),
    (
        "UPDATE book SET title = 't{k}', price = {k}.25 WHERE id = {k}",
        ['[{"id": 11, "title": "t11", "price": 11.25}, {"id": 12, "title": "t12", "price": 12.25}]'],
        False,
    ),
    (
        "UPDATE book SET title = 't{k}', state = 'gone' WHERE id = {k} AND tenant < 5",
        ["gone", 5, 11, "t11", 12, "t12"],
        True,
    ),
    ("UPDATE book SET title = 't{k}', price = price * 2 WHERE id = {k}", [2, 11, "t11", 12, "t12"], True),
    ("INSERT INTO loan (id, book_id, days) VALUES (1{k}00, {k}, 5)", [11100, 11, 5, 11200, 12, 5], False),
    (
        "INSERT INTO loan (id, book_id) VALUES (1{k}00, {k}) ON CONFLICT (id) DO NOTHING RETURNING id",
        [11100, 11, 11200, 12],
        False,
    ),
    ("DELETE FROM loan WHERE book_id = {k} AND zone = 1{k} - 1{k} + 1", [], False),
]


@pytest.mark.parametrize(
    ("child", "parameters", "known"), WRITES, ids=lambda value: value[:70] if isinstance(value, str) else None
)
async def test_a_write_leaves_what_the_loop_left(server: Any, child: str, parameters: list[Any], known: bool) -> None:
    finding = loop(child, KEYS, parents(), typed() if known else None)
    assert finding.rule == "n_plus_one_write"
    advice = finding.advice
    assert advice is not None
    if not parameters:
        assert advice.sql == ""
        return
    state = "SELECT (SELECT array_agg(b ORDER BY id)::text FROM book b), (SELECT array_agg(l ORDER BY id)::text FROM loan l)"
    untouched = await server.fetchrow(state)
    results = []
    for by_loop in (True, False):
        transaction = server.transaction()
        await transaction.start()
        if by_loop:
            for key in (11, 12):
                await server.execute(child.format(k=key))
        else:
            await server.fetch(advice.sql, *parameters)
        results.append(tuple(await server.fetchrow(state)))
        await transaction.rollback()
    assert results[0] == results[1]
    assert results[0] != tuple(untouched)


def test_no_sql_has_gaps_in_its_numbers() -> None:
    for form in FORMS:
        advice = loop(form.child, KEYS, parents()).advice
        assert advice is not None
        if advice.sql:
            assert len(recognise(advice.sql)) == 1
            used = {
                int(part.split(")")[0].split(",")[0].split(" ")[0].split("]")[0]) for part in advice.sql.split("$")[1:]
            }
            assert used == set(range(1, len(used) + 1))
