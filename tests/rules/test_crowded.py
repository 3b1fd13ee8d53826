"""Texts with more tokens than anybody waits for: bulk statements keep their template, the rest is not recognised."""

from __future__ import annotations

from itertools import islice

import pytest

from pgloupe_rules import normalise
from pgloupe_rules.cacheable import EffectKind, effect_of
from pgloupe_rules.fingerprint import Recognition
from pgloupe_rules.lexer import lex
from pgloupe_rules.normalise import MAX_TEXT, MAX_TOKENS, UNRECOGNISED, recognise
from pgloupe_rules.predicates import MAX_COMPARISONS
from pgloupe_rules.shape import shape_of
from pgloupe_rules.types import Kind, Recognised

ROWS = 6_000
BULK = {
    "rows of literals": ("insert into t (a, b) values {}", "(%d, 'x%d')", ", "),
    "rows of parameters": ("insert into t values {} on conflict do nothing", "($%d, $%d)", ","),
    "rows of both": ('INSERT INTO "T" VALUES\n{} returning id', "(%d , 'it''s', NULL, true, $%d,-1)", "\n,"),
    "a list": ("select * from t where id IN ({}) and b = 1", "%d%d", ", "),
    "an array": ("select * from t where id = any(array[{}])", "'%d%d'", ","),
    "rows to join with": ("select * from t join (values {}) as v (a, b) on t.a = v.a", "(%d, %d)", ","),
    "rows behind a comment": ("/* k='v' */ insert into t values {}", "(%d, %d)", ","),
}
ABSURD = {
    "open parentheses": "(" * 60_000,
    "matched parentheses": "SELECT " + "(" * 30_000 + "1" + ")" * 30_000,
    "semicolons": ";" * 60_000,
    "statements": "SELECT 1;" * 10_000,
    "columns": "SELECT " + ", ".join(f"c{n}" for n in range(10_000)) + " FROM t",
    "rows that call": "insert into t values " + ", ".join(f"({n}, f({n}))" for n in range(ROWS)),
    "rows and a write": "insert into t values " + ", ".join(f"({n}, 2)" for n in range(ROWS)) + "; delete from u",
    "rows in a name": 'insert into "values '
    + ",".join(f"(${n})" for n in range(ROWS))
    + '" values (1'
    + ", 2" * 20_000,
    "nested comments": "/* /* */ */ " + "a, " * 10_000,
    "minus signs": "- " * 20_000,
}


def both(text: str) -> Recognised:
    """What `recognise` and a `Recognition` say, which must be the same."""
    recognition = Recognition()
    (found,) = recognition(text)
    (again,) = recognition(text)
    (plain,) = recognise(text)
    for other in (again, plain):
        assert (other.template.text, other.template.fingerprint) == (found.template.text, found.template.fingerprint)
        assert (other.slots, other.bare, dict(other.tags)) == (found.slots, found.bare, dict(found.tags))
    assert recognition.failures == 0
    return found


@pytest.mark.parametrize("name", BULK)
def test_a_bulk_statement_has_the_template_of_a_short_one(name: str) -> None:
    form, item, comma = BULK[name]
    most = ROWS if len(item) > 20 else 2 * ROWS
    few, many = (form.format(comma.join(item % (n + 1, n + 2) for n in range(count))) for count in (3, most))
    assert len(lex(many)[0]) > MAX_TOKENS
    assert len(many) <= MAX_TEXT
    found = both(many)
    (short,) = recognise(few)
    assert found.template.text == short.template.text
    assert found.template.fingerprint == short.template.fingerprint
    assert found.template.placeholders == short.template.placeholders
    assert found.slots == ()
    assert found.tags == short.tags
    assert effect_of(found) == effect_of(short)
    assert shape_of(found.template).parsed


@pytest.mark.parametrize("name", ABSURD)
def test_an_absurd_text_is_not_recognised_and_may_do_anything(name: str) -> None:
    text = ABSURD[name]
    assert len(text) <= MAX_TEXT
    found = both(text)
    assert found.template.text.startswith(UNRECOGNISED)
    assert len(found.template.text) < 1_000 or name == "rows in a name"
    assert found.slots == ()
    assert found.bare == text
    assert effect_of(found).kind is EffectKind.EVERYTHING
    assert shape_of(found.template).kind is Kind.UNKNOWN


@pytest.mark.parametrize("name", ABSURD)
def test_of_an_absurd_text_no_more_tokens_are_looked_at_than_the_limit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def counting(text: str, most: int = 1 << 30) -> object:
        nonlocal seen
        tokens, comments = lex(text, most)
        seen += len(tokens)
        return tokens, comments

    monkeypatch.setattr(normalise, "lex", counting)
    recognise(ABSURD[name])
    assert seen <= 2 * (MAX_TOKENS + 1)


def test_a_chain_of_conditions_gives_a_bounded_number_of_predicates() -> None:
    (found,) = recognise("SELECT a FROM t WHERE " + " AND ".join(f"c{n} = {n}" for n in range(900)))
    predicates = shape_of(found.template).predicates
    assert len(predicates) == MAX_COMPARISONS
    assert [predicate.column for predicate in islice(predicates, 3)] == ["c0", "c1", "c2"]
