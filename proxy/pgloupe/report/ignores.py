"""Findings that somebody decided to live with: `[[ignore]]` rules of pgloupe.toml, each with its reason.

A rule is matched with the finding of one unit of work, before equal findings are added up, so that a rule for one route does
not hide the same loop on another. Where the parent was not known in a unit of work, its finding is ignored with those of the
same rule and template whose parent was, as the report would have added it to them.

Each rule counts what it matched: one that matches nothing any more is reported, so that it gets deleted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pgloupe_rules.normalise import recognise
from pgloupe_rules.types import Finding

RULES: Final = ("n_plus_one", "n_plus_one_write", "redundant_query", "slow_query")
KEYS: Final = ("rule", "fingerprint", "template", "tables", "parent", "route", "tags", "reason")
MAX_KEYS: Final = 10_000
"""Distinct findings that are told apart when counting what was ignored."""

Key = tuple[str, str, tuple[str, ...] | None]
"""Rule, fingerprint of the child and the parent's tables, in order; None where no parent is known."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """One `[[ignore]]`: everything that it names must match. `tags` has patterns in which `*` stands for anything."""

    reason: str
    rule: str = ""
    fingerprint: str = ""
    """Of the template, where that was given."""
    tables: tuple[str, ...] = ()
    parent: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()

    def matches(self, finding: Finding, *, any_parent: bool = False) -> bool:
        """Tables match if each of the finding's is in the list; a tag if all its values in the unit of work match."""
        if (self.rule and self.rule != finding.rule) or (self.fingerprint and self.fingerprint != finding.fingerprint):
            return False
        if self.tables and not _within(finding.tables, self.tables):
            return False
        if (
            self.parent
            and not any_parent
            and (finding.parent is None or not _within(finding.parent.tables, self.parent))
        ):
            return False
        for name, pattern in self.tags:
            values = finding.tags.get(name)
            if not values or not all(_like(value, pattern) for value in values):
                return False
        return True

    def to_dict(self) -> dict[str, Any]:
        """What it names, as in the file."""
        out: dict[str, Any] = {}
        for name in ("rule", "fingerprint"):
            if getattr(self, name):
                out[name] = getattr(self, name)
        for name in ("tables", "parent"):
            if getattr(self, name):
                out[name] = list(getattr(self, name))
        if self.tags:
            out["tags"] = dict(self.tags)
        return out


def _within(tables: Sequence[str], known: Sequence[str]) -> bool:
    return bool(tables) and all(table in known for table in tables)


def _like(value: str, pattern: str) -> bool:
    """Whether the value is the pattern. Linear: each piece is looked for behind the one before."""
    first, *rest = pattern.split("*")
    if not rest:
        return value == pattern
    if not value.startswith(first):
        return False
    position = len(first)
    for piece in rest[:-1]:
        found = value.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return len(value) - len(rest[-1]) >= position and value.endswith(rest[-1])


def parse_ignore(rule: Mapping[str, Any]) -> Ignore:
    """One rule as TOML gives it; its keys are among `KEYS`. Raises ValueError with what is wrong."""
    reason = rule.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError('needs a reason, such as reason = "two rows at most"')
    if len(rule) == 1:
        raise ValueError(f"matches everything: name one of {', '.join(KEYS[:-1])}")
    name = _text(rule, "rule")
    if name and name not in RULES:
        close = difflib.get_close_matches(name, RULES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"rules are {', '.join(RULES)}"
        raise ValueError(f"there is no rule {name!r}; {hint}")
    fingerprint = _text(rule, "fingerprint").lower()
    if fingerprint and not re.fullmatch(r"[0-9a-f]{16}", fingerprint):
        raise ValueError("fingerprint must be 16 hex digits, as reports and `pgloupe fingerprint` print them")
    template = _text(rule, "template")
    if template:
        if fingerprint:
            raise ValueError("give either fingerprint or template")
        found = recognise(template)
        if len(found) != 1:
            raise ValueError("template must be one statement")
        fingerprint = found[0].template.fingerprint
    return Ignore(
        reason.strip(), name, fingerprint, _names(rule, "tables"), _names(rule, "parent"), tuple(_tags(rule).items())
    )


def _text(rule: Mapping[str, Any], key: str) -> str:
    if key not in rule:
        return ""
    value = rule[key]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text")
    return value.strip()


def _names(rule: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if key not in rule:
        return ()
    value = rule[key]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f'{key} must be a list of tables, such as ["author", "post"]')
    return tuple(value)


def _tags(rule: Mapping[str, Any]) -> dict[str, str]:
    tags = rule.get("tags", {})
    if not isinstance(tags, Mapping) or not all(isinstance(value, str) and value for value in tags.values()):
        raise ValueError('tags must be a table of texts, such as { controller = "posts" }')
    if "tags" in rule and not tags:
        raise ValueError("tags is empty")
    out = dict(tags)
    route = _text(rule, "route")
    if route:
        if out.get("route", route) != route:
            raise ValueError("gives the route twice")
        out["route"] = route
    return out


def key_of(finding: Finding) -> Key:
    """What is the same finding: rule, child and the parent's tables."""
    parent = finding.parent
    return finding.rule, finding.fingerprint, None if parent is None else tuple(sorted(parent.tables))


class Ignores:
    """The rules at work."""

    def __init__(self, rules: Sequence[Ignore] = ()) -> None:
        self.rules = tuple(rules)
        self._occurrences = [0] * len(self.rules)
        self._used = [False] * len(self.rules)
        self._keys: dict[Key, int] = {}
        self._with_parent: set[tuple[str, str]] = set()

    def take(self, findings: Iterable[Finding]) -> list[Finding]:
        """Those that no rule matches; the others are counted for the first rule that does."""
        if not self.rules:
            return list(findings)
        return [finding for finding in findings if not self._ignored(finding)]

    def _ignored(self, finding: Finding) -> bool:
        matching = [number for number, rule in enumerate(self.rules) if rule.matches(finding)]
        if not matching:
            return False
        for number in matching:
            self._used[number] = True
        self._occurrences[matching[0]] += 1
        key = key_of(finding)
        if len(self._keys) < MAX_KEYS:
            self._keys.setdefault(key, matching[0])
            if finding.parent is not None:
                self._with_parent.add(key[:2])
        return True

    def covers(self, finding: Finding) -> bool:
        """Whether a finding whose parent is not known belongs to one that was ignored."""
        if finding.parent is not None or (finding.rule, finding.fingerprint) not in self._with_parent:
            return False
        return any(rule.parent and rule.matches(finding, any_parent=True) for rule in self.rules)

    def keys(self) -> frozenset[Key]:
        """The findings that were ignored."""
        return frozenset(self._keys)

    def to_list(self) -> list[dict[str, Any]]:
        """The key `ignored` of the report: for each rule what it names, its reason, and what it matched. A rule is `used`
        also where another rule before it matched the same findings."""
        counts = [0] * len(self.rules)
        for number in self._keys.values():
            counts[number] += 1
        return [
            {
                "number": number + 1,
                "match": rule.to_dict(),
                "reason": rule.reason,
                "findings": counts[number],
                "occurrences": self._occurrences[number],
                "used": self._used[number],
            }
            for number, rule in enumerate(self.rules)
        ]
