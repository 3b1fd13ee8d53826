"""slow_query."""

from __future__ import annotations

from pgloupe_rules.engine import Engine, Settings
from support.traces import Player


def test_off_unless_configured() -> None:
    play = Player(Engine(Settings()))
    play.run("SELECT a FROM t", ms=60_000)
    assert play.close() == []


def test_a_statement_over_the_limit_is_found_and_one_at_the_limit_is_not() -> None:
    play = Player(Engine(Settings(slow_ms=100)))
    play.run("SELECT a FROM t WHERE id = 1", ms=100)
    play.run("SELECT b FROM t WHERE id = 2", ms=100.5)
    (finding,) = play.close()
    assert (finding.rule, finding.template, finding.count) == ("slow_query", "SELECT b FROM t WHERE id = $1", 1)
    assert finding.tables == ("t",)
    assert finding.total_ms == 100.5
    assert finding.samples == ["SELECT b FROM t WHERE id = 2"]
    assert finding.advice is None


def test_slow_runs_of_a_template_are_added_up_and_quick_ones_are_not() -> None:
    play = Player(Engine(Settings(slow_ms=100)))
    for ms in (150, 3, 250, 4):
        play.run("SELECT a FROM t WHERE id = $1", [1], ms=ms)
    (finding,) = play.close()
    assert (finding.count, finding.total_ms) == (2, 400.0)


def test_a_statement_that_ran_into_its_timeout_counts() -> None:
    play = Player(Engine(Settings(slow_ms=100)))
    play.run("SELECT a FROM t", ms=5000, error="57014")
    assert [finding.count for finding in play.close()] == [1]


def test_a_slow_n_plus_one_is_both() -> None:
    play = Player(Engine(Settings(slow_ms=100)))
    play.run("SELECT id FROM visit", [], {"id": [11, 12, 13, 14, 15]})
    for number in range(11, 16):
        play.run("SELECT drug FROM prescription WHERE visit_id = $1", [number], {"drug": ["x"]}, ms=120)
    assert [finding.rule for finding in play.close()] == ["n_plus_one", "slow_query"]
