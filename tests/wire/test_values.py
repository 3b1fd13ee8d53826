"""Values decode to the same thing whatever the format, and nothing that is sent makes decoding raise."""

from __future__ import annotations

import random
import struct
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgloupe.wire.values import MAX_ELEMENTS, decode, decode_parameter

TEXT, BINARY = 0, 1
BOOL, BYTEA, CHAR, INT8, INT2, INT4, STRING, OID, JSON, FLOAT4, FLOAT8 = 16, 17, 18, 20, 21, 23, 25, 26, 114, 700, 701
CIDR, INET, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL = 650, 869, 1082, 1083, 1114, 1184, 1186
TIMETZ, BIT, NUMERIC, UUID_OID, JSONB, INT4_ARRAY, TEXT_ARRAY = 1266, 1560, 1700, 2950, 3802, 1007, 1009
BUILT_IN = [
    *(16, 17, 18, 19, 20, 21, 23, 25, 26, 28, 29, 114, 142, 650, 700, 701, 705, 774, 829, 869, 1042, 1043, 1082, 1083),
    *(1114, 1184, 1186, 1266, 1560, 1562, 1700, 2950, 3802, 5069, 1000, 1001, 1007, 1009, 1041, 1185, 1231, 3807),
]

# Every expression here gives a value that Python can compare; the same in text and in binary, by a real server.
EXPRESSIONS = [
    *(
        "NULL::int",
        "1::int2",
        "(-32768)::int2",
        "1::int4",
        "(-2147483648)::int4",
        "1::int8",
        "9223372036854775807::int8",
    ),
    *("4294967295::oid", "'4294967295'::xid", "'18446744073709551615'::xid8", "true", "false"),
    *("0.1::float4", "1e-45::float4", "3.4028235e38::float4", "'-inf'::float4", "'nan'::float4", "16777216::float4"),
    *(
        "0.1::float8",
        "'5e-324'::float8",
        "1.7976931348623157e308::float8",
        "'inf'::float8",
        "'nan'::float8",
        "-0.0::float8",
    ),
    *("0::numeric", "1::numeric", "1.10::numeric", "-0.00012::numeric", "12345678901234567890.0987654321::numeric"),
    *("1e131071::numeric", "1e-16383::numeric", "100000000::numeric", "'NaN'::numeric", "'-Infinity'::numeric"),
    *("'Infinity'::numeric", "0.0000::numeric", "1e4::numeric", "9999.9999::numeric"),
    *(
        "''::text",
        "'grüße \U0001f418'::text",
        "'a'::varchar(5)",
        "'a'::char(5)",
        "'abc'::name",
        "'x'::\"char\"",
        "''::\"char\"",
    ),
    *(r"'\x'::bytea", r"'\x00ff5c'::bytea", "'{\"a\": [1, null]}'::json", '\'{"b":1, "a":"é"}\'::jsonb'),
    *("'{0190a6bc-1234-7abc-8def-0123456789ab}'::uuid", "B'10110011101'::bit(11)", "B''::varbit", "B'1'::varbit"),
    *("'2024-02-29'::date", "'0001-01-01'::date", "'9999-12-31'::date", "'10000-01-01'::date", "'0044-03-15 BC'::date"),
    *(
        "'5874897-12-31'::date",
        "'4713-01-01 BC'::date",
        "'infinity'::date",
        "'-infinity'::date",
        "'0001-12-31 BC'::date",
    ),
    *("'00:00'::time", "'23:59:59.999999'::time", "'04:05:06.7'::time", "'24:00'::time"),
    *("'04:05:06.789-08'::timetz", "'04:05+05:30'::timetz", "'04:05:06-15:59:59'::timetz", "'24:00+02'::timetz"),
    *("'24:00-05:30'::timetz", "'24:00+00:00:15'::timetz", "'2024-02-29 12:34:56.000001'::timestamp"),
    *("'1999-12-31 23:59:59.999999'::timestamp", "'0001-01-01'::timestamp", "'9999-12-31 23:59:59.5'::timestamp"),
    *("'10000-01-01 00:00:00.25'::timestamp", "'4713-01-01 01:02:03 BC'::timestamp", "'infinity'::timestamp"),
    *("'2024-02-29 12:34:56.7+02'::timestamptz", "'1880-01-01 00:00:00+00'::timestamptz", "'-infinity'::timestamptz"),
    *("'0001-01-01 00:00:00+00'::timestamptz", "'9999-12-31 23:59:59+00'::timestamptz", "'infinity'::timestamptz"),
    *("'0044-03-15 12:00+00 BC'::timestamptz", "'294276-12-31 23:59:59.999999+00'::timestamptz"),
    *("'0'::interval", "'1 year 2 mons -3 days 04:05:06.789'::interval", "'-1 year -00:00:00.5'::interval"),
    *(
        "'-1 mons +3 days'::interval",
        "'100 years 123456:00:00'::interval",
        "'1 day'::interval",
        "'-2147483648 days'::interval",
    ),
    *("'192.168.0.1'::inet", "'192.168.0.1/24'::inet", "'0.0.0.0/0'::cidr", "'10.1.0.0/16'::cidr", "'10.1.2.3'::cidr"),
    *(
        "'::'::inet",
        "'::1'::inet",
        "'::1.2.3.4'::inet",
        "'::ffff:1.2.3.4'::inet",
        "'::2'::inet",
        "'1::'::inet",
        "'1:0:0:2::3'::inet",
    ),
    *(
        "'2001:db8::1/64'::inet",
        "'2001:db8::/32'::cidr",
        "'1:2:3:4:5:6:7:8'::inet",
        "'1:0:3:4:5:6:7:8'::inet",
        "'::5:6:7:8'::inet",
    ),
    *(
        "'::1:0'::inet",
        "'0:0:1::'::inet",
        "'1:0:0:4:5:0:0:8'::inet",
        "'08:00:2b:01:02:03'::macaddr",
        "'08:00:2b:01:02:03:04:05'::macaddr8",
    ),
    *(
        "'{}'::int[]",
        "'{1,NULL,-3}'::int[]",
        "'{{1,2},{3,4}}'::int8[]",
        "'[0:1]={7,8}'::int2[]",
        "'[0:0][2:3]={{7,8}}'::int[]",
    ),
    *(
        "'{{{1},{2}},{{3},{4}}}'::int[]",
        "ARRAY['', 'NULL', 'a b', '{x}', 'q\"\\', ' pad ', E'line\\nbreak', NULL, 'a,b']",
    ),
    *(
        "ARRAY['\\x00'::bytea, '\\x5c22']",
        "ARRAY[true, false, NULL]",
        "ARRAY[1.50, 'NaN'::numeric]",
        "ARRAY[0.1::float4]",
    ),
    *("ARRAY['2024-01-01 10:00+03'::timestamptz]", "ARRAY['1 mon 2 days'::interval]", "ARRAY['10.0.0.0/8'::cidr]"),
    *(
        "ARRAY['{\"a\": 1}'::jsonb]",
        "ARRAY['0190a6bc-1234-7abc-8def-0123456789ab'::uuid]",
        "ARRAY['a'::\"char\"]",
        "ARRAY['infinity'::date]",
    ),
]


def both(connection: psycopg.Connection[Any], expressions: list[str]) -> list[tuple[object, object]]:
    """Each expression as decoded from the server's text and from its binary form."""
    out = []
    for start in range(0, len(expressions), 50):
        columns = ", ".join(expressions[start : start + 50])
        query = f"SELECT {columns}"
        results = [connection.execute(query, binary=binary).pgresult for binary in (False, True)]
        assert results[0] is not None
        assert results[1] is not None
        for column in range(results[0].nfields):
            oid = results[0].ftype(column)
            out.append(
                (
                    decode(oid, results[0].fformat(column), results[0].get_value(0, column)),
                    decode(oid, results[1].fformat(column), results[1].get_value(0, column)),
                )
            )
    return out


@pytest.fixture
def connection(postgres: Any) -> Any:
    with psycopg.connect(postgres.url) as connection:
        yield connection


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "America/St_Johns"])
def test_a_server_s_text_and_binary_are_one_value(connection: Any, zone: str) -> None:
    connection.execute(f"SET TIME ZONE '{zone}'")
    for expression, (text, binary) in zip(EXPRESSIONS, both(connection, EXPRESSIONS), strict=True):
        assert text == binary, expression
        assert hash(text) == hash(binary), expression
        assert type(text) is type(binary), expression
        if "NULL" not in expression and "bytea" not in expression:
            assert not isinstance(binary, bytes), f"{expression} was not decoded"


def test_xml_in_text_and_binary_is_one_value(connection: Any) -> None:
    try:
        ((text, binary),) = both(connection, ["'<a/>'::xml"])
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("this PostgreSQL is built without libxml")
    assert text == binary == "<a/>"


def test_intervals_in_iso_8601_are_those_in_binary(connection: Any) -> None:
    connection.execute("SET intervalstyle = iso_8601")
    expressions = [expression for expression in EXPRESSIONS if "interval" in expression]
    for expression, (text, binary) in zip(expressions, both(connection, expressions), strict=True):
        assert text == binary, expression


def test_bytea_in_escape_format_is_that_in_binary(connection: Any) -> None:
    connection.execute("SET bytea_output = escape")
    every_byte = "'\\x" + bytes(range(256)).hex() + "'::bytea"
    assert both(connection, [every_byte]) == [(bytes(range(256)), bytes(range(256)))]


def test_numbers_of_any_size_are_one_value(connection: Any) -> None:
    source = random.Random(7)
    expressions = []
    for _ in range(150):
        single = struct.unpack("!f", source.randbytes(4))[0]
        double = struct.unpack("!d", source.randbytes(8))[0]
        expressions += [f"'{single!r}'::float4", f"'{double!r}'::float8"]
        expressions.append(f"{source.randrange(-(10**30), 10**30)}e{source.randrange(-60, 60)}::numeric")
        days = source.randrange(-2_400_000, 200_000_000)
        expressions.append(f"'2000-01-01'::date + {min(days, 2_145_031_948)}")
        expressions.append(f"'2000-01-01'::timestamp + {source.randrange(-(10**11), 10**11)} * interval '1 second'")
    for expression, (text, binary) in zip(expressions, both(connection, expressions), strict=True):
        assert text == binary, expression


def test_integers_of_every_width_are_equal() -> None:
    forms = [
        decode(INT2, BINARY, b"\0\x2a"),
        decode(INT4, BINARY, b"\0\0\0\x2a"),
        decode(INT8, BINARY, b"\0\0\0\0\0\0\0\x2a"),
        decode(OID, BINARY, b"\0\0\0\x2a"),
        *(decode(oid, TEXT, b"42") for oid in (INT2, INT4, INT8, OID, NUMERIC)),
    ]
    assert len(set(forms)) == 1


@pytest.mark.parametrize(
    ("oid", "data", "expected"),
    [
        (BOOL, b"t", True),
        (BOOL, b"false", False),
        (INT8, b"-12", -12),
        (FLOAT8, b"1.5", 1.5),
        (FLOAT8, b"NaN", "NaN"),
        (NUMERIC, b"1.10", Decimal("1.1")),
        (NUMERIC, b"Infinity", float("inf")),
        (STRING, "é".encode(), "é"),
        (BYTEA, b"\\x6162", b"ab"),
        (BYTEA, b"a\\\\\\001", b"a\\\x01"),
        (CHAR, b"\\377", "\udcff"),
        (UUID_OID, b"00000000-0000-0000-0000-000000000001", UUID(int=1)),
        (DATE, b"2024-02-29", date(2024, 2, 29)),
        (TIME, b"04:05:06.7", time(4, 5, 6, 700_000)),
        (TIMETZ, b"04:05:06-08", time(4, 5, 6, tzinfo=timezone(timedelta(hours=-8)))),
        (TIMESTAMP, b"2024-02-29 01:02:03.5", datetime(2024, 2, 29, 1, 2, 3, 500_000)),
        (TIMESTAMPTZ, b"2024-02-29 01:02:03+02", datetime(2024, 2, 28, 23, 2, 3, tzinfo=UTC)),
        (TIMESTAMPTZ, b"0001-01-01 00:00:00+02", "0001-12-31 22:00:00+00 BC"),
        (INTERVAL, b"1 year 2 mons 3 days 04:05:06.5", (14, 3, 14_706_500_000)),
        (INTERVAL, b"-00:00:00.000001", (0, 0, -1)),
        (JSONB, b'{"a": 1}', '{"a": 1}'),
        (INET, b"10.0.0.1", "10.0.0.1"),
        (INT4_ARRAY, b"{{1,2},{NULL,4}}", ((1, 2), (None, 4))),
        (TEXT_ARRAY, b'{a,"NULL",NULL,"x\\"y",""}', ("a", "NULL", None, 'x"y', "")),
        (0, b"42", "42"),
        (99_999, b"happy", "happy"),
    ],
)
def test_text_form(oid: int, data: bytes, expected: object) -> None:
    value = decode(oid, TEXT, data)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("oid", "data"),
    [
        (BOOL, b""),
        (BOOL, b"\1\1"),
        (INT4, b"\0\0\1"),
        (NUMERIC, b"\0\1\0\0\0\0\0\0"),
        (NUMERIC, b"\0\1\0\0\0\0\0\0\x27\x10"),
        (NUMERIC, b"\0\0\0\0\x12\x34\0\0"),
        (UUID_OID, b"short"),
        (JSONB, b"\2{}"),
        (JSONB, b""),
        (INET, b"\2\x21\0\4\1\2\3\4"),
        (INET, b"\2"),
        (CIDR, b"\3\x20\1\4\1\2\3\4"),
        (BIT, b"\x7f\xff\xff\xff\0"),
        (TIME, struct.pack("!q", -1)),
        (TIMETZ, struct.pack("!qi", 0, 86_400)),
        (INT4_ARRAY, struct.pack("!iiI", 7, 0, INT4)),
        (INT4_ARRAY, struct.pack("!iiIii", 1, 0, INT4, 2**31 - 1, 1)),
        (INT4_ARRAY, struct.pack("!iiIiiii", 2, 0, INT4, 65_536, 1, 65_536, 1)),
        (INT4_ARRAY, struct.pack("!iiIiii", 1, 0, INT4, 1, 1, 2**31 - 1)),
        (INT4_ARRAY, struct.pack("!iiIiiii", 1, 0, INT4, 1, 1, 4, 5) + b"more"),
        (0, b"\0\0\0\1"),
        (99_999, b"happy"),
    ],
)
def test_binary_that_is_malformed_or_of_an_unknown_type_stays_bytes(oid: int, data: bytes) -> None:
    assert decode(oid, BINARY, data) == data


@pytest.mark.parametrize(
    ("oid", "text"),
    [
        (BOOL, "maybe"),
        (INT4, "4x"),
        (INT4, "1" * 5000),
        (FLOAT4, "1e300"),
        (FLOAT8, "wide"),
        (NUMERIC, "1e999999999"),
        (NUMERIC, "9" * 150_001),
        (BYTEA, "\\x6"),
        (UUID_OID, "not-a-uuid"),
        (DATE, "02/29/2024"),
        (DATE, "12345678-13-99"),
        (DATE, "0044-13-15 BC"),
        (TIME, "25:00:00"),
        (TIMESTAMP, "Thu Feb 29 01:02:03 2024"),
        (TIMESTAMPTZ, "10000-01-01 00:00:00"),
        (INTERVAL, ""),
        (INTERVAL, "P"),
        (INTERVAL, "@ 1 minute"),
        (INT4_ARRAY, "{1,2"),
        (INT4_ARRAY, "{1,,2}"),
        (INT4_ARRAY, "{1,}"),
        (INT4_ARRAY, "{,1}"),
        (INT4_ARRAY, "{1}{2}"),
        (INT4_ARRAY, "1,2"),
        (INT4_ARRAY, "}"),
        (INT4_ARRAY, ""),
        (INT4_ARRAY, "{1 {2}}"),
        (INT4_ARRAY, "{" * 7 + "}" * 7),
        (INT4_ARRAY, "{" + "1," * MAX_ELEMENTS + "1}"),
        (TEXT_ARRAY, '{"open}'),
    ],
)
def test_text_that_is_not_in_the_form_of_its_type_stays_text(oid: int, text: str) -> None:
    assert decode(oid, TEXT, text.encode()) == text


def test_an_array_within_a_binary_array_does_not_recurse() -> None:
    data = struct.pack("!i", 1)
    for _ in range(3000):
        data = struct.pack("!iiIiii", 1, 0, INT4_ARRAY, 1, 1, len(data)) + data
    value = decode(INT4_ARRAY, BINARY, data)
    assert isinstance(value, tuple)
    assert isinstance(value[0], bytes)


def test_text_that_is_no_utf_8_keeps_its_bytes() -> None:
    value = decode(STRING, TEXT, b"a\xff\x00")
    assert isinstance(value, str)
    assert value.encode("utf-8", "surrogateescape") == b"a\xff\x00"
    assert decode(STRING, BINARY, b"a\xff\x00") == value


def test_null_is_none_in_any_format() -> None:
    assert decode(INT4, TEXT, None) is None
    assert decode_parameter(0, BINARY, None) is None


@pytest.mark.parametrize("data", [b"\0\1", b"\0\0\0\1", b"\0\0\0\0\0\0\0\1", b"text"])
def test_a_binary_parameter_of_no_known_type_is_not_guessed_at(data: bytes) -> None:
    assert decode_parameter(0, BINARY, data) == data


def test_a_parameter_of_a_known_type_is_decoded_as_a_column_is() -> None:
    assert decode_parameter(INT4, BINARY, b"\0\0\0\1") == 1
    assert decode_parameter(INT8, TEXT, b"1") == 1
    assert decode_parameter(0, TEXT, b"1") == "1"


@given(
    oid=st.sampled_from([*BUILT_IN, 0, 99_999, -1]), code=st.sampled_from([0, 1, 2, -1]), data=st.binary(max_size=200)
)
def test_no_bytes_make_it_raise_and_every_value_hashes(oid: int, code: int, data: bytes) -> None:
    hash(decode(oid, code, data))
    hash(decode_parameter(oid, code, data))


@given(
    oid=st.sampled_from(BUILT_IN),
    text=st.text(alphabet='0123456789-+:. {}",\\TPBCYMDHSxNULLeinfity年months[]=/', max_size=60),
)
def test_no_text_made_of_likely_characters_makes_it_raise(oid: int, text: str) -> None:
    hash(decode(oid, TEXT, text.encode()))


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_the_same_in_text_and_binary(value: int) -> None:
    assert decode(INT8, BINARY, value.to_bytes(8, "big", signed=True)) == decode(INT8, TEXT, b"%d" % value) == value


@given(st.floats(width=32, allow_nan=False))
def test_singles_are_that_single_in_few_digits(value: float) -> None:
    decoded = decode(FLOAT4, BINARY, struct.pack("!f", value))
    assert isinstance(decoded, float)
    assert struct.pack("!f", decoded) == struct.pack("!f", value)
    assert decode(FLOAT4, TEXT, repr(value).encode()) == decoded
    digits = [len(Decimal(repr(number)).normalize().as_tuple().digits) for number in (decoded, value)]
    assert digits[0] <= min(9, digits[1])


@given(st.datetimes(), st.integers(-15 * 60, 15 * 60))
def test_timestamps_with_time_zone_are_the_same_instant_in_any_zone(value: datetime, minutes: int) -> None:
    zone = timezone(timedelta(minutes=minutes))
    us = (value - datetime(2000, 1, 1)) // timedelta(microseconds=1)
    decoded = decode(TIMESTAMPTZ, BINARY, struct.pack("!q", us))
    assert decoded == value.replace(tzinfo=UTC)
    try:
        text = value.replace(tzinfo=UTC).astimezone(zone).isoformat(" ")
    except OverflowError:
        return  # in that zone it lies outside of Python's years
    assert decode(TIMESTAMPTZ, TEXT, text.encode()) == decoded


@given(st.binary(max_size=50))
def test_bytea_is_the_same_in_both_formats(value: bytes) -> None:
    assert decode(BYTEA, TEXT, b"\\x" + value.hex().encode()) == decode(BYTEA, BINARY, value) == value


@given(st.lists(st.none() | st.text(max_size=8).filter(lambda text: "\0" not in text), max_size=8))
def test_arrays_of_text_are_the_same_in_both_formats(items: list[str | None]) -> None:
    quoted = ["NULL" if item is None else '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"' for item in items]
    data = struct.pack("!iiI", 1, 0, STRING) + struct.pack("!ii", len(items), 1)
    for item in items:
        encoded = b"" if item is None else item.encode()
        data += struct.pack("!i", -1 if item is None else len(encoded)) + encoded
    assert decode(TEXT_ARRAY, TEXT, ("{" + ",".join(quoted) + "}").encode()) == tuple(items)
    assert decode(TEXT_ARRAY, BINARY, data) == tuple(items)
