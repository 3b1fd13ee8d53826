"""Whether a rule pays, and the figures that it is told by."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe.cache.advisor import advise, advise_dry_run, break_even
from pgloupe.cache.figures import AGES_S, SHOWN_TEMPLATES, Figures
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Outcome, SessionInfo, Statement, Status, Template


@pytest.mark.parametrize(
    ("server_ms", "hit_ms", "miss_ms", "expected"),
    [
        (10.0, 1.0, 11.0, 0.1),
        (10.0, 1.0, 10.0, 0.0),
        (1.0, 0.5, 1.5, 0.5),
        (1.0, 1.0, 1.2, None),
        (1.0, 2.0, 1.2, None),
        (2.0, 1.0, 1.5, 0.0),
    ],
)
def test_it_pays_over_m_minus_o_by_m_minus_h(
    server_ms: float, hit_ms: float, miss_ms: float, expected: float | None
) -> None:
    assert break_even(server_ms, hit_ms, miss_ms) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("figures", "pays", "text"),
    [
        ((82, 18, 10.0, 1.0, 10.36), True, "pays: 0.82 reached, 0.04 needed"),
        ((1, 99, 10.0, 1.0, 11.0), False, "does not pay: 0.01 reached, 0.10 needed"),
        ((90, 10, 0.3, 0.4, 0.5), False, "never pays: a hit takes 0.4 ms and the server's answer 0.3 ms"),
        ((3, 2, 10.0, 1.0, 11.0), None, "too few reads to tell: 3 of 5 hit"),
        ((0, 50, 10.0, None, 11.0), False, "does not pay: none of 50 reads hit"),
        ((0, 5, 10.0, None, 11.0), None, "too few reads to tell: 0 of 5 hit"),
        ((0, 0, None, None, None), None, "never asked"),
    ],
)
def test_the_advice_is_one_sentence(figures: tuple[Any, ...], pays: bool | None, text: str) -> None:
    advice = advise(*figures)
    assert (advice.pays, advice.text) == (pays, text)


def test_a_dry_run_says_what_would_have_been() -> None:
    assert advise_dry_run(12, 8, 0, 35.0).text == (
        "dry run: 12 of 20 would have hit, none of them different; the server took 35 ms for them"
    )
    assert "3 of them different" in advise_dry_run(12, 8, 3, 35.0).text


def outcome(sql: str, cache: str, server_s: float, proxy_s: float, status: Status = Status.COMPLETE) -> Outcome:
    (recognised,) = recognise(sql)
    statement = Statement(SessionInfo(1), 1, recognised, sql)
    return Outcome(statement, status, server_s=server_s, proxy_s=proxy_s, cache=cache, cache_rule="r")


def template(sql: str) -> Template:
    return recognise(sql)[0].template


def test_times_are_means_of_what_was_answered_for_the_rule_and_for_each_template() -> None:
    figures = Figures()
    one, two = "SELECT a FROM t", "SELECT b FROM t"
    for _ in range(30):
        figures.count("r", "hits", template(one))
    for sql in (one, two):
        figures.count("r", "misses", template(sql))
    for done in (
        outcome(one, "hit", 0.0, 0.001),
        outcome(one, "hit", 0.0, 0.003),
        outcome(one, "miss", 0.010, 0.002),
        outcome(two, "miss", 0.020, 0.004),
        outcome(two, "miss", 9.0, 9.0, Status.ERROR),
        outcome(two, "", 9.0, 9.0),
    ):
        figures.timed(done)
    (rule,) = figures.to_list([("r", False)])
    assert (rule["server_ms"], rule["hit_ms"], rule["miss_ms"]) == (15.0, 2.0, 18.0)
    assert (rule["hits"], rule["misses"], rule["hit_ratio"]) == (30, 2, 0.9375)
    assert rule["break_even"] == pytest.approx(3 / 16)
    assert rule["advice"] == "pays: 0.94 reached, 0.19 needed"
    first, second = rule["templates"]
    assert (first["template"], first["server_ms"], first["hits"]) == (one, 10.0, 30)
    assert (second["template"], second["server_ms"], second["hit_ms"], second["misses"]) == (two, 20.0, None, 1)


def test_reasons_are_counted_and_ages_and_bytes_of_answers() -> None:
    figures = Figures()
    read = template("SELECT a FROM t")
    for reason in ("in a transaction block", "write under way", "write under way"):
        figures.bypass("r", reason, read)
    figures.refused("r", "written meanwhile", read)
    for age_s in (0.0, 0.1, 0.5, 7.0, 99_999.0):
        figures.served("r", read, 100, age_s)
    (rule,) = figures.to_list([])
    for row in (rule, rule["templates"][0]):
        assert row["bypasses"] == {"write under way": 2, "in a transaction block": 1}
        assert row["fills_refused"] == {"written meanwhile": 1}
        assert row["bytes_served"] == 500
        assert row["age_s"]["at_most"] == [*AGES_S, None]
        assert row["age_s"]["hits"] == [2, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert figures.totals["bypasses"] == 3


def test_rules_are_listed_in_their_order_whether_or_not_they_were_asked() -> None:
    figures = Figures()
    figures.count("gone", "hits")
    figures.add("dry", "dry_run_hits")
    rules = figures.to_list([("never", False), ("dry", True)])
    assert [(rule["rule"], rule["dry_run"]) for rule in rules] == [("never", False), ("dry", True), ("gone", False)]
    assert rules[0]["advice"] == "never asked"
    assert rules[1]["hit_ratio"] == 1.0


def test_templates_are_bounded_and_those_with_the_most_reads_are_kept_and_shown() -> None:
    figures = Figures()
    busy = template("SELECT busy FROM t")
    for _ in range(5):
        figures.count("r", "hits", busy)
    for number in range(2_000):
        figures.count("r", "misses", template(f"SELECT c{number} FROM t"))
    assert len(figures._rules["r"].templates) <= 200
    (rule,) = figures.to_list([])
    assert rule["misses"] == 2_000
    assert len(rule["templates"]) == SHOWN_TEMPLATES
    assert rule["templates"][0]["template"] == busy.text
