"""Evidence beyond the traces in `traces/`: forms of values, tags, pauses."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pgloupe_rules.engine import Engine, Settings
from pgloupe_rules.record import plain
from pgloupe_rules.types import Finding
from support.traces import Player

DOCTORS = [5550, 9110, 4343, 7700, 6262, 8811]
TRACE = "/*traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"


def player() -> Player:
    return Player(Engine(Settings()))


def loop(
    play: Player, given: list[Any], asked: list[Any], child: str = "SELECT id FROM note WHERE k = $1"
) -> list[Finding]:
    play.run("SELECT id, k FROM visit", [], {"id": list(range(70, 70 + len(given))), "k": given})
    for value in asked:
        play.run(child, [value], {"id": [1]})
    return play.close()


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        (["19.90", "24.50", "7.25"], [Decimal("19.90"), Decimal("24.5"), Decimal("7.250")]),
        ([Decimal("120.50"), Decimal("240.00"), Decimal("3.10")], ["120.5", "240", "3.1"]),
        ([0.5, 1.25, 8.75], ["0.50", "1.25", "8.750"]),
        ([datetime(2026, 3, n, 6, 1) for n in (1, 2, 3)], [f"2026-03-0{n}T06:01:00.000" for n in (1, 2, 3)]),
        ([f"2026-03-0{n} 06:01:00+00" for n in (1, 2, 3)], [datetime(2026, 3, n, 6, 1, tzinfo=UTC) for n in (1, 2, 3)]),
        (
            [datetime(2026, 3, n, 8, 1, tzinfo=timezone(timedelta(hours=2))) for n in (1, 2, 3)],
            [f"2026-03-0{n}T06:01:00Z" for n in (1, 2, 3)],
        ),
        ([date(2026, 3, n) for n in (1, 2, 3)], [f"2026-03-0{n}" for n in (1, 2, 3)]),
        (["x" * 500 + str(n) for n in range(3)], ["x" * 500 + str(n) for n in range(3)]),
    ],
)
def test_values_are_equal_however_they_were_written(given: list[Any], asked: list[Any]) -> None:
    (finding,) = loop(player(), given, asked)
    assert finding.parent is not None
    assert (finding.parent.column, finding.count) == ("k", 3)


@pytest.mark.parametrize(
    "value",
    [
        None, "", "-", "abc", "12", "1.2.3", "1e5", "-1.", ".5", "2026-13-45", "2026-01-01T25:00:00", "0000-01-01",
        "9999-12-31T23:59:59-12:00", float("nan"), float("inf"), Decimal("NaN"), Decimal("Infinity"), Decimal("1E+400"),
        Decimal("1E-400"), b"1.5", UUID(int=7), "1" * 30 + "." + "2" * 30,
    ],
)  # fmt: skip
def test_odd_values_do_no_harm(value: Any) -> None:
    assert hash(plain(value)) == hash(plain(value))
    if isinstance(value, str) and not any(sign in value for sign in ".-"):
        assert plain(value) == value


def test_large_numbers_of_exponents_stay_small() -> None:
    assert plain(Decimal("1E+400")) == Decimal("1E+400")
    assert isinstance(plain(Decimal("1E+400")), Decimal)
    assert plain(Decimal("240.00")) == 240


def test_a_comparison_without_regard_to_case_is_one_of_the_list() -> None:
    mails = ["ada@example.org", "bo@example.org", "cy@example.org", "di@example.org"]
    (finding,) = loop(player(), mails, mails, "SELECT id FROM note WHERE lower(mail) = lower($1)")
    assert finding.parent is not None
    assert finding.parent.column == "k"
    assert finding.advice is not None
    assert finding.advice.kind == "join"


def test_a_constant_list_beside_the_key_hides_nothing() -> None:
    (finding,) = loop(player(), DOCTORS, DOCTORS, "SELECT id FROM note WHERE k = $1 AND kind IN ('a', 'b', 'c')")
    assert finding.count == 6


def test_lists_that_vary_are_batches_whatever_else_varies() -> None:
    play = player()
    play.run("SELECT id, k FROM visit", [], {"id": [70, 71, 72, 73], "k": DOCTORS[:4]})
    for place, doctor in enumerate(DOCTORS[:4]):
        play.run("SELECT id FROM note WHERE k = $1 AND n = ANY($2)", [doctor, [place, place + 1]], {"id": [1]})
    assert play.close() == []


@pytest.mark.parametrize(("tag", "found"), [(TRACE, 1), ("", 0)])
def test_one_trace_holds_keys_from_outside_together(tag: str, found: int) -> None:
    play = player()
    for doctor in DOCTORS:
        play.run(f"SELECT name FROM doctor WHERE id = $1 {tag}", [doctor], {"name": ["x"]})
    assert [finding.confidence.value for finding in play.close()] == ["likely"] * found


@pytest.mark.parametrize(("tag", "found"), [(TRACE, 1), ("", 0)])
def test_one_trace_holds_writes_outside_of_transactions_together(tag: str, found: int) -> None:
    play = player()
    for doctor in DOCTORS:
        play.run(f"INSERT INTO seen (doctor) VALUES ($1) {tag}", [doctor])
    assert [finding.rule for finding in play.close()] == ["n_plus_one_write"] * found


@pytest.mark.parametrize(("tag", "found"), [(TRACE, 1), ("", 0)])
def test_one_trace_holds_equal_questions_together(tag: str, found: int) -> None:
    play = player()
    for _ in range(6):
        play.run(f"SELECT value FROM setting WHERE name = $1 {tag}", ["currency"], {"value": ["x"]})
    assert [finding.rule for finding in play.close()] == ["redundant_query"] * found


def test_traces_of_their_own_hold_nothing_together() -> None:
    play = player()
    for place, doctor in enumerate(DOCTORS * 2):
        play.run(
            f"SELECT name FROM doctor WHERE id = $1 /*request_id='{place // 3}'*/", [doctor + place], {"name": ["x"]}
        )
    assert play.close() == []


# --- pauses ---


@pytest.mark.parametrize("pause_ms", [45, 90])
def test_a_whole_list_followed_in_order_is_one_loop_however_slow_its_turns(pause_ms: float) -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
    for doctor in DOCTORS:
        play.now_s += pause_ms / 1000
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    (finding,) = play.close()
    assert (finding.count, finding.parent and finding.parent.column) == (6, "doctor_id")


def test_one_slow_turn_does_not_make_two_loops_of_one() -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
    for place, doctor in enumerate(DOCTORS):
        play.now_s += 0.08 if place == 3 else 0
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    assert max(finding.count for finding in play.close()) == 6


@pytest.mark.parametrize("asked", [DOCTORS[:5], DOCTORS[::-1], [*DOCTORS[:4], 1234, DOCTORS[5]]])
def test_what_is_less_than_a_whole_list_in_order_is_clicks(asked: list[int]) -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
    for doctor in asked:
        play.now_s += 0.06
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    assert play.close() == []


def test_requests_that_look_up_their_user_between_are_no_slow_loop() -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
    for doctor in DOCTORS:
        play.now_s += 0.06
        play.run("SELECT user_id FROM login WHERE token = 't'", None, {"user_id": [4]})
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    assert play.close() == []


def test_pauses_of_people_are_longer() -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
    for doctor in DOCTORS:
        play.now_s += 0.4
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    assert play.close() == []


# --- two rows ---


@pytest.mark.parametrize(
    ("parent", "child", "found"),
    [
        ("SELECT id, doctor_id FROM visit", "SELECT name FROM doctor WHERE id = $1", 1),
        ("SELECT id, doctor_id FROM visit", "SELECT name FROM nurse WHERE id = $1", 0),
    ],
)
def test_two_runs_are_enough_where_the_names_fit(parent: str, child: str, found: int) -> None:
    play = player()
    play.run(parent, [], {"id": [70, 71], "doctor_id": [5550, 9110]})
    for value in (5550, 9110):
        play.run(child, [value], {"name": ["x"]})
    assert len(play.close()) == found


@pytest.mark.parametrize("values", [[5550], [9110, 5550], [5550, 5550], [5550, 4343]])
def test_two_runs_are_not_enough_for_less_than_both_rows_in_order(values: list[int]) -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": [70, 71], "doctor_id": [5550, 9110]})
    for value in values:
        play.run("SELECT name FROM doctor WHERE id = $1", [value], {"name": ["x"]})
    assert play.close() == []


def test_two_runs_with_another_statement_between_may_be_two_requests() -> None:
    play = player()
    play.run("SELECT id, doctor_id FROM visit", [], {"id": [70, 71], "doctor_id": [5550, 9110]})
    for value in (5550, 9110):
        play.run("SELECT user_id FROM login WHERE token = 't'", None, {"user_id": [4]})
        play.run("SELECT name FROM doctor WHERE id = $1", [value], {"name": ["x"]})
    assert play.close() == []


# --- a list that comes again and again ---


def refreshed(play: Player, begin: bool) -> list[Finding]:
    """A page that shows one row of its list in turn: the list again, then one look-up."""
    if begin:
        play.run("BEGIN")
    for doctor in DOCTORS:
        play.run("SELECT id, doctor_id FROM visit", [], {"id": list(range(70, 76)), "doctor_id": DOCTORS})
        play.run("SELECT name FROM doctor WHERE id = $1", [doctor], {"name": ["x"]})
    return [finding for finding in play.close() if finding.tables == ("doctor",)]


def test_one_look_up_after_each_refresh_of_a_list_is_no_loop() -> None:
    assert refreshed(player(), begin=False) == []


def test_in_one_transaction_it_is_one() -> None:
    assert len(refreshed(player(), begin=True)) == 1


def test_pages_of_a_list_with_a_loop_over_each_are_a_loop() -> None:
    play = player()
    for page in range(3):
        keys = [5000 + 100 * page + place for place in range(4)]
        play.run("SELECT id FROM visit ORDER BY id LIMIT 4 OFFSET $1", [page * 4], {"id": keys})
        for key in keys:
            play.run("SELECT body FROM note WHERE visit_id = $1", [key], {"body": ["x"]})
    (finding,) = play.close()
    assert (finding.count, finding.parent and finding.parent.rows) == (12, 12)


def test_digits_prove_a_loop_outside_of_a_transaction_only_with_all_rows_or_fitting_names() -> None:
    for column, child, asked, found in (
        ("n", "SELECT name FROM doctor WHERE id = $1", [2, 3, 4, 5, 6], 0),
        ("id", "SELECT body FROM note WHERE visit_id = $1", [2, 3, 4, 5, 6], 1),
        ("id", "SELECT body FROM note WHERE about = $1", [1, 2, 3, 4, 5, 6, 7], 1),
    ):
        play = player()
        play.run(f"SELECT {column} FROM visit", [], {column: [1, 2, 3, 4, 5, 6, 7]})
        for value in asked:
            play.run(child, [value], {"x": ["x"]})
        assert len(play.close()) == found
