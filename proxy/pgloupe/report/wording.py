"""What the renderers say in common: names of rules, one-line sentences, and text that is safe to print.

Templates, tags and advice come from applications. A terminal would obey escape sequences in them, XML cannot hold control
characters, and lone surrogates cannot be encoded, so everything printed passes through `printable`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

MAX_REASON: Final = 800
_FILE_TAGS: Final = ("code.file.path", "code.filepath", "file")
_LINE_TAGS: Final = ("code.line.number", "code.lineno", "line")

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
    "max_queries": "A unit of work needs more queries than the budget allows.",
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


_ITEM: Final = r'[\w.$"]+(?:::\w+)?(?: AS [\w"]+)?'
_LONG_LIST: Final = re.compile(rf'(?<![\w.$"]){_ITEM}, {_ITEM}, (?:{_ITEM}, ){{4,}}{_ITEM}')
_MAX_SCANNED: Final = 20_000


def brief(sql: str, limit: int) -> str:
    """A statement to look at, in one line: of the columns and values that an ORM lists the first two, so that there is room
    for what comes behind them."""
    return one_line(_LONG_LIST.sub(_first_two, " ".join(sql[:_MAX_SCANNED].split())), limit)


def _first_two(found: re.Match[str]) -> str:
    first, second, _ = found.group().split(", ", 2)
    return f"{first}, {second}, …"


def title(rule: str) -> str:
    if rule == "max_queries":
        return "Query budget"
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
    """`post.id → comment.post_id`, with `(foreign key)` where one is between them; "" where the columns are not known."""
    parent, child = finding["parent"], finding["child"]
    if parent is None or child is None or not parent["column"] or not child["column"]:
        return ""
    tables = [parent["table"]] if parent.get("table") else parent["tables"][:1]
    left = f"{names(tables)}.{one_line(parent['column'], 80)}".lstrip(".")
    tables = [child["table"]] if child.get("table") else finding["tables"][:1]
    right = f"{names(tables)}.{one_line(child['column'], 80)}".lstrip(".")
    return f"{left} {arrow} {right}" + (" (foreign key)" if finding.get("foreign_key") else "")


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


def source(finding: Mapping[str, Any]) -> tuple[str, str]:
    """File and line that the tags name; "" for what they do not. Values of tags are gathered one tag at a time: which
    line goes with which file is known only of a single pair."""
    files, lines = _tag(finding, _FILE_TAGS), _tag(finding, _LINE_TAGS)
    if not files:
        return "", ""
    known = len(files) == len(lines) == 1 and lines[0].isdecimal() and int(lines[0][:9]) > 0
    return files[0], str(int(lines[0][:9])) if known else ""


def _tag(finding: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    for name in names:
        values: list[str] = [value for value in finding["tags"].get(name, ()) if value]
        if values:
            return values
    return []


def samples(finding: Mapping[str, Any]) -> list[str]:
    """The samples that say more than the template: those that hold values, if any do."""
    return [sample for sample in finding["samples"] if not finding["template"].startswith(sample)]


def example(finding: Mapping[str, Any], encoding: str = "utf-8") -> str:
    """The query of the advice with the values that were sent; "" where there is none, and where it would not arrive as it is."""
    advice = finding["advice"]
    text: str = advice.get("example", "") if advice is not None else ""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ""
    return text if printable(text) == text else ""


def values_hint(report: Mapping[str, Any]) -> str:
    """A line on `--show-values` where that would say more of the advice; "" elsewhere."""
    if not report.get("check") or report.get("values"):
        return ""
    for finding, _ in judged(report, "new"):
        if finding["rule"] == "n_plus_one" and finding["advice"] is not None and "$1" in finding["advice"]["sql"]:
            return "--show-values adds each query with its values, to paste into psql."
    return ""


_UNJUDGED: Final = {"id": "", "status": "new", "fails": True}


def judged(report: Mapping[str, Any], status: str | None = None) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each finding with its verdict, those of one status if asked for. A report that nobody judged has new ones that
    fail."""
    check = report.get("check")
    verdicts = check["findings"] if check is not None else [_UNJUDGED] * len(report["findings"])
    pairs = zip(report["findings"], verdicts, strict=True)
    return [(finding, verdict) for finding, verdict in pairs if status in (None, verdict["status"])]


def places(report: Mapping[str, Any], status: str | None = None) -> list[Mapping[str, Any]]:
    """The places over the query budget, worst first, those of one status if asked for."""
    budget = report.get("budget")
    return [place for place in (budget["over"] if budget else ()) if status in (None, place.get("status", "new"))]


def fixed(report: Mapping[str, Any]) -> list[str]:
    """A line for each finding and place of the baseline that is gone."""
    baseline = report.get("baseline")
    if not baseline:
        return []
    lines = [
        f"{title(finding['rule'])}: {headline(finding)} [{one_line(finding['fingerprint'])}]"
        for finding in baseline["fixed"]
    ]
    return lines + [
        f"Query budget: {place_name(place)} needed {place['queries']:,} queries" for place in baseline["fixed_places"]
    ]


def unused(report: Mapping[str, Any]) -> list[str]:
    """A line for each `[[ignore]]` rule that matched nothing."""
    lines = []
    for rule in report.get("ignored") or ():
        if not rule["used"]:
            named = ", ".join(f"{name} = {_value(value)}" for name, value in rule["match"].items())
            lines.append(one_line(f"[[ignore]] rule {rule['number']} ({named}; reason: {rule['reason']})", 300))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(inner)}" for name, inner in value.items()) + " }"
    return "[" + ", ".join(map(_value, value)) + "]" if isinstance(value, list) else f'"{value}"'


def place_name(place: Mapping[str, Any]) -> str:
    """`route /posts`, or where no tag says which it is, `a unit of work`."""
    name: str = place["id"]
    return "a unit of work" if name.startswith("query=") else one_line(name.replace("=", " "), 200)


def place_headline(place: Mapping[str, Any], max_queries: int) -> str:
    return f"{place_name(place)} needs {plural(place['queries'], 'query')}, {max_queries:,} are allowed"


def place_figures(place: Mapping[str, Any]) -> str:
    """In how many units of work, the time of the worst one, and what is not counted as a query."""
    parts = [f"in {plural(place['occurrences'], 'unit')} of work", f"{milliseconds(place['total_ms'])} in the worst"]
    if place["other_statements"]:
        parts.append(f"beside {plural(place['other_statements'], 'statement')} for transactions and settings")
    return ", ".join(parts)


def summary(report: Mapping[str, Any]) -> str:
    """One paragraph: what was found in how much; what is known, fixed and ignored; the budget."""
    seen = (
        f"{plural(report['statements'], 'statement')} in {plural(report['sessions'], 'session')}"
        f" over {report['duration_s']:,.1f} s"
    )
    if report["findings"]:
        return " ".join([_findings(report), *_beside(report), f"{seen}."])
    if not report["statements"]:
        if report.get("check"):  # the verdict says why
            return "No statement came through the proxy."
        return "No statement came through the proxy: is the application connected to it?"
    nothing = "Nothing else" if any(rule["findings"] for rule in report.get("ignored") or ()) else "Nothing"
    return " ".join([f"{nothing} found: no N+1, redundant or slow queries among {seen}.", *_beside(report)])


def _beside(report: Mapping[str, Any]) -> list[str]:
    out = []
    gone = len(fixed(report))
    if gone:
        out.append(f"{gone:,} of the baseline {'is' if gone == 1 else 'are'} fixed.")
    ignored = sum(rule["findings"] for rule in report.get("ignored") or ())
    if ignored:
        out.append(f"{plural(ignored, 'finding')} ignored.")
    budget = report.get("budget")
    if budget:
        over = sum(place["occurrences"] for place in budget["over"])
        out.append(
            f"{f'{over:,}' if over else 'None'} of {plural(budget['units'], 'unit')} of work over the budget of "
            f"{plural(budget['max_queries'], 'query')}."
        )
    return out


def verdict(report: Mapping[str, Any]) -> str:
    """One line that says why the check has its exit code; "" for a report that nobody judged."""
    check = report.get("check")
    if check is None:
        return ""
    if not report["statements"]:
        return f"Nothing was checked: {one_line(check['unchecked'], MAX_REASON) or 'no statement was seen'}."
    reasons = []
    noun = "new finding" if report.get("baseline") else "finding"
    failing = sum(1 for one in check["findings"] if one["fails"])
    if failing:
        reasons.append(plural(failing, noun))
    over = sum(1 for place in places(report) if place["fails"])
    if over:
        reasons.append(f"{plural(over, 'place')} over the query budget")
    if check["command"]:
        ended = f"The command ended with {check['command']}"
        return f"{ended}; {' and '.join(reasons)}." if reasons else f"{ended}."
    if reasons:
        return f"Check failed: {' and '.join(reasons)}."
    lenient = any(one["status"] == "new" for one in check["findings"])
    return f"Check passed: it fails on {', '.join(check['fail_on']) or 'no rule'}." if lenient else "Check passed."


def _findings(report: Mapping[str, Any]) -> str:
    findings = report["findings"]
    by_severity = []
    for severity, noun in (("error", "error"), ("warning", "warning"), ("info", "note")):
        number = sum(1 for finding in findings if finding["severity"] == severity)
        if number:
            by_severity.append(plural(number, noun))
    saved = sum(finding["avoidable_round_trips"] for finding in findings)
    gain = f"; {plural(saved, 'round trip')} could be saved" if saved else ""
    known = len(judged(report, "known"))
    shares = f": {len(findings) - known:,} new, {known:,} known" if report.get("baseline") else ""
    return f"{plural(len(findings), 'finding')} ({', '.join(by_severity)}){shares}{gain}."
