"""A report of an earlier run as the line from which things may only get better.

The file is what `pgloupe check --format json --output FILE` writes. Of it count `version`, `findings` and `budget`; the rest may
be taken out. A finding is known if the baseline has one of the same rule, template and tables of the parent; where the parent
was not known on one side, the same rule and template suffice. A place that was over its budget is known as long as it needs
no more queries than then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pgloupe.errors import SettingsError
from pgloupe.report.ignores import Key
from pgloupe.report.model import VERSION

MAX_BYTES: Final = 256 << 20
_MAKE: Final = "make one by: pgloupe check --format json --output {} -- CMD"


@dataclass(frozen=True, slots=True)
class Baseline:
    """What was known. `findings` are those of the file, by their key."""

    file: str
    findings: Mapping[Key, Mapping[str, Any]]
    places: Mapping[str, int]
    """Queries of the units of work that were over their budget, by the place's id."""

    def knows(self, key: Key) -> bool:
        return any(same(key, known) for known in self.findings)

    def gone(self, keys: Iterable[Key]) -> list[Mapping[str, Any]]:
        """The findings that none of `keys` is the same as."""
        there = list(keys)
        return [finding for known, finding in self.findings.items() if not any(same(key, known) for key in there)]


def same(one: Key, other: Key) -> bool:
    """Whether two keys are of one finding."""
    return one[:2] == other[:2] and (one[2] == other[2] or one[2] is None or other[2] is None)


def key_of(finding: Mapping[str, Any]) -> Key:
    """The key of a finding of the report."""
    parent = finding["parent"]
    return finding["rule"], finding["fingerprint"], None if parent is None else tuple(sorted(parent["tables"]))


def identity(finding: Mapping[str, Any]) -> str:
    """The key in one text, such as `n_plus_one:27fbd9b0542c314d:post`."""
    rule, fingerprint, tables = key_of(finding)
    return ":".join((rule, fingerprint, *(tables or ())))


def load(path: str) -> Baseline:
    """Read a baseline. Raises SettingsError with a sentence that says how to make one."""
    make = _MAKE.format(path)
    try:
        if Path(path).stat().st_size > MAX_BYTES:
            raise SettingsError(f"--baseline {path}: larger than {MAX_BYTES >> 20} MiB; {make}")
        text = Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"--baseline {path}: {(error.strerror or str(error)).lower()}; {make}") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise SettingsError(f"--baseline {path}: not JSON; {make}") from None
    if not isinstance(document, dict) or "version" not in document or "findings" not in document:
        raise SettingsError(f"--baseline {path}: not a report of pgloupe; {make}")
    if document["version"] != VERSION:
        raise SettingsError(
            f"--baseline {path}: its version is {str(document['version'])[:20]} and this pgloupe reads {VERSION}; {make}"
        )
    try:
        found = [_finding(finding) for finding in document["findings"]]
        places = _places(document.get("budget"))
    except (KeyError, TypeError, AttributeError):
        raise SettingsError(f"--baseline {path}: its findings are not those of a report; {make}") from None
    return Baseline(path, {key_of(finding): finding for finding in found}, places)


def _finding(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is used of a finding. Raises KeyError or TypeError where it is none."""
    parent = given["parent"]
    return {
        "rule": _text(given["rule"]),
        "fingerprint": _text(given["fingerprint"]),
        "template": _text(given["template"]),
        "tables": [_text(table) for table in given["tables"]],
        "parent": None if parent is None else {"tables": [_text(table) for table in parent["tables"]]},
    }


def _places(budget: Any) -> dict[str, int]:
    if budget is None:
        return {}
    out: dict[str, int] = {}
    for place in budget["over"]:
        if not isinstance(place["queries"], int):
            raise TypeError
        out[_text(place["id"])] = place["queries"]
    return out


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
