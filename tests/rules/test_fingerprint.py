"""The memo of recognised query strings."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgloupe_rules.cacheable import EffectKind, effect_of
from pgloupe_rules.fingerprint import MAX_KEPT, Recognition
from pgloupe_rules.normalise import MAX_TEXT, recognise
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Recogniser, literal_values


def test_a_text_seen_again_is_the_same_object() -> None:
    recognition = Recognition()
    first = recognition("select 1")
    assert recognition("select 1") is first


def test_a_recognition_is_a_recogniser() -> None:
    recogniser: Recogniser = Recognition()
    assert recogniser(" ; ") == ()


def test_one_fingerprint_is_one_template() -> None:
    recognition = Recognition()
    found = [
        recognition(text)[0].template
        for text in ("select a from t where b = 1", "SELECT a FROM t WHERE (b = $1)", "select a from t where b = 'x'")
    ]
    found.append(recognition("begin; select a from t where b = 9")[1].template)
    assert len({id(template) for template in found}) == 1
    assert recognition.template(found[0].fingerprint) is found[0]


def test_texts_that_differ_in_literals_have_their_own_values() -> None:
    recognition = Recognition()
    for number in range(20):
        (found,) = recognition(f"select a from t where b = {number} and c in ('x{number}', -{number}) /*k='{number}'*/")
        assert literal_values(found.slots) == (number, (f"x{number}", -number))
        assert found.bare == f"select a from t where b = {number} and c in ('x{number}', -{number})"
        assert dict(found.tags) == {"k": str(number)}


def test_entries_are_bounded() -> None:
    recognition = Recognition(max_entries=10)
    for number in range(100):
        recognition(f"select a{number}")
    assert len(recognition) <= 10


def test_bytes_are_bounded() -> None:
    recognition = Recognition(max_entries=10_000, max_bytes=200_000)
    for number in range(500):
        recognition(f"select '{number}', '{'x' * 1000}'")
    assert 0 < len(recognition) <= 200


def test_long_texts_are_recognised_but_not_kept() -> None:
    recognition = Recognition()
    text = "select '" + "x" * MAX_KEPT + "'"
    assert recognition(text)[0].template.text == "SELECT $1"
    assert len(recognition) == 0
    assert len(recognition("x" * (MAX_TEXT + 1))) == 1
    assert len(recognition) == 0


def test_what_is_used_stays_while_others_pass() -> None:
    recognition = Recognition(max_entries=10)
    first = recognition("select b from t where c = 1")
    template = first[0].template
    for number in range(200):
        recognition(f"select a{number}")
        assert recognition("select b from t where c = 1") is first
        assert recognition(f"select b from t where c = {number}")[0].template is template


FORMS = st.sampled_from(
    [
        "select a from t where b = {0} and c = {1}",
        "select a from t where b in ({0}, {1}) offset {0} limit {1}",
        "insert into t values ({0}, {1}), ({1}, {0})",
        "select a - {0}, -{1}, a::varchar(10) from t",
        "update t set a = {0} /* c */ where b = {1} -- d",
        "set a = {0}, {1}",
        "select {0}{1}",
        "select x{0} {1} from t1",
        "select date {0}, e{1} \n {0}",
        "create table t (a int default {0}); select {1}",
        "select U&{0} uescape {1}",
        "select $1{0} $ {1}",
        "/* /* {0} */ */ select {1}",
    ]
)
LITERALS = st.sampled_from(
    [
        "1",
        "-1",
        "1.5",
        ".5",
        "1.",
        "'x'",
        "'it''s'",
        "$$q$$",
        "E'\\''",
        "null",
        '"q"',
        "0x1F",
        "'a'\n'b'",
        "$1",
        "/*x*/",
    ]
)


@given(st.lists(st.tuples(FORMS, LITERALS, LITERALS), min_size=1, max_size=12))
@settings(max_examples=300, deadline=None)
def test_the_memo_says_what_recognise_says(cases: list[tuple[str, str, str]]) -> None:
    recognition = Recognition(max_entries=8)
    for form, first, second in cases:
        text = form.format(first, second)
        known = recognition(text)
        plain = recognise(text)
        assert [item.template.fingerprint for item in known] == [item.template.fingerprint for item in plain]
        assert [item.slots for item in known] == [item.slots for item in plain]
        assert [item.bare for item in known] == [item.bare for item in plain]
        assert [dict(item.tags) for item in known] == [dict(item.tags) for item in plain]


def test_a_fingerprint_is_the_same_in_every_process() -> None:
    text = "select a from t where b = 5"
    code = f"from pgloupe_rules.normalise import recognise; print(recognise({text!r})[0].template.fingerprint)"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert runs == {recognise(text)[0].template.fingerprint + "\n"}


def test_a_failure_of_recognition_is_counted_and_gives_a_statement_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RecursionError

    recognition = Recognition()
    monkeypatch.setattr("pgloupe_rules.fingerprint.literals", fail)
    (item,) = recognition("SELECT 1")
    (other,) = recognition("SELECT 2")
    assert recognition.failures == 2
    assert item.template.fingerprint != other.template.fingerprint
    assert effect_of(item).kind is EffectKind.EVERYTHING
    assert not shape_of(item.template).parsed


def test_a_unicode_string_with_a_parameter_for_its_escape_is_no_failure() -> None:
    (item,) = Recognition()("select U&'x' uescape $1")
    assert item.template.fingerprint == recognise("select U&'x' uescape $1")[0].template.fingerprint
