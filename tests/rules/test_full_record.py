"""Very many transactions with no pause between them: what one unit of work can hold is soon used up, and the rules still see."""

from __future__ import annotations

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.record import MAX_RUNS
from pgloupe_rules.types import Finding
from support.traces import Player

TABLES = [f"part_{'abcdefgh'[number % 8]}{'abcdefgh'[number // 8]}" for number in range(40)]
KEYS = list(range(7001, 7013))


def a_test(play: Player, number: int) -> None:
    """A transaction that inserts a user, as all do, and asks for something in each of some tables."""
    play.run("BEGIN")
    play.run("INSERT INTO account (name) VALUES ($1) RETURNING id", [f"user {number}"], {"id": [number]})
    for table in TABLES[number % 4 :: 4]:
        play.run(f"SELECT id, name FROM {table} WHERE id = $1", [number], {"id": [number], "name": ["x"]})
    play.run("ROLLBACK")


def after(transactions: int) -> list[Finding]:
    """What is found in the last transaction, behind so many others."""
    play = Player(Engine(Settings()))
    for number in range(transactions):
        a_test(play, number)
    play.run("BEGIN")
    play.run("SELECT id, account_id FROM visit", [], {"id": list(range(12)), "account_id": KEYS})
    for key in KEYS:
        play.run("SELECT id, name FROM part_aa WHERE id = $1", [key], {"id": [key], "name": ["x"]})
    for key in KEYS:
        play.run("INSERT INTO account (name) VALUES ($1) RETURNING id", [f"copy {key}"], {"id": [key]})
    play.run("COMMIT")
    return play.close()


def test_a_loop_behind_many_transactions_is_found_as_behind_few() -> None:
    expected = {("n_plus_one", 12, "proven"), ("n_plus_one_write", 12, "likely")}
    for transactions in (8, MAX_RUNS * 2 + 7, MAX_RUNS * 6):
        found = {(finding.rule, finding.count, str(finding.confidence)) for finding in after(transactions)}
        assert found == expected, transactions


def test_a_long_loop_with_a_transaction_for_each_row_stays_one() -> None:
    play = Player(Engine(Settings()))
    keys = list(range(7001, 7001 + 2 * MAX_RUNS))
    play.run("SELECT id FROM visit", [], {"id": keys})
    for key in keys:
        play.run("BEGIN")
        play.run("UPDATE visit SET seen = true WHERE id = $1", [key])
        play.run("COMMIT")
    (finding,) = play.close()
    assert (finding.rule, finding.count) == ("n_plus_one_write", 2 * MAX_RUNS)
