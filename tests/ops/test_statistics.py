"""Counts are exact, percentiles within 5 %, and memory bounded."""

from __future__ import annotations

import random

import pytest

from pgloupe.ops.statistics import MAX_TEMPLATES, OTHER, Statistics
from pgloupe_rules.types import Outcome, Recognised, SessionInfo, Statement, Status, Template

SESSION = SessionInfo(1)


def outcome(
    fingerprint: str = "a" * 16,
    server_s: float = 0.001,
    *,
    rows: int = 1,
    size_bytes: int = 10,
    proxy_s: float = 0.0,
    cache: str = "",
    status: Status = Status.COMPLETE,
) -> Outcome:
    recognised = Recognised(Template(fingerprint, f"SELECT {fingerprint}", 0), (), "SELECT")
    return Outcome(
        Statement(SESSION, 1, recognised, "SELECT"),
        status,
        rows=rows,
        size_bytes=size_bytes,
        server_s=server_s,
        proxy_s=proxy_s,
        cache=cache,
    )


def test_rows_have_the_keys_of_the_report_and_exact_sums() -> None:
    statistics = Statistics()
    statistics.observe(outcome(rows=3, size_bytes=100, server_s=0.001, proxy_s=0.001, cache="miss"))
    statistics.observe(outcome(rows=4, size_bytes=50, server_s=0.0, proxy_s=0.00004, cache="hit"))
    (row,) = statistics.rows()
    assert list(row) == [
        *("fingerprint", "template", "calls", "rows", "bytes"),
        *("mean_ms", "p50_ms", "p95_ms", "p99_ms", "cache_hits"),
    ]
    assert (row["fingerprint"], row["template"]) == ("a" * 16, f"SELECT {'a' * 16}")
    assert (row["calls"], row["rows"], row["bytes"], row["cache_hits"]) == (2, 7, 150, 1)
    assert row["mean_ms"] == 1.02


@pytest.mark.parametrize("scale", [0.0001, 0.001, 0.1, 10.0])
def test_percentiles_are_within_five_per_cent(scale: float) -> None:
    source = random.Random(3)
    times = [scale * source.lognormvariate(0, 1) for _ in range(5000)]
    statistics = Statistics()
    for time in times:
        statistics.observe(outcome(server_s=time))
    (row,) = statistics.rows()
    times.sort()
    for share, key in ((0.50, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")):
        exact = 1000 * times[int(share * len(times)) - 1]
        assert abs(row[key] - exact) <= 0.05 * exact + 0.0005


def test_percentiles_of_one_call_are_that_call() -> None:
    statistics = Statistics()
    statistics.observe(outcome(server_s=0.2))
    (row,) = statistics.rows()
    assert row["mean_ms"] == 200.0
    for key in ("p50_ms", "p95_ms", "p99_ms"):
        assert abs(row[key] - 200.0) <= 10.0


@pytest.mark.parametrize("time", [0.0, -1.0, 1e-7, float("nan"), float("inf"), 1e300])
def test_times_out_of_range_are_counted_and_do_no_harm(time: float) -> None:
    statistics = Statistics()
    statistics.observe(outcome(server_s=time))
    (row,) = statistics.rows()
    assert (row["calls"], row["mean_ms"], row["p99_ms"]) == (1, 0.0, 0.0)


def test_times_beyond_the_last_bucket_are_in_the_last_bucket() -> None:
    statistics = Statistics()
    statistics.observe(outcome(server_s=1e6))
    (row,) = statistics.rows()
    assert row["mean_ms"] == 1e9
    assert row["p50_ms"] > 3600 * 1000


def test_a_statement_that_the_server_skipped_is_no_call() -> None:
    statistics = Statistics()
    statistics.observe(outcome(status=Status.SKIPPED))
    assert statistics.rows() == []
    statistics.observe(outcome(status=Status.ERROR))
    assert statistics.rows()[0]["calls"] == 1


def test_rows_come_with_the_most_time_in_all_first() -> None:
    statistics = Statistics()
    for _ in range(100):
        statistics.observe(outcome("often", 0.001))
    statistics.observe(outcome("slow", 0.05))
    statistics.observe(outcome("rare", 0.001))
    assert [row["fingerprint"] for row in statistics.rows()] == ["often", "slow", "rare"]


def test_too_many_templates_are_added_up_in_one_row_and_busy_ones_stay() -> None:
    statistics = Statistics(limit=50)
    for number in range(1000):
        statistics.observe(outcome(f"{number:016x}", rows=2))
        statistics.observe(outcome("busy", rows=1))
    rows = statistics.rows()
    assert len(rows) <= 51
    assert rows[-1]["fingerprint"] == OTHER
    assert sum(row["calls"] for row in rows) == 2000
    assert sum(row["rows"] for row in rows) == 3000
    assert sum(row["bytes"] for row in rows) == 20_000
    assert next(row["calls"] for row in rows if row["fingerprint"] == "busy") == 1000
    assert abs(rows[-1]["p50_ms"] - 1.0) <= 0.05


def test_a_template_that_becomes_busy_late_gets_a_row() -> None:
    statistics = Statistics(limit=20)
    for number in range(40):
        statistics.observe(outcome(f"{number:016x}"))
    for _ in range(10):
        statistics.observe(outcome("late"))
    assert {row["fingerprint"]: row["calls"] for row in statistics.rows()}["late"] == 10


def test_the_default_limit_is_five_thousand_templates() -> None:
    statistics = Statistics()
    for number in range(MAX_TEMPLATES):
        statistics.observe(outcome(f"{number:016x}"))
    assert len(statistics.rows()) == 5000
    statistics.observe(outcome("one more"))
    assert len(statistics.rows()) == 5000 - 500 + 1 + 1
