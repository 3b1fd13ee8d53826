"""The backend's messages that must be understood. All others stay bytes.

`parse_x` functions take one whole frame, header included; for a body that is not that message they raise
ProtocolViolation.

Source: protocol documentation, "Message Formats" and "Error and Notice Message Fields".
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import HEADER_BYTES, BackendCode
from pgloupe.wire.frontend import build_frame, text_of

_SHORT: Final = Struct("!H")
_INT: Final = Struct("!i")
_FIELD: Final = Struct("!IhIhih")

FieldDescription: TypeAlias = tuple[str, int, int, int, int]
"""name, table OID, attribute number, type OID, format code"""

PARSE_COMPLETE: Final = build_frame(BackendCode.PARSE_COMPLETE)
BIND_COMPLETE: Final = build_frame(BackendCode.BIND_COMPLETE)
CLOSE_COMPLETE: Final = build_frame(BackendCode.CLOSE_COMPLETE)
READY_IDLE: Final = build_frame(BackendCode.READY_FOR_QUERY, b"I")


def parse_row_description(raw: bytes) -> tuple[FieldDescription, ...]:
    """RowDescription: one tuple for each field."""
    out: list[FieldDescription] = []
    try:
        (count,) = _SHORT.unpack_from(raw, HEADER_BYTES)
        offset = HEADER_BYTES + 2
        for _ in range(count):
            end = raw.index(b"\0", offset)
            table, attribute, type_oid, _size, _modifier, format_code = _FIELD.unpack_from(raw, end + 1)
            out.append((text_of(raw[offset:end]), table, attribute, type_oid, format_code))
            offset = end + 1 + _FIELD.size
    except (StructError, ValueError) as error:
        raise ProtocolViolation("a RowDescription message is cut short") from error
    return tuple(out)


def without_formats(raw: bytes) -> bytes:
    """A RowDescription of a portal as that of its statement: all formats are text there, because they are not known yet.
    b"" for what is no RowDescription."""
    out = bytearray(raw)
    try:
        (count,) = _SHORT.unpack_from(raw, HEADER_BYTES)
        offset = HEADER_BYTES + 2
        for _ in range(count):
            offset = raw.index(b"\0", offset) + 1 + _FIELD.size
            _SHORT.pack_into(out, offset - 2, 0)
    except (StructError, ValueError):
        return b""
    return bytes(out) if offset == len(raw) else b""


def parse_parameter_description(raw: bytes) -> tuple[int, ...]:
    """ParameterDescription: type OIDs of the parameters."""
    try:
        (count,) = _SHORT.unpack_from(raw, HEADER_BYTES)
        return Struct(f"!{count}I").unpack_from(raw, HEADER_BYTES + 2) if count else ()
    except StructError as error:
        raise ProtocolViolation("a ParameterDescription message is cut short") from error


def parse_data_rows(raw: bytes, most: int) -> list[list[bytes | None]]:
    """A run of DataRow frames: the raw values of each row, of the first `most` rows."""
    rows: list[list[bytes | None]] = []
    offset = 0
    try:
        while offset < len(raw) and len(rows) < most:
            length = int.from_bytes(raw[offset + 1 : offset + 5], "big") + 1
            (count,) = _SHORT.unpack_from(raw, offset + HEADER_BYTES)
            position = offset + HEADER_BYTES + 2
            row: list[bytes | None] = []
            for _ in range(count):
                (size,) = _INT.unpack_from(raw, position)
                position += 4
                if size < 0:
                    row.append(None)
                else:
                    row.append(raw[position : position + size])
                    position += size
            if position > offset + length or length < HEADER_BYTES:
                raise ProtocolViolation("a DataRow message is shorter than its values")
            rows.append(row)
            offset += length
    except StructError as error:
        raise ProtocolViolation("a DataRow message is cut short") from error
    return rows


def parse_command_complete(raw: bytes) -> str:
    """CommandComplete: the command tag."""
    return text_of(raw[HEADER_BYTES:-1])


def tag_rows(tag: str) -> int:
    """The row count at the end of a command tag; 0 where it has none (`INSERT 0 5` is 5, `BEGIN` is 0)."""
    last = tag.rpartition(" ")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 20 else 0


def parse_ready_for_query(raw: bytes) -> str:
    """ReadyForQuery: the transaction status, `I`, `T` or `E`."""
    if len(raw) != HEADER_BYTES + 1:
        raise ProtocolViolation("a ReadyForQuery message has no status")
    return chr(raw[HEADER_BYTES])


def parse_parameter_status(raw: bytes) -> tuple[str, str]:
    """ParameterStatus: name and value."""
    fields = raw[HEADER_BYTES:].split(b"\0")
    if len(fields) < 3:
        raise ProtocolViolation("a ParameterStatus message is cut short")
    return text_of(fields[0]), text_of(fields[1])


def parse_authentication(raw: bytes) -> int:
    """Authentication…: which one; 0 is AuthenticationOk."""
    try:
        return int(_INT.unpack_from(raw, HEADER_BYTES)[0])
    except StructError as error:
        raise ProtocolViolation("an Authentication message is cut short") from error


def parse_error_fields(raw: bytes) -> dict[str, str]:
    """ErrorResponse or NoticeResponse: the fields by their one-letter code."""
    fields: dict[str, str] = {}
    for part in raw[HEADER_BYTES:].split(b"\0"):
        if part:
            fields[chr(part[0])] = text_of(part[1:])
    return fields


def error_sqlstate(raw: bytes) -> str:
    """The SQLSTATE of an ErrorResponse, "" where it has none."""
    body = b"\0" + raw[HEADER_BYTES:]  # the fields come in any order, so it may be the first
    start = body.find(b"\0C")
    return text_of(body[start + 2 : start + 7]) if start >= 0 else ""


def build_error_response(sqlstate: str, text: str, severity: str = "FATAL") -> bytes:
    """An ErrorResponse of our own, with the fields that every client reads."""
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": text.replace("\0", " ")}
    body = b"".join(code.encode() + value.encode("utf-8", "replace") + b"\0" for code, value in fields.items())
    return build_frame(BackendCode.ERROR_RESPONSE, body + b"\0")
