"""Parameter and column values, text or binary, as Python values that compare.

Rules ask one question of values: is this the number, key or text that came back in an earlier row? So what matters is
that the same value is equal and hashes equally whichever format it travelled in and whatever the width of its type.
Where Python has no such value (NaN is not equal to itself; dates before year 1, after 9999 or infinite; 24:00) the value
is a string in the form that PostgreSQL prints under DateStyle ISO.

Built-in types are found by OID in two tables, text and binary ("Data Types" and, for the OIDs, pg_type.dat). What is not
in a table, or is not in the form that its type demands, stays what it is: text a `str`, binary `bytes`. Nothing raises,
and nothing is allocated from a length in the data: the result is at most a constant factor larger than the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from math import isinf, isnan
from struct import Struct, error
from typing import Final
from uuid import UUID

from pgloupe.wire import temporal

MAX_ELEMENTS: Final = 65_536
"""An array of more elements is not taken apart."""

_MAX_DIMENSIONS: Final = 6
_MAX_NUMERIC_TEXT: Final = 150_000  # 131072 digits before the point and 16383 after it
_MALFORMED: Final = (ValueError, OverflowError, InvalidOperation, IndexError, error)

_INT16: Final = Struct("!h")
_INT32: Final = Struct("!i")
_INT64: Final = Struct("!q")
_UINT32: Final = Struct("!I")
_UINT64: Final = Struct("!Q")
_FLOAT4: Final = Struct("!f")
_FLOAT8: Final = Struct("!d")
_NUMERIC: Final = Struct("!HhHH")
_ARRAY: Final = Struct("!iiI")
_DIMENSION: Final = Struct("!ii")

_NAN: Final = "NaN"


def _text(text: str) -> object:
    return text


def _text_binary(data: bytes) -> object:
    return data.decode("utf-8", "surrogateescape")


# Numbers and booleans


def _integer(text: str) -> object:
    if len(text) > 40:
        raise ValueError
    return int(text)


def _int16(data: bytes) -> object:
    return _INT16.unpack(data)[0]


def _int32(data: bytes) -> object:
    return _INT32.unpack(data)[0]


def _int64(data: bytes) -> object:
    return _INT64.unpack(data)[0]


def _uint32(data: bytes) -> object:
    return _UINT32.unpack(data)[0]


def _uint64(data: bytes) -> object:
    return _UINT64.unpack(data)[0]


def _comparable_float(value: float) -> object:
    return _NAN if isnan(value) else value


def _single(value: float) -> object:
    """The decimal of fewest digits, from six on, that is this single: 0.1 as real is then 0.1 as double, and as text."""
    if isnan(value):
        return _NAN
    if not isinf(value):
        packed = _FLOAT4.pack(value)
        for digits in range(6, 9):
            shortest = float(f"{value:.{digits}g}")
            # The largest singles round up to what no single can hold.
            if abs(shortest) < 3.4028235e38 and _FLOAT4.pack(shortest) == packed:
                return shortest
        return float(f"{value:.9g}")
    return value


def _float4(text: str) -> object:
    if len(text) > 1000:
        raise ValueError
    value = float(text)
    if isnan(value) or isinf(value):
        return _comparable_float(value)
    return _single(float(_FLOAT4.unpack(_FLOAT4.pack(value))[0]))


def _float4_binary(data: bytes) -> object:
    return _single(float(_FLOAT4.unpack(data)[0]))


def _float8(text: str) -> object:
    if len(text) > 1000:
        raise ValueError
    return _comparable_float(float(text))


def _float8_binary(data: bytes) -> object:
    return _comparable_float(float(_FLOAT8.unpack(data)[0]))


def _numeric(text: str) -> object:
    if len(text) > _MAX_NUMERIC_TEXT:
        raise ValueError
    value = Decimal(text)
    if value.is_nan():
        return _NAN
    if value.is_infinite():
        return float(value)
    if value and abs(value.adjusted()) > _MAX_NUMERIC_TEXT:
        raise ValueError  # no numeric is that large, and arithmetic on it would be dear
    return value


def _numeric_binary(data: bytes) -> object:
    digits, weight, sign, _scale = _NUMERIC.unpack_from(data)
    if sign == 0xC000:
        return _NAN
    if sign in (0xD000, 0xF000):
        return float("inf" if sign == 0xD000 else "-inf")
    if sign not in (0, 0x4000) or len(data) != 8 + 2 * digits:
        raise ValueError
    if not digits:
        return Decimal(0)
    groups = Struct(f"!{digits}H").unpack_from(data, 8)
    if max(groups) > 9999:
        raise ValueError
    text = "".join([f"{group:04d}" for group in groups])
    return Decimal(f"{'-' if sign else ''}{text}E{4 * (weight + 1 - digits)}")


_BOOLEANS: Final = {
    **dict.fromkeys(("t", "true", "y", "yes", "on", "1", "T", "TRUE", "True"), True),
    **dict.fromkeys(("f", "false", "n", "no", "off", "0", "F", "FALSE", "False"), False),
}


def _boolean(text: str) -> object:
    value = _BOOLEANS.get(text)
    if value is None:
        raise ValueError
    return value


def _boolean_binary(data: bytes) -> object:
    if len(data) != 1:
        raise ValueError
    return data != b"\0"


# Strings of bytes, identifiers, addresses

_OCTAL: Final = re.compile(rb"\\(\\|[0-3][0-7][0-7])")


def _octal(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return code if code == b"\\" else bytes((int(code, 8),))


def _bytea(text: str) -> object:
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    return _OCTAL.sub(_octal, text.encode("utf-8", "surrogateescape"))


def _bytea_binary(data: bytes) -> object:
    return data


def _char(text: str) -> object:
    """The type "char": one byte, which PostgreSQL 16 prints as \\ooo where it is not ASCII."""
    if len(text) == 4 and text[0] == "\\":
        return _text_binary(bytes((int(text[1:], 8),)))
    return text


def _char_binary(data: bytes) -> object:
    return "" if data == b"\0" else _text_binary(data)


def _uuid(text: str) -> object:
    if len(text) > 45:
        raise ValueError
    return UUID(text)


def _uuid_binary(data: bytes) -> object:
    return UUID(bytes=data)


def _jsonb_binary(data: bytes) -> object:
    if data[:1] != b"\1":
        raise ValueError
    return _text_binary(data[1:])


def _macaddr_binary(data: bytes) -> object:
    if len(data) not in (6, 8):
        raise ValueError
    return data.hex(":")


def _inet6(data: bytes) -> str:
    """As pg_inet_net_ntop prints it, the last four bytes as IPv4 where the address embeds such."""
    words = Struct("!8H").unpack(data)
    start, length, position = -1, 0, 0
    while position < 8:
        end = position
        while end < 8 and words[end] == 0:
            end += 1
        if end - position > length:
            start, length = position, end - position
        position = end + 1
    if length < 2:
        return ":".join([f"{word:x}" for word in words])
    if start == 0 and (length == 6 or (length == 5 and words[5] == 0xFFFF)):
        return f"{'::ffff:' if length == 5 else '::'}{'.'.join([str(byte) for byte in data[12:]])}"
    head = ":".join([f"{word:x}" for word in words[:start]])
    tail = ":".join([f"{word:x}" for word in words[start + length :]])
    return f"{head}::{tail}"


def _inet_binary(data: bytes) -> object:
    family, bits, cidr, size = data[:4]
    address = data[4:]
    if (family, size) not in ((2, 4), (3, 16)) or len(address) != size or bits > 8 * size:
        raise ValueError
    text = ".".join([str(byte) for byte in address]) if family == 2 else _inet6(address)
    return text if bits == 8 * size and not cidr else f"{text}/{bits}"


def _bits_binary(data: bytes) -> object:
    (length,) = _INT32.unpack_from(data)
    if not 0 <= length <= 8 * (len(data) - 4) or length < 8 * (len(data) - 4) - 7:
        raise ValueError
    return "".join([f"{byte:08b}" for byte in data[4:]])[:length]


# The tables

_Text = Callable[[str], object]
_Binary = Callable[[bytes], object]

_TYPES: Final[tuple[tuple[int, int, _Text, _Binary], ...]] = (
    # OID of the type, OID of its array type, text, binary
    (16, 1000, _boolean, _boolean_binary),
    (17, 1001, _bytea, _bytea_binary),
    (18, 1002, _char, _char_binary),
    (19, 1003, _text, _text_binary),  # name
    (20, 1016, _integer, _int64),
    (21, 1005, _integer, _int16),
    (23, 1007, _integer, _int32),
    (25, 1009, _text, _text_binary),
    (26, 1028, _integer, _uint32),  # oid
    (28, 1011, _integer, _uint32),  # xid
    (29, 1012, _integer, _uint32),  # cid
    (114, 199, _text, _text_binary),  # json
    (142, 143, _text, _text_binary),  # xml
    (650, 651, _text, _inet_binary),  # cidr
    (700, 1021, _float4, _float4_binary),
    (701, 1022, _float8, _float8_binary),
    (705, 0, _text, _text_binary),  # unknown
    (774, 775, _text, _macaddr_binary),  # macaddr8
    (829, 1040, _text, _macaddr_binary),
    (869, 1041, _text, _inet_binary),
    (1042, 1014, _text, _text_binary),  # bpchar
    (1043, 1015, _text, _text_binary),  # varchar
    (1082, 1182, temporal.date_from_text, temporal.date_from_binary),
    (1083, 1183, temporal.time_from_text, temporal.time_from_binary),
    (1114, 1115, temporal.timestamp_from_text, temporal.timestamp_from_binary),
    (1184, 1185, temporal.timestamptz_from_text, temporal.timestamptz_from_binary),
    (1186, 1187, temporal.interval_from_text, temporal.interval_from_binary),
    (1266, 1270, temporal.timetz_from_text, temporal.timetz_from_binary),
    (1560, 1561, _text, _bits_binary),  # bit
    (1562, 1563, _text, _bits_binary),  # bit varying
    (1700, 1231, _numeric, _numeric_binary),
    (2950, 2951, _uuid, _uuid_binary),
    (3802, 3807, _text, _jsonb_binary),
    (5069, 271, _integer, _uint64),  # xid8
)
_FROM_TEXT: Final[dict[int, _Text]] = {oid: text for oid, _, text, _ in _TYPES}
_FROM_BINARY: Final[dict[int, _Binary]] = {oid: binary for oid, _, _, binary in _TYPES}
_ELEMENT: Final[dict[int, int]] = {array: oid for oid, array, _, _ in _TYPES if array}


# Arrays ("Array Input and Output Syntax"; array_send for the binary form)

_BOUNDS: Final = re.compile(r"(?:\[[+-]?[0-9]{1,10}:[+-]?[0-9]{1,10}\]){1,6}=")
_ITEM: Final = re.compile(r'\s*(?:([{},])|"([^"\\]*(?:\\.[^"\\]*)*)"|([^{},"\\\s][^{},"\\]*))\s*', re.DOTALL)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


def _from_text(decoder: _Text, text: str) -> object:
    try:
        return decoder(text)
    except _MALFORMED:
        return text


def _from_binary(decoder: _Binary, data: bytes) -> object:
    try:
        return decoder(data)
    except _MALFORMED:
        return data


def _array(text: str, from_text: _Text) -> object:
    bounds = _BOUNDS.match(text)
    position = bounds.end() if bounds is not None else 0
    open_lists: list[list[object]] = []
    count = 0
    value_may_follow = True
    while position < len(text):
        match = _ITEM.match(text, position)
        if match is None:
            raise ValueError
        position = match.end()
        mark = match[1]
        if mark == ",":
            if value_may_follow or not open_lists:
                raise ValueError
            value_may_follow = True
            continue
        if mark == "}":
            done = open_lists.pop()
            if value_may_follow and done:
                raise ValueError  # a comma before the brace
            value_may_follow = False
            if open_lists:
                open_lists[-1].append(tuple(done))
                continue
            if position != len(text):
                raise ValueError
            return tuple(done)
        count += 1
        if not value_may_follow or count > MAX_ELEMENTS:
            raise ValueError
        if mark == "{":
            if len(open_lists) == _MAX_DIMENSIONS:
                raise ValueError
            open_lists.append([])
            continue
        value_may_follow = False
        quoted, bare = match[2], match[3]
        if quoted is not None:
            plain = _ESCAPED.sub(r"\1", quoted) if "\\" in quoted else quoted
            open_lists[-1].append(_from_text(from_text, plain))
        else:
            item = bare.rstrip()
            open_lists[-1].append(None if item in ("NULL", "null") else _from_text(from_text, item))
    raise ValueError


def _array_binary(data: bytes) -> object:
    dimensions, _flags, oid = _ARRAY.unpack_from(data)
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError
    position = 12
    sizes: list[int] = []
    total = 1
    for _ in range(dimensions):
        size, _lower = _DIMENSION.unpack_from(data, position)
        position += 8
        sizes.append(size)
        total *= size
        # Each element takes four bytes at least, so the data limits what a header can claim.
        if size < 0 or total > MAX_ELEMENTS or 4 * total > len(data):
            raise ValueError
    from_binary = _FROM_BINARY.get(oid, _bytea_binary)
    if not dimensions or not total:
        return ()
    items: list[object] = []
    for _ in range(total):
        (length,) = _INT32.unpack_from(data, position)
        position += 4
        if length < 0:
            items.append(None)
            continue
        if position + length > len(data):
            raise ValueError
        items.append(_from_binary(from_binary, data[position : position + length]))
        position += length
    if position != len(data):
        raise ValueError
    for size in reversed(sizes[1:]):
        items = [tuple(items[start : start + size]) for start in range(0, len(items), size)]
    return tuple(items)


def decode(type_oid: int, format_code: int, data: bytes | None) -> object:
    """The value of a column: `format_code` is 0 for text and 1 for binary, as in RowDescription; None is NULL.

    Integers of every width, oid and xid are `int`; real and double `float`; numeric `Decimal`, its infinities `float`;
    NaN of both the string `NaN`; bool `bool`; bytea `bytes`; uuid `UUID`; dates and times those of `datetime`,
    timestamptz in UTC; interval the tuple (months, days, microseconds); arrays tuples, nested where they have
    dimensions; character types, json, xml, network addresses and bit strings `str`. Text that is no UTF-8 keeps its
    bytes as lone surrogates. Text of another type, or that is not in its type's form, is `str`; such binary is `bytes`.
    Never raises; hashable.
    """
    if data is None:
        return None
    if format_code == 0:
        text = data.decode("utf-8", "surrogateescape")
        from_text = _FROM_TEXT.get(type_oid)
        if from_text is None and type_oid in _ELEMENT:
            element = _FROM_TEXT[_ELEMENT[type_oid]]
            try:
                return _array(text, element)
            except _MALFORMED:
                return text
        return text if from_text is None else _from_text(from_text, text)
    if format_code != 1:
        return data
    from_binary = _FROM_BINARY.get(type_oid)
    if from_binary is None and type_oid in _ELEMENT:
        from_binary = _array_binary
    return data if from_binary is None else _from_binary(from_binary, data)


def decode_parameter(type_oid: int, format_code: int, data: bytes | None) -> object:
    """The value of a parameter of Bind: as `decode`, and OID 0 is a type that the server has yet to infer.

    Text of such a type is `str`. Binary of it stays `bytes`: four bytes may be an integer, a real, a date or text, and
    a wrong guess would make two different values equal.
    """
    if type_oid == 0 and format_code != 0:
        return data
    return decode(type_oid, format_code, data)
