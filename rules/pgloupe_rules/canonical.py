"""The tokens of one statement in canonical form, and the template's text.

Each rewriting is local and keeps the text valid SQL of the same meaning. What must not show in the template but has no
meaning either (aliases, parentheses, casts of constants) is left to `meaning`.
"""

from __future__ import annotations

import re
from typing import Final

from pgloupe_rules import words
from pgloupe_rules.lexer import (
    NUMBER,
    OPERATOR,
    PARAM,
    PUNCTUATION,
    QUOTED,
    SPACE,
    STRING,
    WORD,
    Token,
    fold,
    string,
    unicode_escapes,
)
from pgloupe_rules.types import Literal, Slot, comparable

KEY: Final = WORD
"""Key word, in upper case."""
NAME: Final = QUOTED
"""Identifier in lower case, or in its quotes; also a key word in the place of a name."""
CONST: Final = PARAM
"""Constant or parameter, or a list of them; `text` is `$`."""
RAW: Final = NUMBER
"""A number that stays in the text."""

LITERAL_KINDS: Final = frozenset({STRING, NUMBER})
MAX_TOKENS: Final = 2000
_MAX_NESTING: Final = 100
_MAX_MODIFIERS: Final = 8
_MAX_AMOUNT: Final = 64
"""Tokens of the number in FETCH FIRST … ROWS."""
_SIMPLE: Final = re.compile(r"[a-z_][a-z0-9_$]*")
_END: Final = Token(PUNCTUATION, "", 0, 0)


class Tok:
    """One canonical token. `ref` of a CONST is its layout item: see `normalise.Plan`."""

    __slots__ = ("kind", "ref", "text")

    def __init__(self, kind: int, text: str, ref: Slot = 0) -> None:
        self.kind = kind
        self.text = text
        self.ref = ref

    def __repr__(self) -> str:
        return self.text


def canonicalise(tokens: list[Token]) -> list[Tok]:
    """Rewrite a statement's tokens: names folded, constants marked, synonyms written one way, lists folded."""
    toks = _marked(tokens)
    if any(tok.text == "CAST" for tok in toks):
        toks = _fold_casts(toks)
    if toks and toks[0].text == "SET":
        return _fold_set(toks)
    toks = _fold_limits(toks)
    return _fold_lists(toks)


def _query_start(tokens: list[Token]) -> int:
    """Index from which constants are values: 0 for a query, that of the query inside EXPLAIN, DECLARE, PREPARE, COPY or
    CREATE … AS, or the length where there is none."""
    first = ""
    previous = ""
    for index, token in enumerate(tokens):
        word = token.text.lower() if token.kind == WORD else token.text
        if not first and word != "(":
            first = word
            if word in words.QUERIES or word in ("call", "execute"):
                return 0
            if word not in _WRAPPERS:
                return len(tokens)
        elif word in words.QUERIES and word != "table" and previous in _BEFORE_QUERY:
            if first != "create" or previous == "as":
                return index
        previous = word
    return 0 if not first else len(tokens)


_WRAPPERS: Final = frozenset({"explain", "declare", "prepare", "copy", "create"})
_BEFORE_QUERY: Final = frozenset({"explain", "analyze", "analyse", "verbose", "for", "as", "(", ")"})


def _marked(tokens: list[Token]) -> list[Tok]:
    """First pass: kinds and case of words, constants, and the rewritings that need a token or two on either side."""
    out: list[Tok] = []
    values_from = _query_start(tokens)
    utility = values_from > 0
    count = len(tokens)
    literal = -1
    numbers: set[int] = set()  # layout items of numbers
    skip = 0
    for index, token in enumerate(tokens):
        kind = token.kind
        if kind in LITERAL_KINDS:
            literal += 1
        if skip:
            skip -= 1
            continue
        text = token.text
        after = tokens[index + 1] if index + 1 < count else _END
        query = index >= values_from
        if kind == WORD:
            word = fold(text)
            before = out[-1] if out else None
            if (before is not None and before.text == ".") or after.text == ".":
                out.append(Tok(NAME, word))
            elif query and word in _CONSTANTS and _is_constant(word, out, after):
                out.append(Tok(CONST, "$", Literal(_CONSTANTS[word])))
            elif not out or (utility and word in words.UTILITY) or _is_key(word, out, after):
                skip = _key_word(word, out, after, query)
            else:
                out.append(Tok(NAME, word))
        elif kind == QUOTED:
            out.append(Tok(NAME, _quoted(text, out, after)))
        elif kind == STRING:
            if query and text[0] in "uU" and after.text.lower() == "uescape" and index + 2 < count:
                skip = 2
                out.append(Tok(CONST, "$", Literal(_uescape(text, tokens[index + 2].text))))
            else:
                out.append(Tok(CONST, "$", ~(2 * literal)))
            if query:
                _typed_literal(out)
        elif kind == NUMBER:
            if not query or _is_modifier(out):
                out.append(Tok(RAW, text))
            else:
                negative = 0
                if after.text not in ("::", "["):
                    while out and out[-1].text == "-" and is_unary(out, len(out) - 1):
                        out.pop()
                        negative ^= 1
                numbers.add(~(2 * literal + negative))
                out.append(Tok(CONST, "$", ~(2 * literal + negative)))
        elif kind == PARAM:
            out.append(Tok(CONST, "$", int(text[1:])) if len(text) < 8 else Tok(RAW, text))
        elif text == "!=":
            out.append(Tok(OPERATOR, "<>"))
        elif (text == "=>" and query) or (text == ":=" and query):
            out.append(Tok(OPERATOR, "=>"))
        elif (
            text == ")"
            and len(out) > 2
            and out[-1].ref in numbers
            and out[-2].text == "("
            and out[-3].text == "-"
            and is_unary(out, len(out) - 3)
            and after.text not in ("::", "[")
            and isinstance(out[-1].ref, int)
        ):
            out[-3:] = [Tok(CONST, "$", ~(~out[-1].ref ^ 1))]
        else:
            out.append(Tok(kind, text))
    return out


_CONSTANTS: Final = {"true": comparable(True), "false": comparable(False), "null": None}


def _is_constant(word: str, out: list[Tok], after: Token) -> bool:
    """TRUE, FALSE and NULL are constants but after IS, in NOT NULL, and in the clauses of the SQL/JSON functions."""
    before = out[-1].text if out else ""
    if before == "IS" or (before == "NOT" and len(out) > 1 and out[-2].text == "IS"):
        return False
    return word != "null" or not (before in ("NOT", "ON", "SET") or after.text.lower() == "on")


def _is_key(word: str, out: list[Tok], after: Token) -> bool:
    if word in words.STRUCTURAL:
        return True
    previous = words.AFTER.get(word)
    if previous is not None and out and out[-1].text.lower() in previous:
        return True
    following = words.BEFORE.get(word)
    return following is not None and after.text.lower() in following


def _key_word(word: str, out: list[Tok], after: Token, query: bool) -> int:
    """Append a key word in canonical form; returns how many of the next tokens it takes with it."""
    following = after.text.lower() if after.kind == WORD else ""
    before = out[-1].text if out else ""
    if word == "inner" and following == "join":
        return 0
    if word == "outer" and before in ("LEFT", "RIGHT", "FULL"):
        return 0
    if word == "all" and before == "SELECT":
        return 0
    if word == "distinct" and before in ("UNION", "INTERSECT", "EXCEPT"):
        return 0
    if word == "some" and after.text == "(":
        word = "any"
    if word in ("isnull", "notnull") and out:
        out.append(Tok(KEY, "IS"))
        if word == "notnull":
            out.append(Tok(KEY, "NOT"))
        word = "null"
    if word == "table" and not before and query:
        out.extend((Tok(KEY, "SELECT"), Tok(OPERATOR, "*"), Tok(KEY, "FROM")))
        return 0
    out.append(Tok(KEY, word.upper() if word.isascii() else word))
    return 0


def _quoted(text: str, out: list[Tok], after: Token) -> str:
    """A quoted identifier: without its quotes where it means the same without."""
    if text[0] == '"':
        body = text[1:-1] if text.endswith('"', 1) else text[1:]
        body = body.replace('""', '"')
    else:
        body = unicode_escapes(text[3:-1].replace('""', '"'), "\\")
    if _SIMPLE.fullmatch(body):
        if out and out[-1].text == ".":
            return body
        if body not in words.RESERVED:
            if body not in words.COLUMN_NAMES or after.text == ".":
                return body
            before = out[-1] if out else None
            if (
                before is not None
                and (before.kind == OPERATOR or before.text in _BEFORE_COLUMN)
                and (
                    (after.kind in (OPERATOR, PUNCTUATION) and after.text not in ("(", "::"))
                    or (after.kind == WORD and after.text.lower() in words.RESERVED and after.text.lower() != "with")
                )
            ):
                return body
    return '"' + body.replace('"', '""') + '"'


_BEFORE_COLUMN: Final = frozenset({",", "(", "SELECT", "WHERE", "AND", "OR", "NOT", "ON", "BY", "SET", "RETURNING"})


def _uescape(text: str, escape: str) -> object:
    mark = str(string(escape))
    return comparable(unicode_escapes(text[3:-1].replace("''", "'"), mark) if len(mark) == 1 else text)


def _is_modifier(out: list[Tok]) -> bool:
    """Whether a number here belongs to a type: `varchar(10)`, `numeric(10, 2)`, `x::vector(3)`, `int[3]`."""
    at = len(out) - 1
    while at > 0 and len(out) - at < _MAX_MODIFIERS and (out[at].kind == RAW or out[at].text == ","):
        at -= 1
    if at < 1:
        return False
    if out[at].text == "(":
        name = out[at - 1]
        return name.kind in (NAME, KEY) and (
            name.text.lower() in words.SIZED or (name.kind == NAME and _is_type(out, at - 1))
        )
    return out[at].text == "[" and out[at - 1].kind == NAME and _is_type(out, at - 1)


def _is_type(out: list[Tok], at: int) -> bool:
    """Whether the name that ends at `at` is the type of a cast."""
    while at > 1 and out[at - 1].text == "." and out[at - 2].kind == NAME:
        at -= 2
    return at > 0 and out[at - 1].text == "::"


def is_unary(out: list[Tok], at: int) -> bool:
    """Whether the operator at `at` has nothing on its left."""
    if at == 0:
        return True
    before = out[at - 1]
    if before.kind == OPERATOR:
        return before.text != "*" or at < 2 or not (out[at - 2].text == "." or _unary_star(out, at - 1))
    if before.kind == KEY:
        return before.text not in _OPERAND_KEYS
    return before.kind == PUNCTUATION and before.text not in (")", "]")


def _unary_star(out: list[Tok], at: int) -> bool:
    return at > 0 and out[at - 1].text in ("SELECT", "(", ",")


_OPERAND_KEYS: Final = frozenset(
    [
        "END",
        "NULL",
        "CURRENT_CATALOG",
        "CURRENT_DATE",
        "CURRENT_ROLE",
        "CURRENT_TIME",
        "CURRENT_TIMESTAMP",
        "CURRENT_USER",
        "LOCALTIME",
        "LOCALTIMESTAMP",
        "SESSION_USER",
        "USER",
        "CURRENT_SCHEMA",
    ]
)


def _typed_literal(out: list[Tok]) -> None:
    """`date '2020-01-01'` becomes `'2020-01-01'::date` (section 4.1.2.7)."""
    at = len(out) - 2
    if at < 0:
        return
    last = at
    if out[at].text == ")":
        while at > 0 and out[at].text != "(" and last - at < _MAX_MODIFIERS:
            at -= 1
            if out[at].kind != RAW and out[at].text not in (",", "("):
                return
        at -= 1
    if at < 0:
        return
    if out[at].text == "ZONE":
        if at < 3 or out[at - 1].text != "TIME" or out[at - 2].text not in ("WITH", "WITHOUT"):
            return
        at -= 3
        if out[at].text == ")":
            at -= 3
        if at < 0 or out[at].text not in ("time", "timestamp"):
            return
    elif out[at].kind != NAME or (last != at and out[at].text not in words.SIZED):
        return
    elif at > 0 and out[at - 1].kind == NAME and out[at].text in ("precision", "varying"):
        at -= 1
    while at > 1 and out[at - 1].text == "." and out[at - 2].kind == NAME:
        at -= 2
    constant = out.pop()
    out[at:at] = [constant, Tok(PUNCTUATION, "::")]


def _fold_casts(toks: list[Tok]) -> list[Tok]:
    """`CAST(x AS t)` becomes `x::t`, or `(x)::t` where x is more than one operand."""
    out: list[Tok] = []
    frames: list[int] = []  # for each open parenthesis: where its operand starts, if it is that of a CAST, else -1
    types: list[int] = []
    index = 0
    while index < len(toks):
        tok = toks[index]
        if tok.text == "CAST" and index + 1 < len(toks) and toks[index + 1].text == "(" and len(frames) < _MAX_NESTING:
            frames.append(len(out))
            types.append(-1)
            index += 2
            continue
        if tok.text == "(":
            frames.append(-1)
            types.append(-1)
        elif tok.text == "AS" and frames and frames[-1] >= 0 and types[-1] < 0:
            types[-1] = len(out)
            index += 1
            continue
        elif tok.text == ")" and frames:
            start = frames.pop()
            at = types.pop()
            if start >= 0:
                if at >= 0:
                    operand = out[start:at]
                    if not _is_operand(operand):
                        operand = [Tok(PUNCTUATION, "("), *operand, Tok(PUNCTUATION, ")")]
                    out[start:at] = [*operand, Tok(PUNCTUATION, "::")]
                else:
                    out[start:start] = [Tok(KEY, "CAST"), Tok(PUNCTUATION, "(")]
                    out.append(tok)
                index += 1
                continue
        out.append(tok)
        index += 1
    for start in reversed([frame for frame in frames if frame >= 0]):
        out[start:start] = [Tok(KEY, "CAST"), Tok(PUNCTUATION, "(")]
    return out


def _is_operand(toks: list[Tok]) -> bool:
    depth = 0
    for tok in toks:
        if tok.text in ("(", "["):
            depth += 1
        elif tok.text in (")", "]"):
            depth -= 1
        elif depth == 0 and tok.kind in (OPERATOR, KEY):
            return len(toks) == 1
    return bool(toks)


def _fold_set(toks: list[Tok]) -> list[Tok]:
    """`SET [LOCAL] name = $1` for every form of it and every value, several values being a list (documentation, SET)."""
    at = 1
    head = [toks[0]]
    upper = [tok.text.upper() for tok in toks[:6]] + [""] * 6
    if upper[1] == "SESSION" and upper[2] not in ("AUTHORIZATION", "CHARACTERISTICS"):
        at = 2
    elif upper[1] == "LOCAL":
        head.append(toks[1])
        at = 2
    if upper[at] == "TIME" and upper[at + 1] == "ZONE":
        head.extend((Tok(NAME, "timezone"), Tok(OPERATOR, "=")))
        at += 2
    elif upper[at] == "NAMES" and len(toks) > at + 1:
        head.extend((Tok(NAME, "client_encoding"), Tok(OPERATOR, "=")))
        at += 1
    elif upper[at] == "ROLE":
        head.append(Tok(KEY, "ROLE"))
        at += 1
    elif upper[at] == "SESSION" and upper[at + 1] == "AUTHORIZATION":
        head.extend((Tok(KEY, "SESSION"), Tok(KEY, "AUTHORIZATION")))
        at += 2
    else:
        while at < len(toks) and toks[at].text not in ("=", "TO"):
            head.append(toks[at])
            at += 1
        if at >= len(toks):
            return toks
        head.append(Tok(OPERATOR, "="))
        at += 1
    values: list[int | Literal] = []
    sign = ""
    for tok in toks[at:]:
        if tok.kind == CONST and not isinstance(tok.ref, tuple):
            values.append(tok.ref)
        elif tok.text == "-":
            sign = "-"
            continue
        elif tok.text == "DEFAULT":
            return [*head, tok]
        elif tok.text != ",":
            plain = tok.text[1:-1] if tok.text.startswith('"') else tok.text
            values.append(Literal(comparable(sign + (plain if tok.kind != KEY else plain.lower()))))
        sign = ""
    if not values:
        return toks
    return [*head, Tok(CONST, "$", values[0] if len(values) == 1 else tuple(values))]


def _fold_limits(toks: list[Tok]) -> list[Tok]:
    """`FETCH FIRST n ROWS ONLY` becomes `LIMIT n`; LIMIT comes before OFFSET (documentation, SELECT)."""
    if not any(tok.text in ("FETCH", "OFFSET") for tok in toks) or toks[0].text == "FETCH":
        return toks
    out: list[Tok] = []
    offsets: dict[int, int] = {}
    depth = 0
    index = 0
    while index < len(toks):
        tok = toks[index]
        text = tok.text
        if text in ("(", "["):
            depth += 1
        elif text in (")", "]"):
            offsets.pop(depth, None)
            depth -= 1
        elif text in _CLAUSE_ENDS:
            offsets.pop(depth, None)
        elif text == "OFFSET" and tok.kind == KEY:
            offsets[depth] = len(out)
        elif text.lower() in ("row", "rows") and depth in offsets and index > 1:
            index += 1
            continue
        elif text == "FETCH" and index + 2 < len(toks) and toks[index + 1].text in ("FIRST", "NEXT"):
            end = index + 2
            while end < len(toks) and end - index < _MAX_AMOUNT and toks[end].text.lower() not in ("row", "rows"):
                end += 1
            if end + 1 < len(toks) and toks[end + 1].text == "ONLY":
                amount = toks[index + 2 : end] or [Tok(CONST, "$", Literal(1))]
                at = offsets.pop(depth, len(out))
                out[at:at] = [Tok(KEY, "LIMIT"), *amount]
                index = end + 2
                continue
        elif text == "LIMIT" and depth in offsets:
            end = index + 1
            level = 0
            while end < len(toks) and (level > 0 or toks[end].text not in _LIMIT_ENDS):
                level += (toks[end].text == "(") - (toks[end].text == ")")
                end += 1
            at = offsets.pop(depth)
            out[at:at] = toks[index:end]
            index = end
            continue
        out.append(tok)
        index += 1
    return out


_CLAUSE_ENDS: Final = frozenset({"UNION", "INTERSECT", "EXCEPT", "SELECT", "FOR"})
_LIMIT_ENDS: Final = _CLAUSE_ENDS | {")", "FETCH", "OFFSET"}


def _constant(toks: list[Tok], at: int) -> int:
    """Where the constant at `at` ends, with the casts it has; `at` if there is none."""
    if at >= len(toks) or toks[at].kind != CONST or isinstance(toks[at].ref, tuple):
        return at
    return cast_end(toks, at + 1)


def cast_end(toks: list[Tok], at: int, single: bool = False) -> int:
    """Where the casts that start at `at` end: `::a.b(1)[]::c`; or where the first of them does."""
    count = len(toks)
    while at + 1 < count and toks[at].text == "::":
        at += 2
        while at + 1 < count and toks[at].text == "." and toks[at + 1].kind == NAME:
            at += 2
        at = _modifier_end(toks, at)
        while at < count and toks[at].text in _TYPE_WORDS:
            if toks[at].text == "WITH" and not (at + 1 < count and toks[at + 1].text == "TIME"):
                break
            at = _modifier_end(toks, at + 1)
        while at + 1 < count and toks[at].text == "[" and toks[at + 1].text == "]":
            at += 2
        while at + 2 < count and toks[at].text == "[" and toks[at + 1].kind == RAW and toks[at + 2].text == "]":
            at += 3
        if at + 1 < count and toks[at].text == "TO" and toks[at + 1].text in words.FIELDS:
            at = _modifier_end(toks, at + 2)
        if at < count and toks[at].text == "ARRAY":
            at += 1
        if single:
            break
    return at


_TYPE_WORDS: Final = words.FIELDS | {"precision", "varying", "WITH", "WITHOUT", "TIME", "ZONE", "without"}


def _modifier_end(toks: list[Tok], at: int) -> int:
    if at + 1 < len(toks) and toks[at].text == "(" and toks[at + 1].kind == RAW:
        while at < len(toks) and toks[at].text != ")":
            at += 1
        return at + 1
    return at


class _Lists:
    """What folding the lists of one statement needs: the partner of each parenthesis, and how many tokens may still be
    copied. Lists in lists would otherwise be copied once for each level."""

    __slots__ = ("budget", "closing", "toks")

    def __init__(self, toks: list[Tok]) -> None:
        self.toks = toks
        self.budget = 8 * len(toks)
        self.closing: dict[int, int] = {}
        opened: list[int] = []
        for index, tok in enumerate(toks):
            if tok.text == "(":
                opened.append(index)
            elif tok.text == ")" and opened:
                self.closing[opened.pop()] = index


def _fold_lists(toks: list[Tok]) -> list[Tok]:
    """Lists of constants become one placeholder, the rows of VALUES one row."""
    if not any(tok.text in _LISTS for tok in toks):
        return toks
    lists = _Lists(toks)
    out: list[Tok] = []
    index = 0
    count = len(toks)
    while index < count:
        tok = toks[index]
        out.append(tok)
        index += 1
        if index >= count or tok.kind != KEY or tok.text not in _LISTS:
            continue
        opening = toks[index].text
        if tok.text == "VALUES" and opening == "(":
            index = _rows(lists, index, out)
        elif (tok.text == "IN" and opening == "(") or (tok.text == "ARRAY" and opening == "["):
            index = _list(lists, index, out)
    return out


_LISTS: Final = frozenset({"VALUES", "IN", "ARRAY"})


def _list(lists: _Lists, start: int, out: list[Tok]) -> int:
    """Fold the list that opens at `start`; returns where to go on, `start` itself if it is no list of constants."""
    toks = lists.toks
    closing = ")" if toks[start].text == "(" else "]"
    if closing == ")" and start + 1 < len(toks) and toks[start + 1].text == "(":
        rows = _row_spans(lists, start + 1)
        end = rows[-1][1] if rows else len(toks)
        if end < len(toks) and toks[end].text == ")":
            merged = _merge_rows(lists, rows)
            if merged is not None and _only_constants(merged):
                out.append(toks[start])
                for tok in merged:
                    if tok.kind == CONST and not isinstance(tok.ref, tuple):
                        tok.ref = (tok.ref,)
                out.extend(merged)
                out.append(toks[end])
                return end + 1
        return start
    sources: list[int | Literal] = []
    at = start + 1
    while True:
        end = _constant(toks, at)
        if end == at or end >= len(toks):
            return start
        ref = toks[at].ref
        if not isinstance(ref, tuple):
            sources.append(ref)
        if toks[end].text == closing:
            break
        if toks[end].text != ",":
            return start
        at = end + 1
    first = _constant(toks, start + 1)
    out.append(toks[start])
    out.append(Tok(CONST, "$", tuple(sources)))
    out.extend(toks[start + 2 : first])
    out.append(toks[end])
    return end + 1


def _only_constants(row: list[Tok]) -> bool:
    """Whether a row, its parentheses included, holds constants and nothing else."""
    at = 1
    while at < len(row) - 1:
        end = _constant_or_list(row, at)
        if end == at or (row[end].text != "," and end != len(row) - 1):
            return False
        at = end + 1
    return len(row) > 2


def _constant_or_list(toks: list[Tok], at: int) -> int:
    return cast_end(toks, at + 1) if toks[at].kind == CONST else at


def _row_spans(lists: _Lists, at: int) -> list[tuple[int, int]]:
    """The rows `(…), (…)` that start at `at`, each with its parentheses."""
    toks = lists.toks
    spans: list[tuple[int, int]] = []
    while at < len(toks) and toks[at].text == "(":
        end = lists.closing.get(at, -1) + 1
        if end == 0:
            return []
        spans.append((at, end))
        if end + 1 < len(toks) and toks[end].text == "," and toks[end + 1].text == "(":
            at = end + 1
        else:
            break
    return spans


def _rows(lists: _Lists, start: int, out: list[Tok]) -> int:
    """Fold the rows of a VALUES that differ in constants alone; returns where to go on."""
    rows = _row_spans(lists, start)
    if len(rows) < 2:
        return start
    merged = _merge_rows(lists, rows)
    if merged is None:
        return start
    out.extend(merged)
    return rows[-1][1]


def _merge_rows(lists: _Lists, rows: list[tuple[int, int]]) -> list[Tok] | None:
    """The first row with all rows' constants in its placeholders; None if a row is built otherwise."""
    toks = lists.toks
    lists.budget -= rows[-1][1] - rows[0][0]
    if lists.budget < 0:
        return None
    first = toks[rows[0][0] : rows[0][1]]
    if len(rows) == 1:
        return [Tok(tok.kind, tok.text, tok.ref) for tok in first]
    shape = _row_shape(first)
    columns: list[list[int | Literal]] = [[] for text in shape if text == "$"]
    for start, end in rows:
        row = toks[start:end]
        if _row_shape(row) != shape:
            return None
        column = 0
        for tok in row:
            if tok.kind == CONST:
                if isinstance(tok.ref, tuple):
                    return None
                columns[column].append(tok.ref)
                column += 1
    merged: list[Tok] = []
    column = 0
    for tok in first:
        if tok.kind == CONST:
            merged.append(Tok(CONST, "$", tuple(columns[column])))
            column += 1
        else:
            merged.append(tok)
    return merged


def _row_shape(row: list[Tok]) -> list[str]:
    """What must be equal in rows that are folded: everything but the constants and their casts."""
    shape: list[str] = []
    at = 0
    while at < len(row):
        shape.append(row[at].text)
        at = cast_end(row, at + 1) if row[at].kind == CONST else at + 1
    return shape


def render(toks: list[Tok], layout: list[Slot]) -> str:
    """The template's text; the layout item of each placeholder is appended to `layout`."""
    out: list[str] = []
    previous: Tok | None = None
    glued = True
    numbers = 0
    for index, tok in enumerate(toks):
        text = tok.text
        if previous is not None and not glued and not _glues_left(toks, index):
            out.append(" ")
        if tok.kind == CONST:
            numbers += 1
            layout.append(tok.ref)
            out.append(f"${numbers}")
        else:
            out.append(text)
        glued = text in _OPENING or (tok.kind == OPERATOR and text not in _BINARY and is_unary(toks, index))
        previous = tok
    return "".join(out)


_OPENING: Final = frozenset({"(", "[", ".", "::", ":"})
_BINARY: Final = frozenset({"=", "<", ">", "<=", ">=", "<>", "*", "/", "%", "||"})
_CLOSING: Final = frozenset({")", "]", ",", ";", ".", "::", "[", ":"})


def _glues_left(toks: list[Tok], index: int) -> bool:
    """Whether no space stands before a token."""
    text = toks[index].text
    if text in _CLOSING:
        return text != "[" or toks[index - 1].kind != OPERATOR
    if text != "(":
        return False
    before = toks[index - 1]
    if before.kind == NAME:
        # A list of columns stands apart, the arguments of a function do not.
        at = index - 1
        while at > 1 and toks[at - 1].text == ".":
            at -= 2
        return at == 0 or toks[at - 1].text not in ("INTO", "AS", "TABLE", "WITH", "ON")
    return before.kind == KEY and before.text in _CALLS


_CALLS: Final = frozenset(
    {"ANY", "ALL", "CAST", "ROW", "CURRENT_TIME", "CURRENT_TIMESTAMP", "LEFT", "RIGHT", "LOCALTIME", "LOCALTIMESTAMP"}
)

__all__ = [
    "CONST",
    "KEY",
    "LITERAL_KINDS",
    "MAX_TOKENS",
    "NAME",
    "RAW",
    "SPACE",
    "WORD",
    "Tok",
    "canonicalise",
    "cast_end",
    "is_unary",
    "render",
]
