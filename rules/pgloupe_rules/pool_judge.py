"""N+1 over several connections: one request whose queries take turns on the connections of a pool, or run on all at once.

No connection alone shows it: the list comes back on one, the look-ups go out on others. Clients that happen to look up their
own things at the same time show nearly the same, so sessions are taken together only on strong evidence:

- their statements carry one trace id or request id (`traceparent` and the like): then they are one unit of work; or
- they belong to one pool, as far as the wire tells (database, user, application_name and host of the client), and the
  look-ups begin as soon as the list is there and go on without a pause; every look-up of the template in that time is for a
  value of the list, each value once, and (nearly) all values are asked for; no look-up follows something else that its
  connection asked since, as the look-ups of a request follow those of its user; no other statement runs as often meanwhile;
  no look-up has a list of its own; and connections are used again, or several at a time.

One connection alone is judged so where it fell silent between the list and the last look-up, outside of a transaction, for
longer than a unit of work lasts: a whole list followed row by row in its order is one loop, however slow its turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

from pgloupe_rules.catalog import Catalog, Catalogs, Relation
from pgloupe_rules.n_plus_one import child_of, foreign_key_of, parent_of
from pgloupe_rules.pool import GAP_FACTOR, Doing, Entry, Pool
from pgloupe_rules.record import sample_of
from pgloupe_rules.sent import sent_by
from pgloupe_rules.shape import shape_of
from pgloupe_rules.sources import Source, is_rare, is_trivial
from pgloupe_rules.tags import trace_id
from pgloupe_rules.types import Confidence, Finding, Severity, Shape
from pgloupe_rules.unit_of_work import STATEMENT_TAGS, place_of
from pgloupe_rules.value_flow import (
    FLOW_LEAST,
    MAX_PLACEHOLDERS,
    MOST,
    Budget,
    Flow,
    Key,
    Mode,
    convincing,
    equality_columns,
    flows_into,
    from_lists,
    key_of,
    one_key_runs,
    varying,
)

MAX_LISTS: Final = 24
"""Results of one pool that are tried as parents, the last ones."""
MAX_COMPARISONS: Final = 40_000
MAX_LEVELS: Final = 3
MAX_TRACES: Final = 64
MAX_TAGS: Final = 8


@final
class Group:
    """The runs of one template in one pool."""

    __slots__ = ("columns", "entries", "keys", "placeholders", "shape")

    def __init__(self, entries: list[Entry], shape: Shape, columns: dict[int, str], placeholders: list[int]) -> None:
        self.entries = entries
        self.shape = shape
        self.columns = columns
        self.placeholders = placeholders
        self.keys: dict[int, Key] = {}

    @property
    def fingerprint(self) -> str:
        return self.entries[0].fingerprint


@final
class Loop:
    """A group that a list explains."""

    __slots__ = ("entries", "flow", "group", "parents")

    def __init__(self, group: Group, entries: list[Entry], parents: list[Entry], flow: Flow) -> None:
        self.group = group
        self.entries = entries
        self.parents = parents
        self.flow = flow


@final
class PoolJudge:
    """Finds the loops in what was kept of a pool."""

    __slots__ = ("_catalogs", "_gap_s", "_idle_gap_s", "_threshold")

    def __init__(self, threshold: int, gap_s: float, catalogs: Catalogs) -> None:
        self._threshold = threshold
        self._idle_gap_s = gap_s
        self._gap_s = gap_s * GAP_FACTOR
        self._catalogs = catalogs

    def judge(self, pool: Pool) -> list[tuple[Finding, set[int]]]:
        """The findings, each with the sessions that took part."""
        entries = sorted(pool.entries, key=lambda entry: entry.asked_s)
        budget = Budget(MAX_COMPARISONS)
        loops: list[Loop] = []
        plain: list[Entry] = []
        traced: dict[str, list[Entry]] = {}
        for entry in entries:
            trace = trace_id(entry.kept.statement.tags) if entry.kept is not None else ""
            if trace:
                traced.setdefault(trace, []).append(entry)
            else:
                plain.append(entry)
        for trace in list(traced)[:MAX_TRACES]:
            loops += self._traced(traced[trace], budget)
        loops += self._timed(plain, budget)
        return [
            (self._finding(loop), {entry.session for entry in [*loop.entries, *loop.parents]})
            for loop in loops
            if pool.told.get(loop.group.fingerprint, 0) < len(loop.entries)
        ]

    # --- one trace ---

    def _traced(self, entries: list[Entry], budget: Budget) -> list[Loop]:
        """All of one request, by its tags: the rules of one session hold over several."""
        if len({entry.session for entry in entries}) < 2:
            return []
        groups = self._groups(entries, FLOW_LEAST)
        loops: dict[str, Loop] = {}
        for _ in range(MAX_LEVELS):
            before = len(loops)
            for group in groups:
                if group.fingerprint in loops:
                    continue
                best: Loop | None = None
                for parents in _sources(entries, group, loops):
                    source = _source(parents)
                    for flow in self._flows(group, group.entries, source, budget):
                        if (
                            flow.better(best.flow if best is not None else None)
                            and convincing(flow, Mode.AUTOCOMMIT, self._threshold)
                            and (parents[0].fingerprint in loops or from_lists(flow))
                        ):
                            taken = set(flow.runs)
                            mine = [entry for entry in group.entries if entry.as_run() in taken]
                            best = Loop(group, mine, parents, flow)
                if best is not None and len({entry.session for entry in [*best.entries, *best.parents]}) > 1:
                    loops[group.fingerprint] = best
            if len(loops) == before:
                break
        return list(loops.values())

    # --- one pool, by time ---

    def _timed(self, entries: list[Entry], budget: Budget) -> list[Loop]:
        groups = self._groups(entries, FLOW_LEAST)
        if not groups:
            return []
        lists = [entry for entry in entries if entry.doing is Doing.READ and entry.outcome.rows > 1]
        consumed: set[int] = set()
        found: list[Loop] = []
        for parent in sorted(lists[-MAX_LISTS:], key=lambda entry: entry.finished_s):
            if budget.left <= 0:
                break
            loops = self._behind(parent, entries, groups, lists, consumed, budget)
            if loops:
                consumed.add(id(parent))
                found += loops
        return _best_of_each(found)

    def _behind(
        self,
        parent: Entry,
        entries: list[Entry],
        groups: list[Group],
        lists: list[Entry],
        consumed: set[int],
        budget: Budget,
    ) -> list[Loop]:
        """The loops over the rows of one list."""
        loops: dict[str, Loop] = {}
        for group in groups:
            if group.fingerprint != parent.fingerprint:
                loop = self._loop(group, [parent], parent, entries, budget)
                if loop is not None and not _own_lists(loop, parent, lists, consumed):
                    loops[group.fingerprint] = loop
        if not loops:
            return []
        for _ in range(MAX_LEVELS - 1):
            before = len(loops)
            for group in groups:
                if group.fingerprint in loops or group.fingerprint == parent.fingerprint:
                    continue
                for level in list(loops.values()):
                    loop = self._loop(group, level.entries, parent, entries, budget)
                    if loop is not None:
                        loops[group.fingerprint] = loop
                        break
            if len(loops) == before:
                break
        while True:
            doubtful = [name for name, loop in loops.items() if not _begins_by_itself(loop, parent, entries, loops)]
            if not doubtful:
                break
            for name in doubtful:
                del loops[name]
        if not loops or self._crowded(parent, entries, loops):
            return []
        return [loop for loop in loops.values() if _shared_connections(loop) and self._apart_or_long(loop, parent)]

    def _apart_or_long(self, loop: Loop, parent: Entry) -> bool:
        """Over several connections; or on one, and its own unit of work was cut by a pause: then it takes a whole loop."""
        if len({parent.session} | {entry.session for entry in loop.entries}) > 1:
            return True
        if len(loop.entries) < self._threshold or loop.flow.order < 1.0 or loop.flow.followed < 1.0:
            return False
        paused = False
        finished_s = parent.finished_s
        for entry in loop.entries:
            statement = entry.outcome.statement
            if statement.transaction or not statement.serial:
                return False
            paused = paused or entry.asked_s - finished_s > self._idle_gap_s
            finished_s = entry.finished_s
        return paused

    def _loop(
        self, group: Group, parents: list[Entry], first: Entry, entries: list[Entry], budget: Budget
    ) -> Loop | None:
        """The runs of the group that follow `first` without a pause, if the rows of `parents` explain every one."""
        mine = self._window(group, first, entries)
        least = FLOW_LEAST if group.entries[0].doing is Doing.READ else self._threshold
        if len(mine) < least:
            return None
        if sum(1 for entry in mine if entry.outcome.statement.serial) * 2 < len(mine):
            return None  # sent in batches: no loop that waits
        place = place_of(first.outcome.statement.tags)
        if any(place_of(entry.outcome.statement.tags) != place for entry in mine):
            return None
        best: Flow | None = None
        for flow in self._flows(group, mine, _source(parents), budget):
            if len(flow.runs) == len(mine) and self._strong(flow) and flow.better(best):
                best = flow
        return Loop(group, mine, parents, best) if best is not None else None

    def _window(self, group: Group, first: Entry, entries: list[Entry]) -> list[Entry]:
        mine: list[Entry] = []
        horizon = first.finished_s + self._gap_s
        for entry in entries:
            if entry.asked_s < first.finished_s:
                continue
            if entry.asked_s > horizon:
                break
            if entry.fingerprint == group.fingerprint:
                mine.append(entry)
            elif entry.fingerprint == first.fingerprint:
                break
            horizon = max(horizon, entry.finished_s + self._gap_s)
        return mine

    def _strong(self, flow: Flow) -> bool:
        """Whether values flowed so clearly that no other request can be behind it: each once, nearly all, and no values that
        everyone meets."""
        values = flow.values()
        counts: dict[object, int] = {}
        for value in values:
            counts[value] = counts.get(value, 0) + 1
        if any(count > len(flow.column.places[value]) for value, count in counts.items()):
            return False
        fitting = flow.relation is Relation.LINKED or flow.affinity == 2
        rare = sum(1 for value in values if is_rare(value)) * 2 > len(values)
        if flow.relation is Relation.APART and not rare:
            return False
        if flow.distinct < FLOW_LEAST or flow.followed < MOST:
            return False
        commonplace = sum(1 for value in values if is_trivial(value)) * 2 > len(values)
        if commonplace or len(values) < self._threshold:
            # which of several connections is ready first is chance, and so is the order then
            return flow.followed >= 1.0 and (fitting or (flow.column.unique and not commonplace and flow.order >= MOST))
        return fitting or flow.order >= 0.5

    def _crowded(self, parent: Entry, entries: list[Entry], loops: dict[str, Loop]) -> bool:
        """Whether something that the list does not explain ran about as often meanwhile: requests of their own."""
        last = max(entry.asked_s for loop in loops.values() for entry in loop.entries)
        most = max(len(loop.entries) for loop in loops.values())
        counts: dict[str, int] = {}
        for entry in entries:
            if (
                parent.finished_s <= entry.asked_s <= last
                and entry.doing is not Doing.NOISE
                and entry.fingerprint not in loops
            ):
                counts[entry.fingerprint] = counts.get(entry.fingerprint, 0) + 1
        return any(count * 2 >= most for count in counts.values())

    # --- parts ---

    def _groups(self, entries: list[Entry], least: int) -> list[Group]:
        """The templates that ran so often with a key that varies, one key at a time."""
        by_template: dict[str, list[Entry]] = {}
        for entry in entries:
            if entry.doing in (Doing.READ, Doing.WRITE):
                by_template.setdefault(entry.fingerprint, []).append(entry)
        groups: list[Group] = []
        for runs in by_template.values():
            if len(runs) < least:
                continue
            template = runs[0].outcome.statement.template
            shape = shape_of(template)
            columns = equality_columns(shape, template)
            if not columns and runs[0].doing is Doing.WRITE and not runs[0].outcome.columns:
                columns = dict.fromkeys(range(1, template.placeholders + 1), "")
            singles = [run.as_run() for run in runs]
            if len(one_key_runs(singles, list(columns))) < len(singles):
                continue
            placeholders = [number for number in columns if varying(singles, number)][:MAX_PLACEHOLDERS]
            if not placeholders:
                continue
            group = Group(runs, shape, columns, placeholders)
            catalog = self._catalog(runs[0])
            own = _source(runs) if catalog is not None else None
            for number in placeholders:
                group.keys[number] = key_of(shape, number, columns[number], catalog, own)
            groups.append(group)
        return groups

    def _catalog(self, entry: Entry) -> Catalog | None:
        return self._catalogs.of(entry.outcome.statement.session.database)

    def _flows(self, group: Group, entries: list[Entry], source: Source, budget: Budget) -> list[Flow]:
        runs = [entry.as_run() for entry in entries]
        found: list[Flow] = []
        for number in group.placeholders:
            if varying(runs, number):
                found += flows_into(runs, number, source, group.keys[number], budget)
        return found

    def _finding(self, loop: Loop) -> Finding:
        flow = loop.flow
        entries = loop.entries
        template = entries[0].outcome.statement.template
        key = flow.key
        catalog = key.catalog if key is not None else None
        parent = parent_of(flow.source.template, flow.column.name, flow.rows(), catalog, flow.column.place)
        write = entries[0].doing is Doing.WRITE
        form = entries[0].outcome.statement.recognised.bare
        return Finding(
            rule="n_plus_one_write" if write else "n_plus_one",
            severity=Severity.WARNING,
            confidence=Confidence.PROVEN,
            fingerprint=template.fingerprint,
            template=template.text,
            tables=loop.group.shape.tables,
            count=len(entries),
            distinct_params=flow.distinct,
            total_ms=sum(entry.outcome.server_s for entry in entries) * 1000.0,
            avoidable_round_trips=len(entries) - 1,
            parent=parent,
            child=child_of(flow.placeholder, loop.group.keys[flow.placeholder], template, flow.runs),
            tags=_tags([loop.parents[0], *entries]),
            samples=[sample_of(entry.outcome.statement) for entry in entries[:3]],
            session=loop.parents[0].session,
            foreign_key=foreign_key_of(flow),
            sent=None if write else sent_by(template, form, flow.runs, flow.placeholder, len(entries), flow),
        )


def _tags(entries: Sequence[Entry]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        for name, value in entry.outcome.statement.tags.items():
            if name not in STATEMENT_TAGS and (name in found or len(found) < MAX_TAGS):
                values = found.setdefault(name, [])
                if value not in values and len(values) < MAX_TAGS:
                    values.append(value)
    return found


def _source(entries: Sequence[Entry]) -> Source:
    source = Source(entries[0].outcome.statement.template)
    for entry in sorted(entries, key=lambda entry: entry.finished_s):
        source.add(entry.outcome, entry.finished_s)
    return source


def _sources(entries: list[Entry], group: Group, loops: dict[str, Loop]) -> list[list[Entry]]:
    """What may be the parent within a trace: each template's results of several rows, and the children found so far."""
    by_template: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.doing is Doing.READ and entry.outcome.rows and entry.fingerprint != group.fingerprint:
            by_template.setdefault(entry.fingerprint, []).append(entry)
    return [
        found for name, found in by_template.items() if name in loops or any(entry.outcome.rows > 1 for entry in found)
    ]


def _own_lists(loop: Loop, parent: Entry, lists: list[Entry], consumed: set[int]) -> bool:
    """Whether the sessions of the runs have had lists of the same template themselves: each may follow its own."""
    sessions = {entry.session for entry in loop.entries}
    last = loop.entries[-1].asked_s
    return any(
        other is not parent
        and other.fingerprint == parent.fingerprint
        and other.session in sessions
        and other.finished_s <= last
        and id(other) not in consumed
        for other in lists
    )


def _begins_by_itself(loop: Loop, parent: Entry, entries: list[Entry], loops: dict[str, Loop]) -> bool:
    """Whether no run follows something else that its connection asked since the list was there, as the look-ups of
    another request would follow those of its user."""
    before: dict[int, Entry] = {}
    mine = {id(entry) for entry in loop.entries}
    for entry in entries:
        if entry.asked_s < parent.finished_s:
            continue
        if id(entry) in mine:
            previous = before.get(entry.session)
            if previous is not None and previous.fingerprint not in loops:
                return False
        if entry.doing is not Doing.NOISE:
            before[entry.session] = entry
    return True


def _shared_connections(loop: Loop) -> bool:
    """Whether connections took turns or were used at the same time: a connection each, one after another, is how clients
    look that have one each."""
    if len({entry.session for entry in loop.entries}) < len(loop.entries):
        return True
    overlapping = 0
    finished_s = 0.0
    for entry in loop.entries:
        if entry.asked_s < finished_s:
            overlapping += 1
        finished_s = max(finished_s, entry.finished_s)
    return overlapping * 2 >= len(loop.entries)


def _best_of_each(loops: list[Loop]) -> list[Loop]:
    """Of two explanations of the same runs the better one."""
    kept: list[Loop] = []
    for loop in sorted(loops, key=lambda loop: loop.flow.weight(), reverse=True):
        mine = {id(entry) for entry in loop.entries}
        taken = any(
            other.group is loop.group and not mine.isdisjoint(id(entry) for entry in other.entries) for other in kept
        )
        if not taken:
            kept.append(loop)
    return kept
