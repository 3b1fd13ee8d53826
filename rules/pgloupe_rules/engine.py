"""Runs the rules: asks before a statement is sent, watches what became of it, and keeps the rules' failures away from
the client.

Sessions are independent. Each has one unit of work at a time (see `unit_of_work`), and each rule one state for that
unit. A rule that raises is left out for the rest of the unit, counted in `failures`, and reported once.

One phenomenon gives one finding: where two rules name the same template in one unit of work, the rule that stands
earlier in the list is heard. `slow_query` says something else, so it is never silenced by another nor silences one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from pgloupe_rules.advice import advise
from pgloupe_rules.catalog import FIRST_USER_OID, Catalogs
from pgloupe_rules.n_plus_one import NPlusOne
from pgloupe_rules.pool import MAX_POOLS, Doing, Pool, PoolKey, pool_key
from pgloupe_rules.pool_judge import PoolJudge
from pgloupe_rules.record import Record
from pgloupe_rules.redundant import RedundantQuery
from pgloupe_rules.slow import SlowQuery
from pgloupe_rules.tally import Tally
from pgloupe_rules.types import FORWARD, Decision, Finding, Forward, Outcome, Rule, SessionInfo, Statement
from pgloupe_rules.unit_of_work import UnitOfWork
from pgloupe_rules.write_loop import WriteLoop

IDLE_GAP_S: Final = 0.03
"""Silence outside of a transaction that ends a unit of work. A loop's turn in the application takes far less, the time
between two requests on a quiet connection far more; on a loaded connection nothing tells them apart, and the rules'
other evidence has to."""

_INDEPENDENT: Final = frozenset({"slow_query"})


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user may set."""

    threshold: int = 5
    """Repeats within one unit of work that make a finding where value flow does not prove it earlier. At least 2."""
    slow_ms: float | None = None
    """A statement that takes longer is a finding, in milliseconds of server time. None: the rule is off."""
    idle_gap_s: float = IDLE_GAP_S
    """Silence outside of a transaction that ends a unit of work, in seconds; it adapts to the session, up to four
    times as long."""

    def __post_init__(self) -> None:
        if self.threshold < 2:
            raise ValueError(f"threshold must be at least 2, not {self.threshold}")
        if self.slow_ms is not None and not self.slow_ms >= 0:
            raise ValueError(f"slow_ms must not be negative, not {self.slow_ms}")
        if not self.idle_gap_s > 0:
            raise ValueError(f"idle_gap_s must be positive, not {self.idle_gap_s}")


class DecideRule(Protocol):
    """A rule that is asked before a statement is sent."""

    name: str

    def decide(self, statement: Statement) -> Decision:
        """What to do with the statement; `FORWARD` where the rule has no opinion. Quick: the client waits."""
        ...


def default_rules(settings: Settings, catalogs: Catalogs | None = None) -> list[Rule]:
    """The rules of this package as the settings have them, the most specific first."""
    rules: list[Rule] = [
        NPlusOne(settings.threshold, catalogs),
        WriteLoop(settings.threshold, catalogs),
        RedundantQuery(settings.threshold),
    ]
    if settings.slow_ms is not None:
        rules.append(SlowQuery(settings.slow_ms))
    return rules


@final
class _Failed:
    """Stands for the state of a rule that raised."""


_FAILED: Final = _Failed()


@final
class _Session:
    """One session's unit of work and the rules' states for it."""

    __slots__ = ("application_name", "asked", "claimed", "pool", "record", "states", "tally", "unit")

    def __init__(self, session: SessionInfo, idle_gap_s: float) -> None:
        self.unit = UnitOfWork(session, idle_gap_s)
        self.states: list[Any] = []
        self.record: Record | None = None
        """What the rules of this package share; None where none of them runs or recording failed."""
        self.pool: Pool | None = None
        self.application_name: str | None = None
        """The one that the pool was chosen by."""
        self.claimed: set[str] = set()
        """Fingerprints of the loops in this unit of work that were reported of its pool."""
        self.asked = False
        """The catalogs of its database have been asked for."""
        self.tally: Tally | None = None


@final
class Engine:
    """The rules over all sessions. Not thread-safe; no method raises because of a rule or of what a client sent."""

    def __init__(
        self,
        settings: Settings,
        *,
        decide_rules: Sequence[DecideRule] = (),
        on_failure: Callable[[str, Exception], None] | None = None,
        on_unit: Callable[[UnitOfWork, Tally], None] | None = None,
        rules: Sequence[Rule] | None = None,
        catalogs: Catalogs | None = None,
    ) -> None:
        """`rules` are those that observe, by default all of this package. `on_failure` is told the name of a rule and
        its exception, the first time that the rule raises. `on_unit` gets each unit of work that ends with the queries
        in it; nothing is counted without it. It must not raise, and keep nothing of the unit itself. `catalogs` are those of
        the server's databases, as far as somebody reads them."""
        self._settings = settings
        self._decide_rules = tuple(decide_rules)
        self._catalogs = catalogs or Catalogs()
        self._rules: tuple[Rule, ...] = tuple(default_rules(settings, self._catalogs) if rules is None else rules)
        self._sharing = tuple(isinstance(rule, (NPlusOne, WriteLoop, RedundantQuery)) for rule in self._rules)
        self._on_failure = on_failure
        self._on_unit = on_unit
        self._judged: dict[str, bool] = {}
        self._pooling = any(isinstance(rule, NPlusOne) for rule in self._rules)
        self._pools: dict[PoolKey, Pool] = {}
        self._pool_kinds: dict[str, Doing] = {}
        self._pool_judge = PoolJudge(settings.threshold, settings.idle_gap_s, self._catalogs)
        self._sessions: dict[int, _Session] = {}
        self.failures: dict[str, int] = {}
        """How often each rule raised, by its name; a rule that never did is absent."""

    def decide(self, statement: Statement) -> Decision:
        """What the first rule with an opinion says; `FORWARD` where none has one."""
        for rule in self._decide_rules:
            try:
                decision = rule.decide(statement)
            except Exception as error:  # a rule must never reach the client
                self._failed(rule.name, error)
                continue
            if not isinstance(decision, Forward):
                return decision
        return FORWARD

    def start_session(self, info: SessionInfo) -> None:
        """A session begins. Not needed for those that are told of by their first outcome; but that a pool makes a
        connection explains a pause between the statements on its other ones."""
        if info.session not in self._sessions:
            session = self._sessions[info.session] = _Session(info, self._settings.idle_gap_s)
            self._join_pool(session).connecting(info)

    def observe(self, outcome: Outcome) -> list[Finding]:
        """Take what became of a statement. Outcomes of one session come in order. Gives the findings of the units of
        work that it closed, mostly none."""
        statement = outcome.statement
        number = statement.session.session
        session = self._sessions.get(number)
        if session is None:
            session = self._sessions[number] = _Session(statement.session, self._settings.idle_gap_s)
        unit = session.unit
        findings: list[Finding] = []
        pool = session.pool
        if pool is None or session.application_name is not statement.session.application_name:
            pool = self._join_pool(session)
        if pool.entries and pool.over(statement.received_s):
            findings = self._close_pool(pool, busy=False)
        if unit.begins(statement) or (
            session.record is not None and session.record.crowded and unit.opens_transaction(statement)
        ):
            findings.extend(self._close_unit(session))
        if not session.states:
            self._start(session)
        unit.add(outcome)
        if self._on_unit is not None:
            if session.tally is None:
                session.tally = Tally(self._judged)
            session.tally.observe(outcome)
        states = session.states
        if self._pooling:
            pool.observe(outcome)
            if pool.full():
                findings.extend(self._close_pool(pool, busy=True))
        if session.record is not None:
            try:
                session.record.observe(outcome)
            except Exception as error:  # a rule must never reach the client
                self._record_failed(session, error)
            if not session.asked and outcome.rows > 1:
                self._ask_for_catalog(session, outcome)
        for position, rule in enumerate(self._rules):
            state = states[position]
            if state is _FAILED or self._sharing[position]:
                continue
            try:
                rule.observe(state, outcome)
            except Exception as error:  # a rule must never reach the client
                states[position] = _FAILED
                self._failed(rule.name, error)
        if unit.undone and session.record is not None:
            session.record.undo(statement.transaction)
        if unit.ends(outcome):
            findings.extend(self._close_unit(session))
        return findings

    def end_session(self, session: SessionInfo) -> list[Finding]:
        """The session is over: the findings of its last unit of work."""
        ended = self._sessions.get(session.session)
        if ended is None:
            return []
        findings: list[Finding] = []
        pool = ended.pool
        if pool is not None and any(entry.session == session.session for entry in pool.entries):
            findings = self._close_pool(pool, busy=False)
        findings.extend(self._close_unit(ended))
        del self._sessions[session.session]
        self._leave_pool(session.session, pool)
        return findings

    def tick(self, now_s: float) -> list[Finding]:
        """Close the units of work that have been idle for longer than the gap at `now_s`, on the clock of the
        statements. To be called about once a second; without it findings come with the session's next statement."""
        findings: list[Finding] = []
        for pool in self._pools.values():
            if pool.over(now_s):
                findings.extend(self._close_pool(pool, busy=False))
        for session in self._sessions.values():
            if session.unit.idle(now_s):
                findings.extend(self._close_unit(session))
        return findings

    def close(self) -> list[Finding]:
        """The end of everything: the findings of all units of work still open."""
        findings: list[Finding] = []
        for pool in self._pools.values():
            findings.extend(self._close_pool(pool, busy=False))
        for session in self._sessions.values():
            findings.extend(self._close_unit(session))
        self._sessions.clear()
        self._pools.clear()
        return findings

    def _start(self, session: _Session) -> None:
        if any(self._sharing):
            session.record = Record(session.unit.session.database)
        for position, rule in enumerate(self._rules):
            try:
                session.states.append(session.record if self._sharing[position] else rule.start())
            except Exception as error:  # a rule must never reach the client
                session.states.append(_FAILED)
                self._failed(rule.name, error)

    # --- pools ---

    def _join_pool(self, session: _Session) -> Pool:
        info = session.unit.session
        self._leave_pool(info.session, session.pool)
        key = pool_key(info)
        pool = self._pools.get(key)
        if pool is None:
            pool = Pool(self._settings.idle_gap_s, self._pool_kinds)
            if len(self._pools) < MAX_POOLS:
                self._pools[key] = pool
        pool.sessions.add(info.session)
        session.pool = pool
        session.application_name = info.application_name
        return pool

    def _leave_pool(self, number: int, pool: Pool | None) -> None:
        if pool is None:
            return
        pool.sessions.discard(number)
        if not pool.sessions and not pool.entries:
            for key in [key for key, known in self._pools.items() if known is pool]:
                del self._pools[key]

    def _close_pool(self, pool: Pool, *, busy: bool) -> list[Finding]:
        """Judge what was kept of a pool. The sessions that took part do not report the same loops again."""
        findings: list[Finding] = []
        try:
            for finding, sessions in self._pool_judge.judge(pool):
                for number in sessions:
                    session = self._sessions.get(number)
                    if session is not None:
                        session.claimed.add(finding.fingerprint)
                owner = self._sessions.get(finding.session)
                name = owner.unit.session.application_name if owner is not None else ""
                if name:
                    finding.tags.setdefault("application_name", [name])
                catalog = self._catalogs.of(owner.unit.session.database) if owner is not None else None
                finding.advice = advise(finding, catalog)
                findings.append(finding)
        except Exception as error:  # a rule must never reach the client
            self._failed("pool", error)
        pool.reset(busy=busy, found=bool(findings))
        return findings

    def _record_failed(self, session: _Session, error: Exception) -> None:
        session.record = None
        for position, rule in enumerate(self._rules):
            if self._sharing[position]:
                session.states[position] = _FAILED
                self._failed(rule.name, error)

    def _ask_for_catalog(self, session: _Session, outcome: Outcome) -> None:
        """The first rows of a table of the application: from now on its catalogs are worth having."""
        for column in outcome.columns:
            if column.table_oid >= FIRST_USER_OID:
                session.asked = True
                catalog = self._catalogs.of(session.unit.session.database)
                if catalog is None or column.table_oid not in catalog.tables:
                    self._catalogs.want(session.unit.session.database)
                return

    def _close_unit(self, session: _Session) -> list[Finding]:
        unit, states = session.unit, session.states
        findings: list[Finding] = []
        named: set[str] = set()
        for rule, state in zip(self._rules, states, strict=False):
            if state is _FAILED:
                continue
            try:
                found = rule.close(state)
                for finding in found:
                    if rule.name not in _INDEPENDENT:
                        if finding.fingerprint in named or finding.fingerprint in session.claimed:
                            continue
                        named.add(finding.fingerprint)
                        if session.pool is not None and session.pool.entries:
                            told = session.pool.told
                            told[finding.fingerprint] = max(told.get(finding.fingerprint, 0), finding.count)
                    self._complete(finding, unit)
                    findings.append(finding)
            except Exception as error:  # a rule must never reach the client
                self._failed(rule.name, error)
        if session.record is not None and session.record.definitions:
            session.asked = False
            self._catalogs.want(session.unit.session.database)
        session.states = []
        session.record = None
        session.claimed.clear()
        if self._on_unit is not None and session.tally is not None:
            self._on_unit(unit, session.tally)
            session.tally = None
        unit.reset()
        return findings

    def _complete(self, finding: Finding, unit: UnitOfWork) -> None:
        """Add what the engine knows: who, with which tags, and what to write instead."""
        finding.session = unit.session.session
        for name, values in unit.tags.items():
            finding.tags.setdefault(name, list(values))
        if unit.session.application_name:
            finding.tags.setdefault("application_name", [unit.session.application_name])
        if finding.advice is None:
            finding.advice = advise(finding, self._catalogs.of(unit.session.database))

    def _failed(self, name: str, error: Exception) -> None:
        count = self.failures.get(name, 0)
        self.failures[name] = count + 1
        if count == 0 and self._on_failure is not None:
            self._on_failure(name, error)
