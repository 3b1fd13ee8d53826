"""Values in a trace, and how PostgreSQL writes them: as text, as binary data, as a literal in a query string.

A value is written as one token: `17`, `12.50`, `true`, `null`, `2026-03-01`, `2026-03-01T09:30:00`, `uuid:7` (the same
number is the same uuid everywhere), `'quoted text'`, or a bare word, which is text. `[1 2 3]` is an array.

Source: PostgreSQL documentation, "Data Types"; the binary forms are those of the types' send functions.
"""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from struct import pack
from typing import Any, Final, TypeAlias

Value: TypeAlias = Any
"""None, bool, int, Decimal, date, datetime, UUID, str, or a list of them."""

BOOL: Final = 16
INT8: Final = 20
INT2: Final = 21
INT4: Final = 23
TEXT: Final = 25
DATE: Final = 1082
TIMESTAMP: Final = 1114
NUMERIC: Final = 1700
UUID_TYPE: Final = 2950
_ARRAYS: Final = {BOOL: 1000, INT8: 1016, INT2: 1005, INT4: 1007, TEXT: 1009, NUMERIC: 1231, UUID_TYPE: 2951}
_NAMED: Final = {"int2": INT2, "int4": INT4, "int8": INT8, "text": TEXT, "numeric": NUMERIC}

_NAMESPACE: Final = uuid.UUID("5f0c7a52-6d0e-4c8e-9a53-2f1b7a1c9d11")
_EPOCH: Final = datetime.datetime(2000, 1, 1)
_NUMBER: Final = re.compile(r"-?\d+")
_DECIMAL: Final = re.compile(r"-?\d+\.\d+")
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?")


def parse(token: str) -> Value:
    """The value that a token stands for. Raises ValueError for a number or date that cannot be."""
    if token[:1] == "'" and token[-1:] == "'" and len(token) > 1:
        return token[1:-1].replace("''", "'")
    if token == "null":
        return None
    if token in ("true", "false"):
        return token == "true"
    if token.startswith("uuid:"):
        return uuid.uuid5(_NAMESPACE, token[5:])
    if _NUMBER.fullmatch(token):
        return int(token)
    if _DECIMAL.fullmatch(token):
        return decimal.Decimal(token)
    if _DAY.fullmatch(token):
        return datetime.date.fromisoformat(token)
    if _TIME.fullmatch(token):
        return datetime.datetime.fromisoformat(token)
    return token


def type_of(value: Value, name: str = "") -> int:
    """OID of the value's type; `name` asks for int2, int4, int8, text or numeric."""
    if isinstance(value, list):
        return _ARRAYS[type_of(value[0], name) if value else INT4]
    if name:
        return _NAMED[name]
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return INT4 if -(2**31) <= value < 2**31 else INT8
    if isinstance(value, decimal.Decimal):
        return NUMERIC
    if isinstance(value, uuid.UUID):
        return UUID_TYPE
    if isinstance(value, datetime.datetime):
        return TIMESTAMP
    return DATE if isinstance(value, datetime.date) else TEXT


def as_text(value: Value) -> str:
    """The value as the type's output function writes it."""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, list):
        return "{" + ",".join("NULL" if item is None else as_text(item) for item in value) + "}"
    return str(value)


def as_literal(value: Value) -> str:
    """The value as a driver without server-side parameters writes it into the query string."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, decimal.Decimal)):
        return str(value)
    if isinstance(value, list):
        return "ARRAY[" + ", ".join(as_literal(item) for item in value) + "]"
    text = as_text(value).replace("'", "''")
    if isinstance(value, uuid.UUID):
        return f"'{text}'::uuid"
    if isinstance(value, datetime.datetime):
        return f"'{text}'::timestamp"
    return f"'{text}'::date" if isinstance(value, datetime.date) else f"'{text}'"


def as_binary(value: Value, oid: int) -> bytes:
    """The value as the type's send function writes it."""
    if isinstance(value, list):
        element = next(key for key, array in _ARRAYS.items() if array == oid)
        items = [as_binary(item, element) for item in value]
        return pack("!iiIii", 1, 0, element, len(items), 1) + b"".join(pack("!i", len(item)) + item for item in items)
    if oid == BOOL:
        return pack("!?", value)
    if oid in (INT2, INT4, INT8):
        return pack({INT2: "!h", INT4: "!i", INT8: "!q"}[oid], value)
    if oid == NUMERIC:
        return _numeric(decimal.Decimal(value))
    if oid == UUID_TYPE:
        return bytes(value.bytes)
    if oid == TIMESTAMP:
        return pack("!q", (value - _EPOCH) // datetime.timedelta(microseconds=1))
    if oid == DATE:
        return pack("!i", (value - _EPOCH.date()).days)
    return str(value).encode()


def encode(value: Value, oid: int, binary: bool) -> bytes | None:
    """The bytes of a Bind or DataRow; None for null."""
    if value is None:
        return None
    return as_binary(value, oid) if binary else as_text(value).encode()


def _numeric(value: decimal.Decimal) -> bytes:
    """numeric_send: digits in base 10000, the weight of the first, the sign, the digits behind the point."""
    sign, digits, exponent = value.as_tuple()
    scale = max(0, -int(exponent))
    text = "".join(map(str, digits)).rjust(scale + 1, "0") + "0" * max(0, int(exponent))
    whole, part = (text[:-scale], text[-scale:]) if scale else (text, "")
    whole = whole.rjust(-(-len(whole) // 4) * 4, "0")
    part = part.ljust(-(-len(part) // 4) * 4, "0")
    groups = [int((whole + part)[at : at + 4]) for at in range(0, len(whole) + len(part), 4)]
    weight = len(whole) // 4 - 1
    while groups and not groups[0]:
        del groups[0]
        weight -= 1
    while groups and not groups[-1]:
        del groups[-1]
    return pack(f"!hhHh{len(groups)}h", len(groups), weight, 0x4000 if sign else 0, scale, *groups)
