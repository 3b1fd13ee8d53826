"""Each format holds what a reader needs, is valid whatever the application sent, and leaks no values."""

from __future__ import annotations

import io
import json
import re
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from pgloupe.report import junit, markdown, sarif, text
from pgloupe.report.render import FORMATS, render
from pgloupe.report.wording import milliseconds, one_line, plural, printable
from support.reports import HOSTILE, empty, full, hostile

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def as_text(report: dict[str, Any], width: int = 80, encoding: str = "utf-8") -> str:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding, newline="")
    text.render(report, Console(file=stream, width=width))
    stream.flush()
    return buffer.getvalue().decode(encoding)


def test_text_names_parent_child_cost_origin_and_the_query_to_write_instead() -> None:
    out = as_text(full())
    for part in (
        "ERROR  N+1 query, proven: comment is read once per row of post",
        "SELECT id, title FROM post WHERE author_id = $1",
        "SELECT id, body FROM comment WHERE post_id = $1",
        "post.id → comment.post_id",
        "up to 8 per unit of work in 3 units, 21 round trips to save, 13.5 ms",
        "route: /posts",
        "application_name: shop",
        "SELECT id, body, post_id FROM comment WHERE post_id = ANY($1)",
        "c0ffee0000000001",
    ):
        assert part in out
    assert out.index("N+1 query") < out.index("Redundant query") < out.index("Slow query")


def test_text_ends_with_one_sentence_that_adds_up() -> None:
    lines = " ".join(as_text(full()).split())
    assert lines.endswith(
        "3 findings (1 error, 1 warning, 1 note); 24 round trips could be saved. 1,234 statements in 4 sessions over 3.2 s."
    )


def test_text_says_so_when_nothing_was_found() -> None:
    out = " ".join(as_text(empty()).split())
    assert out == "Nothing found: no N+1, redundant or slow queries among 120 statements in 4 sessions over 3.2 s."


def test_text_says_so_when_no_statement_came_through() -> None:
    report = empty()
    report["statements"] = 0
    assert "No statement came through the proxy" in as_text(report)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_text_keeps_to_the_width_and_leaves_no_blanks_at_line_ends(width: int) -> None:
    report = full()
    report["findings"][0]["template"] = "SELECT " + ", ".join(f"column_{number}" for number in range(200))
    report["findings"][0]["parent"]["template"] = "SELECT " + "x" * 500
    for line in as_text(report, width).splitlines():
        assert len(line) <= width
        assert line == line.rstrip()


def test_text_without_a_terminal_has_no_escape_sequences_and_with_one_it_has_colour() -> None:
    assert "\x1b" not in as_text(full())
    stream = io.StringIO()
    text.render(
        full(), Console(file=stream, force_terminal=True, color_system="standard", width=80, legacy_windows=False)
    )
    assert "\x1b[" in stream.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue()) == as_text(full())
    assert "\x1b[4;" not in stream.getvalue()  # how the highlighter underlines what it takes for an error: $1 is none


def test_text_of_hostile_statements_reaches_the_terminal_harmless() -> None:
    assert CONTROL.search(as_text(hostile()).replace("\n", "")) is None


def test_text_is_written_in_encodings_that_lack_its_characters() -> None:
    report = full()
    report["findings"][0]["tables"] = ["größe"]
    assert "post.id -> gr??e.post_id" in as_text(report, encoding="ascii")


def test_text_shows_the_query_to_write_instead_whole_however_long() -> None:
    report = full()
    columns = [f"column_{number}" for number in range(1000)]
    report["findings"][0]["advice"]["sql"] = "SELECT " + ", ".join(columns)
    assert all(column in as_text(report) for column in (columns[0], columns[-1]))


@pytest.mark.parametrize("width", [40, 80])
def test_text_cuts_nothing_off_a_statement_that_is_longer_than_the_line(width: int) -> None:
    report = full()
    sql = (
        "SELECT id, body, post_id FROM comment WHERE post_id = ANY($1) AND approved AND NOT hidden ORDER BY created_at"
    )
    for one in (report["findings"][0], report["findings"][0]["parent"]):
        one["template"] = sql
    report["findings"][0]["advice"]["sql"] = sql
    assert " ".join(as_text(report, width).split()).count(sql) == 3


def test_text_does_not_read_markup_in_statements() -> None:
    report = full()
    report["findings"][0]["template"] = "SELECT '[bold]x[/bold]'::text[1] :smile:"
    assert "SELECT '[bold]x[/bold]'::text[1] :smile:" in as_text(report)


def test_samples_are_shown_where_they_say_more_than_the_template() -> None:
    report = full()
    assert "sample" not in as_text(report)
    report["findings"][0]["template"] = "SELECT " + "x" * 10_000
    report["findings"][0]["samples"] = [report["findings"][0]["template"][:4000]]
    assert "sample" not in as_text(report)
    report["findings"][0]["samples"] = ["SELECT id FROM comment WHERE post_id = 17"]
    assert "sample   SELECT id FROM comment WHERE post_id = 17" in as_text(report)
    assert "SELECT id FROM comment WHERE post_id = 17" in markdown.render(report)


def test_markdown_names_each_finding_and_fences_sql() -> None:
    out = markdown.render(full())
    assert "### 1. N+1 query: comment is read once per row of post" in out
    assert "```sql\nSELECT id, body, post_id FROM comment WHERE post_id = ANY($1)\n```" in out
    assert "- `post.id → comment.post_id`" in out
    assert "- route: `/posts`" in out
    assert "Parent, 8 rows:" in out
    assert "Nothing found" in markdown.render(empty())


def test_markdown_of_hostile_statements_is_only_text_and_code() -> None:
    out = markdown.render(hostile())
    assert CONTROL.search(out.replace("\n", "")) is None
    tokens = MarkdownIt("commonmark").parse(out)
    kinds = {child.type for token in tokens for child in (token, *(token.children or ()))}
    assert not kinds & {"html_block", "html_inline", "em_open", "link_open", "image"}
    bold = [token.content for token in tokens if any(child.type == "strong_open" for child in token.children or ())]
    assert len(bold) == 1
    assert bold[0].startswith("**Instead:**")
    assert len([token for token in tokens if token.type == "heading_open"]) == 2
    fences = [token.content for token in tokens if token.type == "fence"]
    assert len(fences) == 4
    assert all(content.startswith("a\ufffd[31m") for content in fences)


def test_sarif_results_refer_to_their_rules() -> None:
    log = json.loads(sarif.render(full()))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [
        "n_plus_one",
        "n_plus_one_write",
        "redundant_query",
        "slow_query",
        "max_queries",
    ]
    assert all(rule["help"]["text"] and rule["shortDescription"]["text"] for rule in rules)
    assert [result["level"] for result in run["results"]] == ["error", "warning", "note"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert all(result["partialFingerprints"].values())
    assert "post_id = ANY($1)" in run["results"][0]["message"]["text"]
    assert json.loads(sarif.render(empty()))["runs"][0]["results"] == []


def test_sarif_points_at_the_file_and_line_that_tags_name() -> None:
    report = full()
    finding = report["findings"][0]
    finding["tags"] = {"code.filepath": ["shop/my views.py"], "code.lineno": ["42"]}
    location = json.loads(sarif.render(report))["runs"][0]["results"][0]["locations"][0]
    assert location["physicalLocation"] == {
        "artifactLocation": {"uri": "shop/my%20views.py"},
        "region": {"startLine": 42},
    }
    finding["tags"] = {"code.filepath": ["a.py"], "code.lineno": ["42", "43"]}
    location = json.loads(sarif.render(report))["runs"][0]["results"][0]["locations"][0]
    assert location["physicalLocation"] == {"artifactLocation": {"uri": "a.py"}}
    finding["tags"] = {}
    location = json.loads(sarif.render(report))["runs"][0]["results"][0]["locations"][0]
    assert location["logicalLocations"][0]["fullyQualifiedName"] == "c0ffee0000000001"
    assert "physicalLocation" not in location


def test_sarif_lists_a_rule_that_it_does_not_know() -> None:
    run = json.loads(sarif.render(hostile()))["runs"][0]
    assert run["tool"]["driver"]["rules"][run["results"][0]["ruleIndex"]]["id"] == HOSTILE


def test_junit_has_a_failed_case_for_each_finding() -> None:
    root = ET.fromstring(junit.render(full()))
    assert (root.get("tests"), root.get("failures")) == ("3", "3")
    cases = root.findall("./testsuite/testcase")
    assert [case.get("classname") for case in cases] == [
        "pgloupe.n_plus_one",
        "pgloupe.redundant_query",
        "pgloupe.slow_query",
    ]
    assert len({case.get("name") for case in cases}) == 3
    failure = cases[0].find("failure")
    assert failure is not None
    assert "post_id = ANY($1)" in (failure.text or "")
    assert all(case.find("failure") is not None for case in cases)


def test_junit_has_one_passing_case_where_nothing_was_found() -> None:
    root = ET.fromstring(junit.render(empty()))
    assert (root.get("tests"), root.get("failures")) == ("1", "0")
    (case,) = root.findall("./testsuite/testcase")
    assert case.find("failure") is None


def test_junit_of_hostile_statements_is_well_formed() -> None:
    root = ET.fromstring(junit.render(hostile()))
    (failure,) = root.iter("failure")
    assert "</failure>]]> <b>" in (failure.text or "")


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_format_is_written_whatever_the_report_and_the_encoding(format: str, encoding: str) -> None:
    for report in (empty(), full(), hostile()):
        buffer = io.BytesIO()
        stream = io.TextIOWrapper(buffer, encoding=encoding)
        render(report, format, stream)
        stream.flush()
        out = buffer.getvalue().decode(encoding)
        assert out.endswith("\n")
        if format in ("json", "sarif"):
            json.loads(out)
        if format == "json":
            assert json.loads(out) == report
        if format == "junit":
            ET.fromstring(out)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="yaml"):
        render(full(), "yaml", io.StringIO())


def test_what_does_not_print_is_replaced_and_long_text_is_cut() -> None:
    assert printable("a\x1bb\tc\nd\x9b\udc80") == "a\ufffdb\tc\nd\ufffd\ufffd"
    assert printable("abcdef", 4) == "abc…"
    assert one_line(" a\n\t b ") == "a b"


def test_numbers_read_well() -> None:
    assert (plural(1, "query"), plural(2, "query"), plural(1200, "round trip")) == (
        "1 query",
        "2 queries",
        "1,200 round trips",
    )
    assert [milliseconds(value) for value in (0.0123, 2.0, 13.46, 1234.5, 12_345.6)] == [
        "0.0123 ms",
        "2 ms",
        "13.5 ms",
        "1,234 ms",
        "12.3 s",
    ]
