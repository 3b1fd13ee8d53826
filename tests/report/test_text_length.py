"""The text report of a run with very much in it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pgloupe.report.model import Report
from pgloupe.report.text import MAX_BLOCKS, MAX_LINES, render
from pgloupe.report.wording import brief
from pgloupe_rules.types import Confidence, Finding, Severity

COLUMNS = ", ".join(f"page.column_{number}" for number in range(40))


def found(number: int, severity: Severity) -> Finding:
    return Finding(
        rule="n_plus_one",
        severity=severity,
        confidence=Confidence.LIKELY,
        fingerprint=f"{number:016x}",
        template=f"SELECT {COLUMNS} FROM page WHERE page.id = $1",
        tables=(f"page_{number}",),
        count=5,
        distinct_params=5,
        total_ms=float(number),
        avoidable_round_trips=4,
    )


def text_of(warnings: int, notes: int) -> str:
    report = Report()
    for number in range(notes):
        report.add([found(number, Severity.INFO)])
    for number in range(notes, notes + warnings):
        report.add([found(number, Severity.WARNING)])
    out = StringIO()
    render(report.to_dict(), Console(file=out, width=100))
    return out.getvalue()


def test_notes_come_last_in_a_line_each() -> None:
    text = text_of(1, 2)
    assert text.count("WARNING") == 1
    assert text.index("page_2") < text.index("  notes    N+1 query: page_1 is read row by row [0000000000000001]")
    assert "Of 3 findings 1 is shown in full; --format json has all." in text


def test_a_short_report_shows_everything_in_full() -> None:
    text = text_of(3, 0)
    assert text.count("WARNING") == 3
    assert "in full" not in text


def test_the_worst_are_shown_in_full_and_the_rest_in_lines() -> None:
    text = text_of(MAX_BLOCKS + MAX_LINES + 7, 0)
    assert text.count("WARNING") == MAX_BLOCKS
    assert f"  more     N+1 query: page_{MAX_LINES + 6} is read row by row" in text
    assert "           and 7 more" in text
    assert f"Of {MAX_BLOCKS + MAX_LINES + 7} findings {MAX_BLOCKS} are shown in full; --format json has all." in text


def test_what_comes_behind_a_long_list_of_columns_is_shown() -> None:
    assert "FROM page WHERE page.id = $1" in " ".join(text_of(1, 0).split())


@pytest.mark.parametrize(
    ("sql", "shown"),
    [
        ("SELECT a, b, c, d, e, f FROM t", "SELECT a, b, c, d, e, f FROM t"),
        ("SELECT a, b, c, d, e, f, g FROM t", "SELECT a, b, … FROM t"),
        ("SELECT t.a,  t.b,\nt.c AS x, t.d, t.e::int, t.f, t.g FROM t", "SELECT t.a, t.b, … FROM t"),
        ("INSERT INTO t (a, b, c, d, e, f, g) VALUES ($1, $2, $3, $4::date, $5, $6, $7)",
         "INSERT INTO t (a, b, …) VALUES ($1, $2, …)"),
        ('SELECT "t"."a", "t"."b", "t"."c", "t"."d", "t"."e", "t"."f", "t"."g" FROM "t"', 'SELECT "t"."a", "t"."b", … FROM "t"'),
        ("SELECT f(a), b FROM t", "SELECT f(a), b FROM t"),
    ],
)  # fmt: skip
def test_of_a_long_list_the_first_two_are_shown(sql: str, shown: str) -> None:
    assert brief(sql, 600) == shown


def test_what_is_still_too_long_is_cut() -> None:
    assert brief("SELECT " + "f(x) + " * 1000, 50) == ("SELECT " + "f(x) + " * 1000)[:49] + "…"
