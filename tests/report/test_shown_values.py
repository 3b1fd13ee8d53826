"""The query with the values of a loop: in a report that asks for values, whole, and in no other."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from pgloupe.report.model import Report
from pgloupe.report.render import FORMATS, render
from pgloupe.report.verdict import judge
from pgloupe_rules.types import Advice, Child, Confidence, Finding, Parent, Role, Sent, Severity, Stands

SECRET = "h1dden"
TEXTS = ("text", "markdown", "sarif", "junit")


def loop(key: str = SECRET, *, count: int = 6, sent: bool = True, parent: bool = True) -> Finding:
    keys = tuple((f"{key} {n}",) for n in range(count))
    return Finding(
        "n_plus_one",
        Severity.WARNING,
        Confidence.PROVEN,
        "c0ffee0000000001",
        "SELECT id FROM item WHERE name = $1",
        ("item",),
        count,
        count,
        3.0,
        count - 1,
        Parent("c0ffee0000000002", "SELECT name FROM list", ("list",), "name", count) if parent else None,
        Child(1, "name", varying=(1,)),
        Advice(
            "any_array",
            "SELECT name, id FROM item WHERE name = ANY($1)",
            f"Instead of {count} queries, one.",
            (Role(Stands.KEYS, 1),),
        ),
        sent=Sent("SELECT id FROM item WHERE name = 'x'", (1,), keys, count, False, count, ("x",)) if sent else None,
    )


def report(*findings: Finding, show_values: bool = True, checked: bool = True) -> dict[str, Any]:
    gathered = Report()
    gathered.add(findings)
    document = gathered.to_dict(statements=9, sessions=1, duration_s=1.0, show_values=show_values)
    return judge(document, failing=frozenset({"n_plus_one"}), watched=frozenset()) if checked else document


def written(document: dict[str, Any], form: str, encoding: str = "utf-8") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    render(document, form, stream)
    stream.seek(0)
    return stream.read()


def advice(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["findings"][0]["advice"]
    return found


def test_the_example_is_in_a_report_with_values_alone() -> None:
    assert advice(report(loop(count=2)))["example"] == (
        f"""SELECT name, id FROM item WHERE name = ANY('{{"{SECRET} 0","{SECRET} 1"}}');"""
    )
    hidden = report(loop(), show_values=False)
    assert "example" not in advice(hidden)
    assert "values" not in hidden
    for form in FORMATS:
        assert SECRET not in written(hidden, form)
    assert SECRET not in json.dumps(hidden)


def test_without_values_there_is_no_example() -> None:
    document = report(loop(sent=False))
    assert "example" not in advice(document)
    assert document["values"] is True


def test_the_values_are_of_the_unit_of_work_that_the_advice_is_of() -> None:
    for findings in ([loop("small", count=3), loop("large")], [loop("large"), loop("small", count=3)]):
        assert "large" in advice(report(*findings))["example"]
        assert "small" not in advice(report(*findings))["example"]


@pytest.mark.parametrize("more", [2, 9])
def test_values_that_another_unit_of_work_lacked_are_taken_where_the_advice_is_the_same(more: int) -> None:
    for findings in ([loop(sent=False, count=more), loop("known")], [loop("known"), loop(sent=False, count=more)]):
        assert "known 0" in advice(report(*findings))["example"]
    other = loop(sent=False, count=more)
    other.advice = Advice("join", "SELECT 1", "Join.")
    for findings in ([other, loop("known")], [loop("known"), other]):
        shown = advice(report(*findings))
        assert ("example" in shown) is (shown["kind"] == "any_array")


@pytest.mark.parametrize("form", TEXTS)
def test_the_query_is_in_one_line_and_whole(form: str) -> None:
    document = report(loop("two  blanks and a word", count=150))
    example = advice(document)["example"]
    out = written(document, form)
    if form == "sarif":
        out = json.loads(out)["runs"][0]["results"][0]["message"]["text"]
    assert len(example) > 3000
    assert sum(example in line for line in out.splitlines()) == 1


@pytest.mark.parametrize("form", ["text", "markdown"])
def test_a_query_that_the_stream_cannot_write_is_left_out(form: str) -> None:
    document = report(loop("größe"))
    assert "größe 0" in written(document, form)
    assert "gr" not in written(document, form, "ascii").replace("group", "")
    assert "größe 0" in written(document, form, "latin-1")


@pytest.mark.parametrize("form", TEXTS)
def test_controls_in_values_reach_no_terminal(form: str) -> None:
    out = written(report(loop("\x1b[31m\u202e\x07")), form)
    assert not {"\x1b", "\u202e", "\x07", "\ufffd"} & set(out)
    assert "u001b[31m" in out


def test_the_text_says_how_to_get_values_where_they_would_say_more() -> None:
    hint = "--show-values adds each query with its values, to paste into psql."
    assert written(report(loop(), loop(parent=False), show_values=False), "text").splitlines()[-1] == hint
    assert written(report(loop(), show_values=False), "text").count(hint) == 1
    assert hint not in written(report(loop()), "text")
    assert hint not in written(report(loop(), show_values=False, checked=False), "text")
    bare = loop()
    bare.advice = Advice("any_array", "", "Ask once.")
    assert hint not in written(report(bare, show_values=False), "text")
    assert hint not in written(report(show_values=False), "text")
