"""The report as SARIF 2.1.0, for tools that gather the results of analysers.

A query on the wire has no file and line of its own. Where sqlcommenter tags name them they are the location; otherwise the
location is logical, the template's fingerprint. The partial fingerprint keeps a finding the same one from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

from pgloupe import __version__
from pgloupe.report.wording import HELP, TITLES, figures, headline, one_line, printable, title

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

_LEVELS: Final = {"error": "error", "warning": "warning", "info": "note"}
_FILE_TAGS: Final = ("code.file.path", "code.filepath", "file")
_LINE_TAGS: Final = ("code.line.number", "code.lineno", "line")


def render(report: Mapping[str, Any]) -> str:
    """The report that `Report.to_dict` gives, as one SARIF log in ASCII."""
    rules = list(TITLES)
    rules += sorted({finding["rule"] for finding in report["findings"]} - set(rules))
    run = {
        "tool": {"driver": {"name": "pgloupe", "version": __version__, "rules": [_rule(rule) for rule in rules]}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, rules.index(finding["rule"])) for finding in report["findings"]],
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
        lines += [printable(part) for part in (advice["text"], advice["sql"]) if part]
    identity = [finding["rule"], finding["fingerprint"], *(sorted(parent["tables"]) if parent is not None else [])]
    return {
        "ruleId": finding["rule"],
        "ruleIndex": index,
        "level": _LEVELS.get(finding["severity"], "warning"),
        "message": {"text": "\n".join(lines)},
        "locations": [_location(finding)],
        "partialFingerprints": {"pgloupe/v1": one_line(":".join(identity))},
        "properties": {
            "confidence": finding["confidence"],
            "count": finding["count"],
            "occurrences": finding["occurrences"],
            "avoidableRoundTrips": finding["avoidable_round_trips"],
            "totalMs": finding["total_ms"],
        },
    }


def _location(finding: Mapping[str, Any]) -> dict[str, Any]:
    location: dict[str, Any] = {
        "logicalLocations": [{"name": finding["fingerprint"], "fullyQualifiedName": finding["fingerprint"]}]
    }
    files = _tag(finding, _FILE_TAGS)
    if files:
        physical: dict[str, Any] = {"artifactLocation": {"uri": quote(printable(files[0]).replace("\\", "/"))}}
        lines = _tag(finding, _LINE_TAGS)
        # Values of tags are gathered one tag at a time: which line goes with which file is known only of a single pair.
        if len(files) == len(lines) == 1 and lines[0].isdecimal() and int(lines[0][:9]) > 0:
            physical["region"] = {"startLine": int(lines[0][:9])}
        location["physicalLocation"] = physical
    return location


def _tag(finding: Mapping[str, Any], names: tuple[str, ...]) -> list[str]:
    for name in names:
        values: list[str] = [value for value in finding["tags"].get(name, ()) if value]
        if values:
            return values
    return []
