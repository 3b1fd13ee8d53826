"""What a statement may change.

The answer is safe only in one direction, so it takes the narrow reading: a statement changes nothing, or known tables, if
everything about it is understood; else it may change anything, what depends on what included.

The effect of a read is told from the tokens of its template alone. That needs no parse, so it costs little for the many
statements that no rule allows, and a SELECT that the parser does not know does not empty the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pgloupe_rules.builtin import HARMLESS, bare_name
from pgloupe_rules.canonical import canonicalise
from pgloupe_rules.lexer import lex
from pgloupe_rules.normalise import MAX_TEXT
from pgloupe_rules.shape import functions as functions_of
from pgloupe_rules.shape import parse, shape_of
from pgloupe_rules.tok import KEY, NAME, Tok
from pgloupe_rules.types import WRITES, Kind, Recognised, Template

_MEMO_LIMIT: Final = 8192
_MEMO_TEXT: Final = 16384
"""Characters of the longest template that is kept: a few of a megabyte each would be all the memory there is."""


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
_WRITING_WORDS: Final = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE", "INTO"})
_BEFORE_NO_UPDATE: Final = frozenset({"FOR", "KEY", "DO"})
_NONE: Final[frozenset[str]] = frozenset()
_PARTS_LIMIT: Final = 4
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
    if shape.kind in WRITES or shape.kind == Kind.SELECT:
        targets = _targets(canonicalise(lex(text)[0]))
        if targets and targets.issuperset(shape.written):
            # `THEN INSERT (a, b)` shows that word as a function
            return _with_functions(targets, shape.functions, (*targets, "insert"))
    return EVERYTHING


def _targets(toks: list[Tok]) -> frozenset[str]:
    """The tables that INSERT, UPDATE, DELETE and MERGE name as their targets, in a WITH too; empty where a word that may write
    stands anywhere else."""
    found: set[str] = set()
    words = {tok.text for tok in toks if tok.kind == KEY}
    merges = "MERGE" in words and "CASE" not in words  # THEN stands before its actions
    after = 0  # INTO belongs to the word before it up to here
    for index, tok in enumerate(toks):
        if tok.kind != KEY or tok.text not in _WRITING_WORDS:
            continue
        before = toks[index - 1].text if index else ""
        if tok.text == "INTO":
            if index != after:
                return _NONE
            continue
        if tok.text == "UPDATE" and before in _BEFORE_NO_UPDATE:
            continue
        if before == "THEN":
            if not merges:
                return _NONE
            continue
        at = index + 1
        if tok.text != "UPDATE":
            if at >= len(toks) or toks[at].text != ("FROM" if tok.text == "DELETE" else "INTO"):
                return _NONE
            after = at
            at += 1
        if at < len(toks) and toks[at].text == "ONLY":
            at += 1
        end = at
        while end + 2 < len(toks) and toks[end].kind == NAME and toks[end + 1].text == ".":
            end += 2
        if end >= len(toks) or toks[end].kind != NAME or end - at > _PARTS_LIMIT:
            return _NONE
        names = [_unquoted(toks[part].text) for part in range(at, end + 1, 2)]
        found.add(".".join(names[-2:]))
    return frozenset(found)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _calls(text: str) -> tuple[str, ...]:
    return functions_of(canonicalise(lex(text)[0]))


def _with_functions(tables: frozenset[str], called: Iterable[str], written: tuple[str, ...] = ()) -> Effect:
    # `INSERT INTO t (a, b)` may show its table as a function
    unknown = frozenset(name for name in called if name not in written and bare_name(name) not in HARMLESS)
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
