"""The report for a person at a terminal, or reading the log of a CI job: worst first, short, at home in 80 columns.

What is new has a block of its own, but for notes (findings of severity info) and what comes after the worst thirty: they have
a line each. Then come the places over the query budget, in a line each what is known, what is fixed and which `[[ignore]]`
rules may go, and a table of the cache's rules where there are any. The last lines add up, say why the check has its exit
code, and how to see values. Nothing is wider than the terminal but the queries to paste.

Colour helps but carries nothing alone. SQL is highlighted where the console has colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from pgloupe.report.cache import cache_lines
from pgloupe.report.wording import (
    brief,
    example,
    figures,
    fixed,
    headline,
    judged,
    link,
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
    values_hint,
    verdict,
)

MAX_SQL_CHARACTERS: Final = 600
MAX_HIGHLIGHTED_CHARACTERS: Final = 4_000
MAX_LINES: Final = 20
"""Of what is known, fixed or not used, of notes, and of findings beyond those shown in full."""
MAX_BLOCKS: Final = 30
"""Findings shown in full."""

_STYLES: Final = {"error": "bold red", "warning": "bold yellow", "info": "bold cyan"}
_INDENT: Final = 11


class _Page:
    """A console and what it can show."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.encoding = console.encoding or "utf-8"
        self.arrow = "→" if self.fits("→") else "->"
        self.syntax = Syntax("", "postgresql", theme="ansi_dark", background_color="default")

    def fits(self, text: str) -> bool:
        try:
            text.encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    def safe(self, text: str) -> str:
        if self.fits(text):
            return text
        try:
            return text.encode(self.encoding, "replace").decode(self.encoding)
        except LookupError:
            return text.encode("ascii", "replace").decode("ascii")

    def line(self, text: Text, indent: int = 0, label: str = "") -> None:
        """Print it wrapped, each line indented, the first one behind a label."""
        text.plain = self.safe(text.plain)  # one character for each, so that styles stay in place
        wrapped = text.wrap(self.console, max(20, self.console.width - indent))
        for number, part in enumerate(wrapped):
            part.rstrip()
            head = (("  " + label) if label and number == 0 else "").ljust(indent)
            self.console.print(Text.assemble((head, "dim"), part), no_wrap=True, crop=False, overflow="ignore")

    def say(self, text: str, indent: int = 0, style: str = "") -> None:
        self.line(Text(text, style=style), indent)

    def sql(self, text: str) -> Text:
        if len(text) > MAX_HIGHLIGHTED_CHARACTERS:
            return Text(text)
        highlighted = self.syntax.highlight(text)
        highlighted.rstrip()
        highlighted.no_wrap = False  # or what is longer than the line would be cut
        return highlighted

    def whole(self, label: str, text: Text) -> None:
        """As `labelled`, in one line however long: a literal that is broken in two is another one when it is pasted."""
        head = f"  {label}".ljust(_INDENT)
        self.console.print(
            Text.assemble((head, "dim"), text), no_wrap=True, crop=False, overflow="ignore", soft_wrap=True
        )

    def labelled(self, label: str, text: Text) -> None:
        """`  parent   SELECT …`, further lines under the SQL."""
        self.line(text, _INDENT, label)


def render(report: Mapping[str, Any], console: Console) -> None:
    """Print a report as `Report.to_dict` gives it."""
    page = _Page(console)
    new = [finding for finding, _ in judged(report, "new")]
    full = [finding for finding in new if finding["severity"] != "info"][:MAX_BLOCKS]
    for finding in full:
        _finding(page, finding)
    _lines(page, "more", [(_line(finding), "") for finding in new if finding["severity"] != "info"][MAX_BLOCKS:])
    _lines(page, "notes", [(_line(finding), "") for finding in new if finding["severity"] == "info"])
    if len(full) < len(new):
        verb = "is" if len(full) == 1 else "are"
        page.say(
            f"Of {plural(len(new), 'finding')} {len(full):,} {verb} shown in full; --format json has all.", style="dim"
        )
    for place in places(report, "new"):
        _place(page, place, report["budget"]["max_queries"])
    known = [(_known(finding), "dim") for finding, _ in judged(report, "known")]
    known += [(place_headline(place, report["budget"]["max_queries"]), "dim") for place in places(report, "known")]
    _lines(page, "known", known)
    _lines(page, "fixed", [(line, "green") for line in fixed(report)])
    _lines(page, "unused", [(f"{line}: matched nothing, delete it", "yellow") for line in unused(report)])
    rules = cache_lines(report)
    for line, style in rules:
        page.say(line, style=style)
    if rules:
        page.console.print()
    page.say(summary(report), style="bold" if report["findings"] or not report["statements"] else "green")
    last = verdict(report)
    if last:
        failed = report["check"]["failed"] or report["check"]["command"]
        page.say(last, style="bold red" if failed else "green" if report["statements"] else "bold yellow")
    hint = values_hint(report)
    if hint:
        page.say(hint, style="dim")


def _line(finding: Mapping[str, Any]) -> str:
    return f"{_known(finding)} {figures(finding)}"


def _known(finding: Mapping[str, Any]) -> str:
    return f"{title(finding['rule'])}: {headline(finding)} [{one_line(finding['fingerprint'])}]"


def _lines(page: _Page, label: str, lines: list[tuple[str, str]]) -> None:
    """One line each, the label before the first."""
    for number, (line, style) in enumerate(lines[:MAX_LINES]):
        page.line(Text(line, style=style), _INDENT, "" if number else label)
    if len(lines) > MAX_LINES:
        page.say(f"and {len(lines) - MAX_LINES:,} more", _INDENT, style="dim")
    if lines:
        page.console.print()


def _finding(page: _Page, finding: Mapping[str, Any]) -> None:
    severity = one_line(finding["severity"])
    page.line(
        Text.assemble(
            (severity.upper(), _STYLES.get(severity, "bold")),
            f"  {title(finding['rule'])}, {one_line(finding['confidence'])}: ",
            (headline(finding), "bold"),
        )
    )
    parent = finding["parent"]
    if parent is not None:
        page.labelled("parent", page.sql(brief(parent["template"], MAX_SQL_CHARACTERS)))
    page.labelled("child" if parent is not None else "query", page.sql(brief(finding["template"], MAX_SQL_CHARACTERS)))
    columns = link(finding, page.arrow)
    if columns:
        page.labelled("link", Text(columns))
    page.labelled("cost", Text(figures(finding)))
    _where(page, finding)
    for sample in samples(finding):
        page.labelled("sample", page.sql(brief(sample, MAX_SQL_CHARACTERS)))
    advice = finding["advice"]
    if advice is not None:
        if advice["text"]:
            page.labelled("instead", Text(printable(advice["text"])))
        if advice["sql"]:
            page.labelled("" if advice["text"] else "instead", page.sql(printable(advice["sql"])))
        query = example(finding, page.encoding)
        if query:
            page.whole("psql", page.sql(query))
    page.labelled("id", Text(one_line(finding["fingerprint"]), style="dim"))
    page.console.print()


def _where(page: _Page, tagged: Mapping[str, Any]) -> None:
    """The tags of a finding or a place."""
    found = "; ".join(f"{name}: {values}" for name, values in tags(tagged))
    if found:
        page.labelled("where", Text(found, style="dim"))


def _place(page: _Page, place: Mapping[str, Any], max_queries: int) -> None:
    page.line(Text.assemble(("BUDGET", _STYLES["error"]), "  ", (place_headline(place, max_queries), "bold")))
    width = max((len(f"{template['count']:,}") for template in place["templates"]), default=0)
    for number, template in enumerate(place["templates"]):
        text = page.sql(brief(template["template"], MAX_SQL_CHARACTERS))
        count = f"{template['count']:>{width},} x "
        page.line(Text.assemble(count, text), _INDENT, "" if number else "most")
    page.labelled("cost", Text(place_figures(place)))
    _where(page, place)
    page.labelled("id", Text(one_line(place["id"], 200), style="dim"))
    page.console.print()
