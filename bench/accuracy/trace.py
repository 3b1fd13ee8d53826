"""What a trace is, once it has been read: an expectation, and steps with their loops unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from bench.accuracy.values import Value
from pgloupe.errors import PgloupeError

RULES: Final = ("n_plus_one", "n_plus_one_write", "redundant_query")
FORMS: Final = ("simple", "extended", "named", "after5", "binary")
"""How statements are sent: literals in a Query; an unnamed statement each time; a named one, prepared once; unnamed five
times, then named; named with binary parameters and results."""


class TraceError(PgloupeError):
    """A trace cannot be read. The text names file and line."""


@dataclass(frozen=True)
class Expected:
    """A finding that must be there, or (`allow`) may be."""

    rule: str
    table: str
    """One of the tables of the repeated statement."""
    parent: str = ""
    """A table of the query whose rows drive it, "" where there is none."""
    column: str = ""
    """The parent's column."""
    times: int = 0
    """At least so often, 0 where that is not said."""


@dataclass
class Call:
    """One statement, filled in: what is sent and what comes back."""

    sql: str
    line: int
    params: list[Value] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    columns: dict[str, list[Value]] = field(default_factory=dict)
    column_types: dict[str, str] = field(default_factory=dict)
    rows: int | None = None
    """Rows written or copied, where no rows come back."""
    sqlstate: str = ""
    took_s: float = 0.0005
    more: bool = False
    """The portal has more rows; a `resume` gets them."""


@dataclass(frozen=True)
class Connect:
    """Statements go to this connection from now on; a new one where the name is new."""

    name: str
    options: Mapping[str, str]


@dataclass(frozen=True)
class Close:
    name: str


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True)
class Form:
    name: str


@dataclass(frozen=True)
class Pipeline:
    """Sent without waiting for each other's answers."""

    calls: list[Call]


@dataclass(frozen=True)
class Overlap:
    """Each connection's steps in their order, the connections at the same time."""

    steps: list[Step]


Step: TypeAlias = "Call | Connect | Close | Wait | Form | Pipeline | Overlap"


@dataclass
class Trace:
    """A trace, its loops unrolled."""

    name: str
    title: str
    why: str
    kind: str
    expect: list[Expected]
    allow: list[Expected]
    pace_s: float
    form: str
    steps: list[Step]

    @property
    def label(self) -> str:
        """The class: that of the first finding expected, or `nothing`."""
        return self.expect[0].rule if self.expect else "nothing"
