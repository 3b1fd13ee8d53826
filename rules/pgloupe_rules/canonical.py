"""The tokens of one statement in canonical form.

Each rewriting is local and keeps the text valid SQL of the same meaning. What must not show in the template but has no
meaning either (aliases, parentheses, casts of constants) is left to `meaning`.
"""

from __future__ import annotations

import re
from typing import Final

from pgloupe_rules import words
from pgloupe_rules.folds import fold_casts, fold_limits, fold_lists, fold_set
from pgloupe_rules.lexer import (
    NUMBER,
    OPERATOR,
    PARAM,
    PUNCTUATION,
    QUOTED,
    STRING,
    WORD,
    Token,
    fold,
    string,
    unicode_escapes,
)
from pgloupe_rules.tok import CONST, KEY, NAME, RAW, Tok, is_unary
from pgloupe_rules.types import Literal, comparable

LITERAL_KINDS: Final = frozenset({STRING, NUMBER})

MAX_TOKENS: Final = 2000

_MAX_MODIFIERS: Final = 8

_SIMPLE: Final = re.compile(r"[a-z_][a-z0-9_$]*")

_END: Final = Token(PUNCTUATION, "", 0, 0)


def canonicalise(tokens: list[Token]) -> list[Tok]:
    """Rewrite a statement's tokens: names folded, constants marked, synonyms written one way, lists folded."""
    toks = _marked(tokens)
    if any(tok.text == "CAST" for tok in toks):
        toks = fold_casts(toks)
    if toks and toks[0].text == "SET":
        return fold_set(toks)
    toks = fold_limits(toks)
    return fold_lists(toks)


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
        elif (
            word in words.QUERIES
            and word != "table"
            and previous in _BEFORE_QUERY
            and (first != "create" or previous == "as")
        ):
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
            if query and text[0] in "uU" and after.text.lower() == "uescape" and _is_plain(tokens, index + 2):
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


def _is_plain(tokens: list[Token], index: int) -> bool:
    """A string constant in simple quotes stands here."""
    return index < len(tokens) and tokens[index].kind == STRING and tokens[index].text[0] == "'"


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
