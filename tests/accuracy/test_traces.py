"""Every trace of bench/accuracy through session and rules; the expectation is in the file."""

from __future__ import annotations

from collections import Counter

import pytest
from bench.accuracy.__main__ import TRACES
from bench.accuracy.evaluate import of_traces, play
from bench.accuracy.script import load_all
from bench.accuracy.trace import Trace
from bench.accuracy.verdict import NOTHING

ALL = load_all(TRACES)

SILENCE = "a silence ends a unit of work, though the values show that it goes on"
KNOWN = {
    "array_column": "the keys are inside of one value",
    "call_elsewhere_each_turn": SILENCE,
    "path_prefix": "the parameter is the value with something appended",
    "period_of_row": "ranges are not looked at",
    "sql_prepare": "EXECUTE names no table",
    "table_function": "a function that returns rows is no table",
    "three_levels": "two runs, with those of lower levels between them",
    "warm_up_half_second": SILENCE,
}
"""What pgloupe gets wrong today. The expectations are right: one that is met has to leave this list."""


def _case(trace: Trace) -> object:
    known = KNOWN.get(trace.name)
    marks = [] if known is None else [pytest.mark.xfail(strict=True, raises=AssertionError, reason=known)]
    return pytest.param(trace, id=trace.name, marks=marks)


@pytest.mark.parametrize("trace", [_case(trace) for trace in ALL])
def test_a_trace_gives_what_it_expects_and_nothing_else(trace: Trace) -> None:
    assert play(trace).faults() == []


def test_there_are_traces_of_every_class_and_their_names_differ() -> None:
    counts = Counter(trace.label for trace in ALL)
    assert counts["n_plus_one"] >= 40
    assert counts["n_plus_one_write"] >= 15
    assert counts["redundant_query"] >= 10
    assert counts[NOTHING] >= 60
    assert len({trace.name for trace in ALL}) == len(ALL)


def test_known_faults_are_those_of_traces_that_exist() -> None:
    assert set(KNOWN) <= {trace.name for trace in ALL}


def test_every_trace_has_the_same_statements_for_pgloupe_and_for_the_counting_rules() -> None:
    chosen = [trace for trace in ALL if trace.name in ("class_register", "status_tiles")]
    evaluation = of_traces(chosen)
    right = {name: [verdict.right for verdict in verdicts] for name, verdicts in evaluation.verdicts.items()}
    assert right["pgloupe"] == [True, True]
    assert right["five equal templates in five seconds, each connection"] == [True, False]
