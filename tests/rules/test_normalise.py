"""Splitting, templates, slots and bare texts of `normalise.recognise`."""

from __future__ import annotations

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgloupe_rules.lexer import lex
from pgloupe_rules.normalise import MAX_TEXT, recognise
from pgloupe_rules.types import Literal, Recognised, Value, literal_values


def one(text: str) -> Recognised:
    (found,) = recognise(text)
    return found


def values(text: str) -> tuple[Value, ...]:
    return literal_values(one(text).slots)


@pytest.mark.parametrize(
    ("text", "template"),
    [
        ("select id,NAME from author where id=5", "SELECT id, name FROM author WHERE id = $1"),
        ('SELECT "id" FROM "Author" WHERE "user" = $3', 'SELECT id FROM "Author" WHERE "user" = $1'),
        ("select count( * ), t . * from t", "SELECT count(*), t.* FROM t"),
        ("select a from t where b in (1,2,3)", "SELECT a FROM t WHERE b IN ($1)"),
        ("select a from t where (b,c) in ((1,2),(3,4))", "SELECT a FROM t WHERE (b, c) IN (($1, $2))"),
        ("select array[1,2], '{}'::jsonb", "SELECT ARRAY[$1], $2::jsonb"),
        ("insert into t(a,b) values (1,'x'),(2,'y')", "INSERT INTO t (a, b) VALUES ($1, $2)"),
        ("select a-5, -5, a->>'k' from t", "SELECT a - $1, $2, a ->> $3 FROM t"),
        ("select cast(a+1 as int), cast($1 as text)", "SELECT (a + $1)::int, $2::text"),
        ("select date '2020-01-01'", "SELECT $1::date"),
        ("select a from t fetch first row only", "SELECT a FROM t LIMIT $1"),
        ("select a from t offset 1 limit 2", "SELECT a FROM t LIMIT $1 OFFSET $2"),
        ("set local Statement_Timeout to '5s'", "SET LOCAL statement_timeout = $1"),
        ("select a is null, b is not true, c = null", "SELECT a IS NULL, b IS NOT TRUE, c = $1"),
        ("select /* x */ a -- y\n from t", "SELECT a FROM t"),
        ("create table t (a varchar(10) default 'x')", "CREATE TABLE t (a varchar(10) DEFAULT $1)"),
    ],
)
def test_template(text: str, template: str) -> None:
    assert one(text).template.text == template


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("select 5", 5),
        ("select -5", -5),
        ("select - 5", -5),
        ("select -(5)", -5),
        ("select - -5", 5),
        ("select 1.50", Decimal("1.5")),
        ("select .5", Decimal("0.5")),
        ("select 1e3", 1000),
        ("select 0x1F", 31),
        ("select 0b101", 5),
        ("select 0o17", 15),
        ("select 1_000", 1000),
        ("select '5'", 5),
        ("select '05'", "05"),
        ("select 'it''s'", "it's"),
        ("select E'a\\'b\\n\\x41\\u00e9'", "a'b\nA\u00e9"),
        ("select U&'\\0041\\+000042\\\\'", "AB\\"),
        ("select U&'!0041' UESCAPE '!'", "A"),
        ("select N'x'", "x"),
        ("select B'101'", 101),
        ("select X'1F'", "1F"),
        ("select $$it's$$", "it's"),
        ("select $q$a$b$q$", "a$b"),
        ("select 'a' -- c\n  'b'", "ab"),
        ("select 'a\\'", "a\\"),
        ("select true", "t"),
        ("select false", "f"),
        ("select '0b9e7d6a-0000-4000-8000-000000000001'", UUID("0b9e7d6a-0000-4000-8000-000000000001")),
        ("select 'cut", "cut"),
        ("select $a$cut", "cut"),
    ],
)
def test_a_literal_is_decoded_to_its_comparable_value(text: str, expected: Value) -> None:
    (value,) = values(text)
    assert value == expected
    assert type(value) is type(expected) or isinstance(value, (int, Decimal))
    assert hash(value) == hash(expected)


def test_null_is_none() -> None:
    assert values("select null") == (None,)


def test_a_minus_between_operands_is_no_sign() -> None:
    assert values("select a-5, (b)-6, c[1]-7, 8-9 from t") == (5, 6, 1, 7, 8, 9)


def test_a_sign_before_a_cast_number_stays_in_the_template() -> None:
    assert one("select -5::int").template.text == "SELECT -$1::int"


def test_a_list_is_one_tuple_of_sources() -> None:
    assert one("select a from t where b in (1, $3, 'x')").slots == ((Literal(1), 3, Literal("x")),)
    assert values("select a from t where b in (7)") == ((7,),)


def test_row_values_are_tuples_by_column() -> None:
    assert values("select a from t where (b, c) in ((1, 'x'), (2, 'y'))") == ((1, 2), ("x", "y"))
    assert values("select a from t where (b, c) in ((1, 'x'))") == ((1,), ("x",))


def test_rows_of_values_are_tuples_by_column_and_one_row_is_plain() -> None:
    assert values("insert into t values (1, 'x'), (2, 'y')") == ((1, 2), ("x", "y"))
    assert values("insert into t values (1, 'x')") == (1, "x")


def test_a_parameter_used_twice_has_two_placeholders() -> None:
    found = one("select a from t where b = $1 or c = $1")
    assert found.template.text == "SELECT a FROM t WHERE b = $1 OR c = $2"
    assert found.slots == (1, 1)


def test_slots_follow_a_reordered_limit() -> None:
    assert values("select a from t offset 20 limit 10") == (10, 20)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("select 1;", ["select 1"]),
        (" ; select 1 ;; select 2 ", ["select 1", "select 2"]),
        ("select ';'; select \";\"; select $$;$$", ["select ';'", 'select ";"', "select $$;$$"]),
        ("select 1 /* ; /* ; */ ; */; -- ;\nselect 2", ["select 1", "select 2"]),
        ("create rule r as on insert to t do (select 1; select 2); select 3",
         ["create rule r as on insert to t do (select 1; select 2)", "select 3"]),
        ("create function f() returns int begin atomic select 1; select case when a then b end; end; select 2",
         ["create function f() returns int begin atomic select 1; select case when a then b end; end", "select 2"]),
        ("create or replace procedure p() begin atomic select 1; end; begin; select 2",
         ["create or replace procedure p() begin atomic select 1; end", "begin", "select 2"]),
        ("begin; select 1; end; select 2", ["begin", "select 1", "end", "select 2"]),
        ("/*a='b'*/ select/**/1 -- x\n+ 2 /* y */", ["select 1 \n+ 2"]),
        ("select 'a' /* c */ \n 'b'", ["select 'a' /**/ \n 'b'"]),
        ("select 'a /* b */ -- c'", ["select 'a /* b */ -- c'"]),
        ("", []),
        (" ;\n; -- x\n /* y */ ;", []),
    ],
)  # fmt: skip
def test_split_and_bare_text(text: str, bare: list[str]) -> None:
    assert [item.bare for item in recognise(text)] == bare


def test_tags_of_a_comment_are_on_the_statement_and_not_in_its_text() -> None:
    found = one("select 1 /*route='%2Fa',traceparent='00-1'*/")
    assert dict(found.tags) == {"route": "/a", "traceparent": "00-1"}
    assert found.bare == "select 1"
    assert found.template is not one("select 1").template
    assert found.template.fingerprint == one("select 1").template.fingerprint


@pytest.mark.parametrize(
    "text", ["select 'x", 'select "x', "select /* x", "select $a$ x", "select E'x\\", "select (1", "U&'", "in ("]
)
def test_a_statement_that_is_cut_off_has_a_template(text: str) -> None:
    assert one(text).template.text


def test_an_oversized_text_is_one_statement_without_values() -> None:
    text = "insert into t values " + "(1)," * (MAX_TEXT // 4) + "(1)"
    found = one(text)
    assert found.slots == ()
    assert found.template.placeholders == 0
    assert found.template.fingerprint == one(text).template.fingerprint
    assert found.template.fingerprint != one(text + ",(2)").template.fingerprint


LONG = MAX_TEXT // 4


@pytest.mark.parametrize(
    "text",
    [
        "'" * LONG,
        "'a''b" * (LONG // 5),
        "E'" + "\\" * (LONG - 2),
        "".join(f"$a{number}$ " for number in range(LONG // 9)),
        "/*" * (LONG // 2),
        "/*" + "*" * (LONG - 2),
        "+-" * (LONG // 2),
        ("<" * 62 + "+") * (LONG // 63),
        "'a'\n" * (LONG // 4),
        "'a'" + "\n--x" * (LONG // 5),
        "(" * LONG,
        "cast(" * (LONG // 5),
        "a." * (LONG // 2),
        "values (" * (LONG // 8),
        "in ((" * (LONG // 5),
        "select varchar(" + "1," * (LONG // 2 - 10),
        "select 1 " + "fetch first 1 " * (LONG // 15),
        "-(1) " * (LONG // 5),
        "1_" * (LONG // 2),
        "9" * LONG,
    ],
    ids=lambda text: text[:12].replace("\n", "_"),
)
def test_hostile_text_is_recognised_whole(text: str) -> None:
    tokens, comments = lex(text)
    covered = sum(token.end - token.start for token in tokens) + sum(end - start for start, end in comments)
    assert covered == len(text) - sum(map(text.count, " \n")) + sum(
        token.text.count(" ") + token.text.count("\n") for token in tokens
    )
    assert len(recognise(text)) <= 1


SQL = st.text(alphabet="'\"$()[]{},;:.-+*/<>=!?@#%^&|~\\ \n\tabeEuUnNxX0159_\u00e9\x00", max_size=60)
WORDS = st.lists(
    st.sampled_from(
        [
            "select",
            "from",
            "where",
            "a",
            "b",
            "in",
            "(",
            ")",
            "[",
            "]",
            ",",
            ";",
            "1",
            "-5",
            "'x'",
            "$1",
            "values",
            "array",
            "cast",
            "as",
            "int",
            "::",
            "not",
            "null",
            "is",
            "and",
            "or",
            "between",
            "limit",
            "offset",
            "fetch",
            "first",
            "row",
            "only",
            "set",
            "to",
            "interval",
            "date",
            "with",
            "time",
            "zone",
            "begin",
            "atomic",
            "end",
            "create",
            "function",
            "U&",
            "uescape",
            '"q"',
            ".",
            "*",
            "-",
            "=",
            "case",
            "when",
            "then",
            "union",
            "all",
            "distinct",
            "on",
            "table",
            "insert",
            "into",
        ]
    ),
    max_size=25,
).map(" ".join)


@given(SQL | WORDS | st.text(max_size=40))
@settings(max_examples=400, deadline=None)
def test_recognise_never_raises(text: str) -> None:
    for item in recognise(text):
        assert len(item.slots) == item.template.placeholders
        assert len(item.template.fingerprint) == 16
        hash(literal_values(item.slots))


TOKENS = [
    ["select", "a", ",", '"B"', "from", "t", "as", "x", "where", "b", "=", "5", "and", "c", "in", "(", "1", ",", "'y'", ")"],
    ["insert", "into", "t", "(", "a", ")", "values", "(", "-", "1", ")", ",", "(", "$$z$$", ")", "returning", "a"],
    ["update", "t", "set", "a", "=", "a", "+", "1", "where", "b", "->>", "'k'", "<>", "E'v'", "or", "not", "c"],
    ["select", "cast", "(", "a", "as", "numeric", "(", "10", ",", "2", ")", ")", "from", "t", "offset", "5", "limit", "6"],
    ["select", "count", "(", "*", ")", "from", "t", "where", "d", ">", "date", "'2026-01-01'", "and", "(", "e", "is", "null", ")"],
]  # fmt: skip
GAPS = st.sampled_from([" ", "\n", "\t ", "/* x */", " /* 'y /* $1 */ */ ", " -- z'\n", "\r\n"])


@given(st.sampled_from(TOKENS), st.data())
@settings(max_examples=150, deadline=None)
def test_comments_and_white_space_between_tokens_do_not_count(tokens: list[str], data: st.DataObject) -> None:
    plain = one(" ".join(tokens))
    gaps = data.draw(st.lists(GAPS, min_size=len(tokens), max_size=len(tokens)))
    found = one("".join(gap + token for gap, token in zip(gaps, tokens, strict=True)))
    assert found.template.text == plain.template.text
    assert found.template.fingerprint == plain.template.fingerprint
    assert found.slots == plain.slots


LITERALS = st.one_of(
    st.integers(0, 10**20).map(str),
    st.text(alphabet="abc'\"$; -/*1\n", max_size=8).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(["$1", "$77", "$$q$$", "E'\\''", "1.5e3", "null", "true", "'1'::int", "date '2026-01-01'", "B'1'"]),
)
FORMS = [
    "select a from t where b = {} and c < {}",
    "select a from t where b in ({}, {}) order by a",
    "insert into t (a, b) values ({}, {})",
    "update t set a = {} where b = {}",
    "select f({}), a || {} from t",
]


@given(st.sampled_from(FORMS), LITERALS, LITERALS)
@settings(max_examples=200, deadline=None)
def test_a_literal_may_be_another_or_a_parameter(form: str, first: str, second: str) -> None:
    found = one(form.format(first, second))
    assert found.template.fingerprint == one(form.format("5", "$1")).template.fingerprint


@given(WORDS)
@settings(max_examples=300, deadline=None)
def test_the_number_of_slots_is_that_of_the_placeholders_in_the_text(text: str) -> None:
    for item in recognise(text):
        numbers = [token.text for token in lex(item.template.text)[0] if token.text.startswith("$")]
        assert numbers == [f"${number}" for number in range(1, item.template.placeholders + 1)]


@given(
    st.lists(
        st.sampled_from(["select 1", "select ';'", "begin", "select $$;$$", 'select ";"', "values (1)"]), max_size=6
    )
)
@settings(deadline=None)
def test_statements_joined_by_semicolons_come_apart(statements: list[str]) -> None:
    assert [item.bare for item in recognise(" ; ".join(statements))] == statements


@pytest.mark.parametrize("text", ["SELECT - -a", "SELECT - -'x'", "SELECT @ -a", "SELECT ~ ~a"])
def test_operators_side_by_side_stay_apart(text: str) -> None:
    (item,) = recognise(text)
    (again,) = recognise(item.template.text)
    assert again.template.text == item.template.text
    assert "--" not in item.template.text
    assert item.template.text.replace("$1", "'x'") == text
