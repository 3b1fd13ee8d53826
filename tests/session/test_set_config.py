"""Which calls of set_config() are followed, and what they set."""

from __future__ import annotations

import pytest

from pgloupe.session.set_config import Change, changes, sets_by_function
from pgloupe.session.statements import Portal, Prepared
from pgloupe.wire.frontend import build_bind, parse_bind_names
from pgloupe_rules.types import Recognised
from support.conversation import recognise


def text(query: str) -> Recognised:
    return recognise(query)[0]


def portal(query: str, values: list[bytes | None], formats: tuple[int, ...] = (), oids: tuple[int, ...] = ()) -> Portal:
    bind = build_bind("", "", values, formats)
    return Portal("", Prepared("", query, recognise(query), oids), bind, parse_bind_names(bind)[2])


@pytest.mark.parametrize(
    ("query", "made"),
    [
        ("SELECT set_config('a.b', 'c', false)", [Change("a.b", "c", False)]),
        ("select  Pg_Catalog . SET_CONFIG ( 'A.b' , 'C'::text , TRUE ) AS \"x, y\" ;", [Change("a.b", "C", True)]),
        ("SELECT set_config('a.b', 'it''s', 'off') x", [Change("a.b", "it's", False)]),
        ("SELECT set_config('a.b', '', 'TR')", [Change("a.b", "", True)]),
        ("SELECT set_config('a.b', NULL, null)", [Change("a.b", None, False)]),
        (
            "SELECT set_config('a', 'b', false), set_config('a', 'c', true)",
            [Change("a", "b", False), Change("a", "c", True)],
        ),
        ("SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new", [Change("jit", "off", False)]),
        ("SELECT current_setting('a.b', true)", []),
        ("SELECT set_config(/* $1 */ 'a', 'b', false)", [Change("a", "b", False)]),
    ],
)
def test_constants_are_read(query: str, made: list[Change]) -> None:
    assert changes(text(query).bare, None) == made
    assert not sets_by_function(text(query).bare, len(made))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT set_config('a', 'b', false) FROM t",
        "SELECT set_config('a', 'b', false) WHERE false",
        "SELECT set_config('a', 'b', false) LIMIT 0",
        "SELECT set_config('a', 'b', false) UNION SELECT '1'",
        "SELECT * FROM set_config('a', 'b', false)",
        "SELECT 1, set_config('a', 'b', false)",
        "SELECT set_config('a', 'b' || 'c', false)",
        "SELECT set_config('a', E'b\\x', false)",
        "SELECT set_config('a', $$b$$, false)",
        "SELECT set_config('a', now()::text, false)",
        "SELECT set_config('a'::name, 'b', false)",
        "SELECT set_config('a', 'b')",
        "SELECT other.set_config('a', 'b', false)",
        "SELECT \"set_config\"('a', 'b', false), $$set_config('jit', 'x', false)$$",
        "SELECT length(set_config('a', 'b', false))",
        "SELECT set_config('a', 'b', NOT true)",
        "SELECT set_config('a', 'b', false) OVER ()",
        "WITH w AS (SELECT set_config('a', 'b', false)) SELECT * FROM w",
        "SELECT set_config('a', 'b', false), " + "set_config('a', 'b', false), " * 1000 + "set_config('a', 'b', false)",
    ],
)
def test_what_may_set_in_another_way_is_not_followed(query: str) -> None:
    assert sets_by_function(text(query).bare, max(1, text(query).template.text.count("set_config")))


BOTH = "SELECT set_config($1, $2, $3)"


@pytest.mark.parametrize(
    ("values", "formats", "oids", "made"),
    [
        ([b"a", b"b", b"t"], (), (), Change("a", "b", True)),
        ([b"a", b"b", b" OF "], (), (25, 25, 16), Change("a", "b", False)),
        ([b"a", b"b", b"\1"], (1,), (25, 1043, 16), Change("a", "b", True)),
        ([b"a", b"b", b"\0"], (0, 0, 1), (0, 0, 0), Change("a", "b", False)),
        ([b"a", None, None], (), (), Change("a", None, False)),
    ],
)
def test_parameters_are_read_in_text_and_binary(
    values: list[bytes | None], formats: tuple[int, ...], oids: tuple[int, ...], made: Change
) -> None:
    assert changes(BOTH, portal(BOTH, values, formats, oids)) == [made]


@pytest.mark.parametrize(
    ("values", "formats", "oids"),
    [
        ([b"a", b"b", b"perhaps"], (), ()),
        ([b"a", b"b", b"o"], (), ()),
        ([b"a", b"b", b"\1\1"], (1,), ()),
        ([b"a", b"b"], (), ()),
        ([None, b"b", b"t"], (), ()),
        ([b"a b", b"b", b"t"], (), ()),
        ([b"\xc3\x89", b"b", b"t"], (), ()),
        ([b"a", b"\0\0\0\1", b"t"], (1,), (25, 23, 16)),
        ([b"a", b"b", b"\0\0\0\1"], (1,), (25, 25, 23)),
    ],
)
def test_parameters_that_are_not_understood_leave_it_open(
    values: list[bytes | None], formats: tuple[int, ...], oids: tuple[int, ...]
) -> None:
    assert changes(BOTH, portal(BOTH, values, formats, oids)) is None


def test_parameters_of_a_portal_that_was_too_large_to_keep_leave_it_open() -> None:
    kept = portal(BOTH, [b"a", b"b", b"t"])
    kept.forget_values()
    assert changes(BOTH, kept) is None
    assert changes(BOTH, None) is None
