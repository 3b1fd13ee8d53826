"""The fingerprint against libpg_query's, over all pairs of a corpus.

The statements are in `corpus/*.sql`, one a line. A blank line ends a group; a line that begins with `--` is a remark.
`deliberate.sql` lists what is told apart here alone, `merged.sql` what is taken for one here alone; each group of
theirs has a heading `-- name: reason`, and must show the difference that it states.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from pathlib import Path

import postgast
import pytest

from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Recognised

CORPUS = Path(__file__).parent / "corpus"
EQUAL = ("orm.sql", "features.sql", "utility.sql")
Group = tuple[str, tuple[str, ...]]


def groups(name: str) -> list[Group]:
    """The groups of a corpus file, each with the remark before it."""
    out: list[Group] = []
    remark = ""
    lines: list[str] = []
    for line in [*(CORPUS / name).read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("--"):
            remark = line.removeprefix("--").strip()
        elif line:
            lines.append(line)
        elif lines:
            out.append((remark, tuple(lines)))
            lines = []
    return out


@cache
def theirs(statement: str) -> str:
    return postgast.fingerprint(statement).hex


@cache
def ours(statement: str) -> Recognised:
    (found,) = recognise(statement)
    return found


def fingerprint(statement: str) -> str:
    return ours(statement).template.fingerprint


def statements() -> list[str]:
    names = (*EQUAL, "deliberate.sql", "merged.sql")
    return list(dict.fromkeys(line for name in names for _, group in groups(name) for line in group))


def listed(name: str) -> set[frozenset[str]]:
    """The pairs that a file of differences lists, by both fingerprints of both statements."""
    return {
        frozenset((fingerprint(one) + theirs(one), fingerprint(other) + theirs(other)))
        for _, group in groups(name)
        for one, other in combinations(group, 2)
    }


def key(statement: str) -> str:
    return fingerprint(statement) + theirs(statement)


def test_corpus_is_broad() -> None:
    assert len(statements()) >= 300


@pytest.mark.parametrize(
    "group", [group for name in EQUAL for _, group in groups(name) if len(group) > 1], ids=lambda group: group[0][:60]
)
def test_variants_of_a_group_are_one_statement(group: tuple[str, ...]) -> None:
    assert len({theirs(line) for line in group}) == 1
    assert {fingerprint(line) for line in group} == {fingerprint(group[0])}
    assert {ours(line).template.placeholders for line in group} == {ours(group[0]).template.placeholders}


def test_what_is_one_statement_for_libpg_query_is_one_here_but_for_the_listed_differences() -> None:
    allowed = listed("deliberate.sql")
    wrong = [
        (one, other)
        for one, other in combinations(statements(), 2)
        if theirs(one) == theirs(other)
        and fingerprint(one) != fingerprint(other)
        and frozenset((key(one), key(other))) not in allowed
    ]
    assert wrong == []


def test_what_is_two_statements_for_libpg_query_is_two_here_but_for_the_listed_differences() -> None:
    allowed = listed("merged.sql")
    wrong = [
        (one, other)
        for one, other in combinations(statements(), 2)
        if theirs(one) != theirs(other)
        and fingerprint(one) == fingerprint(other)
        and frozenset((key(one), key(other))) not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("group", groups("deliberate.sql"), ids=lambda group: group[0])
def test_deliberate_difference_is_one(group: Group) -> None:
    name, lines = group
    assert ":" in name
    assert len(lines) > 1
    assert len({theirs(line) for line in lines}) == 1
    assert len({fingerprint(line) for line in lines}) == len(lines)


@pytest.mark.parametrize("group", groups("merged.sql"), ids=lambda group: group[0])
def test_deliberate_merger_is_one(group: Group) -> None:
    name, lines = group
    assert ":" in name
    assert len(lines) > 1
    assert len({fingerprint(line) for line in lines}) == 1
    assert len({theirs(line) for line in lines}) == len(lines)


def test_statements_of_one_fingerprint_have_the_same_placeholders() -> None:
    counts: dict[str, set[int]] = {}
    for line in statements():
        counts.setdefault(fingerprint(line), set()).add(ours(line).template.placeholders)
    assert [name for name, found in counts.items() if len(found) > 1] == []


def test_the_text_of_a_template_has_the_fingerprint_of_the_template() -> None:
    wrong = [line for line in statements() if fingerprint(ours(line).template.text) != fingerprint(line)]
    assert wrong == []


def test_the_text_of_a_query_template_is_sql_to_libpg_query() -> None:
    queries = ("select", "insert", "update", "delete", "merge", "values", "with", "table", "(")
    wrong = []
    for line in statements():
        if line.lower().startswith(queries):
            try:
                postgast.parse(ours(line).template.text)
            except postgast.PgQueryError as error:
                wrong.append((line, ours(line).template.text, str(error)))
    assert wrong == []
