"""What may be answered from a cache.

The answer is safe only in one direction, so it takes the narrow reading. A read may be cached if everything about it is
understood: it parses, it surely writes nothing, its tables are known and none is of the system, and each function that it
calls is a built-in one that is IMMUTABLE in all its forms. What a statement may change is told by `effects`.

Answers are kept by the text of the template, not by its fingerprint: two texts may share a fingerprint because they mean the
same to a report, and a cache must not depend on how far that goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

from pgloupe_rules.allow import DEFAULT_MAX_ENTRY_BYTES, HINT_RULE, AllowRule, Hints, parse_hint
from pgloupe_rules.builtin import IMMUTABLE, bare_name
from pgloupe_rules.effects import Effect, EffectKind, effect_of
from pgloupe_rules.mentions import mentions
from pgloupe_rules.normalise import MAX_TEXT, recognise
from pgloupe_rules.shape import shape_of
from pgloupe_rules.tags import HINT
from pgloupe_rules.types import (
    FORWARD,
    Cacheable,
    Decision,
    Kind,
    Recognised,
    SessionInfo,
    Shape,
    Statement,
    Template,
)

__all__ = [
    "DEFAULT_MAX_ENTRY_BYTES",
    "AllowRule",
    "CacheRules",
    "Effect",
    "EffectKind",
    "Hints",
    "Verdict",
    "effect_of",
    "suspects",
    "uncacheable",
]

_MEMO_LIMIT: Final = 8192
_MEMO_TEXT: Final = 16384
"""Characters of the longest template that is kept: a few of a megabyte each would be all the memory there is."""
_TABLES_LIMIT: Final = 64


class Verdict:
    """What a statement is to the cache: the decision, or the reason why it is not cached (a rule's name with it)."""

    __slots__ = ("allowing", "decision", "otherwise", "reason", "rule")

    def __init__(
        self,
        decision: Cacheable | None,
        rule: str = "",
        reason: str = "",
        allowing: AllowRule | None = None,
        otherwise: Verdict | None = None,
    ) -> None:
        self.decision = decision
        self.rule = rule
        """The rule that allows it, "" for none."""
        self.reason = reason
        """Why the rule does not help, one of few fixed texts; "" where it does or where there is none."""
        self.allowing = allowing
        """The rule itself."""
        self.otherwise = otherwise
        """The verdict where the conditions of the rule do not hold; None: it has none."""


_NO_RULE: Final = Verdict(None)
_NOBODY: Final = SessionInfo(0)

# Words that mean another moment each time they are read as a date (documentation, section 8.5.1.4), and spellings in which
# a literal could hide one.
_MOMENT: Final = re.compile(
    r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])|(?<![a-z0-9_])e'|u&'|'[ \t\r\f\v]*\n\s*'", re.IGNORECASE
)
_MOMENT_PARTS: Final = ("now", "today", "tomorrow", "yesterday", "e'", "u&'")
_SYSTEM_COLUMNS: Final = re.compile(r"\b(?:ctid|xmin|xmax|cmin|cmax|tableoid)\b")
NOT_IMMUTABLE: Final = "function that is not known to be immutable"
_SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema", "pg_toast"})


def _names_moment(bare: str) -> bool:
    """The pattern, tried only where something of it is there: this runs for each read that a rule names."""
    low = bare.lower()
    for word in _MOMENT_PARTS:
        if word in low:
            return _MOMENT.search(bare) is not None
    return "\n" in low and _MOMENT.search(bare) is not None


def _of_system(table: str) -> bool:
    schema, _, bare = table.rpartition(".")
    return schema in _SYSTEM_SCHEMAS or schema.startswith("pg_temp") or bare.startswith("pg_")


def uncacheable(shape: Shape, text: str) -> str:
    """Why no rule could allow a template of this shape and text; "" if one could."""
    if not shape.parsed:
        return "not understood"
    if shape.kind != Kind.SELECT:
        return "not a read"
    if not shape.read_only:
        return "locks or writes rows"
    if not shape.tables:
        return "no table"
    if len(shape.tables) > _TABLES_LIMIT:
        return "too many tables"
    if any(_of_system(table) for table in shape.tables):
        return "system catalog"
    for function in shape.functions:
        if bare_name(function) not in IMMUTABLE:
            return NOT_IMMUTABLE
    if "TABLESAMPLE" in text.upper():
        return "sample"
    if _SYSTEM_COLUMNS.search(text):
        return "system column"
    return mentions(text).reason


def suspects(shape: Shape) -> tuple[str, ...]:
    """The functions that it calls and that are not known to be immutable."""
    return tuple([function for function in shape.functions if bare_name(function) not in IMMUTABLE])


class CacheRules:
    """The configured rules. `decide` is what the session asks for each statement.

    Rules by template or fingerprint come before those by tables; of each kind the first counts whose conditions hold.
    """

    name = "cacheable"

    def __init__(
        self,
        rules: Iterable[AllowRule] = (),
        classify: Callable[[Template], Shape] = shape_of,
        *,
        hints: Hints = Hints.RESTRICT,
    ) -> None:
        self.rules = tuple(rules)
        self.hints = hints
        self._classify = classify
        self._by_fingerprint: dict[str, list[AllowRule]] = {}
        self._by_tables: list[AllowRule] = []
        self._memo: dict[str, Verdict] = {}
        self.templates: dict[str, Template] = {}
        """Of the rules that name one, by the rule's name."""
        self.problems: list[str] = []
        """A sentence for each rule that can never have an effect."""
        for rule in self.rules:
            self._add(rule)

    def _add(self, rule: AllowRule) -> None:
        if rule.tables is not None:
            earlier = self._covering(rule)
            self._by_tables.append(rule)
            if not rule.tables:
                self._refuse(rule, "it names no table", "name the tables that it is for")
            elif all(_of_system(table) for table in rule.tables):
                self._refuse(rule, "answers from system catalogs are never stored", "name tables of the application")
            elif earlier is not None:
                self._refuse(rule, f"{earlier.name!r} comes first and is for all of its tables", "change their order")
        elif rule.fingerprint is not None:
            self._add_fingerprint(rule, rule.fingerprint.strip().lower())
        elif rule.template is None:
            self._refuse(rule, "it names no tables, template or fingerprint", "give it one of them")
        else:
            found = recognise(rule.template)
            if len(found) != 1:
                self._refuse(rule, "its template is not one statement", "write one rule for each statement")
                return
            template = self.templates[rule.name] = found[0].template
            shape = self._classify(template)
            reason = uncacheable(shape, template.text)
            if reason:
                names = ", ".join(f"{name}()" for name in suspects(shape))
                called = f" ({names})" if reason == NOT_IMMUTABLE else ""
                self._refuse(rule, f"its template cannot be cached: {reason}{called}", "change the template")
            self._add_fingerprint(rule, template.fingerprint)

    def _add_fingerprint(self, rule: AllowRule, fingerprint: str) -> None:
        same = self._by_fingerprint.setdefault(fingerprint, [])
        for earlier in same:
            if not earlier.conditional:
                self._refuse(rule, f"{earlier.name!r} comes first and is for the same statement", "change their order")
                break
        same.append(rule)

    def _covering(self, rule: AllowRule) -> AllowRule | None:
        for earlier in self._by_tables:
            if not earlier.conditional and earlier.allows(rule.tables or ()):
                return earlier
        return None

    def _refuse(self, rule: AllowRule, why: str, instead: str) -> None:
        self.problems.append(f"the cache rule {rule.name!r} can never hit: {why}; {instead}, or delete the rule")

    @property
    def empty(self) -> bool:
        """Nothing is ever cached."""
        return not self.rules and self.hints is not Hints.ALLOW

    def decide(self, statement: Statement) -> Decision:
        """FORWARD, or Cacheable where a rule allows it. Says nothing of the session: transaction, trust and role are its own."""
        return self.judge(statement.recognised, statement.session).decision or FORWARD

    def judge(self, recognised: Recognised, session: SessionInfo = _NOBODY) -> Verdict:
        """The decision with its reason. Conditions are held against the session and the statement's tags."""
        text = recognised.template.text
        verdict = self._memo.get(text)
        if verdict is None:
            if self.empty:
                return _NO_RULE
            verdict = self._judge(recognised.template)
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            if len(text) <= _MEMO_TEXT:
                self._memo[text] = verdict
        while verdict.otherwise is not None:
            rule = verdict.allowing
            if rule is None or rule.unmet(session, recognised.tags) is None:
                break
            verdict = verdict.otherwise
        if recognised.tags and HINT in recognised.tags:
            verdict = self._hinted(verdict, recognised)
        if verdict.decision is None:
            return verdict
        if len(recognised.bare) > MAX_TEXT:
            return Verdict(None, verdict.rule, "too long")
        if _names_moment(recognised.bare):
            return Verdict(None, verdict.rule, "names a moment")
        return verdict

    def candidates(self, template: Template) -> list[AllowRule]:
        """The rules that name this template, its fingerprint or all of its tables, in the order in which they count."""
        out = list(self._by_fingerprint.get(template.fingerprint, ()))
        if self._by_tables:
            tables = self._classify(template).tables
            if tables:
                out += [rule for rule in self._by_tables if rule.allows(tables)]
        return out

    def _judge(self, template: Template) -> Verdict:
        found = self.candidates(template)
        last = next((number for number, rule in enumerate(found) if not rule.conditional), len(found))
        verdict = _NO_RULE
        for rule in reversed(found[: last + 1]):
            verdict = self._verdict(rule, template, verdict if rule.conditional else None)
        return verdict

    def _verdict(self, rule: AllowRule, template: Template, otherwise: Verdict | None) -> Verdict:
        shape = self._classify(template)
        reason = uncacheable(shape, template.text)
        if reason:
            # a write to allowed tables is no read that went by: it is not worth a count
            known = shape.kind == Kind.SELECT
            return Verdict(None, rule.name if known else "", reason if known else "", rule, otherwise)
        return Verdict(_allowed(rule, shape, rule.ttl_s, rule.stale_s), rule.name, "", rule, otherwise)

    def _hinted(self, verdict: Verdict, recognised: Recognised) -> Verdict:
        """The verdict with what the comments ask for."""
        rule = verdict.allowing
        if self.hints is Hints.IGNORE or (rule is not None and not rule.hints):
            return verdict
        hint = parse_hint(recognised.tags[HINT])
        decision = verdict.decision
        if decision is None or rule is None:
            if rule is not None or self.hints is not Hints.ALLOW or not hint.cache:
                return verdict
            shape = self._classify(recognised.template)
            if shape.kind != Kind.SELECT or not shape.tables:
                return verdict
            if hint.ttl_s is None:
                return Verdict(None, HINT_RULE, "the hint has no ttl and there is no rule")
            reason = uncacheable(shape, recognised.template.text)
            if reason:
                return Verdict(None, HINT_RULE, reason)
            return Verdict(_allowed(_HINTED, shape, hint.ttl_s, 0.0), HINT_RULE, "", _HINTED)
        if not hint.understood:
            return Verdict(None, verdict.rule, "a hint that is not understood")
        if not hint.cache:
            return Verdict(None, verdict.rule, "a hint says nocache")
        if hint.ttl_s is None or hint.ttl_s >= rule.ttl_s + rule.stale_s:
            return verdict
        shape = self._classify(recognised.template)
        ttl_s = min(hint.ttl_s, rule.ttl_s)
        return Verdict(_allowed(rule, shape, ttl_s, hint.ttl_s - ttl_s), verdict.rule, "", rule)


_HINTED: Final = AllowRule(HINT_RULE, 0.0)


def _allowed(rule: AllowRule, shape: Shape, ttl_s: float, stale_s: float) -> Cacheable:
    return Cacheable(
        rule.name,
        ttl_s,
        shape.tables,
        shape.functions,
        rule.max_entry_bytes,
        stale_s,
        rule.max_rows,
        rule.dry_run,
        rule.key_by_user,
    )
