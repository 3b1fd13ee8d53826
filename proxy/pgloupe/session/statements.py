"""Prepared statements and portals: which SQL a Bind or an Execute means.

Names take effect when the frontend sends them and are taken back when the server refuses: a pipelined Bind refers to a
Parse that nobody has answered yet. Each Parse and Close therefore remembers what its name stood for before.

What a server keeps is not ours to bound, so a session that prepares without end is forgotten from its oldest name on: an
Execute of a forgotten name is a statement that nobody recognises, and nothing worse.

Source: protocol documentation, "Extended Query"; SQL commands PREPARE, DEALLOCATE, DISCARD.
"""

from __future__ import annotations

import re
from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.wire.frontend import Formats, parse_bind_values
from pgloupe.wire.values import decode_parameter
from pgloupe_rules.types import Literal, Recognised, Slot, Statement, Template, Value, comparable

MAX_PREPARED: Final = 2_000
MAX_PREPARED_BYTES: Final = 1 << 20
MAX_PORTALS: Final = 500
MAX_DECODED_BYTES: Final = 1 << 16
"""A Bind longer than this is not kept and not decoded: its values are those of a bulk load."""

UNKNOWN: Final = Recognised(Template("0" * 16, "", 0), (), "")
"""Stands for a statement whose text was never seen."""


class Prepared:
    """A prepared statement as the frontend made it."""

    __slots__ = ("columns", "doubt", "name", "oids", "query_string", "recognised", "statement_count")

    def __init__(
        self, name: str, query_string: str, recognised: tuple[Recognised, ...], oids: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self.query_string = query_string
        self.recognised = recognised[0] if len(recognised) == 1 else UNKNOWN
        self.statement_count = len(recognised)
        """0 for an empty query string; over 1 only where the server is going to refuse it."""
        self.oids = oids
        """Parameter types: those of Parse, then those of ParameterDescription."""
        self.columns = b""
        """The RowDescription frame of a statement-Describe, b"" if unknown."""
        self.doubt = 0
        """While its Parse is not answered and the name may yet mean what it meant before: the Sync behind which it does so
        if the Parse fails. 0 for no doubt."""

    def inherit(self, former: Prepared) -> None:
        """Take over what a Describe told of the same text under the same name: asyncpg without its statement cache parses
        the unnamed statement, describes it, and parses it again to run it."""
        if former.query_string == self.query_string:
            self.columns = former.columns
            self.oids = self.oids or former.oids


class Portal:
    """A bound prepared statement. Keeps the Bind as sent and decodes it only when someone asks."""

    __slots__ = ("bind", "columns", "name", "offset", "prepared", "results", "statement")

    def __init__(self, name: str, prepared: Prepared, bind: bytes, offset: int) -> None:
        self.name = name
        self.prepared = prepared
        self.bind = bind
        self.offset = offset
        self.columns = b""
        """The RowDescription frame of a portal-Describe, b"" if unknown."""
        self.statement: Statement | None = None
        """Of the first Execute: later ones fetch on."""
        self.results: Formats | None = None
        if len(bind) > MAX_DECODED_BYTES:
            # the server may take in many of these before it answers the first
            self.results = self.result_formats()
            self.bind = b""

    def result_formats(self) -> Formats:
        if self.results is not None:
            return self.results
        try:
            return parse_bind_values(self.bind, self.offset)[2]
        except ProtocolViolation:
            return ()

    def decode(self, statement: Statement) -> tuple[Value, ...]:
        """The values of the template's placeholders. Empty where they cannot be known."""
        if not self.bind:
            return ()
        try:
            formats, raw, _ = parse_bind_values(self.bind, self.offset)
        except ProtocolViolation:
            return ()
        oids = self.prepared.oids
        parameters: list[Value] = []
        for index, value in enumerate(raw):
            format_code = formats[index] if len(formats) > 1 and index < len(formats) else formats[0] if formats else 0
            oid = oids[index] if index < len(oids) else 0
            parameters.append(comparable(decode_parameter(oid, format_code, value)))
        return fill_slots(statement.recognised.slots, parameters)


def fill_slots(slots: tuple[Slot, ...], parameters: list[Value]) -> tuple[Value, ...]:
    """The value behind each slot; `()` if a parameter is missing."""
    out: list[Value] = []
    for slot in slots:
        if isinstance(slot, tuple):
            items = fill_slots(slot, parameters)
            if len(items) != len(slot):
                return ()
            out.append(items)
        elif isinstance(slot, Literal):
            out.append(slot.value)
        elif 1 <= slot <= len(parameters):
            out.append(parameters[slot - 1])
        else:
            return ()
    return tuple(out)


_NAME: Final = re.compile(r'\s*(?:PREPARE\s+)?("(?:[^"]|"")*"|[^\s"(;]+)', re.IGNORECASE)


class Statements:
    """The names of one session."""

    __slots__ = ("_bytes", "_portals", "_prepared")

    def __init__(self) -> None:
        self._prepared: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._bytes = 0

    def prepare(self, prepared: Prepared) -> Prepared | None:
        """The name now means `prepared`. Returns what it meant before."""
        previous = self._prepared.pop(prepared.name, None)
        if previous is not None:
            self._bytes -= len(previous.query_string)
        self._prepared[prepared.name] = prepared
        self._bytes += len(prepared.query_string)
        while len(self._prepared) > MAX_PREPARED or (self._bytes > MAX_PREPARED_BYTES and len(self._prepared) > 1):
            self._forget(next(iter(self._prepared)))
        return previous

    def undo(self, name: str, made: Prepared | None, previous: Prepared | None) -> None:
        """A Parse (or, with `made` None, a Close) did not happen. A name used again since stays as it is."""
        if self._prepared.get(name) is not made:
            return
        self._forget(name)
        if previous is not None:
            self.prepare(previous)

    def _forget(self, name: str) -> None:
        gone = self._prepared.pop(name, None)
        if gone is not None:
            self._bytes -= len(gone.query_string)

    def prepared(self, name: str) -> Prepared | None:
        return self._prepared.get(name)

    def close_prepared(self, name: str) -> Prepared | None:
        """The name means nothing any more. Returns what it meant."""
        previous = self._prepared.get(name)
        self._forget(name)
        return previous

    def bind(self, portal: Portal) -> None:
        self._portals[portal.name] = portal
        if len(self._portals) > MAX_PORTALS:
            self._portals.pop(next(iter(self._portals)))

    def portal(self, name: str) -> Portal | None:
        return self._portals.get(name)

    def close_portal(self, name: str) -> None:
        self._portals.pop(name, None)

    def end_transaction(self) -> None:
        """Portals made by Bind do not outlive their transaction."""
        self._portals.clear()

    def simple_query(self) -> Prepared | None:
        """A simple Query destroys the unnamed statement and portal. Returns the statement."""
        self._portals.pop("", None)
        return self.close_prepared("")

    def completed(self, tag: str, recognised: Recognised) -> None:
        """A SQL command that changes names has succeeded."""
        if tag in ("DEALLOCATE ALL", "DISCARD ALL"):
            unnamed = self._prepared.get("")  # not among what these drop
            self._prepared.clear()
            self._bytes = 0
            if unnamed is not None:
                self.prepare(unnamed)
        elif tag == "DEALLOCATE":
            match = _NAME.match(recognised.bare[len("DEALLOCATE") :])
            if match is not None:
                self._forget(_identifier(match.group(1)))
        elif tag == "PREPARE":
            match = _NAME.match(recognised.bare[len("PREPARE") :])
            if match is not None:
                self.prepare(Prepared(_identifier(match.group(1)), recognised.bare, (UNKNOWN,)))


def _identifier(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()
