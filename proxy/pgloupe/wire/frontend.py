"""The frontend's messages that must be understood. All others stay bytes.

Every `parse_x` takes one whole frame, header included, and raises ProtocolViolation for a body that is not that message:
the server will say so to the client in its own words, so the caller only stops understanding.

Strings are bytes of the client's encoding; they are decoded as UTF-8 with surrogate escapes, so that every byte survives
and `text.encode("utf-8", "surrogateescape")` gives them back.

Source: protocol documentation, "Message Formats".
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.codes import HEADER_BYTES, FrontendCode

_SHORT: Final = Struct("!H")
_INT: Final = Struct("!i")
_HEADER: Final = Struct("!BI")

Formats: TypeAlias = tuple[int, ...]
"""Format codes: empty for "all text", one for "all alike", else one each."""


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _string_end(raw: bytes, start: int) -> int:
    end = raw.find(b"\0", start)
    if end < 0:
        raise ProtocolViolation("a string in a message has no terminator")
    return end


def _expect_end(raw: bytes, end: int) -> None:
    """The server refuses a message with more in it than its contents; so must whoever would answer in its place."""
    if end != len(raw):
        raise ProtocolViolation("a message is longer than its contents")


def parse_query(raw: bytes) -> str:
    """Query: the query string."""
    end = _string_end(raw, HEADER_BYTES)
    _expect_end(raw, end + 1)
    return text_of(raw[HEADER_BYTES:end])


def parse_parse(raw: bytes) -> tuple[str, str, tuple[int, ...]]:
    """Parse: name of the prepared statement, query string, parameter type OIDs (0: unspecified)."""
    name_end = _string_end(raw, HEADER_BYTES)
    query_end = _string_end(raw, name_end + 1)
    name = text_of(raw[HEADER_BYTES:name_end])
    query = text_of(raw[name_end + 1 : query_end])
    try:
        (count,) = _SHORT.unpack_from(raw, query_end + 1)
        oids = Struct(f"!{count}I").unpack_from(raw, query_end + 3) if count else ()
    except StructError as error:
        raise ProtocolViolation("a Parse message is cut short") from error
    _expect_end(raw, query_end + 3 + 4 * count)
    return name, query, oids


def parse_bind_names(raw: bytes) -> tuple[str, str, int]:
    """Bind: name of the portal, name of the prepared statement, offset of what follows them."""
    portal_end = _string_end(raw, HEADER_BYTES)
    name_end = _string_end(raw, portal_end + 1)
    return text_of(raw[HEADER_BYTES:portal_end]), text_of(raw[portal_end + 1 : name_end]), name_end + 1


def parse_bind_values(raw: bytes, offset: int) -> tuple[Formats, list[bytes | None], Formats]:
    """The rest of a Bind: parameter formats, raw parameter values (None: NULL), result formats."""
    try:
        (count,) = _SHORT.unpack_from(raw, offset)
        formats = Struct(f"!{count}H").unpack_from(raw, offset + 2) if count else ()
        offset += 2 + 2 * count
        (count,) = _SHORT.unpack_from(raw, offset)
        offset += 2
        values: list[bytes | None] = []
        for _ in range(count):
            (length,) = _INT.unpack_from(raw, offset)
            offset += 4
            if length < 0:
                values.append(None)
                continue
            if offset + length > len(raw):
                raise ProtocolViolation("a value of a Bind message is longer than the message")
            values.append(raw[offset : offset + length])
            offset += length
        (count,) = _SHORT.unpack_from(raw, offset)
        results = Struct(f"!{count}H").unpack_from(raw, offset + 2) if count else ()
    except StructError as error:
        raise ProtocolViolation("a Bind message is cut short") from error
    _expect_end(raw, offset + 2 + 2 * count)
    return formats, values, results


def parse_execute(raw: bytes) -> tuple[str, int]:
    """Execute: name of the portal, row limit (0: none)."""
    end = _string_end(raw, HEADER_BYTES)
    try:
        (limit,) = _INT.unpack_from(raw, end + 1)
    except StructError as error:
        raise ProtocolViolation("an Execute message is cut short") from error
    _expect_end(raw, end + 5)
    return text_of(raw[HEADER_BYTES:end]), limit


def parse_named(raw: bytes) -> tuple[str, str]:
    """Describe or Close: `S` (prepared statement) or `P` (portal), and its name."""
    if len(raw) < HEADER_BYTES + 2:
        raise ProtocolViolation("a Describe or Close message is cut short")
    end = _string_end(raw, HEADER_BYTES + 1)
    _expect_end(raw, end + 1)
    return chr(raw[HEADER_BYTES]), text_of(raw[HEADER_BYTES + 1 : end])


def build_frame(code: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(code, 4 + len(body)) + body


def build_query(query: str) -> bytes:
    return build_frame(FrontendCode.QUERY, bytes_of(query) + b"\0")


def build_parse(name: str, query: str, oids: tuple[int, ...] = ()) -> bytes:
    body = bytes_of(name) + b"\0" + bytes_of(query) + b"\0" + _SHORT.pack(len(oids))
    return build_frame(FrontendCode.PARSE, body + Struct(f"!{len(oids)}I").pack(*oids))


def build_bind(
    portal: str,
    name: str,
    values: tuple[bytes | None, ...] = (),
    formats: Formats = (),
    results: Formats = (),
) -> bytes:
    parts = [bytes_of(portal), b"\0", bytes_of(name), b"\0", Struct(f"!H{len(formats)}H").pack(len(formats), *formats)]
    parts.append(_SHORT.pack(len(values)))
    for value in values:
        parts.append(_INT.pack(-1) if value is None else _INT.pack(len(value)) + value)
    parts.append(Struct(f"!H{len(results)}H").pack(len(results), *results))
    return build_frame(FrontendCode.BIND, b"".join(parts))


def build_describe(kind: str, name: str) -> bytes:
    return build_frame(FrontendCode.DESCRIBE, kind.encode() + bytes_of(name) + b"\0")


def build_close(kind: str, name: str) -> bytes:
    return build_frame(FrontendCode.CLOSE, kind.encode() + bytes_of(name) + b"\0")


def build_execute(portal: str, limit: int = 0) -> bytes:
    return build_frame(FrontendCode.EXECUTE, bytes_of(portal) + b"\0" + _INT.pack(limit))


def build_sync() -> bytes:
    return build_frame(FrontendCode.SYNC)


def build_flush() -> bytes:
    return build_frame(FrontendCode.FLUSH)


def build_terminate() -> bytes:
    return build_frame(FrontendCode.TERMINATE)
