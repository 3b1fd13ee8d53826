"""Entries on their way through Redis: the same bytes come back, and anything malformed is nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pgloupe.cache import Entry

ENTRIES = st.builds(
    Entry,
    head=st.binary(max_size=40),
    body=st.binary(max_size=80),
    rows=st.integers(0, 2**40),
    server_s=st.floats(0, 1e6),
)


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(value: Entry) -> None:
    assert Entry.from_bytes(value.to_bytes()) == value


@given(ENTRIES, st.data())
def test_an_entry_with_one_bit_changed_is_nothing(value: Entry, data: st.DataObject) -> None:
    raw = bytearray(value.to_bytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert Entry.from_bytes(bytes(raw)) is None


@given(ENTRIES, st.data())
def test_an_entry_that_was_cut_or_has_more_behind_it_is_nothing(value: Entry, data: st.DataObject) -> None:
    raw = value.to_bytes()
    assert Entry.from_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))]) is None
    assert Entry.from_bytes(raw + b"\0") is None


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_nothing(raw: bytes) -> None:
    found = Entry.from_bytes(raw)
    assert found is None or found.to_bytes() == raw
