"""The engine: rules are asked in order, sessions stay apart, and a rule that fails reaches nobody."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.record import MAX_RESULT_BYTES, MAX_RUNS, MAX_TEMPLATES, Record, result_weight
from pgloupe_rules.types import (
    FORWARD,
    Cacheable,
    Decision,
    Finding,
    Outcome,
    SessionInfo,
    Statement,
)
from support.traces import Player

DOCTORS = [55, 91, 43, 77, 62, 88]


def statement(sql: str = "SELECT a FROM t WHERE id = 1") -> Statement:
    return Statement(SessionInfo(1), 1, recognise(sql)[0], sql)


class Says:
    def __init__(self, name: str, decision: Decision) -> None:
        self.name = name
        self.decision = decision
        self.asked = 0

    def decide(self, statement: Statement) -> Decision:
        self.asked += 1
        return self.decision


class Raises:
    name = "broken"

    def decide(self, statement: Statement) -> Decision:
        raise ZeroDivisionError


class Broken:
    """A rule that raises where it is told to."""

    name = "broken"

    def __init__(self, where: str) -> None:
        self.where = where
        self.observed = 0

    def start(self) -> object:
        if self.where == "start":
            raise ZeroDivisionError
        return object()

    def observe(self, state: Any, outcome: Outcome) -> None:
        self.observed += 1
        if self.where == "observe":
            raise ZeroDivisionError

    def close(self, state: Any) -> list[Finding]:
        if self.where == "close":
            raise ZeroDivisionError
        return []


def loop(player: Player, session: int = 1) -> None:
    player.run(
        "SELECT id, doctor_id FROM visit ORDER BY id",
        [],
        {"id": [701, 704, 709, 710, 722, 731], "doctor_id": DOCTORS},
        session=session,
    )
    for doctor in DOCTORS:
        player.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]}, session=session)


def test_without_a_rule_that_decides_the_statement_is_forwarded() -> None:
    assert Engine(Settings()).decide(statement()) is FORWARD


def test_the_first_rule_with_an_opinion_wins_and_later_ones_are_not_asked() -> None:
    silent = Says("silent", FORWARD)
    cache = Says("cache", Cacheable("c", 1.0, ("t",)))
    later = Says("later", Cacheable("later", 1.0, ("t",)))
    assert Engine(Settings(), decide_rules=[silent, cache, later]).decide(statement()) == Cacheable("c", 1.0, ("t",))
    assert (silent.asked, cache.asked, later.asked) == (1, 1, 0)


def test_a_decide_rule_that_raises_is_passed_over_counted_and_reported_once() -> None:
    told: list[tuple[str, Exception]] = []
    engine = Engine(
        Settings(),
        decide_rules=[Raises(), Says("cache", Cacheable("c", 1.0, ()))],
        on_failure=lambda name, error: told.append((name, error)),
    )
    for _ in range(3):
        assert engine.decide(statement()) == Cacheable("c", 1.0, ())
    assert engine.failures == {"broken": 3}
    assert [name for name, _ in told] == ["broken"]


@pytest.mark.parametrize("where", ["start", "observe", "close"])
def test_a_rule_that_raises_is_left_out_and_the_others_go_on(where: str) -> None:
    told: list[str] = []
    broken = Broken(where)
    ours = Engine(Settings())._rules  # the rules as they are by default
    engine = Engine(Settings(), rules=[broken, *ours], on_failure=lambda name, error: told.append(name))
    player = Player(engine)
    loop(player)
    assert [finding.rule for finding in player.close()] == ["n_plus_one"]
    assert engine.failures == {"broken": 1}
    assert told == ["broken"]
    assert broken.observed == {"start": 0, "observe": 1, "close": 7}[where]


def test_findings_come_when_the_session_ends() -> None:
    player = Player(Engine(Settings()))
    loop(player)
    assert player.findings == []
    player.end()
    assert [finding.rule for finding in player.findings] == ["n_plus_one"]
    assert player.close() == player.findings


def test_findings_come_with_the_tick_after_the_idle_gap() -> None:
    engine = Engine(Settings())
    player = Player(engine)
    loop(player)
    assert engine.tick(player.now_s + 0.01) == []
    assert [finding.count for finding in engine.tick(player.now_s + 5)] == [6]
    assert engine.tick(player.now_s + 9) == []
    assert player.close() == []


def test_a_tick_does_not_close_an_open_transaction() -> None:
    engine = Engine(Settings())
    player = Player(engine)
    player.run("BEGIN")
    loop(player)
    assert engine.tick(player.now_s + 60) == []
    player.run("COMMIT")
    assert [finding.count for finding in engine.tick(player.now_s + 60)] == [6]


def test_sessions_are_not_added_up() -> None:
    player = Player(Engine(Settings()))
    player.run("SELECT id FROM visit", [], {"id": DOCTORS})
    for number, doctor in enumerate(DOCTORS):
        player.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]}, session=number + 1)
    assert player.close() == []


def test_each_session_has_its_own_finding_and_the_report_knows_whose() -> None:
    player = Player(Engine(Settings()))
    player.session(4).info.application_name = "billing"
    loop(player, 3)
    loop(player, 4)
    findings = player.close()
    assert [finding.session for finding in findings] == [3, 4]
    assert findings[1].tags["application_name"] == ["billing"]
    assert "application_name" not in findings[0].tags


def test_one_template_has_one_finding_though_two_rules_see_it() -> None:
    # Six doctors, the first asked for five times more: an N+1 and, looked at alone, a redundant query.
    player = Player(Engine(Settings()))
    loop(player)
    player.run("BEGIN")
    for _ in range(5):
        player.run("SELECT name FROM doctor WHERE id = $1", [DOCTORS[0]], {"name": ["x"]})
    player.run("COMMIT")
    assert [finding.rule for finding in player.close()] == ["n_plus_one"]


def test_route_tags_are_in_the_finding_and_trace_ids_are_not() -> None:
    player = Player(Engine(Settings()))
    comment = "/*route='%2Fvisits',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"
    player.run(f"SELECT id FROM visit {comment}", [], {"id": DOCTORS})
    for doctor in DOCTORS:
        player.run(f"SELECT name FROM doctor WHERE id = $1 {comment}", [doctor], {"name": ["x"]})
    (finding,) = player.close()
    assert finding.tags == {"route": ["/visits"]}


def test_samples_are_a_few_query_strings_as_sent_with_the_values_of_their_parameters() -> None:
    player = Player(Engine(Settings()))
    loop(player)
    (finding,) = player.close()
    assert finding.samples == [f"SELECT name FROM doctor WHERE id = $1 -- $1 = {doctor}" for doctor in DOCTORS[:3]]


@pytest.mark.parametrize(
    "wrong", [{"threshold": 1}, {"slow_ms": -1.0}, {"slow_ms": float("nan")}, {"idle_gap_s": 0.0}, {"idle_gap_s": -1.0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Settings(**wrong)


def test_time_and_round_trips_are_those_of_the_repeats() -> None:
    player = Player(Engine(Settings()))
    loop(player)
    (finding,) = player.close()
    assert finding.total_ms == pytest.approx(6 * 0.5)
    assert finding.avoidable_round_trips == 5


def record_of(texts: list[str]) -> Record:
    record = Record()
    info = SessionInfo(1)
    for number, text in enumerate(texts):
        recognised = recognise(text)[0]
        outcome = Outcome(Statement(info, number + 1, recognised, text, batch=number + 1), rows=0)
        record.observe(outcome)
    return record


def test_the_templates_of_a_unit_of_work_are_bounded() -> None:
    record = record_of([f"SELECT a FROM t{number} WHERE id = 1" for number in range(3 * MAX_TEMPLATES)])
    assert 0 < len(record.repeats) <= MAX_TEMPLATES


def test_a_template_that_repeats_is_not_forgotten_for_those_that_do_not() -> None:
    texts = ["SELECT a FROM kept WHERE id = 1"] * 2
    texts += [f"SELECT a FROM t{number} WHERE id = 1" for number in range(MAX_TEMPLATES + 1)]
    texts += ["SELECT a FROM kept WHERE id = 2"]
    record = record_of(texts)
    kept = record.repeats[recognise(texts[0])[0].template.fingerprint]
    assert kept.count == 3


def test_templates_that_all_repeat_are_bounded_as_well() -> None:
    texts = [f"SELECT a FROM t{number // 2} WHERE id = {number}" for number in range(4 * MAX_TEMPLATES)]
    assert len(record_of(texts).repeats) <= MAX_TEMPLATES


def test_runs_are_counted_beyond_those_whose_values_are_kept() -> None:
    (repeats,) = record_of([f"SELECT a FROM t WHERE id = {number}" for number in range(MAX_RUNS + 40)]).repeats.values()
    assert repeats.count == MAX_RUNS + 40
    assert len(repeats.runs) == MAX_RUNS


def test_results_are_kept_up_to_a_weight() -> None:
    engine = Engine(Settings())
    player = Player(engine)
    for number in range(400):
        player.run(f"SELECT id FROM t{number}", [], {"id": [1, 2]})
    (session,) = engine._sessions.values()
    kept = [outcome for _, outcome in session.states[0].lists()]
    assert 0 < sum(result_weight(outcome) for outcome in kept) <= MAX_RESULT_BYTES
    assert kept[-1].statement.query_string == "SELECT id FROM t399"


def test_values_are_decoded_only_when_a_template_repeats() -> None:
    decoded: list[int] = []

    def decode(statement: Statement) -> tuple[Any, ...]:
        decoded.append(statement.sequence)
        return (statement.sequence,)

    engine = Engine(Settings())
    info = SessionInfo(1)
    for number, text in enumerate(
        ["SELECT a FROM t WHERE id = $1", "SELECT b FROM t WHERE id = $1", "SELECT a FROM t WHERE id = $1"]
    ):
        made = Statement(info, number + 1, recognise(text)[0], text, decode=decode, batch=number + 1)
        engine.observe(Outcome(made))
        if number == 1:
            assert decoded == []
    assert sorted(decoded) == [1, 3]


def test_columns_are_never_decoded_where_nothing_repeats() -> None:
    def decode(outcome: Outcome) -> tuple[tuple[Any, ...], ...]:
        raise AssertionError("decoded")

    failures: list[str] = []
    engine = Engine(Settings(), on_failure=lambda name, error: failures.append(name))
    info = SessionInfo(1)
    for number in range(10):
        text = f"SELECT id FROM t{number}"
        engine.observe(Outcome(Statement(info, number + 1, recognise(text)[0], text), rows=3, decode=decode))
    assert engine.close() == []
    assert failures == []
