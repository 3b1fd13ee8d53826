"""How findings are judged, and what the counting rules see."""

from __future__ import annotations

import pytest
from bench.accuracy.counting import Seen, distinct_parameters, equal_templates, identical_texts, seen_in_log
from bench.accuracy.log import Logged, alike, label, tables_of
from bench.accuracy.trace import Expected
from bench.accuracy.verdict import NOTHING, Reported, add_up, judge

LOOP = Expected("n_plus_one", "doctor", "visit", "doctor_id", 5)


def found(rule: str = "n_plus_one", parent: tuple[str, ...] | None = ("visit",), column: str = "doctor_id") -> Reported:
    return Reported(rule, ("doctor",), "proven", parent, column, 5)


def test_the_expected_finding_is_right() -> None:
    verdict = judge("x", "k", [LOOP], [], [found()])
    assert verdict.right
    assert verdict.faults() == []
    score = add_up([verdict])
    assert (score.precision, score.recall, score.parents, score.proven) == (1.0, 1.0, 1, 1)


def test_a_wrong_parent_is_missed_and_false() -> None:
    verdict = judge("x", "k", [LOOP], [], [found(parent=("patient",))])
    assert (len(verdict.missed), len(verdict.false)) == (1, 1)


def test_no_parent_a_wrong_column_and_too_few_runs_are_faults_but_no_misses() -> None:
    for one in (
        found(parent=None),
        found(column="id"),
        Reported("n_plus_one", ("doctor",), "proven", ("visit",), "doctor_id", 4),
    ):
        verdict = judge("x", "k", [LOOP], [], [one])
        assert verdict.right
        assert len(verdict.faults()) == 1


def test_another_rule_is_counted_in_the_confusion() -> None:
    verdict = judge("x", "k", [LOOP], [], [found("redundant_query", None)])
    assert add_up([verdict]).confusion == {("n_plus_one", "redundant_query"): 1}


def test_what_is_allowed_and_what_comes_twice_is_neutral() -> None:
    allowed = Expected("redundant_query", "doctor")
    verdict = judge("x", "k", [LOOP], [allowed], [found(), found(), found("redundant_query", None)])
    assert verdict.right


def test_a_finding_where_there_is_nothing_is_false() -> None:
    score = add_up([judge("x", "k", [], [], [found()]), judge("y", "k", [], [], [])])
    assert (score.false, score.precision, score.recall) == (1, 0.0, None)
    assert score.confusion == {(NOTHING, "n_plus_one"): 1, (NOTHING, NOTHING): 1}


def seen(number: int, *, at_s: float = 0.0, connection: int = 1, trace: str = "") -> Seen:
    text = f"SELECT a FROM t WHERE id = {number}"
    (one,) = seen_in_log(connection, text + (f" /*request_id='{trace}'*/" if trace else ""), (), at_s)
    return one


def test_identical_texts_count_within_a_second_over_all_connections() -> None:
    assert identical_texts([seen(1, at_s=n * 0.2, connection=n) for n in range(5)])
    assert not identical_texts([seen(1, at_s=n * 0.3) for n in range(5)])
    assert not identical_texts([seen(n) for n in range(5)])


def test_equal_templates_count_within_five_seconds_on_one_connection() -> None:
    assert equal_templates([seen(n, at_s=n * 1.2) for n in range(5)])
    assert not equal_templates([seen(n, at_s=n * 1.3) for n in range(5)])
    assert not equal_templates([seen(n, connection=n) for n in range(5)])


def test_parameter_sets_count_within_a_trace() -> None:
    assert distinct_parameters([seen(n, at_s=n * 0.05) for n in range(5)])
    assert not distinct_parameters([seen(1, at_s=n * 0.05) for n in range(9)])
    assert not distinct_parameters([seen(n, at_s=n * 0.2) for n in range(5)])
    assert distinct_parameters([seen(n, at_s=n * 0.2, connection=n, trace="r1") for n in range(5)])


def test_what_reads_no_table_is_not_counted() -> None:
    assert seen_in_log(1, "SELECT 1; BEGIN; SET x = 1", (), 0.0) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SELECT a FROM t WHERE id = 5", "SELECT a  FROM t WHERE id = $1 -- five"),
        ("SELECT a FROM t WHERE id IN (1, 2,3)", "SELECT a FROM t WHERE id IN ($1)"),
        ("INSERT INTO t VALUES (1, 'a;b'), (2, 'c')", "INSERT INTO t VALUES ($1, $2)"),
        ("INSERT INTO t VALUES ($1::INTEGER, $2::DATE), ($3::INTEGER, $4::DATE)", "INSERT INTO t VALUES ($1, $2)"),
    ],
)
def test_texts_that_differ_in_constants_are_alike(first: str, second: str) -> None:
    assert alike(first) == alike(second)


def test_tables_are_found_in_a_text() -> None:
    text = 'SELECT 1 FROM "public"."a" AS x, b JOIN c ON true WHERE EXISTS (SELECT 1 FROM D)'
    assert tables_of(text) == ("a", "c", "d")
    assert tables_of("SELECT s.id FROM student, enrolment WHERE 1 = 1") == ("student", "enrolment")
    assert tables_of("UPDATE course SET a = 1") == ("course",)


def logged(text: str, *parameters: str) -> Logged:
    return Logged(0.0, "s", text, parameters)


def test_what_grows_with_the_rows_is_the_label() -> None:
    def run(rows: int) -> list[Logged]:
        loop = [logged("SELECT b FROM child WHERE p = $1", str(n)) for n in range(rows)]
        flags = [logged("SELECT v FROM flag WHERE k = $1", "x")] * rows
        writes = [logged(f"UPDATE total SET n = {n} WHERE id = {n}") for n in range(rows)]
        return [logged("SELECT a FROM parent"), *loop, *flags, *writes, *[logged("BEGIN")] * rows]

    assert label(run(5), run(13), 8, {"child": "parent", "total": "parent"}) == [
        Expected("n_plus_one", "child", "parent"),
        Expected("redundant_query", "flag"),
        Expected("n_plus_one_write", "total", "parent"),
    ]


def test_what_runs_equally_often_has_no_label() -> None:
    small = [logged("SELECT a FROM parent WHERE id IN ($1, $2)", "1", "2")] * 3
    large = [logged("SELECT a FROM parent WHERE id IN ($1, $2, $3)", "1", "2", "3")] * 3
    assert label(small, large, 8, {}) == []
