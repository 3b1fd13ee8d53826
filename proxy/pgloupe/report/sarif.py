"""The report as SARIF 2.1.0, for tools that gather the results of analysers.

A query on the wire has no file and line of its own. Where sqlcommenter tags name them they are the location; otherwise the
location is logical, the template's fingerprint. The partial fingerprint keeps a finding the same one from run to run.
Against a baseline, results are `new` or `unchanged`, and those that are fixed stand there as `absent`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from pgloupe import __version__
from pgloupe.report.baseline import identity
from pgloupe.report.wording import (
    HELP,
    TITLES,
    example,
    figures,
    headline,
    judged,
    one_line,
    place_figures,
    place_headline,
    places,
    printable,
    source,
    title,
)

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_LEVELS: Final = {"error": "error", "warning": "warning", "info": "note"}
_BUDGET: Final = "max_queries"


def render(report: Mapping[str, Any]) -> str:
    """The report that `Report.to_dict` gives, as one SARIF log in ASCII."""
    gone = (report.get("baseline") or {}).get("fixed", [])
    rules = [*TITLES, _BUDGET]
    rules += sorted({finding["rule"] for finding in [*report["findings"], *gone]} - set(rules))
    results = [_result(finding, rules.index(finding["rule"])) for finding in report["findings"]]
    results += [_place(place, rules.index(_BUDGET), report["budget"]["max_queries"]) for place in places(report)]
    if report.get("baseline"):
        states = [one["status"] for _, one in judged(report)] + [place["status"] for place in places(report)]
        for result, status in zip(results, states, strict=True):
            result["baselineState"] = "new" if status == "new" else "unchanged"
        results += [_gone(finding, rules.index(finding["rule"])) for finding in gone]
    run = {
        "tool": {"driver": {"name": "pgloupe", "version": __version__, "rules": [_rule(rule) for rule in rules]}},
        "columnKind": "unicodeCodePoints",
        "results": results,
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def _rule(rule: str) -> dict[str, Any]:
    text = HELP.get(rule, title(rule))
    return {
        "id": rule,
        "name": "".join(word.capitalize() for word in rule.split("_")),
        "shortDescription": {"text": title(rule)},
        "fullDescription": {"text": text},
        "help": {"text": text},
        "defaultConfiguration": {"level": "warning"},
    }


def _result(finding: Mapping[str, Any], index: int) -> dict[str, Any]:
    parent, advice = finding["parent"], finding["advice"]
    lines = [f"{title(finding['rule'])}: {headline(finding)}.", f"{figures(finding)}."]
    if parent is not None:
        lines.append(f"Parent: {one_line(parent['template'], 1000)}")
    lines.append(f"Query: {one_line(finding['template'], 1000)}")
    if advice is not None:
        lines += [printable(part) for part in (advice["text"], advice["sql"], example(finding)) if part]
    return {
        "ruleId": finding["rule"],
        "ruleIndex": index,
        "level": _LEVELS.get(finding["severity"], "warning"),
        "message": {"text": "\n".join(lines)},
        "locations": [_location(finding)],
        "partialFingerprints": {"pgloupe/v1": one_line(identity(finding))},
        "properties": {
            "confidence": finding["confidence"],
            "count": finding["count"],
            "occurrences": finding["occurrences"],
            "avoidableRoundTrips": finding["avoidable_round_trips"],
            "totalMs": finding["total_ms"],
        },
    }


def _place(place: Mapping[str, Any], index: int, max_queries: int) -> dict[str, Any]:
    lines = [f"{place_headline(place, max_queries)}.", f"{place_figures(place)}."]
    lines += [f"{template['count']:,} x {one_line(template['template'], 1000)}" for template in place["templates"]]
    name = one_line(place["id"])
    return {
        "ruleId": _BUDGET,
        "ruleIndex": index,
        "level": "error" if place.get("fails", True) else "note",
        "message": {"text": "\n".join(lines)},
        "locations": [{"logicalLocations": [{"name": name, "fullyQualifiedName": name}]}],
        "partialFingerprints": {"pgloupe/v1": f"{_BUDGET}:{name}"},
        "properties": {"count": place["queries"], "occurrences": place["occurrences"], "totalMs": place["total_ms"]},
    }


def _gone(finding: Mapping[str, Any], index: int) -> dict[str, Any]:
    return {
        "ruleId": finding["rule"],
        "ruleIndex": index,
        "level": "none",
        "kind": "pass",
        "baselineState": "absent",
        "message": {"text": f"{title(finding['rule'])}: {headline(finding)}. Fixed."},
        "partialFingerprints": {"pgloupe/v1": one_line(identity(finding))},
    }


def _location(finding: Mapping[str, Any]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"name": finding["fingerprint"], "fullyQualifiedName": finding["fingerprint"]}]
    }
    file, line = source(finding)
    if file:
        physical: dict[str, Any] = {"artifactLocation": {"uri": quote(printable(file).replace("\\", "/"))}}
        if line:
            physical["region"] = {"startLine": int(line)}
        location["physicalLocation"] = physical
    return location
