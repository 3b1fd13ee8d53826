"""What a session asks of whoever does its I/O, besides moving bytes. Only sessions with a cache ask for anything.

`Ask` and `BeginWrite` stop the frontend's direction, `EndWrite` the backend's, until the session is told the result; `Fill`
stops nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pgloupe.session.capture import Capture
from pgloupe.wire.frontend import Formats
from pgloupe_rules.types import Cacheable, Recognised


@dataclass(frozen=True, slots=True)
class Ask:
    """Is there an answer for this read? Tell by `Session.answered`."""

    rule: Cacheable
    context: bytes
    """What in the session may change the answer."""
    recognised: Recognised
    simple: bool
    oids: tuple[int, ...]
    parameters: bytes
    """Formats and values of the Bind as sent, without its names; b"" for a simple Query."""
    results: Formats
    limit: int
    """Row limit, 0 for none."""
    late: bool
    """The server began the transaction of this read before: unless each statement takes its own snapshot, what it answers may
    be older than the question."""
    described: bool
    """The answer begins with a RowDescription."""
    columns: bytes
    """Else the one that the client was given when it had the statement described."""
    common: bytes = b""
    """`context` without who asks, for a rule whose answers users share; b"" for any other."""
    roles: tuple[str, ...] = ()
    """The roles that the session has taken on, as it wrote them."""


@dataclass(frozen=True, slots=True)
class BeginWrite:
    """Before what follows reaches the server, these tables (None: all) must not be answered from the cache any more. Tell by
    `Session.marked`. `mark` is what an earlier BeginWrite of the same transaction was told, None for the first."""

    tables: frozenset[str] | None
    mark: object | None


@dataclass(frozen=True, slots=True)
class EndWrite:
    """The transaction that wrote is over. Tell by `Session.unmarked`, before which the client does not see the answer."""

    mark: object
    again: bool = False
    """More of the session's writes are on their way to `tables`: what was written until now becomes visible, and the mark
    stays, renewed."""
    tables: frozenset[str] | None = None
    refused: bool = False
    """The server refused the only statement that could have written: nothing has changed."""
    lost: bool = False
    """The session ended first: nobody will know what became of its writes. Nothing is told back."""


@dataclass(frozen=True, slots=True)
class Fill:
    """A complete answer for an earlier Ask that had none."""

    capture: Capture
    server_s: float


Action: TypeAlias = Ask | BeginWrite | EndWrite | Fill
