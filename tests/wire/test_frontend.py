"""The frontend's messages: read as built, and never anything but ProtocolViolation for what is no such message."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.errors import ProtocolViolation
from pgloupe.wire import frontend
from pgloupe.wire.frontend import (
    build_bind,
    build_close,
    build_describe,
    build_execute,
    build_frame,
    build_parse,
    build_query,
    bytes_of,
    parse_bind_names,
    parse_bind_values,
    parse_execute,
    parse_named,
    parse_parse,
    parse_query,
    text_of,
)

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
OIDS = st.lists(st.integers(0, 0xFFFFFFFF), max_size=4).map(tuple)
FORMATS = st.lists(st.integers(0, 1), max_size=4).map(tuple)
ROWS = st.lists(st.one_of(st.none(), st.binary(max_size=20)), max_size=4).map(tuple)


def whole_bind(raw: bytes) -> object:
    return parse_bind_values(raw, parse_bind_names(raw)[2])


PARSERS: list[Callable[[bytes], object]] = [parse_query, parse_parse, whole_bind, parse_execute, parse_named]


@given(st.binary(max_size=40))
def test_every_byte_of_a_string_survives(data: bytes) -> None:
    assert bytes_of(text_of(data)) == data


@given(NAMES)
def test_a_query_is_read_as_built(query: str) -> None:
    assert parse_query(build_query(query)) == query


@given(NAMES, NAMES, OIDS)
def test_a_parse_is_read_as_built(name: str, query: str, oids: tuple[int, ...]) -> None:
    assert parse_parse(build_parse(name, query, oids)) == (name, query, oids)


@given(NAMES, NAMES, ROWS, FORMATS, FORMATS)
def test_a_bind_is_read_as_built(
    portal: str, name: str, values: tuple[bytes | None, ...], formats: tuple[int, ...], results: tuple[int, ...]
) -> None:
    raw = build_bind(portal, name, values, formats, results)
    got_portal, got_name, offset = parse_bind_names(raw)
    assert (got_portal, got_name) == (portal, name)
    assert parse_bind_values(raw, offset) == (formats, list(values), results)


@given(NAMES, st.integers(-(1 << 31), (1 << 31) - 1))
def test_an_execute_is_read_as_built(name: str, limit: int) -> None:
    assert parse_execute(build_execute(name, limit)) == (name, limit)


@given(st.sampled_from("SP"), NAMES)
def test_describe_and_close_are_read_as_built(kind: str, name: str) -> None:
    assert parse_named(build_describe(kind, name)) == (kind, name)
    assert parse_named(build_close(kind, name)) == (kind, name)


@given(st.sampled_from(PARSERS), st.binary(max_size=60))
def test_arbitrary_bodies_raise_nothing_but_protocol_violation(parser: Callable[[bytes], object], body: bytes) -> None:
    with suppress(ProtocolViolation):
        parser(build_frame(0x51, body))


CASES: list[tuple[Callable[[bytes], object], bytes]] = [
    (parse_query, build_query("SELECT 1")),
    (parse_parse, build_parse("s", "SELECT $1", (23, 25))),
    (whole_bind, build_bind("p", "s", (b"1", None), (1,), (0, 1))),
    (parse_execute, build_execute("p", 3)),
    (parse_named, build_describe("S", "s")),
]


@pytest.mark.parametrize(("parser", "raw"), CASES)
def test_a_message_that_is_cut_short_anywhere_is_refused(parser: Callable[[bytes], object], raw: bytes) -> None:
    body = raw[5:]
    for size in range(len(body)):
        with pytest.raises(ProtocolViolation):
            parser(build_frame(raw[0], body[:size]))


@pytest.mark.parametrize(("parser", "raw"), CASES)
def test_a_message_with_bytes_behind_its_contents_is_refused(parser: Callable[[bytes], object], raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        parser(build_frame(raw[0], raw[5:] + b"x"))


def test_a_value_that_declares_more_than_the_message_holds_is_refused() -> None:
    body = b"\0\0" + pack("!HHi", 0, 1, 0x7FFFFFFF) + b"abc"
    with pytest.raises(ProtocolViolation):
        whole_bind(build_frame(0x42, body))


def test_counts_that_the_message_does_not_hold_are_refused() -> None:
    for body in (pack("!H", 65_535), pack("!HH", 0, 65_535), pack("!HHH", 0, 0, 65_535)):
        with pytest.raises(ProtocolViolation):
            whole_bind(build_frame(0x42, b"\0\0" + body))
    with pytest.raises(ProtocolViolation):
        parse_parse(build_frame(0x50, b"\0\0" + pack("!H", 65_535)))


def test_the_most_parameters_that_the_protocol_can_count_are_read() -> None:
    values = (None,) * 65_535
    raw = build_bind("", "", values)
    assert parse_bind_values(raw, parse_bind_names(raw)[2]) == ((), list(values), ())


def test_messages_without_a_body_are_their_header() -> None:
    assert frontend.build_sync() == b"S\0\0\0\4"
    assert frontend.build_flush() == b"H\0\0\0\4"
    assert frontend.build_terminate() == b"X\0\0\0\4"
