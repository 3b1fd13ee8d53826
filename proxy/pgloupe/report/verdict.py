"""What `pgloupe check` says of a report: which findings are new, known or fixed, and what fails.

The report gets further keys; `findings` stays as it is. `check.findings` has one entry for each finding, in the same order:

    "check":    {"failed": true, "fail_on": ["n_plus_one", …], "command": 0, "unchecked": "",
                 "findings": [{"id": "n_plus_one:27fbd9b0542c314d:post", "status": "new | known", "fails": true}]}
    "baseline": null, or {"file": "…", "new": 1, "known": 2, "fixed": [{"rule", "fingerprint", "template", "tables",
                 "parent"}], "fixed_places": [{"id": "route=/posts", "queries": 120}]}
    "budget":   null, or {"max_queries": 50, "units": 240, "over": [{"id", "queries", "other_statements", "occurrences",
                 "total_ms", "tags", "templates", "status", "fails"}]}
    "ignored":  [{"number": 1, "match": {…}, "reason": "…", "findings": 1, "occurrences": 4, "used": true}]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pgloupe.report.baseline import Baseline, identity, key_of
from pgloupe.report.ignores import Key

NEW: Final = "new"
KNOWN: Final = "known"
_FIRST: Final = ("version", "statements", "sessions", "duration_s")


def judge(
    report: Mapping[str, Any],
    *,
    failing: frozenset[str],
    watched: frozenset[str],
    command: int = 0,
    baseline: Baseline | None = None,
    ignored: Iterable[Key] = (),
    unchecked: str = "",
) -> dict[str, Any]:
    """The report with the verdict. `failing` are the rules that fail a check, `watched` those that were on, `command` the
    exit code of the command, `ignored` the findings that are left out because of `[[ignore]]`. `unchecked` is why no statement
    came through."""
    findings = report["findings"]
    keys = [key_of(finding) for finding in findings]
    verdicts = []
    for finding, key in zip(findings, keys, strict=True):
        status = KNOWN if baseline is not None and baseline.knows(key) else NEW
        fails = status == NEW and finding["rule"] in failing
        verdicts.append({"id": identity(finding), "status": status, "fails": fails})
    budget = _budget(report.get("budget"), baseline)
    failed = any(verdict["fails"] for verdict in verdicts)
    failed = failed or (budget is not None and any(place["fails"] for place in budget["over"]))
    return {
        **{key: report[key] for key in _FIRST},
        "check": {
            "failed": failed,
            "fail_on": sorted(failing),
            "command": command,
            "unchecked": unchecked,
            "findings": verdicts,
        },
        "baseline": None if baseline is None else _against(baseline, report, verdicts, [*keys, *ignored], watched),
        "budget": budget,
        "ignored": report.get("ignored", []),
        **{key: value for key, value in report.items() if key not in (*_FIRST, "budget", "ignored")},
    }


def _budget(budget: Mapping[str, Any] | None, baseline: Baseline | None) -> dict[str, Any] | None:
    if budget is None:
        return None
    over = []
    for place in budget["over"]:
        most = baseline.places.get(place["id"], -1) if baseline is not None else -1
        status = KNOWN if place["queries"] <= most else NEW
        over.append({**place, "status": status, "fails": status == NEW})
    return {**budget, "over": over}


def _against(
    baseline: Baseline,
    report: Mapping[str, Any],
    verdicts: list[dict[str, Any]],
    keys: list[Key],
    watched: frozenset[str],
) -> dict[str, Any]:
    known = sum(1 for verdict in verdicts if verdict["status"] == KNOWN)
    fixed: list[Mapping[str, Any]] = []
    places: list[dict[str, Any]] = []
    # of a run that asked nothing, nothing is known
    if report["statements"]:
        fixed = [finding for finding in baseline.gone(keys) if finding["rule"] in watched]
        if report.get("budget") is not None:
            there = {place["id"] for place in report["budget"]["over"]}
            places = [
                {"id": name, "queries": most}
                for name, most in baseline.places.items()
                if name not in there and most > report["budget"]["max_queries"]
            ]
    return {
        "file": baseline.file,
        "new": len(verdicts) - known,
        "known": known,
        "fixed": [dict(finding) for finding in fixed],
        "fixed_places": places,
    }
