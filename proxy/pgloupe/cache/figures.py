"""What the cache counts: in all, for each rule, and for the templates of each rule that come most often.

Bounded by the number of rules, of templates and of fixed reasons. Nothing here reads a clock: ages come from the look-up and
times from the outcomes that the session reports anyway.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from heapq import nsmallest
from typing import Any, Final

from pgloupe.cache.advisor import Advice, advise, advise_dry_run
from pgloupe_rules.types import Outcome, Status, Template

_RULES_LIMIT: Final = 4096
_TEMPLATES_LIMIT: Final = 200
"""Templates of one rule that are counted one by one."""
SHOWN_TEMPLATES: Final = 50
_TOTALS: Final = (
    "hits",
    "memory_hits",
    "redis_hits",
    "misses",
    "bypasses",
    "fills",
    "fills_refused",
    "writes",
    "waits",
    "refreshes",
    "stale_hits",
)
AGES_S: Final = (0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
"""Upper bounds of the buckets of the age at which answers are given; one more is for what is older."""

_BYPASS: Final = "bypass: "
_REFUSED: Final = "not stored: "


class _Row:
    """A rule, or one template of it."""

    __slots__ = (
        "ages",
        "bytes",
        "compared_s",
        "counts",
        "hit_s",
        "miss_s",
        "server_s",
        "text",
        "timed_hits",
        "timed_misses",
    )

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.counts: dict[str, int] = {}
        self.ages = [0] * (len(AGES_S) + 1)
        self.bytes = 0
        self.hit_s = self.miss_s = self.server_s = self.compared_s = 0.0
        self.timed_hits = self.timed_misses = 0

    def add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    def merge(self, other: _Row) -> None:
        for what, count in other.counts.items():
            self.counts[what] = self.counts.get(what, 0) + count
        self.ages = [mine + theirs for mine, theirs in zip(self.ages, other.ages, strict=True)]
        self.bytes += other.bytes
        self.hit_s += other.hit_s
        self.miss_s += other.miss_s
        self.server_s += other.server_s
        self.compared_s += other.compared_s
        self.timed_hits += other.timed_hits
        self.timed_misses += other.timed_misses

    def served(self, size_bytes: int, bucket: int) -> None:
        self.bytes += size_bytes
        self.ages[bucket] += 1

    def took(self, outcome: Outcome, hit: bool) -> None:
        if hit:
            self.timed_hits += 1
            self.hit_s += outcome.proxy_s
        else:
            self.timed_misses += 1
            self.server_s += outcome.server_s
            self.miss_s += outcome.server_s + outcome.proxy_s

    @property
    def asked(self) -> int:
        counts = self.counts
        return counts.get("hits", 0) + counts.get("dry_run_hits", 0) + counts.get("misses", 0)

    def advice(self, *, dry_run: bool) -> Advice:
        counts = self.counts
        if dry_run:
            hits, different = counts.get("dry_run_hits", 0), counts.get("dry_run_different", 0)
            return advise_dry_run(hits, counts.get("misses", 0), different, 1000 * self.compared_s)
        return advise(
            counts.get("hits", 0),
            counts.get("misses", 0),
            _mean_ms(self.server_s, self.timed_misses),
            _mean_ms(self.hit_s, self.timed_hits),
            _mean_ms(self.miss_s, self.timed_misses),
        )

    def to_dict(self, *, dry_run: bool) -> dict[str, Any]:
        counts = self.counts
        advice = self.advice(dry_run=dry_run)
        return {
            **{
                what: counts.get(what, 0)
                for what in ("hits", "misses", "fills", "waits", "refreshes", "stale_hits", "dry_run_hits")
            },
            "dry_run_different": counts.get("dry_run_different", 0),
            "dry_run_saved_ms": round(1000 * self.compared_s, 3),
            "bypasses": _reasons(counts, _BYPASS),
            "fills_refused": _reasons(counts, _REFUSED),
            "bytes_served": self.bytes,
            "age_s": {"at_most": [*AGES_S, None], "hits": list(self.ages)},
            "server_ms": _rounded(_mean_ms(self.server_s, self.timed_misses)),
            "hit_ms": _rounded(_mean_ms(self.hit_s, self.timed_hits)),
            "miss_ms": _rounded(_mean_ms(self.miss_s, self.timed_misses)),
            "hit_ratio": _rounded(advice.reached),
            "break_even": _rounded(advice.needed),
            "pays": advice.pays,
            "advice": advice.text,
        }


def _mean_ms(total_s: float, count: int) -> float | None:
    return 1000 * total_s / count if count else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _reasons(counts: dict[str, int], prefix: str) -> dict[str, int]:
    found = [(what.removeprefix(prefix), count) for what, count in counts.items() if what.startswith(prefix)]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


class _Rule(_Row):
    __slots__ = ("others", "templates")

    def __init__(self) -> None:
        super().__init__()
        self.templates: dict[str, _Row] = {}
        self.others: _Row | None = None
        """What became of the templates that had to make room."""

    def row(self, template: Template) -> _Row:
        row = self.templates.get(template.fingerprint)
        if row is None:
            if len(self.templates) >= _TEMPLATES_LIMIT:
                self._make_room()
            row = self.templates[template.fingerprint] = _Row(template.text)
        return row

    def _make_room(self) -> None:
        if self.others is None:
            self.others = _Row("other statements")
        for rare in nsmallest(_TEMPLATES_LIMIT // 2, self.templates.items(), key=lambda item: item[1].asked):
            self.others.merge(rare[1])
            del self.templates[rare[0]]


class Figures:
    """Counts since the start."""

    __slots__ = ("_rules", "totals")

    def __init__(self) -> None:
        self.totals: dict[str, int] = dict.fromkeys(_TOTALS, 0)
        self._rules: dict[str, _Rule] = {}

    def _rule(self, rule: str) -> _Rule | None:
        found = self._rules.get(rule)
        if found is None and len(self._rules) < _RULES_LIMIT:
            found = self._rules[rule] = _Rule()
        return found

    def count(self, rule: str, what: str, template: Template | None = None) -> None:
        """One more of what has a total, for this rule and in all."""
        self.totals[what] += 1
        self.add(rule, what, template)

    def add(self, rule: str, what: str, template: Template | None = None) -> None:
        """One more of something that only the rule counts. `what` is one of few fixed texts."""
        found = self._rule(rule)
        if found is not None:
            found.add(what)
            if template is not None:
                found.row(template).add(what)

    def bypass(self, rule: str, reason: str, template: Template | None = None) -> None:
        """A read that the rule names went to the server without a look-up, or for this reason in spite of it."""
        self.totals["bypasses"] += 1
        self.add(rule, _BYPASS + reason, template)

    def refused(self, rule: str, reason: str, template: Template | None = None) -> None:
        """An answer was not stored."""
        self.count(rule, "fills_refused", template)
        self.add(rule, _REFUSED + reason, template)

    def served(self, rule: str, template: Template | None, size_bytes: int, age_s: float) -> None:
        """A hit: so many bytes, of this age."""
        found = self._rule(rule)
        if found is not None:
            bucket = bisect_left(AGES_S, age_s)
            found.served(size_bytes, bucket)
            if template is not None:
                found.row(template).served(size_bytes, bucket)

    def compared(self, rule: str, template: Template | None, server_s: float, *, different: bool) -> None:
        """A `dry_run` rule would have answered, and the server has; `different`: not with the same bytes."""
        found = self._rule(rule)
        if found is None:
            return
        for row in (found,) if template is None else (found, found.row(template)):
            row.compared_s += server_s
            if different:
                row.add("dry_run_different")

    def timed(self, outcome: Outcome) -> None:
        """What became of a read for which the cache was asked."""
        if outcome.status is not Status.COMPLETE or not outcome.cache:
            return
        found = self._rules.get(outcome.cache_rule)
        if found is not None:
            hit = outcome.cache == "hit"
            found.took(outcome, hit)
            found.row(outcome.statement.recognised.template).took(outcome, hit)

    def by_rule(self) -> dict[str, dict[str, int]]:
        """For each rule: hits, misses, fills, fills_refused, `bypass: REASON` and `not stored: REASON`."""
        return {rule: dict(found.counts) for rule, found in self._rules.items()}

    def to_list(self, rules: Iterable[tuple[str, bool]]) -> list[dict[str, Any]]:
        """One mapping for each rule of the report, in the order of `rules` (name, `dry_run`); then those that were counted
        and are configured no more. `templates` has those with the most look-ups."""
        dry = dict(rules)
        out: list[dict[str, Any]] = []
        for name in [*dry, *(name for name in self._rules if name not in dry)]:
            found = self._rules.get(name) or _Rule()
            dry_run = dry.get(name, "dry_run_hits" in found.counts)
            top = sorted(found.templates.items(), key=lambda item: (-item[1].asked, item[0]))
            templates = [
                {"fingerprint": fingerprint, "template": row.text, **row.to_dict(dry_run=dry_run)}
                for fingerprint, row in top[:SHOWN_TEMPLATES]
            ]
            out.append({"rule": name, "dry_run": dry_run, **found.to_dict(dry_run=dry_run), "templates": templates})
        return out
