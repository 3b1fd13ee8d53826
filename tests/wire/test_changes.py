"""Lines of logical decoding are understood by their beginnings, and nothing that comes makes the reading raise."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.wire.changes import RELATION, TRUNCATE, Change, parse_pgoutput, parse_test_decoding


def relation(oid: int, schema: str, name: str, rest: bytes = b"d\0\1") -> bytes:
    return bytes([RELATION]) + oid.to_bytes(4, "big") + schema.encode() + b"\0" + name.encode() + b"\0" + rest


def truncate(*oids: int) -> bytes:
    head = bytes([TRUNCATE]) + len(oids).to_bytes(4, "big") + b"\1"
    return head + b"".join(oid.to_bytes(4, "big") for oid in oids)


@pytest.mark.parametrize("code", [b"I", b"U", b"D"])
@pytest.mark.parametrize("rest", [b"", b"N\0\1n", b"x" * 100])
def test_a_changed_row_names_its_relation_in_the_first_five_bytes(code: bytes, rest: bytes) -> None:
    assert parse_pgoutput(code + (70_000).to_bytes(4, "big") + rest) == Change(changed=(70_000,))


@pytest.mark.parametrize("rest", [b"", b"d\0\1", b"\0"])
def test_a_relation_has_a_name_and_what_follows_does_not_matter(rest: bytes) -> None:
    assert parse_pgoutput(relation(5, "public", "grüße.\n", rest)) == Change(relation=5, name="grüße.\n")
    assert parse_pgoutput(relation(5, "", "in_pg_catalog", rest)) == Change(relation=5, name="in_pg_catalog")


def test_truncate_lists_relations() -> None:
    assert parse_pgoutput(truncate(1, 2, 4_000_000_000)) == Change(changed=(1, 2, 4_000_000_000))
    assert parse_pgoutput(truncate()) == Change()


@pytest.mark.parametrize("message", [b"B" + bytes(20), b"C" + bytes(25), b"O", b"Y", b"M\0"])
def test_other_messages_change_nothing(message: bytes) -> None:
    assert parse_pgoutput(message) == Change()


@pytest.mark.parametrize(
    "message",
    [
        *(b"", b"I", b"I\0\0\1", b"R\0\0\0\5public", b"R\0\0\0\5public\0name", b"R\0\0\0\0public\0name\0"),
        *(
            b"R\0\0\0\5public\0\0",
            truncate(1, 2)[:-1],
            truncate(1, 2) + b"\0",
            b"T",
            b"T\xff\xff\xff\xff\0",
            b"S",
            b"\0",
            b"p",
        ),
    ],
)
def test_what_is_not_understood_is_told_apart_from_what_changes_nothing(message: bytes) -> None:
    assert parse_pgoutput(message) is None


@given(
    st.binary(max_size=64) | st.builds(lambda code, rest: code + rest, st.sampled_from([b"R", b"T", b"I"]), st.binary())
)
def test_any_bytes_are_understood_or_not_and_never_raise(message: bytes) -> None:
    found = parse_pgoutput(message)
    if found is not None:
        assert len(found.changed) <= len(message) // 4 + 1
        assert not (found.relation and found.changed)


def quoted(name: str) -> str:
    return name if name.isascii() and name.isidentifier() and name.islower() else '"' + name.replace('"', '""') + '"'


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20) | st.text(
    '.":, \nINSERTtable', min_size=1, max_size=20
)
ACTIONS = st.sampled_from(["INSERT", "UPDATE", "DELETE", "TRUNCATE"])


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=4), ACTIONS, st.text(max_size=20))
def test_the_tables_of_a_line_are_found_whatever_their_names_are(
    tables: list[tuple[str, str]], action: str, rest: str
) -> None:
    names = ", ".join(f"{quoted(schema)}.{quoted(name)}" for schema, name in tables)
    assert parse_test_decoding(f"table {names}: {action}:{rest}") == tuple(name for _, name in tables)


@pytest.mark.parametrize(
    "line", ["BEGIN", "COMMIT 5", "", "message: transactional: 1 prefix: table a.b: INSERT:", "tab"]
)
def test_a_line_about_something_else_names_no_table(line: str) -> None:
    assert parse_test_decoding(line) == ()


@pytest.mark.parametrize(
    "line",
    [
        *("table ", "table a", "table a.", "table a.b", "table a.b: ", "table a.b: MERGE:", "table a.b, : TRUNCATE:"),
        *(
            'table "a.b: INSERT:',
            'table a."b: INSERT:',
            'table a."": INSERT:',
            "table .b: INSERT:",
            "table a b: INSERT:",
        ),
        "table a.b, c.d",
    ],
)
def test_a_line_that_is_cut_or_strange_is_not_understood(line: str) -> None:
    assert parse_test_decoding(line) is None


@given(st.text(max_size=60) | st.text('ab".:, ', max_size=60).map("table ".__add__))
def test_any_line_is_understood_or_not_and_never_raises(line: str) -> None:
    found = parse_test_decoding(line)
    assert found is None or all(found)


def test_a_long_list_is_read_in_one_pass() -> None:
    names = [f'"t,""{number}"' for number in range(20_000)]
    line = "table " + ", ".join(f"a.{name}" for name in names) + ": TRUNCATE: (no-flags)"
    found = parse_test_decoding(line)
    assert found is not None
    assert found[:2] == ('t,"0', 't,"1')
    assert len(found) == 20_000
    assert parse_test_decoding('table a."' + '""' * 50_000) is None
