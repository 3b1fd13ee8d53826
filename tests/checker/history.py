"""What clients did and saw: the only thing that is judged.

A register is one number in the database that can be told from all others: its name stands in the row beside the number. A
counter only grows, by its writes. A state takes any value, and its writes come one after the other.

Times are those of one monotonic clock of one process, taken right before an operation was asked for and after its answer was
there, so the true moment lies in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

clock: Callable[[], float] = time.monotonic


class Kind(StrEnum):
    READ = "read"
    WRITE = "write"


class Outcome(StrEnum):
    ACKNOWLEDGED = "acknowledged"
    ROLLED_BACK = "rolled back"
    UNKNOWN = "unknown"
    """The answer never came: it may have happened, may happen later, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One read or write of one register, from its question to its answer."""

    session: int
    """A connection of a client; never the same number for two."""
    kind: Kind
    register: str
    begin_s: float
    end_s: float
    outcome: Outcome = Outcome.ACKNOWLEDGED
    value: int | None = None
    """What was read or written. None: there was no row; it is not known what a counter was raised to."""
    way: str = ""
    """How it was done, for those who read a report."""
    bypass: bool = False
    """The write went past the proxies."""
    shown: str = ""
    """The register's name in the row that was read, where that is another one."""
    own: int | None = None
    """What this session has written in the transaction of the read, which nobody else sees."""
    step: int = 1
    """How much a write adds to a counter."""
    vanishing: bool = False
    """A write that PostgreSQL itself shows to others as an empty table for a moment (TRUNCATE, ALTER TABLE that rewrites:
    documentation, section 13.6)."""

    def __str__(self) -> str:
        text = f"{self.begin_s:.6f}-{self.end_s:.6f} session {self.session} {self.kind} {self.register} = {self.value}"
        notes = [self.way] if self.way else []
        if self.outcome is not Outcome.ACKNOWLEDGED:
            notes.append(str(self.outcome))
        if self.bypass:
            notes.append("past the proxies")
        if self.shown:
            notes.append(f"answered with {self.shown}")
        return f"{text} ({', '.join(notes)})" if notes else text


@dataclass(slots=True)
class History:
    """Operations in the order in which they ended. `counters` and `states` are the registers with their first values."""

    counters: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)

    def add(self, operation: Operation) -> None:
        """May be called from any thread."""
        self.operations.append(operation)
