"""What may be answered from a cache, and what a statement may change.

Both answers are safe only in one direction, so both take the narrow reading. A read may be cached if everything about it
is understood: it parses, it surely writes nothing, its tables are known and none is of the system, and each function that
it calls is a built-in one that is IMMUTABLE in all its forms. A statement changes nothing, or known tables, if everything
about it is understood; else it may change anything, what depends on what included.

The effect of a read is told from the tokens of its template alone. That needs no parse, so it costs little for the many
statements that no rule allows, and a SELECT that the parser does not know does not empty the cache.

Answers are kept by the text of the template, not by its fingerprint: two texts may share a fingerprint because they mean the
same to a report, and a cache must not depend on how far that goes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgloupe_rules.builtin import HARMLESS, IMMUTABLE
from pgloupe_rules.canonical import canonicalise
from pgloupe_rules.lexer import lex
from pgloupe_rules.normalise import MAX_TEXT, recognise
from pgloupe_rules.shape import functions as functions_of
from pgloupe_rules.shape import parse, shape_of
from pgloupe_rules.types import FORWARD, WRITES, Cacheable, Decision, Kind, Recognised, Shape, Statement, Template

_MEMO_LIMIT: Final = 8192
_MEMO_TEXT: Final = 16384
"""Characters of the longest template that is kept: a few of a megabyte each would be all the memory there is."""
_TABLES_LIMIT: Final = 64

DEFAULT_MAX_ENTRY_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class AllowRule:
    """One `[[cache.allow]]`: which reads may be answered, and for how long.

    It names tables, a template or a fingerprint. A read matches `tables` if each of its tables is in the set. A bare name
    in the set stands for that table without a schema and for `public.name`; a table of another schema has to be named with
    it. `template` is SQL in any spelling; comments, literals and layout do not matter.
    """

    name: str
    ttl_s: float
    tables: frozenset[str] | None = None
    template: str | None = None
    fingerprint: str | None = None
    max_entry_bytes: int = DEFAULT_MAX_ENTRY_BYTES

    def allows(self, tables: Iterable[str]) -> bool:
        """Each of these tables is in the set."""
        allowed = self.tables
        if allowed is None:
            return False
        for table in tables:
            if table not in allowed:
                schema, _, bare = table.rpartition(".")
                if schema == "public" and bare in allowed:
                    continue
                if not schema and f"public.{bare}" in allowed:
                    continue
                return False
        return True


class Verdict:
    """What a template is to the cache: the decision, or the reason why it is not cached (a rule's name with it)."""

    __slots__ = ("decision", "reason", "rule")

    def __init__(self, decision: Cacheable | None, rule: str = "", reason: str = "") -> None:
        self.decision = decision
        self.rule = rule
        """The rule that allows it, "" for none."""
        self.reason = reason
        """Why the rule does not help; "" where it does or where there is none."""


_NO_RULE: Final = Verdict(None)

# Words that mean another moment each time they are read as a date (documentation, section 8.5.1.4), and spellings in which
# a literal could hide one.
_MOMENT: Final = re.compile(
    r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])|(?<![a-z0-9_])e'|u&'|'[ \t\r\f\v]*\n\s*'", re.IGNORECASE
)
_SYSTEM_COLUMNS: Final = re.compile(r"\b(?:ctid|xmin|xmax|cmin|cmax|tableoid)\b")
_SYSTEM_SCHEMAS: Final = frozenset({"pg_catalog", "information_schema", "pg_toast"})


def _builtin(function: str) -> str:
    """The bare name of a function that can be a built-in one; "" if it is qualified with another schema."""
    schema, _, name = function.rpartition(".")
    return name if schema in ("", "pg_catalog") else ""


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
    for table in shape.tables:
        schema, _, bare = table.rpartition(".")
        if schema in _SYSTEM_SCHEMAS or schema.startswith("pg_temp") or bare.startswith("pg_"):
            return "system catalog"
    for function in shape.functions:
        if _builtin(function) not in IMMUTABLE:
            return "function that is not known to be immutable"
    if "TABLESAMPLE" in text.upper():
        return "sample"
    if _SYSTEM_COLUMNS.search(text):
        return "system column"
    return ""


class CacheRules:
    """The configured rules. `decide` is what the session asks for each statement."""

    name = "cacheable"

    def __init__(self, rules: Iterable[AllowRule] = (), classify: Callable[[Template], Shape] = shape_of) -> None:
        self.rules = tuple(rules)
        self._classify = classify
        self._by_fingerprint: dict[str, AllowRule] = {}
        self._by_tables: list[AllowRule] = []
        self._memo: dict[str, Verdict] = {}
        self.problems: list[str] = []
        """A sentence for each rule that can never have an effect."""
        for rule in self.rules:
            self._add(rule)

    def _add(self, rule: AllowRule) -> None:
        if rule.tables is not None:
            self._by_tables.append(rule)
            if not rule.tables:
                self.problems.append(f"the cache rule {rule.name!r} names no table")
        if rule.fingerprint is not None:
            self._by_fingerprint.setdefault(rule.fingerprint.strip().lower(), rule)
        if rule.template is not None:
            found = recognise(rule.template)
            if len(found) != 1:
                self.problems.append(f"the template of the cache rule {rule.name!r} is not one statement")
                return
            self._by_fingerprint.setdefault(found[0].template.fingerprint, rule)
            reason = uncacheable(self._classify(found[0].template), found[0].template.text)
            if reason:
                self.problems.append(f"the template of the cache rule {rule.name!r} cannot be cached: {reason}")
        if rule.tables is None and rule.fingerprint is None and rule.template is None:
            self.problems.append(f"the cache rule {rule.name!r} names no tables, template or fingerprint")

    def decide(self, statement: Statement) -> Decision:
        """FORWARD, or Cacheable where a rule allows it. Says nothing of the session: transaction, trust and role are its own."""
        return self.judge(statement.recognised).decision or FORWARD

    def judge(self, recognised: Recognised) -> Verdict:
        """The decision with its reason."""
        if not self.rules:
            return _NO_RULE
        text = recognised.template.text
        verdict = self._memo.get(text)
        if verdict is None:
            verdict = self._judge(recognised.template)
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            if len(text) <= _MEMO_TEXT:
                self._memo[text] = verdict
        if verdict.decision is None:
            return verdict
        if len(recognised.bare) > MAX_TEXT:
            return Verdict(None, verdict.rule, "too long")
        if _MOMENT.search(recognised.bare):
            return Verdict(None, verdict.rule, "names a moment")
        return verdict

    def _judge(self, template: Template) -> Verdict:
        rule = self._by_fingerprint.get(template.fingerprint)
        if rule is None and not self._by_tables:
            return _NO_RULE
        shape = self._classify(template)
        if rule is None:
            if not shape.tables:
                return _NO_RULE
            rule = next((rule for rule in self._by_tables if rule.allows(shape.tables)), None)
            if rule is None:
                return _NO_RULE
        reason = uncacheable(shape, template.text)
        if reason:
            # a write to allowed tables is no read that went by: it is not worth a count
            return _NO_RULE if shape.kind != Kind.SELECT else Verdict(None, rule.name, reason)
        return Verdict(Cacheable(rule.name, rule.ttl_s, shape.tables, shape.functions, rule.max_entry_bytes), rule.name)


class EffectKind(StrEnum):
    NOTHING = "nothing"
    TABLES = "tables"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement may change.

    `tables` are those that it names as targets, as the shape gives them; None: any table, and the dependencies between
    tables too. `functions` are those it calls that are not known to be harmless: unless somebody knows better, it may change
    anything because of them, so `kind` is EVERYTHING then.
    """

    kind: EffectKind
    tables: frozenset[str] | None = None
    functions: frozenset[str] = frozenset()

    @property
    def everything(self) -> bool:
        """It may change any table, whatever its functions do."""
        return self.tables is None


NOTHING: Final = Effect(EffectKind.NOTHING, frozenset())
EVERYTHING: Final = Effect(EffectKind.EVERYTHING)

_effects: Final[dict[str, Effect]] = {}

# Words of a template that write. Key words are in upper case there; a quoted name in upper case may be taken for one.
_WRITING: Final = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|INTO)\b")
_LOCKING: Final = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b|\bDO\s+UPDATE\b")
_FIRST: Final = re.compile(r"[\s(]*([A-Za-z]+)")
_SECOND: Final = re.compile(r"[\s(]*[A-Za-z]+\s+([A-Za-z]+)")
_COPY: Final = re.compile(
    r'COPY\s+((?:"(?:[^"]|"")*"|[^\s(."]+)(?:\s*\.\s*(?:"(?:[^"]|"")*"|[^\s(."]+))*)\s*(?:\([^()]*\))?\s+(FROM|TO)\b',
    re.IGNORECASE,
)

# Statements that change no row of a table, whatever they name. What they change in the session is the session's business.
_QUIET_KINDS: Final = frozenset(
    {Kind.BEGIN, Kind.COMMIT, Kind.ROLLBACK, Kind.SAVEPOINT, Kind.SET, Kind.SHOW, Kind.FETCH}
)
_QUIET_WORDS: Final = frozenset(
    [
        "ANALYZE",
        "ANALYSE",
        "CHECKPOINT",
        "CLOSE",
        "CLUSTER",
        "DEALLOCATE",
        "LISTEN",
        "LOCK",
        "NOTIFY",
        "UNLISTEN",
        "VACUUM",
    ]
)
_READING_WORDS: Final = frozenset({"SELECT", "VALUES", "TABLE", "WITH"})


def effect_of(recognised: Recognised) -> Effect:
    """What the statement may change. Kept by template; never raises."""
    if len(recognised.bare) > MAX_TEXT:
        # its template knows the beginning only
        return EVERYTHING
    template = recognised.template
    effect = _effects.get(template.text)
    if effect is None:
        effect = _effect(template)
        if len(_effects) >= _MEMO_LIMIT:
            _effects.clear()
        if len(template.text) <= _MEMO_TEXT:
            _effects[template.text] = effect
    return effect


def _effect(template: Template) -> Effect:
    text = template.text
    found = _FIRST.match(text)
    first = found.group(1).upper() if found is not None else ""
    if first in _READING_WORDS and not _WRITING.search(_LOCKING.sub(" ", text)):
        return _with_functions(frozenset(), _calls(text))
    if first == "COPY":
        return _copy(text)
    if first in ("EXPLAIN", "PREPARE", "DECLARE") or first in _QUIET_WORDS:
        return _utility(text, first)
    shape = shape_of(template)
    if shape.kind in _QUIET_KINDS:
        return NOTHING
    if not shape.parsed:
        return EVERYTHING
    if first == "TRUNCATE":
        cascades = re.search(r"\bCASCADE\b", text, re.IGNORECASE) is not None
        return EVERYTHING if cascades or not shape.written else Effect(EffectKind.TABLES, frozenset(shape.written))
    if shape.kind in WRITES and shape.kind != Kind.MERGE and len(shape.written) == 1:
        # one writing word: the statement's own, and INTO only after INSERT
        words = [word for word in _WRITING.findall(_LOCKING.sub(" ", text)) if word != "INTO"]
        into = len(re.findall(r"\bINTO\b", text))
        if words == [shape.kind.value.upper()] and into == (1 if shape.kind == Kind.INSERT else 0):
            return _with_functions(frozenset(shape.written), shape.functions, shape.written)
    return EVERYTHING


def _calls(text: str) -> tuple[str, ...]:
    return functions_of(canonicalise(lex(text)[0]))


def _with_functions(tables: frozenset[str], called: Iterable[str], written: tuple[str, ...] = ()) -> Effect:
    # `INSERT INTO t (a, b)` may show its table as a function
    unknown = frozenset(name for name in called if name not in written and _builtin(name) not in HARMLESS)
    if unknown:
        return Effect(EffectKind.EVERYTHING, tables, unknown)
    return Effect(EffectKind.TABLES, tables) if tables else NOTHING


def _utility(text: str, first: str) -> Effect:
    if first == "EXPLAIN":
        # with ANALYZE it runs the statement; planning alone runs what is IMMUTABLE at most
        return EVERYTHING if re.search(r"\bANALY[SZ]E\b", text, re.IGNORECASE) else NOTHING
    if first == "PREPARE":
        second = _SECOND.match(text)
        return EVERYTHING if second is None or second.group(1).upper() == "TRANSACTION" else NOTHING
    if first == "DECLARE":
        # what its query calls runs at FETCH, in this transaction
        return EVERYTHING if _WRITING.search(_LOCKING.sub(" ", text)) else _with_functions(frozenset(), _calls(text))
    return NOTHING


def _copy(text: str) -> Effect:
    found = _COPY.match(text)
    if found is not None:
        if found.group(2).upper() == "TO":
            return NOTHING
        shape = parse(text)
        if not shape.parsed or len(shape.written) != 1 or re.search(r"\bWHERE\b", text, re.IGNORECASE):
            return EVERYTHING
        return Effect(EffectKind.TABLES, frozenset(shape.written))
    start, end = text.find("("), text.upper().rfind(") TO ")
    if start < 0 or end < start or _WRITING.search(_LOCKING.sub(" ", text)):
        return EVERYTHING
    return _with_functions(frozenset(), _calls(text[start + 1 : end]))
