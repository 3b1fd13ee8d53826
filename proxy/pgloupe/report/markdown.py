"""The report as Markdown, for the summary of a CI job or a comment on a pull request.

A table first where there are several findings, then a section for each that is new; what is known, fixed or not needed any more
is a line each. GitHub takes comments of 65,536 characters, so sections that would go over that are left out and counted.

What comes from the application stands in fences or code spans that are longer than any run of backticks in it, so it can
neither end them nor be read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pgloupe.report.wording import (
    example,
    figures,
    fixed,
    headline,
    judged,
    link,
    milliseconds,
    one_line,
    place_figures,
    place_headline,
    places,
    plural,
    printable,
    samples,
    summary,
    tags,
    title,
    unused,
    verdict,
)

MAX_SQL_CHARACTERS: Final = 2_000
MAX_CHARACTERS: Final = 60_000
MAX_ROWS: Final = 40
"""Rows of the table, and lines of each list."""
MAX_LINE: Final = 250

_BACKTICKS: Final = re.compile("`+")
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|~!&])")


def _longest_run(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)


def code(text: str) -> str:
    """A code span."""
    line = one_line(text)
    marks = "`" * (_longest_run(line) + 1)
    return f"{marks} {line} {marks}" if len(marks) > 1 else f"`{line}`"


def fence(text: str, language: str = "sql", limit: int | None = MAX_SQL_CHARACTERS) -> list[str]:
    """A fenced block."""
    marks = "`" * max(3, _longest_run(text) + 1)
    return [marks + language, printable(text, limit), marks]


def prose(text: str) -> str:
    """Text from elsewhere with nothing in it that is markup."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def render(report: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """The report that `Report.to_dict` gives, for a stream of this encoding."""
    lines = ["## pgloupe", "", prose(summary(report)), ""]
    if verdict(report):
        lines += [f"**{prose(verdict(report))}**", ""]
    new = [finding for finding, _ in judged(report, "new")]
    over = places(report, "new")
    if len(new) > 1:
        lines += [*_table(new), ""]
    sections = [_finding(number, finding, encoding) for number, finding in enumerate(new, 1)]
    sections += [_place(place, report["budget"]["max_queries"]) for place in over]
    known = [
        f"{prose(title(finding['rule']))}: {prose(one_line(headline(finding), MAX_LINE))} {code(one_line(finding['fingerprint'], 80))}"
        for finding, _ in judged(report, "known")
    ]
    known += [
        prose(one_line(place_headline(place, report["budget"]["max_queries"]), MAX_LINE))
        for place in places(report, "known")
    ]
    end = _list("Known", known)
    end += _list("Fixed", [prose(one_line(line, MAX_LINE)) for line in fixed(report)])
    end += _list("Unused, to be deleted", [prose(one_line(line, MAX_LINE)) for line in unused(report)])
    room = MAX_CHARACTERS - sum(len(line) + 1 for line in [*lines, *end])
    for number, section in enumerate(sections):
        room -= sum(len(line) + 1 for line in section)
        if room < 0:
            lines += [f"{plural(len(sections) - number, 'further section')} left out for length.", ""]
            break
        lines += section
    return "\n".join([*lines, *end]).rstrip() + "\n"


def _table(findings: list[Mapping[str, Any]]) -> list[str]:
    lines = ["| | finding | per unit | round trips | time |", "|--:|---|--:|--:|--:|"]
    for number, finding in enumerate(findings[:MAX_ROWS], 1):
        cells = (
            f"{number}",
            f"{prose(title(finding['rule']))}: {prose(one_line(headline(finding), MAX_LINE))}",
            f"{finding['count']:,}",
            f"{finding['avoidable_round_trips']:,}",
            milliseconds(finding["total_ms"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    if len(findings) > MAX_ROWS:
        lines.append(f"| | and {len(findings) - MAX_ROWS:,} more | | | |")
    return lines


def _list(heading: str, items: list[str]) -> list[str]:
    if not items:
        return []
    lines = [f"### {heading}", "", *(f"- {item}" for item in items[:MAX_ROWS])]
    if len(items) > MAX_ROWS:
        lines.append(f"- and {len(items) - MAX_ROWS:,} more")
    return [*lines, ""]


def _finding(number: int, finding: Mapping[str, Any], encoding: str) -> list[str]:
    lines = [f"### {number}. {prose(title(finding['rule']))}: {prose(headline(finding))}", ""]
    lines += [f"- {prose(finding['severity'])}, {prose(finding['confidence'])}", f"- {figures(finding)}"]
    columns = link(finding)
    if columns:
        lines.append(f"- {code(columns)}")
    lines += [f"- {prose(name)}: {code(values)}" for name, values in tags(finding)]
    lines += [f"- fingerprint {code(finding['fingerprint'])}", ""]
    parent = finding["parent"]
    if parent is not None:
        lines += [f"Parent, {parent['rows']:,} rows:", "", *fence(parent["template"]), "", "Child:", ""]
    lines += [*fence(finding["template"]), ""]
    for sample in samples(finding):
        lines += ["Sample:", "", *fence(sample), ""]
    advice = finding["advice"]
    if advice is not None:
        lines += [f"**Instead:** {prose(advice['text'])}", ""]
        if advice["sql"]:
            lines += [*fence(advice["sql"]), ""]
        query = example(finding, encoding)
        if query:
            lines += ["In psql, with the values of this run:", "", *fence(query, limit=None), ""]
    return lines


def _place(place: Mapping[str, Any], max_queries: int) -> list[str]:
    lines = [f"### Query budget: {prose(place_headline(place, max_queries))}", "", f"- {place_figures(place)}"]
    lines += [f"- {prose(name)}: {code(values)}" for name, values in tags(place)]
    lines.append("")
    for template in place["templates"]:
        lines += [f"{template['count']:,} times:", "", *fence(template["template"]), ""]
    return lines
