"""One rule of the cache: which reads it is for, and what a comment of the client may change in it.

What a rule names (tables, a template, a fingerprint) is judged once for each template. Its conditions are on what differs
between statements of one template (who asks, from where, with which tags), so they are looked at for each statement, and
only where a rule has any.

A hint is a comment `/* pgloupe:nocache */` or `/* pgloupe:cache ttl=30s */`. Whoever may send SQL may send comments, so by
default a hint can only take away: no answer from the cache, or none that is older than it says. What cannot be understood
takes away as well: somebody wanted something and did not get it said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgloupe_rules.types import SessionInfo

DEFAULT_MAX_ENTRY_BYTES: Final = 1 << 20

HINT_RULE: Final = "(hint)"
"""The rule's name where a comment alone allows the cache; no configured rule can be called so."""


class Hints(StrEnum):
    """What comments of the client may do: nothing; shorten and switch off; or switch on as well, where no rule says so."""

    IGNORE = "ignore"
    RESTRICT = "restrict"
    ALLOW = "allow"


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One `[[cache.allow]]`: which reads may be answered, and for how long.

    It names tables, a template or a fingerprint. A read matches `tables` if each of its tables is in the set. A bare name
    in the set stands for that table without a schema and for `public.name`; a table of another schema has to be named with
    it. `template` is SQL in any spelling; comments, literals and layout do not matter.

    `users`, `databases`, `application_names` and `tags` are conditions that all have to hold; an empty one always does. In
    each of them `*` stands for any characters, and one of several patterns is enough.
    """

    name: str
    ttl_s: float
    tables: frozenset[str] | None = None
    template: str | None = None
    fingerprint: str | None = None
    max_entry_bytes: int = DEFAULT_MAX_ENTRY_BYTES
    users: tuple[str, ...] = ()
    """The name with which the client logged in; SET ROLE changes nothing here."""
    databases: tuple[str, ...] = ()
    application_names: tuple[str, ...] = ()
    tags: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of sqlcommenter tags with the patterns of their values."""
    stale_s: float = 0.0
    max_rows: int = 0
    dry_run: bool = False
    key_by_user: bool = True
    hints: bool = True
    """Comments of the client may shorten the `ttl` or keep a read from the cache."""
    require_change_stream: bool = False
    """No answers while writes that go past the proxy would not be seen."""

    @property
    def conditional(self) -> bool:
        """It has conditions that are looked at for each statement."""
        return bool(self.users or self.databases or self.application_names or self.tags)

    def allows(self, tables: Iterable[str]) -> bool:
        """Each of these tables is in the set."""
        return not self.missing(tables)

    def missing(self, tables: Iterable[str]) -> tuple[str, ...]:
        """Those of the tables that are not in the set; all of them where the rule has none."""
        allowed = self.tables
        if allowed is None:
            return tuple(tables)
        out: list[str] = []
        for table in tables:
            if table not in allowed:
                schema, _, bare = table.rpartition(".")
                if schema == "public" and bare in allowed:
                    continue
                if not schema and f"public.{bare}" in allowed:
                    continue
                out.append(table)
        return tuple(out)

    def unmet(self, session: SessionInfo, tags: Mapping[str, str]) -> tuple[str, tuple[str, ...], str] | None:
        """The first condition that does not hold: what is looked at, what it should be, what it is. None if all hold."""
        if self.users and not any_matches(self.users, session.user):
            return "user", self.users, session.user
        if self.databases and not any_matches(self.databases, session.database):
            return "database", self.databases, session.database
        if self.application_names and not any_matches(self.application_names, session.application_name):
            return "application_name", self.application_names, session.application_name
        for name, patterns in self.tags:
            value = tags.get(name)
            if value is None or not any_matches(patterns, value):
                return f"tags.{name}", patterns, value or ""
        return None


def matches(pattern: str, text: str) -> bool:
    """The whole text is as the pattern says; `*` stands for any characters, there is no other wildcard."""
    parts = pattern.split("*")
    if len(parts) == 1:
        return pattern == text
    if len(text) < len(parts[0]) + len(parts[-1]) or not text.startswith(parts[0]) or not text.endswith(parts[-1]):
        return False
    position = len(parts[0])
    end = len(text) - len(parts[-1])
    for part in parts[1:-1]:
        position = text.find(part, position, end)
        if position < 0:
            return False
        position += len(part)
    return True


def any_matches(patterns: Iterable[str], text: str) -> bool:
    """One of the patterns matches."""
    return any(pattern == text or matches(pattern, text) for pattern in patterns)


class Hint:
    """What a comment asks for. Not `understood`: something that nobody knows."""

    __slots__ = ("cache", "ttl_s", "understood")

    def __init__(self, *, understood: bool, cache: bool = False, ttl_s: float | None = None) -> None:
        self.understood = understood
        self.cache = cache
        """False: `nocache`."""
        self.ttl_s = ttl_s
        """No answer that is older, in seconds; None where it does not say."""


_HINT: Final = re.compile(
    r"(nocache)|cache(?:\s+ttl\s*=\s*(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|min|h|d)?)?", re.IGNORECASE
)
_UNITS: Final[dict[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_hint(text: str) -> Hint:
    """`nocache`, `cache` or `cache ttl=DURATION`; a `ttl` of 0 is `nocache`. Durations are as in the settings. Never raises."""
    found = _HINT.fullmatch(text.strip())
    if found is None:
        return Hint(understood=False)
    if found.group(1):
        return Hint(understood=True)
    if found.group(2) is None:
        return Hint(understood=True, cache=True)
    ttl_s = float(found.group(2)) * _UNITS[(found.group(3) or "s").lower()]
    return Hint(understood=True, cache=ttl_s > 0, ttl_s=ttl_s)
