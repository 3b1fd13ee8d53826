"""The memo in front of `normalise`: what was recognised once costs one look-up, what differs in literals alone little more.

Three tables: query strings to what they are; keys (the text without its literals) to plans; fingerprints to templates,
so that a fingerprint is one `Template` object whose shape is parsed once. Each has a young and an old half. What is
found in the old half moves to the young one; when any young half is full, all old halves are dropped together and the
young ones become old. So a hit in the young half costs nothing beyond the look-up, nothing is dropped that was used
lately, and a query string that is still remembered keeps its template.
"""

from __future__ import annotations

from typing import Final

from pgloupe_rules.lexer import NUMBER, STRING, is_safe_key, lex, literals
from pgloupe_rules.meaning import digest
from pgloupe_rules.normalise import (
    MAX_TEXT,
    MAX_TOKENS,
    UNRECOGNISED,
    Plan,
    bare_text,
    crowded,
    fill,
    recognise,
    recognise_tokens,
    tags_of,
)
from pgloupe_rules.types import Literal, Recognised, Slot, Template

MAX_KEPT: Final = 1 << 16
"""Characters of the longest query string that is kept."""
_OVERHEAD: Final = 600
"""Bytes that an entry takes beside its text, about."""


class Recognition:
    """A memo of recognised query strings, bounded in entries and in bytes. It is a `Recogniser`: call it."""

    __slots__ = (
        "_bytes",
        "_max_bytes",
        "_max_entries",
        "_old",
        "_old_plans",
        "_old_templates",
        "_plans",
        "_templates",
        "_young",
        "failures",
    )

    def __init__(self, max_entries: int = 8192, max_bytes: int = 32 << 20) -> None:
        """`max_entries` holds for each table, `max_bytes` for the sum of them; half of each is the young half's."""
        self._max_entries = max(1, max_entries // 2)
        self._max_bytes = max_bytes // 2
        self._bytes = 0
        self._young: dict[str, tuple[Recognised, ...]] = {}
        self._old: dict[str, tuple[Recognised, ...]] = {}
        self._plans: dict[str, Plan] = {}
        self._old_plans: dict[str, Plan] = {}
        self.failures = 0
        """Query strings on which recognition failed: each is a fault to be mended."""
        self._templates: dict[str, Template] = {}
        self._old_templates: dict[str, Template] = {}

    def __call__(self, query_string: str, /) -> tuple[Recognised, ...]:
        """What `normalise.recognise` says of the query string, with the templates of this memo. Never raises."""
        found = self._young.get(query_string)
        return self._miss(query_string) if found is None else found

    def __len__(self) -> int:
        """Query strings kept."""
        return len(self._young) + len(self._old)

    def template(self, fingerprint: str) -> Template | None:
        """The template of a fingerprint, while it is remembered."""
        found = self._templates.get(fingerprint)
        return self._old_templates.get(fingerprint) if found is None else found

    def _miss(self, query_string: str) -> tuple[Recognised, ...]:
        size = len(query_string)
        if size > MAX_TEXT:
            return tuple([self._shared(item) for item in recognise(query_string)])
        found = self._old.get(query_string)
        if found is None:
            try:
                found = self._recognise(query_string)
            except Exception:  # what we fail on must not fail at the client
                self.failures += 1
                template = Template(digest(query_string), UNRECOGNISED, 0)
                found = (Recognised(template, (), query_string),)
        else:
            for item in found:
                self._template(item.template)
        if size <= MAX_KEPT:
            self._make_room(3 * size + _OVERHEAD)
            for item in found:
                self._template(item.template)
            self._young[query_string] = found
        return found

    def _recognise(self, query_string: str) -> tuple[Recognised, ...]:
        parts = literals(query_string)
        if parts is None:
            return tuple([self._shared(item) for item in recognise(query_string)])
        key, texts, comments = parts
        plan = self._plans.get(key)
        if plan is None:
            plan = self._old_plans.get(key)
            if plan is None:
                return self._learn(query_string, parts)
            self._keep_plan(key, plan)
        template = self._template(plan.template)
        bare = bare_text(query_string, comments)
        return (Recognised(template, fill(plan.layout, texts), bare, tags_of(query_string, comments)),)

    def _learn(self, query_string: str, parts: tuple[str, list[str], list[tuple[int, int]]]) -> tuple[Recognised, ...]:
        """Recognise a text whose key is new, and keep its plan where other texts of the key must have the same."""
        key, texts, _ = parts
        tokens, comments = lex(query_string, MAX_TOKENS + 1)
        if len(tokens) > MAX_TOKENS:
            return (self._shared(crowded(query_string, tokens, parts)),)
        plans: list[Plan] = []
        found = recognise_tokens(query_string, tokens, comments, plans)
        if (
            len(plans) == 1
            and len(key) <= MAX_KEPT
            and [token.text for token in tokens if token.kind in (STRING, NUMBER)] == texts
            and _uses_all(plans[0].layout, len(texts))
            and is_safe_key(key, query_string)
        ):
            plans[0].template = self._template(plans[0].template)
            self._keep_plan(key, plans[0])
        return tuple([self._shared(item) for item in found])

    def _keep_plan(self, key: str, plan: Plan) -> None:
        self._make_room(2 * len(key) + _OVERHEAD)
        plan.template = self._template(plan.template)
        self._plans[key] = plan

    def _shared(self, item: Recognised) -> Recognised:
        item.template = self._template(item.template)
        return item

    def _template(self, template: Template) -> Template:
        """The one object for this fingerprint, in the young half from now on."""
        fingerprint = template.fingerprint
        known = self._templates.get(fingerprint)
        if known is None:
            known = self._old_templates.get(fingerprint)
            if known is None:
                known = template
                self._bytes += 2 * len(template.text) + _OVERHEAD
            self._templates[fingerprint] = known
            if len(self._templates) > 2 * self._max_entries:
                self._turn()
                self._templates[fingerprint] = known
        return known

    def _make_room(self, size: int) -> None:
        if (
            len(self._young) >= self._max_entries
            or len(self._plans) >= self._max_entries
            or self._bytes + size > self._max_bytes
        ):
            self._turn()
        self._bytes += size

    def _turn(self) -> None:
        self._old = self._young
        self._young = {}
        self._old_plans = self._plans
        self._plans = {}
        self._old_templates = self._templates
        self._templates = {}
        self._bytes = 0


def _uses_all(layout: tuple[Slot, ...], count: int) -> bool:
    """Whether each literal of the text is the value of a placeholder, so that none of them shapes the template."""
    used: set[int] = set()
    for item in layout:
        for inner in item if isinstance(item, tuple) else (item,):
            if not isinstance(inner, Literal) and inner < 0:
                used.add(~inner // 2)
    return len(used) == count
