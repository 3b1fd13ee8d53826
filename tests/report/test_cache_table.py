"""The cache's rules in the report for a person."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pgloupe.cache.figures import Figures
from pgloupe.report.text import render
from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Outcome, SessionInfo, Statement
from support.reports import HOSTILE, empty

SQL = "SELECT a FROM t"


def printed(report: dict[str, Any], width: int = 80) -> list[str]:
    out = io.StringIO()
    render(report, Console(file=out, width=width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def report(*rules: tuple[str, bool], figures: Figures, redis: str = "none") -> dict[str, Any]:
    return {**empty(), "cache": {"redis": redis, "rules": figures.to_list(rules)}}


def counted(rule: str) -> Figures:
    figures = Figures()
    (recognised,) = recognise(SQL)
    for _ in range(1_234):
        figures.count(rule, "hits")
    for _ in range(20):
        figures.count(rule, "misses")
    for cache, server_s, proxy_s in (("hit", 0.0, 0.0002), ("miss", 0.0012, 0.0002)):
        statement = Statement(SessionInfo(1), 1, recognised, SQL)
        figures.timed(Outcome(statement, server_s=server_s, proxy_s=proxy_s, cache=cache, cache_rule=rule))
    for _ in range(3):
        figures.bypass(rule, "in a transaction block")
    figures.refused(rule, "too large")
    return figures


def test_each_rule_has_its_figures_and_says_whether_it_pays() -> None:
    lines = printed(report(("catalogue", False), ("idle", False), figures=counted("catalogue")))
    start = next(number for number, line in enumerate(lines) if line.startswith("cache rule"))
    assert [line.split() for line in lines[start : start + 2]] == [
        ["cache", "rule", "hits", "misses", "bypassed", "server", "hit", "miss"],
        ["catalogue", "1,234", "20", "3", "1.2", "ms", "0.2", "ms", "1.4", "ms"],
    ]
    assert lines[start + 2 : start + 5] == [
        "  pays: 0.98 reached, 0.17 needed",
        "  bypassed: in a transaction block 3",
        "  not stored: too large 1",
    ]
    assert lines[start + 5].split() == ["idle", "0", "0", "0", "-", "-", "-"]
    assert lines[start + 6] == "  never asked"
    assert max(len(line) for line in lines) <= 80


def test_a_dry_run_shows_the_hits_that_it_would_have_had() -> None:
    figures = Figures()
    figures.add("trial", "dry_run_hits")
    figures.count("trial", "misses")
    lines = printed(report(("trial", True), figures=figures))
    assert ["trial", "1", "1", "0", "-", "-", "-"] in [line.split() for line in lines]
    assert any(line.startswith("  dry run: 1 of 2 would have hit") for line in lines)


def test_a_redis_that_is_down_is_said() -> None:
    lines = printed(report(("catalogue", False), figures=Figures(), redis="down"))
    assert "Redis is not usable now: nothing is answered from the cache" in lines


@pytest.mark.parametrize("cache", [None, {"redis": "none", "rules": []}])
def test_without_a_rule_there_is_no_table(cache: dict[str, Any] | None) -> None:
    assert printed({**empty(), "cache": cache}) == printed(empty())


def test_the_name_of_a_rule_does_no_harm() -> None:
    lines = "\n".join(printed(report((HOSTILE * 5, False), figures=Figures())))
    assert "\x1b" not in lines
    assert "\u202e" not in lines
