"""Shapes: kind, tables, functions and predicates of a template."""

from __future__ import annotations

from pathlib import Path

import postgast
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgloupe_rules.normalise import recognise
from pgloupe_rules.shape import MAX_TEXT, parse, shape_of
from pgloupe_rules.types import Kind, Shape


def shape(text: str) -> Shape:
    return shape_of(recognise(text)[0].template)


def predicates(text: str) -> list[tuple[int, str, str | None, str]]:
    return [(item.placeholder, item.column, item.table, item.operator) for item in shape(text).predicates]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("select 1", Kind.SELECT), ("(select 1)", Kind.SELECT), ("values (1)", Kind.SELECT), ("table t", Kind.SELECT),
        ("with x as (select 1) select * from x", Kind.SELECT), ("with x as (select 1) insert into t select * from x", Kind.INSERT),
        ("with x as (select 1) update t set a = 1", Kind.UPDATE), ("with x as (delete from t returning a) select * from x", Kind.SELECT),
        ("insert into t values (1)", Kind.INSERT), ("update t set a = 1", Kind.UPDATE), ("delete from t", Kind.DELETE),
        ("merge into t using u on t.a = u.a when matched then delete", Kind.MERGE), ("copy t from stdin", Kind.COPY),
        ("fetch 1 from c", Kind.FETCH), ("move 1 from c", Kind.FETCH), ("begin", Kind.BEGIN), ("start transaction", Kind.BEGIN),
        ("commit", Kind.COMMIT), ("end", Kind.COMMIT), ("rollback", Kind.ROLLBACK), ("abort", Kind.ROLLBACK),
        ("savepoint a", Kind.SAVEPOINT), ("release a", Kind.SAVEPOINT), ("rollback to a", Kind.SAVEPOINT),
        ("rollback transaction to savepoint a", Kind.SAVEPOINT), ("commit prepared 'x'", Kind.UTILITY), ("set a = 1", Kind.SET),
        ("reset a", Kind.SET), ("discard all", Kind.SET), ("show a", Kind.SHOW), ("create table t (a int)", Kind.DDL),
        ("alter table t add b int", Kind.DDL), ("drop table t", Kind.DDL), ("grant select on t to u", Kind.DDL),
        ("truncate t", Kind.UTILITY), ("vacuum", Kind.UTILITY), ("explain select 1", Kind.UTILITY), ("call p()", Kind.UTILITY),
        ("do $$x$$", Kind.UTILITY), ("lock t", Kind.UTILITY), ("foo bar", Kind.UNKNOWN), ("(", Kind.UNKNOWN),
    ],
)  # fmt: skip
def test_kind(text: str, kind: Kind) -> None:
    assert shape(text).kind is kind


@pytest.mark.parametrize(
    ("text", "tables", "written"),
    [
        ("select a from t, s.u join v on true", ("t", "s.u", "v"), ()),
        ("select a from t where b in (select c from u where exists (select 1 from v))", ("t", "u", "v"), ()),
        ("select (select a from u) from t, lateral (select 1 from w) x", ("u", "t", "w"), ()),
        ("select a from t union all select b from u", ("t", "u"), ()),
        ('select a from "T" x join "S"."U" y on x.a = y.a', ("T", "S.U"), ()),
        ("select a from only t", ("t",), ()),
        ("with x as (select a from t) select * from x, u", ("u", "t"), ()),
        ("with t as (select a from t) select * from t", ("t",), ()),
        ("with x as (select 1), y as (select * from x) select * from y", (), ()),
        ("with recursive x as (select 1 union select a from x) select * from x", (), ()),
        ("with x as (insert into t values (1) returning a) select * from x, u", ("u", "t"), ("t",)),
        ("select * from generate_series(1, 2)", (), ()),
        ("select a from t for update of t", ("t",), ()),
        ("insert into t (a) select b from u", ("t", "u"), ("t",)),
        ("insert into s.t values (1) on conflict (a) do update set b = excluded.b", ("s.t",), ("s.t",)),
        ("update t as x set a = u.a from u where u.b = x.b", ("t", "u"), ("t",)),
        ("delete from t using u where t.a = u.a", ("t", "u"), ("t",)),
        ("merge into t using u on t.a = u.a when matched then update set b = 1", ("t", "u"), ("t",)),
        ("copy t (a) from stdin", ("t",), ("t",)),
        ("copy t to stdout", ("t",), ()),
        ("copy (select a from t) to stdout", ("t",), ()),
        ("truncate t, s.u", ("t", "s.u"), ("t", "s.u")),
    ],
)
def test_tables(text: str, tables: tuple[str, ...], written: tuple[str, ...]) -> None:
    found = shape(text)
    assert found.parsed
    assert set(found.tables) == set(tables)
    assert len(found.tables) == len(tables)
    assert found.written == written


@pytest.mark.parametrize(
    ("text", "functions"),
    [
        ("select now(), NOW ( ), pg_catalog.now(), coalesce(a, 1)", {"now", "pg_catalog.now", "coalesce"}),
        ("select current_timestamp, current_user, localtime, current_date, user, session_user",
         {"current_timestamp", "current_user", "localtime", "current_date", "user", "session_user"}),
        ("select a from t where b in (1) and exists (select 1) and c = any (array[1]) group by rollup (a)", set()),
        ('select "F"(1), "now"()', {"F", "now"}),
        ("select a::varchar(10), cast(b as numeric(10, 2)) from t", set()),
        ("with x (a) as (select 1) select * from x", set()),
        ("with nextval (a) as (select 1) select nextval('s') from nextval", {"nextval"}),
        ("select a at time zone 'utc', extract(year from b), position('x' in c) from t", {"timezone", "extract", "position"}),
        ("select * from json_to_recordset('[]') as (a int), unnest($1) u(v)", {"json_to_recordset", "unnest", "u"}),
        ("select count(*) filter (where a), rank() over (order by a) from t", {"count", "rank"}),
        ("select left(a, 1), right(a, 1) from t left join u on true", {"left", "right"}),
        ("insert into t (a) values (nextval('s'))", {"nextval"}),
        ("select random(), a from t tablesample bernoulli (1)", {"random", "bernoulli"}),
    ],
)  # fmt: skip
def test_functions(text: str, functions: set[str]) -> None:
    assert set(shape(text).functions) == functions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select a from t where b = 1", [(1, "b", "t", "=")]),
        ("select a from t x where x.b = 1 and 2 < x.c", [(1, "b", "t", "="), (2, "c", "t", ">")]),
        ("select a from t, u where b = 1 and u.c = 2", [(1, "b", None, "="), (2, "c", "u", "=")]),
        ("select a from t where b in (1, 2)", [(1, "b", "t", "in")]),
        ("select a from t where b not in (1, 2)", [(1, "b", "t", "not in")]),
        ("select a from t where b = any ($1)", [(1, "b", "t", "= any")]),
        ("select a from t where b = any (array[1, 2]::int[])", [(1, "b", "t", "= any")]),
        ("select a from t where (b, c) in ((1, 2), (3, 4))", [(1, "b", "t", "in"), (2, "c", "t", "in")]),
        ("select a from t where b between 1 and 2", [(1, "b", "t", ">="), (2, "b", "t", "<=")]),
        ("select a from t where b like 'x' and c = $1::int", [(1, "b", "t", "like"), (2, "c", "t", "=")]),
        ("select a from t join u on t.b = u.b and u.c = 1", [(1, "c", "u", "=")]),
        ("select count(*) from t group by a having a = 1", [(1, "a", "t", "=")]),
        ("select a = 1 from t where not b = 2 and lower(c) = 'x'", []),
        (
            "select a from t where exists (select 1 from u where u.b = 2 and c = 3)",
            [(2, "b", "u", "="), (3, "c", None, "=")],
        ),
        ("update t set a = 1 where b = 2", [(2, "b", "t", "=")]),
        ("delete from t using u where u.b = 1", [(1, "b", "u", "=")]),
        ("insert into t select a from u where b = 1", [(1, "b", "u", "=")]),
        (
            "with x as (select a from t where b = 1) select * from x where c = 2",
            [(1, "b", "t", "="), (2, "c", None, "=")],
        ),
        ("select a from s.t where s.t.b = 1", [(1, "b", "s.t", "=")]),
        ("select a from t where b = 1 union all select a from u where b = 2", [(1, "b", "t", "="), (2, "b", "u", "=")]),
    ],
)
def test_predicates(text: str, expected: list[tuple[int, str, str | None, str]]) -> None:
    assert predicates(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "select a from t",
        "values (1)",
        "table t",
        "with x as (select 1) select * from x",
        "select a from t union select b from u",
    ],
)
def test_a_plain_read_is_read_only(text: str) -> None:
    assert shape(text).parsed
    assert shape(text).read_only


@pytest.mark.parametrize(
    "text",
    [
        "select a from t for update", "select a from t for no key update", "select a from t for share", "select a from t for key share",
        "select a into u from t", "with x as (insert into t values (1) returning a) select * from x", "update t set a = 1",
        "with x as (delete from t returning a) select 1", "copy t to stdout", "explain select 1", "select a from", "foo",
        "select * from (select a from t for update) x",
    ],
)  # fmt: skip
def test_what_may_write_or_lock_is_not_read_only(text: str) -> None:
    assert not shape(text).read_only


def test_aggregate_limited_joined() -> None:
    assert shape("select count(*) from t").aggregate
    assert not shape("select a, count(*) from t group by a").aggregate
    assert not shape("select count(*) over () from t").aggregate
    assert not shape("select (select count(*) from u) from t").aggregate
    assert shape("select a from t limit 1").limited
    assert shape("select a from t order by a fetch first 2 rows with ties").limited
    assert not shape("select a from (select b from t limit 1) x").limited
    assert shape("select a from t, u").joined
    assert shape("select a from t join u on true").joined
    assert not shape("select a from t where b in (select c from u)").joined


@pytest.mark.parametrize(
    "text",
    ["select a from", "explain select 1", "call p()", "create table t (a int)", "select " + "(" * 60 + "1" + ")" * 60, "select " + "(" * 5000,
     "select '" + "x" * 10 + "'," + "a," * MAX_TEXT],
    ids=lambda text: text[:24],
)  # fmt: skip
def test_what_is_not_understood_says_so(text: str) -> None:
    found = shape(text)
    assert not found.parsed
    assert not found.read_only
    assert found.tables == found.functions == found.predicates == ()


def test_a_shape_is_parsed_once() -> None:
    template = recognise("select a from t")[0].template
    assert shape_of(template) is shape_of(template)


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    parse("SELECT a FROM t; VACUUM FULL t")
    parse("COPY t FROM PROGRAM $1 WITH (x)")
    assert caplog.records == []


@given(
    st.text(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                "select",
                "a",
                "from",
                "t",
                "where",
                "in",
                "(",
                ")",
                "with",
                "as",
                ",",
                "=",
                "1",
                "$1",
                "insert",
                "into",
                "update",
                "set",
                "join",
                "on",
                "union",
                "limit",
                "copy",
                "merge",
            ]
        ),
        max_size=20,
    ).map(" ".join)
)
@settings(max_examples=200, deadline=None)
def test_parse_never_raises(text: str) -> None:
    found = parse(text)
    assert found.parsed or not found.read_only


CORPUS = Path(__file__).parent / "corpus"
QUERIES = [
    line
    for name in ("orm.sql", "features.sql", "deliberate.sql")
    for line in (CORPUS / name).read_text(encoding="utf-8").splitlines()
    if line.lower().startswith(("select", "insert", "update", "delete", "merge", "values", "table", "("))
]
SPECIAL = {"btrim": "trim", "like_escape": "", "similar_to_escape": ""}
"""Functions that the grammar puts in place of special syntax, and what the shape calls them."""


def test_no_table_and_no_function_that_libpg_query_finds_is_missing() -> None:
    missing = []
    parsed = 0
    for line in QUERIES:
        found = shape(line)
        if found.parsed:
            parsed += 1
            tree = postgast.parse(line)
            plain = [name.removeprefix("pg_catalog.") for name in postgast.extract_functions(tree)]
            called = {SPECIAL.get(name, name) for name in plain} - {""}
            named = {name.removeprefix("pg_catalog.") for name in found.functions}
            if not set(postgast.extract_tables(tree)) <= set(found.tables):
                missing.append(line)
            if not called <= named:
                missing.append(line)
    assert missing == []
    assert parsed > len(QUERIES) * 0.98
