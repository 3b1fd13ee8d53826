"""Calls, rows, bytes and times of each template, as pg_stat_statements has them but as the client saw them.

`observe` runs for every statement, so it costs one dictionary look-up, a few additions and one logarithm. Times go into
a histogram with buckets whose bounds grow by a tenth: a percentile read from it is wrong by at most 5 %, in memory that is
the same for a thousand calls and a thousand million.

The number of rows is bounded. When there are too many templates the least called tenth is added up in one row,
"other statements": totals stay true, and a template that becomes busy late still gets a row of its own.
"""

from __future__ import annotations

from heapq import nsmallest
from math import log
from typing import Any, Final

from pgloupe_rules.types import Outcome, Status

MAX_TEMPLATES: Final = 5_000

OTHER: Final = "other"
"""Fingerprint of the row that adds up the templates without a row."""

_GROWTH: Final = 1.1
_LOWEST_S: Final = 1e-6
_HIGHEST_S: Final = 1e9
_PER_LOG: Final = 1.0 / log(_GROWTH)
_BUCKETS: Final = 256
"""From one microsecond to 1.1**255 of them, some ten hours."""
# The value that is wrong by the same factor, sqrt(1.1), at either end of its bucket.
_MIDDLE_MS: Final = tuple(1000 * _LOWEST_S * _GROWTH ** (bucket + 0.5) for bucket in range(_BUCKETS))
_OFFSET: Final = -log(_LOWEST_S) * _PER_LOG


class Row:
    """What is known of one template."""

    __slots__ = ("buckets", "bytes", "cache_hits", "calls", "fingerprint", "rows", "template", "total_s")

    def __init__(self, fingerprint: str, template: str) -> None:
        self.fingerprint = fingerprint
        self.template = template
        self.calls = 0
        self.rows = 0
        self.bytes = 0
        self.total_s = 0.0
        self.cache_hits = 0
        self.buckets = [0] * _BUCKETS

    def merge(self, other: Row) -> None:
        """Add the numbers of another row to this one's."""
        self.calls += other.calls
        self.rows += other.rows
        self.bytes += other.bytes
        self.total_s += other.total_s
        self.cache_hits += other.cache_hits
        self.buckets = [mine + theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)]

    def percentile_ms(self, share: float) -> float:
        """The time that this share of the calls did not exceed, within 5 %; 0 for times below a microsecond."""
        left = max(1.0, share * self.calls)
        for bucket, number in enumerate(self.buckets):
            left -= number
            if left <= 0:
                return _MIDDLE_MS[bucket] if bucket else 0.0
        return 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "template": self.template,
            "calls": self.calls,
            "rows": self.rows,
            "bytes": self.bytes,
            "mean_ms": round(1000 * self.total_s / self.calls, 3) if self.calls else 0.0,
            "p50_ms": round(self.percentile_ms(0.50), 3),
            "p95_ms": round(self.percentile_ms(0.95), 3),
            "p99_ms": round(self.percentile_ms(0.99), 3),
            "cache_hits": self.cache_hits,
        }


class Statistics:
    """The rows of all templates seen."""

    def __init__(self, *, limit: int = MAX_TEMPLATES) -> None:
        self._limit = limit
        self._rows: dict[str, Row] = {}
        self._other: Row | None = None

    def observe(self, outcome: Outcome) -> None:
        """Count one outcome. A statement that the server skipped did not run and is not a call; of a portal that is
        fetched in parts each Execute is one. The time is the server's and the proxy's together."""
        if outcome.status is Status.SKIPPED:
            return
        template = outcome.statement.recognised.template
        row = self._rows.get(template.fingerprint)
        if row is None:
            row = self._new_row(template.fingerprint, template.text)
        duration_s = outcome.server_s + outcome.proxy_s
        row.calls += 1
        row.rows += outcome.rows
        row.bytes += outcome.bytes
        if outcome.cache == "hit":
            row.cache_hits += 1
        if _LOWEST_S < duration_s < _HIGHEST_S:
            row.total_s += duration_s
            bucket = int(log(duration_s) * _PER_LOG + _OFFSET)
            row.buckets[bucket if bucket < _BUCKETS else -1] += 1
        else:
            row.buckets[0] += 1

    def _new_row(self, fingerprint: str, template: str) -> Row:
        if len(self._rows) >= self._limit:
            other = self._other
            if other is None:
                other = self._other = Row(OTHER, "other statements")
            for rare in nsmallest(max(1, self._limit // 10), self._rows.values(), key=lambda row: row.calls):
                other.merge(rare)
                del self._rows[rare.fingerprint]
        row = self._rows[fingerprint] = Row(fingerprint, template)
        return row

    def rows(self) -> list[dict[str, Any]]:
        """The rows of the report's `statistics`: the most time in all first, then the most calls; milliseconds."""
        rows = sorted(self._rows.values(), key=lambda row: (-row.total_s, -row.calls, row.fingerprint))
        if self._other is not None:
            rows.append(self._other)
        return [row.to_dict() for row in rows]
