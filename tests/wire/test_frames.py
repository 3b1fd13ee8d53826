"""FrameReader: whatever the cuts, the frames are the same and no byte is lost, doubled or kept without need."""

from __future__ import annotations

import tracemalloc
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.wire.codes import MAX_FRAME_BYTES
from pgloupe.wire.frames import BROKEN, LAST_PIECE, PIECE, WHOLE, Frame, FrameReader
from pgloupe.wire.frontend import build_frame
from support.conversation import byte_by_byte, copy_data, cut, data_row, ready

CODES = st.sampled_from([0x44, 0x64, 0x5A, 0x51, 0x00])
FRAMES = st.lists(st.builds(build_frame, CODES, st.binary(max_size=40)), max_size=12)
CUTS = st.lists(st.integers(0, 600), max_size=20)
ANYTHING = st.one_of(
    st.binary(max_size=80),
    st.lists(st.one_of(st.builds(build_frame, CODES, st.binary(max_size=40)), st.binary(max_size=6))).map(b"".join),
)


def fed(reader: FrameReader, chunks: list[bytes]) -> list[Frame]:
    return [frame for chunk in chunks for frame in reader.feed(chunk)]


def single(frames: list[Frame]) -> list[tuple[int, bytes]]:
    """Runs taken apart, the pieces of a frame joined."""
    out: list[tuple[int, bytes]] = []
    piece = b""
    for code, raw, count in frames:
        if count in (PIECE, LAST_PIECE):
            piece += raw
            if count == LAST_PIECE:
                out.append((code, piece))
                piece = b""
            continue
        rest = raw
        for _ in range(count):
            length = 1 + int.from_bytes(rest[1:5], "big")
            out.append((code, rest[:length]))
            rest = rest[length:]
        assert rest == b""
    assert piece == b""
    return out


@pytest.mark.parametrize("join_rows", [False, True])
@given(frames=FRAMES, points=CUTS)
def test_the_frames_are_the_same_in_every_cut(join_rows: bool, frames: list[bytes], points: list[int]) -> None:
    data = b"".join(frames)
    expected = [(frame[0], frame) for frame in frames]
    for chunks in ([data], byte_by_byte(data), cut(data, points)):
        reader = FrameReader(join_rows=join_rows)
        assert single(fed(reader, chunks)) == expected
        assert reader.clean
        assert reader.pending == 0


@given(data=ANYTHING, points=CUTS, limit=st.sampled_from([8, 16, 1 << 20]), join_rows=st.booleans())
def test_raws_and_tail_are_the_input_for_any_bytes(data: bytes, points: list[int], limit: int, join_rows: bool) -> None:
    for chunks in ([data], byte_by_byte(data), cut(data, points)):
        reader = FrameReader(join_rows=join_rows, limit_bytes=limit)
        seen = b""
        given_so_far = b""
        for chunk in chunks:
            seen += chunk
            given_so_far += b"".join(raw for _, raw, _ in reader.feed(chunk))
            assert given_so_far + reader.tail() == seen
            assert reader.pending == len(reader.tail())
            assert reader.pending <= max(limit, 5)


@given(frames=FRAMES, points=CUTS)
def test_frames_over_the_limit_come_in_pieces_that_join_to_the_frame(frames: list[bytes], points: list[int]) -> None:
    data = b"".join(frames)
    for chunks in (byte_by_byte(data), cut(data, points)):
        reader = FrameReader(join_rows=True, limit_bytes=12)
        assert single(fed(reader, chunks)) == [(frame[0], frame) for frame in frames]
        assert reader.clean


def test_a_run_of_rows_is_one_frame_and_other_codes_are_not_joined() -> None:
    rows = data_row("a") + data_row("b") + data_row(None)
    assert FrameReader(join_rows=True).feed(rows + ready() + ready()) == [
        (0x44, rows, 3),
        (0x5A, ready(), WHOLE),
        (0x5A, ready(), WHOLE),
    ]


def test_describes_of_the_frontend_are_not_joined_though_they_have_the_code_of_rows() -> None:
    describe = build_frame(0x44, b"P\0")
    assert FrameReader(join_rows=False).feed(describe * 2) == [(0x44, describe, WHOLE)] * 2


def test_copied_data_is_joined_in_both_directions() -> None:
    data = copy_data(b"1\n") * 3
    for join_rows in (False, True):
        assert FrameReader(join_rows=join_rows).feed(data) == [(0x64, data, 3)]


def test_a_run_ends_before_a_row_that_is_not_whole() -> None:
    reader = FrameReader(join_rows=True)
    row = data_row("abc")
    assert reader.feed(row + row + row[:7]) == [(0x44, row + row, 2)]
    assert reader.tail() == row[:7]
    assert reader.tail(5) == row[5:7]
    assert not reader.clean
    assert reader.feed(row[7:]) == [(0x44, row, WHOLE)]


@pytest.mark.parametrize("length", [0, 3, MAX_FRAME_BYTES, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_length_that_no_message_can_have_breaks_the_stream_and_loses_nothing(length: int) -> None:
    data = ready() + b"Q" + pack("!I", length) + b"whatever follows"
    for chunks in ([data], byte_by_byte(data)):
        reader = FrameReader(join_rows=False)
        frames = fed(reader, [*chunks, ready()])
        assert frames[0] == (0x5A, ready(), WHOLE)
        assert {count for _, _, count in frames[1:]} == {BROKEN}
        assert b"".join(raw for _, raw, _ in frames) + reader.tail() == data + ready()


def test_an_absurd_length_behind_a_run_of_rows_is_reported_behind_the_run() -> None:
    row = data_row("a")
    bad = b"D" + pack("!I", 2) + b"xx"
    assert FrameReader(join_rows=True).feed(row + row + bad) == [(0x44, row + row, 2), (0x44, bad, BROKEN)]


def test_the_longest_and_the_shortest_length_are_accepted() -> None:
    assert FrameReader(join_rows=False).feed(b"S" + pack("!I", 4)) == [(0x53, b"S\0\0\0\4", WHOLE)]
    frames = FrameReader(join_rows=False).feed(b"Q" + pack("!I", MAX_FRAME_BYTES - 1) + b"x")
    assert [count for _, _, count in frames] == [PIECE]


def test_nothing_is_allocated_from_a_declared_length() -> None:
    chunk = bytes(65_536)
    reader = FrameReader(join_rows=False)
    tracemalloc.start()
    try:
        reader.feed(b"d" + pack("!I", MAX_FRAME_BYTES - 1))
        for _ in range(200):
            for _, raw, count in reader.feed(chunk):
                assert count == PIECE
                assert raw == chunk
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.pending == 0
    assert peak < 4 * len(chunk)


def test_the_last_piece_is_followed_by_the_next_frame_of_the_same_chunk() -> None:
    large = build_frame(0x51, bytes(40))
    reader = FrameReader(join_rows=False, limit_bytes=20)
    assert reader.feed(large[:30]) == [(0x51, large[:30], PIECE)]
    assert reader.feed(large[30:] + ready()) == [(0x51, large[30:], LAST_PIECE), (0x5A, ready(), WHOLE)]
