"""What the renderers say in common: names of rules, one-line sentences, and text that is safe to print.

Templates, tags and advice come from applications. A terminal would obey escape sequences in them, XML cannot hold control
characters, and lone surrogates cannot be encoded, so everything printed passes through `printable`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

TITLES: Final = {
    "n_plus_one": "N+1 query",
    "n_plus_one_write": "N+1 write",
    "redundant_query": "Redundant query",
    "slow_query": "Slow query",
}

HELP: Final = {
    "n_plus_one": "The same query runs once per row of an earlier result. One query can answer all of them: "
    "join it to the parent, or ask for all the keys with = ANY($1).",
    "n_plus_one_write": "The same write runs once per row. One statement can write all the rows: "
    "INSERT with several rows, or UPDATE … FROM unnest(…).",
    "redundant_query": "The same query runs again with the same parameters although nothing it reads was written "
    "in between. Keep the first answer.",
    "slow_query": "The query takes longer than the configured limit. Look at its plan with EXPLAIN (ANALYZE, BUFFERS).",
}

# Controls but for tab and newline, surrogates, non-characters, and the marks that reorder what is displayed.
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def printable(text: str, limit: int | None = None) -> str:
    """The text with what does not print as `\ufffd`, cut after `limit` characters with an ellipsis."""
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    return _UNPRINTABLE.sub("\ufffd", text)


def one_line(text: str, limit: int | None = None) -> str:
    """As `printable`, with every run of white space as one blank."""
    return printable(" ".join(text.split()), limit)


def title(rule: str) -> str:
    return TITLES.get(rule) or one_line(rule, 80)


def names(tables: list[str], limit: int = 3) -> str:
    """`author, post, comment …`"""
    shown = ", ".join(one_line(table, 80) for table in tables[:limit])
    return f"{shown} …" if len(tables) > limit else shown


def plural(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}s"


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:,.1f} s"
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def headline(finding: Mapping[str, Any]) -> str:
    """One sentence: which table suffers what."""
    rule, parent = finding["rule"], finding["parent"]
    child = names(finding["tables"]) or "a query"
    if rule in ("n_plus_one", "n_plus_one_write"):
        verb = "read" if rule == "n_plus_one" else "written"
        if parent is None or not parent["tables"]:
            return f"{child} is {verb} row by row"
        return f"{child} is {verb} once per row of {names(parent['tables'])}"
    if rule == "redundant_query":
        return f"{child} is read again with the same parameters"
    if rule == "slow_query":
        return f"a query of {child} is slow" if finding["tables"] else "a query is slow"
    return child


def figures(finding: Mapping[str, Any]) -> str:
    """How often within one unit of work and in how many, the round trips that could be saved, the time of all of them."""
    units = plural(finding["occurrences"], "unit")
    if finding["count"] > 1:
        parts = [f"up to {finding['count']:,} per unit of work in {units}"]
    else:
        parts = [f"in {units} of work"]
    if finding["avoidable_round_trips"]:
        parts.append(f"{plural(finding['avoidable_round_trips'], 'round trip')} to save")
    parts.append(milliseconds(finding["total_ms"]))
    return ", ".join(parts)


def link(finding: Mapping[str, Any], arrow: str = "→") -> str:
    """`post.id → comment.post_id`, or "" where the columns are not known."""
    parent, child = finding["parent"], finding["child"]
    if parent is None or child is None or not parent["column"] or not child["column"]:
        return ""
    left = f"{names(parent['tables'][:1])}.{one_line(parent['column'], 80)}".lstrip(".")
    right = f"{names(finding['tables'][:1])}.{one_line(child['column'], 80)}".lstrip(".")
    return f"{left} {arrow} {right}"


def tags(finding: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and values of each tag, the application's name and the route first."""
    found: Mapping[str, list[str]] = finding["tags"]
    order = [name for name in ("route", "application_name") if name in found]
    order += [name for name in found if name not in order]
    out = []
    for name in order:
        values = [one_line(value, 80) for value in found[name] if value.strip()]
        if values:
            out.append((one_line(name, 40), ", ".join(values[:5]) + (" …" if len(values) > 5 else "")))
    return out


def samples(finding: Mapping[str, Any]) -> list[str]:
    """The samples that say more than the template: those that hold values, if any do."""
    return [sample for sample in finding["samples"] if not finding["template"].startswith(sample)]


def summary(report: Mapping[str, Any]) -> str:
    """One line: what was found in how much."""
    findings = report["findings"]
    seen = (
        f"{plural(report['statements'], 'statement')} in {plural(report['sessions'], 'session')}"
        f" over {report['duration_s']:,.1f} s"
    )
    if not findings:
        if not report["statements"]:
            return "No statement came through the proxy: is the application connected to it?"
        return f"Nothing found: no N+1, redundant or slow queries among {seen}."
    by_severity = []
    for severity, noun in (("error", "error"), ("warning", "warning"), ("info", "note")):
        number = sum(1 for finding in findings if finding["severity"] == severity)
        if number:
            by_severity.append(plural(number, noun))
    saved = sum(finding["avoidable_round_trips"] for finding in findings)
    gain = f"; {plural(saved, 'round trip')} could be saved" if saved else ""
    return f"{plural(len(findings), 'finding')} ({', '.join(by_severity)}){gain}. {seen}."
