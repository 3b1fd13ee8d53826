"""Entries on their way through Redis: the same bytes come back, and anything malformed is nothing."""

from __future__ import annotations

from zlib import crc32

import lz4.block
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.cache import Entry
from pgloupe.cache.entry import COMPRESS_BYTES, COMPRESS_MOST_BYTES

ENTRIES = st.builds(
    Entry,
    head=st.binary(max_size=40),
    body=st.binary(max_size=80),
    rows=st.integers(0, 2**40),
    server_s=st.floats(0, 1e6),
)


@given(ENTRIES)
def test_an_entry_comes_back_as_it_was(value: Entry) -> None:
    assert Entry.from_bytes(value.to_bytes(), 200) == value


@given(ENTRIES, st.data())
def test_an_entry_with_one_bit_changed_is_nothing(value: Entry, data: st.DataObject) -> None:
    raw = bytearray(value.to_bytes())
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert Entry.from_bytes(bytes(raw), 200) is None


@given(ENTRIES, st.data())
def test_an_entry_that_was_cut_or_has_more_behind_it_is_nothing(value: Entry, data: st.DataObject) -> None:
    raw = value.to_bytes()
    assert Entry.from_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))], 200) is None
    assert Entry.from_bytes(raw + b"\0", 200) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_nothing(raw: bytes) -> None:
    found = Entry.from_bytes(raw, 200)
    assert found is None or found.to_bytes() == raw


LIMIT_BYTES = 1 << 20
SIMILAR = Entry(b"T" * 30, b"a row like the others " * 400, 400, 0.5)


@pytest.mark.parametrize("head", [b"", b"T" * 30])
def test_a_large_entry_is_smaller_in_redis_and_comes_back_as_it_was(head: bytes) -> None:
    value = Entry(head, SIMILAR.body, 400, 0.5)
    raw = value.to_bytes(COMPRESS_BYTES)
    assert len(raw) < value.size_bytes / 10
    assert Entry.from_bytes(raw, value.size_bytes) == value
    assert Entry.from_bytes(value.to_bytes(0), value.size_bytes) == value


def test_what_is_small_or_hard_to_compress_or_very_large_stays_as_it_is() -> None:
    random = Entry(b"", bytes((number * number * 2654435761 >> 13) & 255 for number in range(9000)))
    huge = Entry(b"", b"x" * (COMPRESS_MOST_BYTES + 1))
    for value in (Entry(b"", b"x" * (COMPRESS_BYTES - 1)), random, huge):
        assert value.to_bytes(COMPRESS_BYTES) == value.to_bytes(0)
        assert Entry.from_bytes(value.to_bytes(0), 8 << 20) == value


def test_an_entry_over_the_limit_is_nothing() -> None:
    for compress_bytes in (0, COMPRESS_BYTES):
        assert Entry.from_bytes(SIMILAR.to_bytes(compress_bytes), SIMILAR.size_bytes - 1) is None


def forged(content: bytes, head_bytes: int, body_bytes: int) -> bytes:
    """A compressed entry whose checksum is right and that claims these sizes."""
    kind = Entry(b"", b"x" * 4096).to_bytes(1)[:4]
    rest = (1).to_bytes(8, "big") + bytes(8) + head_bytes.to_bytes(4, "big") + body_bytes.to_bytes(4, "big") + content
    return kind + crc32(rest).to_bytes(4, "big") + rest


def test_an_entry_that_claims_another_size_than_it_has_is_nothing() -> None:
    bomb = lz4.block.compress(bytes(100 << 20), store_size=False)
    assert Entry.from_bytes(forged(bomb, 0, 100 << 20), LIMIT_BYTES) is None
    assert Entry.from_bytes(forged(bomb, 0, 100 << 20), 1 << 40) is None
    for size in (0, 1, 1000, LIMIT_BYTES):
        assert Entry.from_bytes(forged(bomb, 0, size), LIMIT_BYTES) is None
    small = lz4.block.compress(b"y" * 1000, store_size=False)
    assert Entry.from_bytes(forged(small, 0, 1001), LIMIT_BYTES) is None
    assert Entry.from_bytes(forged(small, 2**32 - 1, 2**32 - 1), 1 << 40) is None
    found = Entry.from_bytes(forged(small, 400, 600), LIMIT_BYTES)
    assert found is not None
    assert (found.head, found.body) == (b"y" * 400, b"y" * 600)


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_compressed_bytes_are_an_entry_or_nothing(content: bytes, size: int) -> None:
    found = Entry.from_bytes(forged(content, 0, size), 300)
    assert found is None or found.size_bytes == size


@given(st.data())
def test_a_compressed_entry_with_one_bit_changed_is_nothing(data: st.DataObject) -> None:
    raw = bytearray(SIMILAR.to_bytes(COMPRESS_BYTES))
    bit = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[bit // 8] ^= 1 << bit % 8
    assert Entry.from_bytes(bytes(raw), LIMIT_BYTES) is None
