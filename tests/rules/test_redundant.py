"""redundant_query beyond the traces in `traces/`."""

from __future__ import annotations

import pytest

from pgloupe_rules.engine import Engine, Settings
from support.traces import Player

SETTING = "SELECT value FROM setting WHERE name = $1"


def player() -> Player:
    return Player(Engine(Settings()))


def ask(play: Player, times: int, name: str = "currency") -> None:
    for _ in range(times):
        play.run(SETTING, [name], {"value": ["x"]})


@pytest.mark.parametrize(("times", "found"), [(4, False), (5, True)])
def test_the_threshold_is_five(times: int, found: bool) -> None:
    play = player()
    play.run("BEGIN")
    ask(play, times)
    play.run("COMMIT")
    assert [finding.count for finding in play.close()] == ([times] if found else [])


def test_a_write_to_the_table_begins_anew() -> None:
    play = player()
    play.run("BEGIN")
    ask(play, 4)
    play.run("UPDATE setting SET value = 'y' WHERE name = 'theme'")
    ask(play, 4)
    play.run("COMMIT")
    assert play.close() == []


def test_a_write_to_another_table_does_not() -> None:
    play = player()
    play.run("BEGIN")
    ask(play, 4)
    play.run("UPDATE visit SET seen = 1 WHERE id = 4")
    ask(play, 4)
    play.run("COMMIT")
    assert [finding.count for finding in play.close()] == [8]


@pytest.mark.parametrize("sql", ["CALL refresh_settings()", "DO $$ BEGIN NULL; END $$", "COPY setting FROM STDIN"])
def test_a_command_of_which_nobody_knows_what_it_writes_begins_anew(sql: str) -> None:
    play = player()
    play.run("BEGIN")
    ask(play, 4)
    play.run(sql)
    ask(play, 4)
    play.run("COMMIT")
    assert play.close() == []


def test_equal_questions_of_several_transactions_are_not_added_up() -> None:
    play = player()
    for _ in range(4):
        play.run("BEGIN")
        ask(play, 3)
        play.run("COMMIT")
    assert play.close() == []


def test_other_parameters_are_another_question() -> None:
    play = player()
    play.run("BEGIN")
    for name in ("a", "b", "c"):
        ask(play, 2, name)
    play.run("COMMIT")
    assert play.close() == []


def test_questions_outside_of_a_transaction_before_any_list_are_not_counted() -> None:
    play = player()
    ask(play, 4)
    play.run("SELECT id FROM visit", [], {"id": [1, 2, 3]})
    ask(play, 4)
    assert play.close() == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT version()",
        "SELECT nextval('s')",
        "SELECT id FROM task WHERE run_at < now()",
        "SELECT id FROM task WHERE day = CURRENT_DATE",
        "SELECT id FROM task ORDER BY random() LIMIT 1",
        "SELECT pg_try_advisory_lock(id) FROM task WHERE id = 4",
        "SELECT id FROM task WHERE id = 4 FOR UPDATE",
        "SELECT relname FROM pg_class WHERE oid = 5",
        "SELECT table_name FROM information_schema.tables",
        "SHOW search_path",
        "SET statement_timeout = 0",
    ],
)
def test_questions_whose_answer_may_differ_or_that_read_nothing_are_quiet(sql: str) -> None:
    play = player()
    play.run("BEGIN")
    for _ in range(8):
        play.run(sql, None, {"c": [1]})
    play.run("COMMIT")
    assert play.close() == []


def test_a_question_sent_again_in_a_pipeline_did_not_wait() -> None:
    play = player()
    play.run("BEGIN")
    for number in range(8):
        play.run(SETTING, ["currency"], {"value": ["x"]}, pipelined=number > 0)
    play.run("COMMIT")
    assert play.close() == []
