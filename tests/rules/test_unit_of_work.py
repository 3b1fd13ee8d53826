"""Where a unit of work begins and ends."""

from __future__ import annotations

import pytest

from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Outcome, SessionInfo, Statement
from pgloupe_rules.unit_of_work import MAX_STATEMENTS, MAX_TAGS, UnitOfWork, leaves_transaction_open, trace_id

GAP_S = 0.05


class Feed:
    """Gives a unit of work statements and says which of them began a new one."""

    def __init__(self) -> None:
        self.unit = UnitOfWork(SessionInfo(1), GAP_S)
        self.now_s = 10.0
        self.status = "I"

    def __call__(self, sql: str, after_s: float = 0.001) -> bool:
        self.now_s += after_s
        statement = Statement(SessionInfo(1), 1, recognise(sql)[0], sql, received_s=self.now_s, status=self.status)
        began = self.unit.begins(statement)
        if began:
            self.unit.reset()
        self.now_s += 0.0005
        outcome = Outcome(statement, finished_s=self.now_s)
        self.unit.add(outcome)
        self.status = "T" if self.unit.in_transaction else "I"
        ended = self.unit.ends(outcome)
        if ended:
            self.unit.reset()
        return began


def test_statements_close_together_are_one_unit() -> None:
    feed = Feed()
    assert [feed("SELECT a FROM t WHERE id = 1") for _ in range(50)] == [False] * 50


def test_silence_ends_the_unit() -> None:
    feed = Feed()
    feed("SELECT a FROM t")
    assert feed("SELECT a FROM t", 3 * GAP_S)


def test_silence_in_a_transaction_does_not() -> None:
    feed = Feed()
    feed("BEGIN")
    assert not feed("SELECT a FROM t", 30.0)
    assert not feed("COMMIT", 30.0)
    assert feed("SELECT a FROM t", 30.0)


def test_the_gap_grows_with_the_rhythm_of_a_slow_loop() -> None:
    feed = Feed()
    for _ in range(60):
        feed("SELECT a FROM t", 0.02)
    assert feed.unit.gap_s() > 2 * GAP_S
    assert not feed("SELECT a FROM t", 2 * GAP_S)


def test_the_gap_is_bounded_however_slow_the_loop() -> None:
    feed = Feed()
    for _ in range(200):
        feed("SELECT a FROM t", 0.045)
    assert feed.unit.gap_s() == 4 * GAP_S


def test_single_silences_between_quick_statements_do_not_widen_the_gap() -> None:
    feed = Feed()
    for _ in range(30):
        for _ in range(3):
            feed("SELECT a FROM t", 0.001)
        assert feed("SELECT a FROM t", 0.07)


def test_a_transaction_boundary_does_not_end_the_unit() -> None:
    feed = Feed()
    assert [feed(sql) for sql in ["BEGIN", "SELECT a FROM t", "COMMIT", "BEGIN", "SELECT b FROM t", "ROLLBACK"]] == [
        False
    ] * 6


def test_discard_all_ends_the_unit_and_other_resets_do_not() -> None:
    feed = Feed()
    feed("SELECT a FROM t")
    feed("RESET ALL")
    feed("CLOSE ALL")
    assert feed.unit.statements == 3
    feed("DISCARD ALL")
    assert feed.unit.statements == 0


def test_a_new_trace_id_ends_the_unit_once_the_old_one_was_seen_twice() -> None:
    feed = Feed()
    first, second = "00-aaaa-01-01", "00-bbbb-01-01"
    feed(f"SELECT a FROM t /*traceparent='{first}'*/")
    feed(f"SELECT b FROM t /*traceparent='{first}'*/")
    assert feed(f"SELECT a FROM t /*traceparent='{second}'*/")


def test_a_trace_id_on_each_statement_ends_nothing() -> None:
    feed = Feed()
    began = [feed(f"SELECT a FROM t /*traceparent='00-{number:032x}-01-01'*/") for number in range(20)]
    assert began == [False] * 20


def test_equal_trace_ids_hold_the_unit_together_over_a_silence() -> None:
    feed = Feed()
    feed("SELECT a FROM t /*request_id='7'*/")
    assert not feed("SELECT a FROM t /*request_id='7'*/", 1.0)


def test_another_route_ends_the_unit() -> None:
    feed = Feed()
    feed("SELECT a FROM t /*route='%2Fa'*/")
    assert not feed("SELECT b FROM t /*route='%2Fa'*/")
    assert not feed("SELECT b FROM t")
    assert feed("SELECT a FROM t /*route='%2Fb'*/")


def test_another_route_within_a_transaction_does_not() -> None:
    feed = Feed()
    feed("BEGIN /*route='%2Fa'*/")
    assert not feed("SELECT a FROM t /*route='%2Fb'*/")


def test_a_unit_that_never_ends_is_cut() -> None:
    feed = Feed()
    feed("SELECT a FROM t")
    feed.unit.statements = MAX_STATEMENTS
    assert feed("SELECT a FROM t")


def test_tags_are_kept_in_a_bounded_number() -> None:
    feed = Feed()
    for number in range(3 * MAX_TAGS):
        feed(f"SELECT a FROM t /*tag{number}='x',db_driver='v{number}'*/")
    assert len(feed.unit.tags) <= MAX_TAGS
    assert all(len(values) <= MAX_TAGS for values in feed.unit.tags.values())


@pytest.mark.parametrize(
    ("sql", "status", "is_open"),
    [
        ("BEGIN", "I", True),
        ("START TRANSACTION READ ONLY", "I", True),
        ("SELECT 1", "I", False),
        ("SELECT 1", "T", True),
        ("SELECT 1", "E", True),
        ("COMMIT", "T", False),
        ("END", "T", False),
        ("ABORT", "E", False),
        ("ROLLBACK", "T", False),
        ("ROLLBACK TO SAVEPOINT a", "E", True),
        ("ROLLBACK WORK TO a", "T", True),
        ("COMMIT AND CHAIN", "T", True),
        ("COMMIT AND NO CHAIN", "T", False),
        ("PREPARE TRANSACTION 'x'", "T", False),
        ("PREPARE x AS SELECT 1", "T", True),
        ("SAVEPOINT a", "T", True),
    ],
)
def test_whether_a_transaction_is_open_after_a_statement(sql: str, status: str, is_open: bool) -> None:
    statement = Statement(SessionInfo(1), 1, recognise(sql)[0], sql, status=status)
    assert leaves_transaction_open(Outcome(statement)) is is_open


@pytest.mark.parametrize(
    ("tags", "name"),
    [
        ({}, ""),
        (
            {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
            "0af7651916cd43dd8448eb211c80319c",
        ),
        ({"traceparent": "odd"}, "odd"),
        ({"request_id": "r1", "route": "/a"}, "r1"),
        ({"route": "/a"}, ""),
    ],
)
def test_what_names_the_request(tags: dict[str, str], name: str) -> None:
    assert trace_id(tags) == name
