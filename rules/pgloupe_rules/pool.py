"""What is kept of the connections of one pool, for `pool_judge` to find the loops that took turns on them.

Nothing is kept until a result of two rows or more comes, what is kept is bounded in number, bytes and time, and it is judged
when the pool falls silent. Where a pool never does and nothing is found, it is looked at ever more seldom.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias, final

from pgloupe_rules.record import ROW_WRITES, Run, is_catalog, result_weight, verb_of
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Outcome, SessionInfo, Status
from pgloupe_rules.words import NO_QUERIES

MAX_POOLS: Final = 1024
MAX_ENTRIES: Final = 512
"""Statements kept of one pool."""
MAX_BYTES: Final = 40 * 1024
"""What they may weigh, roughly, for a pool of one connection, of which others may be on their way; and for each further
one."""
MAX_BYTES_IN_ALL: Final = 256 * 1024
MAX_BURST_S: Final = 5.0
"""How long a pool is watched without a pause."""
MAX_KINDS: Final = 4096
REST: Final = 512
"""Statements that pass unseen after the first time that a busy pool was watched for nothing; twice as many each time."""
MAX_REST: Final = 16_384
GAP_FACTOR: Final = 4.0
"""A pause so many times the idle gap of a session ends the children: connections are made and checked in between."""
CONNECT_S: Final = 1.0
"""A connection that is being made keeps its pool from being silent for so long at most."""
MAX_CONNECTING: Final = 64

_DONE: Final = frozenset({Status.COMPLETE, Status.SUSPENDED})

_NOISE_WEIGHT: Final = 220

PoolKey: TypeAlias = tuple[str, str, str, str]


class Doing(IntEnum):
    """What a statement is to its pool."""

    NOISE = 0
    """What drivers and pools say of their own accord: transactions, settings, `SELECT 1`, system catalogs."""
    READ = 1
    WRITE = 2
    OTHER = 3


def pool_key(info: SessionInfo) -> PoolKey:
    """What the connections of one pool have in common."""
    return (info.database, info.user, info.application_name, info.client.rpartition(":")[0])


@final
class Entry:
    """A statement of a pool and what came back."""

    __slots__ = ("asked_s", "doing", "fingerprint", "finished_s", "kept", "run", "session", "weight")

    def __init__(self, outcome: Outcome, doing: Doing) -> None:
        statement = outcome.statement
        self.doing = doing
        self.session = statement.session.session
        self.fingerprint = statement.template.fingerprint
        self.asked_s = statement.received_s
        self.finished_s = outcome.finished_s
        self.kept: Outcome | None = outcome if doing is not Doing.NOISE else None
        """None for noise."""
        self.run: Run | None = None
        self.weight = result_weight(outcome) if doing is not Doing.NOISE else _NOISE_WEIGHT

    @property
    def outcome(self) -> Outcome:
        """Of what is no noise."""
        assert self.kept is not None
        return self.kept

    def as_run(self) -> Run:
        """The run, its place in the order of statements being the time at which it was asked."""
        if self.run is None:
            self.run = Run(self.outcome, "")
            self.run.sequence = self.asked_s
            self.run.values()
        return self.run


@final
class Pool:
    """What was seen of one pool since a list came back."""

    __slots__ = (
        "_bytes",
        "_connecting",
        "_finished_s",
        "_fruitless",
        "_gap_s",
        "_kinds",
        "_rest",
        "_started_s",
        "entries",
        "sessions",
        "told",
    )

    def __init__(self, gap_s: float, kinds: dict[str, Doing]) -> None:
        self.sessions: set[int] = set()
        self.entries: list[Entry] = []
        self.told: dict[str, int] = {}
        """Fingerprints that a session's own unit of work has reported meanwhile, and with how many runs."""
        self._gap_s = gap_s * GAP_FACTOR
        self._connecting: dict[int, float] = {}
        """Sessions that began since the list and have asked nothing yet, and when they began."""
        self._kinds = kinds
        self._bytes = 0
        self._started_s = 0.0
        self._finished_s = 0.0
        self._rest = 0
        self._fruitless = 0

    def observe(self, outcome: Outcome) -> None:
        """Take an outcome in. Cheap while no list has come."""
        if self._rest:
            self._rest -= 1
            return
        if not self.entries and (outcome.rows < 2 or not outcome.columns):
            return
        if self._connecting:
            self._connected(outcome)
        if outcome.status not in _DONE:
            return
        doing = self._doing(outcome)
        if not self.entries:
            if doing is not Doing.READ:
                return
            self._started_s = outcome.statement.received_s
        entry = Entry(outcome, doing)
        self.entries.append(entry)
        self._bytes += entry.weight
        self._finished_s = max(self._finished_s, outcome.finished_s)

    def connecting(self, info: SessionInfo) -> None:
        """A session begins: the pool makes a connection because it needs one."""
        if self.entries and len(self._connecting) < MAX_CONNECTING and not self.over(info.started_s):
            self._connecting[info.session] = info.started_s

    def _connected(self, outcome: Outcome) -> None:
        statement = outcome.statement
        started_s = self._connecting.pop(statement.session.session, None)
        if started_s is not None and self.entries:
            entry = Entry(outcome, Doing.NOISE)
            entry.fingerprint, entry.asked_s, entry.finished_s = "", started_s, statement.received_s
            self.entries.append(entry)
            self._bytes += entry.weight

    def _doing(self, outcome: Outcome) -> Doing:
        fingerprint = outcome.statement.template.fingerprint
        known = self._kinds.get(fingerprint)
        if known is None:
            known = _judge(outcome)
            if len(self._kinds) >= MAX_KINDS:
                self._kinds.clear()
            self._kinds[fingerprint] = known
        return known

    def over(self, now_s: float) -> bool:
        """Whether the pool has been silent at `now_s` for so long that what was kept can be judged."""
        if not self.entries or now_s - self._finished_s <= self._gap_s:
            return False
        return not any(now_s - started_s <= CONNECT_S for started_s in self._connecting.values())

    def full(self) -> bool:
        """Whether no more can be kept."""
        return bool(self.entries) and (
            len(self.entries) >= MAX_ENTRIES
            or self._bytes > min(MAX_BYTES * max(1, len(self.sessions)), MAX_BYTES_IN_ALL)
            or self._finished_s - self._started_s > MAX_BURST_S
        )

    def reset(self, *, busy: bool, found: bool) -> None:
        """Begin anew. A busy pool that shows nothing is looked at more and more seldom."""
        self.entries = []
        self.told = {}
        self._connecting.clear()
        self._bytes = 0
        self._finished_s = 0.0
        if found or not busy or len(self.sessions) < 2:
            self._fruitless = 0
        else:
            self._rest = min(REST << self._fruitless, MAX_REST)
            self._fruitless = min(self._fruitless + 1, 10)


def _judge(outcome: Outcome) -> Doing:
    verb = verb_of(outcome)
    if verb in NO_QUERIES:
        return Doing.NOISE
    shape = shape_of(outcome.statement.template)
    if verb == "SELECT":
        if (shape.parsed and not shape.tables) or is_catalog(shape.tables):
            return Doing.NOISE
        return Doing.READ if shape.read_only or not shape.parsed else Doing.OTHER
    return Doing.WRITE if verb in ROW_WRITES else Doing.OTHER
