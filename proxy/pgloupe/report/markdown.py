"""The report as Markdown, for the summary of a CI job or a comment on a pull request.

What comes from the application stands in fences or code spans that are longer than any run of backticks in it, so it can
neither end them nor be read as markup.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pgloupe.report.wording import figures, headline, link, one_line, printable, samples, summary, tags, title

MAX_SQL_CHARACTERS: Final = 2_000

_BACKTICKS: Final = re.compile("`+")
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|~!&])")


def _longest_run(text: str) -> int:
    return max((len(run) for run in _BACKTICKS.findall(text)), default=0)


def code(text: str) -> str:
    """A code span."""
    line = one_line(text)
    marks = "`" * (_longest_run(line) + 1)
    return f"{marks} {line} {marks}" if len(marks) > 1 else f"`{line}`"


def fence(text: str, language: str = "sql") -> list[str]:
    """A fenced block."""
    marks = "`" * max(3, _longest_run(text) + 1)
    return [marks + language, printable(text, MAX_SQL_CHARACTERS), marks]


def prose(text: str) -> str:
    """Text from elsewhere with nothing in it that is markup."""
    return _SPECIAL.sub(r"\\\1", one_line(text))


def render(report: Mapping[str, Any]) -> str:
    """The report that `Report.to_dict` gives."""
    lines = ["## pgloupe", "", summary(report), ""]
    for number, finding in enumerate(report["findings"], 1):
        lines += [f"### {number}. {prose(title(finding['rule']))}: {prose(headline(finding))}", ""]
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
    return "\n".join(lines).rstrip() + "\n"
