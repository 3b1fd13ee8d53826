"""The judge finds each kind of violation in a history written by hand, and nothing in a legal one."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tests.checker.history import History, Kind, Operation, Outcome
from tests.checker.judge import judge

BOUND_S = 10.0


def read(begin_s: float, end_s: float, value: int | None, session: int = 1, **fields: Any) -> Operation:
    return Operation(session, Kind.READ, "r", begin_s, end_s, value=value, **fields)


def write(begin_s: float, end_s: float, value: int | None, session: int = 9, **fields: Any) -> Operation:
    return Operation(session, Kind.WRITE, "r", begin_s, end_s, value=value, **fields)


def kinds(*operations: Operation, state: bool = False) -> list[str]:
    history = History({} if state else {"r": 0}, {"r": 0} if state else {}, list(operations))
    return [violation.kind for violation in judge(history, bypass_bound_s=BOUND_S)]


def test_a_read_older_than_an_acknowledged_write_is_stale() -> None:
    assert kinds(write(1, 2, 1), read(3, 4, 0)) == ["stale"]


def test_a_read_that_began_before_the_acknowledgement_may_be_old_or_new() -> None:
    for value in (0, 1):
        assert kinds(write(1, 3, 1), read(2, 4, value)) == []


def test_the_largest_acknowledged_write_counts_whichever_ended_last() -> None:
    assert kinds(write(1, 2, 2), write(1, 3, 1), read(4, 5, 1)) == ["stale"]
    assert kinds(write(1, 2, 2), write(1, 3, 1), read(4, 5, 2)) == []


def test_a_write_that_does_not_tell_its_value_still_raises() -> None:
    assert kinds(write(1, 2, 5, step=5), write(3, 4, None), read(5, 6, 5)) == ["stale"]
    assert kinds(write(1, 2, 5, step=5), write(3, 4, None), read(5, 6, 6)) == []
    assert kinds(write(3, 4, None, step=3), read(5, 6, 2)) == ["stale"]


def test_two_writes_at_a_time_that_do_not_tell_their_values_raise_by_one_at_least() -> None:
    assert kinds(write(1, 3, None), write(2, 4, None), read(5, 6, 1)) == []
    assert kinds(write(1, 3, None), write(2, 4, None), read(5, 6, 0)) == ["stale"]


def test_a_write_of_unknown_outcome_may_have_happened_now_later_or_never() -> None:
    unknown = write(1, 2, None, outcome=Outcome.UNKNOWN)
    assert kinds(unknown, read(3, 4, 0)) == []
    assert kinds(unknown, read(3, 4, 1)) == []
    assert kinds(unknown, read(3, 4, 0), read(100, 101, 1)) == []


def test_what_one_session_has_seen_does_not_go_back() -> None:
    unknown = write(1, 2, None, outcome=Outcome.UNKNOWN)
    assert kinds(unknown, read(3, 4, 1), read(5, 6, 0)) == ["went back"]
    assert kinds(unknown, read(3, 4, 1), read(5, 6, 0, session=2)) == []
    assert kinds(unknown, read(3, 4, 1), read(5, 6, 1), read(7, 8, 0)) == ["went back"]


def test_a_rolled_back_write_has_not_happened() -> None:
    rolled_back = write(1, 2, 1, outcome=Outcome.ROLLED_BACK)
    assert kinds(rolled_back, read(3, 4, 0)) == []
    assert kinds(rolled_back, read(3, 4, 1)) == ["from nowhere"]


def test_a_value_that_nobody_wrote_is_from_nowhere() -> None:
    assert kinds(read(1, 2, 1), write(3, 4, 1)) == ["from nowhere"]
    assert kinds(write(1, 4, 1), read(2, 3, 1)) == []
    assert kinds(write(1, 2, 1), read(3, 4, 1_000_000)) == ["from nowhere"]


def test_the_row_of_another_register_is_anothers_answer() -> None:
    assert kinds(read(1, 2, 0, shown="q")) == ["another's answer"]


def test_an_empty_answer_is_legal_only_while_a_write_empties_the_table() -> None:
    assert kinds(read(1, 2, None)) == ["vanished"]
    assert kinds(write(1, 5, 1), read(2, 3, None)) == ["vanished"]
    assert kinds(write(1, 5, 1, vanishing=True), read(2, 3, None)) == []
    assert kinds(write(1, 5, 1, vanishing=True), read(6, 7, None)) == ["vanished"]
    unknown = write(1, 5, 1, vanishing=True, outcome=Outcome.UNKNOWN)
    assert kinds(unknown, read(6, 7, None)) == []


def test_a_transaction_sees_exactly_what_it_wrote_and_that_is_nobodys_business() -> None:
    assert kinds(read(1, 2, 4, own=4), read(3, 4, 0)) == []
    assert kinds(read(1, 2, 3, own=4)) == ["own write unseen"]


def test_a_bypassing_write_is_seen_within_the_bound() -> None:
    bypass = write(1, 2, 1, bypass=True)
    assert kinds(bypass, read(3, 4, 0), read(11, 12, 0)) == []
    assert kinds(bypass, read(3, 4, 1)) == []
    assert kinds(bypass, read(12.5, 13, 0)) == ["stale"]


def test_a_bypassing_write_that_was_seen_by_chance_may_be_unseen_within_the_bound() -> None:
    bypass = write(1, 2, 1, bypass=True)
    assert kinds(bypass, read(3, 4, 1), read(5, 6, 0)) == []
    assert kinds(bypass, read(3, 4, 1), read(14.5, 15, 0)) == ["stale", "went back"]


def test_a_state_is_that_of_the_last_write_or_of_one_that_may_be_under_way() -> None:
    assert kinds(read(1, 2, 0), state=True) == []
    assert kinds(read(1, 2, 1), state=True) == ["stale"]
    assert kinds(write(1, 2, 1), write(3, 4, 0), read(5, 6, 1), state=True) == ["stale"]
    assert kinds(write(1, 2, 1), write(3, 6, 0), read(5, 7, 1), read(5, 7, 0), state=True) == []
    assert kinds(write(1, 2, 1), read(3, 4, 0), state=True) == ["stale"]
    unknown = write(1, 2, 1, outcome=Outcome.UNKNOWN)
    assert kinds(unknown, read(3, 4, 0), read(5, 6, 1), state=True) == []
    assert kinds(write(1, 2, 1, outcome=Outcome.ROLLED_BACK), read(3, 4, 1), state=True) == ["stale"]


def test_a_violation_shows_the_history_around_it() -> None:
    history = History({"r": 0}, {}, [write(1, 2, 1), read(2.5, 2.6, 1), read(3, 4, 0), write(5, 6, 2)])
    (stale, back) = judge(history, bypass_bound_s=BOUND_S)
    assert (stale.kind, back.kind) == ("stale", "went back")
    assert stale.around == (history.operations[0], history.operations[1])
    assert "0, and 1 was acknowledged before" in str(stale)


@pytest.mark.parametrize("lag", [0, 3])
def test_a_register_that_is_simulated_is_legal_and_one_that_lags_is_not(lag: int) -> None:
    """Random histories of a number that changes at a moment within each write, read at a moment within each read."""
    chance = random.Random(7)
    violations = 0
    for _ in range(50):
        values = [0]
        operations: list[Operation] = []
        free_s = dict.fromkeys(range(4), 0.0)
        for step in range(200):
            session = chance.randrange(4)
            moment_s = float(step)
            begin_s = max(free_s[session], moment_s - chance.random() * 3)
            if begin_s > moment_s:
                continue
            end_s = moment_s + chance.random() * 3
            free_s[session] = end_s
            if chance.random() < 0.3:
                outcome = chance.choice(list(Outcome))
                if outcome is not Outcome.ROLLED_BACK and (outcome is Outcome.ACKNOWLEDGED or chance.random() < 0.5):
                    values.append(values[-1] + 1)
                operations.append(write(begin_s, end_s, None, session, outcome=outcome))
            else:
                operations.append(read(begin_s, end_s, values[max(0, len(values) - 1 - lag)], session))
        violations += len(kinds(*operations))
    assert (violations > 0) == (lag > 0)
