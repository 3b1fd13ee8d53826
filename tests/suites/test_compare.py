"""What counts as a difference between a run of a foreign suite without the proxy and one with it."""

from __future__ import annotations

import json
from pathlib import Path

from suites.compare import ABSENT, Difference, Result, counts, differences, read, unsteady

PASSED = Result("passed")
REFUSED = Result("failed", "port 5432 refused")


def test_another_outcome_an_absent_test_and_another_error_are_differences() -> None:
    direct = {"a": PASSED, "b": PASSED, "c": REFUSED, "d": PASSED}
    proxied = {"a": REFUSED, "c": Result("failed", "no such table"), "d": PASSED, "e": PASSED}
    found = differences((direct, direct), proxied)
    assert found == [
        Difference("a", PASSED, REFUSED),
        Difference("b", PASSED, ABSENT),
        Difference("c", REFUSED, Result("failed", "no such table")),
        Difference("e", ABSENT, PASSED),
    ]


def test_what_two_direct_runs_tell_apart_is_unsteady_and_no_difference() -> None:
    first, second = {"a": PASSED, "b": PASSED}, {"a": REFUSED, "b": PASSED}
    assert unsteady(first, second) == {"a"}
    assert differences((first, second), {"a": ABSENT, "b": PASSED}) == []


def test_other_ports_and_addresses_in_an_error_are_none_but_printed_lines_count_whole() -> None:
    other = Result("failed", "port 6432 refused\nat 0x7f00")
    assert differences(({"a": REFUSED}, {"a": REFUSED}), {"a": other}) == []
    one, two = {"a": Result("printed", "(1 row)")}, {"a": Result("printed", "(2 rows)")}
    assert [found.test for found in differences((one, one), two)] == ["a"]


def test_a_test_has_the_worst_of_its_outcomes_and_one_without_end_has_started(tmp_path: Path) -> None:
    events = [("a", "started"), ("a", "passed"), ("a", "error"), ("b", "started"), ("c", "started"), ("c", "passed")]
    path = tmp_path / "events"
    path.write_text("".join(json.dumps({"id": name, "outcome": outcome}) + "\n" for name, outcome in events))
    results = read(path)
    assert {name: result.outcome for name, result in results.items()} == {"a": "error", "b": "started", "c": "passed"}
    assert counts(results) == {"started": 1, "passed": 1, "error": 1}
    assert read(tmp_path / "absent") == {}
