"""What a statement mentions that may stand for code of a user's, and casts that depend on the clock."""

from __future__ import annotations

import pytest

from pgloupe_rules.mentions import CLOCK_CAST, CLOCK_TYPE, UNSTEADY, mentions
from pgloupe_rules.normalise import recognise


def text(sql: str) -> str:
    (recognised,) = recognise(sql)
    return recognised.template.text


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT a.full_name FROM author a", {".full_name", "author"}),
        ('SELECT (a) . "Full""Name" FROM author a', {'.full"name'}),
        ("SELECT a <-> b, c===3, d OPERATOR(s.!!) e FROM author", {"<->", "===", "!!"}),
        ("SELECT a FROM author WHERE a LIKE 'x'", {"~~"}),
        ("SELECT 'x'::s.mood, mood 'x', CAST(a AS mood[]) FROM author", {"::", "::mood"}),
        ('SELECT CAST(a AS "Mood") FROM author', {"::mood"}),
        ('SELECT a::U&"m\\006fod" FROM author', {"::mood"}),
        ("SELECT s.lower(a), count(*) FROM author", {"lower()", "count()"}),
        ("SELECT * FROM s.names", {"names"}),
    ],
)
def test_names_are_given_in_the_forms_that_the_catalogs_are_compared_with(sql: str, names: set[str]) -> None:
    assert names <= mentions(text(sql)).names


def test_a_table_with_its_schema_is_no_type() -> None:
    found = mentions(text("SELECT public.author.id AS author FROM public.author")).names
    assert not [name for name in found if name.startswith("::")]


@pytest.mark.parametrize(
    ("sql", "timed"),
    [
        ("SELECT '2024-01-01'::date, date '2024-01-01', $1::timestamptz, '{2024-01-01}'::date[] FROM a", set()),
        ("SELECT x::date, a.y::timestamptz, (z)::time FROM a", {"x", "y", "z"}),
        ("SELECT x::timestamptz::date AS x FROM a", {"x"}),
        ("SELECT (x + y * '1 day'::interval)::date FROM a", {"x", "y"}),
        ("SELECT max(a.x)::date, coalesce(y, '2024-01-01')::date FROM a GROUP BY z::date", {"x", "y", "z"}),
        ("SELECT x FROM a WHERE y::date = $1 AND (z::date) > $2", {"y", "z"}),
        ("SELECT x::text, y::int, z::interval, w::mood FROM a", set()),
    ],
)
def test_a_cast_of_a_column_to_a_date_depends_on_what_the_column_is(sql: str, timed: set[str]) -> None:
    found = mentions(text(sql))
    assert (found.reason, found.timed) == ("", timed)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT ('n' || 'ow')::timestamptz FROM a",
        "SELECT (x || '')::date FROM a",
        "SELECT x::text::date FROM a",
        "SELECT x::varchar(3)::timestamp FROM a",
        "SELECT (x ->> 'at')::timestamptz FROM a",
        "SELECT lower(x)::date FROM a",
        "SELECT (lower(x))::date FROM a",
        "SELECT string_to_array(x, ',')::date[] FROM a",
        "SELECT (ARRAY[x || 'w'])[1]::date FROM a",
        "SELECT (CASE WHEN x THEN y END)::date FROM a",
        "SELECT CASE WHEN x THEN y END::date FROM a",
        "SELECT (SELECT 'n' || 'ow')::tstzrange FROM a",
        "SELECT x::date FROM (SELECT 'n' || 'ow' AS x FROM a) s",
        "WITH s(x) AS (SELECT name FROM a) SELECT x::date FROM s",
        "SELECT x::date FROM a, unnest(y) AS x",
        "SELECT x::date FROM a, unnest(y) x",
        "SELECT x::date FROM a AS b(x)",
        "SELECT x::_date FROM a WHERE y::date = (x || 'w')::date",
        "SELECT " + "(" * 300 + "x" + ")" * 300 + "::date FROM a",
    ],
)
def test_a_text_that_may_be_now_is_not_cast_to_a_date(sql: str) -> None:
    assert mentions(text(sql)).reason == CLOCK_CAST


@pytest.mark.parametrize("name", sorted(UNSTEADY))
def test_types_that_depend_on_the_catalogs_or_on_today_are_told(name: str) -> None:
    for sql in (
        f"SELECT x::{name} FROM a",
        f"SELECT {name} 'x' FROM a",
        f"SELECT CAST(x AS pg_catalog.{name}[]) FROM a",
    ):
        assert mentions(text(sql)).reason == CLOCK_TYPE


def test_time_with_time_zone_is_told_in_each_spelling() -> None:
    for name in ("time with time zone", "time(3) with time zone", "timetz", "_timetz", "timetz(3)"):
        assert mentions(text(f"SELECT CAST(x AS {name}) FROM a")).reason == CLOCK_TYPE
    assert mentions(text("SELECT x::timestamp with time zone FROM a")).reason == ""


def test_hostile_texts_are_looked_at_in_bounded_steps() -> None:
    for sql in (
        "SELECT " + "(" * 3000 + "x" + ")::date" * 3000,
        "SELECT x" + "::date" * 5000,
        "::",
        "SELECT ::",
        "a." * 9000,
    ):
        assert mentions(sql).names is not None
