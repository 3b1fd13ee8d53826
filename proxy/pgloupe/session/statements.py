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
from pgloupe.wire.backend import without_formats
from pgloupe.wire.frontend import Formats, parse_bind_values
from pgloupe.wire.values import decode_parameter
from pgloupe_rules.types import Literal, Recognised, Slot, Statement, Template, Value, comparable

MAX_PREPARED: Final = 2_000
MAX_PREPARED_BYTES: Final = 1 << 20
MAX_PORTALS: Final = 500
MAX_LARGE_PORTALS: Final = 32
"""While more portals than these are open, only short ones keep their values."""
LONG: Final = 4_096
_OVERHEAD: Final = 500
"""Bytes that a prepared statement takes beside what came from outside, about."""
MAX_DECODED_BYTES: Final = 1 << 16
"""A Bind longer than this is not kept and not decoded: its values are those of a bulk load."""

UNKNOWN: Final = Recognised(Template("0" * 16, "", 0), (), "")
"""Stands for a statement whose text was never seen."""


class Prepared:
    """A prepared statement as the frontend made it."""

    __slots__ = (
        "columns",
        "doubt",
        "made",
        "name",
        "oids",
        "query_string",
        "recognised",
        "renames",
        "statement_count",
        "weight",
    )

    def __init__(
        self, name: str, query_string: str, recognised: tuple[Recognised, ...], oids: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self.query_string = query_string
        self.recognised = recognised[0] if len(recognised) == 1 else UNKNOWN
        self.renames = renames(self.recognised)
        self.statement_count = len(recognised)
        """0 for an empty query string; over 1 only where the server is going to refuse it."""
        self.oids = oids
        """Parameter types: those of Parse, then those of ParameterDescription."""
        self.columns = b""
        """The RowDescription frame of a statement-Describe, or of the first portal without its formats; b"" if unknown."""
        self.doubt = 0
        """While its Parse is not answered and the name may yet mean what it meant before: the Sync behind which it does so
        if the Parse fails. 0 for no doubt."""
        self.made = 0
        """How many statements had been sent before it."""
        self.weight = 0
        """Bytes that it is counted with."""

    def weigh(self) -> None:
        """Say anew how much memory this takes."""
        self.weight = _OVERHEAD + len(self.name) + len(self.query_string) + 40 * len(self.oids) + len(self.columns)

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
            self.forget_values()

    def forget_values(self) -> None:
        """Keep of the Bind only what says how the rows are to be read."""
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

    __slots__ = ("_bytes", "_portals", "_prepared", "portals_lost")

    def __init__(self) -> None:
        self._prepared: dict[str, Prepared] = {}
        self._portals: dict[str, Portal] = {}
        self._bytes = 0
        self.portals_lost = False
        """There may be portals of this transaction of which nobody knows what they run."""

    def prepare(self, prepared: Prepared) -> Prepared | None:
        """The name now means `prepared`. Returns what it meant before."""
        previous = self._prepared.pop(prepared.name, None)
        if previous is not None:
            self._bytes -= previous.weight
        self._prepared[prepared.name] = prepared
        prepared.weigh()
        self._bytes += prepared.weight
        self._make_room()
        return previous

    def described(
        self, prepared: Prepared, *, columns: bytes | None = None, oids: tuple[int, ...] | None = None
    ) -> None:
        """The server has told what the statement gives or takes."""
        if columns is not None:
            prepared.columns = columns
        if oids is not None:
            prepared.oids = oids
        if self._prepared.get(prepared.name) is prepared:
            self._bytes -= prepared.weight
            prepared.weigh()
            self._bytes += prepared.weight
            self._make_room()

    def told(self, prepared: Prepared, row_description: bytes) -> None:
        """The client was told of a portal of this statement what it gives: it may leave out the Describe from then on, as
        pgjdbc does. The same for all portals but for the formats, which come with each Bind."""
        if prepared.name and not prepared.columns and row_description:
            self.described(prepared, columns=without_formats(row_description))

    def _make_room(self) -> None:
        while len(self._prepared) > MAX_PREPARED or (self._bytes > MAX_PREPARED_BYTES and len(self._prepared) > 1):
            self._forget(next(iter(self._prepared)))

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
            self._bytes -= gone.weight

    def prepared(self, name: str) -> Prepared | None:
        return self._prepared.get(name)

    def close_prepared(self, name: str) -> Prepared | None:
        """The name means nothing any more. Returns what it meant."""
        previous = self._prepared.get(name)
        self._forget(name)
        return previous

    def bind(self, portal: Portal) -> None:
        if len(portal.name) > LONG:
            self.lose_portals()
            return
        if len(self._portals) > MAX_LARGE_PORTALS and len(portal.bind) > LONG:
            portal.forget_values()
        self._portals[portal.name] = portal
        if len(self._portals) > MAX_PORTALS:
            self._portals.pop(next(iter(self._portals)))
            self.portals_lost = True

    def lose_portals(self) -> None:
        """Something was bound that nobody could look at: any name of a portal may mean it."""
        self._portals.clear()
        self.portals_lost = True

    def named_portals(self) -> list[Portal]:
        """Those that a FETCH or MOVE of this transaction may run."""
        return [portal for name, portal in self._portals.items() if name]

    def portal(self, name: str) -> Portal | None:
        return self._portals.get(name)

    def close_portal(self, name: str) -> None:
        self._portals.pop(name, None)

    def end_transaction(self) -> None:
        """Portals made by Bind do not outlive their transaction."""
        self._portals.clear()
        self.portals_lost = False

    def simple_query(self) -> Prepared | None:
        """A simple Query destroys the unnamed statement and portal. Returns the statement."""
        self._portals.pop("", None)
        return self.close_prepared("")

    def completed(self, tag: str, recognised: Recognised, sent: int) -> None:
        """A SQL command that changes names has succeeded, the `sent`-th statement of the session. What was prepared behind it
        stays."""
        if tag in ("DEALLOCATE ALL", "DISCARD ALL"):
            self._drop_all(sent, unnamed=False)  # the unnamed statement is not among what these drop
        elif tag in ("DEALLOCATE", "PREPARE"):
            match = _NAME.match(recognised.bare[len(tag) :])
            if match is None:
                self._drop_all(sent)  # nobody could read the statement
                return
            name = _identifier(match.group(1))
            self._drop(name, sent)
            if tag == "PREPARE" and name not in self._prepared:
                self.prepare(Prepared(name, recognised.bare, (UNKNOWN,)))
        elif tag == "DO" and (recognised is UNKNOWN or _RENAMING.search(recognised.bare)):
            self._drop_all(sent)

    def _drop_all(self, sent: int, *, unnamed: bool = True) -> None:
        for name in list(self._prepared):
            if name or unnamed:
                self._drop(name, sent)

    def _drop(self, name: str, sent: int) -> None:
        prepared = self._prepared.get(name)
        if prepared is not None and prepared.made < sent:
            self._forget(name)


_RENAMING: Final = re.compile(r"\b(?:PREPARE|DEALLOCATE)\b", re.IGNORECASE)
_RENAMING_WORDS: Final = frozenset({"PREP", "DEAL", "DISC"})


def renames(recognised: Recognised) -> bool:
    """The statement may change what names of prepared statements mean."""
    if recognised is UNKNOWN:
        return True
    text = recognised.bare
    if text[:4].upper() in _RENAMING_WORDS:
        return True
    return text[:2].upper() == "DO" and _RENAMING.search(text) is not None


def _identifier(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()
