"""n_plus_one_write beyond the traces in `traces/`."""

from __future__ import annotations

from typing import Any

import pytest

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.types import Finding
from support.traces import Player

IDS = [701, 704, 709, 710, 722, 731]


def player() -> Player:
    return Player(Engine(Settings()))


def rules(findings: list[Finding]) -> list[str]:
    return [finding.rule for finding in findings]


@pytest.mark.parametrize(("times", "found"), [(4, False), (5, True)])
def test_the_threshold_is_five(times: int, found: bool) -> None:
    play = player()
    play.run("BEGIN")
    for number in range(times):
        play.run("INSERT INTO reading (value) VALUES ($1)", [number])
    play.run("COMMIT")
    assert bool(play.close()) is found


def test_equal_rows_inserted_one_by_one_are_a_loop_too() -> None:
    play = player()
    play.run("BEGIN")
    for _ in range(6):
        play.run("INSERT INTO reading (value) VALUES ($1)", [1])
    play.run("COMMIT")
    (finding,) = play.close()
    assert (finding.rule, finding.count, finding.distinct_params) == ("n_plus_one_write", 6, 1)


def test_an_update_in_chunks_of_keys_is_a_batch() -> None:
    play = player()
    play.run("BEGIN")
    for number in range(8):
        keys: list[Any] = list(range(number * 10, number * 10 + 10))
        play.run("UPDATE visit SET state = 'x' WHERE id = ANY($1)", [keys], rows=10)
    play.run("COMMIT")
    assert play.close() == []


def test_an_insert_that_failed_does_not_count() -> None:
    play = player()
    play.run("BEGIN")
    for number in range(8):
        play.run("SAVEPOINT s")
        play.run("INSERT INTO reading (value) VALUES ($1)", [number], error="23505" if number % 2 else "")
        play.run("ROLLBACK TO SAVEPOINT s" if number % 2 else "RELEASE SAVEPOINT s")
    play.run("COMMIT")
    assert play.close() == []


def test_each_transaction_with_a_few_is_not_added_up() -> None:
    play = player()
    for number in range(10):
        play.run("BEGIN")
        play.run("INSERT INTO reading (value) VALUES ($1)", [number])
        play.run("INSERT INTO reading (value) VALUES ($1)", [number + 100])
        play.run("COMMIT")
    assert play.close() == []


def test_a_loop_that_commits_at_each_turn_is_found_by_its_list() -> None:
    play = player()
    play.run("SELECT id FROM visit ORDER BY id", [], {"id": IDS})
    for number in IDS:
        play.run("BEGIN")
        play.run("DELETE FROM visit WHERE id = $1", [number])
        play.run("COMMIT")
    (finding,) = play.close()
    assert (finding.count, finding.confidence, finding.parent and finding.parent.column) == (6, "proven", "id")


def test_requests_that_each_write_a_row_of_an_earlier_list_are_not_a_loop() -> None:
    play = player()
    play.run("SELECT id FROM visit ORDER BY id", [], {"id": IDS})
    for number in IDS:
        play.run("BEGIN")
        play.run("SELECT name FROM staff WHERE id = $1", [9], {"name": ["n"]})
        play.run("UPDATE visit SET state = $1 WHERE id = $2", ["x", number])
        play.run("COMMIT")
    assert play.close() == []


def test_the_number_of_runs_is_that_of_the_loop_beyond_the_kept_values() -> None:
    play = player()
    play.run("BEGIN")
    for number in range(600):
        play.run("INSERT INTO reading (value) VALUES ($1)", [number])
    play.run("COMMIT")
    (finding,) = play.close()
    assert finding.count == 600


def test_a_begin_in_the_same_batch_does_not_hide_the_first_run() -> None:
    play = player()
    play.run("BEGIN; INSERT INTO reading (value) VALUES (0)")
    for number in range(1, 5):
        play.run(f"INSERT INTO reading (value) VALUES ({number})")
    play.run("COMMIT")
    (finding,) = play.close()
    assert finding.count == 5


@pytest.mark.parametrize(
    ("end", "severity"),
    [
        ("ROLLBACK", "info"),
        ("ROLLBACK TO SAVEPOINT test", "info"),
        ("COMMIT", "warning"),
        ("ROLLBACK AND CHAIN", "info"),
    ],
)
def test_rows_from_nowhere_that_are_rolled_back_are_set_up_for_a_test(end: str, severity: str) -> None:
    play = player()
    play.run("BEGIN")
    play.run("SAVEPOINT test")
    for number in range(6):
        play.run("INSERT INTO reading (value) VALUES ($1)", [number])
    play.run(end)
    (finding,) = play.close()
    assert (finding.rule, finding.count, finding.severity) == ("n_plus_one_write", 6, severity)


def test_rows_that_follow_a_list_are_a_loop_though_they_are_rolled_back() -> None:
    play = player()
    play.run("BEGIN")
    play.run("SELECT id FROM visit WHERE day = $1", ["2026-03-01"], {"id": IDS})
    for number in IDS:
        play.run("UPDATE visit SET state = 'x' WHERE id = $1", [number])
    play.run("ROLLBACK")
    (finding,) = play.close()
    assert (finding.rule, finding.severity, finding.confidence) == ("n_plus_one_write", "warning", "proven")


def test_what_comes_after_a_set_up_that_failed_keeps_its_severity() -> None:
    play = player()
    play.run("BEGIN")
    for number in range(6):
        play.run("INSERT INTO reading (value) VALUES ($1)", [number])
    play.run("SAVEPOINT s")
    play.run("INSERT INTO reading (value) VALUES ($1)", [1], error="23505")
    play.run("ROLLBACK TO SAVEPOINT s")
    play.run("COMMIT")
    (finding,) = play.close()
    assert finding.severity == "warning"
