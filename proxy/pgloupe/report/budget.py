"""Query budgets: which units of work needed more queries than allowed, and what most of them were.

What counts as a query is said in `pgloupe_rules.tally`. A unit of work is one session's; where statements carry a trace
(`traceparent`, a request id), the units of several sessions with one trace are one, because an application that asks
over several connections of its pool asks as often all the same.

The same page requested a thousand times is one entry: units are gathered by their place (route, controller, action, job, test),
and where no tag names one, by the template that they ran most often. Memory is bounded: entries, templates and units whose
trace may still go on are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from heapq import nlargest
from typing import Any, Final

from pgloupe.report.model import add_tags
from pgloupe_rules.tally import Part, Tally
from pgloupe_rules.types import Template
from pgloupe_rules.unit_of_work import PLACE_TAGS, UnitOfWork

MAX_QUERIES: Final = 20_000
"""The largest budget: longer units of work are cut."""
MAX_PLACES: Final = 500
MAX_TRACES: Final = 256
"""Traces that are kept open for statements of other sessions, the last ones."""
MAX_TEMPLATES: Final = 5
"""Templates shown of a unit of work."""
MOST: Final = 0.8
"""What of the queries the shown templates should make up; fewer templates than `MAX_TEMPLATES` may do."""


class _Unit:
    """The queries of one unit of work."""

    __slots__ = ("calls", "home", "others", "queries", "server_s", "tags")

    def __init__(self, home: int = 0) -> None:
        self.home = home
        self.queries = 0
        self.others = 0
        self.server_s = 0.0
        self.calls: dict[str, tuple[Template, int, float]] = {}
        self.tags: dict[str, list[str]] = {}

    def add(self, part: Part, tags: Mapping[str, list[str]]) -> None:
        self.queries += part.queries
        self.others += part.others
        self.server_s += part.server_s
        for fingerprint, calls in part.calls.items():
            self._add(fingerprint, calls.template, calls.count, calls.server_s)
        add_tags(self.tags, tags)

    def join(self, other: _Unit) -> None:
        self.queries += other.queries
        self.others += other.others
        self.server_s += other.server_s
        for fingerprint, calls in other.calls.items():
            self._add(fingerprint, *calls)
        add_tags(self.tags, other.tags)

    def _add(self, fingerprint: str, template: Template, count: int, server_s: float) -> None:
        _, known, known_s = self.calls.get(fingerprint, (template, 0, 0.0))
        self.calls[fingerprint] = (template, known + count, known_s + server_s)

    def place(self) -> str:
        """What names it from run to run."""
        tags = [f"{name}={'|'.join(sorted(self.tags[name]))}" for name in PLACE_TAGS if name in self.tags]
        if tags:
            return ", ".join(tags)
        fingerprint, _ = max(self.calls.items(), key=lambda item: item[1][1], default=("", None))
        return f"query={fingerprint}"


class _Place:
    """The units of work of one place that were over the budget; `worst` is the one with the most queries."""

    __slots__ = ("occurrences", "tags", "worst")

    def __init__(self, unit: _Unit) -> None:
        self.worst = unit
        self.occurrences = 0
        self.tags: dict[str, list[str]] = {}

    def add(self, unit: _Unit) -> None:
        self.occurrences += 1
        add_tags(self.tags, unit.tags)
        if unit.queries > self.worst.queries:
            self.worst = unit


class Budget:
    """Takes the units of work as they end (`add`), and says which were over `max_queries`."""

    def __init__(self, max_queries: int) -> None:
        self.max_queries = max_queries
        self.units = 0
        """Units of work with a query in them."""
        self._places: dict[str, _Place] = {}
        self._traces: OrderedDict[str, _Unit] = OrderedDict()
        self._homes: OrderedDict[int, _Unit] = OrderedDict()
        self._last_home = 0

    def add(self, unit: UnitOfWork, tally: Tally) -> None:
        """A unit of work ended. Does not raise."""
        parts = {trace: part for trace, part in tally.parts.items() if part.queries}
        if not parts:
            return
        if len(parts) == 1 and "" in parts and parts[""].queries <= self.max_queries:
            self.units += 1
            return
        tags = dict(unit.tags)
        if unit.session.application_name:
            tags.setdefault("application_name", [unit.session.application_name])
        home = 0
        if len(parts) > 1:
            home = self._last_home = self._last_home + 1
        for trace, part in parts.items():
            if trace:
                self._add_trace(trace, part, tags, home)
            else:
                alone = _Unit(home)
                alone.add(part, tags)
                self._settle(alone)

    def _add_trace(self, trace: str, part: Part, tags: Mapping[str, list[str]], home: int) -> None:
        known = self._traces.get(trace)
        if known is None:
            known = self._traces[trace] = _Unit(home)
            if len(self._traces) > MAX_TRACES:
                _, oldest = self._traces.popitem(last=False)
                self._settle(oldest)
        else:
            self._traces.move_to_end(trace)
            known.home = 0
        known.add(part, tags)

    def _settle(self, unit: _Unit) -> None:
        """All that there is of a trace is known. A trace of one query names the statement and no request, so the query
        belongs with what else its unit of work asked."""
        if not unit.home or unit.queries > 1:
            self._close(unit)
            return
        known = self._homes.get(unit.home)
        if known is not None:
            known.join(unit)
            return
        self._homes[unit.home] = unit
        if len(self._homes) > MAX_TRACES:
            self._close(self._homes.popitem(last=False)[1])

    def _close(self, unit: _Unit) -> None:
        self.units += 1
        if unit.queries <= self.max_queries:
            return
        name = unit.place()
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= MAX_PLACES:
                least = min(self._places, key=lambda name: self._places[name].worst.queries)
                if self._places[least].worst.queries >= unit.queries:
                    return
                del self._places[least]
            place = self._places[name] = _Place(unit)
        place.add(unit)

    def to_dict(self) -> dict[str, Any]:
        """The key `budget` of the report, worst place first. Traces that are still open count as ended."""
        while self._traces:
            self._settle(self._traces.popitem(last=False)[1])
        while self._homes:
            self._close(self._homes.popitem(last=False)[1])
        places = sorted(self._places.items(), key=lambda item: (-item[1].worst.queries, item[0]))
        return {
            "max_queries": self.max_queries,
            "units": self.units,
            "over": [_place(name, place) for name, place in places],
        }


def _place(name: str, place: _Place) -> dict[str, Any]:
    worst = place.worst
    return {
        "id": name,
        "queries": worst.queries,
        "other_statements": worst.others,
        "occurrences": place.occurrences,
        "total_ms": round(worst.server_s * 1000.0, 3),
        "tags": {name: list(values) for name, values in place.tags.items()},
        "templates": _most(worst.calls, worst.queries),
    }


def _most(calls: Mapping[str, tuple[Template, int, float]], queries: int) -> list[dict[str, Any]]:
    """The templates that make up most of the queries."""
    out: list[dict[str, Any]] = []
    seen = 0
    for template, count, server_s in nlargest(MAX_TEMPLATES, calls.values(), key=lambda item: item[1]):
        if seen >= MOST * queries or (out and count == 1 < out[0]["count"]):
            break
        seen += count
        out.append(
            {
                "fingerprint": template.fingerprint,
                "template": template.text,
                "count": count,
                "total_ms": round(server_s * 1000.0, 3),
            }
        )
    return out
