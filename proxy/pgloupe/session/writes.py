"""Which tables a message may change when the server gets it.

A Parse or Bind changes nothing yet: the Execute does, and a FETCH or MOVE that runs what was bound under a name. What cannot
be looked at may change anything.
"""

from __future__ import annotations

from typing import Final, Protocol

from pgloupe.errors import ProtocolViolation
from pgloupe.session.marks import NO_TABLES, Tables, union
from pgloupe.session.statements import UNKNOWN, Statements
from pgloupe.wire.codes import FrontendCode
from pgloupe.wire.frames import WHOLE
from pgloupe.wire.frontend import parse_execute, parse_query
from pgloupe_rules.types import Recognised, Recogniser

_FETCHING: Final = frozenset({"FETCH", "MOVE"})


class Effects(Protocol):
    """What the rules know of statements."""

    def writes(self, recognised: Recognised, database: str, /) -> Tables:
        """The tables that a statement may change there, empty for none, None for "may be anything"."""
        ...


class Writes:
    """Of one session. Never raises."""

    __slots__ = ("_database", "_effects", "_recognise", "_statements")

    def __init__(self, effects: Effects, database: str, recognise: Recogniser, statements: Statements) -> None:
        self._effects = effects
        self._database = database
        self._recognise = recognise
        self._statements = statements

    def of_frame(self, code: int, raw: bytes, count: int) -> Tables:
        """Of a Query, Execute or FunctionCall."""
        if count != WHOLE or code == FrontendCode.FUNCTION_CALL:
            return None
        try:
            if code == FrontendCode.QUERY:
                tables: Tables = NO_TABLES
                for part in self._recognise(parse_query(raw)):
                    tables = union(tables, self._of(part))
                return tables
            portal = self._statements.portal(parse_execute(raw)[0])
        except ProtocolViolation:
            return None
        if portal is None:
            return None
        if not portal.prepared.statement_count:
            return NO_TABLES  # an empty query string
        return self._of(portal.prepared.recognised)

    def _of(self, recognised: Recognised) -> Tables:
        if recognised is UNKNOWN:
            return None
        if recognised.bare[:5].rstrip().upper() in _FETCHING:
            return self._of_portals()
        return self._effects.writes(recognised, self._database)

    def _of_portals(self) -> Tables:
        """What was bound and may be run by its name: `DELETE … RETURNING` runs at the first FETCH."""
        if self._statements.portals_lost:
            return None
        tables: Tables = NO_TABLES
        for portal in self._statements.named_portals():
            recognised = portal.prepared.recognised
            if recognised is UNKNOWN:
                return None
            tables = union(tables, self._effects.writes(recognised, self._database))
        return tables
