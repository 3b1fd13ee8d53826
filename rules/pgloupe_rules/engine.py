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
from pgloupe_rules.n_plus_one import NPlusOne
from pgloupe_rules.redundant import RedundantQuery
from pgloupe_rules.slow import SlowQuery
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


def default_rules(settings: Settings) -> list[Rule]:
    """The rules of this package as the settings have them, the most specific first."""
    rules: list[Rule] = [
        NPlusOne(settings.threshold),
        WriteLoop(settings.threshold),
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

    __slots__ = ("states", "unit")

    def __init__(self, session: SessionInfo, idle_gap_s: float) -> None:
        self.unit = UnitOfWork(session, idle_gap_s)
        self.states: list[Any] = []


@final
class Engine:
    """The rules over all sessions. Not thread-safe; no method raises because of a rule or of what a client sent."""

    def __init__(
        self,
        settings: Settings,
        *,
        decide_rules: Sequence[DecideRule] = (),
        on_failure: Callable[[str, Exception], None] | None = None,
        rules: Sequence[Rule] | None = None,
    ) -> None:
        """`rules` are those that observe, by default all of this package. `on_failure` is told the name of a rule and
        its exception, the first time that the rule raises."""
        self._settings = settings
        self._decide_rules = tuple(decide_rules)
        self._rules: tuple[Rule, ...] = tuple(default_rules(settings) if rules is None else rules)
        self._on_failure = on_failure
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
        if unit.begins(statement):
            findings = self._close_unit(session)
        if not session.states:
            self._start(session)
        unit.add(outcome)
        states = session.states
        for position, rule in enumerate(self._rules):
            state = states[position]
            if state is _FAILED:
                continue
            try:
                rule.observe(state, outcome)
            except Exception as error:  # a rule must never reach the client
                states[position] = _FAILED
                self._failed(rule.name, error)
        if unit.ends(outcome):
            findings.extend(self._close_unit(session))
        return findings

    def end_session(self, session: SessionInfo) -> list[Finding]:
        """The session is over: the findings of its last unit of work."""
        ended = self._sessions.pop(session.session, None)
        return [] if ended is None else self._close_unit(ended)

    def tick(self, now_s: float) -> list[Finding]:
        """Close the units of work that have been idle for longer than the gap at `now_s`, on the clock of the
        statements. To be called about once a second; without it findings come with the session's next statement."""
        findings: list[Finding] = []
        for session in self._sessions.values():
            if session.unit.idle(now_s):
                findings.extend(self._close_unit(session))
        return findings

    def close(self) -> list[Finding]:
        """The end of everything: the findings of all units of work still open."""
        findings: list[Finding] = []
        for session in self._sessions.values():
            findings.extend(self._close_unit(session))
        self._sessions.clear()
        return findings

    def _start(self, session: _Session) -> None:
        for rule in self._rules:
            try:
                session.states.append(rule.start())
            except Exception as error:  # a rule must never reach the client
                session.states.append(_FAILED)
                self._failed(rule.name, error)

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
                        if finding.fingerprint in named:
                            continue
                        named.add(finding.fingerprint)
                    self._complete(finding, unit)
                    findings.append(finding)
            except Exception as error:  # a rule must never reach the client
                self._failed(rule.name, error)
        session.states = []
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
            finding.advice = advise(finding)

    def _failed(self, name: str, error: Exception) -> None:
        count = self.failures.get(name, 0)
        self.failures[name] = count + 1
        if count == 0 and self._on_failure is not None:
            self._on_failure(name, error)
