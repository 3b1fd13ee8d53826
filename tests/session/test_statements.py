"""Names of prepared statements and portals, bounded, and the values behind placeholders."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgloupe.session.statements import (
    MAX_DECODED_BYTES,
    MAX_PORTALS,
    MAX_PREPARED,
    MAX_PREPARED_BYTES,
    UNKNOWN,
    Portal,
    Prepared,
    Statements,
    fill_slots,
)
from pgloupe.wire.frontend import build_bind, parse_bind_names
from pgloupe_rules.types import Literal, SessionInfo, Slot, Statement
from support.conversation import recognise


def prepared(name: str, query: str = "SELECT 1", oids: tuple[int, ...] = ()) -> Prepared:
    return Prepared(name, query, recognise(query), oids)


def portal(name: str, of: Prepared, *values: bytes | None, formats: tuple[int, ...] = ()) -> Portal:
    raw = build_bind(name, of.name, values, formats, (1,))
    return Portal(name, of, raw, parse_bind_names(raw)[2])


def values_of(of: Prepared, *values: bytes | None, formats: tuple[int, ...] = ()) -> object:
    it = portal("", of, *values, formats=formats)
    return Statement(SessionInfo(1), 1, of.recognised, of.query_string, decode=it.decode).values()


def test_a_name_means_what_was_prepared_last_and_tells_what_it_meant() -> None:
    names = Statements()
    first, second = prepared("s"), prepared("s", "SELECT 2")
    assert names.prepare(first) is None
    assert names.prepare(second) is first
    assert names.prepared("s") is second
    assert names.close_prepared("s") is second
    assert names.prepared("s") is None
    assert names.close_prepared("s") is None


def test_undoing_leaves_a_name_that_was_used_again() -> None:
    names = Statements()
    first, second = prepared("s"), prepared("s", "SELECT 2")
    names.prepare(first)
    names.prepare(second)
    names.undo("s", first, None)
    assert names.prepared("s") is second
    names.undo("s", second, first)
    assert names.prepared("s") is first


def test_names_are_forgotten_from_the_oldest_on() -> None:
    names = Statements()
    for number in range(MAX_PREPARED + 10):
        names.prepare(prepared(f"s{number}"))
    assert [names.prepared(f"s{number}") is None for number in (0, 9, 10, MAX_PREPARED + 9)] == [
        True,
        True,
        False,
        False,
    ]


def test_texts_are_bounded_in_bytes_and_the_newest_is_kept() -> None:
    names = Statements()
    text = "x" * (MAX_PREPARED_BYTES // 4 - 600)
    for number in range(8):
        names.prepare(Prepared(f"s{number}", text, (UNKNOWN,)))
    assert [number for number in range(8) if names.prepared(f"s{number}")] == [4, 5, 6, 7]
    names.prepare(Prepared("large", "x" * (2 * MAX_PREPARED_BYTES), (UNKNOWN,)))
    assert names.prepared("large") is not None
    assert names.prepared("s7") is None
    names.prepare(prepared("small"))
    assert names.prepared("large") is None


@given(st.lists(st.tuples(st.sampled_from("pcud"), st.sampled_from(["", "a", "b"]), st.integers(0, 50)), max_size=40))
def test_the_bytes_are_counted_right_whatever_happens(steps: list[tuple[str, str, int]]) -> None:
    names = Statements()
    made: list[Prepared] = []
    for step, name, size in steps:
        if step == "p":
            made.append(Prepared(name, "x" * size, (UNKNOWN,)))
            names.prepare(made[-1])
        elif step == "c":
            names.close_prepared(name)
        elif step == "u" and made:
            names.undo(made[-1].name, made[-1], made[0] if made[0].name == made[-1].name else None)
        else:
            names.completed("DEALLOCATE ALL", UNKNOWN, 1)
        kept = [names.prepared(each) for each in ("", "a", "b")]
        assert names._bytes == sum(each.weight for each in kept if each is not None)


def test_portals_are_bounded() -> None:
    names = Statements()
    it = prepared("")
    for number in range(MAX_PORTALS + 1):
        names.bind(portal(f"p{number}", it))
    assert names.portal("p0") is None
    assert names.portal(f"p{MAX_PORTALS}") is not None
    names.end_transaction()
    assert names.portal(f"p{MAX_PORTALS}") is None


def test_a_query_destroys_the_unnamed_statement_and_portal() -> None:
    names = Statements()
    unnamed, named = prepared(""), prepared("s")
    for each in (unnamed, named):
        names.prepare(each)
        names.bind(portal(each.name, each))
    assert names.simple_query() is unnamed
    assert names.prepared("") is None
    assert names.portal("") is None
    assert names.prepared("s") is named
    assert names.portal("s") is not None


def test_commands_drop_the_name_that_the_server_drops() -> None:
    for command, dropped in [
        ("DEALLOCATE plan", "plan"),
        ("DEALLOCATE Plan", "plan"),
        ('deallocate prepare "Plan"', "Plan"),
        ('DEALLOCATE "a ""b"""', 'a "b"'),
        ("DEALLOCATE PREPARE", "prepare"),
    ]:
        names = Statements()
        names.prepare(prepared(dropped))
        names.prepare(prepared("other"))
        names.completed("DEALLOCATE", recognise(command)[0], 1)
        assert names.prepared(dropped) is None, command
        assert names.prepared("other") is not None


def test_dropping_all_names_leaves_the_unnamed_statement() -> None:
    for tag in ("DEALLOCATE ALL", "DISCARD ALL"):
        names = Statements()
        names.prepare(prepared(""))
        names.prepare(prepared("s"))
        names.completed(tag, recognise(tag)[0], 1)
        assert names.prepared("") is not None
        assert names.prepared("s") is None


def test_a_statement_prepared_by_sql_is_unknown_and_not_empty() -> None:
    names = Statements()
    names.completed("PREPARE", recognise("PREPARE Plan (int) AS SELECT $1")[0], 1)
    made = names.prepared("plan")
    assert made is not None
    assert made.recognised is UNKNOWN
    assert made.statement_count == 1
    assert prepared("", "").statement_count == 0


def test_values_in_text_and_binary() -> None:
    it = prepared("s", "SELECT * FROM a WHERE b = $2 AND c = $1 AND d IN (7, $3) AND e = 'x'", (23, 16, 20))
    assert values_of(it, b"5", b"t", b"\0" * 7 + b"\2", formats=(0, 0, 1)) == ("t", 5, (7, 2), "x")
    assert values_of(it, b"\0\0\0\5", b"\1", b"\0" * 7 + b"\2", formats=(1,)) == ("t", 5, (7, 2), "x")
    assert values_of(it, None, None, None) == (None, None, (7, None), "x")


def test_values_that_cannot_be_known_are_none_at_all() -> None:
    it = prepared("s", "SELECT * FROM a WHERE b = $2")
    assert values_of(it, b"1") == ()
    broken = Portal("", it, b"B\0\0\0\x08\0\0\0\5", 7)
    assert broken.decode(Statement(SessionInfo(1), 1, it.recognised, "")) == ()
    assert broken.result_formats() == ()


def test_a_large_bind_is_not_kept_but_its_result_formats_are() -> None:
    it = portal("", prepared("s", "SELECT $1"), b"x" * MAX_DECODED_BYTES)
    assert it.bind == b""
    assert it.result_formats() == (1,)
    assert it.decode(Statement(SessionInfo(1), 1, it.prepared.recognised, "")) == ()


def test_slots_are_filled_from_parameters_and_literals() -> None:
    slots: tuple[Slot, ...] = (2, Literal("x"), (1, Literal(3)))
    assert fill_slots(slots, ["a", "b"]) == ("b", "x", ("a", 3))
    assert fill_slots(slots, ["a"]) == ()
    assert fill_slots(((1, 3),), ["a", "b"]) == ()
    assert fill_slots((0,), ["a"]) == ()
