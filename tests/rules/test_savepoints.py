"""When the outermost savepoint of a transaction is undone on purpose."""

from __future__ import annotations

import pytest

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.normalise import recognise
from pgloupe_rules.savepoints import MAX_OPEN, Savepoints
from pgloupe_rules.types import Outcome, SessionInfo, Statement, Status
from support.traces import Player


def told(*script: str, failed: int = 0, status: Status = Status.COMPLETE) -> list[str]:
    """The statements of the script that undid a piece of work. From statement number `failed` on, up to the next ROLLBACK
    TO, the transaction has failed."""
    savepoints = Savepoints()
    found = []
    in_error = False
    for number, sql in enumerate(script, 1):
        in_error = in_error or number == failed
        statement = Statement(
            SessionInfo(1), number, recognise(sql)[0], sql, status="E" if in_error else "T", transaction=1
        )
        if savepoints.undone(Outcome(statement, status)):
            found.append(sql)
        if sql.upper().startswith("ROLLBACK"):
            in_error = False
    return found


def test_back_to_the_outermost_savepoint() -> None:
    assert told("SAVEPOINT a", "SELECT 1", "ROLLBACK TO SAVEPOINT a", "RELEASE SAVEPOINT a") == [
        "ROLLBACK TO SAVEPOINT a"
    ]


def test_back_to_an_inner_savepoint_is_the_works_own_affair() -> None:
    assert told("SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO SAVEPOINT b", "RELEASE SAVEPOINT a") == []


def test_past_an_inner_savepoint_to_the_outermost() -> None:
    assert told("SAVEPOINT a", "SAVEPOINT b", "ROLLBACK TO a") == ["ROLLBACK TO a"]


def test_a_transaction_that_had_failed_goes_on() -> None:
    assert told("SAVEPOINT a", "INSERT INTO t VALUES (1)", "ROLLBACK TO SAVEPOINT a", failed=3) == []


def test_what_was_released_is_outermost_no_longer() -> None:
    assert told("SAVEPOINT a", "SAVEPOINT b", "RELEASE b", "SAVEPOINT c", "ROLLBACK TO c") == []
    assert told("SAVEPOINT a", "RELEASE a", "SAVEPOINT c", "ROLLBACK TO c") == ["ROLLBACK TO c"]


def test_each_piece_of_work_that_goes_back_to_one_savepoint() -> None:
    script = ["SAVEPOINT s", *["SELECT 1", "ROLLBACK TO s"] * 3]
    assert told(*script) == ["ROLLBACK TO s"] * 3


def test_savepoints_that_are_never_released() -> None:
    assert told("SAVEPOINT s1", "ROLLBACK TO s1", "SAVEPOINT s2", "ROLLBACK TO s2") == [
        "ROLLBACK TO s1",
        "ROLLBACK TO s2",
    ]


@pytest.mark.parametrize(
    ("opens", "back"),
    [
        ("savepoint Outer_1", "rollback to outer_1"),
        ('SAVEPOINT "Out er"', 'ROLLBACK WORK TO SAVEPOINT "Out er"'),
        ('SAVEPOINT "a""b" ;', 'ROLLBACK TRANSACTION TO "a""b"'),
        ("SAVEPOINT a /* test='x' */", "ROLLBACK TO SAVEPOINT a -- end"),
    ],
)
def test_names_are_compared_as_the_server_does(opens: str, back: str) -> None:
    assert told("SAVEPOINT first", opens, back) == []
    assert told(opens, "SAVEPOINT inner_one", back) == [back]


def test_names_that_differ_in_quotes_differ() -> None:
    assert told('SAVEPOINT "A"', "SAVEPOINT a", "ROLLBACK TO a") == []


def test_a_statement_that_was_not_carried_out_counts_for_nothing() -> None:
    assert told("SAVEPOINT a", "ROLLBACK TO a", status=Status.ERROR) == []


def test_memory_is_bounded() -> None:
    many = [f"SAVEPOINT s{number}" for number in range(4 * MAX_OPEN)]
    assert told(*many, f"ROLLBACK TO s{MAX_OPEN - 1}", "ROLLBACK TO s0") == ["ROLLBACK TO s0"]


def severities(end: str, *, rows: int = 0, writes: bool = True) -> dict[str, str]:
    """Severity by rule of what one transaction does that ends so: a question asked six times, and six look-ups by key. Before
    them a list of so many rows."""
    play = Player(Engine(Settings()))
    play.run("BEGIN")
    play.run("SAVEPOINT test")
    if writes:
        play.run("INSERT INTO visit (name) VALUES ($1)", ["Anna"])
    if rows:
        play.run("SELECT title FROM page", [], {"title": [f"page {number}" for number in range(rows)]})
    for number in range(6):
        play.run("SELECT value FROM setting WHERE name = $1", ["currency"], {"value": ["eur"]})
        play.run("SELECT name FROM guest WHERE id = $1", [8117 + 3 * number], {"name": ["Anna"]})
    play.run(end)
    return {finding.rule: str(finding.severity) for finding in play.close()}


def test_one_transaction_says_that_its_statements_belong_together() -> None:
    assert severities("COMMIT") == {"redundant_query": "warning", "n_plus_one": "warning"}


@pytest.mark.parametrize("end", ["ROLLBACK", "ROLLBACK TO SAVEPOINT test"])
def test_one_that_is_rolled_back_is_a_test_and_says_less(end: str) -> None:
    assert severities(end) == {"redundant_query": "info", "n_plus_one": "info"}


def test_a_list_that_could_have_driven_the_questions_says_more() -> None:
    assert severities("ROLLBACK", rows=6) == {"redundant_query": "warning", "n_plus_one": "info"}


def test_one_that_only_read_and_ends_by_rollback_is_an_ordinary_request() -> None:
    assert severities("ROLLBACK", writes=False) == {"redundant_query": "warning", "n_plus_one": "warning"}
