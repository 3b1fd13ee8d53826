"""Reading traces: what they mean, and that nothing unclear passes."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from bench.accuracy.player import Player
from bench.accuracy.script import read
from bench.accuracy.trace import Call, Connect, Expected, Overlap, Pipeline, Trace, TraceError, Wait
from bench.accuracy.values import parse

HEAD = "title: t\nwhy: w\nkind: k\nexpect: nothing\n---\n"


def trace(body: str, head: str = HEAD) -> Trace:
    return read(head + body, "some")


def calls(body: str) -> list[Call]:
    return [step for step in trace(body).steps if isinstance(step, Call)]


def test_loops_are_unrolled_with_their_values() -> None:
    found = calls("let k = 3 1 2\nfor a, b in @k ; x 'y z' w:\n  SELECT {a+10} FROM t WHERE n = $1\n    <- '{b}'\n")
    assert [(call.sql, call.params) for call in found] == [
        ("SELECT 13 FROM t WHERE n = $1", ["x"]),
        ("SELECT 11 FROM t WHERE n = $1", ["y z"]),
        ("SELECT 12 FROM t WHERE n = $1", ["w"]),
    ]


def test_a_result_has_its_columns_with_ranges_and_repeats() -> None:
    (call,) = calls("SELECT a, b FROM t\n  => a: 3..1 ; b/int8: 7*2 null\n")
    assert call.columns == {"a": [3, 2, 1], "b": [7, 7, None]}
    assert call.column_types == {"a": "", "b": "int8"}


def test_a_lot_is_the_same_at_every_reading() -> None:
    body = "let k = 5 of 100..999\nfor x in @k:\n  SELECT {x} FROM t\n"
    first, again = calls(body), calls(body)
    assert [call.sql for call in first] == [call.sql for call in again]
    assert len({call.sql for call in first}) == 5


def test_values_have_the_types_that_they_look_like() -> None:
    tokens = ["17", "12.50", "true", "null", "2026-03-01", "2026-03-01T09:30:00", "'17'", "word"]
    assert [parse(token) for token in tokens] == [
        17,
        Decimal("12.50"),
        True,
        None,
        datetime.date(2026, 3, 1),
        datetime.datetime(2026, 3, 1, 9, 30),
        "17",
        "word",
    ]
    assert parse("uuid:1") == parse("uuid:1") != parse("uuid:2")


def test_steps_other_than_statements() -> None:
    steps = trace("on a app=web\nwait 70ms\npipeline:\n  SELECT 1\noverlap:\n  on b\n  SELECT 2\n").steps
    assert steps[0] == Connect("a", {"app": "web"})
    assert steps[1] == Wait(0.07)
    assert isinstance(steps[2], Pipeline)
    assert isinstance(steps[3], Overlap)


def test_an_expectation_is_read_in_all_its_parts() -> None:
    head = HEAD.replace("nothing", "n_plus_one on a from b.c times 4\nallow: redundant_query on a")
    found = trace("SELECT 1", head)
    assert found.expect == [Expected("n_plus_one", "a", "b", "c", 4)]
    assert found.allow == [Expected("redundant_query", "a")]
    assert found.label == "n_plus_one"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("title: t\n", 1, "`---`"),
        (HEAD, 5, "no statements"),
        (HEAD.replace("why: w\n", "") + "SELECT 1", 1, "no `why:`"),
        (HEAD.replace("kind", "sort") + "SELECT 1", 3, "these keys"),
        (HEAD.replace("nothing", "nplusone on a") + "SELECT 1", 4, "RULE on TABLE"),
        (HEAD.replace("nothing", "nothing\npace: quick") + "SELECT 1", 1, "is no time"),
        (HEAD + "select 1", 6, "in upper case"),
        (HEAD + "SELECT $1", 6, "0 parameters are given for [1]"),
        (HEAD + "SELECT 1\n\t=> a: 1", 7, "with spaces"),
        (HEAD + "SELECT 1\n  => a: 1 2 ; b: 1", 7, "a 2, b 1"),
        (HEAD + "SELECT 1\n  ->  a: 1", 7, "below a statement stand"),
        (HEAD + "SELECT {x}", 6, "nothing is called 'x'"),
        (HEAD + "for x in 1..3:\nSELECT {x}", 6, "nothing stands inside"),
        (HEAD + "for x, y in 1..3 ; 1..2:\n  SELECT {x}", 6, "3, 2"),
        (HEAD + "SELECT 1\n    => a: 1\n  => b: 1\n SELECT 2", 9, "below a statement stand"),
        (HEAD + "for x in @k:\n  SELECT {x}", 6, "no `let k"),
        (HEAD + "SELECT $1\n  <- 2026-13-45", 7, "2026-13-45"),
        (HEAD + "form binary: x\nSELECT 1", 6, "neither a statement"),
        (HEAD + "pipeline:\n  wait 1s", 6, "in a pipeline"),
        (HEAD + "for a in 1..300:\n  repeat 300:\n    SELECT 1", 8, "20000"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, says: str) -> None:
    with pytest.raises(TraceError) as caught:
        read(text, "some")
    assert f"some.trace, line {line}: " in str(caught.value)
    assert says in str(caught.value)


BODY = """
SELECT id, at, price, owner, ok, tags FROM t WHERE a = $1 AND b = $2 AND c = $3 AND d = $4 AND e = $5 AND f = ANY($6)
  <- 70000/int8 12.50 2026-03-01T09:30:00 uuid:4 true [1 2]
  => id: 5 6 ; at: 2026-03-01 null ; price: 0.05 -1200.75 ; owner: uuid:1 uuid:2 ; ok: true false ; tags: [7] [8 9]
"""


@pytest.mark.parametrize("form", ["simple", "extended", "named", "after5", "binary"])
def test_values_arrive_alike_in_every_form(form: str) -> None:
    played = trace(BODY)
    played.form = form
    player = Player(played)
    assert player.play() == []
    (outcome,) = player.outcomes
    plain = trace(BODY)
    plain.form = "binary"
    other = Player(plain)
    other.play()
    assert outcome.rows == 2
    assert outcome.column_values() == other.outcomes[0].column_values()
    assert outcome.statement.values()[0] == 70000
    assert Decimal(str(outcome.statement.values()[1])) == Decimal("12.50")
    assert outcome.column_values()[2] == (Decimal("0.05"), Decimal("-1200.75"))


def test_the_player_numbers_batches_transactions_and_connections_as_a_wire_does() -> None:
    body = "on a\nBEGIN\nSELECT 1\npipeline:\n  SELECT 2\n  SELECT 3\nCOMMIT\noverlap:\n  on a\n  SELECT 4\n  on b\n  SELECT 5\n"
    player = Player(trace(body))
    player.play()
    seen = [(o.statement.session.session, o.statement.serial, o.statement.status) for o in player.outcomes]
    assert seen[:5] == [(1, True, "I"), (1, True, "T"), (1, True, "T"), (1, False, "T"), (1, True, "T")]
    assert {number for number, _, _ in seen[5:]} == {1, 2}
    assert player.outcomes[5].statement.received_s < player.outcomes[6].statement.received_s
    assert player.outcomes[6].statement.received_s < player.outcomes[5].finished_s
