"""One `[[cache.allow]]` table of the settings, as the rule that it stands for.

What is written is held against what can be meant: a rule that is quietly for nothing, or for more than was meant, is worse
than one that is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from pgloupe.kinds import parse_boolean, parse_duration, parse_whole
from pgloupe_rules.allow import DEFAULT_MAX_ENTRY_BYTES, HINT_RULE, AllowRule
from pgloupe_rules.tags import HINT

KEYS: Final = (
    "name",
    "tables",
    "template",
    "fingerprint",
    "user",
    "database",
    "application_name",
    "tags",
    "ttl",
    "stale_while_revalidate",
    "max_entry_bytes",
    "max_rows",
    "dry_run",
    "key_by_user",
    "hints",
    "require_change_stream",
)
_SUBJECTS: Final = ("tables", "template", "fingerprint")


def parse_allow(rule: Mapping[str, Any], default_name: str) -> AllowRule:
    """The rule of one table, whose keys are known to be `KEYS`. Raises ValueError with what is wrong."""
    name = rule.get("name", default_name)
    if not isinstance(name, str) or not name:
        raise ValueError("name must be a text")
    if name == HINT_RULE:
        raise ValueError(f"{HINT_RULE} is the name of what comments allow")
    if sum(key in rule for key in _SUBJECTS) != 1:
        raise ValueError("needs exactly one of tables, template and fingerprint")
    if "ttl" not in rule:
        raise ValueError('needs a ttl, such as ttl = "60s"')
    ttl_s = _duration(rule, "ttl")
    if ttl_s <= 0:
        raise ValueError("ttl must be over 0")
    tables = rule.get("tables", [])
    if not isinstance(tables, list) or not all(isinstance(item, str) and item for item in tables):
        raise ValueError('tables must be a list of names, such as ["author", "post"]')
    if "tables" in rule and not tables:
        raise ValueError("tables is empty")
    fingerprint = str(rule.get("fingerprint", "")).lower()
    if "fingerprint" in rule and not re.fullmatch(r"[0-9a-f]{16}", fingerprint):
        raise ValueError("fingerprint must be 16 hex digits, as `pgloupe fingerprint` prints them")
    template = rule.get("template", "")
    if not isinstance(template, str) or ("template" in rule and not template.strip()):
        raise ValueError("template must be a statement")
    return AllowRule(
        name,
        ttl_s,
        tables=frozenset(tables) or None,
        template=template or None,
        fingerprint=fingerprint or None,
        max_entry_bytes=_whole(rule, "max_entry_bytes", DEFAULT_MAX_ENTRY_BYTES),
        users=_patterns(rule, "user"),
        databases=_patterns(rule, "database"),
        application_names=_patterns(rule, "application_name"),
        tags=_tags(rule),
        stale_s=_duration(rule, "stale_while_revalidate"),
        max_rows=_whole(rule, "max_rows", 0),
        dry_run=_boolean(rule, "dry_run", False),
        key_by_user=_boolean(rule, "key_by_user", True),
        hints=_boolean(rule, "hints", True),
        require_change_stream=_boolean(rule, "require_change_stream", False),
    )


def _duration(rule: Mapping[str, Any], key: str) -> float:
    try:
        return parse_duration(rule.get(key, 0))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _whole(rule: Mapping[str, Any], key: str, default: int) -> int:
    if key not in rule:
        return default
    try:
        return parse_whole(1)(rule[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _boolean(rule: Mapping[str, Any], key: str, default: bool) -> bool:
    try:
        return parse_boolean(rule.get(key, default))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _patterns(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """A text or a list of texts; () where there is none."""
    if key not in values:
        return ()
    value = values[key]
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value or not all(isinstance(item, str) and item for item in value):
        raise ValueError(f'{key} must be a name or a list of names, such as "web" or ["web", "job-*"]')
    return tuple(value)


def _tags(rule: Mapping[str, Any]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    tags = rule.get("tags", {})
    if not isinstance(tags, Mapping) or ("tags" in rule and not tags):
        raise ValueError('tags must be a table of names and values, such as { route = "/books" }')
    if HINT in tags:
        raise ValueError(f"the tag {HINT} is that of hints: say hints = false for a rule that no comment changes")
    return tuple((name, _patterns(tags, name)) for name in tags)
