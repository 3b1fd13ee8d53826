"""Keys: whatever can change an answer changes the key, and nothing a client sends makes two reads one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgloupe.cache import EXTENDED, SIMPLE, cache_key, names_moment, session_part
from pgloupe.cache.key import KEY_BYTES, digest

BASE = {
    "session": session_part("db:5432", "shop", "app", "", b"UTC"),
    "kind": EXTENDED,
    "bare": "SELECT 1",
    "parameter_types": (23,),
    "parameter_formats": (0,),
    "parameters": (b"1",),
    "result_formats": (0,),
    "row_description": True,
}
OTHERS = {
    "session": session_part("db:5432", "shop", "app", "reader", b"UTC"),
    "kind": SIMPLE,
    "bare": "SELECT 2",
    "parameter_types": (20,),
    "parameter_formats": (1,),
    "parameters": (None,),
    "result_formats": (1,),
    "row_description": False,
}


def test_each_part_of_a_read_changes_its_key() -> None:
    keys = {cache_key(**{**BASE, name: value}) for name, value in OTHERS.items()}  # type: ignore[arg-type]
    keys.add(cache_key(**BASE))  # type: ignore[arg-type]
    assert len(keys) == len(OTHERS) + 1
    assert all(len(key) == KEY_BYTES for key in keys)


def test_each_part_of_a_session_changes_its_keys() -> None:
    base = ["db:5432", "shop", "app", ""]
    parts = {session_part(*base, b"UTC"), session_part(*base, b"CET")}
    for index in range(4):
        parts.add(session_part(*base[:index], base[index] + "x", *base[index + 1 :], b"UTC"))
    assert len(parts) == 6


def test_bytes_do_not_move_from_one_part_into_the_next() -> None:
    assert session_part("ab", "c", "", "", b"") != session_part("a", "bc", "", "", b"")
    assert cache_key(b"", SIMPLE, "a", parameters=(b"b",)) != cache_key(b"", SIMPLE, "ab", parameters=(b"",))
    assert cache_key(b"", SIMPLE, "a", (1,), ()) != cache_key(b"", SIMPLE, "a", (), (0, 1))


def test_null_is_not_the_empty_string_and_neither_is_absent() -> None:
    keys = {
        cache_key(b"", EXTENDED, "s", parameters=values) for values in ((None,), (b"",), (), (None, None), (b"", b""))
    }
    assert len(keys) == 5


GROUPS = st.lists(st.lists(st.none() | st.binary(max_size=6), max_size=4), max_size=3)


@given(GROUPS, GROUPS)
def test_two_inputs_have_one_digest_only_if_they_are_equal(
    one: list[list[bytes | None]], other: list[list[bytes | None]]
) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


def test_a_parameter_that_names_a_moment_is_noticed() -> None:
    assert names_moment(b"\0\0\0\3now")
    assert names_moment(b"Tomorrow 12:00")
    assert not names_moment(b"know snow nowhere 2024-01-01")
