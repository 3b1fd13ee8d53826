"""The backend's messages that are understood."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.backend import (
    READY_IDLE,
    build_error_response,
    error_sqlstate,
    parse_authentication,
    parse_command_complete,
    parse_data_rows,
    parse_error_fields,
    parse_parameter_description,
    parse_parameter_status,
    parse_ready_for_query,
    parse_row_description,
    tag_rows,
)
from pgloupe.wire.frontend import build_frame
from support.conversation import (
    complete,
    data_row,
    error,
    parameter_description,
    parameter_status,
    ready,
    row_description,
)


def rows_of(raw: bytes) -> object:
    return parse_data_rows(raw, 10)


PARSERS: list[Callable[[bytes], object]] = [
    parse_row_description,
    parse_parameter_description,
    rows_of,
    parse_command_complete,
    parse_ready_for_query,
    parse_parameter_status,
    parse_authentication,
    parse_error_fields,
    error_sqlstate,
]
VALUES = st.lists(st.one_of(st.none(), st.binary(max_size=12)), max_size=5)


@given(
    st.sampled_from(PARSERS), st.one_of(st.binary(max_size=60).map(lambda body: build_frame(0x54, body)), st.binary())
)
def test_arbitrary_bytes_raise_nothing_but_protocol_violation(parser: Callable[[bytes], object], raw: bytes) -> None:
    with suppress(ProtocolViolation):
        parser(raw)


@pytest.mark.parametrize(
    ("parser", "raw"),
    [
        (parse_row_description, row_description("a", "b")),
        (parse_parameter_description, parameter_description(23, 25)),
        (rows_of, data_row("a", None)),
        (parse_ready_for_query, ready()),
        (parse_parameter_status, parameter_status("TimeZone", "UTC")),
        (parse_authentication, build_frame(0x52, pack("!i", 0))),
    ],
)
def test_a_message_that_is_cut_short_anywhere_is_refused(parser: Callable[[bytes], object], raw: bytes) -> None:
    body = raw[5:]
    for size in range(len(body)):
        with pytest.raises(ProtocolViolation):
            parser(build_frame(raw[0], body[:size]))


def test_a_row_description_gives_name_table_attribute_type_and_format() -> None:
    field = b"id\0" + pack("!IhIhih", 16_384, 3, 23, 4, -1, 1)
    assert parse_row_description(build_frame(0x54, pack("!H", 1) + field)) == (("id", 16_384, 3, 23, 1),)
    assert parse_row_description(row_description()) == ()


def test_parameter_descriptions_give_the_types() -> None:
    assert parse_parameter_description(parameter_description()) == ()
    assert parse_parameter_description(parameter_description(23, 0xFFFFFFFF)) == (23, 0xFFFFFFFF)


@given(st.lists(VALUES, max_size=6), st.integers(0, 8))
def test_rows_are_read_as_they_were_sent_up_to_the_number_asked_for(rows: list[list[bytes | None]], most: int) -> None:
    run = b"".join(data_row(*row) for row in rows)
    assert parse_data_rows(run, most) == rows[:most]


def test_a_value_may_not_reach_into_the_next_row() -> None:
    long = build_frame(0x44, pack("!Hi", 1, 30) + b"ab")
    with pytest.raises(ProtocolViolation):
        parse_data_rows(long + data_row("x" * 40), 2)


@pytest.mark.parametrize(
    ("tag", "rows"),
    [
        ("SELECT 7", 7),
        ("INSERT 0 5", 5),
        ("UPDATE 0", 0),
        ("COPY 12", 12),
        ("BEGIN", 0),
        ("", 0),
        ("CREATE TABLE", 0),
        ("SELECT " + "9" * 30, 0),
        ("SELECT \u0663", 0),
    ],
)
def test_the_row_count_is_the_number_at_the_end_of_the_tag(tag: str, rows: int) -> None:
    assert tag_rows(tag) == rows


def test_small_messages() -> None:
    assert parse_command_complete(complete("DELETE 3")) == "DELETE 3"
    assert [parse_ready_for_query(ready(status)) for status in "ITE"] == ["I", "T", "E"]
    assert parse_ready_for_query(READY_IDLE) == "I"
    assert parse_parameter_status(parameter_status("TimeZone", "")) == ("TimeZone", "")
    assert parse_authentication(build_frame(0x52, pack("!i", 10) + b"SCRAM-SHA-256\0\0")) == 10


def test_the_fields_of_an_error_are_read_in_any_order() -> None:
    assert error_sqlstate(error("23505")) == "23505"
    first = build_frame(0x45, b"C40001\0SERROR\0MCould not\0\0")
    assert error_sqlstate(first) == "40001"
    assert parse_error_fields(first) == {"C": "40001", "S": "ERROR", "M": "Could not"}
    assert error_sqlstate(build_frame(0x45, b"MCould not: C12345\0\0")) == ""
    assert error_sqlstate(build_frame(0x45, b"")) == ""


def test_our_own_errors_have_the_fields_that_clients_read() -> None:
    raw = build_error_response("08006", "café is closed")
    assert raw[0] == 0x45
    assert int.from_bytes(raw[1:5], "big") == len(raw) - 1
    assert error_sqlstate(raw) == "08006"
    assert parse_error_fields(raw) == {"S": "FATAL", "V": "FATAL", "C": "08006", "M": "café is closed"}


def test_a_nul_in_the_text_of_our_own_error_does_not_end_the_field() -> None:
    raw = build_error_response("08P01", "a\0Cb")
    assert error_sqlstate(raw) == "08P01"
    assert parse_error_fields(raw) == {"S": "FATAL", "V": "FATAL", "C": "08P01", "M": "a Cb"}
