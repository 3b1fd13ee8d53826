"""The report as workflow commands of GitHub Actions, which become annotations of the run and of the pull request.

What fails the check is an `::error`, what is new and does not fail a `::warning`; what is known shares one `::notice`. GitHub
shows ten of each per step, so the worst come first. Findings have a file and a line where tags of the statements name them
(`code.filepath`, `code.lineno`).

Escaping is that of @actions/core: in the message `%`, CR and LF, in properties `:` and `,` as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pgloupe.report.wording import (
    figures,
    headline,
    judged,
    one_line,
    place_figures,
    place_headline,
    places,
    plural,
    printable,
    source,
    summary,
    title,
    verdict,
)

MAX_SQL_CHARACTERS: Final = 1_000


def _message(text: str) -> str:
    return printable(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(one_line(text)).replace(":", "%3A").replace(",", "%2C")


def command(level: str, text: str, **properties: str) -> str:
    """One workflow command, without its end of line."""
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items() if value)
    return f"::{level}{' ' + shown if shown else ''}::{_message(text)}"


def workflow_commands(report: Mapping[str, Any]) -> str:
    """A workflow command for each finding and each place over the budget, and one where nothing was checked, a line each;
    "" where there is none."""
    lines = []
    for finding, one in judged(report, "new"):
        lines.append(_finding(finding, "error" if one["fails"] else "warning"))
    for place in places(report, "new"):
        lines.append(_place(place, report["budget"]["max_queries"]))
    lines.sort(key=lambda line: not line.startswith("::error"))
    if report.get("check") and not report["statements"]:
        lines.append(command("warning", verdict(report), title="pgloupe"))
    known = len(judged(report, "known")) + len(places(report, "known"))
    if known:
        sentences = [headline(finding) for finding, _ in judged(report, "known")]
        lines.append(
            command(
                "notice",
                "\n".join([f"{plural(known, 'finding')} of the baseline:", *sentences[:10]]),
                title="pgloupe: known",
            )
        )
    return "".join(f"{line}\n" for line in lines)


def render(report: Mapping[str, Any]) -> str:
    """The annotations, and the summary as lines of the log."""
    return workflow_commands(report) + "".join(f"{line}\n" for line in (summary(report), verdict(report)) if line)


def _finding(finding: Mapping[str, Any], level: str) -> str:
    lines = [f"{headline(finding)}: {figures(finding)}", one_line(finding["template"], MAX_SQL_CHARACTERS)]
    advice = finding["advice"]
    if advice is not None:
        lines += [advice["text"], advice["sql"]]
    lines.append(f"[{finding['fingerprint']}] pgloupe rule {finding['rule']}")
    file, number = source(finding)
    return command(
        level,
        "\n".join(line.strip() for line in lines if line.strip()),
        file=file,
        line=number if file else "",
        title=f"{title(finding['rule'])}, {finding['confidence']}",
    )


def _place(place: Mapping[str, Any], max_queries: int) -> str:
    lines = [place_headline(place, max_queries), place_figures(place)]
    lines += [
        f"{template['count']:,} x {one_line(template['template'], MAX_SQL_CHARACTERS)}"
        for template in place["templates"]
    ]
    return command("error" if place["fails"] else "warning", "\n".join(lines), title="Query budget")
