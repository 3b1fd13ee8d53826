"""slow_query: a statement took longer on the server than the configured time.

What it does
    Reports each template of which a statement took more than the limit of server time, once per unit of work, with the
    number of slow runs and their time. Off unless `pgloupe check --slow-ms MS` sets the limit: that of the slow log fails
    no check. Failed statements count: a statement that runs into its timeout is the slowest of all.

Why it is bad
    The client waits, and the connection, its locks and its snapshot are held all that while.

Example
    SELECT * FROM orders WHERE lower(email) = 'ann@example.org'
    … on a table without an index on lower(email): every row is read

Use instead
    An index for the predicate, fewer rows, or a statement cut into smaller ones. `EXPLAIN (ANALYZE, BUFFERS)` tells
    which. Server time includes the network between proxy and server and the time in which the client did not read.
"""

from __future__ import annotations

from typing import Final, final

from pgloupe_rules.record import sample_of
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Confidence, Finding, Outcome, Severity, Status, Template

MAX_TEMPLATES: Final = 256
"""Slow templates kept for one unit of work."""
MAX_SAMPLES: Final = 3

_NOT_RUN: Final = frozenset({Status.EMPTY, Status.SKIPPED})


@final
class _Slow:
    __slots__ = ("count", "samples", "template", "total_s")

    def __init__(self, template: Template) -> None:
        self.template = template
        self.count = 0
        self.total_s = 0.0
        self.samples: list[str] = []


@final
class SlowQuery:
    """The rule `slow_query`."""

    name = "slow_query"

    def __init__(self, slow_ms: float) -> None:
        self._slow_s = slow_ms / 1000.0

    def start(self) -> dict[str, _Slow]:
        """New state for one unit of work."""
        return {}

    def observe(self, state: dict[str, _Slow], outcome: Outcome) -> None:
        """Take an outcome in."""
        if outcome.server_s <= self._slow_s or outcome.status in _NOT_RUN:
            return
        template = outcome.statement.template
        slow = state.get(template.fingerprint)
        if slow is None:
            if len(state) >= MAX_TEMPLATES:
                return
            slow = state[template.fingerprint] = _Slow(template)
        slow.count += 1
        slow.total_s += outcome.server_s
        if len(slow.samples) < MAX_SAMPLES:
            slow.samples.append(sample_of(outcome.statement))

    def close(self, state: dict[str, _Slow]) -> list[Finding]:
        """The unit of work is over: what was slow in it."""
        return [
            Finding(
                rule=self.name,
                severity=Severity.WARNING,
                confidence=Confidence.PROVEN,
                fingerprint=slow.template.fingerprint,
                template=slow.template.text,
                tables=shape_of(slow.template).tables,
                count=slow.count,
                distinct_params=0,
                total_ms=slow.total_s * 1000.0,
                avoidable_round_trips=0,
                samples=slow.samples,
            )
            for slow in state.values()
        ]
