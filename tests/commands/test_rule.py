"""`pgloupe rule`: the documentation of the rules."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from pgloupe.report import rule_docs
from pgloupe.report.ignores import RULES
from pgloupe_rules.engine import Settings, default_rules
from support.proxy import pgloupe

ROOT = Path(__file__).parents[2]


def test_without_a_name_each_rule_is_a_line() -> None:
    done = pgloupe("rule")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(RULES)
    assert "One query per row of an earlier result" in done.stdout


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_printed_as_its_file_has_it(name: str) -> None:
    done = pgloupe("rule", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}: ")
    for heading in ("What it does", "Why it is bad", "Example", "Use instead"):
        assert f"\n\n{heading}\n    " in done.stdout
    assert "\x1b" not in done.stdout


def test_a_wrong_name_names_the_nearest_and_the_rules_there_are() -> None:
    known = "The rules are n_plus_one, n_plus_one_write, redundant_query, slow_query"
    for wrong, right in (("n-plus-one", "n_plus_one"), ("redundant", "redundant_query"), ("slow", "slow_query")):
        done = pgloupe("rule", wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"pgloupe: there is no rule {wrong!r}; did you mean {right!r}? {known}\n"
    assert pgloupe("rule", "zzz").stderr == f"pgloupe: there is no rule 'zzz'; {known}\n"
    assert pgloupe("rule", "nope").stderr.endswith(f"? {known}\n")


def test_what_is_documented_is_what_the_engine_runs_and_what_may_fail_a_check() -> None:
    assert tuple(rule_docs.FILES) == RULES
    assert [rule.name for rule in default_rules(Settings(slow_ms=1))] == list(RULES)
    assert [doc.name for doc in rule_docs.all_docs()] == list(RULES)


def test_a_terminal_gets_headings_and_colours() -> None:
    stream = io.StringIO()
    rule_docs.show("n_plus_one", Console(file=stream, force_terminal=True, color_system="standard", width=80))
    assert "\x1b[" in stream.getvalue()
    out = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()).split())
    assert "Use instead A join, or one query for all keys: SELECT id, name FROM author WHERE id = ANY($1)." in out


def test_the_page_in_docs_is_the_one_that_the_command_prints() -> None:
    done = pgloupe("rule", "--markdown")
    page = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
    assert page == done.stdout, "pgloupe rule --markdown > docs/rules.md"
