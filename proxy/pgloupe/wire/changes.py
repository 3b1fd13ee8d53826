"""Which tables a line of logical decoding is about: the output of pgoutput and of test_decoding.

A cache wants the name of the table and nothing of the row, and a row may have a gigabyte. So the server cuts each line to
its beginning before it sends it, and what stands here reads beginnings: what comes after the names is never looked at and
need not be there.

Nothing here raises. A line that is not understood gives None, and whoever asked has to take it for a change of anything.

Source: protocol documentation, "Logical Replication Message Formats", for pgoutput (protocol version 1);
contrib/test_decoding for the other, which the documentation shows by examples only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RELATION: Final = 0x52  # R
TRUNCATE: Final = 0x54  # T
ROWS: Final = frozenset(b"IUD")
"""Insert, Update, Delete: the OID of the relation is next."""
QUIET: Final = frozenset(b"BCOYM")
"""Begin, Commit, Origin, Type, Message: they change no table."""

TRUNCATE_BYTES: Final = 65536
"""Of a list of truncated tables that is longer, the rest need not be sent: it is not understood either way."""
RELATION_BYTES: Final = 300
"""A Relation message up to the end of its names fits in, whatever encoding these were converted from."""

_ACTIONS: Final = (": INSERT:", ": UPDATE:", ": DELETE:", ": TRUNCATE:")
_TABLE: Final = "table "


@dataclass(frozen=True, slots=True)
class Change:
    """What one message says. Either `relation` and its `name`, which the messages that follow refer to, or `changed`."""

    relation: int = 0
    """OID that a Relation message gives a name to; 0 in other messages."""
    name: str = ""
    """Without its schema."""
    changed: tuple[int, ...] = ()
    """OIDs of the relations of which rows were changed."""


_QUIET: Final = Change()


def parse_pgoutput(data: bytes) -> Change | None:
    """A message of pgoutput, or its beginning; None where it is not understood."""
    if not data:
        return None
    code = data[0]
    if code in ROWS:
        return Change(changed=(int.from_bytes(data[1:5], "big"),)) if len(data) >= 5 else None
    if code == RELATION:
        return _relation(data)
    if code == TRUNCATE:
        count = int.from_bytes(data[1:5], "big")
        if len(data) < 6 or len(data) != 6 + 4 * count:
            return None
        return Change(changed=tuple(int.from_bytes(data[at : at + 4], "big") for at in range(6, len(data), 4)))
    return _QUIET if code in QUIET else None


def _relation(data: bytes) -> Change | None:
    """Byte1('R') Int32(OID) String(schema) String(name) …"""
    schema_end = data.find(b"\0", 5)
    name_end = data.find(b"\0", schema_end + 1) if schema_end >= 0 else -1
    oid = int.from_bytes(data[1:5], "big")
    if name_end <= schema_end + 1 or not oid:
        return None
    return Change(relation=oid, name=data[schema_end + 1 : name_end].decode("utf-8", "surrogateescape"))


def parse_test_decoding(line: str) -> tuple[str, ...] | None:
    """The tables, without their schemas, that a line `table SCHEMA.NAME[, …]: ACTION: …` of test_decoding is about; none
    for a line about something else; None where it is not understood.

    Names are as `quote_identifier` gives them: in double quotes, doubled inside, unless they are made of a-z, 0-9 and _.
    """
    if not line.startswith(_TABLE):
        return ()
    names: list[str] = []
    at = len(_TABLE)
    while True:
        _, at = _identifier(line, at)
        if at < 0 or not line.startswith(".", at):
            return None
        name, at = _identifier(line, at + 1)
        if at < 0 or not name:
            return None
        names.append(name)
        if line.startswith(_ACTIONS, at):
            return tuple(names)
        if not line.startswith(", ", at):
            return None
        at += 2


def _identifier(line: str, at: int) -> tuple[str, int]:
    """The identifier that begins at `at`, and where it ends; -1 where there is none."""
    if not line.startswith('"', at):
        end = at
        while end < len(line) and (line[end].isalnum() or line[end] == "_"):
            end += 1
        return line[at:end], end if end > at else -1
    parts: list[str] = []
    begin = at + 1
    while True:
        end = line.find('"', begin)
        if end < 0:
            return "", -1
        parts.append(line[begin:end])
        if not line.startswith('"', end + 1):
            return '"'.join(parts), end + 1
        begin = end + 2
