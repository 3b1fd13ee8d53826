"""Where one request's statements begin and end.

Nobody tells the wire which statements belong to one request, job or test, so the boundaries are inferred, per session:

- the session ends, or `DISCARD ALL` throws its state away;
- the frontend is silent while no transaction is open for longer than an idle gap. The gap is a floor from the settings
  or six times the median silence of this session, whichever is longer, so that a slow loop is not cut at each turn;
- a trace tag changes (`traceparent`, a request id, or the route that sqlcommenter writes; within a transaction block the first
  statement that carries tags is looked at). A tag that is different on every statement names the statement and not the
  request: it counts only after two statements have carried one value;
- the outermost savepoint is rolled back in a transaction that has not failed: so ends a test in a suite that runs a
  whole class of them in one transaction (see `savepoints`);
- more was seen than can be kept, of many templates, and a transaction begins: rather the next one afresh than nothing;
- a hard limit on statements, so that a busy pooled connection does not make a unit that never ends.

A transaction boundary does not end the unit of work: an ORM that commits inside a loop, or reads its list before it
begins, would be torn apart. It is evidence of another kind, and rules weigh it: without value flow, repeats are added
up only within one transaction, and repeats in a transaction each need a list that they came from. So jobs and requests
that follow each other on one connection, `BEGIN … COMMIT` each, are not added up though no boundary was seen.

A pool's reset between two check-outs (`SELECT pg_advisory_unlock_all(); CLOSE ALL; …`, `ROLLBACK`) ends nothing: pools
send it between the iterations of a loop as well.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Final, final

from pgloupe_rules.savepoints import Savepoints
from pgloupe_rules.tags import REQUEST_TAGS, trace_id
from pgloupe_rules.types import Outcome, SessionInfo, Statement

__all__ = [
    "MAX_STATEMENTS",
    "MAX_TAGS",
    "STATEMENT_TAGS",
    "UnitOfWork",
    "leaves_transaction_open",
    "place_of",
    "trace_id",
]

MAX_STATEMENTS: Final = 20_000
"""Statements in one unit of work; it ends there and the next begins."""
MAX_TAGS: Final = 10
"""Tag names kept for one unit of work, and values kept for one name."""
MAX_TAG_CHARS: Final = 100

GAP_FACTOR: Final = 6.0
"""A silence this many times longer than the session's median is no part of a loop."""
GAP_CEILING: Final = 4.0
"""The adapted gap is at most this many times the floor."""
RHYTHM: Final = 15
"""Silences from which the session's median is taken: the last ones within units of work."""

PLACE_TAGS: Final = ("route", "controller", "action", "job", "job_class", "handler", "test")
STATEMENT_TAGS: Final = frozenset({"traceparent", "tracestate", *REQUEST_TAGS})
"""Tags whose values name one request: worth nothing in a report that adds up many."""

_DISCARD_ALL: Final = re.compile(r"DISCARD\s+ALL\b", re.IGNORECASE)
_ENDS: Final = re.compile(r"(?:COMMIT|END|ABORT|ROLLBACK|PREPARE\s+TRANSACTION)\b", re.IGNORECASE)
_ROLLBACK_TO: Final = re.compile(
    r"ROLLBACK\s+(?:WORK\s+|TRANSACTION\s+)?TO\b|.*\bAND\s+CHAIN\b", re.IGNORECASE | re.DOTALL
)
_CONTROL_HEADS: Final = frozenset({"BEG", "STA", "COM", "END", "ABO", "ROL", "PRE"})
_BEGINS: Final = re.compile(r"(?:BEGIN|START\s+TRANSACTION)\b", re.IGNORECASE)


def leaves_transaction_open(outcome: Outcome) -> bool:
    """Whether a transaction block is open after this statement, as far as its text and its status tell."""
    statement = outcome.statement
    text = statement.template.text
    if text[:3].upper() in _CONTROL_HEADS:
        if _BEGINS.match(text):
            return True
        if _ENDS.match(text):
            return _ROLLBACK_TO.match(text) is not None
    return statement.status != "I" or statement.transaction != 0


def place_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Which part of the application a statement's tags name."""
    return tuple(tags.get(name, "") for name in PLACE_TAGS)


_NO_PLACE: Final = place_of({})


@final
class UnitOfWork:
    """Follows one session and says where its units of work begin and end. The caller asks `begins` before and
    `ends` after each outcome, calls `add` in between, and `reset` when it has closed a unit."""

    __slots__ = (
        "_finished_s",
        "_idle_gap_s",
        "_open",
        "_place",
        "_savepoints",
        "_silences_s",
        "_tagged",
        "_trace",
        "_trace_seen",
        "session",
        "statements",
        "tags",
        "undone",
    )

    def __init__(self, session: SessionInfo, idle_gap_s: float) -> None:
        self.session = session
        self._idle_gap_s = idle_gap_s
        self._silences_s: deque[float] = deque(maxlen=RHYTHM)
        self._finished_s = 0.0
        self._open = False
        self._tagged = 0
        self.statements = 0
        self.tags: dict[str, list[str]] = {}
        self.undone = False
        """The last statement took back what the unit wrote, on purpose."""
        self._savepoints = Savepoints()
        self._trace = ""
        self._trace_seen = 0
        self._place = _NO_PLACE

    def reset(self) -> None:
        """A new unit begins. The session's rhythm and whether a transaction is open stay known."""
        self.statements = 0
        self.tags = {}
        self._trace = ""
        self._trace_seen = 0
        self._place = _NO_PLACE

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction block is open after the last statement."""
        return self._open

    def gap_s(self) -> float:
        """The silence outside of a transaction that ends the unit, in seconds."""
        floor = self._idle_gap_s
        if not self._silences_s:
            return floor
        median = sorted(self._silences_s)[len(self._silences_s) // 2]
        return max(floor, min(GAP_FACTOR * median, GAP_CEILING * floor))

    def idle(self, now_s: float) -> bool:
        """Whether the unit has ended by silence, seen at `now_s`."""
        silence_s = now_s - self._finished_s
        return self.statements > 0 and not self._open and silence_s > self._idle_gap_s and silence_s > self.gap_s()

    def begins(self, statement: Statement) -> bool:
        """Whether this statement is the first of a new unit of work."""
        if not self.statements:
            return False
        if self.statements >= MAX_STATEMENTS:
            return True
        tags = statement.tags
        if self._open or statement.status != "I":
            # a driver's BEGIN carries no tags, so the first statement of a transaction that does speaks for it
            return bool(tags) and statement.transaction not in (0, self._tagged) and self._elsewhere(tags)
        if tags:
            if self._elsewhere(tags):
                return True
            if self._trace and trace_id(tags) == self._trace:
                return False
        silence_s = statement.received_s - self._finished_s
        return silence_s > self._idle_gap_s and silence_s > self.gap_s()

    def opens_transaction(self, statement: Statement) -> bool:
        """Whether the statement begins a transaction block: where a unit that has grown too large may be parted."""
        text = statement.template.text
        return not self._open and text[:3].upper() in _CONTROL_HEADS and _BEGINS.match(text) is not None

    def _elsewhere(self, tags: Mapping[str, str]) -> bool:
        """Whether the tags are those of another request than this unit's."""
        trace = trace_id(tags)
        if trace and self._trace:
            if trace == self._trace:
                return False
            if self._trace_seen >= 2:
                return True
        place = place_of(tags)
        return place != self._place and _NO_PLACE not in (place, self._place)

    def add(self, outcome: Outcome) -> None:
        """Take the outcome of a statement of this unit in."""
        statement = outcome.statement
        if self.statements:
            self._silences_s.append(statement.received_s - self._finished_s)
        self.statements += 1
        self._finished_s = max(outcome.finished_s, statement.received_s)
        self._open = leaves_transaction_open(outcome)
        self.undone = self._savepoints.undone(outcome)
        if statement.tags:
            self._tagged = statement.transaction
            self._add_tags(statement.tags)

    def _add_tags(self, tags: Mapping[str, str]) -> None:
        trace = trace_id(tags)
        if trace:
            if trace == self._trace:
                self._trace_seen += 1
            else:
                self._trace, self._trace_seen = trace, 1
        place = place_of(tags)
        if place != _NO_PLACE:
            self._place = place
        for name, value in tags.items():
            if name in STATEMENT_TAGS:
                continue
            values = self.tags.get(name)
            if values is None:
                if len(self.tags) < MAX_TAGS:
                    self.tags[name[:MAX_TAG_CHARS]] = [value[:MAX_TAG_CHARS]]
            elif value not in values and len(values) < MAX_TAGS:
                values.append(value[:MAX_TAG_CHARS])

    def ends(self, outcome: Outcome) -> bool:
        """Whether the unit of work is over after this outcome."""
        if self.undone:
            return True
        text = outcome.statement.template.text
        return text[:3].upper() == "DIS" and _DISCARD_ALL.match(text) is not None
