"""Which frames at the head of the frontend's queue make a cycle that may be answered here.

A cycle is one simple Query with one statement, or `[Parse] Bind [Describe portal] Execute [Close portal] Sync` on the unnamed
portal, with a Flush behind any of them (pg8000 sends some), since the Sync at the end flushes anyway. A row limit is part of the question: with Sync right behind it the portal ends, so the rows up to the limit are the whole answer
(asyncpg's fetchrow and fetchval ask so); the answer is kept for that limit only. A Parse in it must be that of the unnamed statement: a named one goes to the server, which costs one
round trip in the life of a session, and the server really has what the client believes it has. Without a Describe the client
reads the rows by what it was told before, which is `Prepared.columns`; that is a part of the question then.

What may yet become a cycle (its last frames have not arrived) is held only while the text is known to be one that a rule
allows to cache; everything else goes on at once.

Source: protocol documentation, "Extended Query"; what libpq, asyncpg, pg8000 and pgjdbc send.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from pgloupe.errors import ProtocolViolation
from pgloupe.session.statements import Prepared, Statements
from pgloupe.wire.codes import HEADER_BYTES, FrontendCode
from pgloupe.wire.frames import WHOLE
from pgloupe.wire.frontend import (
    parse_bind_names,
    parse_bind_values,
    parse_execute,
    parse_named,
    parse_parse,
    parse_query,
)
from pgloupe_rules.types import Recognised, Recogniser

QueuedFrame = tuple[int, bytes, int, float]
"""code, raw, count, when it arrived"""

NONE: Final = 0
PARTIAL: Final = -1

MAX_CYCLE_FRAME_BYTES: Final = 65_536


class Cycle:
    """A cycle found at the head of the queue, `length` frames long. `length` is NONE or PARTIAL where there is none."""

    __slots__ = ("bind", "closed", "described", "length", "limit", "parse", "prepared", "query", "recognised", "simple")

    def __init__(self, length: int) -> None:
        self.length = length
        self.simple = False
        self.query = ""
        self.recognised: Recognised | None = None
        self.parse = b""
        """The Parse frame, b"" where the statement was prepared before."""
        self.prepared: Prepared | None = None
        self.bind = b""
        self.described = False
        """A RowDescription is part of the reply."""
        self.closed = False
        """A CloseComplete is part of the reply."""
        self.limit = 0
        """Row limit of the Execute, 0 for none."""


_NO_CYCLE: Final = Cycle(NONE)


def find_cycle(queue: deque[QueuedFrame], statements: Statements, recognise: Recogniser) -> Cycle:
    """Look at the head of the queue. Never raises: what cannot be understood is no cycle."""
    try:
        return _find(queue, statements, recognise)
    except ProtocolViolation:
        return _NO_CYCLE


def _find(queue: deque[QueuedFrame], statements: Statements, recognise: Recogniser) -> Cycle:
    code, raw, count, _ = queue[0]
    if count != WHOLE or len(raw) > MAX_CYCLE_FRAME_BYTES:
        return _NO_CYCLE
    if code == FrontendCode.QUERY:
        return _simple(raw, recognise)
    cycle = Cycle(NONE)
    position = 0
    if code == FrontendCode.PARSE:
        name, query, oids = parse_parse(raw)
        if name:
            return _NO_CYCLE
        cycle.parse = raw
        cycle.prepared = Prepared("", query, recognise(query), oids)
        former = statements.prepared("")
        if former is not None:
            cycle.prepared.inherit(former)
        position = _behind(queue, 0)
        if position == _WAITS:
            return _NO_CYCLE
    if position < len(queue):
        code, raw, count, _ = queue[position]
        if code != FrontendCode.BIND or count != WHOLE or len(raw) > MAX_CYCLE_FRAME_BYTES:
            return _NO_CYCLE
        portal, name, offset = parse_bind_names(raw)
        parse_bind_values(raw, offset)  # a malformed one is the server's to refuse
        if cycle.prepared is None:
            cycle.prepared = statements.prepared(name)
        elif name:
            return _NO_CYCLE
        if portal or cycle.prepared is None:
            return _NO_CYCLE
        cycle.bind = raw
    prepared = cycle.prepared
    if prepared is None or prepared.statement_count != 1 or not prepared.recognised.bare:
        return _NO_CYCLE
    cycle.query = prepared.query_string
    cycle.recognised = prepared.recognised
    position = _behind(queue, position)
    if _code(queue, position) == FrontendCode.DESCRIBE:
        # a piece of a longer message is no such message, which is what the parsers say
        if parse_named(queue[position][1]) != ("P", ""):
            return _NO_CYCLE
        cycle.described = True
        position = _behind(queue, position)
    if _code(queue, position) == FrontendCode.EXECUTE:
        portal, cycle.limit = parse_execute(queue[position][1])
        if portal:
            return _NO_CYCLE
        position = _behind(queue, position)
        if _code(queue, position) == FrontendCode.CLOSE:
            if parse_named(queue[position][1]) != ("P", ""):
                return _NO_CYCLE
            cycle.closed = True
            position = _behind(queue, position)
        if _code(queue, position) == FrontendCode.SYNC:
            # without a RowDescription in the reply only the one that the client was given says what the rows mean
            if len(queue[position][1]) != HEADER_BYTES or not (cycle.described or prepared.columns):
                return _NO_CYCLE
            cycle.length = position + 1
            return cycle
    if position < len(queue) or position == _WAITS:
        return _NO_CYCLE
    cycle.length = PARTIAL
    return cycle


_WAITS: Final = 1 << 30


def _code(queue: deque[QueuedFrame], position: int) -> int:
    return queue[position][0] if position < len(queue) else -1


def _behind(queue: deque[QueuedFrame], position: int) -> int:
    """The place behind a message and the Flush that may follow it; `_WAITS` where nothing follows the Flush: the client may
    be waiting for what it asks for, so nothing is to be held."""
    position += 1
    if _code(queue, position) == FrontendCode.FLUSH:
        if len(queue[position][1]) != HEADER_BYTES or position + 1 >= len(queue):
            return _WAITS
        position += 1
    return position


def _simple(raw: bytes, recognise: Recogniser) -> Cycle:
    query = parse_query(raw)
    parts = recognise(query)
    if len(parts) != 1:
        return _NO_CYCLE
    cycle = Cycle(1)
    cycle.simple = True
    cycle.query = query
    cycle.recognised = parts[0]
    cycle.described = True
    return cycle
