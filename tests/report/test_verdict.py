"""New, known and fixed findings, and how each format says which is which."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from pgloupe.errors import SettingsError
from pgloupe.report import baseline, github, junit, markdown, sarif, text
from pgloupe.report.ignores import RULES
from pgloupe.report.render import FORMATS, render
from pgloupe.report.verdict import judge
from pgloupe.report.wording import summary, verdict
from support.reports import HOSTILE, empty, full, hostile

ALL = frozenset(RULES)
PLACE: dict[str, Any] = {
    "id": "route=/posts",
    "queries": 51,
    "other_statements": 2,
    "occurrences": 3,
    "total_ms": 12.5,
    "tags": {"route": ["/posts"]},
    "templates": [
        {"fingerprint": "c" * 16, "template": "SELECT name FROM author WHERE id = $1", "count": 50, "total_ms": 9}
    ],
}


def with_budget(report: dict[str, Any], *places: dict[str, Any]) -> dict[str, Any]:
    return {**report, "budget": {"max_queries": 20, "units": 9, "over": [{**PLACE, **place} for place in places]}}


def known(report: dict[str, Any], tmp_path: Path) -> baseline.Baseline:
    """A report as the baseline, by way of its file."""
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(report))
    return baseline.load(str(path))


def judged(report: dict[str, Any], **options: Any) -> dict[str, Any]:
    return judge(report, **{"failing": ALL, "watched": ALL, **options})


def statuses(report: dict[str, Any]) -> list[tuple[str, bool]]:
    return [(one["status"], one["fails"]) for one in report["check"]["findings"]]


def changed(report: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The report with its first finding changed."""
    return {**report, "findings": [{**report["findings"][0], **changes}, *report["findings"][1:]]}


def as_text(report: dict[str, Any]) -> str:
    stream = io.StringIO()
    text.render(report, Console(file=stream, width=120))
    return stream.getvalue()


def test_findings_keep_their_form_and_the_verdict_stands_beside_them() -> None:
    report = full()
    out = judged(report)
    assert out["findings"] == report["findings"]
    assert out["check"] == {
        "failed": True,
        "fail_on": sorted(RULES),
        "command": 0,
        "unchecked": "",
        "findings": [
            {"id": "n_plus_one:c0ffee0000000001:post", "status": "new", "fails": True},
            {"id": "redundant_query:c0ffee0000000003", "status": "new", "fails": True},
            {"id": "slow_query:c0ffee0000000004", "status": "new", "fails": True},
        ],
    }
    assert out["baseline"] is None
    assert out["budget"] is None


def test_what_the_baseline_has_is_known_and_does_not_fail(tmp_path: Path) -> None:
    report = judged(full(), baseline=known(full(), tmp_path))
    assert statuses(report) == [("known", False)] * 3
    assert report["check"]["failed"] is False
    assert report["baseline"]["fixed"] == []


def test_what_the_baseline_lacks_is_new_and_what_is_gone_is_fixed(tmp_path: Path) -> None:
    before = full()
    before["findings"] = before["findings"][:2]
    now = full()
    now["findings"] = now["findings"][1:]
    report = judged(now, baseline=known(before, tmp_path))
    assert statuses(report) == [("known", False), ("new", True)]
    assert [finding["fingerprint"] for finding in report["baseline"]["fixed"]] == ["c0ffee0000000001"]
    assert (report["baseline"]["new"], report["baseline"]["known"]) == (1, 1)


def test_the_same_child_of_another_parent_is_new_unless_one_of_the_parents_was_not_known(tmp_path: Path) -> None:
    parent = full()["findings"][0]["parent"]
    other = {**parent, "tables": ["author"]}
    for before, now, status in (
        (parent, parent, "known"),
        (parent, other, "new"),
        (None, other, "known"),
        (parent, None, "known"),
        (None, None, "known"),
    ):
        report = judged(changed(full(), parent=now), baseline=known(changed(full(), parent=before), tmp_path))
        assert statuses(report)[0][0] == status
        assert bool(report["baseline"]["fixed"]) == (status == "new")


def test_what_is_ignored_now_or_was_not_looked_for_is_not_fixed(tmp_path: Path) -> None:
    nothing = empty()
    report = judged(
        nothing,
        baseline=known(full(), tmp_path),
        watched=ALL - {"slow_query"},
        ignored=[("n_plus_one", "c0ffee0000000001", ("post",))],
    )
    assert [finding["rule"] for finding in report["baseline"]["fixed"]] == ["redundant_query"]


def test_a_run_that_asked_nothing_fixes_nothing(tmp_path: Path) -> None:
    report = judged({**empty(), "statements": 0}, baseline=known(with_budget(full(), {}), tmp_path))
    assert report["baseline"]["fixed"] == report["baseline"]["fixed_places"] == []


def test_rules_that_do_not_fail_leave_the_check_passed() -> None:
    report = judged(full(), failing=frozenset({"n_plus_one_write"}))
    assert statuses(report) == [("new", False)] * 3
    assert verdict(report) == "Check passed: it fails on n_plus_one_write."


def test_a_place_over_the_budget_fails_and_is_known_while_it_gets_no_worse(tmp_path: Path) -> None:
    before = known(with_budget(empty(), {"queries": 60}, {"id": "route=/gone"}), tmp_path)
    for queries, status in ((51, "known"), (60, "known"), (61, "new")):
        report = judged(with_budget(empty(), {"queries": queries}), baseline=before, failing=frozenset())
        (place,) = report["budget"]["over"]
        assert (place["status"], place["fails"]) == (status, status == "new")
        assert report["check"]["failed"] == (status == "new")
        assert report["baseline"]["fixed_places"] == [{"id": "route=/gone", "queries": 51}]


def all_kinds(tmp_path: Path) -> dict[str, Any]:
    """A report with everything: new, known, fixed, ignored, an ignore that is not used, places new and known."""
    before = full()
    before["findings"] = [before["findings"][1], {**before["findings"][0], "tables": ["tag"], "fingerprint": "f" * 16}]
    before = with_budget(before, {"id": "route=/known", "queries": 30})
    now = with_budget(full(), {}, {"id": "route=/known", "queries": 30, "tags": {"route": ["/known"]}})
    rule = {"number": 1, "match": {"tables": ["tag"]}, "reason": "two at most", "findings": 0, "occurrences": 0}
    now["ignored"] = [
        {**rule, "used": False},
        {**rule, "number": 2, "match": {"tags": {"route": "/x"}}, "findings": 4, "used": True},
    ]
    return judged(now, baseline=known(before, tmp_path))


def test_the_summary_adds_up_what_is_new_known_fixed_ignored_and_over_the_budget(tmp_path: Path) -> None:
    report = all_kinds(tmp_path)
    assert summary(report) == (
        "3 findings (1 error, 1 warning, 1 note): 2 new, 1 known; 24 round trips could be saved. 1 of the baseline is fixed. "
        "4 findings ignored. 6 of 9 units of work over the budget of 20 queries. 1,234 statements in 4 sessions over 3.2 s."
    )
    assert verdict(report) == "Check failed: 2 new findings and 1 place over the query budget."
    assert verdict({**report, "check": {**report["check"], "command": 7}}) == (
        "The command ended with 7; 2 new findings and 1 place over the query budget."
    )
    assert summary(judged(with_budget(empty()))).endswith("None of 9 units of work over the budget of 20 queries.")
    assert verdict(judged(empty())) == "Check passed."
    ignored = {"number": 1, "match": {}, "reason": "r", "findings": 1, "occurrences": 1, "used": True}
    assert summary(judged({**empty(), "ignored": [ignored]})).startswith("Nothing else found: no N+1")


def test_text_shows_new_ones_whole_and_the_others_as_a_line(tmp_path: Path) -> None:
    out = as_text(all_kinds(tmp_path))
    lines = out.splitlines()
    assert out.index("ERROR  N+1 query") < out.index("BUDGET  route /posts needs 51 queries, 20 are allowed")
    assert "  most     50 x SELECT name FROM author WHERE id = $1" in lines
    assert (
        "  cost     in 3 units of work, 12.5 ms in the worst, beside 2 statements for transactions and settings"
        in lines
    )
    known_line = "Redundant query: setting is read again with the same parameters [c0ffee0000000003]"
    assert f"  known    {known_line}" in lines
    assert "           route /known needs 30 queries, 20 are allowed" in lines
    assert "  fixed    N+1 query: tag is read once per row of post [ffffffffffffffff]" in lines
    flat = " ".join(out.split())
    assert '[[ignore]] rule 1 (tables = ["tag"]; reason: two at most): matched nothing, delete it' in flat
    assert lines[-2:] == [
        "Check failed: 2 new findings and 1 place over the query budget.",
        "--show-values adds each query with its values, to paste into psql.",
    ]


def test_markdown_has_a_table_and_lists(tmp_path: Path) -> None:
    out = markdown.render(all_kinds(tmp_path))
    assert "**Check failed: 2 new findings and 1 place over the query budget.**" in out
    assert "| 1 | N+1 query: comment is read once per row of post | 8 | 21 | 13.5 ms |" in out
    assert "### Query budget: route /posts needs 51 queries, 20 are allowed" in out
    assert "- Redundant query: setting is read again with the same parameters `c0ffee0000000003`" in out
    known_part = out.partition("### Known\n")[2]
    assert "### Fixed\n\n- N+1 query: tag is read once per row of post" in known_part
    assert "### Unused, to be deleted" in known_part
    assert "### 3." not in out


def test_markdown_fits_into_a_comment_on_github_and_says_what_it_left_out() -> None:
    report = full()
    report["findings"] = report["findings"][:1] * 500
    out = markdown.render(judged(report))
    assert len(out) <= 65_536
    shown = out.count("\n### ")
    assert f"{500 - shown:,} further sections left out for length." in out
    assert "| | and 460 more | | | |" in out


def test_many_known_findings_do_not_fill_the_page(tmp_path: Path) -> None:
    report = full()
    report["findings"] = [
        {**report["findings"][0], "fingerprint": f"{number:016x}", "tables": ["t" * 80] * 3} for number in range(500)
    ]
    report = judged(report, baseline=known(report, tmp_path))
    assert as_text(report).count("N+1 query") == 20
    assert "           and 480 more" in as_text(report).splitlines()
    assert len(markdown.render(report)) < 20_000


def test_junit_skips_what_is_known_and_passes_what_is_fixed(tmp_path: Path) -> None:
    root = ET.fromstring(junit.render(all_kinds(tmp_path)))
    (suite,) = root
    cases = {
        case.get("classname", ""): "failure"
        if case.find("failure") is not None
        else "skipped"
        if len(case)
        else "passed"
        for case in suite.iter("testcase")
        if case.get("name") != "route /known"
    }
    assert cases == {
        "pgloupe.n_plus_one": "failure",
        "pgloupe.redundant_query": "skipped",
        "pgloupe.slow_query": "failure",
        "pgloupe.max_queries": "failure",
        "pgloupe.fixed": "passed",
    }
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6",
        "failures": "3",
        "errors": "0",
        "skipped": "2",
    }


def test_sarif_says_the_state_against_the_baseline(tmp_path: Path) -> None:
    (run,) = json.loads(sarif.render(all_kinds(tmp_path)))["runs"]
    assert [(result["ruleId"], result["baselineState"]) for result in run["results"]] == [
        ("n_plus_one", "new"),
        ("redundant_query", "unchanged"),
        ("slow_query", "new"),
        ("max_queries", "new"),
        ("max_queries", "unchanged"),
        ("n_plus_one", "absent"),
    ]
    assert run["results"][0]["partialFingerprints"] == {"pgloupe/v1": "n_plus_one:c0ffee0000000001:post"}
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    (plain,) = json.loads(sarif.render(judged(full())))["runs"]
    assert all("baselineState" not in result for result in plain["results"])


def test_github_gets_errors_for_what_fails_warnings_for_what_is_new_and_one_notice_for_what_is_known(
    tmp_path: Path,
) -> None:
    report = all_kinds(tmp_path)
    report["check"]["findings"][2]["fails"] = False
    lines = github.workflow_commands(report).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::error", "::warning", "::notice"]
    assert lines[0].startswith(
        "::error title=N+1 query%2C proven::comment is read once per row of post: up to 8 per unit"
    )
    assert "%0ASELECT id, body, post_id FROM comment WHERE post_id = ANY($1)%0A" in lines[0]
    assert lines[1].startswith("::error title=Query budget::route /posts needs 51 queries")
    assert lines[3].startswith("::notice title=pgloupe%3A known::2 findings of the baseline:%0Asetting is read again")


def test_github_is_told_file_and_line_where_tags_name_them() -> None:
    report = changed(full(), tags={"code.filepath": ["shop/a,b:c.py"], "code.lineno": ["42"]})
    assert github.workflow_commands(judged(report)).startswith("::error file=shop/a%2Cb%3Ac.py,line=42,title=")


def test_text_from_the_application_cannot_end_a_workflow_command_or_begin_one() -> None:
    report = judged(with_budget(hostile(), {"id": HOSTILE, "tags": {HOSTILE: [HOSTILE]}}))
    report["findings"][0]["template"] = "SELECT 100%0A\n::set-output name=x::y\r\n::stop-commands::z"
    report["findings"][0]["advice"]["sql"] = "a\n::error::b\rc"
    lines = github.workflow_commands(report).split("\n")
    assert [line.partition(" ")[0] for line in lines] == ["::error", "::warning", ""]
    assert "SELECT 100%250A ::set-output" in lines[1]
    assert not any("\r" in line for line in lines)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_of_a_hostile_report_against_a_hostile_baseline(format: str, tmp_path: Path) -> None:
    place = {"id": HOSTILE, "tags": {HOSTILE: [HOSTILE]}, "templates": [{**PLACE["templates"][0], "template": HOSTILE}]}
    # json.dumps writes a lone surrogate as an escape, and loads gives it back
    before = known(with_budget(changed(hostile(), fingerprint=HOSTILE + "2"), place, {"id": HOSTILE + "3"}), tmp_path)
    now = with_budget(hostile(), {**place, "queries": 99})
    now["ignored"] = [
        {"number": 1, "match": {"tables": [HOSTILE]}, "reason": HOSTILE, "findings": 0, "occurrences": 0, "used": False}
    ]
    report = judged(now, baseline=before)
    for encoding in ("utf-8", "ascii"):
        buffer = io.BytesIO()
        stream = io.TextIOWrapper(buffer, encoding=encoding)
        render(report, format, stream)
        stream.flush()
        out = buffer.getvalue().decode(encoding)
        assert "\x1b" not in out
        if format == "junit":
            ET.fromstring(out)
        elif format in ("json", "sarif"):
            json.loads(out)
        elif format == "markdown":
            tokens = MarkdownIt("commonmark").parse(out)
            kinds = {child.type for token in tokens for child in (token, *(token.children or ()))}
            assert not kinds & {"html_block", "html_inline", "em_open", "link_open", "image"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        ("", ["not JSON"]),
        ("{]", ["not JSON"]),
        ("[" * 100_000, ["not JSON"]),
        ("[]", ["not a report of pgloupe"]),
        ('{"findings": []}', ["not a report of pgloupe"]),
        ('{"version": 2, "findings": []}', ["its version is 2", "reads 1"]),
        ('{"version": 1, "findings": [1]}', ["not those of a report"]),
        ('{"version": 1, "findings": 7}', ["not those of a report"]),
        ('{"version": 1, "findings": [{"rule": "x"}]}', ["not those of a report"]),
        (
            '{"version": 1, "findings": [], "budget": {"over": [{"id": "a", "queries": "many"}]}}',
            ["not those of a report"],
        ),
        ('{"version": 1, "findings": [], "budget": []}', ["not those of a report"]),
    ],
)
def test_a_baseline_that_cannot_be_used_is_one_sentence_that_says_how_to_make_one(
    tmp_path: Path, content: str | None, words: list[str]
) -> None:
    path = tmp_path / "b.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        baseline.load(str(path))
    for word in (*words, f"--baseline {path}", f"pgloupe check --format json --output {path} -- CMD"):
        assert word in str(caught.value)


def test_of_a_baseline_only_version_findings_and_budget_are_needed(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"version": 1, "findings": full()["findings"]}))
    assert statuses(judged(full(), baseline=baseline.load(str(path)))) == [("known", False)] * 3
