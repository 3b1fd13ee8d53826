"""What is kept of a result for the rules: its columns and its first rows, as bytes until someone asks.

Bounded in rows and bytes for each result; the rules bound how many results they keep.

Source: protocol documentation, RowDescription and DataRow.
"""

from __future__ import annotations

from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.pipeline import Request
from pgloupe.session.statements import Portal
from pgloupe.wire.backend import FieldDescription, parse_data_rows, parse_row_description
from pgloupe.wire.values import decode
from pgloupe_rules.types import Column, Outcome, Value, comparable

MAX_SAMPLE_BYTES: Final = 16_384
MAX_SAMPLE_ROWS: Final = 500
MAX_DESCRIPTIONS: Final = 1_000
MAX_DESCRIPTION_BYTES: Final = 16_384

_descriptions: dict[bytes, tuple[tuple[Column, ...], tuple[FieldDescription, ...]]] = {}
"""RowDescription frames seen by this process. The same few come again for ever; emptied when full."""

_NOTHING: Final[tuple[tuple[Column, ...], tuple[FieldDescription, ...]]] = ((), ())


def _described(raw: bytes) -> tuple[tuple[Column, ...], tuple[FieldDescription, ...]]:
    if not raw:
        return _NOTHING
    known = _descriptions.get(raw)
    if known is None:
        try:
            fields = parse_row_description(raw)
        except ProtocolViolation:
            return _NOTHING
        known = (tuple(Column(name, table, attribute, oid) for name, table, attribute, oid, _ in fields), fields)
        if len(raw) <= MAX_DESCRIPTION_BYTES:
            if len(_descriptions) >= MAX_DESCRIPTIONS:
                _descriptions.clear()
            _descriptions[raw] = known
    return known


def columns_of(raw: bytes) -> tuple[Column, ...]:
    """The columns of a RowDescription frame; none for b"" and for what is no RowDescription."""
    return _described(raw)[0]


def take_sample(request: Request, raw: bytes) -> None:
    """Keep a run of DataRow frames, or its beginning, if there is room."""
    room = MAX_SAMPLE_BYTES - request.sample_bytes
    if room <= 0:
        return
    if len(raw) > room:
        raw = _whole_rows(raw, room)
        request.sample_bytes = MAX_SAMPLE_BYTES  # the rows behind those left out are not the first ones
        if not raw:
            return
    else:
        request.sample_bytes += len(raw)
    if request.sample is None:
        request.sample = [raw]
    else:
        request.sample.append(raw)


def count_rows(raw: bytes) -> int:
    """How many frames there are in a run of DataRow frames."""
    count = position = 0
    while position + 5 <= len(raw):
        position += 1 + int.from_bytes(raw[position + 1 : position + 5], "big")
        count += 1
    return count


def _whole_rows(raw: bytes, room: int) -> bytes:
    """The rows that fit into `room` bytes."""
    end = 0
    while end + 5 <= len(raw):
        following = end + 1 + int.from_bytes(raw[end + 1 : end + 5], "big")
        if following > room:
            break
        end = following
    return raw[:end]


class Result:
    """The kept rows of one result, and what it takes to decode them."""

    __slots__ = ("_columns", "_portal", "_rows")

    def __init__(self, columns: bytes, portal: Portal | None, rows: list[bytes]) -> None:
        self._columns = columns
        self._portal = portal
        self._rows = rows

    def decode(self, _outcome: Outcome) -> tuple[tuple[Value, ...], ...]:
        """One tuple of values for each column. Empty where the columns are not known or the bytes are no rows."""
        fields = _described(self._columns)[1]
        if not fields:
            return ()
        # a statement-Describe says format 0 for every column; the Bind says what was asked for
        formats = self._portal.result_formats() if self._portal is not None else ()
        rows: list[list[bytes | None]] = []
        try:
            for run in self._rows:
                rows += parse_data_rows(run, MAX_SAMPLE_ROWS - len(rows))
        except ProtocolViolation:
            return ()
        if any(len(row) != len(fields) for row in rows):
            return ()
        out: list[tuple[Value, ...]] = []
        for index, field in enumerate(fields):
            code = field[4]
            if len(formats) == 1:
                code = formats[0]
            elif index < len(formats):
                code = formats[index]
            out.append(tuple(comparable(decode(field[3], code, row[index])) for row in rows))
        return tuple(out)
